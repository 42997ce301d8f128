"""What a checker makes of an answer that it holds whole."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from protocol.core.errors import RemoteProtocolError, TranscriptError
from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.core.signing import typed_digest
from protocol.messages.audits import Transcript
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import EndReason, EndRecord, FrameMessage, SegmentHead, SegmentStart
from protocol.results import audit
from protocol.results.audit import (
    MARGIN_MILLI_MAX,
    AnswerFault,
    Finding,
    Marks,
    Said,
    check_answer,
    check_rendered,
    check_speed,
    check_transcript,
    judge,
    margin_milli,
    marks_of,
    similarity_bp,
    tokens_per_second,
)
from protocol.results.commitment import chain_heads, result_root
from protocol.session.transcript import SegmentWriter, close_chain
from tests.unit.protocol import strategies
from tests.unit.protocol.machines import (
    DOMAIN,
    MINER,
    MINERS,
    MODEL,
    PARAMS,
    PROMPT,
    PROMPT_TOKENS,
    head_of,
    opening_of,
    order_of,
    stream_of,
)

TRANSCRIPTS = strategies.build(Transcript)
TAU = PARAMS.margin_tolerance_milli
STOP, LENGTH, CANCELLED = EndReason.STOP, EndReason.LENGTH, EndReason.CANCELLED


def fault(link: str) -> Any:
    """The check that is expected to complain."""
    return pytest.raises(AnswerFault, match=f"^{link}: ")


@pytest.mark.spec("TEST-MARGINS.1")
def test_a_margin_is_rounded_away_from_what_the_checker_would_have_drawn() -> None:
    assert [margin_milli(margin) for margin in (0.0, 1e-9, 0.1, 0.1001, 1.0)] == [0, 1, 100, 101, 1_000]
    assert margin_milli(math.inf) == margin_milli(1e9) == MARGIN_MILLI_MAX


@pytest.mark.spec("TEST-MARGINS.1")
def test_marks_count_what_differs_and_what_is_beyond_the_tolerance() -> None:
    marks = marks_of(PARAMS, [0, 1, TAU, TAU + 1, MARGIN_MILLI_MAX])
    assert marks == Marks(tokens=5, different=4, bad=2, excess_milli=1 + TAU + TAU + 1 + 1_000)
    assert marks + marks == Marks(10, 8, 4, 2 * marks.excess_milli)


@pytest.mark.spec("TEST-MARGINS.1")
@pytest.mark.parametrize(
    ("marks", "same_build", "finding"),
    [
        (Marks(256), True, Finding.HONEST),
        # A build of another kind rounds otherwise: differences below the tolerance are nobody's fault.
        (Marks(256, different=4, excess_milli=120), False, Finding.HONEST),
        (Marks(256, different=1, excess_milli=1), True, Finding.DOUBTFUL),
        (Marks(256, different=1, bad=1, excess_milli=110), False, Finding.DOUBTFUL),
        # One token convicts nobody, however wrong it is.
        (Marks(64, different=1, bad=1, excess_milli=1_000), True, Finding.DOUBTFUL),
        (Marks(256, different=2, bad=2, excess_milli=2_559), True, Finding.DOUBTFUL),
        (Marks(256, different=2, bad=2, excess_milli=2_560), True, Finding.FAILED),
        (Marks(256, different=2, bad=2, excess_milli=2_560), False, Finding.FAILED),
    ],
)
def test_judging(marks: Marks, same_build: bool, finding: Finding) -> None:
    assert judge(marks, same_build=same_build) is finding


@given(st.lists(st.integers(0, MARGIN_MILLI_MAX), min_size=1, max_size=64), st.booleans())
def test_a_worse_token_never_makes_a_better_finding(margins: list[int], same_build: bool) -> None:
    grade = list(Finding).index
    before = judge(marks_of(PARAMS, margins), same_build=same_build)
    after = judge(marks_of(PARAMS, [MARGIN_MILLI_MAX, *margins[1:]]), same_build=same_build)
    assert grade(after) >= grade(before)


@pytest.mark.spec("TEST-EXACT.1")
def test_an_honest_answer_passes_the_exact_checks() -> None:
    check_answer([b"In", b" the", b""], STOP, 64, Said(b"In the", ends=True))
    check_answer([b"a", b"b"], LENGTH, 2, Said(b"ab", ends=False))
    check_answer([b"In", b" "], STOP, 64, Said(b"In the end", ends=True), stops=(b"the", b"end"))
    check_answer([b"In"], CANCELLED, 64, Said(b"In the", ends=False))


@pytest.mark.spec("TEST-EXACT.1")
def test_what_is_wrong_with_an_answer_is_named() -> None:
    with fault("text"):
        check_answer([b"On", b" the"], STOP, 64, Said(b"In the", ends=True))
    with fault("text"):
        check_answer([b"In"], STOP, 64, Said(b"In the", ends=True))
    with fault("text"):  # the stop sequence is shown
        check_answer([b"In the"], STOP, 64, Said(b"In the", ends=True), stops=(b"the",))
    with fault("text"):
        check_answer([b"On"], CANCELLED, 64, Said(b"In the", ends=False))
    with fault("end"):  # cut short
        check_answer([b"In", b" the"], STOP, 64, Said(b"In the", ends=False))
    with fault("end"):
        check_answer([b"In", b" the"], LENGTH, 64, Said(b"In the", ends=False))


def test_of_two_stop_sequences_the_one_that_is_complete_first_counts() -> None:
    assert audit.before_stop(b"one two three", (b"two three", b"wo")) == b"one t"
    assert audit.before_stop(b"one", ()) == b"one"


@pytest.mark.spec("TEST-SPEED.1")
def test_a_miner_is_half_as_fast_as_it_says_or_it_fails() -> None:
    assert tokens_per_second(100, 2_000) == 50
    assert tokens_per_second(5, 0) == 5_000
    check_speed(100, 50)
    check_speed(0, 0)
    with fault("speed"):
        check_speed(100, 49)


@pytest.mark.spec("TEST-EMBEDDING.1")
def test_similarity_is_the_cosine_in_basis_points() -> None:
    assert similarity_bp([1.0, 2.0], [2.0, 4.0]) == 10_000
    assert similarity_bp([1.0, 0.0], [1.0, 1.0]) == 7_071
    assert similarity_bp([1.0], [-1.0]) == 0
    assert similarity_bp([1.0], [1.0, 0.0]) == similarity_bp([0.0], [0.0]) == similarity_bp([], []) == 0
    assert similarity_bp([math.nan], [1.0]) == similarity_bp([math.inf], [1.0]) == 0


# Transcripts


ORDER = order_of(opening_of())


def transcript_of(sizes: tuple[int, ...] = (1, 2, 2), **fields: Any) -> tuple[Transcript, bytes]:
    """An honest lane of one segment, and its result root."""
    head: SegmentHead | None = None
    ids: list[int] = []
    texts: list[bytes] = []
    end: EndRecord | None = None
    for message in stream_of(ORDER, sizes=sizes):
        if isinstance(message, SegmentStart):
            head = message.head
        elif isinstance(message, FrameMessage):
            ids += message.ids
            texts += message.texts
            end = message.end
    assert head is not None
    assert end is not None
    transcript = Transcript(ORDER, PROMPT, (head,), tuple(ids), tuple(texts), end, "build")
    return structs.replace(transcript, **fields), root_of(transcript)


def root_of(transcript: Transcript) -> bytes:
    """What its miner would have committed to."""
    chain = ZERO_DIGEST
    for place, head in enumerate(transcript.heads):
        writer = SegmentWriter(DOMAIN, MINER.sign, head)
        following = transcript.heads[place + 1 :]
        stop = following[0].start_index if following else len(transcript.ids)
        if stop > head.start_index:
            part = slice(head.start_index, stop)
            writer.frame(transcript.ids[part], transcript.texts[part], None)
        chain = writer.chain
    heads = chain_heads(ZERO_DIGEST, [typed_digest(DOMAIN, head) for head in transcript.heads])
    ended = close_chain(chain, transcript.end)
    return result_root(DOMAIN, transcript.order, MODEL, heads, ended, len(transcript.ids))


@pytest.mark.spec("TEST-TRANSCRIPT.1")
def test_a_transcript_is_what_the_result_root_binds() -> None:
    transcript, root = transcript_of()
    assert check_transcript(DOMAIN, root, MINER.node, transcript) == 0
    check_rendered(transcript, PROMPT_TOKENS)
    with fault("head.prompt_tokens"):
        check_rendered(transcript, (*PROMPT_TOKENS, 9))


@pytest.mark.spec("TEST-TRANSCRIPT.1")
def test_nothing_in_a_transcript_can_be_changed() -> None:
    transcript, root = transcript_of()
    other = structs.replace(PROMPT, nonce=b"\x09" * 32)
    hotter = structs.replace(PROMPT, sampling=SamplingParams(temperature_bp=1))
    changes: list[dict[str, Any]] = [
        {"ids": (*transcript.ids[:-1], 9)},
        {"texts": (*transcript.texts[:-1], b"other")},
        {"ids": transcript.ids[:-1], "texts": transcript.texts[:-1]},
        {"ids": transcript.ids[:-1]},
        {"ids": (), "texts": ()},
        {"end": structs.replace(transcript.end, cached_tokens=1)},
        {"order": structs.replace(transcript.order, seed=bytes(32))},
        {"heads": (structs.replace(transcript.heads[0], price_wei=8),)},
        {"heads": transcript.heads * 2},
        {"prompt": other},
        {"prompt": hotter},
    ]
    for change in changes:
        with pytest.raises((AnswerFault, TranscriptError)):
            check_transcript(DOMAIN, root, MINER.node, structs.replace(transcript, **change))
    with fault("head.miner"):
        check_transcript(DOMAIN, root, MINERS[1].node, transcript)
    with fault("root"):
        check_transcript(DOMAIN, b"\x01" * 32, MINER.node, transcript)


@pytest.mark.parametrize("sizes", [(3, 2), (3, 0)])
def test_a_lane_that_was_taken_over_is_scored_from_where_its_last_miner_began(sizes: tuple[int, int]) -> None:
    first, second = sizes
    earlier = SegmentWriter(DOMAIN, MINERS[1].sign, head_of(ORDER, miner=MINERS[1].node))
    ids, texts = tuple(range(100, 100 + first + second)), (b"a ",) * (first + second)
    earlier.frame(ids[:first], texts[:first], None)
    later = head_of(ORDER, start_index=first, previous_head=earlier.chain)
    end = EndRecord(STOP, len(PROMPT_TOKENS), first + second, 0)
    transcript = Transcript(ORDER, PROMPT, (earlier.head, later), ids, texts, end, "build")
    assert check_transcript(DOMAIN, root_of(transcript), MINER.node, transcript) == first


@given(st.data())
def test_a_strangers_transcript_ends_in_an_error_of_its_own(data: st.DataObject) -> None:
    transcript = data.draw(TRANSCRIPTS)
    with pytest.raises(RemoteProtocolError):
        check_transcript(DOMAIN, Digest(b"\x01" * 32), MINER.node, transcript)


def test_the_tolerance_is_the_networks() -> None:
    strict = replace(PARAMS, margin_tolerance_milli=1)
    assert (marks_of(strict, [2]).bad, marks_of(PARAMS, [2]).bad) == (1, 0)
