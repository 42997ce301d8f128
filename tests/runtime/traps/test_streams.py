"""What an untrusted peer may do with streams, and what py-libp2p 0.8.1 makes of it."""

import struct
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.lowlevel
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.exceptions import MuxedStreamError

from p2pnode.transport.libp2p import open_libp2p
from p2pnode.transport.libp2p.muxer import Muxer
from p2pnode.transport.seam import FrameTooLarge, PeerUnreachable, Stream, StreamClosed, StreamTimeout, TransportError
from tests.runtime.transports import eventually
from tests.runtime.traps.attack import Attack, attack_on, config, echo, key

ECHO = "/p2pnode/echo/1"


async def _dead(stream: Any) -> None:
    """Wait until the stream was ended from the other side."""
    with trio.fail_after(10), suppress(MuxedStreamError):
        while True:
            await stream.read()


async def _lost(attack: Attack) -> None:
    """Wait until the victim has dropped the attacker."""
    with trio.fail_after(10):
        while attack.attacker.me in attack.victim.peers():
            await attack.victim.links.events.changed()


def _muxer(attack: Attack) -> Muxer:
    muxer = attack.attacker.links.best(attack.victim.me)
    assert isinstance(muxer, Muxer)
    return muxer


async def test_a_handler_that_raises(attack: Attack, caplog: pytest.LogCaptureFixture) -> None:
    """A stock node dies with it."""

    async def bug(stream: Stream) -> None:
        await stream.receive()
        raise ZeroDivisionError

    attack.victim.handle("bug", bug)
    for _ in range(3):
        stream = await attack.attacker.open_stream(attack.victim.me, "bug")
        await stream.send(b"x")
        with trio.fail_after(5), pytest.raises(StreamClosed):
            await stream.receive()
    assert "ZeroDivisionError" in caplog.text
    await attack.still_serves()


async def test_a_handler_that_never_closes_leaks_nothing(attack: Attack) -> None:
    """In a stock node 600 such streams stay on both sides for ever."""

    async def forgetful(stream: Stream) -> None:
        await stream.receive()

    attack.victim.handle("forgetful", forgetful)
    for _ in range(600):
        stream = await attack.attacker.open_stream(attack.victim.me, "forgetful")
        await stream.send(b"x")
        with pytest.raises(StreamClosed):
            await stream.receive()
        await stream.close()
    await attack.still_serves()
    await eventually(lambda: len(_muxer(attack).streams) <= 4)
    victim_side = attack.victim.links.best(attack.attacker.me)
    assert victim_side is not None
    await eventually(lambda: len(victim_side.streams) <= 4)


async def test_streams_that_are_opened_and_never_used() -> None:
    """They are refused beyond the bound, others are served, and they end at their deadline."""
    async with attack_on(inbound_streams_per_peer=20, first_frame_s=2.0) as attack:
        streams = [await attack.raw_stream() for _ in range(200)]
        await attack.still_serves()
        assert attack.victim.inbound.refused >= 180 - 1
        with trio.fail_after(10):
            for stream in streams:
                await _dead(stream)
        assert len(attack.victim.inbound) < 5
        await attack.still_serves()


async def test_streams_beyond_the_muxer_bound() -> None:
    async with attack_on(inbound_streams_per_peer=10_000) as attack:
        for _ in range(1000):
            await attack.raw_stream()
        await attack.still_serves()
        assert len(attack.victim.links.best(attack.attacker.me).streams) <= 300


async def test_streams_are_refused_with_a_typed_error() -> None:
    async with attack_on(inbound_streams_per_peer=5) as attack:
        kept = []
        with pytest.raises(PeerUnreachable):
            for _ in range(10):
                kept.append(await attack.attacker.open_stream(attack.victim.me, "echo"))
        for stream in kept:
            await stream.close()
        await attack.still_serves()


async def test_a_first_frame_that_never_comes() -> None:
    async with attack_on(first_frame_s=0.5) as attack:
        stream = await attack.raw_stream(ECHO)
        await _dead(stream)
        await attack.still_serves()


async def test_a_frame_that_is_never_finished() -> None:
    async with attack_on(frame_s=0.5) as attack:
        stream = await attack.raw_stream(ECHO)
        await stream.write(struct.pack("!I", 1000) + b"a little of it")
        await _dead(stream)
        await attack.still_serves()


async def test_an_idle_stream_ends_in_time() -> None:
    async with attack_on(idle_s=0.5) as attack:
        stream = await attack.attacker.open_stream(attack.victim.me, "echo")
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        with trio.fail_after(5), pytest.raises(StreamClosed) as ended:
            await stream.receive()
        assert not ended.value.clean


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, 1 << 31, (1 << 32) - 1])
async def test_an_announced_frame_is_refused_before_it_is_buffered(attack: Attack, size: int) -> None:
    refused = trio.Event()

    async def serve(stream: Stream) -> None:
        try:
            await stream.receive()
        except FrameTooLarge:
            refused.set()

    attack.victim.handle("small", serve, frame_bytes_max=1000)
    stream = await attack.raw_stream("/p2pnode/small/1")
    await stream.write(struct.pack("!I", size))
    with trio.fail_after(5):
        await refused.wait()
    await _dead(stream)
    await attack.still_serves()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 2000,
        b"\x00" * 100,
        b"\x13/multistream/9.9.9\n",
        b"\x13/multistream/1.0.0\n" + b"\x03na\n" * 100,
        b"\x13/multistream/1.0.0\n\x02\xff\n",
        b"\x13/multistream/1.0.0\n\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=lambda garbage: garbage[:4].hex() + str(len(garbage)),
)
async def test_garbage_for_a_negotiation(attack: Attack, garbage: bytes) -> None:
    stream = await attack.raw_stream()
    await stream.write(garbage)
    stream.end_writing()
    await _dead(stream)
    await attack.still_serves()


