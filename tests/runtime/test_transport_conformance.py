"""What every transport behind the seam does, run against libp2p on loopback and against the memory network."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing

from p2pnode.identity import NodeKey
from p2pnode.transport.libp2p import Libp2pConfig, open_libp2p
from p2pnode.transport.memory import MemoryNetwork
from p2pnode.transport.seam import (
    FRAME_BYTES_MAX,
    GOSSIP_BYTES_MAX,
    FrameTooLarge,
    Gossip,
    PeerDown,
    PeerUnreachable,
    PeerUp,
    PublishRefused,
    Stream,
    StreamClosed,
    StreamTimeout,
    Transport,
    TransportError,
    Verdict,
    WrongPeer,
)
from protocol.core.ids import NodeId

TOPIC = "/p2pnode/00000000/nodes/1"

Clock = trio.abc.Clock | None
Open = Callable[..., AbstractAsyncContextManager[Any]]


def _key(n: int) -> NodeKey:
    return NodeKey(n.to_bytes(32, "big"))


@pytest.fixture(params=["libp2p", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock(kind: str) -> Clock:
    """The memory network runs on virtual time; sockets do not."""
    return trio.testing.MockClock(autojump_threshold=0) if kind == "memory" else None


@pytest.fixture
def open_node(kind: str) -> Open:
    """A function that opens a node: ``open_node(n, topic_rate_default=…, send_s=…, allow=…)``."""
    network = MemoryNetwork(seed=7)

    def open_one(n: int, **settings: Any) -> AbstractAsyncContextManager[Any]:
        settings = {"topic_rate_default": 1000.0, **settings}
        if kind == "memory":
            return network.open(_key(n), **settings)
        return open_libp2p(_key(n), Libp2pConfig(listen=("/ip4/127.0.0.1/tcp/0",), **settings))

    return open_one


@asynccontextmanager
async def _pair(open_node: Open, **settings: Any) -> AsyncIterator[tuple[Transport, Transport]]:
    """Two nodes, the first connected to the second."""
    async with open_node(1, **settings) as a, open_node(2, **settings) as b:
        await a.connect(b.addresses[0])
        await _until_up(b, a.me)
        yield a, b


async def _until_up(node: Transport, peer: NodeId) -> None:
    with trio.fail_after(10):
        async for event in node.events():
            if event == PeerUp(peer):
                return


async def _until_down(node: Transport, peer: NodeId) -> None:
    with trio.fail_after(20):
        async for event in node.events():
            if event == PeerDown(peer):
                return


async def _echo(stream: Stream) -> None:
    with suppress(StreamClosed):
        while True:
            await stream.send(await stream.receive())


def _accept(forwarder: NodeId, origin: NodeId, data: bytes) -> Verdict:
    return Verdict.ACCEPT


async def _publish_until_heard(node: Transport, reader: trio.MemoryReceiveChannel[Gossip]) -> None:
    """Gossip until it arrives: a mesh forms a little after its peers connect."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                await reader.receive()
                nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            while True:
                await node.publish(TOPIC, b"is anybody there")
                await trio.sleep(0.05)
    while True:  # what was still under way
        with trio.move_on_after(0.3) as scope:
            await reader.receive()
        if scope.cancelled_caught:
            return


# --- connections


