"""The bound chain: whatever a miner signs is read back the same, and nothing else is read at all."""

import hashlib
import json
from collections.abc import Sequence
from itertools import accumulate, pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.errors import LocalProtocolError, TranscriptError
from protocol.core.ids import Digest
from protocol.core.signing import recover, typed_digest
from protocol.messages.tasks import Ack, EndReason, EndRecord, FrameMessage, SegmentHead, SegmentStart
from protocol.session.transcript import (
    LaneVerifier,
    SegmentWriter,
    advance,
    close_chain,
    expect_segment,
    make_ack,
    prompt_tokens_digest,
    segment_id,
)
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    MALLORY,
    MINER,
    MODEL,
    head_of,
    opening_of,
    order_of,
    stream_of,
)
from tests.unit.protocol.tampering import ELSEWHERE, FRAUDS, Fraud, Powers, apply, frames_of
from tests.vectors import transcript as vectors

OPENING = opening_of()
ORDER = order_of(OPENING)
EXPECTED = expect_segment(DOMAIN, ORDER, 0, GENERATION, MINER.node, MODEL)

tokens = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=12)), min_size=1, max_size=40)


def verifier() -> LaneVerifier:
    return LaneVerifier(DOMAIN, EXPECTED)


def feed(lane: LaneVerifier, messages: Sequence[Message]) -> bytes:
    """Read a stream to its end; returns the text that was verified before anything raised."""
    text = b""
    for message in messages:
        if isinstance(message, SegmentStart):
            lane.begin(message.head)
        else:
            assert isinstance(message, FrameMessage)
            lane.take(message)
            text += b"".join(message.texts)
    lane.finish()
    return text


def split(content: list[tuple[int, bytes]], cuts: list[int]) -> list[list[tuple[int, bytes]]]:
    """The content in pieces that end at the cuts; none is empty."""
    places = sorted({cut % len(content) for cut in cuts} | {0, len(content)})
    return [content[start:stop] for start, stop in pairwise(places)]


@pytest.mark.spec("CHAIN-HEAD.1", "CHAIN-TOKEN.1", "CHAIN-END.1")
@given(tokens, st.lists(st.integers(0, 39), max_size=10), st.booleans())
def test_what_is_verified_does_not_depend_on_how_it_is_split(
    content: list[tuple[int, bytes]], cuts: list[int], end_alone: bool
) -> None:
    end = EndRecord(EndReason.STOP, 3, len(content), 0)
    whole, pieces = SegmentWriter(DOMAIN, MINER.sign, head_of(ORDER)), split(content, cuts)
    in_parts = SegmentWriter(DOMAIN, MINER.sign, head_of(ORDER))
    frames = [whole.frame([i for i, _ in content], [text for _, text in content], end)]
    parts = []
    for place, piece in enumerate(pieces):
        last = end if place == len(pieces) - 1 and not end_alone else None
        parts.append(in_parts.frame([i for i, _ in piece], [text for _, text in piece], last))
    if end_alone:
        parts.append(in_parts.frame([], [], end))
    one, many = verifier(), verifier()
    text = b"".join(text for _, text in content)
    assert feed(one, [SegmentStart(whole.head), *frames]) == text
    assert feed(many, [SegmentStart(whole.head), *parts]) == text
    assert (one.chain, one.index, one.end) == (many.chain, many.index, many.end)
    assert make_ack(DOMAIN, CLIENT.sign, one) == make_ack(DOMAIN, CLIENT.sign, many)


@pytest.mark.spec("CHAIN-TOKEN.1")
@given(tokens, tokens)
def test_different_tokens_never_share_a_chain(one: list[tuple[int, bytes]], other: list[tuple[int, bytes]]) -> None:
    def chain(content: list[tuple[int, bytes]]) -> Digest:
        numbered = enumerate(content, 1)
        *_, last = accumulate(numbered, lambda so_far, item: advance(so_far, item[0], *item[1]), initial=GENESIS_CHAIN)
        return last

    assert (chain(one) == chain(other)) == (one == other)


GENESIS_CHAIN = Digest(bytes(32))


@pytest.mark.spec("CHAIN-TOKEN.1", "CHAIN-END.1")
def test_the_chain_is_a_hash_of_what_the_spec_says() -> None:
    packed = (7).to_bytes(8, "big") + (9).to_bytes(4, "big") + (2).to_bytes(4, "big")
    assert advance(GENESIS_CHAIN, 7, 9, b"hi") == hashlib.sha256(b"\x01" + bytes(32) + packed + b"hi").digest()
    end = EndRecord(EndReason.LENGTH, 3, 7, 2)
    packed = b"\x01" + b"".join(count.to_bytes(4, "big") for count in (3, 7, 2))
    assert close_chain(GENESIS_CHAIN, end) == hashlib.sha256(b"\x02" + bytes(32) + packed).digest()


@pytest.mark.spec("CHAIN-HEAD.1")
@pytest.mark.parametrize("field", SegmentHead.__struct_fields__)
def test_the_chain_begins_with_every_field_of_the_head(field: str) -> None:
    head = head_of(ORDER)
    value = getattr(head, field)
    other = value + 1 if isinstance(value, int) else bytes(reversed(value[:-1])) + b"\x99"
    assert segment_id(DOMAIN, head) != segment_id(DOMAIN, msgspec.structs.replace(head, **{field: other}))
    assert segment_id(DOMAIN, head) != segment_id(ELSEWHERE, head)


