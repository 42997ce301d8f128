"""Evidence: two signed statements that no correct node makes both, and who made them.

What contradicts what depends on the two statements alone, not on which came first, who shows them, or what else
is known, so everybody who looks convicts the same node, a contract included. Whether that node had a place or a
stake is the caller's question. What contradicts nothing is looked at before any signature, so made-up evidence costs
its reader a few comparisons.
"""

from protocol.core.errors import EvidenceError, SignatureError
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain, recover, typed_digest
from protocol.messages.committee import NO_HEADER, Statement, StatementKind, statement_digest
from protocol.messages.evidence import ConflictingBatches, ConflictingFrames, ConflictingStatements

Evidence = ConflictingStatements | ConflictingBatches | ConflictingFrames

Half = tuple[Digest, bytes]
"""What was signed, and the signature."""

EXCLUSIVE = frozenset({StatementKind.NULLIFY, StatementKind.FINALIZE})
"""Of these two a member signs one in a slot. A vote goes with either, whatever header it names."""


def convict(domain: Domain, evidence: Evidence) -> NodeId:
    """Who signed both halves of evidence (untrusted). Raises EvidenceError if they contradict nothing, or not one key
    signed both.

    Spec: [EVIDENCE-STATEMENTS.1] [EVIDENCE-BATCHES.1] [EVIDENCE-FRAMES.1] [EVIDENCE-SIGNER.1]
    """
    match evidence:
        case ConflictingStatements():
            _check_statements(evidence.first, evidence.second)
            named = None
        case ConflictingBatches():
            named = _check_batches(evidence)
        case ConflictingFrames():
            named = _check_frames(domain, evidence)
    signers = []
    for digest, signature in signed_halves(domain, evidence):
        try:
            signers.append(recover(digest, signature))
        except SignatureError as error:
            raise EvidenceError("signature", str(error)) from error
    first, second = signers
    if first != second:
        raise EvidenceError("signature", f"one half is signed by {first.hex()}, the other by {second.hex()}")
    if named not in (None, first):
        raise EvidenceError("signature", f"signed by {first.hex()} in the name of another")
    return first


def signed_halves(domain: Domain, evidence: Evidence) -> tuple[Half, Half]:
    """The two digests that one key is said to have signed, each with its signature."""
    first, second = zip(_digests(domain, evidence), _signatures(evidence), strict=True)
    return first, second


def _check_statements(first: Statement, second: Statement) -> None:
    for statement in (first, second):
        if statement.kind is StatementKind.NULLIFY and statement.header != NO_HEADER:
            raise EvidenceError("place", "a nullify names no header")
    slots = [(statement.epoch, statement.height) for statement in (first, second)]
    if slots[0] != slots[1]:
        raise EvidenceError("place", f"the slots are {slots[0]} and {slots[1]}")
    kinds = {first.kind, second.kind}
    if kinds != EXCLUSIVE and (len(kinds) == 2 or first.header == second.header):
        names = f"{first.kind.name.lower()} and {second.kind.name.lower()}"
        raise EvidenceError("conflict", f"a correct member may sign this {names} of one slot")


def _check_batches(evidence: ConflictingBatches) -> NodeId:
    first, second = evidence.first, evidence.second
    if (first.home_epoch, first.oracle, first.number) != (second.home_epoch, second.oracle, second.number):
        raise EvidenceError("place", "the batches differ in home epoch, oracle or number")
    if first == second:
        raise EvidenceError("conflict", "it is one batch twice")
    return NodeId(first.oracle)


def _check_frames(domain: Domain, evidence: ConflictingFrames) -> NodeId:
    first, second = evidence.first, evidence.second
    for name in ("session", "task", "lane", "generation", "miner"):
        if getattr(first.head, name) != getattr(second.head, name):
            raise EvidenceError("place", f"the frames are of different segments by their {name}")
    if first.frame.index != second.frame.index:
        raise EvidenceError("place", f"the frames end at tokens {first.frame.index} and {second.frame.index}")
    for signed in (first, second):
        if signed.frame.segment != typed_digest(domain, signed.head):
            raise EvidenceError("place", "a frame names another segment than its head's")
    if first.head == second.head:
        _check_chains(evidence)
    elif evidence.closing is not None:
        raise EvidenceError("conflict", "two heads of one generation need no closing")
    return NodeId(first.head.miner)


def _check_chains(evidence: ConflictingFrames) -> None:
    """Whether two frames of one segment differ in the chain after their last token, or are two ends."""
    first, second, closing = evidence.first.frame, evidence.second.frame, evidence.closing
    if first.end == second.end:
        if first.chain == second.chain or closing is not None:
            raise EvidenceError("conflict", "it is one frame twice, or has a closing without need")
        return
    frame, end = (second, first) if first.end else (first, second)
    if closing is None or closing.end.close(closing.chain) != end.chain:
        raise EvidenceError("conflict", "an end frame contradicts another only by what its chain was made of")
    if closing.chain == frame.chain:
        raise EvidenceError("conflict", "the segment ends where the other frame does")


def _digests(domain: Domain, evidence: Evidence) -> tuple[Digest, Digest]:
    match evidence:
        case ConflictingStatements():
            return _digest(domain, evidence.first), _digest(domain, evidence.second)
        case ConflictingBatches():
            return typed_digest(domain, evidence.first), typed_digest(domain, evidence.second)
        case ConflictingFrames():
            return typed_digest(domain, evidence.first.frame), typed_digest(domain, evidence.second.frame)


def _digest(domain: Domain, statement: Statement) -> Digest:
    return statement_digest(domain, statement.kind, statement.epoch, statement.height, statement.header)


def _signatures(evidence: Evidence) -> tuple[bytes, bytes]:
    if isinstance(evidence, ConflictingBatches):
        return evidence.first_signature, evidence.second_signature
    return evidence.first.signature, evidence.second.signature
