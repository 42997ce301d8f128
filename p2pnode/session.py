"""A session as the program sees it: miners reserved for one client and one model, and the answers they give."""

import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import trio
from msgspec import structs

from p2pnode.answer import Answer, RequestFailed
from p2pnode.embeddings import EMBED_TIMEOUT_MS, Embeddings, embed
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import LaneEnded, PromptMessage, SegmentHead
from protocol.roles.client import (
    AskTask,
    CancelAsk,
    Item,
    LaneReported,
    RouterFound,
    RouterSought,
    SessionAssigned,
    SessionOver,
    SessionReserved,
)
from protocol.session.record import SessionRecord

TASK_TIMEOUT_MS = 300_000
RISING_MAX = 256
"""Answers of a session whose levels are still heard of; beyond it the oldest is let go."""


class Client(Protocol):
    """What a session needs of the client that opened it."""

    rising: dict[int, Answer]
    """Answers whose levels are heard of, by handle."""

    @property
    def genesis(self) -> Genesis:
        """The network."""

    def dispatch(self, event: object) -> None:
        """Hand the machine a wish."""

    def new_handle(self, tokens: int = 0) -> tuple[int, trio.MemoryReceiveChannel[Item]]:
        """A handle and where its items arrive."""

    def drop_handle(self, handle: int) -> None:
        """Nothing more of a handle is wanted."""


