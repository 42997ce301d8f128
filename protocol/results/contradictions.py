"""Finds what contradicts what among signed statements, from whatever papers they come: receipts, blocks, evidence.

All papers are of one network and none is trusted. A statement counts for its place only once its signature is checked,
so nobody can crowd out another's contradiction; and what is found is convicted once more, by the rule that everybody
convicts by.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from protocol.committee.certificates import statement_signer, statements_of, verify_batch
from protocol.committee.cut import Cut
from protocol.committee.evidence import EXCLUSIVE
from protocol.core.codec import unpack
from protocol.core.errors import DecodeError, EvidenceError, RemoteProtocolError
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain, typed_digest, verify
from protocol.messages.committee import (
    BODY_BYTES_MAX,
    Batch,
    Block,
    Certificate,
    SignedBatch,
    Statement,
    StatementKind,
)
from protocol.messages.evidence import (
    PIECES_MAX,
    VALUES_MAX,
    Closing,
    ConflictingBatches,
    ConflictingCommits,
    ConflictingFrames,
    ConflictingStatements,
    ConflictingValues,
    FalseReveal,
    SignedFrame,
)
from protocol.messages.receipts import Receipt
from protocol.messages.results import Commit, Observation, Reveal, SignedCommit, SignedReveal
from protocol.messages.tasks import Frame
from protocol.results.commitment import check_commit, check_reveal
from protocol.results.evidence import Evidence, convict, evidence_id, observations_at_start
from protocol.results.judging import place_of

PLACE_PIECES_MAX = 8
"""One is enough against who contradicts itself in one place; of thousands the rest is left out."""

Place = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """All that contradicts, each piece convicting, and whether there is more of it."""

    evidence: tuple[Evidence, ...]
    more: bool


class Statements:
    """What was signed, by the place in which its signer may say only one thing. Spec: [EVIDENCE-FIND.1]"""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._slots: dict[Place, dict[Statement, None]] = {}
        """Who signed these shows only in the signature, which is looked at where a slot holds a contradiction."""
        self._batches: dict[Place, dict[Batch, bytes]] = {}
        self._values: dict[tuple[bytes, bytes, int, int], dict[Observation, SignedBatch]] = {}
        self._commits: dict[Place, dict[Commit, SignedCommit]] = {}
        self._reveals: dict[Place, dict[Reveal, SignedReveal]] = {}
        self._frames: dict[Place, dict[Frame, SignedFrame]] = {}
        self._closings: dict[bytes, Closing] = {}
        """By the chain after the end record."""

    def counts(self) -> dict[str, int]:
        """How many different statements there are, by kind; a batch's values count each."""
        return {
            "statements": _count(self._slots),
            "batches": _count(self._batches),
            "values": _count(self._values),
            "commits": _count(self._commits),
            "reveals": _count(self._reveals),
            "frames": _count(self._frames),
        }

    # What is looked at

    def receipt(self, receipt: Receipt) -> None:
        """All that a receipt (untrusted) holds of miners and oracles."""
        last = len(receipt.segments) - 1
        for at, segment in enumerate(receipt.segments):
            named = typed_digest(self._domain, segment.head)
            frame = Frame(named, segment.index, segment.chain, at == last)
            self.frame(SignedFrame(segment.head, frame, segment.signature))
        self.closing(Closing(receipt.chain, receipt.end))
        if receipt.commit is not None:
            self.commit(receipt.commit)
        if receipt.reveal is not None:
            self.reveal(receipt.reveal)
        for signed in receipt.batches:
            self.batch(signed)
        certified = [hand_over.certified for hand_over in receipt.hand_overs]
        certified += [] if receipt.final is None else [receipt.final.certified]
        if receipt.settled is not None:
            certified.append(receipt.settled.certified)
            certified += [] if receipt.settled.evm is None else [receipt.settled.evm.anchored]
        for each in certified:
            self.certificate(each.certificate)

    def evidence(self, evidence: Evidence) -> None:
        """Both halves of evidence (untrusted), which may contradict still other things."""
        match evidence:
            case ConflictingStatements(first=first, second=second):
                self.statement(first)
                self.statement(second)
            case ConflictingBatches():
                self._numbered(evidence.first, evidence.first_signature)
                self._numbered(evidence.second, evidence.second_signature)
            case ConflictingFrames(first=one, second=other, closing=closing):
                self.frame(one)
                self.frame(other)
                if closing is not None:
                    self.closing(closing)
            case ConflictingCommits(first=commit, second=another):
                self.commit(commit)
                self.commit(another)
            case FalseReveal(commit=commit, reveal=reveal):
                self.commit(commit)
                self.reveal(reveal)
            case ConflictingValues(first=batch, second=later):
                self.batch(batch)
                self.batch(later)

    def block(self, block: Block) -> None:
        """Whose word made a block what it is, and the batches in it."""
        if block.certificate is not None:
            self.certificate(block.certificate)
        try:
            batches = unpack(Cut, block.body, limit_bytes=BODY_BYTES_MAX).batches if block.body else ()
        except DecodeError:
            return
        for signed in batches:
            self.batch(signed)

    def certificate(self, certificate: Certificate) -> None:
        """What each of its signers said."""
        for _, statement in statements_of(certificate):
            self.statement(statement)

    def statement(self, statement: Statement) -> None:
        """A member's word on a slot."""
        self._slots.setdefault((statement.epoch, statement.height), {})[statement] = None

    def batch(self, signed: SignedBatch) -> None:
        """A batch, with what it says of lanes."""
        if not _holds(verify_batch, self._domain, signed):
            return
        self._numbered(signed.batch, signed.signature)
        for value in observations_at_start(signed.content):
            lane = (signed.batch.oracle, value.session, value.task, value.lane)
            self._values.setdefault(lane, {}).setdefault(value, signed)

    def frame(self, signed: SignedFrame) -> None:
        """A miner's frame."""
        head, frame = signed.head, signed.frame
        if frame.segment == typed_digest(self._domain, head) and self._signed(frame, signed.signature, head.miner):
            place = (head.session, head.task, head.lane, head.generation, head.miner, frame.index)
            self._frames.setdefault(place, {}).setdefault(frame, signed)

    def closing(self, closing: Closing) -> None:
        """What the chain of an end frame was made of; nobody signed it, and it fits one such chain or none."""
        self._closings.setdefault(closing.end.close(closing.chain), closing)

    def commit(self, signed: SignedCommit) -> None:
        """A miner's commit."""
        if _holds(check_commit, self._domain, signed):
            self._commits.setdefault(place_of(signed.commit), {}).setdefault(signed.commit, signed)

    def reveal(self, signed: SignedReveal) -> None:
        """A miner's reveal."""
        if _holds(check_reveal, self._domain, signed):
            self._reveals.setdefault(place_of(signed.reveal), {}).setdefault(signed.reveal, signed)

    def _numbered(self, batch: Batch, signature: bytes) -> None:
        if self._signed(batch, signature, batch.oracle):
            place = (batch.home_epoch, batch.oracle, batch.number)
            self._batches.setdefault(place, {}).setdefault(batch, signature)

    def _signed(self, value: Batch | Frame, signature: bytes, signer: bytes) -> bool:
        return _holds(verify, typed_digest(self._domain, value), signature, signer, "it")

    # What contradicts

    def find(self) -> Found:
        """All of it, kind by kind."""
        found: dict[Digest, Evidence] = {}
        more = False
        for limit, places in (
            (PIECES_MAX, self._of_slots()),
            (PIECES_MAX, self._of_batches()),
            (PIECES_MAX, self._of_frames()),
            (PIECES_MAX, self._of_commits()),
            (PIECES_MAX, self._of_reveals()),
            (VALUES_MAX, self._of_values()),
        ):
            room = len(found) + limit
            for pairs in places:
                more |= self._take(pairs, found, room)
        return Found(tuple(found.values()), more)

    def _take(self, pairs: Iterable[Evidence], found: dict[Digest, Evidence], room: int) -> bool:
        """Add what of one place's pairs convicts; True if some had to be left out."""
        taken = 0
        for evidence in pairs:
            try:
                identity = evidence_id(self._domain, convict(self._domain, evidence), evidence)
            except EvidenceError:
                continue
            if identity in found:
                continue
            if taken == PLACE_PIECES_MAX or len(found) == room:
                return True
            found[identity] = evidence
            taken += 1
        return False

    def _of_slots(self) -> Iterator[Iterable[Evidence]]:
        for said in self._slots.values():
            if _may_contradict(said):
                for each in self._by_signer(said).values():
                    yield (ConflictingStatements(*pair) for pair in combinations(each, 2))

    def _by_signer(self, said: Iterable[Statement]) -> dict[NodeId, list[Statement]]:
        by_signer: dict[NodeId, dict[Place, Statement]] = {}
        for statement in said:
            try:
                signer = statement_signer(self._domain, statement)
            except RemoteProtocolError:
                continue
            by_signer.setdefault(signer, {}).setdefault((statement.kind, statement.header), statement)
        return {signer: list(statements.values()) for signer, statements in by_signer.items()}

    def _of_batches(self) -> Iterator[Iterable[Evidence]]:
        for said in self._batches.values():
            yield (ConflictingBatches(*first, *second) for first, second in combinations(said.items(), 2))

    def _of_frames(self) -> Iterator[Iterable[Evidence]]:
        for said in self._frames.values():
            yield (self._frames_of(*pair) for pair in combinations(said.values(), 2))

    def _frames_of(self, first: SignedFrame, second: SignedFrame) -> Evidence:
        closing = None
        if first.head == second.head and first.frame.end != second.frame.end:
            end = first if first.frame.end else second
            closing = self._closings.get(end.frame.chain)
        return ConflictingFrames(first, second, closing)

    def _of_commits(self) -> Iterator[Iterable[Evidence]]:
        for said in self._commits.values():
            yield (ConflictingCommits(*pair) for pair in combinations(said.values(), 2))

    def _of_reveals(self) -> Iterator[Iterable[Evidence]]:
        for place, said in self._reveals.items():
            commits = self._commits.get(place, {})
            yield (FalseReveal(*pair) for pair in product(commits.values(), said.values()))

    def _of_values(self) -> Iterator[Iterable[Evidence]]:
        for (_, session, task, lane), said in self._values.items():
            yield (ConflictingValues(session, task, lane, *pair) for pair in combinations(said.values(), 2))


def _count(held: Mapping[Any, Sized]) -> int:
    return sum(map(len, held.values()))


def _may_contradict(said: Iterable[Statement]) -> bool:
    """Whether two statements of a slot would contradict each other if one key had signed them."""
    headers: dict[StatementKind, set[bytes]] = {}
    for statement in said:
        headers.setdefault(statement.kind, set()).add(statement.header)
    return headers.keys() >= EXCLUSIVE or any(len(named) > 1 for named in headers.values())


def _holds(check: Callable[..., None], *arguments: Any) -> bool:
    try:
        check(*arguments)
    except RemoteProtocolError:
        return False
    return True
