"""Evidence: whoever contradicts himself is convicted, whoever shows it; nobody else ever is."""

from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

import coincurve
import msgspec
import pytest
from coincurve._libsecp256k1 import ffi
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.committee.evidence import Evidence, convict
from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError, EvidenceError
from protocol.core.ids import ZERO_DIGEST, Digest, NetworkId, NodeId
from protocol.core.signing import Domain, typed_digest
from protocol.messages.committee import NO_HEADER, Batch, Statement, StatementKind, statement_digest
from protocol.messages.evidence import (
    Closing,
    ConflictingBatches,
    ConflictingFrames,
    ConflictingStatements,
    SignedFrame,
)
from protocol.messages.tasks import EndReason, EndRecord, Frame, FrameMessage, SegmentHead
from protocol.results.evidence import evidence_id
from protocol.session.transcript import SegmentWriter
from tests.unit.protocol.keys import Key, key
from tests.unit.protocol.strategies import build

DOMAIN, ELSEWHERE = Domain(NetworkId(bytes(32))), Domain(NetworkId(bytes(32)), 1)
ALICE, BOB = key(1), key(2)
A, B = b"\xaa" * 32, b"\xbb" * 32
PROPOSAL, VOTE, NULLIFY, FINALIZE = StatementKind


def refused(evidence: Evidence, domain: Domain = DOMAIN) -> str | None:
    """Why evidence convicts nobody; None if it convicts. Checks that the halves may change places."""
    verdicts = [_verdict(domain, which) for which in (evidence, swapped(evidence))]
    assert verdicts[0] == verdicts[1]
    return verdicts[0] if isinstance(verdicts[0], str) else None


def _verdict(domain: Domain, evidence: Evidence) -> str | tuple[NodeId, Digest]:
    try:
        node = convict(domain, evidence)
    except EvidenceError as error:
        return error.link
    return node, evidence_id(domain, node, evidence)


def swapped(evidence: Evidence) -> Evidence:
    """The same evidence as another would show it."""
    match evidence:
        case ConflictingStatements(first, second):
            return ConflictingStatements(second, first)
        case ConflictingBatches(first, first_signature, second, second_signature):
            return ConflictingBatches(second, second_signature, first, first_signature)
        case ConflictingFrames(first, second, closing):
            return ConflictingFrames(second, first, closing)


def sign_again(signer: Key, digest: bytes) -> bytes:
    """Another signature of the same digest by the same key."""
    nonce = ffi.new("unsigned char[32]", b"another nonce, as good as any is")
    raw = coincurve.PrivateKey(signer.secret).sign_recoverable(digest, hasher=None, custom_nonce=(ffi.NULL, nonce))
    assert raw[:64] != signer.sign(Digest(digest))[:64]
    return raw[:64] + bytes([raw[64] + 27])


# Statements


def stated(
    signer: Key, kind: StatementKind, header: bytes = A, epoch: int = 1, height: int = 1, domain: Domain = DOMAIN
) -> Statement:
    """A signed statement."""
    header = NO_HEADER if kind is NULLIFY else header
    digest = statement_digest(domain, kind, epoch, height, header)
    return Statement(kind, epoch, height, header, signer.sign(digest))


CONTRADICTIONS = {
    frozenset({(PROPOSAL, A), (PROPOSAL, B)}),
    frozenset({(VOTE, A), (VOTE, B)}),
    frozenset({(FINALIZE, A), (FINALIZE, B)}),
    frozenset({(NULLIFY, NO_HEADER), (FINALIZE, A)}),
    frozenset({(NULLIFY, NO_HEADER), (FINALIZE, B)}),
}
"""All there are in one slot."""

SAID = [(kind, header) for kind in StatementKind for header in (A, B) if kind is not NULLIFY or header == A]
SPOKEN = [
    (signer, stated(signer, kind, header, epoch, height))
    for signer in (ALICE, BOB)
    for kind, header in SAID
    for epoch, height in ((1, 1), (1, 2), (2, 1))
]


