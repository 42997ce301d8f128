"""When the router takes a miner for stalled: by the miner's own pace, and never for what the client left undone."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.signing import typed_digest
from protocol.messages.tasks import FrameMessage, StartTask
from protocol.roles.router.state import Measured
from tests.unit.protocol.failover_at_hand import FAILOVER_PARAMS, TOTAL, Story, answer_to, words
from tests.unit.protocol.machines import CLIENT, DOMAIN, MALLORY, MINERS, PROMPT, order_of, sent

STALL_MIN_MS = FAILOVER_PARAMS.stall_ms_min
UNACKED = FAILOVER_PARAMS.unacked_tokens_max


def paced(gap_ms: int, begin_ms: int = 100) -> Story:
    """A story whose leased miner finished one order at a pace; the next one is handed over."""
    story = Story()
    story.order()
    messages = messages_of(story)
    story.wait(begin_ms)
    story.say(*messages[:2])
    for place, message in enumerate(messages[2:]):
        story.wait(gap_ms)
        story.say(message)
        if place % 2:
            story.did(story.route.receive(story.client, story.ack()))
    assert story.codes() == ["end"]
    story.order(2)
    return story


def messages_of(story: Story) -> list[Message]:
    """What the leased miner would stream now."""
    assert story.start is not None
    assert story.lease is not None
    return answer_to(story.start, story.lease[1])


@pytest.mark.spec("FAILOVER-STALL.1")
@pytest.mark.parametrize(("gap_ms", "waited_ms"), [(10, STALL_MIN_MS), (300, 3_000), (5_000, 20_000)])
def test_a_gap_is_ten_times_the_miners_own_within_bounds(gap_ms: int, waited_ms: int) -> None:
    story = paced(gap_ms)
    story.stream(2)
    assert story.patience() == waited_ms


@pytest.mark.spec("FAILOVER-STALL.1")
@pytest.mark.parametrize(("begin_ms", "waited_ms"), [(20, STALL_MIN_MS), (400, 4_000), (9_000, 30_000)])
def test_the_wait_for_a_first_frame_is_ten_times_the_miners_own_within_bounds(begin_ms: int, waited_ms: int) -> None:
    story = paced(10, begin_ms)
    story.stream(1)
    assert story.patience() == waited_ms, "a head alone is no token"


@pytest.mark.spec("FAILOVER-STALL.1")
def test_each_miner_that_is_given_up_without_a_token_makes_the_router_twice_as_patient() -> None:
    story = paced(10, 200)
    size = sum(len(turn.content) for turn in PROMPT.messages)
    for miner in MINERS[:3]:
        story.route.machine._measured.of(miner.node).began(200, size)
    waits = []
    for _ in range(4):
        waits.append(story.patience())
        story.replace()
    assert waits == [2_000, 4_000, 8_000, 16_000]
    story.stream(2)
    story.lose()
    story.replace()
    assert 2_000 <= story.patience() < 3_000, "a token was brought: the next starts anew, with more to read"


@pytest.mark.spec("FAILOVER-STALL.1")
@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 100_000)), min_size=1, max_size=20))
def test_no_first_frame_that_was_seen_lately_would_have_been_taken_for_a_stall(seen: list[tuple[int, int]]) -> None:
    measured = Measured()
    for after_ms, size in seen:
        measured.began(after_ms, size)
        assert 10 * measured.begin_ms * max(size, measured.begin_size) >= 10 * after_ms * measured.begin_size * 15 // 16
    assert measured.begin_ms >= 1


@pytest.mark.spec("FAILOVER-STALL.1", "ACK-CREDIT.1")
def test_a_client_that_does_not_acknowledge_is_not_taken_for_a_stalled_miner() -> None:
    story = paced(10)
    story.stream(1 + UNACKED)
    story.wait(15_000)
    assert story.asked is None
    story.did(story.route.receive(story.client, story.ack(2)))
    assert story.patience() == STALL_MIN_MS, "from the ack on it is the miner's turn"


@pytest.mark.spec("FAILOVER-STALL.1")
def test_time_that_a_client_took_is_not_held_to_be_the_miners_pace() -> None:
    story = paced(10)
    story.stream(1 + UNACKED)
    story.wait(15_000)
    story.did(story.route.receive(story.client, story.ack(2)))
    story.say(messages_of(story)[1 + UNACKED])
    assert story.patience() == STALL_MIN_MS


@pytest.mark.spec("FAILOVER-STALL.1")
def test_acks_do_not_buy_a_stalled_miner_time_nor_take_any_from_it() -> None:
    story = paced(10, 400)
    story.stream(4)
    story.wait(STALL_MIN_MS - 1)
    story.did(story.route.receive(story.client, story.ack(2)))
    story.wait(1)
    assert story.asked is not None
    story.grant()
    ack = msgspec.structs.replace(story.ack(2).ack, generation=story.starts[-1].assignment.generations[0], index=2)
    early = msgspec.structs.replace(story.ack(2), ack=ack, signature=CLIENT.sign(typed_digest(DOMAIN, ack)))
    story.did(story.route.receive(story.client, early))
    story.wait(STALL_MIN_MS + 10)
    assert story.asked is None, "the new miner has its time to a first frame"


@pytest.mark.spec("ACK-SIGNED.1", "ACK-CREDIT.1", "ACK-EARLIER.1")
def test_acks_of_an_earlier_lease_go_to_who_ends_the_lane_and_forged_ones_are_not_forgiven() -> None:
    story = Story()
    story.order()
    story.stream(4)
    late = story.ack()
    story.lose()
    assert story.did(story.route.receive(story.client, late)) == []
    story.grant()
    assert story.lease is not None
    assert sent(story.did(story.route.receive(story.client, late)), story.lease[0]) == [late]
    elsewhere = msgspec.structs.replace(late.ack, segment=bytes(32))
    stray = msgspec.structs.replace(late, ack=elsewhere, signature=CLIENT.sign(typed_digest(DOMAIN, elsewhere)))
    assert story.did(story.route.receive(story.client, stray)) == [], "no miner shall drop this router for it"
    story.stream(2)
    fresh = story.ack()
    assert [e.channel for e in story.did(story.route.receive(story.client, fresh))] == [story.lease[0]]  # type: ignore
    elsewhere = msgspec.structs.replace(fresh.ack, generation=bytes(24))
    of_another = msgspec.structs.replace(fresh, ack=elsewhere, signature=CLIENT.sign(typed_digest(DOMAIN, elsewhere)))
    assert story.did(story.route.receive(story.client, of_another)) == [], "a lease that another router gave"
    assert story.client not in story.closed
    forged = msgspec.structs.replace(fresh, signature=MALLORY.sign(typed_digest(DOMAIN, fresh.ack)))
    other = Story()
    other.order()
    effects = other.did(other.route.receive(other.client, forged))
    assert other.client in other.closed, effects


@pytest.mark.spec("ACK-CREDIT.1", "FAILOVER-STALL.1")
def test_a_new_miners_credit_starts_where_it_goes_on() -> None:
    story = paced(10)
    story.stream(1 + UNACKED)
    story.lose()
    story.grant()
    story.stream(2)
    story.wait(FAILOVER_PARAMS.frame_gap_timeout_ms)
    assert story.asked is not None, "it had credit left and was silent"


@pytest.mark.spec("TASK-TERMINAL.1")
def test_an_answer_too_long_to_be_handed_over_ends_with_its_miner_and_nothing_larger_is_sent() -> None:
    story = Story()
    story.order(max_tokens=30_000)
    story.order(2)
    head, *_ = messages_of(story)
    story.say(head)
    session = next(iter(story.route.machine._sessions.values()))
    task = session.tasks[1]
    room = StartTask.LIMIT_BYTES
    big = FrameMessage(session.id, 1, 0, 0, (1,) * 1_000, (b"x" * 1_000,) * 1_000, None, bytes(65))
    task.keep(big, room)
    assert task.resumable
    assert len(task.ids) == 1_000
    task.keep(big, room)
    assert not task.resumable
    assert task.ids == task.texts == []
    story.lose()
    assert story.codes() == ["miner_lost"]
    story.grant()
    assert [start.order.task for start in story.starts] == [1, 2]
    story.stream()
    assert (story.text, story.codes()) == (words(), ["miner_lost", "end"])
    assert order_of(story.opening, 1).max_tokens >= TOTAL