async def test_a_slow_reader_costs_bounded_memory_and_ends_typed() -> None:
    """A stock writer gives up after 5 s, having filled 4 to 16 MiB at the reader."""
    async with attack_on(send_s=1.0) as attack:
        opened: list[StreamTimeout] = []
        done = trio.Event()

        async def pour(stream: Stream) -> None:
            await stream.receive()
            try:
                while True:
                    await stream.send(bytes(100_000))
            except StreamTimeout as error:
                opened.append(error)
                done.set()

        attack.victim.handle("pour", pour)
        stream = await attack.attacker.open_stream(attack.victim.me, "pour")
        await stream.send(b"go")
        with trio.fail_after(10):
            await done.wait()
        assert attack.victim.links.best(attack.attacker.me).unsent <= 256 * 1024
        assert _muxer(attack).buffered <= 1 << 20
        await attack.still_serves()


async def test_a_peer_that_reads_nothing_is_cut_off(attack: Attack) -> None:
    """It pings and asks and never reads: what it makes us queue stays bounded, and it is dropped."""
    muxer = _muxer(attack)

    async def read_nothing() -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    muxer.records.read = read_nothing  # type: ignore[method-assign]
    pings = struct.pack("!BBHII", 0, 2, 1, 0, 7) * 5000
    with trio.move_on_after(20):
        while attack.attacker.me in attack.victim.peers():
            victim_side = attack.victim.links.best(attack.attacker.me)
            assert victim_side is None or victim_side.unsent < 4 << 20
            # It may be cut off in the middle of a write, a moment before it is off the list.
            with suppress(ConnectionClosedError):
                await muxer.records.write(pings)
            await trio.lowlevel.checkpoint()
    assert attack.attacker.me not in attack.victim.peers()
    await attack.still_serves()


async def test_a_window_overrun_costs_the_connection(attack: Attack) -> None:
    """A stock node only warns, and buffers without end."""
    done = trio.Event()

    async def sleepy(stream: Stream) -> None:
        await done.wait()

    attack.victim.handle("sleepy", sleepy)
    stream = await attack.raw_stream("/p2pnode/sleepy/1")
    stream.send_window = 1 << 40
    with suppress(MuxedStreamError):
        for _ in range(200):
            await stream.write(bytes(60_000))
    await _lost(attack)
    done.set()
    await attack.still_serves()


async def test_unread_streams_together_are_bounded() -> None:
    done = trio.Event()

    async def sleepy(stream: Stream) -> None:
        await done.wait()

    async with attack_on() as attack:
        attack.victim.handle("sleepy", sleepy)
        for _ in range(100):
            stream = await attack.raw_stream("/p2pnode/sleepy/1")
            with suppress(MuxedStreamError), trio.move_on_after(0.2):
                await stream.write(bytes(250_000))
            victim_side = attack.victim.links.best(attack.attacker.me)
            assert victim_side is None or victim_side.buffered <= (4 << 20) + 65_536
        done.set()
        await attack.still_serves()


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("!BBHII", 1, 0, 0, 1, 0),  # another version
        struct.pack("!BBHII", 0, 9, 0, 1, 0),  # an unknown type
        struct.pack("!BBHII", 0, 0, 1, 2, 0),  # a stream id that is the victim's to give
        struct.pack("!BBHII", 0, 1, 1, 0, 0),  # stream 0
        struct.pack("!BBHII", 0, 0, 0, 99, (1 << 32) - 1),  # four gigabytes announced
        struct.pack("!BBHII", 0, 3, 0, 0, 1),  # go away
    ],
    ids=["version", "type", "foreign id", "id 0", "huge", "go away"],
)
async def test_frames_that_are_no_yamux(attack: Attack, frame: bytes) -> None:
    await _muxer(attack).records.write(frame)
    await _lost(attack)
    await attack.still_serves()


async def test_harmless_oddities_are_lived_with(attack: Attack) -> None:
    """Frames for streams that are gone, resets of unknown ones, credit beyond reason, unasked pongs."""
    for frame in [
        struct.pack("!BBHII", 0, 0, 0, 99, 3) + b"abc",
        struct.pack("!BBHII", 0, 1, 8, 101, 0),
        struct.pack("!BBHII", 0, 1, 4, 103, 0),
        struct.pack("!BBHII", 0, 2, 2, 0, 12345),
        struct.pack("!BBHII", 0, 1, 1, 1001, (1 << 32) - 1),
        struct.pack("!BBHII", 0, 1, 0, 1001, (1 << 32) - 1),
    ]:
        await _muxer(attack).records.write(frame)
    await attack.still_serves()
    stream = await attack.attacker.open_stream(attack.victim.me, "echo")
    await stream.send(b"x")
    assert await stream.receive() == b"x"


async def test_a_cancelled_send_leaves_the_connection_whole() -> None:
    """A stock write that is cancelled cuts an encrypted record in half and kills every stream."""
    async with open_libp2p(key(1), config()) as a, open_libp2p(key(2), config()) as b:
        b.handle("echo", echo)
        await a.connect(b.addresses[0])
        steady = await a.open_stream(b.me, "echo")
        for n in range(100):
            with suppress(TransportError):
                victim = await a.open_stream(b.me, "echo")
                with trio.move_on_after(0.0005 * (n % 5)):
                    while True:
                        await victim.send(bytes(50_000))
                await victim.reset()
            await steady.send(b"%d" % n)
            with trio.fail_after(10):
                assert await steady.receive() == b"%d" % n
        assert a.peers() == {b.me}
