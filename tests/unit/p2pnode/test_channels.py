"""Channels: bounded, told of their end once, and drained when they are closed, whatever the peer does."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from p2pnode.channels import (
    DRAIN_S,
    OPEN_TIMEOUT_MS,
    OUTBOX_BYTES_MAX,
    OUTBOX_MESSAGES_MAX,
    PEER_BYTES_MAX,
    REPORT_PAUSE_S_MAX,
    Channels,
)
from p2pnode.transport.memory import MemoryNetwork
from p2pnode.transport.memory_node import MemoryTransport
from p2pnode.transport.seam import Stream, StreamClosed
from protocol.core.codec import Message, decode, encode
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Received, Sent
from protocol.messages.greeting import ClientHello, RouterHello
from protocol.messages.sessions import CloseSession
from tests.unit.protocol.keys import key

ALICE, BOB, CAROL = key(1).node, key(2).node, key(3).node
OUT = Channel(-1)
LARGE = RouterHello(BOB, "x" * 65_000, ())
Handler = Callable[[Stream], Awaitable[None]]


def words(number: int) -> Message:
    return CloseSession(number.to_bytes(32, "big"))


@dataclass
class End:
    """One end of the wire: a node, its channels, and what happened on them."""

    node: MemoryTransport
    channels: Channels
    events: list[object] = field(default_factory=list)

    def happened(self, kind: type) -> list[object]:
        return [event for event in self.events if isinstance(event, kind)]


@dataclass
class Wire:
    """Alice with channels, Bob with whatever handler."""

    network: MemoryNetwork
    alice: End
    bob: MemoryTransport


@asynccontextmanager
async def wire(handler: Handler | None = None) -> AsyncIterator[Wire]:
    """Two connected nodes; Bob serves ``task`` with the handler."""
    network = MemoryNetwork()
    async with network.open(ALICE) as alice, network.open(BOB) as bob, trio.open_nursery() as nursery:
        if handler is not None:
            bob.handle("task", handler)
        await alice.connect(bob.addresses[0])
        events: list[object] = []
        channels = Channels(alice, nursery, events.append, trio.lowlevel.checkpoint)
        yield Wire(network, End(alice, channels, events), bob)
        nursery.cancel_scope.cancel()


class Listener:
    """A handler that reads all there is and remembers how it ended."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.clean: bool | None = None

    async def __call__(self, stream: Stream) -> None:
        try:
            while True:
                self.heard.append(decode(await stream.receive()))
        except StreamClosed as closed:
            self.clean = closed.clean


async def deaf(_stream: Stream) -> None:
    await trio.sleep_forever()


async def settle() -> None:
    await trio.sleep(1)


async def test_what_is_sent_before_the_stream_stands_is_sent_when_it_does(autojump_clock: trio.abc.Clock) -> None:
    bob = Listener()
    async with wire(bob) as at:
        at.alice.channels.open(OUT, BOB, "task")
        for number in range(5):
            at.alice.channels.send(OUT, words(number), report=number % 2 == 0)
        assert bob.heard == []
        await settle()
        assert bob.heard == [words(number) for number in range(5)]
        assert at.alice.events == [Sent(OUT)] * 3


async def test_a_peer_that_cannot_be_reached_closes_the_channel_once(autojump_clock: trio.abc.Clock) -> None:
    async with wire() as at:
        nobody = NodeId(bytes(20))
        at.alice.channels.open(OUT, nobody, "task")
        at.alice.channels.send(OUT, words(1), report=True)
        at.alice.channels.open(Channel(-2), BOB, "task")
        await settle()
        assert [event.channel for event in at.alice.happened(ChannelClosed)] == [OUT, Channel(-2)]
        assert len(at.alice.channels) == 0
        at.alice.channels.send(OUT, words(2), report=True)
        at.alice.channels.close(OUT)
        await settle()
        assert len(at.alice.events) == 2


