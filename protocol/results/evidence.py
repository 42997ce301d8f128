"""Evidence about results: two commits for one place, a reveal that opens nothing, two values for one lane.

As with all evidence (``committee.evidence``) two signed statements suffice, whoever shows them.
"""

from collections.abc import Iterator
from itertools import product

import msgpack
import msgspec

from protocol.committee import evidence as consensus
from protocol.committee.certificates import CommitteeError, batch_digest, verify_batch
from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError, EvidenceError, SignatureError
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain, keccak, typed_digest
from protocol.messages.committee import CONTENT_BYTES_MAX, SignedBatch
from protocol.messages.evidence import ConflictingCommits, ConflictingValues, FalseReveal
from protocol.messages.results import Content, Observation
from protocol.results.commitment import check_commit, check_reveal, commit_of

Half = consensus.Half
ResultEvidence = ConflictingCommits | FalseReveal | ConflictingValues
Evidence = consensus.Evidence | ResultEvidence

_ARRAY_HEAD = 0x90
_FIELDS_MAX = 15


def convict(domain: Domain, evidence: Evidence) -> NodeId:
    """Whom evidence of any kind (untrusted) convicts. Raises EvidenceError.

    Spec: [EVIDENCE-COMMITS.1] [EVIDENCE-REVEAL.1] [EVIDENCE-VALUES.1]
    """
    try:
        match evidence:
            case ConflictingCommits():
                return _convict_commits(domain, evidence)
            case FalseReveal():
                return _convict_reveal(domain, evidence)
            case ConflictingValues():
                return _convict_values(domain, evidence)
    except (SignatureError, CommitteeError) as error:
        raise EvidenceError("signature", str(error)) from error
    return consensus.convict(domain, evidence)


def signed_halves(domain: Domain, evidence: Evidence) -> tuple[Half, Half]:
    """The two digests that one key is said to have signed, each with its signature."""
    match evidence:
        case ConflictingCommits(first=first, second=second):
            return (
                (typed_digest(domain, first.commit), first.signature),
                (typed_digest(domain, second.commit), second.signature),
            )
        case FalseReveal(commit=commit, reveal=reveal):
            return (
                (typed_digest(domain, commit.commit), commit.signature),
                (typed_digest(domain, reveal.reveal), reveal.signature),
            )
        case ConflictingValues(first=batch, second=other):
            return (
                (Digest(batch_digest(domain, batch.batch)), batch.signature),
                (Digest(batch_digest(domain, other.batch)), other.signature),
            )
    return consensus.signed_halves(domain, evidence)


def evidence_id(domain: Domain, convicted: NodeId, evidence: Evidence) -> Digest:
    """The name of evidence that convicted a node: the same whichever half comes first, and whatever bytes the
    signatures have. Spec: [EVIDENCE-ID.1]
    """
    digests = sorted(digest for digest, _ in signed_halves(domain, evidence))
    return Digest(keccak(convicted + b"".join(digests)))


def observations_of(signed: SignedBatch) -> tuple[Observation, ...]:
    """What a batch says of lanes; nothing where its content is none."""
    try:
        return unpack(Content, signed.content, limit_bytes=CONTENT_BYTES_MAX).observations
    except DecodeError:
        return ()


def observations_at_start(content: bytes) -> Iterator[Observation]:
    """What a batch says of lanes by the start of its content (untrusted), whatever follows, as a contract reads it: a
    head of 1 to 15 fields, that of the observations, and they themselves, up to the first that is not in the one
    encoding. For content of a correct oracle these are its observations. Spec: [EVIDENCE-VALUES.2]
    """
    if not content or not 1 <= content[0] - _ARRAY_HEAD <= _FIELDS_MAX:
        return
    unpacker = msgpack.Unpacker(use_list=True, raw=False, max_buffer_size=CONTENT_BYTES_MAX)
    packer = msgpack.Packer()
    try:
        unpacker.feed(content[1:])
        count, before = unpacker.read_array_header(), 0
        canonical = packer.pack_array_header(count)
        for _ in range(count):
            if content[1 + before : 1 + unpacker.tell()] != canonical:
                return
            before = unpacker.tell()
            value = msgspec.convert(unpacker.unpack(), Observation)
            canonical = pack(value)
            if content[1 + before : 1 + unpacker.tell()] == canonical:
                yield value
    except (msgspec.ValidationError, ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return


def conflicting_places(evidence: ConflictingValues) -> tuple[int, int]:
    """At what places, from 0, of the first and second content the two values stand. Raises EvidenceError."""
    lane = (evidence.session, evidence.task, evidence.lane)
    said = [_values_for(lane, signed) for signed in (evidence.first, evidence.second)]
    for (value, first), (other, second) in product(*(values.items() for values in said)):
        if value != other:
            return first, second
    raise EvidenceError("conflict", "each batch gives the lane a value, and it is the same")


def _convict_commits(domain: Domain, evidence: ConflictingCommits) -> NodeId:
    first, second = evidence.first.commit, evidence.second.commit
    places = [(each.session, each.task, each.lane, each.generation, each.miner) for each in (first, second)]
    if places[0] != places[1]:
        raise EvidenceError("place", "the commits are of different lanes, generations or miners")
    if first == second:
        raise EvidenceError("conflict", "it is one commit twice")
    for signed in (evidence.first, evidence.second):
        check_commit(domain, signed)
    return NodeId(first.miner)


def _convict_reveal(domain: Domain, evidence: FalseReveal) -> NodeId:
    commit, reveal = evidence.commit.commit, evidence.reveal.reveal
    opened = commit_of(domain, reveal)
    if (opened.session, opened.task, opened.lane, opened.generation, opened.miner) != (
        commit.session,
        commit.task,
        commit.lane,
        commit.generation,
        commit.miner,
    ):
        raise EvidenceError("place", "the reveal is of another lane, generation or miner")
    if opened == commit:
        raise EvidenceError("conflict", "the reveal opens the commit")
    check_commit(domain, evidence.commit)
    check_reveal(domain, evidence.reveal)
    return NodeId(commit.miner)


def _convict_values(domain: Domain, evidence: ConflictingValues) -> NodeId:
    first, second = evidence.first, evidence.second
    if first.batch.oracle != second.batch.oracle:
        raise EvidenceError("place", "the batches are of two oracles")
    conflicting_places(evidence)
    for signed in (first, second):
        verify_batch(domain, signed)
    return NodeId(first.batch.oracle)


def _values_for(lane: tuple[bytes, int, int], signed: SignedBatch) -> dict[Observation, int]:
    """What a batch says of a lane, each value with a place of it."""
    said = enumerate(observations_at_start(signed.content))
    return {value: place for place, value in said if (value.session, value.task, value.lane) == lane}