@pytest.mark.spec("EVIDENCE-STATEMENTS.1", "EVIDENCE-SIGNER.1")
def test_statements_convict_if_and_only_if_one_key_contradicts_itself_in_one_slot() -> None:
    convicted = 0
    for (one, first), (other, second) in product(SPOKEN, SPOKEN):
        said = frozenset({(first.kind, first.header), (second.kind, second.header)})
        same_slot = (first.epoch, first.height) == (second.epoch, second.height)
        guilty = one == other and same_slot and said in CONTRADICTIONS
        evidence = ConflictingStatements(first, second)
        assert (refused(evidence) is None) == guilty, (first, second)
        if guilty:
            assert convict(DOMAIN, evidence) == one.node
            convicted += 1
    assert convicted == 2 * 3 * 2 * len(CONTRADICTIONS)


@pytest.mark.spec("EVIDENCE-STATEMENTS.1")
@pytest.mark.parametrize(
    ("link", "first", "second"),
    [
        ("conflict", stated(ALICE, VOTE), stated(ALICE, VOTE)),
        ("conflict", stated(ALICE, VOTE), stated(ALICE, NULLIFY)),
        ("conflict", stated(ALICE, VOTE, A), stated(ALICE, FINALIZE, B)),
        ("conflict", stated(ALICE, PROPOSAL, A), stated(ALICE, VOTE, B)),
        ("place", stated(ALICE, VOTE, A), stated(ALICE, VOTE, B, height=2)),
        ("place", stated(ALICE, FINALIZE), stated(ALICE, NULLIFY, epoch=2)),
        ("signature", stated(ALICE, VOTE, A), stated(BOB, VOTE, B)),
        ("signature", stated(ALICE, VOTE, A), stated(ALICE, VOTE, B, domain=ELSEWHERE)),
    ],
)
def test_a_refusal_says_what_does_not_hold(link: str, first: Statement, second: Statement) -> None:
    assert refused(ConflictingStatements(first, second)) == link


@pytest.mark.spec("EVIDENCE-STATEMENTS.1")
def test_a_nullify_that_names_a_header_is_none() -> None:
    dressed = msgspec.structs.replace(stated(ALICE, NULLIFY), header=A)
    assert refused(ConflictingStatements(dressed, stated(ALICE, NULLIFY))) == "place"
    assert refused(ConflictingStatements(dressed, stated(ALICE, FINALIZE))) == "place"


@pytest.mark.spec("EVIDENCE-STATEMENTS.1", "EVIDENCE-ID.1")
def test_the_bytes_of_a_signature_contradict_nothing() -> None:
    vote, other = stated(ALICE, VOTE, A), stated(ALICE, VOTE, B)
    digest = statement_digest(DOMAIN, VOTE, 1, 1, A)
    again = msgspec.structs.replace(vote, signature=sign_again(ALICE, digest))
    assert refused(ConflictingStatements(vote, again)) == "conflict"
    first, second = ConflictingStatements(vote, other), ConflictingStatements(again, other)
    assert convict(DOMAIN, first) == convict(DOMAIN, second) == ALICE.node
    assert evidence_id(DOMAIN, ALICE.node, first) == evidence_id(DOMAIN, ALICE.node, second)


@pytest.mark.spec("EVIDENCE-ID.1")
def test_evidence_of_other_nodes_or_statements_has_another_name() -> None:
    pairs = [
        (
            signer,
            ConflictingStatements(stated(signer, VOTE, one, height=height), stated(signer, VOTE, B, height=height)),
        )
        for signer, one, height in product((ALICE, BOB), (A, b"\xcc" * 32), (1, 2))
    ]
    assert len({evidence_id(DOMAIN, convict(DOMAIN, pair), pair) for _, pair in pairs}) == len(pairs)


headers = st.sampled_from([A, B, b"\xcc" * 32])
words = st.tuples(
    st.none() | headers,  # what it proposes, if it leads
    st.none() | headers,  # what it votes for
    st.none() | st.just(NULLIFY) | headers,  # how it leaves: by its own nullify, with a finalize, or neither
)


@pytest.mark.spec("EVIDENCE-STATEMENTS.1")
@settings(max_examples=50)
@given(st.dictionaries(st.tuples(st.integers(1, 2), st.integers(1, 3)), words, max_size=5))
def test_a_member_that_keeps_the_rules_is_never_convicted(life: dict[tuple[int, int], Any]) -> None:
    said = []
    for (epoch, height), (proposed, voted, left) in life.items():
        said += [stated(ALICE, PROPOSAL, proposed, epoch, height)] if proposed else []
        said += [stated(ALICE, VOTE, voted, epoch, height)] if voted else []
        said += [stated(ALICE, NULLIFY, NO_HEADER, epoch, height)] if left is NULLIFY else []
        said += [stated(ALICE, FINALIZE, left, epoch, height)] if isinstance(left, bytes) else []
    for first, second in product(said, said):
        assert refused(ConflictingStatements(first, second)) in ("place", "conflict")


