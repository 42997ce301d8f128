"""Node tests: a miner answers an oracle's challenge, or shows what it wrote in a session, on protocol ``audit``.

The ledger calls for a test and gives it a seed. Each oracle signs its own Challenge over that seed; what is asked
follows from the signature, so nobody else knows it before it is given, and everybody can check it afterwards.
"""

from typing import Annotated, Literal

from msgspec import Meta

from protocol.core.codec import Message, message
from protocol.core.signing import U8, U32, U64, Bytes20, Bytes32, SignatureBytes, TypedStruct
from protocol.messages.tasks import (
    SEGMENTS_MAX,
    TASK_TOKENS_MAX,
    TOKEN_BYTES_MAX,
    EndReason,
    EndRecord,
    Prompt,
    SegmentHead,
    TaskOrder,
)

ANSWER_TOKENS_MAX = 64
"""Of one answer of a challenge."""
ANSWERS_MAX = 64
"""Of one challenge."""

Build = Annotated[str, Meta(max_length=128)]
"""Engine build and CPU features, as in an advert."""


class Challenge(TypedStruct, frozen=True):
    """One oracle's part of a test that the ledger called for; its signature fixes the questions."""

    miner: Bytes20
    oracle: Bytes20
    model: Bytes32
    test: U64
    """The miner's test by its number in the ledger."""
    round: U8
    """0; a second round where the first left a doubt."""
    seed: Bytes32
    """Of the test, from the ledger."""


@message(kind=72, limit_bytes=512)
class ChallengeOffered(Message, frozen=True):
    """An oracle would like to test the miner, as soon as it has a slot for that."""

    challenge: Challenge


@message(kind=73, limit_bytes=256)
class ChallengeReady(Message, frozen=True):
    """The miner holds a slot for the test: from the challenge on its time counts."""

    build: Build


@message(kind=74, limit_bytes=512)
class ChallengeGiven(Message, frozen=True):
    """The questions, which follow from the signature; now."""

    challenge: Challenge
    signature: SignatureBytes


@message(kind=75, limit_bytes=1 << 17)
class AnswerTokens(Message, frozen=True):
    """Consecutive tokens of an answer, as they are made."""

    answer: U8
    """Answers come one after the other, from 0."""
    ids: Annotated[tuple[U32, ...], Meta(min_length=1, max_length=ANSWER_TOKENS_MAX)]
    texts: Annotated[
        tuple[Annotated[bytes, Meta(max_length=TOKEN_BYTES_MAX)], ...],
        Meta(min_length=1, max_length=ANSWER_TOKENS_MAX),
    ]


@message(kind=76, limit_bytes=32)
class AnswerEnded(Message, frozen=True):
    """An answer is complete."""

    answer: U8
    reason: EndReason


@message(kind=77, limit_bytes=128)
class TranscriptAsked(Message, frozen=True):
    """An oracle asks for the transcript that a certified result root binds."""

    root: Bytes32


@message(kind=78, limit_bytes=1 << 20)
class Transcript(Message, frozen=True):
    """A whole lane: all that its result root binds."""

    order: TaskOrder
    prompt: Prompt
    heads: Annotated[tuple[SegmentHead, ...], Meta(min_length=1, max_length=SEGMENTS_MAX)]
    ids: Annotated[tuple[U32, ...], Meta(max_length=TASK_TOKENS_MAX)]
    texts: Annotated[tuple[Annotated[bytes, Meta(max_length=TOKEN_BYTES_MAX)], ...], Meta(max_length=TASK_TOKENS_MAX)]
    end: EndRecord
    build: Build


@message(kind=79, limit_bytes=128)
class AuditRefused(Message, frozen=True):
    """The miner cannot now: ``busy`` is a matter of time, ``not_held`` for good."""

    code: Literal["busy", "not_held", "engine_failed"]
    retry_after_ms: U32
