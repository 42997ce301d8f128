"""Evidence about results: two commits for one place, a reveal that opens nothing, two values for one lane.

As with all evidence (``committee.evidence``) two signed statements suffice, whoever shows them.
"""

from collections.abc import Iterable

from protocol.committee import evidence as consensus
from protocol.committee.certificates import CommitteeError, batch_digest, verify_batch
from protocol.core.codec import unpack
from protocol.core.errors import DecodeError, EvidenceError, SignatureError
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain, keccak, typed_digest
from protocol.messages.committee import CONTENT_BYTES_MAX, SignedBatch
from protocol.messages.evidence import ConflictingCommits, ConflictingValues, FalseReveal
from protocol.messages.results import Content, Observation
from protocol.results.commitment import check_commit, check_reveal, commit_of

ResultEvidence = ConflictingCommits | FalseReveal | ConflictingValues
Evidence = consensus.Evidence | ResultEvidence


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


def evidence_id(domain: Domain, convicted: NodeId, evidence: Evidence) -> Digest:
    """The name of evidence that convicted a node. Spec: [EVIDENCE-ID.1]"""
    match evidence:
        case ConflictingCommits(first=first, second=second):
            digests = [typed_digest(domain, signed.commit) for signed in (first, second)]
        case FalseReveal(commit=commit, reveal=reveal):
            digests = [typed_digest(domain, commit.commit), typed_digest(domain, reveal.reveal)]
        case ConflictingValues(first=batch, second=other):
            digests = [Digest(batch_digest(domain, signed.batch)) for signed in (batch, other)]
        case _:
            return consensus.evidence_id(domain, convicted, evidence)
    return Digest(keccak(convicted + b"".join(sorted(digests))))


def observations_of(signed: SignedBatch) -> tuple[Observation, ...]:
    """What a batch says of lanes; nothing where its content is none."""
    try:
        return unpack(Content, signed.content, limit_bytes=CONTENT_BYTES_MAX).observations
    except DecodeError:
        return ()


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
    lane = (evidence.session, evidence.task, evidence.lane)
    said = [_values_for(lane, observations_of(signed)) for signed in (first, second)]
    if not all(said) or len(said[0] | said[1]) < 2:
        raise EvidenceError("conflict", "each batch gives the lane a value, and it is the same")
    for signed in (first, second):
        verify_batch(domain, signed)
    return NodeId(first.batch.oracle)


def _values_for(lane: tuple[bytes, int, int], values: Iterable[Observation]) -> set[Observation]:
    return {value for value in values if (value.session, value.task, value.lane) == lane}