# Batches


def batch(number: int = 1, content: bytes = A, previous: bytes = ZERO_DIGEST, **other: Any) -> Batch:
    """A batch of Alice's."""
    return Batch(**{"home_epoch": 1, "oracle": ALICE.node} | other, number=number, previous=previous, content=content)


def two_batches(first: Batch, second: Batch, signer: Key = ALICE, domain: Domain = DOMAIN) -> ConflictingBatches:
    """Both signed by one key, the second under a domain."""
    signatures = signer.sign(typed_digest(DOMAIN, first)), signer.sign(typed_digest(domain, second))
    return ConflictingBatches(first, signatures[0], second, signatures[1])


@pytest.mark.spec("EVIDENCE-BATCHES.1", "EVIDENCE-SIGNER.1")
@pytest.mark.parametrize(
    ("link", "evidence"),
    [
        (None, two_batches(batch(), batch(content=B))),
        (None, two_batches(batch(2, previous=A), batch(2, previous=B))),
        ("conflict", two_batches(batch(), batch())),
        ("place", two_batches(batch(1), batch(2, content=B))),
        ("place", two_batches(batch(), batch(content=B, home_epoch=2))),
        ("place", two_batches(batch(), batch(content=B, oracle=BOB.node))),
        ("signature", two_batches(batch(), batch(content=B), signer=BOB)),
        ("signature", two_batches(batch(), batch(content=B), domain=ELSEWHERE)),
        ("signature", msgspec.structs.replace(two_batches(batch(), batch(content=B)), first_signature=bytes(65))),
    ],
)
def test_two_batches_of_one_number_convict(link: str | None, evidence: ConflictingBatches) -> None:
    assert refused(evidence) == link
    assert link or convict(DOMAIN, evidence) == ALICE.node


@pytest.mark.spec("EVIDENCE-BATCHES.1")
@given(st.lists(st.tuples(st.integers(1, 2), st.binary(min_size=32, max_size=32)), max_size=6))
def test_a_chain_of_batches_convicts_nobody(contents: list[tuple[int, bytes]]) -> None:
    chains: dict[int, list[Batch]] = {1: [], 2: []}
    for epoch, content in contents:
        chain = chains[epoch]
        previous = typed_digest(DOMAIN, chain[-1]) if chain else ZERO_DIGEST
        chain.append(batch(len(chain) + 1, content, previous, home_epoch=epoch))
    for first, second in product([*chains[1], *chains[2]], repeat=2):
        assert refused(two_batches(first, second)) in ("place", "conflict")


# Frames

END = EndRecord(EndReason.STOP, 3, 4, 0)
HEAD = SegmentHead(A, 7, 0, b"\x01" * 24, ALICE.node, A, A, BOB.node, 1, A, 3, A, A, 0, ZERO_DIGEST)
TOKENS = (1, 2, 3, 4)


def other_head(**fields: Any) -> SegmentHead:
    """The head with some fields changed."""
    return msgspec.structs.replace(HEAD, **fields)


def frames_of(
    tokens: tuple[int, ...] = TOKENS,
    head: SegmentHead = HEAD,
    end: EndRecord | None = END,
    *,
    cuts: frozenset[int] | None = None,
    last_alone: bool = True,
    signer: Key = ALICE,
    domain: Domain = DOMAIN,
) -> list[tuple[SignedFrame, Closing | None]]:
    """What a miner signs for some tokens, with what each end closes.

    Args:
        cuts: Tokens after which a frame ends; after each of them where it is not said.
        last_alone: The end comes in a frame of its own, not with the last tokens.
    """
    writer, signed, pending = SegmentWriter(domain, signer.sign, head), [], []
    for place, token in enumerate(tokens, 1):
        pending.append(token)
        is_last = place == len(tokens) and not last_alone
        if is_last or cuts is None or place in cuts:
            signed.append(_signed(writer, pending, end if is_last else None, domain))
            pending = []
    if end is not None and not writer.ended:
        signed.append(_signed(writer, pending, end, domain))
    return signed


