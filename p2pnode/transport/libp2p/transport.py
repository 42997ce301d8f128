"""The seam over libp2p: opens a node of the mesh and closes it without leaving a task, thread or socket behind."""

import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from libp2p.tools.anyio_service import background_trio_service
from trio_typing import TaskStatus

from p2pnode.identity import NodeKey, node_id_of_peer_id
from p2pnode.transport.address import Address, parse_address
from p2pnode.transport.address_book import AddressBook
from p2pnode.transport.holdings import Holdings
from p2pnode.transport.libp2p import hardening
from p2pnode.transport.libp2p.config import Libp2pConfig
from p2pnode.transport.libp2p.dialer import Dialer
from p2pnode.transport.libp2p.framed import FramedStream
from p2pnode.transport.libp2p.host import UNNAMED, build_host
from p2pnode.transport.libp2p.inbound import InboundStreams
from p2pnode.transport.libp2p.links import Links
from p2pnode.transport.libp2p.listener import Listener
from p2pnode.transport.libp2p.mdns import mdns
from p2pnode.transport.libp2p.muxed_stream import MuxedStream
from p2pnode.transport.libp2p.muxer import Muxer
from p2pnode.transport.libp2p.negotiation import propose
from p2pnode.transport.libp2p.pubsub import NodeGossipSub, NodePubsub
from p2pnode.transport.seam import (
    FRAME_BYTES_MAX,
    Check,
    Gossip,
    PeerEvent,
    PeerUnreachable,
    Stream,
    StreamHandler,
    StreamTimeout,
    Traffic,
    TransportError,
    WrongPeer,
)
from p2pnode.transport.topics import Topics
from p2pnode.transport.unwrap import unwrapped
from protocol.core.ids import NodeId, short

log = logging.getLogger(__name__)

_BOOK_SAVE_S = 30.0


