"""A light client's place taken by one whose miners say what a test tells them to say."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import trio

from p2pnode.answer import Answer, RequestFailed
from p2pnode.session import Session
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.light.levels import Final, Level
from protocol.messages.adverts import ModelOffer
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import EndReason, EndRecord, PromptMessage, SegmentHead
from protocol.roles.client import Item, TaskHead, TaskLevel, TaskOver, TaskText
from tests.unit.protocol.machines import OFFER

MINER, ROUTER = b"\1" * 20, NodeId(b"\2" * 20)
PROMPT_TOKENS = 7


@dataclass(eq=False)
class Order:
    """One order, as its miner has it: ``say`` some words, then ``end`` or ``fail``."""

    messages: Sequence[PromptMessage]
    sampling: SamplingParams
    send: trio.MemorySendChannel[Item]
    answer: Answer
    said: int = 0
    cancelled: bool = False
    left: bool = False
    """Whether nobody reads it any more."""

    def say(self, *words: str) -> None:
        """A frame for each word."""
        for word in words:
            self.send.send_nowait(TaskText(self.said, (self.said,), word.encode()))
            self.said += 1

    def end(self, reason: EndReason = EndReason.STOP) -> None:
        """A signed end."""
        end = EndRecord(reason, PROMPT_TOKENS, self.said, 0)
        self.send.send_nowait(TaskOver(end, "", "", 0, self.said, self.said))

    def fail(self, code: str, retry_after_ms: int = 0) -> None:
        """No signed end."""
        self.send.send_nowait(TaskOver(None, code, f"it ended with {code}", retry_after_ms, self.said, self.said))

    def rise(self, level: Level, after_ms: int) -> None:
        """The answer has become more certain."""
        proved = tuple(each for each in Level if Level.STREAMED < each <= level)
        final = Final(1, 2, 3, 4) if level >= Level.FINALIZED else None
        self.answer.rise(TaskLevel(level, proved, after_ms, 4, 4, final, "", 0))


class SessionAtHand:
    """One session."""

    def __init__(self, net: "NetAtHand", number: int) -> None:
        self.id = number.to_bytes(32, "big")
        self.router = ROUTER
        self._net = net
        self._tasks = 0

    async def decided(self) -> None:
        """It takes as long as the test says."""
        await trio.sleep(self._net.deciding_s)

    @asynccontextmanager
    async def ask(
        self, messages: Sequence[PromptMessage], *, sampling: SamplingParams, max_tokens: int, **_: Any
    ) -> AsyncIterator[Answer]:
        """An order that the test finds in ``net.orders``."""
        send, items = trio.open_memory_channel[Item](max_tokens + 8)
        self._tasks += 1

        def cancel() -> None:
            order.cancelled = True

        answer = Answer(cancel, items)
        order = Order(messages, sampling, send, answer)
        send.send_nowait(TaskHead(_head(self.id, self._tasks)))
        self._net.orders.append(order)
        self._net.ordered.set()
        try:
            yield answer
        finally:
            order.left = True
            if answer.finish is None:
                answer.cancel()


@dataclass(eq=False)
class NetAtHand:
    """The network: ``orders`` as they come in."""

    genesis: Genesis = field(default_factory=lambda: Genesis("tests"))
    models: Sequence[ModelOffer] = (OFFER,)
    orders: list[Order] = field(default_factory=list)
    ordered: trio.Event = field(default_factory=trio.Event)
    refused: RequestFailed | None = None
    """Why no session is opened."""
    opened: int = 0
    asked_tokens: list[int] = field(default_factory=list)
    """Of each session."""
    closed: list[bytes] = field(default_factory=list)
    certifies: bool = False
    deciding_s: float = 0.0
    """How long the answers of a session take to become final."""

    async def refresh(self) -> None:
        """Nothing changes."""
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def session(
        self, model: str | None = None, *, tokens: int = 512, timeout_ms: int = 0
    ) -> AsyncIterator[Session]:
        """A session."""
        await trio.lowlevel.checkpoint()
        if self.refused is not None:
            raise self.refused
        self.opened += 1
        self.asked_tokens.append(tokens)
        session = SessionAtHand(self, self.opened)
        try:
            yield cast(Session, session)
        finally:
            self.closed.append(session.id)

    async def order(self, number: int = 0) -> Order:
        """The order of that number, as soon as it is there."""
        with trio.fail_after(1_000):
            while len(self.orders) <= number:
                if self.ordered.is_set():
                    self.ordered = trio.Event()
                await self.ordered.wait()
        return self.orders[number]


def _head(session: bytes, task: int) -> SegmentHead:
    return SegmentHead(
        session=session,
        task=task,
        lane=0,
        generation=bytes(24),
        miner=MINER,
        order=bytes(32),
        prompt=bytes(32),
        router=ROUTER,
        price_wei=7,
        prompt_tokens=bytes(32),
        prompt_token_count=PROMPT_TOKENS,
        model=bytes(32),
        sampling=bytes(32),
        start_index=0,
        previous_head=bytes(32),
    )
