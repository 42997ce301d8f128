"""Gossip of thousands of nodes, counted as gossipsub carries it: what is published, passed on, and in vain.

**The model.** The nodes that follow a topic form a mesh. Each joined it by links to four that were there before (what
a node dials, ``Libp2pConfig.degree``) and holds at most twelve (``NodeGossipSub``), so a large mesh has eight links a
node. Whoever takes a message for the first time checks it and passes it on over all of its links but the one it came
over and one to the author; all that comes again is dropped. So a message is carried about ``links - (n - 1)`` times
where ``links`` counts each link at both ends: to each node once for good and, at eight links, six times in vain. Who
publishes without following the topic hands the message to six members.

That is what py-libp2p 0.8.1 does as this program runs it: ``tests/runtime/test_gossip_copies.py`` counts the copies
over real connections and compares. What the model leaves out: IHAVE and IWANT (they go to peers outside the mesh, and
nearly all connections are in it), subscriptions, keep-alives, and churn.

Links have a fixed length each, so the messages of one author always spread the same way: that is reckoned once for
each author, and every message after the first costs one event a receiver.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from p2pnode.sim.links import Profile
from p2pnode.sim.spreading import Spreading
from protocol.core.codec import Message, encode
from protocol.core.machine import GossipReceived

if TYPE_CHECKING:
    from p2pnode.sim.host import Host
    from p2pnode.sim.world import World

LINKS_JOINED = 4
"""Links that a node adds to a mesh when it joins it."""
LINKS_MAX = 12
FANOUT = 6
"""Members that a node which does not follow the topic hands its messages to."""
FORWARD_US = 1_000
"""What a node takes to check a message before it passes it on."""
RPC_BYTES = 164
"""What pubsub adds to a message: author, sequence number, signature, topic and lengths."""


@dataclass(slots=True)
class Flow:
    """How the messages of one author spread over a mesh, by the members' places in it."""

    arrivals: list[tuple[int, int]]
    """(after so many µs, member), in that order; the author is none of them."""
    sent: list[int]
    """Copies that each member sends of a message; of an author outside the mesh nothing is counted here."""
    received: list[int]
    copies: int
    """Of one message, over all links."""
    messages: int = 0
    message_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GossipCounts:
    """What a topic carried; bytes are on the wire, with what pubsub adds."""

    published: int
    copies: int
    duplicates: int
    """Copies that were dropped: their receivers had the message."""
    wire_bytes: int
    busiest_copies: int
    """Sent and received by the node that had most to do."""

    def since(self, before: "GossipCounts") -> "GossipCounts":
        """What came after an earlier count; the busiest node is that of the whole time."""
        return GossipCounts(
            self.published - before.published,
            self.copies - before.copies,
            self.duplicates - before.duplicates,
            self.wire_bytes - before.wire_bytes,
            self.busiest_copies,
        )


class TopicMesh:
    """The mesh of one topic over ``size`` members."""

    def __init__(self, rng: Random, profile: Profile, size: int) -> None:
        self.size = size
        self._rng = rng
        self.links: list[list[tuple[int, int]]] = [[] for _ in range(size)]
        """Of each member: the others and how far away they are, in µs."""
        for member in range(1, size):
            for other in self._chosen(member):
                distance_us = rng.randint(*profile.distance_us)
                self.links[member].append((other, distance_us))
                self.links[other].append((member, distance_us))
        self._distance_us = profile.distance_us
        self._flows: dict[object, Flow] = {}

    def _chosen(self, newcomer: int) -> list[int]:
        wanted, chosen = min(LINKS_JOINED, newcomer), dict[int, None]()
        while len(chosen) < wanted:
            other = self._rng.randrange(newcomer)
            # Among so many there is always one with room: a mesh has four links for each node, and room for twelve.
            if len(self.links[other]) < LINKS_MAX:
                chosen[other] = None
        return list(chosen)

    @property
    def link_ends(self) -> int:
        """Links, each counted at both ends."""
        return sum(map(len, self.links))

    def flows(self) -> list[Flow]:
        """Of all authors so far."""
        return list(self._flows.values())

    def flow(self, author: object, member: int | None) -> Flow:
        """How messages of an author spread; ``member`` is its place, None for one outside the mesh."""
        flow = self._flows.get(author)
        if flow is None:
            flow = self._flows[author] = self._member_flow(member) if member is not None else self._fanout_flow()
        return flow

    def _member_flow(self, author: int) -> Flow:
        return self._spread([(0, author, author)], author)

    def _fanout_flow(self) -> Flow:
        first = self._rng.sample(range(self.size), min(FANOUT, self.size))
        return self._spread([(self._rng.randint(*self._distance_us), member, -1) for member in first], -1)

    def _spread(self, starts: list[tuple[int, int, int]], author: int) -> Flow:
        """Who has the message first from whom, and what everybody sends; an author of -1 is outside."""
        source: dict[int, int] = {}
        arrivals: list[tuple[int, int]] = []
        sent, received = [0] * self.size, [0] * self.size
        outside = starts if author < 0 else []
        for _, member, _ in outside:
            received[member] += 1
        waiting = sorted(starts)
        while waiting:
            at_us, member, giver = heapq.heappop(waiting)
            if member in source:
                continue
            source[member] = giver
            if member != author:
                arrivals.append((at_us, member))
            passed_on_us = at_us + (FORWARD_US if member != author else 0)
            for other, distance_us in self.links[member]:
                if other not in (giver, author):
                    sent[member] += 1
                    received[other] += 1
                    heapq.heappush(waiting, (passed_on_us + distance_us, other, member))
        return Flow(arrivals, sent, received, sum(sent) + len(outside))


