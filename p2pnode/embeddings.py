"""Texts to vectors by way of a session: split into requests that fit, each answered under the miner's signature."""

import math
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from p2pnode.answer import RequestFailed
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.messages.embeddings import EMBED_TEXTS_MAX
from protocol.roles.client import EmbedOver, EmbedWanted, Item

TEXTS_MAX = 256
TEXTS_BYTES_MAX = 1 << 20
EMBED_TIMEOUT_MS = 60_000
ATTEMPTS = 6
"""Of one request: its miner may be lost meanwhile, or its router, and another is looked for."""
_AGAIN = ("miner_lost", "router_lost")
_PAUSE_S = 0.2
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of some texts, in their order, each of length one. The miner signed them; nothing proves them."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    miner: NodeId
    """Who made them, the last of them if it was lost on the way."""


class Asking(Protocol):
    """What it takes to ask in a session."""

    def dispatch(self, event: object) -> None:
        """Hand the machine a wish."""

    def new_handle(self, tokens: int = 0) -> tuple[int, trio.MemoryReceiveChannel[Item]]:
        """A handle and where its items arrive."""

    def drop_handle(self, handle: int) -> None:
        """Nothing more of a handle is wanted."""


def check_texts(texts: Sequence[str], params: Params) -> None:
    """Raises RequestFailed for what cannot be asked at all."""
    if not 0 < len(texts) <= TEXTS_MAX:
        raise RequestFailed("bad_request", f"1 to {TEXTS_MAX} texts are embedded at once, not {len(texts)}")
    if not all(texts):
        raise RequestFailed("bad_request", "an empty text has no vector")
    sizes = [len(text.encode(errors="replace")) for text in texts]
    if max(sizes) > params.prompt_bytes_max:
        raise RequestFailed("prompt_too_long", f"a text to embed has at most {params.prompt_bytes_max} bytes")
    if sum(sizes) > TEXTS_BYTES_MAX:
        raise RequestFailed("bad_request", f"texts to embed at once have at most {TEXTS_BYTES_MAX} bytes together")


def requests_of(texts: Sequence[str], params: Params) -> Iterator[tuple[str, ...]]:
    """The texts in as few requests as may be."""
    taken: list[str] = []
    size = 0
    for text in texts:
        bytes_ = len(text.encode(errors="replace"))
        if taken and (len(taken) == EMBED_TEXTS_MAX or size + bytes_ > params.prompt_bytes_max):
            yield tuple(taken)
            taken, size = [], 0
        taken.append(text)
        size += bytes_
    if taken:
        yield tuple(taken)


async def embed(
    client: Asking, session: int, texts: Sequence[str], params: Params, timeout_ms: int = EMBED_TIMEOUT_MS
) -> Embeddings:
    """The vectors of the texts, asked in the session of this handle, all within the time. Raises RequestFailed."""
    check_texts(texts, params)
    vectors: list[tuple[float, ...]] = []
    tokens, miner = 0, None
    until = trio.current_time() + timeout_ms / 1_000
    for request in requests_of(texts, params):
        over = await _ask(client, session, request, until)
        assert over.embedded is not None
        vectors += map(_floats, over.embedded.vectors)
        tokens += over.embedded.tokens
        miner = over.miner
    assert miner is not None
    if len({len(vector) for vector in vectors}) != 1:
        raise RequestFailed("transcript_broken", "the miners' vectors are not of one length")
    return Embeddings(tuple(vectors), tokens, miner)


async def _ask(client: Asking, session: int, texts: tuple[str, ...], until: float) -> EmbedOver:
    for attempt in range(1, ATTEMPTS + 1):
        left_ms = max(1, round((until - trio.current_time()) * 1_000))
        handle, items = client.new_handle()
        client.dispatch(EmbedWanted(handle, session, texts, secrets.token_bytes(32), left_ms))
        try:
            over = await items.receive()
        finally:
            client.drop_handle(handle)
        assert isinstance(over, EmbedOver)
        if over.embedded is not None:
            return over
        if over.code not in _AGAIN or attempt == ATTEMPTS or trio.current_time() >= until:
            raise RequestFailed(over.code, over.detail, retry_after_ms=over.retry_after_ms)
        await trio.sleep(_PAUSE_S * attempt)
    raise AssertionError("the last attempt ends in one way or the other")


def _floats(vector: bytes) -> tuple[float, ...]:
    floats = struct.unpack(f"<{len(vector) // _FLOAT_BYTES}f", vector)
    if not all(map(math.isfinite, floats)):
        raise RequestFailed("transcript_broken", "the miner signed a vector that holds no number")
    return floats
