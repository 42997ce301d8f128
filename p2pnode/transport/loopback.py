"""A transport whose node can also reach itself, for several roles in one process.

libp2p does not dial its own key. Streams to oneself run in memory, and what the node publishes reaches its own
subscribers, so a router and a miner of one process speak to each other exactly as to anyone else.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence

import trio

from p2pnode.transport.memory_stream import MemoryStream
from p2pnode.transport.seam import (
    FRAME_BYTES_MAX,
    Check,
    Gossip,
    PeerEvent,
    Stream,
    StreamHandler,
    Traffic,
    Transport,
    TransportError,
    Verdict,
)
from protocol.core.ids import NodeId

log = logging.getLogger(__name__)

SEND_S = 10.0
QUEUE_MESSAGES_MAX = 1_024


class Loopback:
    """``inner`` with the node itself among its peers. Tasks that serve local streams run in ``nursery``."""

    def __init__(self, inner: Transport, nursery: trio.Nursery) -> None:
        self._inner = inner
        self._nursery = nursery
        self._handlers: dict[str, tuple[StreamHandler, int]] = {}
        self._local: dict[str, tuple[Check, trio.MemorySendChannel[Gossip]]] = {}

    @property
    def me(self) -> NodeId:
        return self._inner.me

    @property
    def addresses(self) -> Sequence[str]:
        return self._inner.addresses

    async def publish(self, topic: str, data: bytes) -> None:
        self._deliver_locally(topic, data)
        await self._inner.publish(topic, data)

    def _deliver_locally(self, topic: str, data: bytes) -> None:
        if topic not in self._local:
            return
        check, channel = self._local[topic]
        if check(self.me, self.me, data) is Verdict.ACCEPT:
            try:
                channel.send_nowait(Gossip(topic, self.me, self.me, data))
            except (trio.WouldBlock, trio.BrokenResourceError):
                # The subscriber is behind, or gone; gossip promises delivery to nobody.
                return

    async def subscribe(self, topic: str, check: Check) -> trio.MemoryReceiveChannel[Gossip]:
        remote = await self._inner.subscribe(topic, check)
        merged, received = trio.open_memory_channel[Gossip](QUEUE_MESSAGES_MAX)
        self._local[topic] = (check, merged)
        self._nursery.start_soon(_forward, remote, merged)
        return received

    def handle(self, protocol: str, handler: StreamHandler, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._handlers[protocol] = (handler, frame_bytes_max)
        self._inner.handle(protocol, handler, frame_bytes_max=frame_bytes_max)

    async def open_stream(
        self, peer: NodeId, protocol: str, *, timeout_ms: int = 5_000, frame_bytes_max: int = FRAME_BYTES_MAX
    ) -> Stream:
        if peer != self.me:
            return await self._inner.open_stream(peer, protocol, timeout_ms=timeout_ms, frame_bytes_max=frame_bytes_max)
        if protocol not in self._handlers:
            raise TransportError(f"this node does not speak {protocol}", code="transport/protocol-not-spoken")
        handler, inbound_bytes_max = self._handlers[protocol]
        ours = MemoryStream(self.me, self.me, frame_bytes_max, SEND_S, _at_once)
        theirs = MemoryStream(self.me, self.me, inbound_bytes_max, SEND_S, _at_once)
        ours.twin, theirs.twin = theirs, ours
        self._nursery.start_soon(_serve, handler, theirs)
        return ours

    async def connect(self, address: str, *, timeout_ms: int = 10_000) -> NodeId:
        return await self._inner.connect(address, timeout_ms=timeout_ms)

    async def disconnect(self, peer: NodeId) -> None:
        await self._inner.disconnect(peer)

    def learn(self, peer: NodeId, addresses: Sequence[str]) -> None:
        if peer != self.me:
            self._inner.learn(peer, addresses)

    def peers(self) -> frozenset[NodeId]:
        return self._inner.peers()

    def events(self) -> AsyncIterator[PeerEvent]:
        return self._inner.events()

    def traffic(self) -> Traffic:
        return self._inner.traffic()


def _at_once(_sender: NodeId, _size: int, arrival: Callable[[], None]) -> None:
    arrival()


async def _serve(handler: StreamHandler, stream: MemoryStream) -> None:
    try:
        await handler(stream)
    except TransportError as error:
        log.debug("a local stream: %s", error)
        stream.fail()
    except Exception:
        log.exception("bug: a handler of local streams raised")
        stream.fail()
    finally:
        with trio.CancelScope(shield=True):
            await stream.close()


async def _forward(remote: trio.MemoryReceiveChannel[Gossip], merged: trio.MemorySendChannel[Gossip]) -> None:
    async for item in remote:
        await merged.send(item)
