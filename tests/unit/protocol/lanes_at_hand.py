"""A session of several lanes, by hand: every miner scripted, and what its client is told held against what it may be.

All that reaches the client is looked at as a client does: numbers rise and are durable before they leave,
assignments follow from their bid sets, lane 0 is verified token by token, a lane's end is its leased miner's.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from protocol.core.codec import Message
from protocol.core.ids import NOBODY, Generation
from protocol.core.machine import Channel, ChannelClosed, Close, Open, Persist, Publish, Send
from protocol.core.params import Params
from protocol.light.handovers import HandOverBook
from protocol.light.headers import HeaderTrust
from protocol.light.receipt import Verified, verify_receipt
from protocol.light.shelf import RECEIPTS_KEPT_MS, ReceiptShelf
from protocol.messages.sessions import (
    Assignment,
    LeaseBusy,
    LeaseGrant,
    LeaseRelease,
    LeaseRequest,
    SessionEnded,
    SessionReady,
)
from protocol.messages.tasks import (
    CancelTask,
    Delivery,
    EndReason,
    EndRecord,
    FrameMessage,
    LaneEnded,
    SegmentStart,
    StartTask,
    TaskFailed,
)
from protocol.session.auction import verify_bid_set
from protocol.session.transcript import (
    LaneVerifier,
    SegmentWriter,
    check_ended,
    close_chain,
    expect_segment,
    make_ack,
    replay,
)
from tests.unit.protocol.failover_at_hand import FAILOVER_PARAMS, TOTAL, words
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENESIS,
    MINERS,
    MODEL,
    PROMPT_TOKENS,
    WORDS,
    head_of,
    id_of,
    opening_of,
    order_of,
    sent,
    stream_of,
    submit_of,
)
from tests.unit.protocol.router_at_hand import Route

LANES_PARAMS = replace(FAILOVER_PARAMS, bids_good=6)
HEDGE_MS = 2 * FAILOVER_PARAMS.stall_ms_min
"""When the first frame of a miner of unknown pace is late."""


@dataclass
class Strand:
    """A stream from the router to a miner."""

    channel: Channel
    miner: Key
    generation: Generation | None = None
    starts: list[StartTask] = field(default_factory=list)
    said: int = 0
    """Messages of the last start that were streamed."""
    cancelled: bool = False
    released: bool = False
    closed: bool = False

    @property
    def start(self) -> StartTask:
        """What it was handed last."""
        return self.starts[-1]

    def answer(self, size: int = 1) -> list[Message]:
        """What an honest miner streams of lane 0."""
        start = self.start
        first = len(start.resume.ids) if start.resume is not None else 0
        sizes = [min(size, TOTAL - at) for at in range(first, TOTAL, size)] or [0]
        head: dict[str, Any] = {"generation": self.generation}
        if start.resume is not None:
            head |= {"start_index": first, "previous_head": replay(DOMAIN, start.resume)}
        return stream_of(start.order, sizes=sizes, miner=self.miner, **head)


def ended_of(strand: Strand, reason: EndReason = EndReason.STOP, signer: Key | None = None, **head: Any) -> LaneEnded:
    """What the miner of a withheld lane signs at its end."""
    start, miner = strand.start, signer or strand.miner
    content: dict[str, Any] = {"generation": strand.generation, "lane": start.lane, "miner": strand.miner.node}
    writer = SegmentWriter(DOMAIN, miner.sign, head_of(start.order, **{**content, **head}))
    first = writer.index
    end = EndRecord(reason, len(PROMPT_TOKENS), TOTAL, 0)
    ids = range(first, TOTAL)
    frame = writer.frame([500 + n for n in ids], [WORDS[n % len(WORDS)] for n in ids], end)
    return LaneEnded(writer.head, end, close_chain(writer.chain, end), frame.signature)


class Cast:
    """A session of some lanes, all of whose miners have bid."""

    def __init__(self, lanes: int = 2, miners: int = 5, params: Params = LANES_PARAMS, hedge_bp: int = 500) -> None:
        self.shelf = ReceiptShelf(DOMAIN, params, HandOverBook(GENESIS))
        self.route = Route(miners=miners, params=params, hedge_bp=hedge_bp, shelf=self.shelf)
        self.client = self.route.client()
        self.opening = opening_of(lanes=lanes)
        self.id = id_of(self.opening)
        self.alive = list(MINERS[:miners])
        self.strands: list[Strand] = []
        self.durable = 0
        self.assignments: list[Assignment] = []
        self.readers: dict[int, LaneVerifier] = {}
        self.text: dict[int, bytes] = {}
        self.ends: list[tuple[int, str]] = []
        """(task, code or "end"); task 0: the session."""
        self.lane_ends: list[tuple[int, int]] = []
        self.bids_open = False
        self.acks = True
        self._drawn = 0
        self.did(self.route.open(self.client, self.opening))
        self.bid()

    # What the router does

    def did(self, effects: list[object]) -> list[object]:
        """Look at what the router did."""
        for effect in effects:
            match effect:
                case Open():
                    miner = next(miner for miner in MINERS if miner.node == effect.peer)
                    assert miner.node not in {s.miner.node for s in self.asked()}, "asked twice at once"
                    self.strands.append(Strand(effect.channel, miner))
                    assert isinstance(sent(effects, effect.channel)[0], LeaseRequest)
                case Publish():
                    self.bids_open = True
                case Close():
                    self.closed(effect.channel)
                case Persist():
                    self.durable = max(self.durable, int.from_bytes((effect.records[0][1] or b"")[:8], "big"))
                case Send() if effect.channel == self.client:
                    self._read(effect.message)
                case Send():
                    self._told(effect.channel, effect.message)
        return effects

    def closed(self, channel: Channel) -> None:
        """A stream is no more."""
        for strand in self.strands:
            if strand.channel == channel:
                assert not strand.closed
                strand.closed = True

    def _told(self, channel: Channel, message: Message) -> None:
        strand = next((s for s in self.strands if s.channel == channel), None)
        if strand is None:
            return
        assert not strand.closed, "nothing is sent on a stream that was closed"
        match message:
            case StartTask():
                assert message.assignment.number <= self.durable, "durable before it leaves"
                at = message.lane
                names = message.assignment.miners[at], message.assignment.generations[at]
                assert names == (strand.miner.node, strand.generation)
                assert message.delivery is (Delivery.WITHHELD if at else Delivery.RELAYED)
                strand.starts.append(message)
                strand.said, strand.cancelled = 0, False
            case CancelTask():
                strand.cancelled = True
            case LeaseRelease():
                strand.released = True

    def _read(self, message: Message) -> None:
        match message:
            case SessionReady():
                self._assigned(message)
            case SegmentStart():
                self.readers[message.head.task].begin(message.head)
            case FrameMessage():
                self.readers[message.task].take(message)
                self.text[message.task] += b"".join(message.texts)
                if message.end is not None:
                    self.ends.append((message.task, "end"))
                elif self.acks:
                    ack = make_ack(DOMAIN, CLIENT.sign, self.readers[message.task])
                    assert all(isinstance(e, Send) for e in self.route.receive(self.client, ack))
            case LaneEnded():
                name = message.head.task, message.head.lane
                assert name not in self.lane_ends, "told once"
                self.lane_ends.append(name)
                check_ended(DOMAIN, self._expect(message.head.task, message.head.lane), message)
            case TaskFailed():
                self.ends.append((message.task, message.code))
            case SessionEnded():
                self.ends.append((0, message.code))

    def _expect(self, task: int, lane: int = 0) -> Any:
        last = self.assignments[-1]
        order = order_of(self.opening, task)
        return expect_segment(DOMAIN, order, lane, last.generations[lane], last.miners[lane], MODEL)

    def _assigned(self, ready: SessionReady) -> None:
        new, before = ready.assignment, self.assignments[-1] if self.assignments else None
        assert new.number <= self.durable, "durable before it is said"
        assert before is None or new.number > before.number
        verify_bid_set(DOMAIN, self.route.machine._params, self.opening, ready.bid_set, new, before)
        self.assignments.append(new)
        if before is None or before.generations[0] != new.generations[0]:
            for task, reader in self.readers.items():
                if reader.end is None:
                    reader.take_over(self._expect(task))

    # Who is there

    @property
    def session(self) -> Any:
        """What the router holds."""
        return self.route.machine._sessions[self.id]

    def asked(self) -> list[Strand]:
        """Streams on which an answer to a lease request is due."""
        return [s for s in self.strands if s.generation is None and not s.closed]

    def holding(self) -> list[Strand]:
        """Streams on which a slot is held."""
        return [s for s in self.strands if s.generation is not None and not s.closed]

    def lane(self, lane: int) -> Strand:
        """The stream of a lane's miner."""
        lease = self.session.leases[lane]
        return next(s for s in self.strands if s.channel == lease.channel)

    def second(self) -> Strand:
        """The stream of the second start."""
        return next(s for s in self.strands if s.channel == self.session.hedge.lease.channel)

    def lanes(self) -> list[bytes | None]:
        """Who has which lane, by the last assignment that the client was told of."""
        return [None if miner == NOBODY else miner for miner in self.assignments[-1].miners]

    # What others do

    def bid(self) -> list[object]:
        """All miners that are there bid."""
        effects: list[object] = []
        for miner in self.alive:
            effects += self.did(self.route.bid(self.opening, miner))
        self.bids_open = False
        return effects

    def grant(self, strand: Strand | None = None) -> Strand:
        """A miner that was asked says yes; if it held another lease of the session, that one is over."""
        strand = strand or self.asked()[0]
        self._drawn += 1
        strand.generation = Generation(b"\x55" * 16 + self._drawn.to_bytes(8, "big"))
        before = [s for s in self.holding() if s.miner == strand.miner and s is not strand]
        self.did(self.route.receive(strand.channel, LeaseGrant(self.id, strand.generation, 1_000)))
        for other in before:
            if not other.closed:
                self.lose(other)
        return strand

    def grant_all(self) -> None:
        """Everybody asked says yes."""
        while self.asked():
            self.grant()

    def busy(self, strand: Strand | None = None) -> None:
        """A miner that was asked has no slot."""
        strand = strand or self.asked()[0]
        self.did(self.route.receive(strand.channel, LeaseBusy(self.id, 1, "no free slot")))
        assert strand.closed

    def lose(self, strand: Strand) -> list[object]:
        """A miner's stream is gone."""
        strand.closed = True
        return self.did(self.route.tell(ChannelClosed(strand.channel, "reset")))

    def kill(self, miner: Key) -> None:
        """A miner is gone with all its streams."""
        self.alive.remove(miner)
        for strand in list(self.strands):
            if strand.miner == miner and not strand.closed:
                self.lose(strand)

    def order(self, task: int = 1, timeout_ms: int = 60_000) -> list[object]:
        """The client orders an answer."""
        self.readers[task] = LaneVerifier(DOMAIN, self._expect(task))
        self.text[task] = b""
        submit = msgspec.structs.replace(submit_of(self.opening, task), timeout_ms=timeout_ms)
        return self.did(self.route.receive(self.client, submit))

    def cancel(self, task: int = 1) -> list[object]:
        """The client wants no more of it."""
        return self.did(self.route.receive(self.client, CancelTask(self.id, task)))

    def say(self, strand: Strand, *messages: Message) -> list[object]:
        """A miner says something."""
        effects: list[object] = []
        for message in messages:
            effects += self.did(self.route.receive(strand.channel, message))
        return effects

    def stream(self, strand: Strand, count: int | None = None) -> list[object]:
        """A miner streams so many more messages of lane 0, the head included; None: all."""
        messages = strand.answer()[strand.said :][:count]
        strand.said += len(messages)
        return self.say(strand, *messages)

    def end_lane(self, strand: Strand, **fields: Any) -> list[object]:
        """The miner of a withheld lane signs its end."""
        return self.say(strand, ended_of(strand, **fields))

    def wait(self, ms: int) -> list[object]:
        """Time passes."""
        return self.did(self.route.wait(ms))

    def leave(self) -> None:
        """The client goes; nothing may be left of it, and no slot is held."""
        self.did(self.route.tell(ChannelClosed(self.client, "left")))
        self.wait(self.route.machine._params.resume_window_ms)
        self.route.empty()
        assert self.holding() == self.asked() == []
        self.wait(2 * 3_600_000)
        assert self.route.machine.next_deadline() is None


