"""The Llama architecture in PyTorch, laid out so that llama.cpp computes the same thing.

Rotary positions turn neighbouring pairs of a head (llama.cpp's `llama` order), so no weight is permuted on export;
the output layer is the embedding (no `output.weight`); all norms use the same epsilon.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from p2pnode.models.gguf_file import NORM_EPSILON, ROPE_BASE, Shape

__all__ = ["Llama"]


def _rope_table(shape: Shape) -> tuple[Tensor, Tensor]:
    width = shape.width // shape.heads
    frequencies = ROPE_BASE ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.outer(torch.arange(shape.context, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def _rotate(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (2i, 2i+1) of the last axis by its position's angle."""
    even, odd = values[..., 0::2], values[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Block(nn.Module):  # type: ignore[misc, unused-ignore]  # torch is absent where this is checked
    """One layer: attention, then a gated feed-forward, each behind a norm and around a residual."""

    def __init__(self, shape: Shape) -> None:
        """Make the weights of one layer."""
        super().__init__()
        self.heads = shape.heads
        self.attn_norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.attn_qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.ffn_gate_up = nn.Linear(shape.width, 2 * shape.ff, bias=False)
        self.ffn_down = nn.Linear(shape.ff, shape.width, bias=False)

    def forward(self, values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the residual stream after this layer. values: [batch, time, width]."""
        batch, time, width = values.shape
        q, k, v = (
            part.view(batch, time, self.heads, width // self.heads).transpose(1, 2)
            for part in self.attn_qkv(self.attn_norm(values)).chunk(3, dim=-1)
        )
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        # In float32 on purpose: on a processor, PyTorch's bfloat16 attention is half as fast backwards.
        with torch.autocast("cpu", enabled=False):
            mixed = functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True)
        values = values + self.attn_output(mixed.transpose(1, 2).reshape(batch, time, width))
        gate, up = self.ffn_gate_up(self.ffn_norm(values)).chunk(2, dim=-1)
        after: Tensor = values + self.ffn_down(functional.silu(gate) * up)
        return after


class Llama(nn.Module):  # type: ignore[misc, unused-ignore]
    """The whole network, from token ids to the loss or the logits."""

    def __init__(self, shape: Shape) -> None:
        """Make the weights; call `torch.manual_seed` before to make them repeatable."""
        super().__init__()
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        cos, sin = _rope_table(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        into_residual = 0.04 / (2 * shape.layers) ** 0.5
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                deep = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(weight, std=0.02 if "embd" in name else into_residual if deep else 0.05)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return the normed last hidden states. tokens: int64[batch, time]."""
        values = self.token_embd(tokens)
        time = tokens.shape[1]
        for block in self.blocks:
            values = block(values, self.cos[:time], self.sin[:time])
        normed: Tensor = self.output_norm(values)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits for hidden states."""
        return functional.linear(hidden, self.token_embd.weight)

    def loss(self, tokens: Tensor, learned: Tensor) -> Tensor:
        """Return the mean loss over the tokens to be learned (positions whose token the model must say)."""
        hidden = self.hidden(tokens[:, :-1])[learned[:, 1:]]
        return functional.cross_entropy(self.logits(hidden).float(), tokens[:, 1:][learned[:, 1:]])

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights under their GGUF names."""
        found = {"token_embd.weight": self.token_embd.weight, "output_norm.weight": self.output_norm.weight}
        for at, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            q, k, v = block.attn_qkv.weight.chunk(3)
            gate, up = block.ffn_gate_up.weight.chunk(2)
            parts = {
                "attn_norm": block.attn_norm.weight, "attn_q": q, "attn_k": k, "attn_v": v,
                "attn_output": block.attn_output.weight, "ffn_norm": block.ffn_norm.weight, "ffn_gate": gate,
                "ffn_up": up, "ffn_down": block.ffn_down.weight,
            }  # fmt: skip
            found |= {f"blk.{at}.{name}.weight": part for name, part in parts.items()}
        return {name: weight.detach().float() for name, weight in found.items()}
