"""What oracles tell each other: headers, signed statements of a slot, certificates, batches, bodies and evidence."""

from enum import IntEnum
from functools import lru_cache
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.codec import Message, message
from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.core.signing import (
    U64,
    Bytes20,
    Bytes32,
    Domain,
    SignatureBytes,
    TypedStruct,
    keccak,
    typed_digest,
)

MEMBERS_MAX = 31
QUORUM_MAX = 21
BODY_BYTES_MAX = 786_432
CONTENT_BYTES_MAX = 16_384
NULLIFICATIONS_MAX = 64
STATEMENTS_MAX = 1_024
PAGE_BLOCKS_MAX = 256
RECALLED_BATCHES_MAX = 32

EMPTY_BODY = keccak(b"")

NO_HEADER = ZERO_DIGEST
"""Stands for the header in nullifies and nullifications."""


class Header(TypedStruct, frozen=True):
    """A block without its body: what certificates name, the contract checks and a light client reads."""

    epoch: U64
    height: U64
    parent: Bytes32
    """The parent header's digest; in the first block of an epoch the digest of the state that closed the last one."""
    results_root: Bytes32
    results_count: U64
    ledger_root: Bytes32
    params_digest: Bytes32
    anchor_number: U64
    """The number of the last EVM block whose events the ledger has taken in; 0 without a chain."""
    anchor_hash: Bytes32
    deposits: U64
    """How many of the contract's deposits the ledger has taken in."""
    next_committee: Bytes32
    """The root of the committee of the next epoch."""
    body: Bytes32
    """keccak of the body; of nothing where the block is empty."""


class Proposal(TypedStruct, frozen=True):
    """The leader of a slot names its block."""

    epoch: U64
    height: U64
    header: Bytes32


class Vote(TypedStruct, frozen=True):
    """A member holds the block, has executed it, and finds that it may follow its parent."""

    epoch: U64
    height: U64
    header: Bytes32


class Nullify(TypedStruct, frozen=True):
    """A member's timer fired: it will never sign a Finalize of this slot."""

    epoch: U64
    height: U64


class Finalize(TypedStruct, frozen=True):
    """A member left the slot with the block notarized: it will never sign a Nullify of it."""

    epoch: U64
    height: U64
    header: Bytes32


class Batch(TypedStruct, frozen=True):
    """An oracle's numbered batch of what it has to say; each names the one before it."""

    home_epoch: U64
    oracle: Bytes20
    number: U64
    """From 1."""
    previous: Bytes32
    """The digest of the batch before; zero in the first."""
    content: Bytes32
    """keccak of the content."""


class StatementKind(IntEnum):
    """Which of the four structs a statement is."""

    PROPOSAL = 1
    VOTE = 2
    NULLIFY = 3
    FINALIZE = 4


class Statement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One member's signed word on a slot. ``header`` is zero in a nullify."""

    kind: StatementKind
    epoch: U64
    height: U64
    header: Bytes32
    signature: SignatureBytes


class CertificateKind(IntEnum):
    """What 2f+1 members signed: votes, nullifies or finalizes."""

    NOTARIZATION = 2
    NULLIFICATION = 3
    FINALIZATION = 4


class MemberSignature(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signature and the place of its signer in the committee."""

    index: Annotated[int, Meta(ge=0, le=MEMBERS_MAX - 1)]
    signature: SignatureBytes


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The same statement of exactly 2f+1 members, in the order of their places."""

    kind: CertificateKind
    epoch: U64
    height: U64
    header: Bytes32
    """Zero in a nullification."""
    signatures: Annotated[tuple[MemberSignature, ...], Meta(min_length=2, max_length=QUORUM_MAX)]
    """Where a receipt skips epochs, f+1 of an earlier committee's instead."""


class SignedBatch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A batch, its oracle's signature, and what is in it."""

    batch: Batch
    signature: SignatureBytes
    content: Annotated[bytes, Meta(max_length=CONTENT_BYTES_MAX)]


class Block(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A header, its body, and the best certificate that its holder has for it."""

    header: Header
    body: Annotated[bytes, Meta(max_length=BODY_BYTES_MAX)]
    certificate: Certificate | None = None


@lru_cache(maxsize=256)
def header_digest(domain: Domain, header: Header) -> Digest:
    """The name of a block. Spec: [BLOCK-HEADER.1]"""
    return typed_digest(domain, header)


# All members sign the same of a slot, and each node checks it once a member.
@lru_cache(maxsize=256)
def statement_digest(domain: Domain, kind: StatementKind, epoch: int, height: int, header: bytes) -> Digest:
    """What the signature of a statement covers."""
    match kind:
        case StatementKind.PROPOSAL:
            return typed_digest(domain, Proposal(epoch, height, header))
        case StatementKind.VOTE:
            return typed_digest(domain, Vote(epoch, height, header))
        case StatementKind.NULLIFY:
            return typed_digest(domain, Nullify(epoch, height))
        case StatementKind.FINALIZE:
            return typed_digest(domain, Finalize(epoch, height, header))


@message(kind=50, limit_bytes=1 << 20)
class Propose(Message, frozen=True):
    """The leader's block with what a member needs to vote for it."""

    statement: Statement
    header: Header
    body: Annotated[bytes, Meta(max_length=BODY_BYTES_MAX)]
    parent: Certificate | None
    """Of the parent; none where the parent is what closed the last epoch."""
    nullifications: Annotated[tuple[Certificate, ...], Meta(max_length=NULLIFICATIONS_MAX)]
    """Of the heights between parent and block, the lowest first; what does not fit comes by ``sync``."""


@message(kind=51, limit_bytes=256)
class State(Message, frozen=True):
    """A vote, nullify or finalize on its way to a member."""

    statement: Statement


@message(kind=52, limit_bytes=4_096)
class Certified(Message, frozen=True):
    """A certificate on its way, with the header it names."""

    certificate: Certificate
    header: Header | None
    """None in a nullification, or where the sender does not have it."""


@message(kind=53, limit_bytes=CONTENT_BYTES_MAX + 512)
class Offer(Message, frozen=True):
    """A batch on its way to a member."""

    signed: SignedBatch


@message(kind=54, limit_bytes=32)
class Recall(Message, frozen=True):
    """A member that starts asks: what have I signed, and how far are you?"""

    epoch: U64


@message(kind=55, limit_bytes=1 << 20)
class Recalled(Message, frozen=True):
    """Statements and batches of the asker that the answerer holds, and where the answerer is."""

    epoch: U64
    height: U64
    final: Certified | None
    """The latest finalization of this epoch: it takes the asker past every height below."""
    statements: Annotated[tuple[Statement, ...], Meta(max_length=STATEMENTS_MAX)]
    batches: Annotated[tuple[SignedBatch, ...], Meta(max_length=RECALLED_BATCHES_MAX)]


@message(kind=56, limit_bytes=64)
class SyncRequest(Message, frozen=True):
    """Asks for the blocks and nullifications of some heights of an epoch."""

    epoch: U64
    first: U64
    last: U64


@message(kind=57, limit_bytes=1 << 20)
class SyncPage(Message, frozen=True):
    """As much of them as fits, the lowest first, and where the answerer is."""

    epoch: U64
    blocks: Annotated[tuple[Block, ...], Meta(max_length=PAGE_BLOCKS_MAX)]
    nullifications: Annotated[tuple[Certificate, ...], Meta(max_length=PAGE_BLOCKS_MAX)]
    tip_epoch: U64
    tip_height: U64