def ready(lanes: int = 2, miners: int = 5, hedge_bp: int = 0) -> Cast:
    """A session whose lanes are all leased."""
    cast = Cast(lanes, miners, hedge_bp=hedge_bp)
    cast.grant_all()
    assert len(cast.assignments) == 1
    return cast


def late(lanes: int = 1, miners: int = 5, streamed: int = 0) -> tuple[Cast, Strand, Strand]:
    """An order whose first frame is late: the first miner, and the second, asked for a slot."""
    cast = ready(lanes, miners, hedge_bp=500)
    cast.order()
    first = cast.lane(0)
    cast.stream(first, streamed)
    cast.wait(HEDGE_MS)
    (second,) = cast.asked()
    return cast, first, second


def hedged(lanes: int = 1, miners: int = 5, streamed: int = 0) -> tuple[Cast, Strand, Strand]:
    """An order that two miners began."""
    cast, first, second = late(lanes, miners, streamed)
    cast.grant(second)
    assert cast.second() is second
    assert [start.order.task for start in second.starts] == [1]
    return cast, first, second


def done(cast: Cast, tasks: int = 1) -> None:
    """All answers are whole, and nothing is left."""
    assert cast.ends == [(task, "end") for task in range(1, tasks + 1)]
    assert set(cast.text.values()) == {words()}
    cast.leave()
    for task in range(1, tasks + 1):
        # As of before the client left: since then more time has passed than receipts are kept for.
        receipt = cast.shelf.get(cast.id, task, CLIENT.node, cast.route.now_ms - 2 * RECEIPTS_KEPT_MS)
        assert receipt is not None and receipt.tokens is not None
        assert isinstance(verify_receipt(receipt, HeaderTrust(GENESIS)), Verified)
        assert b"".join(receipt.tokens.texts) == cast.text[task]
