"""The client's machine with a stream of its own to the miner: when it asks the router, and from where."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.machine import Close
from protocol.messages.tasks import (
    AckMessage,
    DirectReady,
    EndReason,
    EndRecord,
    FrameMessage,
    LaneEnded,
    SegmentStart,
    SubmitTask,
)
from protocol.roles.client import TaskHead
from protocol.session.transcript import SegmentWriter
from tests.unit.protocol.client_at_hand import HELLO
from tests.unit.protocol.client_direct_at_hand import TASK, Straight
from tests.unit.protocol.machines import (
    DOMAIN,
    MALLORY,
    MINERS,
    PARAMS,
    id_of,
    sent,
)
from tests.unit.protocol.test_machine_client_takeover import generation_of

# Back to the router


@pytest.mark.spec("DIRECT-FALLBACK.1", "CHAIN-ORDER.1", "TASK-TERMINAL.1")
@settings(max_examples=60)
@given(
    head=st.booleans(),
    before=st.lists(st.integers(1, 30), max_size=4),
    after=st.lists(st.integers(1, 30), max_size=3),
    how=st.sampled_from(("closed", "stalled", "broke")),
    late=st.booleans(),
    moved=st.booleans(),
)
def test_wherever_the_stream_ends_the_text_goes_on_with_the_next_token(
    head: bool, before: list[int], after: list[int], how: str, late: bool, moved: bool
) -> None:
    client = Straight()
    streamed = [client.head(), *(client.frame(count) for count in before)] if head or before else []
    client.tells(*streamed)
    total = sum(before)
    stream = client.direct
    assert stream is not None
    if how == "closed":
        effects = client.lose()
    elif how == "broke":
        effects = client.tells(DirectReady(bytes(32)))
    else:
        effects = client.wait(PARAMS.frame_gap_timeout_ms)
    again = client.again(effects)
    assert (len(again.resume.ids) if again.resume else 0) == total
    assert Close(stream) in effects
    assert [message.ack.index for message in sent(effects) if isinstance(message, AckMessage)] == [total] * bool(before)
    if late:
        frame = client.writers[TASK].frame([9], [b"late"], None) if streamed else client.head()
        assert client.receive(stream, frame) == [], "nobody listens there"
    if moved:
        effects = client.take_over(MINERS[1])
        assert not [message for message in sent(effects) if isinstance(message, SubmitTask)], "it was told already"
    elif late or not streamed:
        client.begin() if not streamed else rewrite(client, before)
    relayed = [client.head()] if moved or total == 0 else []
    client.says(*relayed, *(client.frame(count) for count in after), client.frame(1, reason=EndReason.STOP))
    assert client.shown(total + sum(after) + 1)
    assert client.over(TASK).end is not None
    heads = [item for item in client.items[TASK] if isinstance(item, TaskHead)]
    assert len(heads) == 1 + (moved and bool(streamed)), "a head that comes again is the same"
    client.empty()


def rewrite(client: Straight, before: list[int]) -> None:
    """The miner's writer, as it was before the late frame."""
    head = client.writers[TASK].head
    client.writers[TASK] = SegmentWriter(DOMAIN, client.miner.sign, head)
    for count in before:
        client.frame(count)


@pytest.mark.spec("DIRECT-FALLBACK.1", "CHAIN-SIGNER.1")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: {"signature": MALLORY.sign(bytes(32))},
        lambda frame: {"ids": (7, *frame.ids[1:])},
        lambda frame: {"texts": (b"x", *frame.texts[1:])},
        lambda frame: {"first_index": frame.first_index + 1},
        lambda frame: {"first_index": 0},
        lambda frame: {"lane": 1},
        lambda frame: {"end": EndRecord(EndReason.STOP, 3, 7, 0)},
    ],
    ids=["signature", "token", "text", "gap", "repeated", "lane", "end"],
)
def test_a_miner_that_breaks_its_chain_is_not_shown_and_the_router_goes_on_from_what_held(
    spoil: Callable[[FrameMessage], dict[str, Any]],
) -> None:
    client = Straight()
    client.tells(client.head(), client.frame(5))
    good = client.frame(2)
    effects = client.tells(msgspec.structs.replace(good, **spoil(good)))
    again = client.again(effects)
    assert again.resume is not None
    assert len(again.resume.ids) == 5
    client.says(good, client.frame(1, reason=EndReason.STOP))
    assert client.shown(8)
    assert client.over(TASK).end is not None
    client.empty()


