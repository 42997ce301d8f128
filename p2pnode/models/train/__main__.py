"""Command line of the training: `python -m p2pnode.models.train --out DIR [--size tiny|small] [--steps N]`."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import torch

from p2pnode.models.gguf_file import TYPES, Shape
from p2pnode.models.train.corpus import conversations
from p2pnode.models.train.export import export
from p2pnode.models.train.loop import Plan, train, validation_loss
from p2pnode.models.train.tokenizer import Tokenizer, learn

VOCABULARY_SIZE = 2_048
VOCABULARY_SEED, VOCABULARY_CONVERSATIONS = 7, 40_000
SIZES = {"tiny": (6, 192, 6, 512), "small": (4, 128, 4, 352)}
STEPS = {"tiny": 1_150, "small": 800}


def main() -> None:
    """Train one model and write it in every type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=tuple(SIZES), default="tiny")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--float32", action="store_true", help="for processors without fast bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = (turn.text for turns in islice(conversations(VOCABULARY_SEED), VOCABULARY_CONVERSATIONS) for turn in turns)
    vocabulary = learn(texts, VOCABULARY_SIZE)
    tokenizer = Tokenizer(vocabulary)
    layers, width, heads, ff = SIZES[options.size]
    shape = Shape(layers=layers, width=width, heads=heads, ff=ff, vocabulary=len(vocabulary))
    plan = Plan(steps=options.steps or STEPS[options.size], seed=options.seed)
    model = train(shape, tokenizer, plan, bfloat16=not options.float32)
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{parameters} parameters, validation loss {validation_loss(model, tokenizer, shape, plan):.4f}")
    options.out.mkdir(parents=True, exist_ok=True)
    for kind in TYPES:
        export(model, shape, vocabulary, options.out / f"{options.size}-{kind}.gguf", size=options.size, kind=kind)
    torch.save(model.state_dict(), options.out / f"{options.size}.pt")


if __name__ == "__main__":
    main()
