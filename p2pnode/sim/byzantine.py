"""Byzantine oracles: production's machine behind tricks, with its key and no conscience.

What the machine inside wants to say passes through the tricks of the node, one after the other: they forge, hold back,
turn and add. Nothing it writes has to be durable, since nobody's promises are kept here. The tricks are in
``byzantine_tricks`` and ``byzantine_noise``, each a small class with a name; a seed gives every Byzantine node some.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from p2pnode.sim.committee_node import LOG_MADE, make_oracle
from p2pnode.sim.counter import CounterLedger
from p2pnode.sim.crypto import Key
from p2pnode.sim.host import Boot, Host, Part
from protocol.committee.members import Committee
from protocol.core.codec import Message
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, NodeId
from protocol.core.machine import Channel, Close, Open, Persist, Send, SendAll
from protocol.core.signing import typed_digest
from protocol.messages.committee import NO_HEADER, Batch, SignedBatch, Statement, StatementKind, statement_digest
from protocol.roles.oracle import OracleMachine

Notes = dict[tuple[int, int], tuple[bytes, bytes]]
"""What the Byzantine nodes of a world know of each other: slots of which one of them proposed two blocks, one for each
half of the members."""


class Grip:
    """What a trick holds in its hands: the machine, the key, and the links to the others."""

    def __init__(self, inner: OracleMachine, key: Key, genesis: Genesis, rng: Random, notes: Notes) -> None:
        self.notes = notes
        self.inner = inner
        self.key = key
        self.domain = genesis.domain()
        self.params = genesis.params
        self.rng = rng
        self.links: dict[Channel, NodeId] = {}
        """Streams that the machine opened to members."""

    @property
    def committee(self) -> Committee:
        """Of the epoch that the machine is in."""
        return self.inner.simplex.committee

    def sign(self, kind: StatementKind, epoch: int, height: int, header: bytes = NO_HEADER) -> Statement:
        """Anything, as often as one likes."""
        digest = statement_digest(self.domain, kind, epoch, height, header)
        return Statement(kind, epoch, height, header, self.key.sign(digest))

    def sign_batch(self, batch: Batch, content: bytes) -> SignedBatch:
        """Any batch."""
        return SignedBatch(batch, self.key.sign(Digest(typed_digest(self.domain, batch))), content)

    def to(self, peers: Iterable[NodeId], message: Message) -> list[object]:
        """Send to some of the members."""
        wanted = set(peers)
        channels = tuple(channel for channel, peer in self.links.items() if peer in wanted)
        return [SendAll(channels, message)] if channels else []

    def to_all(self, message: Message) -> list[object]:
        """Send to all."""
        return [SendAll(tuple(self.links), message)] if self.links else []

    def halves(self) -> tuple[list[NodeId], list[NodeId]]:
        """The members in two parts, the same for all Byzantine nodes of an epoch."""
        members = list(self.committee.members)
        return members[::2], members[1::2]


class Trick:
    """One way to misbehave. Every hook passes things on as they are."""

    def __init__(self, grip: Grip) -> None:
        self.grip = grip

    def hears(self, event: object, now_ms: int) -> object | None:
        """What the machine inside is told; None: nothing."""
        return event

    def heard(self, event: object, now_ms: int) -> list[object]:
        """What is said because of an event, beside what the machine says."""
        return []

    def says(self, effect: object, now_ms: int) -> list[object]:
        """What is done in place of an effect of the machine."""
        return [effect]

    def next_deadline(self) -> int | None:
        """When :meth:`due` is to be called."""
        return None

    def due(self, now_ms: int) -> list[object]:
        """The deadline has come."""
        return []


class ByzantineMachine:
    """See the module. ``inner`` is the machine that the tricks stand around."""

    protocols = OracleMachine.protocols
    topics = OracleMachine.topics

    def __init__(self, inner: OracleMachine, grip: Grip, tricks: Sequence[Trick], records: dict[bytes, bytes]) -> None:
        self.inner = inner
        self.grip = grip
        self.tricks = tuple(tricks)
        self._records = records

    def next_deadline(self) -> int | None:
        """See protocol.core.machine.Machine."""
        clocks = (self.inner.next_deadline(), *(trick.next_deadline() for trick in self.tricks))
        return min((at for at in clocks if at is not None), default=None)

    def handle(self, event: object, now_ms: int) -> list[object]:
        """See protocol.core.machine.Machine."""
        effects: list[object] = []
        told: object | None = event
        for trick in self.tricks:
            effects += trick.heard(event, now_ms)
            told = None if told is None else trick.hears(told, now_ms)
            at_ms = trick.next_deadline()
            if at_ms is not None and at_ms <= now_ms:
                effects += trick.due(now_ms)
        if told is not None:
            for effect in self.inner.handle(told, now_ms):
                effects += self._through(effect, now_ms)
        return effects

    def _through(self, effect: object, now_ms: int) -> list[object]:
        links = self.grip.links
        if isinstance(effect, Persist):
            for name, value in effect.records:
                if value is None:
                    self._records.pop(name, None)
                else:
                    self._records[name] = value
            return []
        if isinstance(effect, Open) and effect.protocol == "member":
            links[effect.channel] = effect.peer
        if isinstance(effect, Close):
            links.pop(effect.channel, None)
        effects = [effect]
        for trick in self.tricks:
            effects = [said for one in effects for said in trick.says(one, now_ms)]
        return effects


@dataclass(slots=True)
class ByzantineProgram:
    """A Byzantine oracle, by the names of its tricks."""

    key: Key
    genesis: Genesis
    ledger: CounterLedger
    tricks: tuple[str, ...]
    rng: Random
    notes: Notes
    host: Host | None = field(default=None)

    def start(self, boot: Boot) -> Sequence[Part]:
        """It begins from nothing in every life."""
        from p2pnode.sim.byzantine_tricks import TRICKS

        records: dict[bytes, bytes] = {LOG_MADE: b""}
        inner = make_oracle(self.key, self.genesis, self.ledger, records, boot)
        grip = Grip(inner, self.key, self.genesis, self.rng, self.notes)
        return [Part(ByzantineMachine(inner, grip, [TRICKS[name](grip) for name in self.tricks], records))]


def messages_of(effect: object) -> Message | None:
    """The message of a Send or SendAll."""
    return effect.message if isinstance(effect, Send | SendAll) else None


def channels_of(effect: object) -> tuple[Channel, ...]:
    """Where a Send or SendAll goes."""
    match effect:
        case Send():
            return (effect.channel,)
        case SendAll():
            return effect.channels
    return ()
