"""Log probabilities beside the chain: as ordered and as their miner signed them, or the frame does not hold."""

from collections.abc import Callable

import msgspec
import pytest

from protocol.core.codec import encode
from protocol.core.errors import TranscriptError
from protocol.core.machine import Close
from protocol.core.signing import typed_digest
from protocol.messages.logprobs import (
    FRAME_LOGPROBS_MAX,
    LIKELY_TEXT_BYTES_MAX,
    MINUS_LOG_BP_MAX,
    Likely,
    LogProbs,
    TokenLogProbs,
)
from protocol.messages.sampling import TOP_LOGPROBS_MAX
from protocol.messages.sessions import SessionOpen
from protocol.messages.tasks import EndReason, EndRecord, FrameMessage, SegmentStart, SubmitTask, TaskOrder
from protocol.roles.client import TaskText
from protocol.roles.miner import Generate, Produced, Rendered
from protocol.session.logprobs import sign_logprobs
from protocol.session.transcript import LaneVerifier, SegmentWriter, expect_segment, segment_id
from tests.unit.protocol.client_at_hand import HELLO, Client
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    MALLORY,
    MINER,
    MODEL,
    PROMPT,
    PROMPT_TOKENS,
    assignment_of,
    head_of,
    id_of,
    of,
    opening_of,
    order_of,
    sent,
    start_of,
)
from tests.unit.protocol.miner_at_hand import Mine
from tests.unit.protocol.router_at_hand import Route

ORDERED = 3
"""Its own, and those of the two likeliest."""
SAMPLING = msgspec.structs.replace(PROMPT.sampling, logprobs=ORDERED)
ORDER = order_of(opening_of())


def told(token: int, top: int = 2) -> TokenLogProbs:
    """What a miner says of a token."""
    return TokenLogProbs(Likely(token, b"a", 1_250), tuple(Likely(token + at, b"b", 1_250 * at) for at in range(top)))


def frames(signer: Key = MINER, *, ordered: bool = True) -> tuple[SegmentStart, list[FrameMessage]]:
    """Two frames of two tokens, and an end without one."""
    writer = SegmentWriter(DOMAIN, signer.sign, head_of(ORDER, miner=MINER.node))
    made = []
    for first in (0, 2):
        ids = (first, first + 1)
        logprobs = tuple(map(told, ids)) if ordered else ()
        made.append(writer.frame(ids, (b"a", b"b"), None, logprobs))
    made.append(writer.frame((), (), EndRecord(EndReason.STOP, len(PROMPT_TOKENS), 4, 0)))
    return SegmentStart(writer.head), made


def reader(ordered: int = ORDERED) -> LaneVerifier:
    """Whoever reads the lane, after its head."""
    lane = LaneVerifier(DOMAIN, expect_segment(DOMAIN, ORDER, 0, GENERATION, MINER.node, MODEL), ordered)
    lane.begin(frames()[0].head)
    return lane


def with_(frame: FrameMessage, logprobs: LogProbs | None) -> FrameMessage:
    """The frame with other log probabilities."""
    return msgspec.structs.replace(frame, logprobs=logprobs)


def signed(tokens: tuple[TokenLogProbs, ...], first: int = 0, signer: Key = MINER) -> LogProbs:
    """Log probabilities of the segment's tokens."""
    return sign_logprobs(DOMAIN, signer.sign, segment_id(DOMAIN, frames()[0].head), first, tokens)


@pytest.mark.spec("LOGPROBS-SIGNED.1")
def test_what_was_ordered_comes_with_every_frame_that_holds_tokens() -> None:
    lane, (_, made) = reader(), frames()
    for frame in made:
        lane.take(frame)
    assert lane.finish().completion_tokens == 4
    plain, (_, made) = reader(0), frames(ordered=False)
    for frame in made:
        plain.take(frame)
    assert plain.chain == lane.chain, "they are no part of the chain"


ALTERED: dict[str, Callable[[FrameMessage], FrameMessage]] = {
    "missing": lambda frame: with_(frame, None),
    "of other tokens": lambda frame: with_(frame, signed((told(7), told(8)))),
    "of fewer tokens": lambda frame: with_(frame, signed((told(0),))),
    "more than ordered": lambda frame: with_(frame, signed((told(0, 3), told(1, 2)))),
    "of another place": lambda frame: with_(frame, signed((told(0), told(1)), first=2)),
    "another's": lambda frame: with_(frame, signed((told(0), told(1)), signer=MALLORY)),
    "no signature": lambda frame: with_(frame, LogProbs((told(0), told(1)), bytes(65))),
    "altered": lambda frame: with_(
        frame,
        LogProbs((told(0), TokenLogProbs(Likely(1, b"a", 0))), frame.logprobs.signature),  # type: ignore[union-attr]
    ),
}


