"""How nodes reach each other: links, connections that come and go with them, and who notices when one is gone.

There is at most one connection a pair. It is lost when a node dies, when a fault resets it, or when a link between the
two is cut for long; each side learns of that for itself, sooner or later, and tells its machines.
"""

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from p2pnode.sim.links import Link, Profile
from p2pnode.sim.spreading import Spreading
from p2pnode.sim.streams import Stream
from protocol.core.codec import Message, encode
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, PeerConnected, PeerLost

if TYPE_CHECKING:
    from p2pnode.sim.drive import Drive
    from p2pnode.sim.host import Host
    from p2pnode.sim.world import World

DIAL_TIMEOUT_US = 5_000_000
PATIENCE_US = (3_000_000, 10_000_000)
"""Who hears nothing of a peer for so long takes the connection for lost."""
REDIAL_US = (500_000, 8_000_000)
"""A node dials those whom it keeps in touch with again after the first, twice as long each time up to the second."""

_INSIDE = Profile((10, 100), 0, 0, 0)
"""From one machine of a node to another."""

Then = Callable[["Connection | None"], None]


class Connection:
    """What stands, or stood, between two lives of two nodes."""

    __slots__ = ("dead", "hosts", "lives", "noticed", "streams")

    def __init__(self, one: "Host", other: "Host") -> None:
        self.hosts = (one, other)
        self.lives = (one.incarnation, other.incarnation)
        self.dead = False
        self.noticed = [False, False]
        self.streams: dict[int, Stream] = {}

    def side(self, host: "Host") -> int:
        """0 or 1."""
        return int(self.hosts[0] is not host)

    def other(self, host: "Host") -> "Host":
        """The peer of a host."""
        return self.hosts[1 - self.side(host)]

    def alive_at(self, host: "Host") -> bool:
        """Whether the host is still in the life in which it had this connection."""
        return host.up and host.incarnation == self.lives[self.side(host)]

    def stands_at(self, host: "Host") -> bool:
        """Whether what crosses it to a host is taken there."""
        return not self.dead and self.alive_at(host)