async def test_a_channel_that_is_closed_is_drained_first(autojump_clock: trio.abc.Clock) -> None:
    bob = Listener()
    async with wire(bob) as at:
        at.alice.channels.open(OUT, BOB, "task")
        for number in range(50):
            at.alice.channels.send(OUT, words(number), report=False)
        at.alice.channels.close(OUT)
        at.alice.channels.send(OUT, words(99), report=False)
        await settle()
        assert bob.heard == [words(number) for number in range(50)]
        assert bob.clean is True
        assert at.alice.events == [], "no ChannelClosed after a Close"


async def test_a_closed_channel_whose_peer_does_not_read_is_reset_in_time(autojump_clock: trio.abc.Clock) -> None:
    async with wire(deaf) as at:
        at.alice.channels.open(OUT, BOB, "task")
        await settle()
        for _ in range(40):
            at.alice.channels.send(OUT, LARGE, report=False)
        at.alice.channels.close(OUT)
        started = trio.current_time()
        (stream,) = at.network.link(ALICE, BOB).streams
        await trio.sleep(DRAIN_S + 1)
        assert stream._lost
        assert trio.current_time() - started < DRAIN_S + 2
        assert at.alice.events == []


async def test_a_slow_drip_does_not_keep_a_closed_channel_for_ever(autojump_clock: trio.abc.Clock) -> None:
    async def drip(stream: Stream) -> None:
        while True:
            await trio.sleep(5)
            await stream.receive()

    async with wire(drip) as at:
        at.alice.channels.open(OUT, BOB, "task")
        await settle()
        for _ in range(60):
            at.alice.channels.send(OUT, LARGE, report=False)
        at.alice.channels.close(OUT)
        (stream,) = at.network.link(ALICE, BOB).streams
        await trio.sleep(DRAIN_S + 1)
        assert stream._lost


async def test_a_peer_that_reads_too_slowly_loses_the_stream_once(autojump_clock: trio.abc.Clock) -> None:
    for message, most in ((words(1), OUTBOX_MESSAGES_MAX), (LARGE, 64)):
        async with wire(deaf) as at:
            at.alice.channels.open(OUT, BOB, "task")
            for _ in range(2 * OUTBOX_MESSAGES_MAX):
                at.alice.channels.send(OUT, message, report=False)
                if at.alice.events:
                    break
            assert len(at.alice.channels) == 0
            await settle()
            assert at.alice.events == [ChannelClosed(OUT, "the peer reads too slowly")]
            assert most


