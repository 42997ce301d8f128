"""A lane of several segments: whoever computes its chain again finds the same, and no seam lets anything else in."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.errors import LocalProtocolError, TranscriptError
from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.messages.tasks import Continuation, EndReason, EndRecord, FrameMessage, SegmentHead
from protocol.session.transcript import (
    LaneVerifier,
    SegmentExpectation,
    SegmentWriter,
    expect_segment,
    replay,
    segment_id,
)
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import DOMAIN, MINERS, MODEL, PROMPT_TOKENS, head_of, opening_of, order_of

ORDER = order_of(opening_of())
Content = list[tuple[int, bytes]]
tokens = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=12)), min_size=1, max_size=40)
cuts = st.lists(st.integers(0, 39), max_size=6)


def miner_of(segment: int) -> Key:
    """Who writes a segment; no two neighbours are the same."""
    return MINERS[segment % 3]


def generation_of(segment: int) -> bytes:
    return b"\x46" * 23 + bytes([segment])


def expected_of(segment: int) -> SegmentExpectation:
    return expect_segment(DOMAIN, ORDER, 0, generation_of(segment), miner_of(segment).node, MODEL)


def writer_of(segment: int, start: int, previous: Digest) -> SegmentWriter:
    head = head_of(
        ORDER, generation_of(segment), miner=miner_of(segment).node, start_index=start, previous_head=previous
    )
    return SegmentWriter(DOMAIN, miner_of(segment).sign, head)


@dataclass
class Lane:
    """A lane as its reader and the router know it."""

    reader: LaneVerifier
    heads: list[SegmentHead]
    ids: list[int]
    texts: list[bytes]

    def continuation(self) -> Continuation:
        return Continuation(tuple(self.heads), tuple(self.ids), tuple(self.texts))


def lane_of(content: Content, places: list[int], *, bare: bool = False) -> Lane:
    """The content, read in segments that end at the places. ``bare``: before each, one that dies after its head."""
    bounds = sorted({place % len(content) for place in places} | {0, len(content)})
    lane = Lane(LaneVerifier(DOMAIN, expected_of(0)), [], [], [])
    segment = 0
    for start, stop in pairwise(bounds):
        previous = replay(DOMAIN, lane.continuation()) if start else ZERO_DIGEST
        for dies in (True, False) if bare else (False,):
            if segment:
                lane.reader.take_over(expected_of(segment))
            writer = writer_of(segment, start, previous)
            segment += 1
            lane.reader.begin(writer.head)
            if dies:
                continue
            part = content[start:stop]
            lane.reader.take(writer.frame([i for i, _ in part], [text for _, text in part], None))
            lane.heads.append(writer.head)
            lane.ids += [i for i, _ in part]
            lane.texts += [text for _, text in part]
    return lane


@pytest.mark.spec("CHAIN-TAKEOVER.1")
@given(tokens, cuts, st.booleans())
def test_a_replay_finds_the_readers_chain_however_the_lane_is_split(
    content: Content, places: list[int], bare: bool
) -> None:
    lane = lane_of(content, places, bare=bare)
    assert replay(DOMAIN, lane.continuation()) == lane.reader.chain
    assert (lane.reader.index, len(lane.heads)) == (len(content), len({p % len(content) for p in places} | {0}))


@pytest.mark.spec("CHAIN-TAKEOVER.1")
@given(tokens, cuts, st.data())
def test_no_other_content_has_the_readers_chain(content: Content, places: list[int], data: st.DataObject) -> None:
    lane = lane_of(content, places)
    at = data.draw(st.integers(0, len(content) - 1))
    changed = list(lane.ids)
    changed[at] ^= 1
    longer = list(lane.texts)
    longer[at] += b"!"
    for other in (
        Continuation(tuple(lane.heads), tuple(changed), tuple(lane.texts)),
        Continuation(tuple(lane.heads), tuple(lane.ids), tuple(longer)),
    ):
        try:
            assert replay(DOMAIN, other) != lane.reader.chain
        except TranscriptError as error:
            assert error.link == "resume.heads"


CONTENT: Content = [(index, b"%d " % index) for index in range(9)]


def with_head(place: int, **fields: object) -> Callable[[Continuation], Continuation]:
    def change(honest: Continuation) -> Continuation:
        heads = list(honest.heads)
        heads[place] = msgspec.structs.replace(heads[place], **fields)
        return msgspec.structs.replace(honest, heads=tuple(heads))

    return change


def changed(**fields: Callable[[Continuation], object]) -> Callable[[Continuation], Continuation]:
    return lambda honest: msgspec.structs.replace(honest, **{name: made(honest) for name, made in fields.items()})


CONTINUATION_FRAUDS: dict[str, tuple[str, Callable[[Continuation], Continuation]]] = {
    "a token dropped": ("resume.tokens", changed(ids=lambda c: c.ids[1:])),
    "a text dropped": ("resume.tokens", changed(texts=lambda c: c.texts[:-1])),
    "a token and its text dropped": ("resume.heads", changed(ids=lambda c: c.ids[1:], texts=lambda c: c.texts[1:])),
    "a token changed": ("resume.heads", changed(ids=lambda c: (c.ids[0] ^ 1, *c.ids[1:]))),
    "a text changed": ("resume.heads", changed(texts=lambda c: (b"other", *c.texts[1:]))),
    "two tokens swapped": ("resume.heads", changed(ids=lambda c: (c.ids[1], c.ids[0], *c.ids[2:]))),
    "the first head left out": ("resume.heads", changed(heads=lambda c: c.heads[1:])),
    "no heads": ("resume.heads", changed(heads=lambda c: ())),
    "no tokens": ("resume.heads", changed(ids=lambda c: (), texts=lambda c: ())),
    "a middle head left out": ("resume.heads", changed(heads=lambda c: (c.heads[0], c.heads[2]))),
    "a head twice": ("resume.heads", changed(heads=lambda c: (*c.heads, c.heads[-1]))),
    "a head after the last token": ("resume.heads", with_head(2, start_index=9)),
    "a head that starts elsewhere": ("resume.heads", with_head(1, start_index=4)),
    "a head of another miner": ("resume.heads", with_head(0, miner=bytes(20))),
    "a head of another generation": ("resume.heads", with_head(1, generation=bytes(24))),
    "a head of another prompt": ("resume.heads", with_head(0, prompt_tokens=bytes(32))),
    "something before the first head": ("resume.heads", with_head(0, previous_head=b"\x01" * 32)),
    "another chain before a head": ("resume.heads", with_head(2, previous_head=b"\x01" * 32)),
}


@pytest.mark.spec("CHAIN-TAKEOVER.1")
@pytest.mark.parametrize("name", CONTINUATION_FRAUDS)
def test_a_continuation_that_does_not_follow_is_refused_and_the_link_is_named(name: str) -> None:
    link, change = CONTINUATION_FRAUDS[name]
    honest = lane_of(CONTENT, [3, 6]).continuation()
    with pytest.raises(TranscriptError) as refused:
        replay(DOMAIN, change(honest))
    assert refused.value.link == link
    assert str(refused.value).startswith(f"{link}: ")


@pytest.mark.spec("CHAIN-TAKEOVER.1", "CHAIN-HEAD.1")
@pytest.mark.parametrize(
    ("fields", "link"),
    [
        ({"start_index": 4}, "head.start_index"),
        ({"start_index": 6}, "head.start_index"),
        ({"start_index": 0, "previous_head": ZERO_DIGEST}, "head.start_index"),
        ({"previous_head": ZERO_DIGEST}, "head.previous_head"),
        ({"previous_head": segment_id(DOMAIN, head_of(ORDER))}, "head.previous_head"),
        ({"generation": generation_of(0)}, "head.generation"),
        ({"miner": miner_of(0).node}, "head.miner"),
        ({"order": bytes(32)}, "head.order"),
    ],
)
def test_a_head_that_does_not_go_on_where_the_lane_stands_is_refused(fields: dict[str, object], link: str) -> None:
    lane = lane_of(CONTENT[:5], [])
    lane.reader.take_over(expected_of(1))
    head = writer_of(1, 5, lane.reader.chain).head
    with pytest.raises(TranscriptError) as refused:
        lane.reader.begin(msgspec.structs.replace(head, **fields))
    assert refused.value.link == link


def frame(writer: SegmentWriter, content: Content, end: EndRecord | None = None) -> FrameMessage:
    return writer.frame([i for i, _ in content], [text for _, text in content], end)


@pytest.mark.spec("CHAIN-TAKEOVER.1", "CHAIN-SIGNER.1")
def test_frames_of_the_old_segment_are_refused_after_a_takeover() -> None:
    for begun in (False, True):
        old = writer_of(0, 0, ZERO_DIGEST)
        reader = LaneVerifier(DOMAIN, expected_of(0))
        reader.begin(old.head)
        reader.take(frame(old, CONTENT[:5]))
        reader.take_over(expected_of(1))
        if begun:
            reader.begin(writer_of(1, 5, reader.chain).head)
        with pytest.raises(TranscriptError) as refused:
            reader.take(frame(old, CONTENT[5:]))
        assert refused.value.link == ("frame.signature" if begun else "head")
        assert reader.index == 5


@pytest.mark.spec("CHAIN-TAKEOVER.1")
def test_a_router_goes_on_after_a_segment_that_broke_with_nothing_of_what_broke() -> None:
    old = writer_of(0, 0, ZERO_DIGEST)
    reader = LaneVerifier(DOMAIN, expected_of(0))
    reader.begin(old.head)
    reader.take(frame(old, CONTENT[:5]))
    held = reader.chain
    with pytest.raises(TranscriptError):
        reader.take(msgspec.structs.replace(frame(old, CONTENT[5:]), signature=bytes(64) + b"\x1b"))
    with pytest.raises(TranscriptError, match="earlier link"):
        reader.begin(old.head)
    reader.take_over(expected_of(1))
    assert (reader.index, reader.chain) == (5, held)
    new = writer_of(1, 5, held)
    reader.begin(new.head)
    reader.take(frame(new, CONTENT[5:], EndRecord(EndReason.STOP, len(PROMPT_TOKENS), 9, 0)))
    assert reader.finish().completion_tokens == 9


@pytest.mark.spec("CHAIN-TAKEOVER.1", "CHAIN-END.1")
def test_the_end_counts_the_whole_lane_and_is_the_last_word() -> None:
    for claimed in (4, 9):
        lane = lane_of(CONTENT[:5], [])
        lane.reader.take_over(expected_of(1))
        new = writer_of(1, 5, lane.reader.chain)
        lane.reader.begin(new.head)
        last = frame(new, CONTENT[5:], EndRecord(EndReason.STOP, len(PROMPT_TOKENS), claimed, 0))
        if claimed == 9:
            lane.reader.take(last)
            with pytest.raises(LocalProtocolError):
                lane.reader.take_over(expected_of(2))
        else:
            with pytest.raises(TranscriptError, match=r"end\.usage"):
                lane.reader.take(last)


@pytest.mark.spec("CHAIN-TAKEOVER.1")
def test_a_takeover_does_not_raise_what_the_order_allows() -> None:
    order = msgspec.structs.replace(ORDER, max_tokens=6)
    expected = replace(expected_of(0), max_tokens=6, order=expect_segment(DOMAIN, order, 0, b"", b"", b"").order)
    reader = LaneVerifier(DOMAIN, expected)
    old = SegmentWriter(
        DOMAIN, miner_of(0).sign, msgspec.structs.replace(writer_of(0, 0, ZERO_DIGEST).head, order=expected.order)
    )
    reader.begin(old.head)
    reader.take(frame(old, CONTENT[:5]))
    reader.take_over(replace(expected, generation=generation_of(1), miner=miner_of(1).node))  # type: ignore[arg-type]
    head = msgspec.structs.replace(writer_of(1, 5, reader.chain).head, order=expected.order)
    new = SegmentWriter(DOMAIN, miner_of(1).sign, head)
    reader.begin(head)
    with pytest.raises(TranscriptError, match="7 tokens, the order allows 6"):
        reader.take(frame(new, CONTENT[5:7]))
