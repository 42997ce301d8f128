"""Gossip: what one node publishes reaches the others by way of each other, each of which checks it first.

Every message is passed on along a tree drawn for it: by its origin or by somebody who had it before, never across a
cut link. It may be lost on the way, come twice, and in any order. A node that takes a message passes it on; one that
rejects it holds that against whoever handed it over.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from p2pnode.sim.streams import LAG_US_MAX
from protocol import gossip
from protocol.core.codec import Message, encode
from protocol.core.ids import NodeId
from protocol.core.machine import GossipReceived

if TYPE_CHECKING:
    from p2pnode.sim.host import Host
    from p2pnode.sim.world import World

GossipCheck = Callable[["Host", str, NodeId, bytes], gossip.Checked]

CHECKED_KEPT = 256


class _Spread:
    """One message on its way."""

    __slots__ = ("children", "data", "origin", "topic")

    def __init__(self, topic: str, origin: NodeId, data: bytes) -> None:
        self.topic = topic
        self.origin = origin
        self.data = data
        self.children: dict[str, list[Host]] = {}
        """Whom each node passes it on to."""


class Spreading:
    """Gossip of a world."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.rng = world.random("gossip")
        domain, params = world.genesis.domain(), world.genesis.params
        # Pure, so all receivers of one message may share the answer, as a driver's two checks do.
        self._checked = lru_cache(CHECKED_KEPT)(partial(gossip.check, domain, params))

    def check(self, _host: "Host", topic: str, origin: NodeId, data: bytes) -> gossip.Checked:
        """What a node decides over a message: the same as every other, in production."""
        return self._checked(topic, origin, data)

    def publish(self, host: "Host", topic: str, message: Message) -> None:
        """A machine of a host publishes."""
        data, world = encode(message), self.world
        for hook in world.watch.published:
            hook(host, topic, message)
        world.trace.add(world.now_us, host.name, f"-> gossip {topic}", message, data)
        spread = _Spread(topic, host.node, data)
        self._draw_tree(spread, host)
        if topic in host.topics:
            self._take(spread, host, host)
        self._pass_on(spread, host)

    def _draw_tree(self, spread: _Spread, host: "Host") -> None:
        network, rng = self.world.network, self.rng
        left = [other for other in self.world.hosts.values() if other.up and other is not host]
        left = [other for other in left if spread.topic in other.topics]
        having, found = [host], True
        while left and found:
            found, cut_off = False, []
            for other in left:
                start = rng.randrange(len(having))
                # Whoever has it, from a random one on, over a link that is not cut.
                turn = (having[(start + step) % len(having)] for step in range(len(having)))
                source = next((one for one in turn if not network.link(one, other).cuts), None)
                if source is None:
                    cut_off.append(other)
                elif not network.link(source, other).loses():
                    spread.children.setdefault(source.name, []).append(other)
                    having.append(other)
                    found = True
            left = cut_off

    def _pass_on(self, spread: _Spread, host: "Host") -> None:
        for other in spread.children.get(host.name, ()):
            link = self.world.network.link(host, other)
            self.world.after(link.delay_us(), partial(self._arrives, spread, host, other))
            if link.repeats():
                again_us = link.delay_us() + self.rng.randrange(LAG_US_MAX)
                self.world.after(again_us, partial(self._take, spread, host, other))

    def _arrives(self, spread: _Spread, forwarder: "Host", host: "Host") -> None:
        # A node that is gone passes nothing on, but others have the message too.
        if not host.up or self._take(spread, forwarder, host):
            self._pass_on(spread, host)

    def _take(self, spread: _Spread, forwarder: "Host", host: "Host") -> bool:
        """Check and hand on to the machines; whether it was accepted."""
        if not host.up:
            return False
        topic, origin = spread.topic, spread.origin
        checked = self.check(host, topic, origin, spread.data)
        for hook in self.world.watch.judged:
            hook(host, forwarder, origin, topic, checked)
        if checked.message is None or checked.envelope is None:
            return False
        event = GossipReceived(topic, origin, checked.message, checked.envelope)
        for drive in host.drives:
            if topic in drive.machine.topics:
                drive.dispatch(event)
        return True
