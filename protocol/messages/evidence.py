"""Evidence: two signed statements that no correct node makes both; and what the committee tells everybody."""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.codec import Message, message
from protocol.core.signing import U8, U32, U64, Bytes20, Bytes32, SignatureBytes
from protocol.messages.committee import Batch, Certified, SignedBatch, Statement
from protocol.messages.results import SignedCommit, SignedReveal
from protocol.messages.tasks import EndRecord, Frame, SegmentHead

EVIDENCE_FORMAT = 1
EVIDENCE_FILE_BYTES_MAX = 8 << 20
PIECES_MAX = 1_024
"""Of one kind in a file."""
VALUES_MAX = 64
"""Pairs of batches with all that they hold: they are the large ones."""
PIECE_BYTES_MAX = 36_864
"""Of one piece: two batches with all that they can hold, and what goes with them."""


class ConflictingStatements(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Two statements of one member that contradict each other."""

    first: Statement
    second: Statement


class ConflictingBatches(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Two batches of one oracle with one number; the contents do not matter."""

    first: Batch
    first_signature: SignatureBytes
    second: Batch
    second_signature: SignatureBytes


class SignedFrame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a miner signed of a lane, with the head of its segment, which says of what lane."""

    head: SegmentHead
    frame: Frame
    signature: SignatureBytes


class Closing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the chain of an end frame was made of."""

    chain: Bytes32
    """The chain after the last token."""
    end: EndRecord


class ConflictingFrames(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Two frames of one miner that end at the same token of one (session, task, lane, generation)."""

    first: SignedFrame
    second: SignedFrame
    closing: Closing | None = None
    """Of the end frame, where the other is none: so the chains after the last token can be compared."""


class ConflictingCommits(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Two commits of one miner to one (session, task, lane, generation)."""

    first: SignedCommit
    second: SignedCommit


class FalseReveal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A commit, and a reveal of the same miner and place that does not open it."""

    commit: SignedCommit
    reveal: SignedReveal


class ConflictingValues(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Two values of one oracle for one lane, in two of its batches, or in one that is both."""

    session: Bytes32
    task: U32
    lane: U8
    first: SignedBatch
    second: SignedBatch


@message(kind=58, limit_bytes=16_384)
class CommitteeNews(Message, frozen=True):
    """What the committee has for everybody, and for members that cannot be reached otherwise (topic ``committee``)."""

    author: Bytes20
    issued_ms: U64
    certified: Annotated[tuple[Certified, ...], Meta(max_length=2)] = ()
    statements: Annotated[tuple[Statement, ...], Meta(max_length=32)] = ()
    conflicting_statements: Annotated[tuple[ConflictingStatements, ...], Meta(max_length=4)] = ()
    conflicting_batches: Annotated[tuple[ConflictingBatches, ...], Meta(max_length=4)] = ()
    conflicting_frames: Annotated[tuple[ConflictingFrames, ...], Meta(max_length=2)] = ()
    conflicting_commits: Annotated[tuple[ConflictingCommits, ...], Meta(max_length=2)] = ()
    false_reveals: Annotated[tuple[FalseReveal, ...], Meta(max_length=2)] = ()
    conflicting_values: Annotated[tuple[ConflictingValues, ...], Meta(max_length=1)] = ()


class EvidenceFile(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What convicts nodes of one network, for whoever is shown it. Spec: [EVIDENCE-FILE.1]"""

    format: U32
    genesis: Annotated[str, Meta(max_length=65_536)]
    """The genesis file; its hash is the network's id, in whose domain all of it is signed."""
    statements: Annotated[tuple[ConflictingStatements, ...], Meta(max_length=PIECES_MAX)] = ()
    batches: Annotated[tuple[ConflictingBatches, ...], Meta(max_length=PIECES_MAX)] = ()
    frames: Annotated[tuple[ConflictingFrames, ...], Meta(max_length=PIECES_MAX)] = ()
    commits: Annotated[tuple[ConflictingCommits, ...], Meta(max_length=PIECES_MAX)] = ()
    reveals: Annotated[tuple[FalseReveal, ...], Meta(max_length=PIECES_MAX)] = ()
    values: Annotated[tuple[ConflictingValues, ...], Meta(max_length=VALUES_MAX)] = ()
