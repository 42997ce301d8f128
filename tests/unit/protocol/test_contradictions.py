"""Contradictions are found among whatever papers hold, nobody can hide one, and nobody is accused without cause."""

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.codec import pack
from protocol.core.errors import DecodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest
from protocol.core.signing import typed_digest
from protocol.messages.committee import (
    Batch,
    Block,
    Certificate,
    CertificateKind,
    Header,
    MemberSignature,
    SignedBatch,
    StatementKind,
    statement_digest,
)
from protocol.messages.evidence import (
    PIECE_BYTES_MAX,
    Closing,
    ConflictingBatches,
    ConflictingCommits,
    ConflictingFrames,
    ConflictingStatements,
    ConflictingValues,
    SignedFrame,
)
from protocol.messages.results import SignedCommit
from protocol.messages.tasks import EndReason, EndRecord, Frame
from protocol.results.contradictions import PLACE_PIECES_MAX, Statements
from protocol.results.convictions import (
    judge,
    make_file,
    pack_file,
    pack_piece,
    pieces_of,
    unpack_file,
    unpack_piece,
)
from protocol.results.evidence import Evidence, convict, evidence_id
from tests.unit.protocol.keys import key
from tests.vectors.evidence import (
    ALICE,
    BOB,
    COMMIT,
    DOMAIN,
    HEAD,
    LATE,
    VALUE,
    A,
    B,
    Case,
    _said,
    cases,
    other,
    signed,
    stated,
)

CASES = {f"{type(case.evidence).__name__}: {case.name}": case for case in cases()}
GENESIS = Genesis("file")
END = EndRecord(EndReason.STOP, 3, 9, 0)
vote = partial(stated, StatementKind.VOTE)


def found(*evidence: Evidence) -> tuple[Evidence, ...]:
    """What is found among the halves of evidence; each piece convicts."""
    statements = Statements(DOMAIN)
    for piece in evidence:
        statements.evidence(piece)
    pieces = statements.find().evidence
    for piece in pieces:
        convict(DOMAIN, piece)
    return pieces


@pytest.mark.spec("EVIDENCE-FIND.1")
@pytest.mark.parametrize("name", CASES)
def test_what_convicts_is_found_again_and_what_does_not_convicts_nobody_else(name: str) -> None:
    case: Case = CASES[name]
    pieces = found(case.evidence)
    if case.refused is None:
        named = evidence_id(DOMAIN, ALICE.node, case.evidence)
        assert named in {evidence_id(DOMAIN, convict(DOMAIN, piece), piece) for piece in pieces}
    # Other halves of a refused pair may still contradict each other otherwise, but only their own signer's.
    assert {convict(DOMAIN, piece) for piece in pieces} <= {ALICE.node, BOB.node}
    if case.refused == "signature":
        assert not any(isinstance(piece, type(case.evidence)) and piece == case.evidence for piece in pieces)


@pytest.mark.spec("EVIDENCE-FIND.1")
def test_the_two_halves_may_come_from_two_papers() -> None:
    statements = Statements(DOMAIN)
    statements.batch(_said(VALUE))
    assert statements.find().evidence == ()
    statements.batch(_said(LATE, number=10))
    (piece,) = statements.find().evidence
    assert piece == ConflictingValues(A, 7, 1, _said(VALUE), _said(LATE, number=10))
    statements.batch(_said(VALUE, LATE, number=11))
    kinds = [type(piece) for piece in statements.find().evidence]
    assert kinds == [ConflictingValues], "one value is said once: of three batches two show it"
    statements.batch(_said(LATE))
    assert [type(piece) for piece in statements.find().evidence] == [ConflictingBatches, ConflictingValues]


def certificate(kind: CertificateKind, header: bytes, *signers: int) -> Certificate:
    """What these keys signed of slot 3/9."""
    digest = statement_digest(DOMAIN, StatementKind(kind), 3, 9, header)
    signatures = tuple(MemberSignature(at, key(number).sign(digest)) for at, number in enumerate(signers))
    return Certificate(kind, 3, 9, header, signatures)


@pytest.mark.spec("EVIDENCE-FIND.1", "EVIDENCE-STATEMENTS.1")
def test_two_certificates_of_one_slot_convict_whoever_signed_both() -> None:
    statements = Statements(DOMAIN)
    statements.certificate(certificate(CertificateKind.FINALIZATION, A, 1, 2, 3))
    statements.certificate(certificate(CertificateKind.NOTARIZATION, B, 1, 2, 3))
    assert statements.find().evidence == (), "a vote and a finalize of another header are honest"
    statements.certificate(certificate(CertificateKind.FINALIZATION, B, 2, 3, 4))
    pieces = statements.find().evidence
    assert {convict(DOMAIN, piece) for piece in pieces} == {key(2).node, key(3).node}


