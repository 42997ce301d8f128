"""One order among several miners, any of which may be lost: a router by hand, its client's reader, scripted miners."""

from dataclasses import replace
from typing import Any

import msgspec

from protocol.core.codec import Message
from protocol.core.ids import Generation
from protocol.core.machine import Channel, ChannelClosed, Close, Open, Persist, Send
from protocol.core.params import Params
from protocol.messages.sessions import LeaseBusy, LeaseGrant, LeaseRequest, SessionEnded, SessionReady
from protocol.messages.tasks import AckMessage, FrameMessage, SegmentStart, StartTask, TaskFailed
from protocol.roles.router.rounds import WAKE_MS
from protocol.session.transcript import LaneVerifier, expect_segment, make_ack, replay
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    MINERS,
    MODEL,
    PARAMS,
    WORDS,
    id_of,
    opening_of,
    order_of,
    sent,
    stream_of,
    submit_of,
)
from tests.unit.protocol.router_at_hand import Route

TOTAL = 8
"""Tokens of every answer."""
FAILOVER_PARAMS = replace(PARAMS, bids_good=3, ack_every_tokens=2, unacked_tokens_max=4, frame_tokens_max=4)


def words(count: int = TOTAL) -> bytes:
    """The beginning of the undisturbed answer."""
    return b"".join(WORDS[(100 + index) % len(WORDS)] for index in range(count))


def answer_to(start: StartTask, miner: Key, size: int = 1, total: int = TOTAL) -> list[Message]:
    """What an honest miner streams for an order that was handed to it, or for the rest of one."""
    first = len(start.resume.ids) if start.resume is not None else 0
    sizes = [min(size, total - at) for at in range(first, total, size)] or [0]
    head: dict[str, Any] = {"generation": start.assignment.generations[0]}
    if start.resume is not None:
        head |= {"start_index": first, "previous_head": replay(DOMAIN, start.resume)}
    return stream_of(start.order, sizes=sizes, miner=miner, **head)