class Libp2pTransport:
    """A started node. Made by :func:`open_libp2p`."""

    def __init__(
        self, key: NodeKey, config: Libp2pConfig, nursery: trio.Nursery, outreach: trio.Nursery, rng: random.Random
    ) -> None:
        self._key, self._config = key, config
        self.book = AddressBook(config.book_path)
        self.links = Links(total_max=config.connections, per_peer_max=config.connections_per_peer)
        self.unfinished = Holdings[MuxedStream](
            total_max=config.unfinished_bytes,
            per_peer_max=config.unfinished_bytes_per_peer,
            drop=MuxedStream.abort,
        )
        self.inbound = InboundStreams(config, self.unfinished)
        self.listener = Listener(config, self._upgrade_inbound)
        self.topics = Topics(config.topic_rates, config.topic_rate_default, config.allow, config.publish_wait_s)
        host, swarm = build_host(
            key, config, self.links, on_stream=self.inbound.on_stream, addresses=lambda: self.addresses
        )
        self.host: BasicHost = host
        self._swarm: Swarm = swarm
        self.inbound.host = host
        self.inbound.nursery = nursery
        self.router = NodeGossipSub()
        self.pubsub = NodePubsub(host, self.router, topics=self.topics, connection_of=self._connection_of)
        self.links.on_lost = self.pubsub.connection_lost
        self.dialer = Dialer(key.node_id, config, self.book, self.links, self._upgrade_outbound, nursery, outreach, rng)

    # --- the seam

    @property
    def me(self) -> NodeId:
        return self._key.node_id

    @property
    def addresses(self) -> Sequence[str]:
        own = self._config.announce or tuple(str(address) for address in self.listener.addresses)
        return tuple(f"{address}/p2p/{self._key.peer_id}" for address in own)

    async def publish(self, topic: str, data: bytes) -> None:
        await self.topics.pace(topic, data)
        await self.pubsub.publish(topic, data)

    async def subscribe(self, topic: str, check: Check) -> trio.MemoryReceiveChannel[Gossip]:
        channel = self.topics.join(topic, check)
        await self.pubsub.subscribe(topic)
        return channel

    def handle(self, protocol: str, handler: StreamHandler, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.inbound.serve(_protocol_id(protocol), handler, frame_bytes_max)

    async def open_stream(
        self, peer: NodeId, protocol: str, *, timeout_ms: int = 5_000, frame_bytes_max: int = FRAME_BYTES_MAX
    ) -> Stream:
        with trio.move_on_after(timeout_ms / 1000):
            muxer = self.links.best(peer)
            if muxer is None:
                await self.dialer.reach(peer, self.book.addresses(peer))
                muxer = self.links.best(peer)
            if muxer is None:
                raise PeerUnreachable(f"the connection to {short(peer)} was lost at once", hint="try again")
            return await self._open_on(muxer, peer, protocol, frame_bytes_max)
        raise StreamTimeout(f"no {protocol} stream to {short(peer)} within {timeout_ms} ms")

    async def _open_on(self, muxer: Muxer, peer: NodeId, protocol: str, frame_bytes_max: int) -> Stream:
        try:
            stream = muxer.open_stream_now()
        except MuxedConnUnavailable as error:
            raise PeerUnreachable(f"the connection to {short(peer)} is closing", hint="try again") from error
        try:
            await propose(stream, _protocol_id(protocol))
        except MuxedStreamError as error:
            raise PeerUnreachable(f"{short(peer)} refused the stream or was lost", hint="try again later") from error
        except BaseException:
            stream.abort()
            raise
        return FramedStream(stream, peer, frame_bytes_max, self._config, self.unfinished, inbound=False)

    async def connect(self, address: str, *, timeout_ms: int = 10_000) -> NodeId:
        parsed = _parse(address)
        peer = parsed.node_id
        if parsed not in self.book.addresses(peer):
            self.book.worked(peer, parsed)
        with trio.move_on_after(timeout_ms / 1000):
            await self.dialer.reach(peer, [parsed])
            self.dialer.want(peer, parsed)
            return peer
        raise PeerUnreachable(f"{address} did not answer within {timeout_ms} ms")

    async def disconnect(self, peer: NodeId) -> None:
        self.dialer.unwant(peer)
        async with trio.open_nursery() as nursery:
            for muxer in self.links.of(peer):
                nursery.start_soon(muxer.close)

    def learn(self, peer: NodeId, addresses: Sequence[str]) -> None:
        if peer != self.me:
            self.book.learn(peer, addresses)

    def peers(self) -> frozenset[NodeId]:
        return frozenset(self.links.events.up)

    def events(self) -> AsyncIterator[PeerEvent]:
        return self.links.events.listen()

    def traffic(self) -> Traffic:
        return Traffic(
            connections=len(self.links),
            streams=len(self.inbound),
            held_bytes=self.unfinished.total,
            connections_refused=self.listener.refused,
            streams_refused=self.inbound.refused,
            streams_dropped=self.unfinished.dropped,
            gossip_unsent=self.pubsub.unsent,
            gossip=self.topics.counted(),
        )

    # --- connections

    def _connection_of(self, peer_id: ID) -> Muxer | None:
        return self.links.best(node_id_of_peer_id(peer_id.to_bytes()))

    async def _upgrade_inbound(self, raw: RawConnection) -> Muxer:
        muxer = await self._swarm.upgrade_inbound_raw_conn(raw, UNNAMED)
        assert isinstance(muxer, Muxer)
        return muxer

    async def _upgrade_outbound(self, raw: RawConnection, peer_id: str) -> Muxer:
        try:
            conn = await self._swarm.upgrade_outbound_raw_conn(raw, ID.from_base58(peer_id))
        except Exception as error:
            if _was_wrong_peer(error):
                raise WrongPeer(f"another key than {peer_id}'s answered; correct the address or its peer id") from error
            raise
        assert isinstance(conn.muxed_conn, Muxer)
        return conn.muxed_conn

    async def save_book(self) -> None:
        """For ever: write the address book when it changed."""
        while True:
            await trio.sleep(_BOOK_SAVE_S)
            await trio.to_thread.run_sync(self.book.save)

    async def discover(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever: announce this node on the local network, and learn of others there."""
        async with mdns(self._key.peer_id, self.listener.addresses, self.learn):
            task_status.started()
            await trio.sleep_forever()

    async def close_connections(self) -> None:
        """Send what is queued and end every connection."""
        async with trio.open_nursery() as nursery:
            for muxer in self.links.all():
                nursery.start_soon(muxer.close)


@asynccontextmanager
async def open_libp2p(
    key: NodeKey, config: Libp2pConfig | None = None, *, rng: random.Random | None = None
) -> AsyncIterator[Libp2pTransport]:
    """Open a node of the mesh with this key; it is closed when the block is left.

    ``rng`` spreads back-offs. Raises TransportError if an address cannot be listened on, or libp2p is another version.
    """
    hardening.check_version()
    hardening.tame_logging()
    failure: BaseException | None = None
    with unwrapped():
        async with _open(key, config or Libp2pConfig(), rng or random.Random()) as transport:
            try:
                yield transport
            except trio.Cancelled:
                raise
            except BaseException as error:
                # libp2p's services swallow what passes through them: it goes round them.
                failure = error
    if failure is not None:
        raise failure


@asynccontextmanager
async def _open(key: NodeKey, config: Libp2pConfig, rng: random.Random) -> AsyncIterator[Libp2pTransport]:
    # Connections and streams live in the one nursery, what makes new ones in the other: it stops first.
    async with trio.open_nursery() as nursery, trio.open_nursery() as outreach:
        transport = Libp2pTransport(key, config, nursery, outreach, rng)
        for address in config.bootstrap:
            transport.book.learn(_parse(address).node_id, [address])
        async with (
            transport.host.run([]),
            background_trio_service(transport.pubsub),
            background_trio_service(transport.router),
        ):
            await transport.pubsub.wait_until_ready()
            await transport.listener.start(accept_in=outreach, serve_in=nursery)
            for address in config.bootstrap:
                transport.dialer.want(_parse(address).node_id, _parse(address))
            outreach.start_soon(transport.dialer.hold_degree)
            outreach.start_soon(transport.save_book)
            if config.mdns:
                await outreach.start(transport.discover)
            try:
                yield transport
            finally:
                outreach.cancel_scope.cancel()
                with trio.CancelScope(shield=True), trio.move_on_after(3.0):
                    await _close(transport)
        nursery.cancel_scope.cancel()


async def _close(transport: Libp2pTransport) -> None:
    transport.inbound.nursery = None
    await transport.close_connections()
    await transport.host.close()
    transport.topics.close()
    transport.links.events.close()
    transport.book.save()


def _protocol_id(protocol: str) -> str:
    return f"/p2pnode/{protocol}/1"


def _parse(address: str) -> Address:
    try:
        parsed = parse_address(address)
        _ = parsed.node_id
    except ValueError as error:
        raise TransportError(str(error), code="transport/address") from error
    return parsed


def _was_wrong_peer(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, PeerIDMismatchesPubkey) or "Peer ID mismatch" in str(error):
            return True
        error = error.__cause__
    return False
