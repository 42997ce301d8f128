"""An oracle's desk at hand, a ledger that says what a test has it say, and what the oracle signed and asked for."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from protocol.core.codec import pack
from protocol.core.ids import ZERO_DIGEST, NodeId
from protocol.core.params import Params
from protocol.core.signing import keccak, typed_digest
from protocol.messages.committee import Batch, SignedBatch
from protocol.messages.results import CommitMessage, Commits, Content, Observation, Opening, RevealMessage
from protocol.results.closed_tasks import CLOSED
from protocol.results.evidence import ResultEvidence
from protocol.results.findings import CommitsClosed, Contradicted, Dropped, Finding, Observed, Reopened
from protocol.results.observing import Desk
from protocol.results.papers import Lane, Task
from tests.unit.protocol.committee_at_hand import KEYS, START_MS, members_of
from tests.unit.protocol.results_at_hand import DOMAIN, PARAMS

ME = 0
PEER = KEYS[20].node_id
SOURCE = 7
"""The stream on which a miner speaks, unless a test says otherwise."""


@dataclass
class Book:
    """What the finalized ledger says. See Known."""

    homes: dict[int, tuple[NodeId, ...]] = field(default_factory=lambda: {1: members_of()})
    values: dict[Lane, set[NodeId]] = field(default_factory=dict)
    verdicts: set[Lane] = field(default_factory=set)
    unreserved: set[bytes] = field(default_factory=set)

    def spoken(self, lane: Lane, home_epoch: int | None = None) -> Collection[NodeId]:
        """See Known."""
        return self.values.get(lane, ())

    def decided(self, lane: Lane) -> bool:
        """See Known."""
        return lane in self.verdicts

    def reserved(self, session: bytes) -> bool:
        """See Known."""
        return session not in self.unreserved


@dataclass
class AtDesk:
    """One desk and all that it found. What it has a value for is signed at once, unless ``signs`` is off."""

    params: Params = PARAMS
    signs: bool = True
    now_ms: int = START_MS
    book: Book = field(default_factory=Book)
    disk: dict[bytes, bytes] = field(default_factory=dict)
    signed: list[Observation] = field(default_factory=list)
    """Over all of its lives."""
    asked: list[tuple[Task, tuple[int, ...]]] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)
    evidence: list[ResultEvidence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.desk = Desk(DOMAIN, self.params, KEYS[ME].node_id)

    def restart(self) -> None:
        """Begin with what is on the disk, and with what was signed."""
        self.desk = Desk(DOMAIN, self.params, KEYS[ME].node_id)
        for value in self.signed:
            if not self.book.decided((value.session, value.task, value.lane)):
                self.desk.said(1, value)
        closed = {name: data for name, data in self.disk.items() if name.startswith(CLOSED)}
        self.take(self.desk.resume(closed, self.book, self.now_ms))

    # What comes in

    def commit(self, message: CommitMessage, source: int | None = SOURCE) -> list[Finding]:
        """A commit by a stream."""
        return self.take(self.desk.committed(message, PEER, source, self.book, self.now_ms))

    def reveal(self, message: RevealMessage, source: int | None = SOURCE) -> list[Finding]:
        """An opening by a stream."""
        return self.take(self.desk.revealed(message, source, self.now_ms))

    def gossip(self, commits: Commits) -> list[Finding]:
        """Commits by gossip."""
        return self.take(self.desk.gossiped(commits, self.book, self.now_ms))

    def hear(self, place: int, *values: Observation, number: int = 1, home_epoch: int = 1) -> list[Finding]:
        """Another oracle's batch."""
        signed = batch_of(place, *values, number=number, home_epoch=home_epoch)
        return self.take(self.desk.heard(signed, self.book, self.now_ms))

    def wait(self, ms: int) -> list[Finding]:
        """Time passes."""
        until, found = self.now_ms + ms, []
        while (at := self.desk.next_deadline()) is not None and at <= until:
            self.now_ms = max(self.now_ms, at)
            found += self.take(self.desk.on_time(self.book, self.now_ms))
            following = self.desk.next_deadline()
            assert following is None or following > self.now_ms, "a deadline that was reached is still due"
        self.now_ms = until
        return found

    # What comes of it

    def take(self, found: list[Finding], happens: Callable[[], None] = lambda: None) -> list[Finding]:
        """The oracle does what it has to."""
        for finding in found:
            match finding:
                case Observed(lane=lane):
                    if self.signs:
                        self.sign(lane)
                    if finding.opening is not None:
                        self.openings.append(finding.opening)
                case Reopened(opening=opening):
                    self.openings.append(opening)
                case CommitsClosed(task=task, record=record, sources=sources):
                    if record is not None:
                        self.disk[record[0]] = record[1]
                    self.asked.append((task, sources))
                case Dropped(key=key):
                    self.disk.pop(key, None)
                case Contradicted(evidence=evidence):
                    self.evidence.append(evidence)
            happens()
        return found

    def sign(self, lane: Lane) -> None:
        """Put a lane's value into a batch, if it is to be signed."""
        value = self.desk.unsigned(lane, self.book)
        if value is not None:
            self.signed.append(value)
            self.desk.said(1, value)


def batch_of(place: int, *values: Observation, number: int = 1, home_epoch: int = 1) -> SignedBatch:
    """A batch with these values in it."""
    content = pack(Content(values))
    batch = Batch(home_epoch, KEYS[place].node_id, number, ZERO_DIGEST, keccak(content))
    return SignedBatch(batch, KEYS[place].sign(typed_digest(DOMAIN, batch)), content)