async def test_many_streams_that_are_read_too_slowly_are_bounded_together(autojump_clock: trio.abc.Clock) -> None:
    """Each of them is within its own bound, and the node would hold four thousand times that."""
    async with wire(deaf) as at:
        asked = 2 * PEER_BYTES_MAX // OUTBOX_BYTES_MAX
        for number in range(1, asked + 1):
            at.alice.channels.open(Channel(-number), BOB, "task")
            for _ in range(OUTBOX_BYTES_MAX // len(encode(LARGE))):
                at.alice.channels.send(Channel(-number), LARGE, report=False)
        held = at.alice.channels._waiting
        assert sum(outbox.bytes for outbox in at.alice.channels._outboxes.values()) == held.total <= PEER_BYTES_MAX
        await settle()
        lost = at.alice.happened(ChannelClosed)
        assert {event.reason for event in lost} == {"the peer reads too slowly"}  # type: ignore[attr-defined]
        assert len(lost) + len(at.alice.channels) == asked
        for number in range(1, asked + 1):
            at.alice.channels.close(Channel(-number))
        await trio.sleep(DRAIN_S + 1)
        assert held.total == 0


async def test_who_keeps_a_node_waiting_most_pays_for_all(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pnode.channels.WAITING_BYTES_MAX", 1 << 20)
    async with wire(deaf) as at:
        at.alice.channels.open(Channel(-1), BOB, "task")
        for _ in range(14):
            at.alice.channels.send(Channel(-1), LARGE, report=False)
        at.alice.channels.open(Channel(-2), CAROL, "task")
        for _ in range(4):
            at.alice.channels.send(Channel(-2), LARGE, report=False)
        assert at.alice.happened(ChannelClosed) == [ChannelClosed(Channel(-1), "the peer reads too slowly")]


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x90", encode(ClientHello()) + b"\0", b"\x91\xcd\xff\xff"])
async def test_bytes_that_are_no_message_reset_the_stream_and_close_it_once(
    frame: bytes, autojump_clock: trio.abc.Clock
) -> None:
    clean: list[bool] = []

    async def babble(stream: Stream) -> None:
        await stream.send(encode(words(1)))
        await stream.send(frame)
        await stream.send(encode(words(2)))
        try:
            await stream.receive()
        except StreamClosed as closed:
            clean.append(closed.clean)

    async with wire(babble) as at:
        at.alice.channels.open(OUT, BOB, "task")
        await settle()
        received, closed = at.alice.events
        assert received == Received(OUT, words(1))
        assert isinstance(closed, ChannelClosed)
        assert clean == [False]


async def test_a_peer_that_ends_or_resets_a_stream_is_told_of_once(autojump_clock: trio.abc.Clock) -> None:
    async def says_goodbye(stream: Stream) -> None:
        await stream.send(encode(words(1)))
        await stream.close()

    async def slams(stream: Stream) -> None:
        await trio.sleep(0.1)
        await stream.reset()

    for handler, before in ((says_goodbye, [Received(OUT, words(1))]), (slams, [])):
        async with wire(handler) as at:
            at.alice.channels.open(OUT, BOB, "task")
            await settle()
            assert at.alice.events[:-1] == before
            assert isinstance(at.alice.events[-1], ChannelClosed)


async def test_inbound_streams_are_numbered_and_served(autojump_clock: trio.abc.Clock) -> None:
    async with wire() as at:
        served = at.alice
        at.alice.node.handle("client", lambda stream: served.channels.serve("client", stream))
        streams = [await at.bob.open_stream(ALICE, "client") for _ in range(2)]
        await settle()
        assert served.happened(ChannelOpened) == [ChannelOpened(Channel(n), BOB, "client") for n in (1, 2)]
        await streams[1].send(encode(words(7)))
        await settle()
        assert served.events[-1] == Received(Channel(2), words(7))
        served.channels.send(Channel(2), words(8), report=False)
        assert decode(await streams[1].receive()) == words(8)
        served.channels.close(Channel(1))
        with pytest.raises(StreamClosed):
            await streams[0].receive()
        await streams[1].close()
        await settle()
        assert [event.channel for event in served.happened(ChannelClosed)] == [Channel(2)]
        assert len(served.channels) == 0


async def test_what_arrives_after_a_close_is_not_heard(autojump_clock: trio.abc.Clock) -> None:
    async def chatty(stream: Stream) -> None:
        for number in range(100):
            await stream.send(encode(words(number)))
            await trio.sleep(0.01)

    async with wire(chatty) as at:
        at.alice.channels.open(OUT, BOB, "task")
        await trio.sleep(0.2)
        at.alice.channels.close(OUT)
        heard = len(at.alice.events)
        assert heard
        await settle()
        assert len(at.alice.events) == heard


async def test_a_stream_that_does_not_stand_in_time_is_given_up(autojump_clock: trio.abc.Clock) -> None:
    async with wire(deaf) as at:
        at.network.link(ALICE, BOB).cut = True
        at.alice.channels.open(OUT, BOB, "task")
        await trio.sleep(OPEN_TIMEOUT_MS / 1_000 + 1)
        (closed,) = at.alice.events
        assert isinstance(closed, ChannelClosed)


async def test_one_channel_hears_at_once_what_was_sent_and_many_in_their_turn(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with wire(Listener()) as at:
        numbers = [Channel(-number) for number in range(1, 41)]
        for channel in numbers:
            at.alice.channels.open(channel, BOB, "task")
        await settle()
        at.alice.channels.send(numbers[0], words(1), report=True)
        await trio.testing.wait_all_tasks_blocked()
        assert at.alice.events == [Sent(numbers[0])]
        at.alice.events.clear()
        for channel in numbers:
            at.alice.channels.send(channel, words(2), report=True)
        await trio.sleep(REPORT_PAUSE_S_MAX / 2)
        assert 1 < len(at.alice.events) < len(numbers)
        await trio.sleep(REPORT_PAUSE_S_MAX)
        assert at.alice.events == [Sent(channel) for channel in numbers]
