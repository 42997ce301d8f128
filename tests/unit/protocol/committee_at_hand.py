"""A committee at hand: keys of all its members, blocks and certificates as they would make them, and one member.

The member is the production Simplex of one node with its disk; everybody else is a puppet whose signatures the test
makes. Signatures are keyed hashes unless a test says otherwise: ``keyed`` puts them in force.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from p2pnode.sim.counter import CounterLedger, CounterState
from p2pnode.sim.crypto import Key, KeyedHashes
from protocol.committee.certificates import batch_digest
from protocol.committee.cut import Cut
from protocol.committee.effects import Closed, Convicted, LogLost, Settled, ToMembers
from protocol.committee.epochs import Epochs
from protocol.committee.members import Committee, make_committee
from protocol.committee.payload import make_header, opening_header
from protocol.committee.signer import PREFIXES, Signer
from protocol.committee.simplex import Rules
from protocol.committee.waiting import Waiting
from protocol.core.codec import Message, pack
from protocol.core.ids import ZERO_DIGEST, Digest, NetworkId, NodeId
from protocol.core.machine import Persist
from protocol.core.params import Params
from protocol.core.signing import Domain, keccak, scheme
from protocol.messages.committee import (
    NO_HEADER,
    Batch,
    Block,
    Certificate,
    CertificateKind,
    Certified,
    Header,
    MemberSignature,
    Offer,
    Propose,
    SignedBatch,
    State,
    Statement,
    StatementKind,
    header_digest,
    statement_digest,
)

PROPOSAL, VOTE, NULLIFY, FINALIZE = StatementKind
NOTARIZATION, NULLIFICATION, FINALIZATION = CertificateKind

START_MS = 1_000_000
PARAMS = replace(Params(), epoch_blocks=8, batches_waiting_max=4, heights_ahead_max=8).validate()
DOMAIN = Domain(NetworkId(b"\7" * 32))
HASHES = KeyedHashes(0)
KEYS = tuple(HASHES.key(f"oracle {number}") for number in range(31))
STRANGER = HASHES.key("stranger")
SIZE = 4


@pytest.fixture(scope="module", autouse=True)
def keyed() -> Iterator[None]:
    """Keyed hashes stand in for signatures; import it into a test module to put it in force there."""
    with scheme(HASHES):
        yield


# Who


def members_of(size: int = SIZE) -> tuple[NodeId, ...]:
    """The members of every epoch."""
    return tuple(key.node_id for key in KEYS[:size])


def committee_of(epoch: int = 1, size: int = SIZE) -> Committee:
    """The committee of an epoch."""
    return make_committee(DOMAIN.network_id, epoch, members_of(size))


def leader(height: int, epoch: int = 1, size: int = SIZE) -> int:
    """The place of a height's leader."""
    return committee_of(epoch, size).leader(height)


ME = leader(0)
"""A member that leads none of the heights 1, 2 and 3."""
MINE = next(height for height in range(4, 8) if leader(height) == ME)
"""The first height that it leads."""


def others(count: int, *, but: Iterable[int] = ()) -> tuple[int, ...]:
    """Some places beside ME."""
    return tuple(place for place in range(SIZE) if place != ME and place not in but)[:count]


# What they say


def say(place: int, kind: StatementKind, height: int, header: bytes = NO_HEADER, epoch: int = 1) -> Statement:
    """A statement as the member at a place signs it."""
    return signed_by(KEYS[place], kind, height, header, epoch)


def signed_by(key: Key, kind: StatementKind, height: int, header: bytes = NO_HEADER, epoch: int = 1) -> Statement:
    """A statement of any key."""
    return Statement(kind, epoch, height, header, key.sign(statement_digest(DOMAIN, kind, epoch, height, header)))


def certify(
    kind: CertificateKind,
    height: int,
    header: bytes = NO_HEADER,
    places: Iterable[int] = (),
    epoch: int = 1,
    size: int = SIZE,
) -> Certificate:
    """The certificate that members at these places make; 2f+1 that are not ME, if none are named."""
    committee = committee_of(epoch, size)
    places = sorted(places) or [place for place in range(size) if place != ME or size > SIZE][: committee.quorum]
    said = [(place, say(place, StatementKind(kind), height, header, epoch)) for place in places]
    return Certificate(
        kind, epoch, height, header, tuple(MemberSignature(place, statement.signature) for place, statement in said)
    )


def nullification(height: int, epoch: int = 1) -> Certificate:
    """Of a height."""
    return certify(NULLIFICATION, height, epoch=epoch)


def batch(
    place: int, number: int, previous: bytes = ZERO_DIGEST, content: bytes = b"content", home_epoch: int = 1
) -> SignedBatch:
    """An oracle's batch."""
    made = Batch(home_epoch, KEYS[place].node_id, number, previous, keccak(content))
    return SignedBatch(made, KEYS[place].sign(batch_digest(DOMAIN, made)), content)


