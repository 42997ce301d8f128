"""Golden vectors of evidence, whom it convicts and what convicts nobody: ``python -m tests.vectors.evidence`` writes.

``protocol.results.evidence.convict`` and the contract ``Evidence`` are both held to the file, so what a node tells of
another is what the contract slashes for. A vector changes only when a rule does.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from protocol.core.codec import pack
from protocol.core.errors import EvidenceError
from protocol.core.ids import NetworkId
from protocol.core.signing import SECP256K1_N, Domain, TypedStruct, keccak, typed_digest
from protocol.messages.committee import Batch, SignedBatch, Statement, StatementKind, statement_digest
from protocol.messages.evidence import (
    Closing,
    ConflictingBatches,
    ConflictingCommits,
    ConflictingFrames,
    ConflictingStatements,
    ConflictingValues,
    FalseReveal,
    SignedFrame,
)
from protocol.messages.results import Commit, Content, Observation, Reveal, SignedCommit, SignedReveal, Verdict
from protocol.messages.tasks import EndReason, EndRecord, Frame, SegmentHead
from protocol.results.commitment import commit_of
from protocol.results.evidence import Evidence, convict, evidence_id
from tests.unit.protocol.keys import key

EVIDENCE = Path(__file__).with_name("evidence.json")

MANIFEST = {
    "suite": "evidence",
    "format": 1,
    "rules": [
        "EVIDENCE-STATEMENTS.1",
        "EVIDENCE-BATCHES.1",
        "EVIDENCE-VALUES.1",
        "EVIDENCE-VALUES.2",
        "EVIDENCE-COMMITS.1",
        "EVIDENCE-REVEAL.1",
        "EVIDENCE-FRAMES.1",
        "EVIDENCE-SIGNER.1",
        "EVIDENCE-ID.1",
    ],
    "reading": (
        "bytes are hex; evidence is the canonical MessagePack of the struct that kind names; convicted is the node "
        "that it convicts and id the evidence's name under chain_id and network_id, or both are null and refused says "
        "what does not hold: place, conflict or signature"
    ),
}

DOMAIN = Domain(NetworkId(bytes(range(32))), 31_337)
ELSEWHERE = Domain(NetworkId(bytes(range(32))), 1)
OTHER_NETWORK = Domain(NetworkId(bytes(32)), 31_337)
ALICE, BOB = key(1), key(2)
A, B, ZERO = b"\xaa" * 32, b"\xbb" * 32, bytes(32)
KINDS: dict[str, type[msgspec.Struct]] = {
    cls.__name__: cls
    for cls in (
        ConflictingStatements,
        ConflictingBatches,
        ConflictingValues,
        ConflictingCommits,
        FalseReveal,
        ConflictingFrames,
    )
}


@dataclass(frozen=True)
class Case:
    """Evidence, and by what it fails; None: it convicts Alice."""

    name: str
    evidence: Evidence
    refused: str | None = None


def other(value: Any, **fields: Any) -> Any:
    """A struct with some fields changed."""
    return msgspec.structs.replace(value, **fields)


def signed(value: TypedStruct, signer: Any = ALICE, domain: Domain = DOMAIN) -> bytes:
    """A node's signature of a struct."""
    return bytes(signer.sign(typed_digest(domain, value)))


def mirrored(signature: bytes) -> bytes:
    """The other signature of the same digest by the same key, whose s is in the upper half."""
    s = SECP256K1_N - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


# Statements


def stated(
    kind: StatementKind,
    header: bytes = A,
    height: int = 9,
    epoch: int = 3,
    signer: Any = ALICE,
    domain: Domain = DOMAIN,
) -> Statement:
    """A signed statement; a nullify names no header."""
    header = ZERO if kind is StatementKind.NULLIFY else header
    return Statement(kind, epoch, height, header, signer.sign(statement_digest(domain, kind, epoch, height, header)))