@pytest.mark.spec("DIRECT-FALLBACK.1", "CHAIN-HEAD.1")
@pytest.mark.parametrize("twice", [False, True])
def test_a_head_that_does_not_hold_ends_the_stream_and_not_the_order(twice: bool) -> None:
    client = Straight()
    good = client.head()
    bad = good if twice else SegmentStart(msgspec.structs.replace(good.head, miner=MINERS[1].node))
    effects = client.tells(*[good] * twice, bad)
    assert client.again(effects).resume is None
    client.says(good, client.frame(3, reason=EndReason.STOP))
    assert client.shown(3)
    client.empty()


def test_a_miner_does_not_cut_an_answer_short_as_cancelled() -> None:
    client = Straight()
    client.tells(client.head(), client.frame(5))
    effects = client.tells(client.frame(1, reason=EndReason.CANCELLED))
    assert client.again(effects).resume is not None
    assert client.shown(5)
    client.empty()


@pytest.mark.parametrize("kind", ["ack", "ended", "hello"])
def test_what_has_no_place_on_the_stream_ends_it(kind: str) -> None:
    client = Straight()
    client.tells(client.head(), client.frame(2))
    messages: dict[str, Message] = {
        "ack": AckMessage(client.machine._held.tasks and _ack_of(client), bytes(65)),
        "ended": LaneEnded(client.head().head, EndRecord(EndReason.STOP, 3, 2, 0), bytes(32), bytes(65)),
        "hello": HELLO,
    }
    stream = client.direct
    assert stream is not None
    effects = client.tells(messages[kind])
    assert Close(stream) in effects
    client.again(effects)
    client.empty()


def _ack_of(client: Straight) -> Any:
    from protocol.messages.tasks import Ack

    return Ack(id_of(client.opening), 1, 0, generation_of(1), bytes(32), 2, bytes(32))


def test_frames_of_orders_that_are_relayed_or_over_mean_nothing_on_the_stream() -> None:
    client = Straight(ready=False)
    frames = [client.head(), client.frame(2)]
    assert client.tells(*frames) == []
    client.says(*frames)
    assert client.shown(2)
    client.empty()


# Clocks


@pytest.mark.spec("DIRECT-FALLBACK.1", "FAILOVER-STALL.1")
@pytest.mark.parametrize(("gap_ms", "expected_ms"), [(20, 1_000), (200, 2_000), (4_000, 5_000)])
def test_a_stream_stalls_after_ten_times_the_longest_pause_it_had(gap_ms: int, expected_ms: int) -> None:
    client = Straight()
    client.tells(client.head(), client.frame(1))
    for _ in range(3):
        assert client.wait(gap_ms) == []
        client.tells(client.frame(1))
    assert client.wait(expected_ms - 1) == []
    client.again(client.wait(1))


def test_the_first_frame_has_as_long_as_any_and_an_order_in_line_waits_its_turn() -> None:
    client = Straight()
    client.ask_for(TASK + 1)
    client.tells(client.head())
    for _ in range(PARAMS.frame_gap_timeout_ms // 1_000 + 5):
        client.tells(client.frame(1))
        assert client.wait(1_000) == []
    effects = client.wait(PARAMS.frame_gap_timeout_ms)
    assert [m.order.task for m in sent(effects) if isinstance(m, SubmitTask)] == [1, 2], "both, in their order"


@pytest.mark.spec("TASK-TERMINAL.1")
def test_a_false_alarm_costs_the_stream_and_nothing_else() -> None:
    client = Straight()
    client.tells(client.head(), client.frame(3))
    stream = client.direct
    assert stream is not None
    client.again(client.wait(PARAMS.frame_gap_timeout_ms // 4))
    following = client.frame(3)
    assert client.receive(stream, following) == []
    client.says(following, client.frame(1, reason=EndReason.STOP))
    assert client.shown(7)
    assert client.wait(10 * PARAMS.frame_gap_timeout_ms) == []
    effects = client.ask_for(TASK + 1)
    (submit,) = sent(effects)
    assert isinstance(submit, SubmitTask)
    assert not submit.direct
    client.empty()