def powers(recorded: str) -> Powers:
    """A dishonest router that has recorded another stream of the same miner."""
    if recorded == "session":
        elsewhere = opening_of(number=9)
        stream = stream_of(order_of(elsewhere), generation=b"\x45" * 24)
    else:
        stream = stream_of(order_of(OPENING, task=2))
    return Powers(DOMAIN, MALLORY.sign, MINER.sign, stream)


@pytest.mark.spec("CHAIN-HEAD.1", "CHAIN-ORDER.1", "CHAIN-END.1", "CHAIN-SIGNER.1")
@pytest.mark.parametrize("fraud", FRAUDS, ids=lambda fraud: fraud.name)
def test_a_tampered_stream_is_refused_and_the_link_is_named(fraud: Fraud) -> None:
    honest, lane = stream_of(ORDER), verifier()
    shown = b"".join(b"".join(frame.texts) for frame in frames_of(honest))
    with pytest.raises(TranscriptError) as refused:
        feed(lane, apply(fraud.make(powers(fraud.recorded)), honest))
    assert refused.value.link == fraud.link
    assert str(refused.value).startswith(f"{fraud.link}: ")
    assert lane.index <= len(shown)
    if fraud.link != "end":
        # A broken stream cannot be taken up again, not even with the honest frames.
        for message in honest:
            with pytest.raises(TranscriptError, match="earlier link"):
                lane.begin(message.head) if isinstance(message, SegmentStart) else lane.take(message)


@pytest.mark.spec("CHAIN-SIGNER.1")
@given(st.integers(0, 4), st.integers(0, 64), st.integers(1, 255))
def test_any_bit_of_a_signature_matters(place: int, byte: int, flip: int) -> None:
    messages = stream_of(ORDER)
    frame = frames_of(messages)[place]
    garbled = bytearray(frame.signature)
    garbled[byte] ^= flip
    messages[place + 1] = msgspec.structs.replace(frame, signature=bytes(garbled))
    with pytest.raises(TranscriptError) as refused:
        feed(verifier(), messages)
    assert refused.value.link == "frame.signature"


@pytest.mark.spec("CHAIN-ORDER.1")
def test_a_head_comes_once_and_nothing_comes_after_the_end() -> None:
    messages = stream_of(ORDER)
    lane = verifier()
    feed(lane, messages)
    with pytest.raises(TranscriptError) as refused:
        lane.take(frames_of(messages)[-1])
    assert refused.value.link == "frame.index"
    lane = verifier()
    lane.begin(head_of(ORDER))
    with pytest.raises(TranscriptError) as refused:
        lane.begin(head_of(ORDER))
    assert refused.value.link == "head"


@pytest.mark.spec("CHAIN-ORDER.1")
def test_a_miner_cannot_exceed_the_order() -> None:
    order = order_of(OPENING, max_tokens=4)
    lane = LaneVerifier(DOMAIN, expect_segment(DOMAIN, order, 0, GENERATION, MINER.node, MODEL))
    with pytest.raises(TranscriptError, match="5 tokens, the order allows 4") as refused:
        feed(lane, stream_of(order, sizes=(1, 2, 2)))
    assert refused.value.link == "frame.tokens"
    assert lane.index == 3


@pytest.mark.spec("CHAIN-END.1")
def test_a_stream_without_its_end_is_not_finished() -> None:
    lane = verifier()
    with pytest.raises(TranscriptError, match="cut after token 0"):
        lane.finish()
    with pytest.raises(TranscriptError, match="cut after token 7") as refused:
        feed(lane, stream_of(ORDER)[:-1])
    assert refused.value.link == "end"


def test_a_writer_signs_nothing_empty_and_nothing_after_its_end() -> None:
    writer = SegmentWriter(DOMAIN, MINER.sign, head_of(ORDER))
    for ids, texts in (([], []), ([1], []), ([], [b"x"])):
        with pytest.raises(LocalProtocolError):
            writer.frame(ids, texts, None)
    writer.frame([], [], EndRecord(EndReason.CANCELLED, 3, 0, 0))
    with pytest.raises(LocalProtocolError):
        writer.frame([1], [b"x"], None)


@pytest.mark.spec("ACK-SIGNED.1")
def test_an_ack_names_what_was_verified_under_the_readers_key() -> None:
    lane = verifier()
    with pytest.raises(LocalProtocolError):
        make_ack(DOMAIN, CLIENT.sign, lane)
    feed(lane, stream_of(ORDER))
    message = make_ack(DOMAIN, CLIENT.sign, lane)
    assert message.ack == Ack(ORDER.session, 1, 0, GENERATION, segment_id(DOMAIN, lane.head), 8, lane.chain)
    assert recover(typed_digest(DOMAIN, message.ack), message.signature) == CLIENT.node
    assert recover(typed_digest(ELSEWHERE, message.ack), message.signature) != CLIENT.node


@pytest.mark.spec("CHAIN-HEAD.1", "CHAIN-TOKEN.1", "CHAIN-END.1")
def test_the_vectors_hold() -> None:
    assert json.loads(vectors.TRANSCRIPT.read_text()) == vectors.transcript_vectors()


def test_prompt_tokens_are_hashed_in_order() -> None:
    nonce = b"\x07" * 32
    assert prompt_tokens_digest(nonce, (1, 2)) != prompt_tokens_digest(nonce, (2, 1))
    assert prompt_tokens_digest(nonce, ()) == hashlib.sha256(b"p2pnode/prompt-tokens/1" + nonce).digest()


@pytest.mark.spec("CHAIN-SALT.1")
def test_a_public_head_tells_nothing_of_the_prompt_to_who_does_not_know_the_nonce() -> None:
    assert prompt_tokens_digest(b"\x07" * 32, (1, 2)) != prompt_tokens_digest(b"\x08" * 32, (1, 2))