def _signed(
    writer: SegmentWriter, ids: list[int], end: EndRecord | None, domain: Domain
) -> tuple[SignedFrame, Closing | None]:
    message: FrameMessage = writer.frame(ids, [b"."] * len(ids), end)
    chain = end.close(writer.chain) if end else writer.chain
    frame = Frame(typed_digest(domain, writer.head), writer.index, chain, end is not None)
    return SignedFrame(writer.head, frame, message.signature), Closing(writer.chain, end) if end else None


def closings(
    one: tuple[SignedFrame, Closing | None], other: tuple[SignedFrame, Closing | None]
) -> list[Closing | None]:
    """What an accuser may add: what either end closes, or nothing."""
    return [None, *(closing for closing in (one[1], other[1]) if closing)]


def convicting(
    one: tuple[SignedFrame, Closing | None], other: tuple[SignedFrame, Closing | None]
) -> Iterator[ConflictingFrames]:
    """Each form of evidence from two frames that convicts."""
    for closing in closings(one, other):
        evidence = ConflictingFrames(one[0], other[0], closing)
        if refused(evidence) is None:
            yield evidence


@pytest.mark.spec("EVIDENCE-FRAMES.1")
@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 9), max_size=4).map(tuple),
    st.frozensets(st.integers(1, 4)),
    st.booleans(),
    st.lists(
        st.sampled_from([{"task": 8}, {"lane": 1}, {"generation": b"\x02" * 24}, {"session": B}]),
        unique_by=str,
        max_size=2,
    ),
)
def test_a_miner_that_writes_each_segment_once_is_never_convicted(
    tokens: tuple[int, ...], cuts: frozenset[int], last_alone: bool, others: list[dict[str, Any]]
) -> None:
    signed = []
    for place, head in enumerate([HEAD, *(other_head(**fields) for fields in others)]):
        signed += frames_of((*tokens, place), head, cuts=cuts, last_alone=last_alone)
    for one, other in product(signed, signed):
        assert list(convicting(one, other)) == []


@pytest.mark.spec("EVIDENCE-FRAMES.1")
@given(st.integers(0, 3), st.booleans(), st.booleans())
def test_a_fork_convicts_from_where_it_parts(place: int, alone: bool, forked_alone: bool) -> None:
    forked = (*TOKENS[:place], 99, *TOKENS[place + 1 :])
    ours, theirs = frames_of(last_alone=alone), frames_of(forked, last_alone=forked_alone)
    for one, other in product(ours, theirs):
        same_index = one[0].frame.index == other[0].frame.index
        found = list(convicting(one, other))
        assert len(found) == (same_index and one[0].frame.index > place)
        assert all(convict(DOMAIN, evidence) == ALICE.node for evidence in found)


@pytest.mark.spec("EVIDENCE-FRAMES.1")
def test_two_segments_of_one_generation_convict_at_every_common_index() -> None:
    for fields in ({"order": B}, {"prompt_tokens": B}, {"start_index": 1, "previous_head": B}):
        ours, theirs = frames_of(), frames_of(head=other_head(**fields))
        for one, other in product(ours, theirs):
            expected = one[0].frame.index == other[0].frame.index
            assert (refused(ConflictingFrames(one[0], other[0])) is None) == expected


@pytest.mark.spec("EVIDENCE-FRAMES.1")
def test_two_ends_at_one_token_convict() -> None:
    other_end = EndRecord(EndReason.LENGTH, 3, 4, 0)
    ours, theirs = frames_of()[-1], frames_of(end=other_end)[-1]
    (evidence,) = convicting(ours, theirs)
    assert evidence.closing is None


@pytest.mark.spec("EVIDENCE-FRAMES.1", "EVIDENCE-SIGNER.1")
def test_frames_that_do_not_belong_together_convict_nobody() -> None:
    ours = frames_of()[1][0]
    strangers: list[tuple[str, SignedFrame]] = [
        ("place", frames_of((1, 9), other_head(**{name: value}))[1][0])
        for name, value in (("session", B), ("task", 8), ("lane", 1), ("generation", b"\x02" * 24), ("miner", BOB.node))
    ]
    strangers += [
        ("place", frames_of((1, 9, 9))[2][0]),
        ("place", msgspec.structs.replace(frames_of((1, 9))[1][0], head=other_head(order=B))),
        ("place", frames_of((1, 9), domain=ELSEWHERE)[1][0]),
        ("signature", frames_of((1, 9), signer=BOB)[1][0]),
        ("signature", msgspec.structs.replace(frames_of((1, 9))[1][0], signature=b"\xff" * 64 + b"\x1b")),
        ("conflict", msgspec.structs.replace(ours, signature=sign_again(ALICE, typed_digest(DOMAIN, ours.frame)))),
    ]
    for link, other in strangers:
        assert refused(ConflictingFrames(ours, other)) == link


