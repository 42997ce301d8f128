"""One attack, in a process of its own: ``python -m tests.runtime.adversaries.attacker NAME ADDRESS [ADDRESS …]``.

Says "under way" and goes on until it is killed. What it sends is as valid as the attack allows, and as much as it can.
"""

import os
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count, cycle

import trio
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError

from p2pnode.address import RouterAddress, parse_router_address
from p2pnode.config import load_config
from p2pnode.identity import NodeKey
from p2pnode.transport.libp2p import Libp2pConfig, Libp2pTransport, open_libp2p
from p2pnode.transport.libp2p.muxed_stream import MuxedStream
from p2pnode.transport.libp2p.negotiation import propose
from p2pnode.transport.seam import TransportError
from protocol.core.codec import Message, encode
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.messages.adverts import Advert, ModelManifest, ModelOffer, ProbeRequest
from protocol.messages.envelope import seal
from protocol.messages.sessions import Announcement

MESHSUB = "/meshsub/1.1.0"
KEYS = 100
CONNECTIONS = 4
SIGNING_PREFIX = b"libp2p-pubsub:"
TOLD = 40
"""Adverts in the book before it is asked for, over and over."""


class Mallory:
    """The attacker: some connections to the router, and below the seam on each."""

    def __init__(self, targets: Sequence[RouterAddress], genesis: Genesis) -> None:
        self.targets, self.genesis = [target.multiaddr for target in targets], genesis
        self.keys = [NodeKey.generate() for _ in range(KEYS)]
        self.pairs = [create_new_key_pair(key.secret) for key in self.keys]
        self.ids = [ID.from_pubkey(pair.public_key).to_bytes() for pair in self.pairs]
        self.seqno = count(time.time_ns())

    @property
    def place(self) -> tuple[str, int]:
        """Host and port of the router."""
        parts = self.targets[0].split("/")
        return parts[2], int(parts[4])

    @asynccontextmanager
    async def node(self, target: int, key: NodeKey | None = None) -> AsyncIterator[tuple[Libp2pTransport, NodeId]]:
        """A connection to a target, by a fresh key unless one is given."""
        async with open_libp2p(key or NodeKey.generate(), Libp2pConfig(listen=())) as node:
            yield node, await node.connect(self.targets[target % len(self.targets)])

    def publication(self, author: int, topic: str, data: bytes, seqno: int | None = None) -> bytes:
        """A pubsub RPC with one message, signed by one of the keys."""
        message = rpc_pb2.Message(
            data=data,
            topicIDs=[self.genesis.topic(topic)],
            from_id=self.ids[author],
            seqno=(next(self.seqno) if seqno is None else seqno).to_bytes(8, "big"),
        )
        message.signature = self.pairs[author].private_key.sign(SIGNING_PREFIX + message.SerializeToString())
        body = rpc_pb2.RPC(publish=[message]).SerializeToString()
        return _varint(len(body)) + body

    def sealed(self, author: int, message: Message) -> bytes:
        """A protocol message, signed by one of the keys."""
        return encode(seal(self.genesis.domain(), self.keys[author].sign, message))

    def says(self, author: int, topic: str, message: Message) -> bytes:
        """Both: what a node of this network publishes."""
        return self.publication(author, topic, self.sealed(author, message))

    def advert(self, author: int, issued_ms: int, size: int = 0) -> Advert:
        """A node that does not exist and offers models that do not either."""
        offers = tuple(
            ModelOffer(ModelManifest("x" * 64, os.urandom(32), 1, "x" * 64, "x" * 64, 4_096), 1, 4_096, 0)
            for _ in range(size)
        )
        addresses = tuple("x" * 256 for _ in range(size // 2))
        return Advert(self.keys[author].node_id, issued_ms, ("miner",), addresses, offers, "")

    def announcement(self, author: int, issued_ms: int) -> Announcement:
        """A session that nobody opened."""
        return Announcement(
            session=os.urandom(32),
            router=self.keys[author].node_id,
            addresses=(),
            model=os.urandom(32),
            lanes=1,
            price_cap_wei=10**15,
            pool=1,
            widening=0,
            issued_ms=issued_ms,
        )


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def now_ms() -> int:
    """The attacker's clock is right."""
    return time.time_ns() // 1_000_000


async def raw_stream(node: Libp2pTransport, router: NodeId, *protocols: str) -> MuxedStream:
    """A stream with nothing of ours on it."""
    muxer = node.links.best(router)
    if muxer is None:
        raise MuxedConnUnavailable("the router hung up")
    stream = muxer.open_stream_now()
    if protocols:
        await propose(stream, *protocols)
    return stream


Attack = Callable[[Mallory], Awaitable[None]]
ATTACKS: dict[str, Attack] = {}


def attack(act: Attack) -> Attack:
    """Register an attack under its function's name."""
    ATTACKS[act.__name__] = act
    return act


def under_way() -> None:
    """Tell who started the attacker."""
    sys.stdout.write("under way\n")
    sys.stdout.flush()


async def on_each_connection(
    mallory: Mallory, act: Callable[[Libp2pTransport, NodeId], Awaitable[None]], connections: int = CONNECTIONS
) -> None:
    """Act for ever on some connections, each of a fresh key; one that is lost is made anew."""

    async def one(number: int) -> None:
        while True:
            with suppress(TransportError, MuxedStreamError, MuxedConnUnavailable, OSError):
                async with mallory.node(number) as (node, router):
                    while True:
                        await act(node, router)
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        for number in range(connections):
            nursery.start_soon(one, number)
        await trio.sleep(0.5)
        under_way()


async def _gossip(mallory: Mallory, publications: Iterator[bytes]) -> None:
    """Publish for ever, as fast as the router reads."""

    async def pour(node: Libp2pTransport, router: NodeId) -> None:
        stream = await raw_stream(node, router, MESHSUB)
        while True:
            await stream.write(b"".join(next(publications) for _ in range(16)))

    await on_each_connection(mallory, pour)


@attack
async def valid_signatures(mallory: Mallory) -> None:
    """A hundred fresh keys advertise themselves and announce sessions: nothing about it is wrong but its amount."""

    def publications() -> Iterator[bytes]:
        for author in cycle(range(KEYS)):
            yield mallory.says(author, "sessions", mallory.announcement(author, now_ms()))
            yield mallory.says(author, "nodes", mallory.advert(author, now_ms(), 4))

    await _gossip(mallory, publications())


@attack
async def replayed_and_future(mallory: Mallory) -> None:
    """The same valid messages over and over, as they are and newly published, and others dated far ahead."""
    fresh = [mallory.sealed(n, mallory.announcement(n, now_ms())) for n in range(KEYS)]
    again = [mallory.publication(n, "sessions", fresh[n]) for n in range(KEYS)]

    def publications() -> Iterator[bytes]:
        for author in cycle(range(KEYS)):
            ahead_ms = now_ms() + 3_600_000
            yield again[author]
            yield mallory.publication(author, "sessions", fresh[author])
            yield mallory.says(author, "sessions", mallory.announcement(author, ahead_ms))
            yield mallory.says(author, "nodes", mallory.advert(author, ahead_ms))

    await _gossip(mallory, publications())


@attack
async def malformed_frames(mallory: Mallory) -> None:
    """Frames on every protocol that are no messages: noise, unknown kinds, trailing bytes, a message out of place."""
    good = encode(mallory.advert(0, now_ms()))
    frames = [os.urandom(64), b"", b"\xdd" + b"\xff" * 16, b"\x91\xcd\xff\xff", good + b"\x00", good, b"\x93" * 5_000]
    protocols = cycle(("client", "bid", "task", "probe"))

    async def spoil(node: Libp2pTransport, router: NodeId) -> None:
        for frame in frames:
            with suppress(TransportError):
                stream = await node.open_stream(router, next(protocols))
                await stream.send(frame)
                await stream.reset()

    await on_each_connection(mallory, spoil)


@attack
async def oversize_messages(mallory: Mallory) -> None:
    """Frames and gossip beyond every limit, announced or sent."""
    gossip = mallory.publication(0, "nodes", bytes(64_000))

    async def swell(node: Libp2pTransport, router: NodeId) -> None:
        for announced in (1 << 20, (1 << 20) + 1, 1 << 31, (1 << 32) - 1):
            stream = await raw_stream(node, router, "/p2pnode/client/1")
            with suppress(MuxedStreamError), trio.move_on_after(1):
                await stream.write(struct.pack("!I", announced) + bytes(4 << 20))
            stream.abort()
        stream = await raw_stream(node, router, MESHSUB)
        with suppress(MuxedStreamError):
            await stream.write(gossip * 8)
            await stream.write(b"\xff\xff\xff\x7f" + bytes(1_000))
        stream.abort()

    await on_each_connection(mallory, swell)


@attack
async def unfinished_frames(mallory: Mallory) -> None:
    """A megabyte is announced on each of many streams, and all of it sent but its last byte."""

    async def begin(node: Libp2pTransport, router: NodeId) -> None:
        async def one() -> None:
            with suppress(MuxedStreamError, TransportError, MuxedConnUnavailable):
                stream = await raw_stream(node, router, "/p2pnode/client/1")
                await stream.write(struct.pack("!I", 1 << 20) + bytes((1 << 20) - 1))
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(one)
                await trio.sleep(0.005)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()

    await on_each_connection(mallory, begin)


@attack
async def raw_garbage(mallory: Mallory) -> None:
    """Noise on plain sockets, one after the other."""
    heads = cycle((b"", b"\x13/multistream/1.0.0\n", b"\x13/multistream/1.0.0\n\x07/noise\n", b"GET / HTTP/1.1\r\n"))

    async def one() -> None:
        while True:
            with suppress(OSError, trio.BrokenResourceError):
                async with await trio.open_tcp_stream(*mallory.place) as stream:
                    await stream.send_all(next(heads) + os.urandom(2_000))
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(one)
        under_way()


async def _hold_sockets(mallory: Mallory, head: bytes, at_once: int) -> None:
    async def one() -> None:
        while True:
            with suppress(OSError, trio.BrokenResourceError):
                async with await trio.open_tcp_stream(*mallory.place) as stream:
                    await stream.send_all(head)
                    while await stream.receive_some():
                        pass
            await trio.sleep(0.2)

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(one)
            await trio.lowlevel.checkpoint()
        await trio.sleep(0.5)
        under_way()


@attack
async def half_handshakes(mallory: Mallory) -> None:
    """More connections than the router has room for, each of which stops in the middle of its handshake."""
    await _hold_sockets(mallory, b"\x13/multistream/1.0.0\n\x07/noise\n", 300)


@attack
async def silent_sockets(mallory: Mallory) -> None:
    """More connections than the router has room for, none of which says a word."""
    await _hold_sockets(mallory, b"", 300)


@attack
async def streams_without_close(mallory: Mallory) -> None:
    """Streams of every protocol are opened and left alone."""
    protocols = cycle(("client", "bid", "task", "probe"))

    async def open_some(node: Libp2pTransport, router: NodeId) -> None:
        with suppress(TransportError, MuxedStreamError):
            await raw_stream(node, router, f"/p2pnode/{next(protocols)}/1")
        await trio.sleep(0.005)

    await on_each_connection(mallory, open_some)


@attack
async def slow_readers(mallory: Mallory) -> None:
    """Over many connections the largest answers there are, asked for on many streams each, and none of them read."""
    question = encode(ProbeRequest(mallory.genesis.network_id(), b""))

    async def fill(author: int) -> None:
        """The book of a target, so that there is much to ask for; each key tells its own advert."""
        mine = seal(mallory.genesis.domain(), mallory.keys[author].sign, mallory.advert(author, now_ms(), 16))
        async with mallory.node(author, mallory.keys[author]) as (node, target):
            stream = await node.open_stream(target, "probe")
            await stream.send(encode(ProbeRequest(mallory.genesis.network_id(), b"", mine)))
            await stream.receive()
            await stream.close()

    async def ask(node: Libp2pTransport, target: NodeId) -> None:
        muxer = node.links.best(target)
        assert muxer is not None
        streams = [await raw_stream(node, target, "/p2pnode/probe/1") for _ in range(20)]

        async def read_nothing() -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        muxer.records.read = read_nothing  # type: ignore[method-assign]
        for stream in streams:
            with suppress(MuxedStreamError):
                await stream.write(struct.pack("!I", len(question)) + question)
        await muxer.event_closed.wait()

    for author in range(TOLD):
        await fill(author)
    await on_each_connection(mallory, ask, connections=24)


async def _main(name: str, targets: Sequence[str]) -> None:
    addresses = [parse_router_address(target) for target in targets]
    await ATTACKS[name](Mallory(addresses, load_config(None).genesis()))
    await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], sys.argv[2:])
