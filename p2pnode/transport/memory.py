"""The seam without a network: any number of nodes in one process, on trio's clock, virtual or not.

Every link has a latency and may have a bandwidth, be cut (silence, as from a pulled cable: noticed after a while)
or dropped (a connection reset: noticed at once). What reaches a node does so in one order, by time and then by when
it was sent, so that with a virtual clock and trio's deterministic scheduling a run repeats exactly.
"""

import itertools
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from p2pnode.identity import NodeKey
from p2pnode.transport.memory_node import MemoryTransport
from p2pnode.transport.memory_stream import MemoryStream
from p2pnode.transport.seam import TransportError
from p2pnode.transport.topics import Topics
from p2pnode.transport.unwrap import unwrapped
from protocol.core.ids import NodeId, short

SILENCE_S = 6.0
"""How long a connection over a cut link still looks alive."""


@dataclass(slots=True)
class Link:
    """What two nodes share: the state of the cable between them, and their connection if they have one."""

    latency_s: float
    bytes_per_s: float | None = None
    cut: bool = False
    connected: bool = False
    streams: list[MemoryStream] = field(default_factory=list)
    held: list[Callable[[], None]] = field(default_factory=list)
    arrives_at: dict[NodeId, float] = field(default_factory=dict)
    """Per sender, when its latest piece arrives: the next one comes later."""


class MemoryNetwork:
    """The cables. ``seed`` drives everything random in it: the spread of back-offs."""

    def __init__(self, *, seed: int = 0, latency_ms: float = 1.0) -> None:
        self.latency_s = latency_ms / 1000
        self._links: dict[frozenset[NodeId], Link] = {}
        self._ports = itertools.count(1)
        self.rng = random.Random(seed)
        self.order = itertools.count()
        self.nodes: dict[NodeId, MemoryTransport] = {}

    @asynccontextmanager
    async def open(
        self,
        key: NodeKey | NodeId,
        *,
        topic_rates: Mapping[str, float] | None = None,
        topic_rate_default: float = 20.0,
        allow: Callable[[NodeId], bool] | None = None,
        send_s: float = 10.0,
        port: int | None = None,
    ) -> AsyncIterator[MemoryTransport]:
        """A started node, on a port of its own or one that it had before; its connections go with the block."""
        me, peer_id = (key.node_id, key.peer_id) if isinstance(key, NodeKey) else (key, key.hex())
        if me in self.nodes:
            raise TransportError(f"{short(me)} is in this network already")
        topics = Topics(topic_rates or {}, topic_rate_default, allow)
        address = f"/memory/{port if port is not None else next(self._ports)}/p2p/{peer_id}"
        with unwrapped():
            async with trio.open_nursery() as nursery:
                node = self.nodes[me] = MemoryTransport(self, me, address, topics, nursery, send_s)
                nursery.start_soon(node.run)
                try:
                    yield node
                finally:
                    del self.nodes[me]
                    node.close()
                    nursery.cancel_scope.cancel()

    # --- faults

    def link(self, a: NodeId, b: NodeId) -> Link:
        """The cable between two nodes."""
        return self._links.setdefault(frozenset((a, b)), Link(self.latency_s))

    def set_link(self, a: NodeId, b: NodeId, *, latency_ms: float, bytes_per_s: float | None = None) -> None:
        """Make a link slow, from now on."""
        link = self.link(a, b)
        link.latency_s, link.bytes_per_s = latency_ms / 1000, bytes_per_s

    def drop(self, a: NodeId, b: NodeId) -> None:
        """Reset the connection between two nodes; they may connect again at once."""
        link = self.link(a, b)
        if not link.connected:
            return
        link.connected = False
        link.held.clear()
        link.arrives_at.clear()
        for stream in link.streams:
            stream.fail()
        link.streams.clear()
        for one, other in ((a, b), (b, a)):
            if one in self.nodes:
                self.nodes[one].peer_events.remove(other)

    def cut(self, a: NodeId, b: NodeId) -> None:
        """Pull the cable: nothing arrives, new connections fail, the old one is lost after ``SILENCE_S``."""
        link = self.link(a, b)
        if link.cut:
            return
        link.cut = True
        for one in (a, b):
            if one in self.nodes:
                self.nodes[one].at(SILENCE_S, lambda: self.drop(a, b) if link.cut else None)
                return

    def heal(self, a: NodeId, b: NodeId) -> None:
        """Plug the cable in again; what was under way arrives now."""
        link = self.link(a, b)
        link.cut = False
        held, link.held = link.held, []
        for arrival in held:
            arrival()

    def partition(self, *groups: Sequence[NodeId]) -> None:
        """Cut every link between nodes of different groups, and heal every other."""
        for one, other in itertools.combinations(groups, 2):
            for a, b in itertools.product(one, other):
                self.cut(a, b)
        for group in groups:
            for a, b in itertools.combinations(group, 2):
                self.heal(a, b)

    # --- carrying

    def carry(self, sender: NodeId, receiver: NodeId, size: int, arrival: Callable[[], None]) -> None:
        """Run ``arrival`` at the receiver when ``size`` bytes have crossed the link, after all sent before."""
        link = self.link(sender, receiver)
        node = self.nodes.get(receiver)
        if node is None or not link.connected:
            return
        now = trio.current_time()
        transfer_s = size / link.bytes_per_s if link.bytes_per_s else 0.0
        lands_at = max(now + link.latency_s, link.arrives_at.get(sender, 0.0)) + transfer_s
        link.arrives_at[sender] = lands_at

        def arrive() -> None:
            if link.cut:
                link.held.append(arrive)
            elif link.connected:
                arrival()

        node.at(lands_at - now, arrive)