class Mesh(Spreading):
    """Gossip of a world by the model above.

    Args:
        followers: Who follows each topic.
        told: Of topics that are only counted for most: whom their messages are handed to all the same.
    """

    def __init__(
        self, world: "World", followers: Mapping[str, Sequence["Host"]], told: Mapping[str, Sequence["Host"]]
    ) -> None:
        super().__init__(world)
        self._followers = followers
        self._told = told
        self._places = {topic: {host.name: at for at, host in enumerate(hosts)} for topic, hosts in followers.items()}
        profile = world.network.profile
        self.meshes = {
            topic: TopicMesh(world.random(f"mesh/{topic}"), profile, len(hosts)) for topic, hosts in followers.items()
        }
        self._only_counted = {topic: Flow([], [], [], self._plain_copies(topic)) for topic in told}
        self.checks = 0
        """Signatures of envelopes that receivers checked beyond the one check that all of them share here; those of
        topics that are only counted are left out."""

    def _plain_copies(self, topic: str) -> int:
        mesh = self.meshes[topic]
        return max(0, mesh.link_ends - (mesh.size - 1))

    def publish(self, host: "Host", topic: str, message: Message) -> None:
        """A machine of a host publishes."""
        data, world = encode(message), self.world
        for hook in world.watch.published:
            hook(host, topic, message)
        world.trace.add(world.now_us, host.name, f"-> gossip {topic}", message, data)
        mesh = self.meshes.get(topic)
        if mesh is None:
            return
        checked = self.check(host, topic, host.node, data)
        assert checked.message is not None and checked.envelope is not None, checked.reason
        event = GossipReceived(topic, host.node, checked.message, checked.envelope)
        place = self._places[topic].get(host.name)
        if topic in self._told:
            flow = self._only_counted[topic]
            longest_us = 2 * world.network.profile.distance_us[1]
            receivers = [(self.rng.randrange(longest_us), other) for other in self._told[topic]]
        else:
            flow = mesh.flow(host.name, place)
            followers = self._followers[topic]
            receivers = [(at_us, followers[member]) for at_us, member in flow.arrivals]
        flow.messages += 1
        flow.message_bytes += len(data) + RPC_BYTES
        if topic not in self._told:
            self.checks += max(0, mesh.size - (place is not None) - 1)
        for at_us, other in receivers:
            if other is not host:
                world.after(at_us, _Arrival(other, topic, event))
        if place is not None:
            _hand_on(host, topic, event)

    def counts(self, topic: str) -> GossipCounts:
        """What a topic carried so far."""
        mesh = self.meshes[topic]
        flows = [self._only_counted[topic]] if topic in self._told else mesh.flows()
        published = sum(flow.messages for flow in flows)
        copies = sum(flow.messages * flow.copies for flow in flows)
        wire_bytes = sum(flow.message_bytes * flow.copies for flow in flows)
        first = published * max(0, mesh.size - 1)
        if topic in self._told:
            most = max((2 * len(links) - 2 for links in mesh.links), default=0)
            busiest = published * max(0, most)
        else:
            first = sum(flow.messages * len(flow.arrivals) for flow in flows)
            each = (
                sum(flow.messages * (flow.sent[at] + flow.received[at]) for flow in flows) for at in range(mesh.size)
            )
            busiest = max(each, default=0)
        return GossipCounts(published, copies, copies - first, wire_bytes, busiest)


class _Arrival:
    """A message reaches a host; one of many, so it is small."""

    __slots__ = ("event", "host", "topic")

    def __init__(self, host: "Host", topic: str, event: GossipReceived) -> None:
        self.host = host
        self.topic = topic
        self.event = event

    def __call__(self) -> None:
        """Hand it on."""
        _hand_on(self.host, self.topic, self.event)


def _hand_on(host: "Host", topic: str, event: GossipReceived) -> None:
    if host.up:
        for drive in host.drives:
            if topic in drive.machine.topics:
                drive.dispatch(event)
