"""What light clients are told by a router, a miner or an oracle, on protocol ``light``: receipts, outcomes, headers and
hand-overs that it has. They believe none of it, so whoever has it may tell it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from protocol.core.codec import Message
from protocol.core.deadlines import Deadlines
from protocol.core.ids import NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelOpened,
    Close,
    DeadlineReached,
    Note,
    Received,
    Send,
    Sent,
)
from protocol.light.forwarding import Forwarding
from protocol.light.handovers import HandOverStore
from protocol.light.shelf import ReceiptShelf
from protocol.messages.committee import Certified
from protocol.messages.handover import HandOversAsked, HandOversPicked
from protocol.messages.receipts import HeadAsked, LightRefused, OutcomeAsked, ReceiptAsked, ReceiptFound
from protocol.messages.results import OutcomeNews, SettledNews

STREAMS_MAX = 512
STREAMS_OF_PEER = 4
SILENT_MS = 120_000
"""A stream on which nothing is asked for so long is closed."""
WAITING_MAX = 256
"""Questions of one stream that wait while a receipt is on its way to it."""

Outcomes = Callable[[bytes, int], Sequence[OutcomeNews | SettledNews] | None]
"""Where the outcome of an order's lane 0 stands: empty if it is not final, None if the order is not known."""


def nothing_final() -> Certified | None:
    """The newest final header of who knows none."""
    return None


def no_outcome(_session: bytes, _task: int) -> Sequence[OutcomeNews | SettledNews] | None:
    """The outcomes of who keeps none."""
    return None


@dataclass(slots=True)
class Known:
    """What a node has to tell; its other machines fill it in."""

    hand_overs: HandOverStore
    shelf: ReceiptShelf
    head: Callable[[], Certified | None] = nothing_final
    """The newest final header."""
    outcomes: Outcomes = no_outcome
    """Beside those of the receipts on the shelf."""


@dataclass(slots=True)
class _Stream:
    peer: NodeId
    busy: bool = False
    """A receipt is on its way."""
    waiting: deque[Message] = field(default_factory=deque)


class LightServer:
    """See the module. Spec: [LIGHT-SERVED.1]"""

    protocols = ("light",)
    topics = ()

    def __init__(self, known: Known, forwarding: Forwarding | None = None) -> None:
        self._known = known
        self._forwarding = forwarding
        """Whom outcomes are asked of that are not known here; None: nobody."""
        self._streams: dict[Channel, _Stream] = {}
        self._silent: Deadlines[Channel] = Deadlines()

    def next_deadline(self) -> int | None:
        """When the first silent stream is closed, or a question given up."""
        clocks = (self._silent.next(), self._forwarding.next_deadline() if self._forwarding is not None else None)
        return min((at for at in clocks if at is not None), default=None)

    def load(self) -> dict[str, int]:
        """Figures for status."""
        return {"streams": len(self._streams), "receipts": len(self._known.shelf), "bytes": self._known.shelf.bytes}

    def handle(self, event: object, now_ms: int) -> list[object]:
        """Take one event; total on whatever a peer sent."""
        forwarding = self._forwarding
        match event:
            case ChannelOpened():
                return self._opened(event, now_ms)
            case Received() if forwarding is not None and forwarding.owns(event.channel):
                return forwarding.received(event.channel, event.message)
            case ChannelClosed() if forwarding is not None and forwarding.owns(event.channel):
                return forwarding.closed(event.channel)
            case Received() if event.channel in self._streams:
                return self._asked(event.channel, event.message, now_ms)
            case Sent() if event.channel in self._streams:
                self._streams[event.channel].busy = False
                return self._next(event.channel, now_ms)
            case ChannelClosed():
                self._forget(event.channel)
            case DeadlineReached():
                late = [effect for channel in self._silent.due(now_ms) for effect in self._close(channel)]
                return late + (forwarding.expire(now_ms) if forwarding is not None else [])
        return []

    def _opened(self, event: ChannelOpened, now_ms: int) -> list[object]:
        of_peer = sum(stream.peer == event.peer for stream in self._streams.values())
        if len(self._streams) >= STREAMS_MAX or of_peer >= STREAMS_OF_PEER:
            return [Close(event.channel)]
        self._streams[event.channel] = _Stream(event.peer)
        self._silent.set(event.channel, now_ms + SILENT_MS)
        return []

    def _forget(self, channel: Channel) -> None:
        self._streams.pop(channel, None)
        self._silent.clear(channel)
        if self._forwarding is not None:
            self._forwarding.left(channel)

    def _close(self, channel: Channel) -> list[object]:
        self._forget(channel)
        return [Close(channel)]

    def _asked(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        stream = self._streams[channel]
        self._silent.set(channel, now_ms + SILENT_MS)
        stream.waiting.append(message)
        if len(stream.waiting) > WAITING_MAX:
            return self._close(channel)
        return self._next(channel, now_ms)

    def _next(self, channel: Channel, now_ms: int) -> list[object]:
        """Answer what waits, in order, up to the next receipt: one at a time is on its way."""
        stream, effects = self._streams[channel], list[object]()
        while stream.waiting and not stream.busy:
            question = stream.waiting.popleft()
            answers = self._answers(stream.peer, question, now_ms)
            if self._forwarding is not None and isinstance(question, OutcomeAsked) and _is_open(answers):
                effects += self._forwarding.ask(channel, question, now_ms, known=answers == [NOT_FINAL])
                continue
            if answers is None:
                note = Note("light.peer-broke-rule", (("peer", stream.peer.hex()),))
                return [*effects, note, *self._close(channel)]
            stream.busy = any(isinstance(answer, ReceiptFound) for answer in answers)
            effects += [Send(channel, answer, report=stream.busy) for answer in answers]
        return effects

    def _answers(self, peer: NodeId, message: Message, now_ms: int) -> Sequence[Message] | None:
        """What a question is answered with; None for what is no question. Spec: [LIGHT-SERVED.1]"""
        known = self._known
        match message:
            case ReceiptAsked():
                receipt = known.shelf.get(message.session, message.task, peer, now_ms)
                return [ReceiptFound(receipt) if receipt is not None else _not_held("receipt")]
            case OutcomeAsked():
                return self._outcome(message, now_ms)
            case HeadAsked():
                head = known.head()
                return [head if head is not None else _refused("not_held", "no final header is known here")]
            case HandOversAsked():
                return [known.hand_overs.page(message.first)]
            case HandOversPicked():
                return [known.hand_overs.found(message)]
        return None

    def _outcome(self, asked: OutcomeAsked, now_ms: int) -> Sequence[Message]:
        """Spec: [OUTCOME-ASKED.1]"""
        found = self._known.shelf.outcome(asked.session, asked.task, now_ms)
        other = self._known.outcomes(asked.session, asked.task) if not found else None
        told = found or other
        if told:
            return told
        if found is None and other is None:
            return [NOT_HELD]
        return [NOT_FINAL]


def _not_held(what: str) -> LightRefused:
    return _refused("not_held", f"no {what} of this order is kept here")


def _refused(code: Literal["not_held", "not_final", "busy", "malformed"], detail: str) -> LightRefused:
    return LightRefused(code, detail)


def _is_open(answers: Sequence[Message] | None) -> bool:
    """Whether an oracle may know more: it may have told this node nothing."""
    return answers in ([NOT_HELD], [NOT_FINAL])


NOT_FINAL = _refused("not_final", "the order is known here, and its outcome is not final")
NOT_HELD = _not_held("outcome")
"""Of an order that nobody here has heard of."""
