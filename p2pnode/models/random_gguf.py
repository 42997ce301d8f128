"""Random-weight models of any shape: for speed measurements and for tests that need a file, not an answer.

`python -m p2pnode.models.random_gguf OUT --layers 12 --width 768 --heads 12 --ff 2048 --vocab 32000 --type q8_0`

The text is nonsense, but the file is complete: a working tokenizer, the chat template, one end token. Two choices
make it behave like a trained model under measurement: logits have a spread of about 3 (so sampling has work to do),
and the rows of special and byte tokens are zero (so streams neither end by chance before the token limit nor break
off inside a character).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt

from p2pnode.models.gguf_file import TYPES, Shape, write_gguf
from p2pnode.models.vocabulary import SPECIALS, filler_vocabulary

__all__ = ["write_random_gguf"]

LOGIT_SPREAD = 3.0
BYTES = 256


def write_random_gguf(path: Path, shape: Shape, seed: int = 0, *, kind: str = "q8_0") -> None:
    """Write a model with random weights; the same arguments give the same bytes.

    Args:
        path: the file to write; replaced if it exists.
        shape: any shape that llama.cpp accepts; its vocabulary must hold at least 358 tokens.
        seed: seeds every tensor, together with the tensor's name.
        kind: one of `f16`, `q8_0`, `q4_0`.
    """

    def tensor(name: str, size: tuple[int, ...]) -> npt.NDArray[np.float32]:
        if len(size) == 1:
            return np.ones(size, dtype=np.float32)
        rng = np.random.default_rng((seed, crc32(name.encode())))
        values = rng.standard_normal(size, dtype=np.float32)
        if name == "token_embd.weight":
            # The output layer is this table, and the last norm hands it vectors of length sqrt(width).
            values *= LOGIT_SPREAD / math.sqrt(shape.width)
            values[: len(SPECIALS) + BYTES] = 0.0
        else:
            values /= math.sqrt(size[1])
        return values

    write_gguf(
        path,
        shape=shape,
        vocabulary=filler_vocabulary(shape.vocabulary),
        kind=kind,
        name="p2pnode random",
        description="Random weights for measurements; it writes nonsense.",
        tensor=tensor,
    )


def main() -> None:
    """Write one file as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--ff", type=int, default=2_048)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--context", type=int, default=2_048)
    parser.add_argument("--type", choices=tuple(TYPES), default="q8_0")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shape = Shape(
        layers=options.layers,
        width=options.width,
        heads=options.heads,
        ff=options.ff,
        vocabulary=options.vocab,
        context=options.context,
    )
    write_random_gguf(options.out, shape, options.seed, kind=options.type)
    print(f"{options.out}: {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
