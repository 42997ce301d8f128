"""Byzantine miners, routers and clients: production's machine behind ruses, with its key and no conscience.

As with the oracles' tricks (``byzantine``), what the machine inside is told and what it wants to say passes through the
ruses of the node, one after the other. Those of one world work together: whatever leaves anywhere, a spy tells them.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from p2pnode.sim.checkers import Checker
from p2pnode.sim.crypto import Key
from p2pnode.sim.host import Boot, Host, Part, Program
from protocol.core.codec import Message
from protocol.core.deadlines import Deadlines
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, NodeId, Signature
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Close, Machine, Open, Send, SendAll
from protocol.core.signing import TypedStruct, typed_digest
from protocol.messages.committee import Certified
from protocol.messages.results import (
    CommitMessage,
    LedgerNews,
    RevealMessage,
    SignedCommit,
    SignedReveal,
    SignedSession,
)
from protocol.messages.tasks import SegmentStart, StartTask

Task = tuple[bytes, int]


class Den:
    """What the Byzantine nodes of a world know: all that correct nodes said to anybody."""

    def __init__(self) -> None:
        self.commits: dict[Task, list[SignedCommit]] = defaultdict(list)
        self.reveals: dict[Task, list[RevealMessage]] = defaultdict(list)
        self.starts: dict[Task, StartTask] = {}
        """An order as some miner was given it, prompt and all."""
        self.heads: dict[Task, list[SegmentStart]] = defaultdict(list)
        self.opened: dict[NodeId, list[SignedSession]] = {}
        """Sessions of clients that confide in the others."""
        self.certified: Certified | None = None
        """A header that was made final."""


class Spy(Checker):
    """Fills the den."""

    def __init__(self, den: Den) -> None:
        self._den = den
        self._last: Message | None = None

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """Nothing is hidden from them."""
        if message is self._last or not sender.correct:
            return
        self._last, den = message, self._den
        match message:
            case CommitMessage(signed=signed):
                den.commits[signed.commit.session, signed.commit.task].append(signed)
            case RevealMessage(signed=revealed):
                den.reveals[revealed.reveal.session, revealed.reveal.task].append(message)
            case SegmentStart(head=head):
                den.heads[head.session, head.task].append(message)
            case StartTask(order=order):
                den.starts[order.session, order.task] = message
            case LedgerNews(certified=certified):
                den.certified = certified


class Hand:
    """What a ruse holds: the machine, its key, its streams, and what the others know."""

    def __init__(self, inner: Machine, key: Key, genesis: Genesis, rng: Random, den: Den) -> None:
        self.inner = inner
        self.key = key
        self.domain = genesis.domain()
        self.params = genesis.params
        self.committee = genesis.committee
        self.rng = rng
        self.den = den
        self.streams: dict[Channel, tuple[NodeId, str]] = {}
        """Peer and protocol of every stream, whoever opened it."""

    def sign(self, struct: TypedStruct) -> Signature:
        """Anything."""
        return self.key.sign(Digest(typed_digest(self.domain, struct)))

    def of(self, protocol: str) -> list[Channel]:
        """The streams of a protocol."""
        return [channel for channel, (_, spoken) in self.streams.items() if spoken == protocol]

    def tell(self, event: object, now_ms: int) -> list[object]:
        """Make the machine inside believe something."""
        return self.inner.handle(event, now_ms)


class Ruse:
    """One way to misbehave. Every hook passes things on as they are."""

    def __init__(self, hand: Hand) -> None:
        self.hand = hand

    def hears(self, event: object, now_ms: int) -> object | None:
        """What the machine inside is told; None: nothing."""
        return event

    def says(self, effect: object, now_ms: int) -> list[object]:
        """What is done in place of an effect of the machine."""
        return [effect]

    def next_deadline(self) -> int | None:
        """When :meth:`due` is to be called."""
        return None

    def due(self, now_ms: int) -> list[object]:
        """The deadline has come."""
        return []


class Later(Ruse):
    """Keeps actions for later."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(hand)
        self._at: Deadlines[int] = Deadlines()
        self._kept: dict[int, Callable[[int], list[object]]] = {}
        self._number = 0

    def later(self, at_ms: int, action: Callable[[int], list[object]]) -> None:
        """Call it when it is time; what it returns is done."""
        self._number += 1
        self._kept[self._number] = action
        self._at.set(self._number, at_ms)

    def next_deadline(self) -> int | None:
        """See Ruse."""
        return self._at.next()

    def due(self, now_ms: int) -> list[object]:
        """See Ruse."""
        return [effect for number in self._at.due(now_ms) for effect in self._kept.pop(number)(now_ms)]