class Story:
    """A session with standbys, and what its client reads: all that is shown is verified, in order, once."""

    def __init__(
        self, miners: int = 3, params: Params = FAILOVER_PARAMS, bidders: int | None = None, hedge_bp: int = 0
    ) -> None:
        self.route = Route(miners=miners, params=params, hedge_bp=hedge_bp)
        self.client = self.route.client()
        self.opening = opening_of()
        self.bidding = MINERS[: bidders or miners]
        self.asked: tuple[Channel, Key] | None = None
        self.lease: tuple[Channel, Key] | None = None
        self.start: StartTask | None = None
        self.numbers: list[int] = []
        self.starts: list[StartTask] = []
        self.text = b""
        self.ends: list[Message] = []
        self.readers: dict[int, LaneVerifier] = {}
        self.closed: list[Channel] = []
        self.did(self.route.open(self.client, self.opening))
        self.bid()
        self.grant()

    # What happens

    def did(self, effects: list[object]) -> list[object]:
        """Look at what the router did."""
        durable = 0
        for effect in effects:
            match effect:
                case Open():
                    self.asked = effect.channel, next(miner for miner in MINERS if miner.node == effect.peer)
                    assert isinstance(sent(effects, effect.channel)[0], LeaseRequest)
                case Close():
                    self.closed.append(effect.channel)
                case Persist():
                    durable = int.from_bytes((effect.records[0][1] or b"")[:8], "big")
                case Send(message=SessionReady() as ready):
                    assert durable == ready.assignment.number, "durable before it is said"
                    self._reassigned(ready)
                case Send(message=StartTask() as start):
                    assert self.lease is not None
                    assert effect.channel == self.lease[0]
                    self.start = start
                    self.starts.append(start)
                case Send() if effect.channel == self.client:
                    self._read(effect.message)
        return effects

    def _reassigned(self, ready: SessionReady) -> None:
        assert [*self.numbers, ready.assignment.number] == list(range(1, len(self.numbers) + 2))
        self.numbers.append(ready.assignment.number)
        generation, miner = ready.assignment.generations[0], ready.assignment.miners[0]
        for task, reader in self.readers.items():
            if reader.end is None:
                reader.take_over(expect_segment(DOMAIN, order_of(self.opening, task), 0, generation, miner, MODEL))

    def _read(self, message: Message) -> None:
        match message:
            case SegmentStart():
                self.readers[message.head.task].begin(message.head)
            case FrameMessage():
                self.readers[message.task].take(message)
                self.text += b"".join(message.texts)
                if message.end is not None:
                    self.ends.append(message)
            case TaskFailed() | SessionEnded():
                self.ends.append(message)

    # What others do

    def bid(self) -> list[object]:
        """All miners that are there bid."""
        effects: list[object] = []
        for miner in self.bidding:
            effects += self.did(self.route.bid(self.opening, miner))
        return effects + (self.did(self.route.wait(FAILOVER_PARAMS.bid_window_ms)) if self.asked is None else [])

    def grant(self) -> list[object]:
        """The miner that was asked says yes."""
        assert self.asked is not None
        self.lease, self.asked = self.asked, None
        channel, _ = self.lease
        generation = Generation(b"\x55" * 16 + (len(self.numbers) + 1).to_bytes(8, "big"))
        return self.did(self.route.receive(channel, LeaseGrant(id_of(self.opening), generation, 1_000)))

    def busy(self) -> list[object]:
        """The miner that was asked has no slot."""
        assert self.asked is not None
        (channel, _), self.asked = self.asked, None
        return self.did(self.route.receive(channel, LeaseBusy(id_of(self.opening), 1, "no free slot")))

    def order(self, task: int = 1, timeout_ms: int = 60_000, **fields: Any) -> list[object]:
        """The client orders an answer."""
        assert self.lease is not None
        order = order_of(self.opening, task, **fields)
        session = self.route.machine._sessions[id_of(self.opening)]
        generation = session.lease.generation if session.lease is not None else bytes(24)
        expected = expect_segment(DOMAIN, order, 0, generation, self.lease[1].node, MODEL)
        self.readers[task] = LaneVerifier(DOMAIN, expected)
        submit = msgspec.structs.replace(submit_of(self.opening, task, **fields), timeout_ms=timeout_ms)
        return self.did(self.route.receive(self.client, submit))

    def stream(self, count: int | None = None, size: int = 1) -> list[object]:
        """The leased miner streams so many messages of what it was handed, the head included; None: all."""
        assert self.start is not None
        assert self.lease is not None
        messages = answer_to(self.start, self.lease[1], size)
        return self.say(*messages[:count])

    def say(self, *messages: Message) -> list[object]:
        """The leased miner says something."""
        assert self.lease is not None
        channel, _ = self.lease
        return self.did([effect for message in messages for effect in self.route.receive(channel, message)])

    def lose(self) -> list[object]:
        """The leased miner is gone."""
        assert self.lease is not None
        return self.did(self.route.tell(ChannelClosed(self.lease[0], "reset")))

    def lose_asked(self) -> list[object]:
        """The miner that was asked is gone."""
        assert self.asked is not None
        (channel, _), self.asked = self.asked, None
        return self.did(self.route.tell(ChannelClosed(channel, "reset")))

    def ack(self, task: int = 1) -> AckMessage:
        """What the client acknowledges now."""
        return make_ack(DOMAIN, CLIENT.sign, self.readers[task])

    def wait(self, ms: int) -> list[object]:
        """Time passes."""
        return self.did(self.route.wait(ms))

    def patience(self) -> int:
        """How long the router waits from now on before it looks for another miner."""
        for ms in range(0, 120_000, 10):
            if self.lease is None or self.lease[0] in self.closed:
                return ms
            self.wait(10)
        raise AssertionError("for ever")

    def replace(self) -> None:
        """Another miner takes over, from among the standbys or in a new round."""
        if self.asked is None:
            self.wait(WAKE_MS)
            self.bid()
        self.grant()

    def codes(self) -> list[str]:
        """How everything ended."""
        return [end.code if isinstance(end, TaskFailed | SessionEnded) else "end" for end in self.ends]

    def leave(self) -> None:
        """The client goes; nothing may be left of it."""
        self.did(self.route.tell(ChannelClosed(self.client, "left")))
        self.wait(self.route.machine._params.resume_window_ms)
        self.route.empty()
        self.wait(2 * 3_600_000)
        assert self.route.machine.next_deadline() is None
