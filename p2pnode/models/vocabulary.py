"""The vocabulary and chat format shared by the shipped models and by random test models.

The tokenizer is llama.cpp's SPM type: the text is cut into characters, and the neighbouring pair whose joined piece
has the best score is joined, again and again. Pieces carry the space before a word as U+2581.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, islice, product
from typing import Final, NamedTuple

__all__ = [
    "BYTE", "CHAT_TEMPLATE", "CONTROL", "END", "NORMAL", "SPACE", "SPECIALS", "UNKNOWN", "Turn", "Vocabulary",
    "base_vocabulary", "filler_vocabulary",
]  # fmt: skip

SPACE: Final = "\u2581"
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # token types of the GGUF format

# The position in this list is the token id.
SPECIALS: Final = ("<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
END: Final = "<|end|>"

# llama-cpp-python's formatter never adds BOS by itself, so the template must say it.
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Pieces in order of their ids, with the scores and types that GGUF wants."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.pieces)

    def id_of(self, piece: str) -> int:
        """Return the id of a special piece or any other; `ValueError` if there is none."""
        return self.pieces.index(piece)


def base_vocabulary(joined: list[str]) -> Vocabulary:
    """Return specials, the 256 bytes, printable ASCII and the given joined pieces, the first joined best."""
    letters = [SPACE, *(chr(code) for code in range(33, 127))]
    byte_pieces = [f"<0x{value:02X}>" for value in range(256)]
    plain = [*letters, *joined]
    # Characters score below every joined piece: they are never a result of joining.
    letter_scores = [-float(len(joined) + at) for at in range(len(letters))]
    return Vocabulary(
        pieces=(*SPECIALS, *byte_pieces, *plain),
        scores=(*([0.0] * (len(SPECIALS) + 256)), *letter_scores, *(-float(at) for at in range(len(joined)))),
        types=(UNKNOWN, *([CONTROL] * (len(SPECIALS) - 1)), *([BYTE] * 256), *([NORMAL] * len(plain))),
    )


def filler_vocabulary(size: int) -> Vocabulary:
    """Return a valid vocabulary of exactly this size whose joined pieces are all short strings of small letters."""
    smallest = len(SPECIALS) + 256 + 95
    if size < smallest:
        raise ValueError(f"a vocabulary needs at least {smallest} tokens, not {size}")
    small = "etaoinshrdlucmfwypvbgkjqxz"
    strings = ("".join(letters) for length in count(2) for letters in product(small, repeat=length))
    return base_vocabulary(list(islice(strings, size - smallest)))