@pytest.mark.spec("EVIDENCE-FIND.1")
def test_a_block_tells_of_its_certificate_and_its_batches() -> None:
    header = Header(3, 9, A, A, 0, A, A, 0, A, 0, A, A)
    mine, theirs = _said(VALUE), _said(LATE, number=10)
    statements = Statements(DOMAIN)
    statements.block(Block(header, b"\x91\x91" + pack(mine), certificate(CertificateKind.FINALIZATION, A, 1, 2, 3)))
    statements.block(Block(header, b"no cut at all", certificate(CertificateKind.FINALIZATION, B, 3, 4, 5)))
    statements.block(Block(header, b""))
    statements.batch(theirs)
    pieces = statements.find().evidence
    assert [convict(DOMAIN, piece) for piece in pieces] == [key(3).node, ALICE.node]
    assert statements.counts() == {
        "statements": 6,
        "batches": 2,
        "values": 2,
        "commits": 0,
        "reveals": 0,
        "frames": 0,
    }


def framed(index: int, chain: bytes, *, end: bool = False, **head: object) -> SignedFrame:
    """Alice's frame."""
    segment = other(HEAD, **head)
    frame = Frame(typed_digest(DOMAIN, segment), index, chain, end)
    return SignedFrame(segment, frame, signed(frame))


@pytest.mark.spec("EVIDENCE-FIND.1", "EVIDENCE-FRAMES.1")
def test_an_end_contradicts_a_frame_only_with_what_it_was_made_of() -> None:
    statements = Statements(DOMAIN)
    statements.frame(framed(9, END.close(A), end=True))
    statements.frame(framed(9, A))
    statements.closing(Closing(B, END))
    assert statements.find().evidence == (), "its own frame after the last token"
    statements.closing(Closing(A, END))
    assert statements.find().evidence == ()
    statements.frame(framed(9, B))
    pieces = statements.find().evidence
    assert len(pieces) == 2, "with the other frame, and with the end"
    assert {piece.closing for piece in pieces if isinstance(piece, ConflictingFrames)} == {None, Closing(A, END)}
    statements.frame(framed(9, A, price_wei=2))
    assert len(statements.find().evidence) == 5, "and a second segment with all of the first"


@pytest.mark.spec("EVIDENCE-FIND.1", "EVIDENCE-SIGNER.1")
def test_nobody_crowds_out_what_another_signed() -> None:
    statements = Statements(DOMAIN)
    forged = [other(COMMIT, commitment=number.to_bytes(32, "big")) for number in range(40)]
    for number, commit in enumerate(forged):
        statements.commit(SignedCommit(commit, signed(commit, BOB)))
        statements.statement(other(vote(A), header=commit.commitment))
        statements.batch(other(_said(VALUE), content=b"%d" % number))
        frame = framed(9, commit.commitment)
        statements.frame(other(frame, signature=signed(frame.frame, BOB)))
        statements.frame(other(framed(9, A), head=other(HEAD, price_wei=number)))
    assert statements.find().evidence == ()
    again = other(COMMIT, commitment=B)
    for commit in (COMMIT, again):
        statements.commit(SignedCommit(commit, signed(commit)))
    statements.statement(vote(A))
    statements.statement(vote(B))
    assert [type(piece) for piece in statements.find().evidence] == [ConflictingStatements, ConflictingCommits]


@pytest.mark.spec("EVIDENCE-FIND.1", "EVIDENCE-SIGNER.1")
def test_the_same_words_with_anothers_signature_do_not_stand_for_them() -> None:
    """A forged copy that comes first takes no place of the true one."""
    convicting = [case.evidence for case in cases() if case.refused is None]
    for evidence in convicting:
        statements = Statements(DOMAIN)
        for piece in (forged(evidence), evidence):
            statements.evidence(piece)
        named = {evidence_id(DOMAIN, convict(DOMAIN, piece), piece) for piece in statements.find().evidence}
        assert evidence_id(DOMAIN, ALICE.node, evidence) in named