def batches(place: int, count: int, content: bytes = b"content", home_epoch: int = 1) -> list[SignedBatch]:
    """An oracle's chain of batches from its first."""
    chain: list[SignedBatch] = []
    for number in range(1, count + 1):
        previous = batch_digest(DOMAIN, chain[-1].batch) if chain else ZERO_DIGEST
        chain.append(batch(place, number, previous, content, home_epoch))
    return chain


# Blocks

LEDGER = CounterLedger(DOMAIN, PARAMS)


@dataclass(frozen=True)
class Made:
    """A block, its name, and the state after it."""

    header: Header
    digest: bytes
    body: bytes
    state: CounterState

    @property
    def height(self) -> int:
        """Its height."""
        return self.header.height

    def notarization(self, places: Iterable[int] = ()) -> Certificate:
        """2f+1 votes for it."""
        return certify(NOTARIZATION, self.height, self.digest, places, self.header.epoch)

    def finalization(self, places: Iterable[int] = ()) -> Certificate:
        """2f+1 finalizes of it."""
        return certify(FINALIZATION, self.height, self.digest, places, self.header.epoch)

    def block(self, certificate: Certificate | None = None) -> Block:
        """As sync brings it."""
        return Block(self.header, self.body, certificate)


def opening(epoch: int = 1, closing: CounterState | None = None, size: int = SIZE) -> Made:
    """What an epoch begins with: genesis, or the state that closed the epoch before."""
    committee = committee_of(epoch, size)
    state = LEDGER.genesis(committee) if closing is None else closing
    header = opening_header(epoch, state.roots)
    turned = state if closing is None else LEDGER.turn(state, committee)
    return Made(header, header_digest(DOMAIN, header), b"", turned)


def body_of(included: Sequence[SignedBatch]) -> bytes:
    """A body with these batches, in whatever order they are."""
    return pack(Cut(tuple(included))) if included else b""


def build(parent: Made, height: int, included: Sequence[SignedBatch] = (), **wrong: Any) -> Made:
    """A block on a parent. ``wrong`` fields of the header stand instead of the right ones."""
    body = body_of(included)
    state = LEDGER.execute(parent.state, body)
    return dress(make_header(parent.header.epoch, height, parent.digest, state.roots, keccak(body)), body, state, wrong)


def dress(header: Header, body: bytes, state: CounterState, wrong: dict[str, Any]) -> Made:
    """A block with some fields of its header put in by hand."""
    fields = {name: getattr(header, name) for name in Header.__struct_fields__}
    header = Header(**{**fields, **wrong})
    return Made(header, header_digest(DOMAIN, header), body, state)


def propose(
    made: Made, parent: Certificate | None = None, between: Sequence[Certificate] = (), place: int | None = None
) -> Propose:
    """A block's proposal by its leader, or by another."""
    place = leader(made.height, made.header.epoch) if place is None else place
    statement = say(place, PROPOSAL, made.height, made.digest, made.header.epoch)
    return Propose(statement, made.header, made.body, parent, tuple(between))


def chain(length: int, first: Made | None = None) -> list[Made]:
    """Empty blocks, one on the other, the opening first."""
    blocks = [first or opening()]
    for height in range(1, length + 1):
        blocks.append(build(blocks[-1], height))
    return blocks


# The member


