"""Evidence as a file, and as a person is told of it: who is convicted of what, and which two signatures show it."""

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError, EvidenceError, SignatureError
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain, recover
from protocol.messages.committee import Batch, Statement, StatementKind
from protocol.messages.evidence import (
    EVIDENCE_FILE_BYTES_MAX,
    EVIDENCE_FORMAT,
    ConflictingBatches,
    ConflictingCommits,
    ConflictingFrames,
    ConflictingStatements,
    ConflictingValues,
    EvidenceFile,
    FalseReveal,
    SignedFrame,
)
from protocol.messages.results import Commit, Observation, Verdict
from protocol.results.evidence import Evidence, conflicting_places, convict, evidence_id, observations_at_start
from protocol.results.evidence import signed_halves as halves_of

KINDS: tuple[type[Evidence], ...] = (
    ConflictingStatements,
    ConflictingBatches,
    ConflictingFrames,
    ConflictingCommits,
    FalseReveal,
    ConflictingValues,
)
"""In the order of an evidence file's fields."""


@dataclass(frozen=True, slots=True)
class Half:
    """One of the two statements."""

    says: str
    digest: Digest
    """What was signed."""
    signer: NodeId | None
    """Who signed it; None if the signature is nobody's."""


@dataclass(frozen=True, slots=True)
class Conviction:
    """What a piece of evidence comes to."""

    what: str
    """The kind of contradiction, in words."""
    place: str
    """Of what: the slot, batch or lane of which one node may say one thing."""
    halves: tuple[Half, Half]
    convicted: NodeId | None
    """None: nobody."""
    identity: Digest | None
    """The evidence's name, where it convicts."""
    link: str = ""
    """What does not hold where it convicts nobody: the place, the conflict or a signature."""
    why: str = ""


def make_file(genesis: Genesis, evidence: Iterable[Evidence]) -> EvidenceFile:
    """Evidence of a network as a file; no more than a file may hold. Spec: [EVIDENCE-FILE.1]"""
    by_kind: dict[type[Evidence], list[Evidence]] = {kind: [] for kind in KINDS}
    for piece in evidence:
        by_kind[type(piece)].append(piece)
    return EvidenceFile(EVIDENCE_FORMAT, genesis.to_json(), *(tuple(pieces) for pieces in by_kind.values()))  # type: ignore[arg-type]


def pack_file(file: EvidenceFile) -> bytes:
    """Its one encoding."""
    return pack(file)


def unpack_file(data: bytes) -> EvidenceFile:
    """An evidence file (untrusted). Raises DecodeError. Spec: [EVIDENCE-FILE.1]"""
    file = unpack(EvidenceFile, data, limit_bytes=EVIDENCE_FILE_BYTES_MAX)
    if file.format != EVIDENCE_FORMAT:
        raise DecodeError(f"an evidence file of format {file.format}, known is {EVIDENCE_FORMAT}")
    return file


def pieces_of(file: EvidenceFile) -> tuple[Evidence, ...]:
    """All that is in a file, kind by kind."""
    return (*file.statements, *file.batches, *file.frames, *file.commits, *file.reveals, *file.values)


def pack_piece(evidence: Evidence) -> bytes:
    """One piece with its kind, on its way to a node."""
    return bytes([KINDS.index(type(evidence))]) + pack(evidence)


def unpack_piece(data: bytes, *, limit_bytes: int) -> Evidence:
    """A piece with its kind (untrusted). Raises DecodeError."""
    if not data or data[0] >= len(KINDS):
        raise DecodeError("no evidence of any kind")
    evidence: Evidence = unpack(KINDS[data[0]], data[1:], limit_bytes=limit_bytes)
    return evidence


def judge(domain: Domain, evidence: Evidence) -> Conviction:
    """What evidence (untrusted) comes to, with each half told."""
    what, place, said = _told(evidence)
    first, second = (
        Half(says, digest, _signer(digest, signature))
        for says, (digest, signature) in zip(said, halves_of(domain, evidence), strict=True)
    )
    try:
        convicted = convict(domain, evidence)
    except EvidenceError as error:
        return Conviction(what, place, (first, second), None, None, error.link, str(error))
    identity = evidence_id(domain, convicted, evidence)
    return Conviction(what, place, (first, second), convicted, identity)


def _signer(digest: Digest, signature: bytes) -> NodeId | None:
    try:
        return recover(digest, signature)
    except SignatureError:
        return None


# In words


def _told(evidence: Evidence) -> tuple[str, str, tuple[str, str]]:
    """The contradiction, its place, and what each half says."""
    match evidence:
        case ConflictingStatements(first, second):
            names = [StatementKind(statement.kind).name.lower() for statement in (first, second)]
            named = f"two {names[0]}s" if names[0] == names[1] else f"a {min(names)} and a {max(names)}"
            return f"{named} in one slot", f"slot {first.epoch}/{first.height}", (_stated(first), _stated(second))
        case ConflictingBatches():
            one, other = evidence.first, evidence.second
            place = f"batch {one.number} of epoch {one.home_epoch}"
            return "two batches with one number", place, (_batched(one), _batched(other))
        case ConflictingFrames(first=frame, second=another):
            place = f"{_lane_of(frame.head.session, frame.head.task, frame.head.lane)}, token {frame.frame.index}"
            return "two frames that end at one token", place, (_framed(frame), _framed(another))
        case ConflictingCommits(first=commit, second=later):
            place = _place(commit.commit)
            said = _committed(commit.commit), _committed(later.commit)
            return "two commits to one lane", place, said
        case FalseReveal(commit=made, reveal=signed):
            opened = signed.reveal
            said = _committed(made.commit), f"reveal of {opened.root.hex()}, {opened.count} tokens"
            return "a reveal that does not open the commit", _place(made.commit), said
        case ConflictingValues(session, task, lane, batch, after):
            values = _values(evidence)
            numbers = [signed.batch.number for signed in (batch, after)]
            told = [f"{value}, in batch {number}" for value, number in zip(values, numbers, strict=True)]
            return "two values for one lane", _lane_of(session, task, lane), (told[0], told[1])


def _stated(statement: Statement) -> str:
    kind = StatementKind(statement.kind)
    name = kind.name.lower()
    return name if kind is StatementKind.NULLIFY else f"{name} for block {statement.header.hex()}"


def _batched(batch: Batch) -> str:
    return f"content {batch.content.hex()}, after {batch.previous.hex()}"


def _framed(signed: SignedFrame) -> str:
    return f"{'the end, ' if signed.frame.end else ''}chain {signed.frame.chain.hex()}"


def _committed(commit: Commit) -> str:
    return f"commit {commit.commitment.hex()}"


def _place(commit: Commit) -> str:
    return _lane_of(commit.session, commit.task, commit.lane)


def _lane_of(session: bytes, task: int, lane: int) -> str:
    return f"session {session.hex()}, task {task}, lane {lane}"


def _values(evidence: ConflictingValues) -> tuple[str, str]:
    """What each batch says of the lane; of batches that contradict nothing, nothing."""
    try:
        places = conflicting_places(evidence)
    except EvidenceError:
        return "nothing that contradicts", "nothing that contradicts"
    first, second = (
        tuple(observations_at_start(signed.content))[place]
        for signed, place in zip((evidence.first, evidence.second), places, strict=True)
    )
    return _value(first), _value(second)


def _value(value: Observation) -> str:
    if value.verdict is not Verdict.OK:
        return value.verdict.name.lower()
    return f"ok, {value.root.hex()} of {value.count} tokens"
