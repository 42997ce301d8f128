"""Evidence as the contract of that name takes it: which of its functions, and with what arguments."""

from typing import Any

import msgspec

from protocol.messages.evidence import (
    Closing,
    ConflictingBatches,
    ConflictingCommits,
    ConflictingFrames,
    ConflictingStatements,
    ConflictingValues,
    FalseReveal,
)
from protocol.results.evidence import Evidence, conflicting_places

Pair = tuple[bytes, bytes]


def compact(signature: bytes) -> Pair:
    """A signature as contracts take it (EIP-2098): r, and s with the parity of v as its highest bit."""
    s = int.from_bytes(signature[32:64], "big") | (signature[64] - 27) << 255
    return signature[:32], s.to_bytes(32, "big")


def accusation(evidence: Evidence) -> tuple[str, tuple[Any, ...]]:
    """The function that judges evidence, and its arguments but for the last one, who reports it.
    Raises EvidenceError where two batches say nothing of a lane that contradicts."""
    match evidence:
        case ConflictingStatements(first, second):
            halves: tuple[Any, ...] = (_fields(first)[:-1], _fields(second)[:-1])
            return "statements", (*halves, _pairs(first.signature, second.signature))
        case ConflictingBatches(first, first_signature, second, second_signature):
            return "batches", (_fields(first), _fields(second), _pairs(first_signature, second_signature))
        case ConflictingCommits(first, second):
            return "commits", (_fields(first.commit), _fields(second.commit), _pairs(first.signature, second.signature))
        case FalseReveal(commit, reveal):
            halves = (_fields(commit.commit), _fields(reveal.reveal))
            return "reveal", (*halves, _pairs(commit.signature, reveal.signature))
        case ConflictingFrames(first, second, closing):
            halves = (_fields(first.head), _fields(first.frame), _fields(second.head), _fields(second.frame))
            return "frames", (*halves, _closing(closing), _pairs(first.signature, second.signature))
        case ConflictingValues(session, task, lane, first, second):
            places = conflicting_places(evidence)
            said = [(_fields(half.batch), half.content, at) for half, at in zip((first, second), places, strict=True)]
            return "values", ((session, task, lane), *said, _pairs(first.signature, second.signature))


def _pairs(first: bytes, second: bytes) -> tuple[Pair, Pair]:
    return compact(first), compact(second)


def _closing(closing: Closing | None) -> tuple[Any, ...]:
    """A closing, with whether there is one before it."""
    if closing is None:
        return False, bytes(32), 0, 0, 0, 0
    return True, closing.chain, *_fields(closing.end)


def _fields(value: msgspec.Struct) -> tuple[Any, ...]:
    return msgspec.structs.astuple(value)