def forged(evidence: Evidence) -> Evidence:
    """The same with Bob's signatures."""
    wrong = BOB.sign(Digest(A))
    if isinstance(evidence, ConflictingBatches):
        return other(evidence, first_signature=wrong, second_signature=wrong)  # type: ignore[no-any-return]
    halves = {
        name: other(getattr(evidence, name), signature=wrong)
        for name in ("first", "second", "commit", "reveal")
        if hasattr(evidence, name)
    }
    return other(evidence, **halves)  # type: ignore[no-any-return]


@pytest.mark.spec("EVIDENCE-FIND.1")
def test_of_thousands_in_one_place_a_few_are_listed() -> None:
    statements = Statements(DOMAIN)
    for number in range(30):
        statements.statement(vote(number.to_bytes(32, "big")))
    many = statements.find()
    assert len(many.evidence) == PLACE_PIECES_MAX
    assert many.more
    statements = Statements(DOMAIN)
    statements.evidence(ConflictingStatements(vote(A), vote(B)))
    assert not statements.find().more


@pytest.mark.spec("EVIDENCE-FILE.1")
def test_a_file_holds_what_was_put_in_and_has_one_encoding() -> None:
    pieces = found(*(case.evidence for case in cases() if case.refused is None))
    file = make_file(GENESIS, pieces)
    data = pack_file(file)
    assert unpack_file(data) == file
    assert sorted(map(pack, pieces_of(file))) == sorted(map(pack, pieces))
    for broken in (
        data + b"\0",
        data[:-1],
        b"",
        pack_file(other(file, format=2)),
        data.replace(b"\x98\x01", b"\x98\xcc\x01", 1),
    ):
        with pytest.raises(DecodeError):
            unpack_file(broken)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_file_convicts_nobody_else(data: st.DataObject) -> None:
    """Whatever bit is turned, the file is refused, or what is left convicts only who signed."""
    packed = pack_file(make_file(GENESIS, [ConflictingStatements(vote(A), vote(B))]))
    at = data.draw(st.integers(0, len(packed) * 8 - 1))
    turned = bytearray(packed)
    turned[at // 8] ^= 1 << at % 8
    try:
        pieces = pieces_of(unpack_file(bytes(turned)))
    except DecodeError:
        return
    told = [judge(DOMAIN, piece) for piece in pieces]
    assert {conviction.convicted for conviction in told} <= {None, ALICE.node}


@pytest.mark.parametrize("name", CASES)
def test_each_half_is_told_with_its_signer(name: str) -> None:
    case: Case = CASES[name]
    told = judge(DOMAIN, case.evidence)
    assert told.what
    assert told.place
    assert all(half.says for half in told.halves)
    if case.refused is None:
        assert (told.convicted, told.link, told.why) == (ALICE.node, "", "")
        assert told.identity == evidence_id(DOMAIN, ALICE.node, case.evidence)
        assert [half.signer for half in told.halves] == [ALICE.node, ALICE.node]
    else:
        assert (told.convicted, told.identity, told.link) == (None, None, case.refused)
        assert told.why.startswith(case.refused)


def test_a_piece_travels_with_its_kind() -> None:
    for case in cases():
        packed = pack_piece(case.evidence)
        assert unpack_piece(packed, limit_bytes=PIECE_BYTES_MAX) == case.evidence
    largest = b"\xff" * 16_384
    batch = Batch(2**63, ALICE.node, 2**63, A, B)
    both = SignedBatch(batch, signed(batch), largest)
    assert len(pack_piece(ConflictingValues(A, 2**32 - 1, 255, both, both))) <= PIECE_BYTES_MAX
    for nothing in (b"", b"\x06", b"\x00", b"\xff" + packed[1:]):
        with pytest.raises(DecodeError):
            unpack_piece(nothing, limit_bytes=PIECE_BYTES_MAX)


def test_words_name_what_was_said() -> None:
    said = judge(DOMAIN, ConflictingValues(A, 7, 1, _said(VALUE), _said(LATE, number=10)))
    assert said.what == "two values for one lane"
    assert [half.says for half in said.halves] == [f"ok, {B.hex()} of 812 tokens, in batch 9", "late, in batch 10"]
    votes = judge(DOMAIN, ConflictingStatements(vote(A), vote(B)))
    assert (votes.what, votes.place) == ("two votes in one slot", "slot 3/9")
    nullify = stated(StatementKind.NULLIFY)
    mixed = judge(DOMAIN, ConflictingStatements(stated(StatementKind.FINALIZE), nullify))
    assert mixed.what == "a finalize and a nullify in one slot"
