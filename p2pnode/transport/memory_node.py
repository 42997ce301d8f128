"""One node of a MemoryNetwork: the seam's Transport, with all that reaches the node carried out in order."""

import heapq
import itertools
import logging
import random
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableSequence, Sequence
from typing import Protocol

import trio

from p2pnode.transport.memory_stream import MemoryStream
from p2pnode.transport.peer_events import PeerEvents
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
from protocol.core.ids import NodeId, short

log = logging.getLogger(__name__)

_SEEN_MAX = 65_536
_KNOWN_MAX = 4096
_STREAMS_PER_PEER_MAX = 256


class Cable(Protocol):
    """What a node sees of the link to another."""

    latency_s: float
    cut: bool
    connected: bool

    @property
    def streams(self) -> MutableSequence[MemoryStream]: ...


class Network(Protocol):
    """What a node needs of its network."""

    latency_s: float
    rng: random.Random

    @property
    def order(self) -> "itertools.count[int]": ...
    @property
    def nodes(self) -> Mapping[NodeId, "MemoryTransport"]: ...
    def link(self, a: NodeId, b: NodeId) -> Cable: ...
    def drop(self, a: NodeId, b: NodeId) -> None: ...
    def carry(self, sender: NodeId, receiver: NodeId, size: int, arrival: Callable[[], None]) -> None: ...