class Session:
    """Miners reserved for one client and one model."""

    def __init__(
        self, client: Client, handle: int, assigned: SessionAssigned, items: trio.MemoryReceiveChannel[Item]
    ) -> None:
        self._router = NodeId(assigned.assignment.router)
        self.router_lost = False
        """Whether a router is looked for right now."""
        self.lanes_ended: list[LaneEnded] = []
        """What the miners of the lanes above 0 signed at their ends."""
        self._reserved: SessionReserved | None = None
        self._rising: OrderedDict[int, Answer] = OrderedDict()
        self._assigned = assigned
        self._assignments = [assigned.ready]
        self._heads: list[SegmentHead] = []
        self._client = client
        self._handle = handle
        self._items = items

    @property
    def router(self) -> NodeId:
        """Who serves it; another one after the first was lost."""
        self.look()
        return self._router

    @property
    def assigned(self) -> SessionAssigned:
        """The latest assignment: after a failover it names another miner."""
        self.look()
        return self._assigned

    @property
    def reserved(self) -> SessionReserved | None:
        """What the ledger holds for the session, as a final header proves; None as long as that is nothing."""
        self.look()
        return self._reserved

    def look(self) -> None:
        """Take in what has happened to the session since."""
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self._take_in(self._items.receive_nowait())

    async def changed(self) -> bool:
        """Wait for the next thing that happens to the session; False if nothing more will."""
        with suppress(trio.EndOfChannel):
            self._take_in(await self._items.receive())
            return True
        return False

    def _take_in(self, item: Item) -> None:
        match item:
            case SessionAssigned():
                self._assigned = item
                self._assignments.append(item.ready)
            case RouterSought():
                self.router_lost = True
            case RouterFound():
                self._router, self.router_lost = item.router, False
            case LaneReported():
                self.lanes_ended.append(item.ended)
            case SessionReserved():
                self._reserved = item

    def record(self) -> SessionRecord:
        """The session's signed papers so far; no prompt and no text is in it."""
        latest = self.assigned
        return SessionRecord(
            genesis=self._client.genesis.to_json(),
            opening=latest.opening,
            signature=latest.signature,
            assignments=tuple(self._assignments),
            heads=tuple(self._heads),
        )

    @property
    def id(self) -> bytes:
        """The session id."""
        return self.assigned.session

    @property
    def miner(self) -> NodeId:
        """Who streams."""
        return NodeId(self.assigned.assignment.miners[0])

    @asynccontextmanager
    async def ask(
        self,
        prompt: str | Sequence[PromptMessage],
        *,
        tools: str | Sequence[Mapping[str, object]] = "",
        plain: bool = False,
        schema: str | Mapping[str, object] = "",
        logprobs: int | None = None,
        sampling: SamplingParams | None = None,
        seed: bytes | None = None,
        nonce: bytes | None = None,
        max_tokens: int = 256,
        timeout_ms: int = TASK_TIMEOUT_MS,
        transcript: bool = False,
    ) -> AsyncIterator[Answer]:
        """Order an answer. ``seed``: 32 bytes; the same seed and prompt give the same tokens on one build.

        After the block its level goes on rising, until the session is closed.

        Args:
            tools: What the model may call, as chat templates take it: a list of tools, or its JSON text.
            plain: ``prompt`` is a text to go on with, for which no chat template is filled.
            schema: A JSON schema that the answer holds to; ``{"type": "object"}`` for any JSON object.
            logprobs: Tell how likely each token was, and so many of the likeliest in its place (0 to 20).
            sampling: ``schema`` and ``logprobs``, where given, take the place of what stands in it.
            nonce: 32 bytes that salt the prompt's commitment; None draws them.
            transcript: The answer is to keep, at its end, all that its result root is computed from.
        """
        if isinstance(prompt, str):
            prompt = (PromptMessage("plain" if plain else "user", prompt),)
        elif plain:
            raise TypeError("a plain prompt is one text")
        handle, items = self._client.new_handle(max_tokens)
        ask = AskTask(
            handle=handle,
            session=self._handle,
            messages=tuple(prompt),
            tools=_json(tools),
            sampling=_sampling(sampling or SamplingParams(), schema, logprobs),
            nonce=nonce or secrets.token_bytes(32),
            seed=seed or secrets.token_bytes(32),
            max_tokens=max_tokens,
            timeout_ms=timeout_ms,
            transcript=transcript,
        )
        self._client.dispatch(ask)
        answer = Answer(lambda: self._client.dispatch(CancelAsk(handle)), items)
        self._follow(handle, answer)
        try:
            yield answer
        finally:
            self._heads += answer.heads
            if answer.finish is None:
                answer.cancel()
            self._client.drop_handle(handle)

    async def embed(self, texts: Sequence[str], *, timeout_ms: int = EMBED_TIMEOUT_MS) -> Embeddings:
        """The vectors of texts, by the model's last layer: at most 256 texts, 1 MiB together. Raises RequestFailed.

        Each comes under the miner's signature; nothing of it is certified, or paid.
        """
        return await embed(self._client, self._handle, texts, self._client.genesis.params, timeout_ms)

    def _follow(self, handle: int, answer: Answer) -> None:
        self._rising[handle] = self._client.rising[handle] = answer
        if len(self._rising) > RISING_MAX:
            self._let_go(next(iter(self._rising)))

    def _let_go(self, handle: int) -> None:
        del self._client.rising[handle]
        self._rising.pop(handle).settle()

    async def decided(self, level: str = "finalized") -> None:
        """Wait until each answer that came to its end is as certain as ``level``, or can not become so."""
        for answer in [each for each in self._rising.values() if each.finish is not None]:
            await answer.wait_for(level)

    def settle(self) -> None:
        """The session is closed: nothing more is heard of its answers."""
        for handle in list(self._rising):
            self._let_go(handle)


def _json(given: str | Mapping[str, object] | Sequence[Mapping[str, object]]) -> str:
    """What was given as JSON text, or as what JSON text stands for."""
    if isinstance(given, str) or not given:
        return given if isinstance(given, str) else ""
    return json.dumps(given, ensure_ascii=False, separators=(",", ":"))


def _sampling(sampling: SamplingParams, schema: str | Mapping[str, object], logprobs: int | None) -> SamplingParams:
    if schema:
        sampling = structs.replace(sampling, schema=_json(schema))
    return sampling if logprobs is None else structs.replace(sampling, logprobs=1 + logprobs)


async def assigned(items: trio.MemoryReceiveChannel[Item]) -> SessionAssigned:
    """The session's first assignment. Raises RequestFailed."""
    async for item in items:
        if isinstance(item, SessionOver):
            raise RequestFailed(item.code, item.detail, retry_after_ms=item.retry_after_ms)
        if isinstance(item, SessionAssigned):
            return item
    raise RequestFailed("router_lost", "the client was closed")