async def test_connect_tells_both_sides_and_names_the_peer(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a, open_node(2) as b:
        assert a.me == _key(1).node_id
        assert a.peers() == frozenset()
        assert await a.connect(b.addresses[0]) == b.me
        await _until_up(a, b.me)
        await _until_up(b, a.me)
        assert a.peers() == {b.me}
        assert b.peers() == {a.me}


async def test_events_start_with_who_is_there_and_tell_of_loss(open_node: Open, clock: Clock) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(open_node(1))
        b_stack = AsyncExitStack()
        b = await b_stack.enter_async_context(open_node(2))
        await a.connect(b.addresses[0])
        events = a.events()
        assert await anext(events) == PeerUp(b.me)
        await b_stack.aclose()
        with trio.fail_after(10):
            assert await anext(events) == PeerDown(b.me)
        assert a.peers() == frozenset()


async def test_disconnect_ends_the_connection_and_does_not_redial(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):
        await a.disconnect(b.me)
        await _until_down_or_gone(a, b.me)
        await trio.sleep(1.5)
        assert a.peers() == frozenset()


async def _until_down_or_gone(node: Transport, peer: NodeId) -> None:
    with trio.fail_after(10):
        while peer in node.peers():
            await trio.sleep(0.01)


async def test_a_lost_peer_is_dialed_again(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):
        events = a.events()
        assert await anext(events) == PeerUp(b.me)
        await b.disconnect(a.me)
        with trio.fail_after(15):
            assert await anext(events) == PeerDown(b.me)
            assert await anext(events) == PeerUp(b.me)


async def test_an_address_of_another_key_is_refused(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a, open_node(2) as b, open_node(3) as c:
        wrong = b.addresses[0].rpartition("/")[0] + "/" + c.addresses[0].rpartition("/")[2]
        with pytest.raises(WrongPeer):
            await a.connect(wrong)
        assert await a.connect(b.addresses[0]) == b.me


async def test_nobody_at_an_address(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a:
        async with open_node(2) as b:
            address = b.addresses[0]
        with pytest.raises(PeerUnreachable):
            await a.connect(address, timeout_ms=2_000)


@pytest.mark.parametrize("address", ["", "nonsense", "/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/udp/1/p2p/x"])
async def test_a_malformed_address_is_refused(open_node: Open, clock: Clock, address: str) -> None:
    async with open_node(1) as a:
        with pytest.raises(TransportError):
            await a.connect(address)


async def test_both_dial_at_once(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a, open_node(2) as b:
        b.handle("echo", _echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.connect, b.addresses[0])
            nursery.start_soon(b.connect, a.addresses[0])
        stream = await a.open_stream(b.me, "echo")
        await stream.send(b"still one peer")
        assert await stream.receive() == b"still one peer"
        assert a.peers() == {b.me}


# --- streams


async def test_frames_arrive_whole_in_order_both_ways(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):
        b.handle("echo", _echo)
        stream = await a.open_stream(b.me, "echo")
        assert stream.peer == b.me
        frames = [bytes([n % 256]) * size for n, size in enumerate([0, 1, 3, 4, 5, 64, 65_523, 65_524, 300_000] * 3)]

        async def send() -> None:
            for frame in frames:
                await stream.send(frame)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                for frame in frames:
                    assert await stream.receive() == frame
        await stream.close()


async def test_close_delivers_what_was_sent_and_ends_cleanly(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):

        async def serve(stream: Stream) -> None:
            await stream.receive()
            for n in range(100):
                await stream.send(b"%d" % n)

        b.handle("count", serve)
        stream = await a.open_stream(b.me, "count")
        await stream.send(b"go")
        with trio.fail_after(10):
            assert [await stream.receive() for _ in range(100)] == [b"%d" % n for n in range(100)]
            with pytest.raises(StreamClosed) as ended:
                await stream.receive()
        assert ended.value.clean
        await stream.close()
        await stream.close()


async def test_reset_is_not_clean(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):

        async def serve(stream: Stream) -> None:
            await stream.receive()
            await stream.reset()

        b.handle("reset", serve)
        stream = await a.open_stream(b.me, "reset")
        await stream.send(b"go")
        with trio.fail_after(10), pytest.raises(StreamClosed) as ended:
            await stream.receive()
        assert not ended.value.clean
        with pytest.raises(StreamClosed):
            await stream.send(b"too late")


async def test_a_closed_stream_refuses_here(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):
        b.handle("echo", _echo)
        stream = await a.open_stream(b.me, "echo")
        await stream.close()
        with pytest.raises(StreamClosed):
            await stream.send(b"x")
        with pytest.raises(StreamClosed):
            await stream.receive()


async def test_oversize_frames_are_refused_on_both_sides(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):
        refused = trio.Event()

        async def serve(stream: Stream) -> None:
            try:
                await stream.receive()
            except FrameTooLarge:
                refused.set()
                raise

        b.handle("small", serve, frame_bytes_max=100)
        stream = await a.open_stream(b.me, "small")
        with pytest.raises(FrameTooLarge):
            await stream.send(bytes(FRAME_BYTES_MAX + 1))
        await stream.send(bytes(101))
        with trio.fail_after(10):
            await refused.wait()
            with pytest.raises(StreamClosed):
                await stream.receive()


async def test_a_protocol_nobody_serves(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):
        with pytest.raises(TransportError):
            await a.open_stream(b.me, "unheard-of")


async def test_a_peer_nobody_knows(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a:
        with pytest.raises(PeerUnreachable):
            await a.open_stream(_key(9).node_id, "echo")


async def test_open_stream_dials_a_learned_address(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a, open_node(2) as b:
        b.handle("echo", _echo)
        a.learn(b.me, ["malformed", *b.addresses])
        stream = await a.open_stream(b.me, "echo")
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"


async def test_a_raising_handler_ends_its_stream_only(
    open_node: Open, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with _pair(open_node) as (a, b):

        async def bug(stream: Stream) -> None:
            await stream.receive()
            raise RuntimeError("a bug of ours")

        b.handle("bug", bug)
        b.handle("echo", _echo)
        stream = await a.open_stream(b.me, "bug")
        await stream.send(b"x")
        with trio.fail_after(10), pytest.raises(StreamClosed) as ended:
            await stream.receive()
        assert not ended.value.clean
        other = await a.open_stream(b.me, "echo")
        await other.send(b"alive")
        assert await other.receive() == b"alive"
        assert "bug" in caplog.text


async def test_a_slow_reader_makes_the_sender_wait_and_fail_in_time(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node, send_s=0.5) as (a, b):
        done = trio.Event()

        async def sleepy(stream: Stream) -> None:
            await done.wait()

        b.handle("sleepy", sleepy)
        stream = await a.open_stream(b.me, "sleepy")
        with trio.fail_after(20), pytest.raises(StreamTimeout):
            for _ in range(1000):
                await stream.send(bytes(60_000))
        done.set()


async def test_cancelled_receive_loses_nothing(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):
        b.handle("echo", _echo)
        stream = await a.open_stream(b.me, "echo")
        with trio.move_on_after(0.05):
            await stream.receive()
        await stream.send(b"one")
        with trio.fail_after(10):
            assert await stream.receive() == b"one"


async def test_streams_end_with_the_connection(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):
        b.handle("echo", _echo)
        stream = await a.open_stream(b.me, "echo")
        await stream.send(b"x")
        await stream.receive()
        await b.disconnect(a.me)
        with trio.fail_after(10), pytest.raises(StreamClosed) as ended:
            await stream.receive()
        assert not ended.value.clean


async def test_many_streams_at_once(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):
        b.handle("echo", _echo)

        async def use(n: int) -> None:
            stream = await a.open_stream(b.me, "echo")
            for i in range(20):
                await stream.send(b"%d/%d" % (n, i))
                assert await stream.receive() == b"%d/%d" % (n, i)
            await stream.close()

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for n in range(50):
                    nursery.start_soon(use, n)


# --- gossip


async def test_gossip_names_origin_and_forwarder_over_two_hops(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a, open_node(2) as b, open_node(3) as c:
        await a.connect(b.addresses[0])
        await c.connect(b.addresses[0])
        readers = [await node.subscribe(TOPIC, _accept) for node in (a, b, c)]
        await _publish_until_heard(a, readers[2])
        await a.publish(TOPIC, b"far")
        with trio.fail_after(10):
            gossip = await readers[2].receive()
        assert gossip == Gossip(TOPIC, a.me, b.me, b"far")


@pytest.mark.parametrize("verdict", [Verdict.IGNORE, Verdict.REJECT])
async def test_only_accepted_gossip_is_delivered_and_forwarded(open_node: Open, clock: Clock, verdict: Verdict) -> None:
    def check(forwarder: NodeId, origin: NodeId, data: bytes) -> Verdict:
        return verdict if data == b"bad" else Verdict.ACCEPT

    async with open_node(1) as a, open_node(2) as b, open_node(3) as c:
        await a.connect(b.addresses[0])
        await c.connect(b.addresses[0])
        await a.subscribe(TOPIC, _accept)
        at_b = await b.subscribe(TOPIC, check)
        at_c = await c.subscribe(TOPIC, _accept)
        await _publish_until_heard(a, at_c)
        while True:
            with trio.move_on_after(0.05) as drained:
                await at_b.receive()
            if drained.cancelled_caught:
                break
        await a.publish(TOPIC, b"bad")
        await a.publish(TOPIC, b"good")
        with trio.fail_after(10):
            assert (await at_b.receive()).data == b"good"
            assert (await at_c.receive()).data == b"good"


async def test_own_messages_do_not_come_back(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):
        at_a = await a.subscribe(TOPIC, _accept)
        at_b = await b.subscribe(TOPIC, _accept)
        await _publish_until_heard(a, at_b)
        with pytest.raises(trio.WouldBlock):
            at_a.receive_nowait()


async def test_oversize_gossip_is_refused_here(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a:
        with pytest.raises(FrameTooLarge):
            await a.publish(TOPIC, bytes(GOSSIP_BYTES_MAX + 1))


async def test_the_largest_gossip_arrives(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node) as (a, b):
        at_b = await b.subscribe(TOPIC, _accept)
        await a.subscribe(TOPIC, _accept)
        await _publish_until_heard(a, at_b)
        await a.publish(TOPIC, bytes(GOSSIP_BYTES_MAX))
        with trio.fail_after(10):
            assert (await at_b.receive()).data == bytes(GOSSIP_BYTES_MAX)


async def test_a_check_that_raises_rejects(open_node: Open, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def check(forwarder: NodeId, origin: NodeId, data: bytes) -> Verdict:
        if data == b"bug":
            raise KeyError("a bug of ours")
        return Verdict.ACCEPT

    async with _pair(open_node) as (a, b):
        at_b = await b.subscribe(TOPIC, check)
        await a.subscribe(TOPIC, _accept)
        await _publish_until_heard(a, at_b)
        await a.publish(TOPIC, b"bug")
        await a.publish(TOPIC, b"fine")
        with trio.fail_after(10):
            assert (await at_b.receive()).data == b"fine"
        assert "bug: the check" in caplog.text


async def test_publishing_is_paced_and_bounded(open_node: Open, clock: Clock) -> None:
    async with open_node(1, topic_rate_default=2.0) as a:
        sent, refused = 0, 0

        async def publish() -> None:
            nonlocal sent, refused
            try:
                await a.publish(TOPIC, b"x")
                sent += 1
            except PublishRefused:
                refused += 1

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(publish)
        assert sent + refused == 100
        assert 16 <= sent <= 24


async def test_a_slow_subscriber_loses_the_oldest(open_node: Open, clock: Clock) -> None:
    async with _pair(open_node, topic_rate_default=100_000.0) as (a, b):
        at_b = await b.subscribe(TOPIC, _accept)
        await a.subscribe(TOPIC, _accept)
        await _publish_until_heard(a, at_b)
        for n in range(4200):
            await a.publish(TOPIC, b"%d" % n)
            if n % 200 == 0:
                await trio.sleep(0.05)
        with trio.fail_after(20):
            while b.topics.counts(TOPIC).accepted < 4200:  # type: ignore[attr-defined]
                await trio.sleep(0.05)
        first = await at_b.receive()
        assert int(first.data) == 4200 - 4096


async def test_a_topic_has_one_subscriber(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a:
        await a.subscribe(TOPIC, _accept)
        with pytest.raises(TransportError):
            await a.subscribe(TOPIC, _accept)


async def test_strangers_share_a_twentieth(open_node: Open, clock: Clock) -> None:
    friends = {_key(1).node_id}

    async with AsyncExitStack() as stack:
        settings = {"topic_rate_default": 100.0, "allow": friends.__contains__}
        b = await stack.enter_async_context(open_node(2, **settings))
        friend = await stack.enter_async_context(open_node(1, topic_rate_default=5000.0))
        stranger = await stack.enter_async_context(open_node(3, topic_rate_default=5000.0))
        at_b = await b.subscribe(TOPIC, _accept)
        for node in (friend, stranger):
            await node.subscribe(TOPIC, _accept)
            await node.connect(b.addresses[0])
        await _publish_until_heard(friend, at_b)
        for n in range(150):
            await stranger.publish(TOPIC, b"stranger %d" % n)
            await friend.publish(TOPIC, b"friend %d" % n)
        heard = {friend.me: 0, stranger.me: 0}
        with trio.fail_after(10):
            while heard[friend.me] < 150:
                gossip = await at_b.receive()
                heard[gossip.origin] += 1
        assert heard[stranger.me] <= 60