class MemoryTransport:
    """A node of a MemoryNetwork. Made by :meth:`MemoryNetwork.open`."""

    def __init__(
        self, network: Network, me: NodeId, address: str, topics: Topics, nursery: trio.Nursery, send_s: float
    ) -> None:
        self.me = me
        self.addresses: Sequence[str] = (address,)
        self.peer_events = PeerEvents()
        self.topics = topics
        self._network, self._nursery, self._send_s = network, nursery, send_s
        self._handlers: dict[str, tuple[StreamHandler, int]] = {}
        self._inbound: Counter[NodeId] = Counter()
        self._known: OrderedDict[NodeId, tuple[str, ...]] = OrderedDict()
        self._wanted: dict[NodeId, trio.CancelScope] = {}
        self._seen: OrderedDict[tuple[NodeId, int], None] = OrderedDict()
        self._sent = itertools.count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._agenda_changed = trio.Event()

    # --- the agenda: all that reaches this node, in order

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run the action in ``delay_s`` seconds; of those due at once, the one put first runs first."""
        heapq.heappush(self._agenda, (trio.current_time() + delay_s, next(self._network.order), action))
        self._agenda_changed.set()

    async def run(self) -> None:
        """Carry out the agenda until cancelled."""
        while True:
            if not self._agenda:
                self._agenda_changed = trio.Event()
                await self._agenda_changed.wait()
            if self._agenda[0][0] <= trio.current_time():
                heapq.heappop(self._agenda)[2]()
                await trio.lowlevel.checkpoint()
                continue
            self._agenda_changed = trio.Event()
            with trio.move_on_at(self._agenda[0][0]):
                await self._agenda_changed.wait()

    def close(self) -> None:
        """Drop every connection."""
        for peer in list(self.peer_events.up):
            self._network.drop(self.me, peer)
            self.peer_events.remove(peer)
        self.topics.close()
        self.peer_events.close()

    # --- gossip

    async def publish(self, topic: str, data: bytes) -> None:
        await self.topics.pace(topic, data)
        number = next(self._sent)
        self._remember((self.me, number))
        self._spread(topic, self.me, number, data, exclude=self.me)
        await trio.lowlevel.checkpoint()

    async def subscribe(self, topic: str, check: Check) -> trio.MemoryReceiveChannel[Gossip]:
        await trio.lowlevel.checkpoint()
        return self.topics.join(topic, check)

    def _spread(self, topic: str, origin: NodeId, number: int, data: bytes, *, exclude: NodeId) -> None:
        for peer in self.peer_events.up:
            node = self._network.nodes.get(peer)
            if node is not None and peer not in (exclude, origin) and node.topics.joined(topic):
                self._hand_over(node, topic, origin, number, data)

    def _hand_over(self, node: "MemoryTransport", topic: str, origin: NodeId, number: int, data: bytes) -> None:
        self._network.carry(
            self.me, node.me, len(data), lambda: node.on_gossip(Gossip(topic, origin, self.me, data), number)
        )

    def on_gossip(self, gossip: Gossip, number: int) -> None:
        """A peer handed over a message."""
        message = (gossip.origin, number)
        speaks = gossip.origin == gossip.forwarder
        if message in self._seen or not self.topics.admit_forwarder(gossip.topic, gossip.forwarder, speaks=speaks):
            return
        self._remember(message)
        if self.topics.judge(gossip):
            self._spread(gossip.topic, gossip.origin, number, gossip.data, exclude=gossip.forwarder)

    def _remember(self, message: tuple[NodeId, int]) -> None:
        self._seen[message] = None
        if len(self._seen) > _SEEN_MAX:
            self._seen.popitem(last=False)

    # --- streams

    def handle(self, protocol: str, handler: StreamHandler, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._handlers[protocol] = (handler, frame_bytes_max)

    async def open_stream(
        self, peer: NodeId, protocol: str, *, timeout_ms: int = 5_000, frame_bytes_max: int = FRAME_BYTES_MAX
    ) -> Stream:
        with trio.move_on_after(timeout_ms / 1000):
            if peer not in self.peer_events.up:
                await self._dial_known(peer)
            return await self._open(peer, protocol, frame_bytes_max)
        raise StreamTimeout(f"no {protocol} stream to {short(peer)} within {timeout_ms} ms")

    async def _open(self, peer: NodeId, protocol: str, frame_bytes_max: int) -> Stream:
        link = self._network.link(self.me, peer)
        ours = MemoryStream(self.me, peer, frame_bytes_max, self._send_s, self._carrier(peer))
        answered = trio.Event()
        accepted = False

        def ask() -> None:
            nonlocal accepted
            node = self._network.nodes.get(peer)
            accepted = node is not None and node._accept(protocol, ours)
            if accepted:
                link.streams.append(ours)
            self._network.carry(peer, self.me, 64, answered.set)

        self._network.carry(self.me, peer, 64, ask)
        while not answered.is_set():
            if peer not in self.peer_events.up:
                raise PeerUnreachable(f"the connection to {short(peer)} was lost; try again")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_then_cancel, answered.wait, nursery.cancel_scope)
                nursery.start_soon(_then_cancel, self.peer_events.changed, nursery.cancel_scope)
        if not accepted:
            raise TransportError(
                f"{short(peer)} does not speak {protocol}, or has no room", code="transport/protocol-not-spoken"
            )
        return ours

    def _carrier(self, peer: NodeId) -> Callable[[NodeId, int, Callable[[], None]], None]:
        def carry(sender: NodeId, size: int, arrival: Callable[[], None]) -> None:
            receiver = peer if sender == self.me else self.me
            self._network.carry(sender, receiver, size, arrival)

        return carry

    def _accept(self, protocol: str, theirs: MemoryStream) -> bool:
        if protocol not in self._handlers or self._inbound[theirs.me] >= _STREAMS_PER_PEER_MAX:
            return False
        handler, frame_bytes_max = self._handlers[protocol]
        ours = MemoryStream(self.me, theirs.me, frame_bytes_max, self._send_s, theirs.carry)
        ours.twin, theirs.twin = theirs, ours
        self._inbound[theirs.me] += 1
        self._nursery.start_soon(self._serve, protocol, handler, ours)
        return True

    async def _serve(self, protocol: str, handler: StreamHandler, stream: MemoryStream) -> None:
        try:
            await handler(stream)
        except TransportError as error:
            log.debug("%s with %s: %s", protocol, short(stream.peer), error)
            stream.fail()
        except Exception:
            log.exception("bug: the handler of %s raised", protocol)
            stream.fail()
        finally:
            self._inbound[stream.peer] -= 1
            with trio.CancelScope(shield=True):
                await stream.close()

    # --- connections

    async def connect(self, address: str, *, timeout_ms: int = 10_000) -> NodeId:
        target, named = self._network_lookup(address)
        peer = await self._dial(target, named, address, timeout_ms / 1000)
        self.learn(peer, [address])
        if peer not in self._wanted:
            scope = self._wanted[peer] = trio.CancelScope()
            self._nursery.start_soon(self._keep, peer, scope)
        return peer

    def _network_lookup(self, address: str) -> tuple["MemoryTransport | None", str]:
        parts = address.split("/")
        if len(parts) != 5 or parts[1] != "memory" or parts[3] != "p2p":
            raise TransportError(f"{address!r} is not of the form /memory/N/p2p/ID", code="transport/address")
        prefix = f"/memory/{parts[2]}/p2p/"
        nodes = self._network.nodes.values()
        return next((node for node in nodes if node.addresses[0].startswith(prefix)), None), parts[4]

    async def _dial(self, target: "MemoryTransport | None", named: str, address: str, timeout_s: float) -> NodeId:
        if target is None:
            await trio.sleep(self._network.latency_s)
            raise PeerUnreachable(f"nobody listens at {address}")
        link = self._network.link(self.me, target.me)
        if link.cut:
            await trio.sleep(timeout_s)
            raise PeerUnreachable(f"{address} did not answer within {timeout_s:g} s")
        await trio.sleep(4 * link.latency_s)
        if not target.addresses[0].endswith(f"/{named}"):
            raise WrongPeer(f"another key than {named}'s answered at {address}; correct the address")
        if link.cut or target.me not in self._network.nodes or target.me == self.me:
            raise PeerUnreachable(f"{address} did not answer")
        if not link.connected:
            link.connected = True
            self.peer_events.add(target.me)
            target.peer_events.add(self.me)
        return target.me

    async def _dial_known(self, peer: NodeId) -> None:
        for address in self._known.get(peer, ()):
            target, named = self._network_lookup(address)
            await self._dial(target, named, address, 10.0)
            return
        raise PeerUnreachable(f"no address of {short(peer)} is known; connect to one or learn it from a peer")

    async def _keep(self, peer: NodeId, scope: trio.CancelScope) -> None:
        with scope:
            failures = 0
            while True:
                while peer in self.peer_events.up:
                    await self.peer_events.changed()
                await trio.sleep(min(60.0, 0.5 * 2.0**failures) * self._network.rng.uniform(0.75, 1.25))
                try:
                    if peer not in self.peer_events.up:
                        await self._dial_known(peer)
                    failures = 0
                except TransportError:
                    failures = min(failures + 1, 10)

    async def disconnect(self, peer: NodeId) -> None:
        scope = self._wanted.pop(peer, None)
        if scope is not None:
            scope.cancel()
        self._network.drop(self.me, peer)
        await trio.lowlevel.checkpoint()

    def learn(self, peer: NodeId, addresses: Sequence[str]) -> None:
        kept = tuple(address for address in addresses if address.startswith("/memory/"))[:8]
        if kept and peer != self.me:
            self._known[peer] = kept
            self._known.move_to_end(peer)
            if len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)

    def peers(self) -> frozenset[NodeId]:
        return frozenset(self.peer_events.up)

    def events(self) -> AsyncIterator[PeerEvent]:
        return self.peer_events.listen()

    def traffic(self) -> Traffic:
        return Traffic(
            connections=len(self.peer_events.up), streams=self._inbound.total(), gossip=self.topics.counted()
        )


async def _then_cancel(wait: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()