class Network:
    """All cables and connections of a world. Faults work through it."""

    def __init__(self, world: "World", profile: Profile) -> None:
        self.world = world
        self.profile = profile
        self.rng = world.random("network")
        self.lossy: frozenset[str] = frozenset()
        """Protocols whose messages may be lost, come twice or out of order."""
        self.abrupt = self.rng.random() < 0.5
        """Whether a frame for a stream that was closed resets it at once, as some transports do."""
        self.spreading = Spreading(world)
        self._links: dict[tuple[str, str], Link] = {}
        self._connections: dict[tuple[str, str], Connection] = {}
        self._numbers = count(1)
        self._encoded: tuple[Message | None, bytes] = (None, b"")

    def next_stream(self) -> int:
        """A number for a stream."""
        return next(self._numbers)

    def encoded(self, message: Message) -> bytes:
        """A message's bytes; what goes to many is encoded once."""
        if self._encoded[0] is not message:
            self._encoded = (message, encode(message))
        return self._encoded[1]

    def link(self, source: "Host", target: "Host") -> Link:
        """The cable from one node to another."""
        name = (source.name, target.name)
        link = self._links.get(name)
        if link is None:
            profile = self.profile if source is not target else _INSIDE
            link = self._links[name] = Link(self.world.random(f"link/{name[0]}/{name[1]}"), profile)
        return link

    def links(self) -> list[Link]:
        """Every cable that anything was ever sent on, or that a fault has touched."""
        return list(self._links.values())

    # Connections

    def open(self, drive: "Drive", channel: Channel, peer: NodeId, protocol: str) -> None:
        """A machine opens a stream."""
        stream = Stream(self, drive, channel, peer, protocol)
        end = stream.ends[0]
        assert end is not None
        drive.channels[channel] = end
        stream.open()

    def reach(self, host: "Host", peer: NodeId, then: Then) -> None:
        """Use the connection to a peer, or make one; ``then`` is not called if the host dies meanwhile."""
        connection = host.peers.get(peer)
        if connection is not None or peer == host.node:
            then(connection or Connection(host, host))
            return
        if peer in host.dialing:
            host.dialing[peer].append(then)
            return
        host.dialing[peer] = [then]
        target = self.world.by_id.get(peer)
        if target is None:
            self.world.after(DIAL_TIMEOUT_US, partial(self._dialed, host, host.incarnation, peer, None))
            return
        there, back = self.link(host, target), self.link(target, host)
        took_us = there.delay_us() + back.delay_us()
        silent = there.cuts or back.cuts or (not target.up and target.silent)
        if silent:
            self.world.after(DIAL_TIMEOUT_US, partial(self._dialed, host, host.incarnation, peer, None))
        elif not target.up or not target.dialable:
            self.world.after(took_us, partial(self._dialed, host, host.incarnation, peer, None))
        else:
            took_us += there.delay_us()
            self.world.after(took_us, partial(self._dialed, host, host.incarnation, peer, target))

    def _dialed(self, host: "Host", life: int, peer: NodeId, target: "Host | None") -> None:
        if not host.up or host.incarnation != life:
            return
        waiting = host.dialing.pop(peer, [])
        connection = host.peers.get(peer)
        if connection is None and target is not None and self._passes(host, target):
            connection = self._connect(host, target)
        for then in waiting:
            then(connection)

    def _passes(self, host: "Host", target: "Host") -> bool:
        return target.up and not self.link(host, target).cuts and not self.link(target, host).cuts

    def _connect(self, host: "Host", target: "Host") -> Connection:
        connection = Connection(host, target)
        self._connections[_pair(host, target)] = connection
        self.world.trace.add(self.world.now_us, host.name, f"connected to {target.name}")
        for one in connection.hosts:
            peer = connection.other(one)
            # A side that has not noticed yet that the connection before is gone sees no change.
            known = peer.node in one.peers
            one.peers[peer.node] = connection
            if not known:
                one.tell_all(PeerConnected(peer.node))
        return connection

    def drop(self, one: "Host", other: "Host") -> None:
        """Reset the connection between two nodes; both notice within a moment."""
        connection = self._connections.get(_pair(one, other))
        if connection is not None:
            self._lose(connection, "the connection was reset")

    def host_died(self, host: "Host") -> None:
        """A node is gone: its peers are told by its kernel, or find out when they hear nothing any more."""
        for connection in list(self._connections.values()):
            if host in connection.hosts and not connection.dead:
                self._lose(connection, "the peer is gone", unheard=host.silent)
        host.peers.clear()
        host.dialing.clear()

    def disown(self, connection: Connection, host: "Host") -> None:
        """Something came over a connection that a host knows nothing of; the sender learns that."""
        sender = connection.other(host)
        link = self.link(host, sender)
        if not connection.dead:
            self._lose(connection, "the peer started anew")
        if not link.cuts:
            self.world.after(link.delay_us(), partial(self._notice, connection, sender, "the peer started anew"))

    def _lose(self, connection: Connection, why: str, *, unheard: bool = False) -> None:
        if connection.dead:
            return
        connection.dead = True
        pair = _pair(*connection.hosts)
        if self._connections.get(pair) is connection:
            del self._connections[pair]
        for host in connection.hosts:
            link = self.link(connection.other(host), host)
            wait_us = self.rng.randint(*PATIENCE_US) if unheard or link.cuts else link.delay_us()
            self.world.after(wait_us, partial(self._notice, connection, host, why))

    def _notice(self, connection: Connection, host: "Host", why: str) -> None:
        side = connection.side(host)
        if connection.noticed[side] or not connection.alive_at(host):
            return
        connection.noticed[side] = True
        peer = connection.other(host)
        lost = host.peers.get(peer.node) is connection
        if lost:
            del host.peers[peer.node]
        for stream in list(connection.streams.values()):
            stream.lose(host, why)
        if lost and host.up:
            self.world.trace.add(self.world.now_us, host.name, f"lost {peer.name}", why)
            host.tell_all(PeerLost(peer.node))
            if peer.node in host.keeps:
                self.keep(host, peer.node)

    def keep(self, host: "Host", peer: NodeId, failures: int = 0) -> None:
        """Dial a peer until it answers, for as long as the host lives."""
        wait_us = min(REDIAL_US[0] << failures, REDIAL_US[1]) if failures else REDIAL_US[0]
        wait_us = wait_us * self.rng.randint(750, 1_250) // 1_000
        self.world.after(wait_us, partial(self._redial, host, host.incarnation, peer, failures))

    def _redial(self, host: "Host", life: int, peer: NodeId, failures: int) -> None:
        if not host.up or host.incarnation != life:
            return

        def then(connection: Connection | None) -> None:
            if connection is None:
                self.keep(host, peer, min(failures + 1, 10))

        self.reach(host, peer, then)

    # Faults

    def cut(self, source: "Host", target: "Host") -> None:
        """Nothing that leaves from now on gets from one node to another."""
        link = self.link(source, target)
        link.cuts += 1
        if link.cuts == 1:
            patience_us = self.rng.randint(*PATIENCE_US)
            connection = self._connections.get(_pair(source, target))
            if connection is not None:
                self.world.after(patience_us, partial(self._lose_if_cut, connection, link))

    def _lose_if_cut(self, connection: Connection, link: Link) -> None:
        if link.cuts:
            self._lose(connection, "nothing was heard for long")

    def mend(self, source: "Host", target: "Host") -> None:
        """Undo one cut; what was held up on reliable streams goes on if it was the last."""
        link = self.link(source, target)
        link.cuts = max(0, link.cuts - 1)
        connection = self._connections.get(_pair(source, target))
        if not link.cuts and connection is not None:
            for stream in list(connection.streams.values()):
                stream.mended(source)


def _pair(one: "Host", other: "Host") -> tuple[str, str]:
    return (one.name, other.name) if one.name <= other.name else (other.name, one.name)