@dataclass
class Member:
    """One production member: what is on its disk, what it holds in memory, and what it did last."""

    place: int = ME
    params: Params = PARAMS
    size: int = SIZE
    now_ms: int = START_MS
    disk: dict[bytes, bytes] = field(default_factory=dict)
    ready: bool = True
    key: Key | None = None
    effects: list[object] = field(default_factory=list)
    """Of the last event."""
    settled: list[Header] = field(default_factory=list)
    """All that became final."""
    convicted: list[Any] = field(default_factory=list)
    lost: list[Statement] = field(default_factory=list)
    closing: Certified | None = None
    fuse: int | None = None
    """How many more effects happen before the node crashes."""
    spoken: dict[tuple[int, int, StatementKind], bytes] = field(default_factory=dict)
    """All that ever left it."""

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, ready: bool | None = None) -> None:
        """Begin with what is on the disk."""
        key = self.key or KEYS[self.place]
        self.ready = self.ready if ready is None else ready
        log = {name: value for name, value in self.disk.items() if name.startswith(PREFIXES)}
        rest = {name: value for name, value in self.disk.items() if not name.startswith(PREFIXES)}
        self.signer = Signer(DOMAIN, key.node_id, key.sign, log)
        self.signer.ready = self.ready
        ledger, waiting = CounterLedger(DOMAIN, self.params), Waiting(DOMAIN, self.params)
        self.epochs = Epochs(Rules(DOMAIN, self.params), ledger, self.signer, waiting, members_of(self.size))
        self.simplex, self.closing = self.epochs.resume(rest, self.now_ms)
        if self.simplex.closed:
            self.do([Closed()])

    # What happens

    def hear(self, message: Message | Statement | Certificate | Block | SignedBatch) -> list[Message]:
        """A message arrives; what is sent to all then."""
        return self.do(self.taken(message))

    def taken(self, message: Message | Statement | Certificate | Block | SignedBatch) -> list[object]:
        """The effects of a message, none of which has happened yet."""
        simplex, now = self.simplex, self.now_ms
        match message:
            case Propose():
                return simplex.on_propose(message, now)
            case State(statement=said) | (Statement() as said):
                return simplex.on_statement(said, now)
            case Certified():
                return simplex.on_certified(message, now)
            case Certificate():
                return simplex.on_certified(Certified(message, None), now)
            case Offer(signed=signed) | (SignedBatch() as signed):
                return simplex.on_offer(signed, now)
            case Block():
                return simplex.on_block(message, now)
        raise AssertionError(message)

    def wait(self, ms: int) -> list[Message]:
        """Time passes; the member is told whenever it asked to be. All that is sent meanwhile."""
        until, sent, effects = self.now_ms + ms, [], []
        while (at := self.simplex.next_deadline()) is not None and at <= until:
            self.now_ms = max(self.now_ms, at)
            sent += self.do(self.simplex.on_time(self.now_ms))
            effects += self.effects
        self.now_ms = until
        self.effects = effects
        return sent

    def do(self, effects: list[object]) -> list[Message]:
        """Effects happen, in order; what is sent. Where the fuse ends, the node does."""
        self.effects = []
        sent: list[Message] = []
        queue = list(effects)
        while queue:
            effect = queue.pop(0)
            if isinstance(effect, Closed):
                self.simplex, self.closing, durable = self.epochs.next(self.simplex, self.now_ms)
                queue = [*durable, *self.simplex.on_time(self.now_ms), *queue]
            for part in split(effect):
                if self.fuse == 0:
                    self.fuse = None
                    raise Crashed
                self.fuse = None if self.fuse is None else self.fuse - 1
                self.effects.append(part)
                self._happens(part, sent)
        return sent

    def _happens(self, effect: object, sent: list[Message]) -> None:
        match effect:
            case ToMembers():
                self._may_leave(effect.message)
                sent.append(effect.message)
            case Persist():
                store(self.disk, effect)
            case Settled():
                self.settled += effect.headers
            case Convicted():
                self.convicted.append(effect.evidence)
            case LogLost():
                self.lost.append(effect.statement)

    def _may_leave(self, message: Message) -> None:
        """What is signed is durable before it leaves, and contradicts nothing that left before."""
        if not isinstance(message, Propose | State):
            return
        own = message.statement
        if not isinstance(message, State) or self.place == self.simplex.me:
            name = b"signed/" + own.epoch.to_bytes(8, "big") + own.height.to_bytes(8, "big") + bytes([own.kind])
            assert self.disk.get(name) == own.header + own.signature, "it is durable before it leaves"
        slot = (own.epoch, own.height)
        assert self.spoken.setdefault((*slot, own.kind), own.header) == own.header, "one slot, one word"
        assert not {(*slot, NULLIFY), (*slot, FINALIZE)} <= self.spoken.keys()

    # What it said

    def signed(self, kind: StatementKind, height: int, epoch: int = 1) -> bytes | None:
        """What it has signed of a slot: the header, zero for a nullify; None if nothing."""
        statement = self.signer.signed(kind, epoch, height)
        return None if statement is None else statement.header

    def reach(self, height: int) -> None:
        """Come to a height: every one before it was nullified by the others, at no time."""
        for below in range(self.simplex.height, height):
            self.hear(nullification(below))


class Crashed(Exception):
    """The node is gone, and with it all that was not durable."""


def split(effect: object) -> list[object]:
    """A Persist is two: what goes into the store is durable before what goes into the signer log."""
    if not isinstance(effect, Persist):
        return [effect]
    signed = tuple(record for record in effect.records if record[0].startswith(PREFIXES))
    stored = tuple(record for record in effect.records if record not in signed)
    return [Persist(effect.key, part, effect.vital) for part in (stored, signed) if part]


def store(disk: dict[bytes, bytes], persist: Persist) -> None:
    """Records become durable."""
    for name, value in persist.records:
        if value is None:
            disk.pop(name, None)
        else:
            disk[name] = value


def said(sent: Iterable[Message], kind: StatementKind | None = None) -> list[Statement]:
    """The statements among what was sent, of one kind or all but proposals."""
    statements = [message.statement for message in sent if isinstance(message, State)]
    return [statement for statement in statements if kind in (None, statement.kind)]


def digest_of(signed: SignedBatch) -> Digest:
    """A batch's name."""
    return Digest(batch_digest(DOMAIN, signed.batch))