def _statements() -> Iterator[Case]:
    proposal, vote, nullify, finalize = (partial(stated, kind) for kind in StatementKind)
    two = ConflictingStatements
    yield Case("two proposals", two(proposal(A), proposal(B)))
    yield Case("two votes", two(vote(A), vote(B)))
    yield Case("two votes, the other way round", two(vote(B), vote(A)))
    yield Case("two finalizes", two(finalize(A), finalize(B)))
    yield Case("nullify and finalize", two(nullify(), finalize(A)))
    yield Case("finalize and nullify", two(finalize(A), nullify()))
    yield Case("slot 2^63 - 1 of epoch 2^63 - 1", two(*(vote(name, 2**63 - 1, 2**63 - 1) for name in (A, B))))
    yield Case("one vote twice", two(vote(A), vote(A)), "conflict")
    yield Case("one nullify twice", two(nullify(), nullify()), "conflict")
    yield Case("vote and nullify", two(vote(A), nullify()), "conflict")
    yield Case("vote and finalize of another", two(vote(A), finalize(B)), "conflict")
    yield Case("proposal and vote of another", two(proposal(A), vote(B)), "conflict")
    yield Case("proposal and finalize of another", two(proposal(A), finalize(B)), "conflict")
    yield Case("votes of two heights", two(vote(A), vote(B, 10)), "place")
    yield Case("votes of two epochs", two(vote(A), vote(B, 9, 4)), "place")
    yield Case("a nullify that names a header", two(other(nullify(), header=B), finalize(A)), "place")
    yield Case("two nullifies that name headers", two(*(other(nullify(), header=at) for at in (A, B))), "place")
    yield Case("votes of two members", two(vote(A), vote(B, signer=BOB)), "signature")
    yield Case("a vote of another chain", two(vote(A), vote(B, domain=ELSEWHERE)), "signature")
    yield Case("a vote of another network", two(vote(A), vote(B, domain=OTHER_NETWORK)), "signature")
    yield Case("a vote under a proposal's signature", two(vote(A), other(proposal(B), kind=2)), "signature")
    high, no_key = vote(B), vote(B)
    yield Case("s in the upper half", two(vote(A), other(high, signature=mirrored(high.signature))), "signature")
    yield Case("a signature of no key", two(vote(A), other(no_key, signature=bytes(64) + b"\x1b")), "signature")
    point = bytes(31) + b"\x05" + no_key.signature[32:]
    yield Case("an r on no point of the curve", two(vote(A), other(no_key, signature=point)), "signature")


# Batches and values

BATCH = Batch(4, ALICE.node, 9, A, A)
VALUE = Observation(A, 7, 1, Verdict.OK, B, 812)
LATE = other(VALUE, verdict=Verdict.LATE, root=ZERO, count=0)


def _batches() -> Iterator[Case]:
    def two(first: Batch, second: Batch, signer: Any = ALICE) -> ConflictingBatches:
        return ConflictingBatches(first, signed(first, signer), second, signed(second, signer))

    yield Case("two contents", two(BATCH, other(BATCH, content=B)))
    yield Case("two predecessors", two(BATCH, other(BATCH, previous=B)))
    yield Case("one batch twice", two(BATCH, BATCH), "conflict")
    yield Case("two numbers", two(BATCH, other(BATCH, number=10, content=B)), "place")
    yield Case("two home epochs", two(BATCH, other(BATCH, home_epoch=5, content=B)), "place")
    yield Case("two oracles", two(BATCH, other(BATCH, oracle=BOB.node, content=B)), "place")
    yield Case("signed in the name of another", two(BATCH, other(BATCH, content=B), BOB), "signature")


def _said(*values: Observation, number: int = 9, content: bytes | None = None, signer: Any = ALICE) -> SignedBatch:
    content = pack(Content(observations=values)) if content is None else content
    batch = Batch(4, signer.node, number, A, keccak(content))
    return SignedBatch(batch, signed(batch, signer), content)


