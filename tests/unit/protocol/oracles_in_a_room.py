"""Four production oracles over the real ledger in one process, and puppets that talk to them over ``results``.

A message takes 10 ms, a disk nothing; effects happen in the order in which a machine gave them. A crash loses what was
not durable, at any effect of an event.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from p2pnode.sim.crypto import Key
from protocol.committee.payload import NextCommittee, same_members
from protocol.committee.signer import PREFIXES, Signer
from protocol.core.codec import Message, decode, encode
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelOpened,
    Close,
    DeadlineReached,
    GossipReceived,
    Note,
    Open,
    Persist,
    Publish,
    Received,
    Send,
    SendAll,
    Sent,
)
from protocol.ledger import Ledger, LedgerState
from protocol.messages.envelope import Envelope, seal
from protocol.roles.oracle import OracleMachine, OracleSettings
from protocol.settlement.duty import RecordDraw, ReportEvidence, Settle, SubmitHeader
from tests.unit.protocol.committee_at_hand import START_MS, Crashed, split, store
from tests.unit.protocol.results_at_hand import genesis_of, oracles

LATENCY_MS = 10


@dataclass(eq=False)
class End:
    """One end of a stream."""

    owner: object
    channel: Channel
    other: "End | None" = None
    dead: bool = False


@dataclass(eq=False)
class Puppet:
    """A node without a machine: it says what the test has it say, and keeps what it hears."""

    key: Key
    room: "Room"
    ends: dict[int, End] = field(default_factory=dict)
    """By the oracle's place."""
    heard: list[tuple[int, Message]] = field(default_factory=list)
    """The oracle's place, and what it said."""
    on_message: Callable[[int, Message], None] = lambda place, message: None

    def say(self, message: Message, *places: int) -> "Puppet":
        """To some oracles, or to all."""
        for place in places or range(len(self.room.hosts)):
            if place not in self.ends or self.ends[place].dead:
                self.ends[place] = self.room.connect(self, place)
            self.room.transmit(self.ends[place], message)
        return self

    def of(self, kind: type, *places: int) -> list[Message]:
        """What came of a kind, from some oracles or from all."""
        return [message for place, message in self.heard if isinstance(message, kind) and place in (places or (place,))]


@dataclass(eq=False)
class OracleHost:
    """An oracle's machine with its disk."""

    place: int
    key: Key
    room: "Room"
    disk: dict[bytes, bytes] = field(default_factory=dict)
    ends: dict[Channel, End] = field(default_factory=dict)
    up: bool = False
    fuse: int | None = None
    """How many more effects happen before it crashes."""
    notes: list[Note] = field(default_factory=list)
    sent: list[Settle] = field(default_factory=list)
    """What it would have sent to the chain."""
    next_channel: int = 1

    def start(self) -> None:
        """Begin with what is on the disk."""
        room = self.room
        log = {name: value for name, value in self.disk.items() if name.startswith(PREFIXES)}
        domain, params = room.genesis.domain(), room.genesis.params
        signer = Signer(domain, self.key.node_id, self.key.sign, log)
        ledger = Ledger(domain, params, room.genesis, room.follow)
        settings = OracleSettings(self.key.node_id, room.genesis.committee, ledger, signer, None, self.load)
        self.machine = OracleMachine(settings, domain, params, self.key.sign, room.now_ms)
        self.up, self.fuse = True, None

    def load(self, prefix: bytes) -> Mapping[bytes, bytes]:
        """See Load."""
        return {name: value for name, value in self.disk.items() if name.startswith(prefix)}

    def crash(self) -> None:
        """All that was not durable is gone, and every stream."""
        self.up = False
        for end in list(self.ends.values()):
            self.room.hang_up(end)
        self.ends.clear()

    def tell(self, event: object) -> None:
        """The machine hears of something; its effects happen, as far as the fuse lets them."""
        if not self.up:
            return
        try:
            for effect in self.machine.handle(event, self.room.now_ms):
                for part in split(effect):
                    if self.fuse == 0:
                        raise Crashed
                    self.fuse = None if self.fuse is None else self.fuse - 1
                    self._happens(part)
        except Crashed:
            self.crash()

    def _happens(self, effect: object) -> None:
        match effect:
            case Persist():
                store(self.disk, effect)
            case Send():
                self._send(effect.channel, effect.message)
                if effect.report and effect.channel in self.ends:
                    self.room.later(1, lambda: self.tell(Sent(effect.channel)))
            case SendAll():
                for channel in effect.channels:
                    self._send(channel, effect.message)
            case Open():
                self.room.open(self, effect)
            case Close():
                end = self.ends.pop(effect.channel, None)
                if end is not None:
                    self.room.hang_up(end)
            case Publish():
                self.room.publish(self.key.node_id, effect.topic, effect.message)
            case Note():
                self.notes.append(effect)
            case SubmitHeader() | RecordDraw() | ReportEvidence():
                self.sent.append(effect)

    def _send(self, channel: Channel, message: Message) -> None:
        if channel in self.ends:
            self.room.transmit(self.ends[channel], message)

    @property
    def state(self) -> LedgerState:
        """What is final here."""
        state: LedgerState = self.machine.simplex.tree.base.state
        return state