class CrookedMachine:
    """See the module."""

    def __init__(self, inner: Machine, hand: Hand, ruses: Sequence[Ruse]) -> None:
        self.inner = inner
        self.hand = hand
        self.ruses = tuple(ruses)

    @property
    def protocols(self) -> tuple[str, ...]:
        """Those of the machine inside."""
        return self.inner.protocols

    @property
    def topics(self) -> tuple[str, ...]:
        """Those of the machine inside."""
        return self.inner.topics

    def next_deadline(self) -> int | None:
        """See protocol.core.machine.Machine."""
        clocks = (self.inner.next_deadline(), *(ruse.next_deadline() for ruse in self.ruses))
        return min((at for at in clocks if at is not None), default=None)

    def handle(self, event: object, now_ms: int) -> list[object]:
        """See protocol.core.machine.Machine."""
        streams = self.hand.streams
        if isinstance(event, ChannelOpened):
            streams[event.channel] = (event.peer, event.protocol)
        elif isinstance(event, ChannelClosed):
            streams.pop(event.channel, None)
        told: object | None = event
        for ruse in self.ruses:
            told = None if told is None else ruse.hears(told, now_ms)
        effects = [] if told is None else self._through(self.inner.handle(told, now_ms), 0, now_ms)
        for place, ruse in enumerate(self.ruses):
            at_ms = ruse.next_deadline()
            if at_ms is not None and at_ms <= now_ms:
                effects += self._through(ruse.due(now_ms), place + 1, now_ms)
        return effects

    def _through(self, effects: list[object], first: int, now_ms: int) -> list[object]:
        """Past the ruses from one on."""
        for ruse in self.ruses[first:]:
            effects = [said for effect in effects for said in ruse.says(effect, now_ms)]
        for effect in effects:
            if isinstance(effect, Open):
                self.hand.streams[effect.channel] = (effect.peer, effect.protocol)
            elif isinstance(effect, Close):
                self.hand.streams.pop(effect.channel, None)
        return effects


Ruses = Mapping[str, Callable[[Hand], Ruse]]


@dataclass(frozen=True, slots=True)
class CrookedProgram:
    """A Byzantine node: the program of a correct one, whose first machine stands behind ruses."""

    program: Program
    key: Key
    genesis: Genesis
    ruses: tuple[Callable[[Hand], Ruse], ...]
    rng: Random
    den: Den
    beside: Callable[[Boot], Sequence[Part]] | None = field(default=None)
    """More machines of its own."""

    def start(self, boot: Boot) -> Sequence[Part]:
        """See Program."""
        first, *others = self.program.start(boot)
        hand = Hand(first.machine, self.key, self.genesis, self.rng, self.den)
        crooked: Any = CrookedMachine(first.machine, hand, [ruse(hand) for ruse in self.ruses])
        more = self.beside(boot) if self.beside is not None else ()
        return [Part(crooked, first.performers), *others, *more]


def message_of(effect: object) -> Message | None:
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


def instead(effect: object, message: Message) -> object:
    """The same effect with another message."""
    if isinstance(effect, Send):
        return Send(effect.channel, message, effect.report, effect.key)
    assert isinstance(effect, SendAll)
    return SendAll(effect.channels, message, effect.key)


def signed_commit(hand: Hand, commit: Any) -> SignedCommit:
    """Any commit."""
    return SignedCommit(commit, hand.sign(commit))


def signed_reveal(hand: Hand, reveal: Any) -> SignedReveal:
    """Any reveal."""
    return SignedReveal(reveal, hand.sign(reveal))
