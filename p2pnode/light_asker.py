"""Asks a node on protocol ``light``, one question at a time, without a machine: for a command that asks and ends.

What it answers is believed by nobody here; whoever asked checks it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from p2pnode.transport.seam import Stream, Transport, TransportError
from protocol.core.codec import Message, decode, encode
from protocol.core.errors import DecodeError, P2PNodeError
from protocol.core.ids import NodeId
from protocol.messages.committee import Certified
from protocol.messages.handover import HAND_OVERS_MAX, HandOver, HandOvers, HandOversAsked
from protocol.messages.receipts import HeadAsked, LightRefused, OutcomeAsked, Receipt, ReceiptAsked, ReceiptFound
from protocol.messages.results import OutcomeNews, SettledNews

ANSWER_MS = 10_000
PAGES_MAX = 64
ANSWERS_MAX = 4
"""To two questions."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Told:
    """What a node says of an outcome."""

    final: OutcomeNews
    settled: SettledNews | None
    """By a header that the contract is said to have accepted."""
    head: Certified | None
    """The newest final header that the node knows."""


class NotTold(P2PNodeError):
    """A node does not tell what it was asked for: it has not got it, or says something else."""

    code = "light/not-told"


class LightAsker:
    """One stream to one node. Made by :func:`asking`. Every method raises NotTold."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def receipt(self, session: bytes, task: int) -> Receipt:
        """The receipt of an order, redacted unless this node's key is the session's client."""
        return (await self._ask(ReceiptAsked(session, task), ReceiptFound)).receipt

    async def outcome(self, session: bytes, task: int) -> Told:
        """Where the outcome of an order's lane 0 stands, and by which header it is said to be settled."""
        await self._send(OutcomeAsked(session, task))
        told = [await self._next()]
        if isinstance(told[0], LightRefused):
            raise _refused(told[0])
        # A router may have to ask others, so that one answer may come a while after the other: with the answer to this
        # question there is no more that is worth waiting for.
        await self._send(HeadAsked(0))
        while not isinstance(told[-1], Certified | LightRefused) and len(told) < ANSWERS_MAX:
            told.append(await self._next())
        final = next((each for each in told if isinstance(each, OutcomeNews)), None)
        if final is None:
            raise NotTold(f"the node answers with {type(told[0]).__name__}", hint="ask another one")
        settled = next((each for each in told if isinstance(each, SettledNews)), None)
        return Told(final, settled, next((each for each in told if isinstance(each, Certified)), None))

    async def head(self) -> Certified:
        """The newest final header."""
        return await self._ask(HeadAsked(0), Certified)

    async def hand_overs(self, first: int, last: int) -> list[HandOver]:
        """The hand-overs of these epochs, as far as there are any."""
        found: list[HandOver] = []
        for _ in range(PAGES_MAX):
            page = await self._ask(HandOversAsked(first + len(found)), HandOvers)
            found += page.hand_overs
            if not page.more or len(page.hand_overs) < HAND_OVERS_MAX or first + len(found) > last:
                break
        return [each for each in found if first <= each.epoch <= last]

    async def _ask(self, question: Message, expected: type[M]) -> M:
        await self._send(question)
        answer = await self._next()
        if isinstance(answer, LightRefused):
            raise _refused(answer)
        if not isinstance(answer, expected):
            raise NotTold(f"the node answers with {type(answer).__name__}", hint="ask another one")
        return answer

    async def _send(self, *questions: Message) -> None:
        try:
            with trio.fail_after(ANSWER_MS / 1_000):
                for question in questions:
                    await self._stream.send(encode(question))
        except (trio.TooSlowError, TransportError) as error:
            raise NotTold(f"the node does not take questions: {error}", hint="ask another one") from error

    async def _next(self) -> Message:
        try:
            with trio.fail_after(ANSWER_MS / 1_000):
                return decode(await self._stream.receive())
        except trio.TooSlowError:
            raise NotTold("the node did not answer in time", hint="ask another one") from None
        except (TransportError, DecodeError) as error:
            raise NotTold(f"the node does not answer: {error}", hint="ask another one") from error


def _refused(refused: LightRefused) -> NotTold:
    detail = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in refused.detail)
    return NotTold(detail, hint=_HINTS[refused.code])


_HINTS = {
    "not_held": "ask another router, or an oracle: receipts are kept for an hour, outcomes for good",
    "not_final": "ask again in a moment",
    "busy": "ask again in a moment",
    "malformed": "ask another one",
}


@asynccontextmanager
async def asking(transport: Transport, node: NodeId) -> AsyncIterator[LightAsker]:
    """Open a stream to a node that can be reached. Raises NotTold."""
    try:
        stream = await transport.open_stream(node, "light", timeout_ms=ANSWER_MS)
    except TransportError as error:
        raise NotTold(f"the node cannot be asked: {error}", hint="ask another one") from error
    try:
        yield LightAsker(stream)
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(2):
            await stream.close()