@pytest.mark.spec("EVIDENCE-SIGNER.1")
def test_who_signs_in_anothers_name_convicts_neither() -> None:
    ours, theirs = frames_of(signer=BOB)[1][0], frames_of((1, 9), signer=BOB)[1][0]
    assert ours.head.miner == ALICE.node
    assert refused(ConflictingFrames(ours, theirs)) == "signature"


@pytest.mark.spec("EVIDENCE-FRAMES.1")
def test_a_closing_must_be_of_the_end_and_be_needed() -> None:
    forked = frames_of((1, 2, 3, 9))
    end, closing = forked[-1]
    assert closing is not None
    frame = frames_of()[3][0]
    good = ConflictingFrames(frame, end, closing)
    assert refused(good) is None
    wrong = [None, Closing(A, closing.end), Closing(closing.chain, EndRecord(EndReason.STOP, 3, 4, 1))]
    for other in wrong:
        assert refused(ConflictingFrames(frame, end, other)) == "conflict"
    # Where no end is compared with a frame, a closing says nothing, and would make another form of the same evidence.
    assert refused(ConflictingFrames(frame, forked[3][0], closing)) == "conflict"
    assert refused(ConflictingFrames(frame, frames_of(head=other_head(order=B))[3][0], closing)) == "conflict"


# Any evidence

GUILTY: list[Evidence] = [
    ConflictingStatements(stated(ALICE, VOTE, A), stated(ALICE, VOTE, B)),
    ConflictingStatements(stated(ALICE, NULLIFY), stated(ALICE, FINALIZE)),
    two_batches(batch(), batch(content=B)),
    ConflictingFrames(frames_of()[3][0], frames_of((1, 2, 3, 9))[3][0]),
    ConflictingFrames(frames_of()[3][0], *frames_of((1, 2, 3, 9))[4]),
    ConflictingFrames(frames_of()[3][0], frames_of(head=other_head(order=B))[3][0]),
]


@pytest.mark.spec("EVIDENCE-SIGNER.1", "EVIDENCE-ID.1")
def test_the_guilty_are_convicted_in_their_network_only() -> None:
    for evidence in GUILTY:
        assert refused(evidence) is None
        assert refused(evidence, ELSEWHERE) in ("signature", "place")
    assert len({evidence_id(DOMAIN, ALICE.node, evidence) for evidence in GUILTY}) == len(GUILTY)


@pytest.mark.spec("EVIDENCE-SIGNER.1")
@given(st.sampled_from(GUILTY), st.data())
def test_damaged_evidence_convicts_nobody(evidence: Evidence, data: st.DataObject) -> None:
    good = bytearray(pack(evidence))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] ^= data.draw(st.integers(1, 255))
    try:
        damaged = unpack(type(evidence), bytes(good), limit_bytes=4_096)
    except DecodeError:
        return
    assert refused(damaged) is not None


@pytest.mark.spec("EVIDENCE-SIGNER.1")
@pytest.mark.parametrize("cls", [ConflictingStatements, ConflictingBatches, ConflictingFrames])
@given(data=st.data())
def test_any_evidence_ends_in_a_verdict(cls: type[Any], data: st.DataObject) -> None:
    assert refused(data.draw(build(cls))) is not None


@pytest.mark.spec("EVIDENCE-SIGNER.1")
@pytest.mark.parametrize("make", [lambda evidence: evidence, swapped])
def test_signatures_are_looked_at_last(make: Callable[[Evidence], Evidence], monkeypatch: pytest.MonkeyPatch) -> None:
    def recover(digest: Digest, signature: bytes) -> NodeId:
        raise AssertionError("costs more than all the rest")

    monkeypatch.setattr("protocol.committee.evidence.recover", recover)
    for one, other in combinations([stated(ALICE, VOTE), stated(ALICE, NULLIFY), stated(ALICE, VOTE, height=2)], 2):
        with pytest.raises(EvidenceError):
            convict(DOMAIN, make(ConflictingStatements(one, other)))
