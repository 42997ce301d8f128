"""A node that reaches itself: streams and gossip at home, and all else as before."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2pnode.transport.loopback import Loopback
from p2pnode.transport.memory import MemoryNetwork
from p2pnode.transport.memory_node import MemoryTransport
from p2pnode.transport.seam import FrameTooLarge, Gossip, Stream, StreamClosed, TransportError, Verdict
from protocol.core.ids import NodeId
from tests.unit.protocol.keys import key

ALICE, BOB = key(1).node, key(2).node
TOPIC = "/p2pnode/00000000/nodes/1"


@asynccontextmanager
async def home() -> AsyncIterator[tuple[Loopback, MemoryTransport]]:
    """Alice with a loopback, connected to Bob."""
    network = MemoryNetwork()
    async with network.open(ALICE) as alice, network.open(BOB) as bob, trio.open_nursery() as nursery:
        await alice.connect(bob.addresses[0])
        yield Loopback(alice, nursery), bob
        nursery.cancel_scope.cancel()


async def echo(stream: Stream) -> None:
    while True:
        await stream.send(b"you: " + await stream.receive())


async def test_a_stream_to_oneself(autojump_clock: trio.abc.Clock) -> None:
    async with home() as (alice, bob):
        alice.handle("task", echo)
        for opener in (alice, bob):
            stream = await opener.open_stream(ALICE, "task")
            await stream.send(b"hi")
            assert await stream.receive() == b"you: hi"
            await stream.close()
        assert alice.me == ALICE
        assert alice.peers() == {BOB}


async def test_limits_and_unknown_protocols_hold_at_home_too(autojump_clock: trio.abc.Clock) -> None:
    async with home() as (alice, _):
        with pytest.raises(TransportError, match="does not speak task") as refused:
            await alice.open_stream(ALICE, "task")
        assert refused.value.code == "transport/protocol-not-spoken"
        alice.handle("task", echo, frame_bytes_max=10)
        stream = await alice.open_stream(ALICE, "task", frame_bytes_max=20)
        with pytest.raises(FrameTooLarge):
            await stream.send(bytes(21))
        await stream.send(bytes(15))
        with pytest.raises(StreamClosed):
            await stream.receive()


async def test_a_handler_that_raises_costs_its_stream_only(
    autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(stream: Stream) -> None:
        await stream.receive()
        raise ZeroDivisionError

    async with home() as (alice, _):
        alice.handle("task", broken)
        stream = await alice.open_stream(ALICE, "task")
        await stream.send(b"hi")
        with pytest.raises(StreamClosed):
            await stream.receive()
        alice.handle("task", echo)
        stream = await alice.open_stream(ALICE, "task")
        await stream.send(b"hi")
        assert await stream.receive() == b"you: hi"
    assert "bug" in caplog.text


async def test_gossip_reaches_oneself_once_and_others_as_before(autojump_clock: trio.abc.Clock) -> None:
    def check(_forwarder: NodeId, _origin: NodeId, data: bytes) -> Verdict:
        return Verdict.ACCEPT if data != b"bad" else Verdict.REJECT

    async with home() as (alice, bob):
        here, there = await alice.subscribe(TOPIC, check), await bob.subscribe(TOPIC, check)
        await alice.publish("/p2pnode/00000000/other/1", b"not followed")
        for data in (b"bad", b"good"):
            await alice.publish(TOPIC, data)
        assert await here.receive() == Gossip(TOPIC, ALICE, ALICE, b"good")
        assert await there.receive() == Gossip(TOPIC, ALICE, ALICE, b"good")
        await bob.publish(TOPIC, b"back")
        assert await here.receive() == Gossip(TOPIC, BOB, BOB, b"back")
        with pytest.raises(trio.WouldBlock):
            here.receive_nowait()


async def test_a_subscriber_that_lags_is_not_waited_for(autojump_clock: trio.abc.Clock) -> None:
    async with home() as (alice, _):
        reader = await alice.subscribe(TOPIC, lambda *_: Verdict.ACCEPT)
        for _ in range(2_000):
            alice._deliver_locally(TOPIC, b"x")
        assert reader.statistics().current_buffer_used <= 1_024
        reader.close()
        alice._deliver_locally(TOPIC, b"x")
