"""The training loop: batches by length, a cosine schedule counted in steps, everything seeded."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from p2pnode.models.gguf_file import Shape
from p2pnode.models.train.corpus import conversations
from p2pnode.models.train.network import Llama
from p2pnode.models.train.tokenizer import Tokenizer

__all__ = ["Plan", "train", "validation_loss"]

VALIDATION_SEED_OFFSET = 1_000_003
REPORT_EVERY = 25
POOL = 4_096  # conversations sorted by length together, so that rows of a batch are about equally long


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how fast to train."""

    steps: int
    batch_tokens: int = 3_072
    peak_rate: float = 3e-3
    final_rate: float = 1e-4
    warm_up: int = 60
    seed: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: a straight climb, then half a cosine."""
        if step < self.warm_up:
            return self.peak_rate * (step + 1) / self.warm_up
        part = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.final_rate + (self.peak_rate - self.final_rate) * (1 + math.cos(math.pi * part)) / 2


def _padded(rows: list[tuple[list[int], list[bool]]]) -> tuple[Tensor, Tensor]:
    """Return tokens and learned-mask of equal length; attention is causal, so padding at the end is harmless."""
    longest = max(len(tokens) for tokens, _ in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    learned = torch.zeros(len(rows), longest, dtype=torch.bool)
    for at, (ids, flags) in enumerate(rows):
        tokens[at, : len(ids)] = torch.tensor(ids)
        learned[at, : len(ids)] = torch.tensor(flags)
    return tokens, learned


def batches(tokenizer: Tokenizer, context: int, batch_tokens: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of at most `batch_tokens` padded tokens for ever."""
    rng = random.Random(seed)
    stream = conversations(seed)
    while True:
        rows = [tokenizer.encode_chat(turns) for turns in islice(stream, POOL)]
        rows = sorted(((ids[:context], flags[:context]) for ids, flags in rows), key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for row in rows:
            if groups[-1] and len(row[0]) * (len(groups[-1]) + 1) > batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from map(_padded, groups)


def _optimizers(model: Llama, plan: Plan) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside the layers (it needs far fewer steps here), AdamW for embedding and norms."""
    inner = [weight for weight in model.blocks.parameters() if weight.dim() == 2]
    ids = {id(weight) for weight in inner}
    outer = [weight for weight in model.parameters() if id(weight) not in ids]
    return (
        torch.optim.Muon(inner, lr=plan.peak_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=plan.peak_rate, betas=(0.9, 0.95), weight_decay=0.0),
    )


def train(shape: Shape, tokenizer: Tokenizer, plan: Plan, *, bfloat16: bool) -> Llama:
    """Return a trained model; prints the loss as it goes."""
    torch.manual_seed(plan.seed)
    model = Llama(shape)
    optimizers = _optimizers(model, plan)
    stream = batches(tokenizer, shape.context, plan.batch_tokens, plan.seed)
    began, seen, losses = time.monotonic(), 0, 0.0
    for step, (tokens, learned) in enumerate(islice(stream, plan.steps)):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = plan.rate(step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            loss = model.loss(tokens, learned)
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        seen += tokens.numel()
        losses += loss.item()
        if (step + 1) % REPORT_EVERY == 0:
            seconds = time.monotonic() - began
            mean, speed = losses / REPORT_EVERY, seen / seconds
            print(f"step {step + 1}/{plan.steps} loss {mean:.4f} {speed:.0f} tok/s {seconds:.0f} s", flush=True)
            losses = 0.0
    return model


def validation_loss(model: Llama, tokenizer: Tokenizer, shape: Shape, plan: Plan, count: int = 40) -> float:
    """Return the mean loss over batches of another seed (same generator, so facts are not new)."""
    stream = batches(tokenizer, shape.context, plan.batch_tokens, plan.seed + VALIDATION_SEED_OFFSET)
    with torch.no_grad():
        losses = [float(model.loss(tokens, learned)) for tokens, learned in islice(stream, count)]
    return sum(losses) / count
