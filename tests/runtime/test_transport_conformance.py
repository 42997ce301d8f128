"""Connections and streams as every transport behind the seam does them: libp2p on loopback, and memory."""

from contextlib import AsyncExitStack

import pytest
import trio

from p2pnode.transport.seam import (
    FRAME_BYTES_MAX,
    FrameTooLarge,
    PeerDown,
    PeerUnreachable,
    PeerUp,
    Stream,
    StreamClosed,
    StreamTimeout,
    TransportError,
    WrongPeer,
)
from tests.runtime.transports import (
    KINDS,
    Clock,
    Open,
    clock_for,
    echo,
    eventually,
    key,
    opener,
    pair,
    until_up,
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock(kind: str) -> Clock:
    return clock_for(kind)


@pytest.fixture
def open_node(kind: str) -> Open:
    return opener(kind)


# --- connections


async def test_connect_tells_both_sides_and_names_the_peer(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a, open_node(2) as b:
        assert a.me == key(1).node_id
        assert a.peers() == frozenset()
        assert await a.connect(b.addresses[0]) == b.me
        await until_up(a, b.me)
        await until_up(b, a.me)
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
    async with pair(open_node) as (a, b):
        await a.disconnect(b.me)
        await eventually(lambda: b.me not in a.peers())
        await trio.sleep(1.5)
        assert a.peers() == frozenset()


async def test_a_lost_peer_is_dialed_again(open_node: Open, clock: Clock) -> None:
    async with pair(open_node) as (a, b):
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
        b.handle("echo", echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.connect, b.addresses[0])
            nursery.start_soon(b.connect, a.addresses[0])
        stream = await a.open_stream(b.me, "echo")
        await stream.send(b"still one peer")
        assert await stream.receive() == b"still one peer"
        assert a.peers() == {b.me}


# --- streams


async def test_frames_arrive_whole_in_order_both_ways(open_node: Open, clock: Clock) -> None:
    async with pair(open_node) as (a, b):
        b.handle("echo", echo)
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
    async with pair(open_node) as (a, b):

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
    async with pair(open_node) as (a, b):

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
    async with pair(open_node) as (a, b):
        b.handle("echo", echo)
        stream = await a.open_stream(b.me, "echo")
        await stream.close()
        with pytest.raises(StreamClosed):
            await stream.send(b"x")
        with pytest.raises(StreamClosed):
            await stream.receive()


async def test_oversize_frames_are_refused_on_both_sides(open_node: Open, clock: Clock) -> None:
    async with pair(open_node) as (a, b):
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
    async with pair(open_node) as (a, b):
        with pytest.raises(TransportError):
            await a.open_stream(b.me, "unheard-of")


async def test_a_peer_nobody_knows(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a:
        with pytest.raises(PeerUnreachable):
            await a.open_stream(key(9).node_id, "echo")


async def test_open_stream_dials_a_learned_address(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a, open_node(2) as b:
        b.handle("echo", echo)
        a.learn(b.me, ["malformed", *b.addresses])
        stream = await a.open_stream(b.me, "echo")
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"


async def test_a_raising_handler_ends_its_stream_only(
    open_node: Open, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair(open_node) as (a, b):

        async def bug(stream: Stream) -> None:
            await stream.receive()
            raise RuntimeError("a bug of ours")

        b.handle("bug", bug)
        b.handle("echo", echo)
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
    async with pair(open_node, send_s=0.5) as (a, b):
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
    async with pair(open_node) as (a, b):
        b.handle("echo", echo)
        stream = await a.open_stream(b.me, "echo")
        with trio.move_on_after(0.05):
            await stream.receive()
        await stream.send(b"one")
        with trio.fail_after(10):
            assert await stream.receive() == b"one"


async def test_streams_end_with_the_connection(open_node: Open, clock: Clock) -> None:
    async with pair(open_node) as (a, b):
        b.handle("echo", echo)
        stream = await a.open_stream(b.me, "echo")
        await stream.send(b"x")
        await stream.receive()
        await b.disconnect(a.me)
        with trio.fail_after(10), pytest.raises(StreamClosed) as ended:
            await stream.receive()
        assert not ended.value.clean


async def test_many_streams_at_once(open_node: Open, clock: Clock) -> None:
    async with pair(open_node) as (a, b):
        b.handle("echo", echo)

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
