"""The toy model of fakes and simulations: every token is a hash of lane seed, prompt and index.

Any token lost, repeated or made up on the way shows, and a takeover can be checked to the byte.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol

from p2pnode.engine.chat import PLAIN, ROLES

BYTES = 256
BOS, END = 256, 257
FIRST_ROLE = 258
FIRST_WORD = FIRST_ROLE + len(ROLES)
WORDS = tuple(f" {a}{b}".encode() for a in ("ba", "de", "fi", "go", "lu", "mo", "ra", "ti") for b in "aeioumnrst")


class Turn(Protocol):
    """One turn of a conversation, whoever describes it."""

    @property
    def role(self) -> str: ...

    @property
    def content(self) -> str: ...

    @property
    def calls(self) -> str: ...

    @property
    def call_id(self) -> str: ...


def rendered(turns: Sequence[Turn], tools: str = "") -> list[int]:
    """The prompt of a conversation; a lone plain text is its bytes. Raises ValueError for an unknown role."""
    if [turn.role for turn in turns] == [PLAIN]:
        return [BOS, *turns[0].content.encode(errors="replace")]
    ids = [BOS, *_said("tool", tools)] if tools else [BOS]
    for turn in turns:
        ids += _said(turn.role, *(turn.content, turn.calls, turn.call_id)[: 3 if turn.calls or turn.call_id else 1])
    return [*ids, FIRST_ROLE + ROLES.index("assistant")]


def _said(role: str, *texts: str) -> list[int]:
    ids = [FIRST_ROLE + ROLES.index(role)]
    for text in texts:
        ids += [*text.encode(errors="replace"), END]
    return ids


def token_at(prompt: Sequence[int], lane_seed: bytes, index: int, length: int | None = None) -> int:
    """The token of an answer at an index; the answer's length is by the hash, 8 to 71, unless it is given."""
    return _token(_base(prompt, lane_seed), index, length)


def answer(prompt: Sequence[int], lane_seed: bytes, max_tokens: int, length: int | None = None) -> list[int]:
    """The whole answer, as an engine that nothing happens to gives it."""
    base = _base(prompt, lane_seed)
    ids: list[int] = []
    while len(ids) < max_tokens and ids[-1:] != [END]:
        ids.append(_token(base, len(ids), length))
    return ids


def _base(prompt: Sequence[int], lane_seed: bytes) -> bytes:
    return lane_seed + hashlib.sha256(repr(tuple(prompt)).encode()).digest()


def _token(base: bytes, index: int, length: int | None) -> int:
    if length is None:
        length = 8 + hashlib.sha256(base).digest()[0] % 64
    if index >= length - 1:
        return END
    digest = hashlib.sha256(base + index.to_bytes(8, "big")).digest()
    return FIRST_WORD + int.from_bytes(digest[:8], "big") % len(WORDS)


def piece(token: int) -> bytes:
    """What a token says; control tokens say nothing."""
    if token < BYTES:
        return bytes([token])
    return WORDS[token - FIRST_WORD] if token >= FIRST_WORD else b""