@pytest.mark.spec("LOGPROBS-SIGNED.1")
@pytest.mark.parametrize("how", ALTERED)
def test_others_than_the_miner_signed_break_the_frame(how: str) -> None:
    lane, (_, made) = reader(), frames()
    with pytest.raises(TranscriptError, match=r"frame\.logprobs"):
        lane.take(ALTERED[how](made[0]))
    assert lane.index == 0


@pytest.mark.spec("LOGPROBS-SIGNED.1")
def test_what_nobody_ordered_breaks_the_frame() -> None:
    with pytest.raises(TranscriptError, match=r"frame\.logprobs"):
        reader(0).take(frames()[1][0])
    lane, (_, made) = reader(), frames()
    lane.take(made[0])
    lane.take(made[1])
    with pytest.raises(TranscriptError, match=r"frame\.logprobs"):
        lane.take(with_(made[2], signed((told(0),), first=4)))


def test_the_largest_frame_fits_its_message() -> None:
    likely = Likely(2**32 - 1, b"x" * LIKELY_TEXT_BYTES_MAX, MINUS_LOG_BP_MAX)
    tokens = (TokenLogProbs(likely, (likely,) * TOP_LOGPROBS_MAX),) * FRAME_LOGPROBS_MAX
    ids, texts = (2**32 - 1,) * FRAME_LOGPROBS_MAX, (b"x" * 1_024,) * FRAME_LOGPROBS_MAX
    encode(FrameMessage(bytes(32), 1, 0, 0, ids, texts, None, bytes(65), LogProbs(tokens, bytes(65))))


# The machines

PROMPT_TOLD = msgspec.structs.replace(PROMPT, sampling=SAMPLING)


def ordered_in(opening: SessionOpen) -> TaskOrder:
    """An order of the session that wants them."""
    return order_of(opening, prompt=PROMPT_TOLD.commitment(), sampling=SAMPLING.digest())


@pytest.mark.spec("LOGPROBS-SIGNED.1")
@pytest.mark.parametrize("wanted", [False, True])
def test_a_miner_signs_what_its_engine_tells_if_the_order_wants_it(wanted: bool) -> None:
    mine, opening = Mine(), opening_of()
    channel, generation = mine.lease(opening)
    order = ordered_in(opening) if wanted else order_of(opening)
    prompt = PROMPT_TOLD if wanted else PROMPT
    assignment = assignment_of(opening, generations=(generation,))
    assert of(mine.receive(channel, start_of(assignment, order, prompt=prompt)), Generate)
    name, ids, tells = (bytes(id_of(opening)), 1, 0), (1, 2), (told(1), told(2))
    mine.tell(Rendered(name, PROMPT_TOKENS))
    (frame,) = sent(mine.tell(Produced(name, ids, (b"a", b"b"), tells)))
    assert isinstance(frame, FrameMessage)
    assert (frame.logprobs.tokens if frame.logprobs else ()) == (tells if wanted else ())
    lane = LaneVerifier(DOMAIN, expect_segment(DOMAIN, order, 0, generation, MINER.node, MODEL), ORDERED * wanted)
    lane.begin(head_of(order, generation))
    lane.take(frame)


@pytest.mark.spec("LOGPROBS-SIGNED.1", "CHAIN-SIGNER.1")
@pytest.mark.parametrize("how", [None, *ALTERED])
def test_a_router_passes_on_what_holds_and_leaves_a_miner_that_sends_others(how: str | None) -> None:
    route, opening = Route(), opening_of()
    client = route.client()
    miner, _ = route.leased(opening, client)
    order = ordered_in(opening)
    route.receive(client, SubmitTask(order, CLIENT.sign(typed_digest(DOMAIN, order)), PROMPT_TOLD, 60_000))
    writer = SegmentWriter(DOMAIN, MINER.sign, head_of(order))
    route.receive(miner, SegmentStart(writer.head))
    frame = writer.frame((0, 1), (b"a", b"b"), None, (told(0), told(1)))
    effects = route.receive(miner, frame if how is None else ALTERED[how](frame))
    passed = [message for message in sent(effects, client) if isinstance(message, FrameMessage)]
    assert passed == ([frame] if how is None else [])
    assert (Close(miner) in effects) == (how is not None)


@pytest.mark.spec("LOGPROBS-SIGNED.1")
@pytest.mark.parametrize("come", [True, False])
def test_a_client_hands_them_out_with_their_tokens_and_shows_nothing_of_a_frame_that_lacks_them(come: bool) -> None:
    client = Client()
    client.says(HELLO)
    client.ready()
    order = client.order(client.ask(sampling=SAMPLING))
    writer = SegmentWriter(DOMAIN, MINER.sign, head_of(order))
    client.says(SegmentStart(writer.head))
    frame = writer.frame((0, 1), (b"a", b"b"), None, (told(0), told(1)))
    client.says(frame if come else with_(frame, None))
    texts = [item for item in client.items[3] if isinstance(item, TaskText)]
    assert [text.logprobs for text in texts] == ([(told(0), told(1))] if come else [])
    assert come or client.over(3).code == "transcript_broken"