def _values() -> Iterator[Case]:
    two = partial(ConflictingValues, A, 7, 1)
    fill = [
        Observation(A, task, 0, Verdict.OK, B, task * 1_000_003) for task in (1, 127, 128, 255, 256, 65_535, 65_536)
    ]
    many = [other(fill[0], task=2**32 - 1, lane=lane, count=2**63 - 1) for lane in range(30)]
    yield Case("two values in two batches", two(_said(VALUE), _said(LATE, number=10)))
    yield Case("two values in one batch", two(_said(VALUE, LATE), _said(VALUE, LATE)))
    yield Case("two roots", two(_said(VALUE), _said(other(VALUE, root=A), number=10)))
    yield Case("two counts", two(_said(VALUE), _said(other(VALUE, count=813), number=10)))
    yield Case("behind others", two(_said(*fill, VALUE), _said(*many, *fill, LATE, number=10)))
    yield Case("as last of sixteen", two(_said(*many[:15], VALUE), _said(LATE, number=10)))
    yield Case("both of one number", two(_said(VALUE), _said(LATE)))
    tail = pack(Content(observations=(LATE,)))
    yield Case("with nonsense behind", two(_said(VALUE), _said(content=tail + b"\xc1", number=10)))
    yield Case("cut after the value", two(_said(VALUE), _said(content=b"\x9f\x92" + pack(LATE), number=10)))
    yield Case("one value twice", two(_said(VALUE), _said(VALUE, number=10)), "conflict")
    yield Case("of two lanes", two(_said(VALUE), _said(other(LATE, lane=2), number=10)), "conflict")
    yield Case("of two tasks", two(_said(VALUE), _said(other(LATE, task=8), number=10)), "conflict")
    yield Case("of two sessions", two(_said(VALUE), _said(other(LATE, session=B), number=10)), "conflict")
    yield Case("of another lane than is named", ConflictingValues(B, 7, 1, _said(VALUE), _said(LATE)), "conflict")
    yield Case("a batch that says nothing", two(_said(VALUE, LATE), _said(number=10)), "conflict")
    hidden = b"\x93\x90\x91" + pack(LATE) + b"\x90"
    yield Case("a value that is no observation's", two(_said(VALUE), _said(content=hidden, number=10)), "conflict")
    wide = pack(Content(observations=(LATE,))).replace(b"\x07\x01\x02", b"\xcc\x07\x01\x02")
    yield Case("an integer too wide", two(_said(VALUE), _said(content=wide, number=10)), "conflict")
    after = b"\x91\x92" + b"\x95" + pack(VALUE)[1:] + pack(LATE)
    yield Case("behind what is no observation", two(_said(VALUE), _said(content=after, number=10)), "conflict")
    long_head = b"\x91\xdc\x00\x01" + pack(LATE)
    yield Case("a head too long", two(_said(VALUE), _said(content=long_head, number=10)), "conflict")
    verdict = pack(Content(observations=(LATE,))).replace(b"\x07\x01\x02", b"\x07\x01\x06")
    yield Case("an unknown verdict", two(_said(VALUE), _said(content=verdict, number=10)), "conflict")
    yield Case("no content", two(_said(VALUE), _said(content=b"", number=10)), "conflict")
    cut = pack(Content(observations=(LATE,)))[:60]
    yield Case("cut within the value", two(_said(VALUE), _said(content=cut, number=10)), "conflict")
    foreign = other(_said(LATE, number=10), content=pack(Content(observations=(VALUE, LATE))))
    yield Case("a content that the batch does not name", two(_said(VALUE), foreign), "signature")
    yield Case("batch number 0", two(_said(VALUE), _said(LATE, number=0)), "signature")
    yield Case("two oracles' values", two(_said(VALUE), _said(LATE, signer=BOB)), "place")
    batch = _said(LATE, number=10)
    yield Case(
        "a batch another signed", two(_said(VALUE), other(batch, signature=signed(batch.batch, BOB))), "signature"
    )


# Commits and reveals

COMMIT = Commit(A, 7, 1, b"\x01" * 24, ALICE.node, A)
REVEAL = Reveal(A, 7, 1, b"\x01" * 24, ALICE.node, B, 812, A)


def _commits() -> Iterator[Case]:
    def two(first: Commit, second: Commit, signer: Any = ALICE) -> ConflictingCommits:
        return ConflictingCommits(SignedCommit(first, signed(first)), SignedCommit(second, signed(second, signer)))

    again = other(COMMIT, commitment=B)
    yield Case("two commitments", two(COMMIT, again))
    yield Case("one commit twice", two(COMMIT, COMMIT), "conflict")
    places = {"session": B, "task": 8, "lane": 2, "generation": b"\x02" * 24, "miner": BOB.node}
    for name, value in places.items():
        yield Case(f"commits that differ in {name}", two(COMMIT, other(again, **{name: value})), "place")
    yield Case("a commit another signed", two(COMMIT, again, BOB), "signature")


def _reveals() -> Iterator[Case]:
    def false(commit: Commit, reveal: Reveal, signer: Any = ALICE) -> FalseReveal:
        return FalseReveal(SignedCommit(commit, signed(commit)), SignedReveal(reveal, signed(reveal, signer)))

    opened = commit_of(DOMAIN, REVEAL)
    yield Case("another root", false(opened, other(REVEAL, root=A)))
    yield Case("another salt", false(opened, other(REVEAL, salt=B)))
    yield Case("a reveal of another network", false(commit_of(OTHER_NETWORK, REVEAL), REVEAL))
    yield Case("a reveal that opens", false(opened, REVEAL), "conflict")
    yield Case("another count opens as well", false(opened, other(REVEAL, count=1)), "conflict")
    places = {"session": B, "task": 8, "lane": 2, "generation": b"\x02" * 24, "miner": BOB.node}
    for name, value in places.items():
        yield Case(f"a reveal that differs in {name}", false(opened, other(REVEAL, root=A, **{name: value})), "place")
    yield Case("a reveal another signed", false(opened, other(REVEAL, root=A), BOB), "signature")


