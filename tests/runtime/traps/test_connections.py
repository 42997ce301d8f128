"""Dialing, listening, keeping and losing connections where py-libp2p 0.8.1 does otherwise."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from p2pnode.transport.libp2p import open_libp2p
from p2pnode.transport.libp2p.wire import Wire
from p2pnode.transport.libp2p.yamux import MuxerLimits
from p2pnode.transport.seam import PeerDown, PeerUnreachable, PeerUp, TransportError, WrongPeer
from tests.runtime.transports import eventually
from tests.runtime.traps.attack import Attack, attack_on, config, echo, key, until_up

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent


def _host_and_port(address: str) -> tuple[str, int]:
    parts = address.split("/")
    return parts[2], int(parts[4])


async def _tcp(attack: Attack) -> trio.SocketStream:
    return await trio.open_tcp_stream(*_host_and_port(attack.victim.addresses[0]))


# --- what is refused


@pytest.mark.parametrize("security", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0"])
async def test_only_noise_is_spoken(attack: Attack, security: str) -> None:
    """A stock node accepts plaintext."""
    async with await _tcp(attack) as stream:
        communicator = MultiselectCommunicator(RawConnection(Wire(stream), True))
        with trio.fail_after(5):
            await MultiselectClient().handshake(communicator)
            await communicator.write(security)
            assert await communicator.read() == "na"
    await attack.still_serves()


async def test_a_key_of_another_type_is_no_node(attack: Attack) -> None:
    """It has no node id, so it is refused, after the handshake and before the first stream."""
    from libp2p.crypto.ed25519 import create_new_key_pair as create_ed25519
    from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
    from libp2p.security.noise.transport import Transport as Noise

    pair = create_ed25519(bytes(range(32)))
    noise = Noise(pair, noise_privkey=create_noise_key().private_key)
    async with await _tcp(attack) as stream:
        raw = RawConnection(Wire(stream), True)
        client = MultiselectClient()
        with trio.fail_after(5):
            await client.select_one_of([TProtocol("/noise")], MultiselectCommunicator(raw))
            secured = await noise.secure_outbound(raw, ID.from_base58(attack.victim._key.peer_id))
            with pytest.raises((MultiselectClientError, ConnectionClosedError)):
                await client.select_one_of([TProtocol("/yamux/1.0.0")], MultiselectCommunicator(secured))
    await attack.still_serves()


@pytest.mark.parametrize(
    "garbage",
    [
        os.urandom(4096),
        b"\x00",
        b"\x13/multistream/1.0.0\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20" + bytes(32),
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20" + bytes(range(32)) + b"\xff\xff" + os.urandom(65_535),
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x00" * 50,
        b"\x13/m" + b"\xff" * 10_000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + os.urandom(500),
        b"GET " + b"a" * 200_000,
        b"\x16\x03\x01\x02\x00\x01",
    ],
    ids=range(12),
)
async def test_garbage_on_the_socket(garbage: bytes) -> None:
    async with attack_on(handshake_s=1.0) as attack:
        for _ in range(2):
            async with await _tcp(attack) as stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(garbage)
                    await stream.send_eof()
                with trio.fail_after(15), suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
        await attack.still_serves()


@pytest.mark.parametrize("head", [b"", b"\x13", b"\x13/multistream/1.0.0\n", b"GET / HTTP/1.1\r\n"])
async def test_half_handshakes_end_and_others_are_served(head: bytes) -> None:
    """A stock node waits for ever for the rest of a WebSocket upgrade."""
    async with attack_on(handshake_s=1.0, handshakes=40) as attack, AsyncExitStack() as sockets:
        silent = []
        for _ in range(30):
            stream = await _tcp(attack)
            sockets.push_async_callback(stream.aclose)
            await stream.send_all(head)
            silent.append(stream)
        await attack.still_serves()
        with trio.fail_after(10):
            for stream in silent:
                with suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
        await attack.still_serves()


async def test_handshakes_beyond_the_bound_are_hung_up_on() -> None:
    async with attack_on(handshake_s=5.0, handshakes=10) as attack, AsyncExitStack() as sockets:
        for _ in range(50):
            sockets.push_async_callback((await _tcp(attack)).aclose)
        await eventually(lambda: attack.victim.listener.refused >= 40)
        await attack.still_serves()


async def test_inbound_slots_are_given_back() -> None:
    """A stock node keeps the slot of every inbound connection that ever stood: after 300 it is deaf."""
    async with attack_on(connections=6) as attack:
        for n in range(30):
            async with open_libp2p(key(100 + n), config(listen=())) as visitor:
                with trio.fail_after(5):
                    while True:
                        with suppress(PeerUnreachable):
                            await visitor.connect(attack.victim.addresses[0])
                            break
        await attack.still_serves()


async def test_connections_beyond_the_bound_are_refused() -> None:
    async with attack_on(connections=3) as attack, open_libp2p(key(50), config()) as third:
        await third.connect(attack.victim.addresses[0])
        async with open_libp2p(key(51), config()) as fourth:
            with pytest.raises(PeerUnreachable):
                await fourth.connect(attack.victim.addresses[0])
        await attack.still_serves()


async def test_a_wrong_key_at_an_address(attack: Attack) -> None:
    """The typed error names it, and the right peer at the same address is reached at once after."""
    place = attack.victim.addresses[0].rpartition("/")[0]
    async with open_libp2p(key(60), config()) as other:
        with pytest.raises(WrongPeer):
            await other.connect(f"{place}/{key(61).peer_id}")
        assert other.book.addresses(key(61).node_id) == ()
        assert await other.connect(attack.victim.addresses[0]) == attack.victim.me
    await attack.still_serves()


# --- dialing


@pytest.mark.parametrize("index", [0, 1], ids=["tcp", "websocket"])
async def test_one_port_serves_both_and_dials_are_quick(attack: Attack, index: int) -> None:
    """A stock dial takes 250 ms whatever the peer does."""
    tcp, websocket = attack.victim.addresses
    assert _host_and_port(tcp) == _host_and_port(websocket)
    assert "/ws/" in websocket and "/ws/" not in tcp
    times = []
    for n in range(5):
        async with open_libp2p(key(70 + n), config(listen=())) as visitor:
            start = trio.current_time()
            await visitor.connect(attack.victim.addresses[index])
            times.append(trio.current_time() - start)
            stream = await visitor.open_stream(attack.victim.me, "echo")
            await stream.send(b"x" * 100_000)
            assert await stream.receive() == b"x" * 100_000
    assert min(times) < 0.1
    await attack.still_serves()


async def test_every_socket_is_without_delay(attack: Attack) -> None:
    sockets = [wire for node in (attack.victim, attack.witness) for wire in _wires(node)]
    assert len(sockets) >= 3  # dialed and accepted ones
    assert all(wire.stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for wire in sockets)


def _wires(node: Any) -> list[Wire]:
    wires = []
    for muxer in node.links.all():
        below = muxer.secured_conn.conn.read_writer.read_write_closer
        wires.append(below.stream)
    return wires


async def test_a_peer_that_comes_up_later_is_reached() -> None:
    """A stock node refuses to dial it for a minute after a failure."""
    async with AsyncExitStack() as stack:
        async with open_libp2p(key(2), config()) as first_life:
            place = first_life.addresses[0].partition("/p2p/")[0]
        a = await stack.enter_async_context(open_libp2p(key(1), config(bootstrap=(f"{place}/p2p/{key(2).peer_id}",))))
        with pytest.raises(PeerUnreachable):
            await a.connect(f"{place}/p2p/{key(2).peer_id}", timeout_ms=2000)
        await stack.enter_async_context(open_libp2p(key(2), config(listen=(place,))))
        await until_up(a, key(2).node_id)


async def test_every_address_of_a_peer_is_tried() -> None:
    """A stock node tries one address per transport, and never loopback beside others."""
    async with open_libp2p(key(1), config()) as a, open_libp2p(key(2), config()) as b:
        b.handle("echo", echo)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            dead = f"/ip4/127.0.0.1/tcp/{nobody.getsockname()[1]}/p2p/{key(2).peer_id}"
            a.learn(b.me, [dead, dead.replace("/p2p/", "/ws/p2p/"), *b.addresses])
            stream = await a.open_stream(b.me, "echo")
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        assert str(a.book.addresses(b.me)[0]) in b.addresses


async def test_a_blackhole_address_does_not_hold_up_the_others() -> None:
    async with open_libp2p(key(1), config()) as a, open_libp2p(key(2), config()) as b:
        b.handle("echo", echo)
        with socket.socket() as hole:
            hole.bind(("127.0.0.1", 0))
            hole.listen(1)  # accepts, and never says a word
            a.learn(b.me, [f"/ip4/127.0.0.1/tcp/{hole.getsockname()[1]}/p2p/{key(2).peer_id}", *b.addresses])
            start = trio.current_time()
            await a.open_stream(b.me, "echo")
            assert trio.current_time() - start < 5.0  # who waits for it waits ten


async def test_the_degree_is_filled_from_the_address_book(tmp_path: Path) -> None:
    book = tmp_path / "book.json"
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(open_libp2p(key(10 + n), config())) for n in range(3)]
        async with open_libp2p(key(1), config(book_path=book, degree=0)) as a:
            for other in others:
                a.learn(other.me, other.addresses)
        assert book.exists()
        async with open_libp2p(key(1), config(book_path=book, degree=2)) as a:
            with trio.fail_after(10):
                while len(a.peers()) < 2:
                    await a.links.events.changed()
            assert a.peers() <= {other.me for other in others}


async def test_a_lost_peer_comes_back_with_growing_pauses() -> None:
    async with open_libp2p(key(1), config(dial_retry_first_s=0.1)) as a:
        async with open_libp2p(key(2), config()) as b:
            place = b.addresses[0].partition("/p2p/")[0]
            await a.connect(b.addresses[0])
        with trio.fail_after(5):
            while a.peers():
                await a.links.events.changed()
        await trio.sleep(0.5)
        async with open_libp2p(key(2), config(listen=(place,))):
            await until_up(a, key(2).node_id)


async def test_a_wanted_peer_is_found_whatever_the_book_is_told() -> None:
    async with open_libp2p(key(1), config(dial_retry_first_s=0.1)) as a, open_libp2p(key(2), config()) as b:
        await a.connect(b.addresses[0])
        a.learn(b.me, [f"/ip4/127.0.0.1/tcp/1/p2p/{key(2).peer_id}"])
        events = a.events()
        assert await anext(events) == PeerUp(b.me)
        await b.disconnect(a.me)
        with trio.fail_after(10):
            assert await anext(events) == PeerDown(b.me)
            assert await anext(events) == PeerUp(b.me)


async def test_wanted_peers_are_bounded() -> None:
    async with open_libp2p(key(1), config(wanted=1)) as a, open_libp2p(key(2), config()) as b:
        await a.connect(b.addresses[0])
        async with open_libp2p(key(3), config()) as c:
            with pytest.raises(TransportError):
                await a.connect(c.addresses[0])


# --- losing


@asynccontextmanager
async def _other_process() -> AsyncIterator[tuple[Any, str]]:
    process = await trio.lowlevel.open_process(
        [sys.executable, str(HERE / "frozen_peer.py")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        with trio.fail_after(30):
            line = b""
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some()
        yield process, line.decode().strip()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdout.aclose()


async def test_a_frozen_peer_is_noticed(attack: Attack) -> None:
    """A stock node did not notice in 45 s."""
    async with _other_process() as (process, address):
        peer = await attack.victim.connect(address)
        stream = await attack.victim.open_stream(peer, "echo")
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        events = attack.victim.events()
        process.send_signal(signal.SIGSTOP)
        with trio.fail_after(15):
            async for event in events:
                if event == PeerDown(peer):
                    break
        await attack.still_serves()
        process.send_signal(signal.SIGCONT)
        with trio.fail_after(20):
            async for event in events:
                if event == PeerUp(peer):
                    break


async def test_a_killed_peer_is_noticed_at_once(attack: Attack) -> None:
    async with _other_process() as (process, address):
        peer = await attack.victim.connect(address)
        events = attack.victim.events()
        process.kill()
        with trio.fail_after(4):  # who waits until it is silent for too long waits six seconds
            async for event in events:
                if event == PeerDown(peer):
                    break
        await attack.still_serves()


async def test_our_own_pause_is_not_taken_for_the_peers() -> None:
    """After a long stall of this process the peers' bytes wait in the sockets: nobody is dropped."""
    async with attack_on(muxer=MuxerLimits(ping_every_s=0.1, dead_after_s=0.5)) as attack:
        events = attack.victim.events()
        for _ in range(3):
            resume_at = time.monotonic() + 1.5
            while time.monotonic() < resume_at:
                pass  # the whole process stands still: that is the test
            await trio.sleep(0.3)
        with trio.move_on_after(1.0):
            async for event in events:
                assert isinstance(event, PeerUp)
        await attack.still_serves()
