"""What oracles say: names that bind everything, signatures of one kind and slot, and messages that fit their limits."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.codec import Message, encode
from protocol.core.ids import NetworkId
from protocol.core.params import Params
from protocol.core.signing import Domain, typed_digest
from protocol.messages.committee import (
    BODY_BYTES_MAX,
    CONTENT_BYTES_MAX,
    NO_HEADER,
    NULLIFICATIONS_MAX,
    QUORUM_MAX,
    RECALLED_BATCHES_MAX,
    STATEMENTS_MAX,
    Batch,
    Certificate,
    CertificateKind,
    Certified,
    Finalize,
    Header,
    MemberSignature,
    Nullify,
    Offer,
    Proposal,
    Propose,
    Recalled,
    SignedBatch,
    State,
    Statement,
    StatementKind,
    Vote,
    header_digest,
    statement_digest,
)
from protocol.messages.envelope import seal
from protocol.messages.evidence import (
    Closing,
    CommitteeNews,
    ConflictingBatches,
    ConflictingFrames,
    ConflictingStatements,
    SignedFrame,
)
from protocol.messages.tasks import EndReason, EndRecord, Frame, SegmentHead
from tests.unit.protocol.keys import key
from tests.unit.protocol.strategies import build

DOMAIN = Domain(NetworkId(bytes(32)))
MOST, WORD, ADDRESS, SIGNATURE = 2**63 - 1, b"\xff" * 32, b"\xff" * 20, b"\xff" * 65


@pytest.mark.spec("BLOCK-HEADER.1")
@pytest.mark.parametrize("name", Header.__struct_fields__)
@given(build(Header), st.data())
def test_a_blocks_name_binds_every_field(name: str, header: Header, data: st.DataObject) -> None:
    value = getattr(header, name)
    other = data.draw(st.integers(0, MOST) if isinstance(value, int) else st.binary(min_size=32, max_size=32))
    changed = msgspec.structs.replace(header, **{name: other})
    assert (header_digest(DOMAIN, changed) == header_digest(DOMAIN, header)) == (other == value)


@given(st.integers(0, MOST), st.integers(0, MOST), st.binary(min_size=32, max_size=32))
def test_what_a_statement_signs_is_of_one_kind(epoch: int, height: int, header: bytes) -> None:
    digests = [statement_digest(DOMAIN, kind, epoch, height, header) for kind in StatementKind]
    structs = [kind(epoch, height, header) for kind in (Proposal, Vote)]
    assert digests == [
        typed_digest(DOMAIN, value) for value in (*structs, Nullify(epoch, height), Finalize(epoch, height, header))
    ]
    assert len(set(digests)) == 4


def largest_certificate(kind: CertificateKind) -> Certificate:
    """A certificate of 31 members."""
    signatures = tuple(MemberSignature(30, SIGNATURE) for _ in range(QUORUM_MAX))
    return Certificate(kind, MOST, MOST, WORD, signatures)


HEADER = Header(MOST, MOST, WORD, WORD, MOST, WORD, WORD, MOST, WORD, MOST, WORD, WORD)
STATEMENT = Statement(StatementKind.VOTE, MOST, MOST, WORD, SIGNATURE)
CERTIFIED = Certified(largest_certificate(CertificateKind.FINALIZATION), HEADER)
BATCH = Batch(MOST, ADDRESS, MOST, WORD, WORD)
FRAME = SignedFrame(
    SegmentHead(
        WORD, 2**32 - 1, 255, WORD[:24], ADDRESS, WORD, WORD, ADDRESS, MOST, WORD, 2**32 - 1, WORD, WORD, MOST, WORD
    ),
    Frame(WORD, MOST, WORD, True),
    SIGNATURE,
)
CLOSING = Closing(WORD, EndRecord(EndReason.CANCELLED, 2**32 - 1, 2**32 - 1, 2**32 - 1))

NEWS = CommitteeNews(
    author=ADDRESS,
    issued_ms=MOST,
    certified=(CERTIFIED,) * 2,
    statements=(STATEMENT,) * 32,
    conflicting_statements=(ConflictingStatements(STATEMENT, STATEMENT),) * 4,
    conflicting_batches=(ConflictingBatches(BATCH, SIGNATURE, BATCH, SIGNATURE),) * 4,
    conflicting_frames=(ConflictingFrames(FRAME, FRAME, CLOSING),) * 2,
)

SIGNED_BATCH = SignedBatch(BATCH, SIGNATURE, bytes(CONTENT_BYTES_MAX))

LARGEST: list[Message] = [
    Propose(
        STATEMENT,
        HEADER,
        bytes(BODY_BYTES_MAX),
        largest_certificate(CertificateKind.NOTARIZATION),
        (largest_certificate(CertificateKind.NULLIFICATION),) * NULLIFICATIONS_MAX,
    ),
    State(STATEMENT),
    CERTIFIED,
    Offer(SIGNED_BATCH),
    Recalled(MOST, MOST, CERTIFIED, (STATEMENT,) * STATEMENTS_MAX, (SIGNED_BATCH,) * RECALLED_BATCHES_MAX),
    NEWS,
]


@pytest.mark.parametrize("message", LARGEST, ids=lambda message: type(message).__name__)
def test_the_largest_of_a_kind_can_be_sent(message: Message) -> None:
    assert len(encode(message)) <= type(message).LIMIT_BYTES


def test_the_largest_news_fits_into_gossip() -> None:
    assert len(encode(seal(DOMAIN, key(1).sign, NEWS))) <= Params().gossip_message_bytes_max


def test_a_nullify_is_one_whatever_header_it_carries() -> None:
    plain = statement_digest(DOMAIN, StatementKind.NULLIFY, 1, 2, NO_HEADER)
    assert statement_digest(DOMAIN, StatementKind.NULLIFY, 1, 2, WORD) == plain