# Frames

HEAD = SegmentHead(A, 7, 0, b"\x01" * 24, ALICE.node, A, A, BOB.node, 1, A, 3, A, A, 0, ZERO)
END = EndRecord(EndReason.STOP, 3, 4, 2**32 - 1)


def _frame(
    chain: bytes, head: SegmentHead = HEAD, index: int = 64, signer: Any = ALICE, *, end: bool = False
) -> SignedFrame:
    frame = Frame(typed_digest(DOMAIN, head), index, chain, end)
    return SignedFrame(head, frame, signed(frame, signer))


def _frames() -> Iterator[Case]:
    two, ended = ConflictingFrames, partial(_frame, end=True)
    fork = other(HEAD, start_index=1)
    closed, closing = END.close(A), Closing(A, END)
    yield Case("two chains at one token", two(_frame(A), _frame(B)))
    yield Case("two ends at one token", two(ended(A), ended(B)))
    yield Case("two segments of one generation", two(_frame(A), _frame(A, fork)))
    yield Case("two segments, one of them ended", two(_frame(A), ended(B, fork)))
    yield Case("an end of another chain", two(_frame(B), ended(closed), closing))
    yield Case("an end of another chain, first", two(ended(closed), _frame(B), closing))
    cancelled = other(END, reason=EndReason.CANCELLED)
    yield Case("a cancelled end", two(_frame(B), ended(cancelled.close(A)), Closing(A, cancelled)))
    yield Case("one frame twice", two(_frame(A), _frame(A)), "conflict")
    yield Case("one frame twice, with a closing", two(_frame(A), _frame(A), closing), "conflict")
    yield Case("two chains, with a closing", two(_frame(A), _frame(B), closing), "conflict")
    yield Case("two segments, with a closing", two(_frame(A), _frame(A, fork), closing), "conflict")
    yield Case("an end of the same chain", two(_frame(A), ended(closed), closing), "conflict")
    yield Case("an end without its closing", two(_frame(B), ended(closed)), "conflict")
    yield Case("an end with another's closing", two(_frame(B), ended(closed), Closing(B, END)), "conflict")
    for name, value in {"reason": 1, "prompt_tokens": 4, "completion_tokens": 5, "cached_tokens": 0}.items():
        wrong = Closing(A, other(END, **{name: value}))
        yield Case(f"a closing of another {name}", two(_frame(B), ended(closed), wrong), "conflict")
    yield Case("frames of two tokens", two(_frame(A), _frame(B, index=65)), "place")
    for name, value in {"session": B, "task": 8, "lane": 1, "generation": b"\x02" * 24, "miner": BOB.node}.items():
        yield Case(f"heads that differ in {name}", two(_frame(A), _frame(B, other(HEAD, **{name: value}))), "place")
    yield Case("a frame of another head", two(_frame(A), other(_frame(B), head=fork)), "place")
    yield Case("a frame another signed", two(_frame(A), _frame(B, signer=BOB)), "signature")
    yield Case("in the name of another", two(_frame(A, signer=BOB), _frame(B, signer=BOB)), "signature")


def cases() -> list[Case]:
    """All cases, by kind."""
    return [*_statements(), *_batches(), *_values(), *_commits(), *_reveals(), *_frames()]


def evidence_vectors() -> dict[str, Any]:
    """The content of evidence.json."""
    return {
        "manifest": MANIFEST,
        "chain_id": DOMAIN.chain_id,
        "network_id": DOMAIN.network_id.hex(),
        "cases": [_vector(case) for case in cases()],
    }


def _vector(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = {"convicted": None, "id": None, "refused": None}
    try:
        node = convict(DOMAIN, case.evidence)
    except EvidenceError as error:
        found["refused"] = error.link
    else:
        found |= {"convicted": node.hex(), "id": evidence_id(DOMAIN, node, case.evidence).hex()}
    # What the case is said to show is part of it: a script that only wrote down what the code does would hold nothing.
    if found["refused"] != case.refused or found["convicted"] not in (None, ALICE.node.hex()):
        raise SystemExit(f"{case.name}: {found}, not {case.refused or 'convicted'}")
    kind = type(case.evidence).__name__
    return {"name": case.name, "kind": kind, "evidence": pack(case.evidence).hex(), **found}


if __name__ == "__main__":
    EVIDENCE.write_text(json.dumps(evidence_vectors(), indent=1) + "\n")