class Room:
    """See the module."""

    def __init__(self, genesis: Genesis | None = None, follow: NextCommittee = same_members, size: int = 4) -> None:
        self.genesis = genesis or genesis_of()
        self.follow = follow
        self.now_ms = START_MS
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self.cut: Callable[[object, object], bool] = lambda sender, receiver: False
        """Whether a message is lost on its way."""
        self.wire: list[tuple[object, object, Message]] = []
        self.watch: Callable[[], None] = lambda: None
        self.hosts = [OracleHost(place, key, self) for place, key in enumerate(oracles(size))]
        self.puppets: dict[NodeId, Puppet] = {}
        for host in self.hosts:
            host.start()

    def puppet(self, key: Key) -> Puppet:
        """A node that the test speaks for."""
        return self.puppets.setdefault(key.node_id, Puppet(key, self))

    # Time

    def later(self, ms: int, action: Callable[[], None]) -> None:
        """Something happens in a while."""
        self._order += 1
        heapq.heappush(self._heap, (self.now_ms + ms, self._order, action))

    def run(self, ms: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; whether what was waited for has come."""
        end_ms = self.now_ms + ms
        while not until():
            clocks = [(at, host) for host in self.hosts if host.up and (at := host.machine.next_deadline()) is not None]
            at, host = min(clocks, key=lambda clock: clock[0], default=(end_ms + 1, self.hosts[0]))
            if self._heap and self._heap[0][0] <= min(at, end_ms):
                self.now_ms, _, action = heapq.heappop(self._heap)
                action()
            elif at <= end_ms:
                self.now_ms = max(at, self.now_ms)
                host.tell(DeadlineReached())
            else:
                self.now_ms = end_ms
                return until()
            self.watch()
        return True

    # Streams

    def connect(self, puppet: Puppet, place: int) -> End:
        """A puppet opens a stream to an oracle."""
        host = self.hosts[place]
        return self._join(End(puppet, Channel(0)), host, puppet.key.node_id, "results")

    def open(self, host: OracleHost, effect: Open) -> None:
        """An oracle opens a stream to another."""
        mine = End(host, effect.channel)
        host.ends[effect.channel] = mine
        other = next((each for each in self.hosts if each.key.node_id == effect.peer), None)
        if other is None or not other.up or self.cut(host, other):
            self.later(LATENCY_MS, lambda: self._closed(mine))
            return
        self._join(mine, other, host.key.node_id, effect.protocol)

    def _join(self, mine: End, host: OracleHost, peer: NodeId, protocol: str) -> End:
        theirs = End(host, Channel(host.next_channel), mine)
        host.next_channel += 1
        mine.other = theirs
        if not host.up:
            mine.dead = theirs.dead = True
            return mine
        host.ends[theirs.channel] = theirs
        opened = ChannelOpened(theirs.channel, peer, protocol)
        self.later(LATENCY_MS, lambda: None if theirs.dead else host.tell(opened))
        return mine

    def transmit(self, end: End, message: Message) -> None:
        """A message on its way."""
        other = end.other
        if end.dead or other is None or self.cut(end.owner, other.owner):
            return
        self.wire.append((end.owner, other.owner, message))
        frame = encode(message)
        self.later(LATENCY_MS, lambda: self._arrives(other, frame))

    def _arrives(self, end: End, frame: bytes) -> None:
        if end.dead:
            return
        message = decode(frame)
        if isinstance(end.owner, OracleHost):
            end.owner.tell(Received(end.channel, message))
        elif isinstance(end.owner, Puppet):
            assert end.other is not None
            host = end.other.owner
            assert isinstance(host, OracleHost)
            end.owner.heard.append((host.place, message))
            end.owner.on_message(host.place, message)

    def hang_up(self, end: End) -> None:
        """A stream ends."""
        end.dead = True
        if end.other is not None:
            other = end.other
            self.later(LATENCY_MS, lambda: self._closed(other))

    def _closed(self, end: End) -> None:
        if end.dead:
            return
        end.dead = True
        if isinstance(end.owner, OracleHost) and end.owner.ends.pop(end.channel, None) is not None:
            end.owner.tell(ChannelClosed(end.channel, "gone"))

    # Gossip

    def publish(self, origin: NodeId, topic: str, message: Message) -> None:
        """To every oracle but the one that says it."""
        for host in self.hosts:
            if host.key.node_id != origin:
                self.later(LATENCY_MS, lambda host=host: self._gossip(host, origin, topic, message))  # type: ignore[misc]

    def _gossip(self, host: OracleHost, origin: NodeId, topic: str, message: Message) -> None:
        assert isinstance(message, Envelope)
        host.tell(GossipReceived(topic, origin, decode(message.payload), message))

    def gossip(self, key: Key, topic: str, message: Message) -> None:
        """A puppet tells everybody."""
        self.publish(key.node_id, topic, seal(self.genesis.domain(), key.sign, message))
