"""The router's machine when miners are lost: the next goes on after the last signed token, wherever that was."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.machine import Close, Note, Publish
from protocol.messages.sessions import CloseSession, LeaseGrant, LeaseRelease, SessionEnded
from protocol.messages.tasks import CancelTask, EndReason, EndRecord, FrameMessage, SegmentStart, TaskFailed
from protocol.roles.router.relay import CANCEL_TIMEOUT_MS, FAILURES_MAX
from protocol.roles.router.rounds import WAKE_MS
from protocol.session.transcript import SegmentWriter
from tests.unit.protocol.failover_at_hand import FAILOVER_PARAMS, TOTAL, Story, answer_to, words
from tests.unit.protocol.machines import DOMAIN, GENERATION, MINERS, NOW_MS, id_of, of, sent


@pytest.mark.spec("FAILOVER-NEXT.1", "CHAIN-TAKEOVER.1", "ASSIGN-NUMBER.1", "MACHINE-PERSIST.1")
@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, TOTAL), st.sampled_from(("lose", "release", "forge", "fail"))), max_size=5))
def test_an_answer_is_whole_whenever_and_however_its_miners_are_lost(losses: list[tuple[int, str]]) -> None:
    story = Story()
    story.order()
    failures = 0
    for count, how in losses:
        before = len(story.text)
        story.stream(min(count, TOTAL - story.readers[1].index))
        failures = (failures if len(story.text) == before else 0) + (how == "fail")
        if failures >= FAILURES_MAX:
            failures, how = failures - 1, "lose"
        lose(story, how)
        assert story.ends == []
        story.replace()
    story.stream()
    assert story.text == words()
    assert story.codes() == ["end"]
    assert story.numbers == list(range(1, len(losses) + 2))
    story.leave()


def lose(story: Story, how: str) -> None:
    """The leased miner is lost, one way or another."""
    assert story.lease is not None
    assert story.start is not None
    if how == "lose":
        story.lose()
    elif how == "release":
        story.say(LeaseRelease(id_of(story.opening)))
    elif how == "fail":
        story.say(TaskFailed(id_of(story.opening), 1, "engine_failed", "out of luck", 0))
    else:
        bad = next(m for m in answer_to(story.start, story.lease[1]) if isinstance(m, FrameMessage))
        story.say(msgspec.structs.replace(bad, texts=(b"forged",)))
        assert story.lease[0] in story.closed


@pytest.mark.spec("FAILOVER-NEXT.1")
def test_a_session_without_an_order_gets_another_miner_as_well() -> None:
    story = Story()
    story.lose()
    assert story.route.machine._measured[MINERS[0].node].success_bp == 10_000, "nothing was asked of it"
    story.order()
    assert story.starts == [], "an order waits while a miner is looked for"
    story.grant()
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])
    story.leave()


@pytest.mark.spec("FAILOVER-NEXT.1")
@pytest.mark.parametrize("how", ["busy", "lose_asked", "timeout", "nonsense"])
def test_the_next_standby_is_asked_when_one_does_not_take_over(how: str) -> None:
    story = Story()
    story.order()
    story.stream(3)
    first = story.lease
    story.lose()
    assert story.asked is not None
    second = story.asked
    if how == "timeout":
        story.wait(FAILOVER_PARAMS.lease_request_timeout_ms)
        assert second[0] in story.closed
    elif how == "nonsense":
        wrong = TaskFailed(id_of(story.opening), 1, "cancelled", "", 0)
        story.did(story.route.receive(second[0], wrong))
        assert second[0] in story.closed, "who holds no lease has no say in the order"
    else:
        getattr(story, how)()
    assert story.asked is not None
    assert first is not None
    assert len({first[1].node, second[1].node, story.asked[1].node}) == 3
    story.grant()
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])
    story.leave()


@pytest.mark.spec("FAILOVER-NEXT.1")
def test_standbys_that_are_used_up_are_followed_by_a_new_round_in_which_the_lost_are_asked_last() -> None:
    story = Story(miners=3, bidders=2)
    story.order()
    lost = []
    for _ in range(2):
        assert story.lease is not None
        lost.append(story.lease[1])
        story.stream(2)
        story.lose()
        if story.asked is not None:
            story.grant()
    effects = story.wait(WAKE_MS)
    assert len(of(effects, Publish)) == 1
    for miner in lost:
        story.did(story.route.bid(story.opening, miner))
    assert story.asked is None, "one that was not lost has not bid"
    # As dear as can be: by its rank alone it would be asked last.
    story.did(story.route.bid(story.opening, MINERS[2], price_wei=1_000))
    assert story.asked is not None
    assert story.asked[1] == MINERS[2]
    story.busy()
    assert story.asked is not None
    assert story.asked[1] in lost
    story.grant()
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])
    story.leave()


@pytest.mark.spec("FAILOVER-NEXT.1")
def test_a_round_does_not_wait_for_bids_of_those_that_were_lost() -> None:
    story = Story(miners=3)
    story.order()
    story.stream(2)
    story.lose()
    story.busy()
    story.busy()
    story.wait(100)
    assert story.lease is not None
    alive = [miner for miner in MINERS[:3] if miner != story.lease[1]]
    for miner in alive:
        story.did(story.route.bid(story.opening, miner))
    assert story.asked is not None, "both that are left have bid"
    assert story.asked[1] in alive


@pytest.mark.spec("TASK-TERMINAL.1", "FAILOVER-NEXT.1")
@pytest.mark.parametrize("streamed", [0, 1, 4])
def test_everything_ends_once_when_nobody_takes_over_in_time(streamed: int) -> None:
    story = Story()
    story.order()
    story.order(2)
    story.stream(streamed)
    story.lose()
    story.bidding = []
    story.busy()
    story.busy()
    story.wait(FAILOVER_PARAMS.first_frame_timeout_ms - 1)
    assert story.ends == []
    story.wait(1)
    assert story.codes() == ["miner_lost"] * 3
    assert isinstance(story.ends[-1], SessionEnded)
    assert story.text == words(max(0, streamed - 1))
    story.leave()


@pytest.mark.spec("TASK-TERMINAL.1")
def test_an_order_that_every_miner_fails_at_is_given_up_and_the_session_stays() -> None:
    story = Story()
    story.order()
    failed = TaskFailed(id_of(story.opening), 1, "engine_failed", "poisoned", 0)
    for times in range(1, FAILURES_MAX):
        story.say(failed)
        assert story.ends == []
        assert times == len(story.numbers)
        story.replace()
    story.say(failed)
    assert story.codes() == ["engine_failed"]
    story.order(2)
    story.stream()
    assert story.codes() == ["engine_failed", "end"]
    story.leave()


@pytest.mark.spec("FAILOVER-NEXT.1")
@pytest.mark.parametrize(
    ("code", "streamed", "taken_over"),
    [
        ("cancelled", 0, True),
        ("cancelled", 3, True),
        ("ack_timeout", 3, True),
        ("ack_timeout", 5, False),
        ("prompt_too_long", 0, False),
        ("prompt_too_long", 3, True),
        ("made up", 3, True),
        ("bad_request", 3, False),
        ("deadline_exceeded", 3, False),
    ],
)
def test_what_a_miner_may_end_an_order_with(code: str, streamed: int, *, taken_over: bool) -> None:
    story = Story()
    story.order()
    story.stream(streamed)
    story.say(TaskFailed(id_of(story.opening), 1, code, "", 0))
    assert (story.asked is not None) == taken_over
    assert story.codes() == ([] if taken_over else [code])


@pytest.mark.spec("CHAIN-END.1", "FAILOVER-NEXT.1")
def test_a_miner_cannot_call_an_order_cancelled_that_was_not() -> None:
    story = Story()
    story.order()
    story.stream(2)
    assert story.lease is not None
    assert story.start is not None
    segment, first = answer_to(story.start, story.lease[1])[:2]
    assert isinstance(segment, SegmentStart)
    assert isinstance(first, FrameMessage)
    writer = SegmentWriter(DOMAIN, story.lease[1].sign, segment.head)
    writer.frame(first.ids, first.texts, None)
    end = EndRecord(EndReason.CANCELLED, segment.head.prompt_token_count, 1, 0)
    story.say(writer.frame([], [], end))
    assert story.ends == []
    assert story.asked is not None
    story.grant()
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])


@pytest.mark.spec("CHAIN-HEAD.1", "FAILOVER-NEXT.1")
@pytest.mark.parametrize("more", [1, -1])
def test_a_miner_whose_head_names_another_price_than_its_bid_is_left_for_the_next_one(more: int) -> None:
    story = Story()
    story.order()
    assert story.lease is not None
    assert story.start is not None
    segment = answer_to(story.start, story.lease[1])[0]
    assert isinstance(segment, SegmentStart)
    story.say(SegmentStart(msgspec.structs.replace(segment.head, price_wei=segment.head.price_wei + more)))
    assert story.ends == []
    assert story.asked is not None
    story.grant()
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])


@pytest.mark.spec("TASK-TERMINAL.1")
@pytest.mark.parametrize("streamed", [0, 1, 4])
def test_an_order_that_is_cancelled_during_a_failover_ends_at_once(streamed: int) -> None:
    story = Story()
    story.order()
    story.order(2)
    story.stream(streamed)
    story.lose()
    story.did(story.route.receive(story.client, CancelTask(id_of(story.opening), 1)))
    assert story.codes() == ["cancelled"]
    story.grant()
    assert [start.order.task for start in story.starts] == [1, 2]
    story.stream()
    assert story.codes() == ["cancelled", "end"]
    story.leave()


@pytest.mark.spec("TASK-TERMINAL.1")
@pytest.mark.parametrize("how", ["lose", "wait"])
def test_an_order_whose_miner_is_lost_while_it_is_cancelled_is_not_handed_over(how: str) -> None:
    story = Story()
    story.order()
    story.order(2)
    story.stream(3)
    story.did(story.route.receive(story.client, CancelTask(id_of(story.opening), 1)))
    story.lose() if how == "lose" else story.patience()
    assert story.route.now_ms - NOW_MS <= CANCEL_TIMEOUT_MS
    assert story.codes() == ["cancelled"]
    story.grant()
    assert [start.order.task for start in story.starts] == [1, 2]
    story.stream()
    assert story.codes() == ["cancelled", "end"]
    story.leave()


@pytest.mark.spec("TASK-TERMINAL.1")
def test_an_order_ends_by_its_deadline_during_a_failover_and_the_session_goes_on() -> None:
    story = Story()
    story.order(timeout_ms=1_000)
    story.order(2)
    story.stream(3)
    story.wait(500)
    story.lose()
    story.wait(499)
    assert story.ends == []
    story.wait(1)
    assert story.codes() == ["deadline_exceeded"]
    story.grant()
    assert [start.order.task for start in story.starts] == [1, 2]
    story.leave()


def test_a_session_that_its_client_closes_during_a_failover_leaves_nothing() -> None:
    for asked in (True, False):
        story = Story(miners=3 if asked else 1)
        story.order()
        story.stream(3)
        story.lose()
        assert (story.asked is not None) == asked
        effects = story.did(story.route.receive(story.client, CloseSession(id_of(story.opening))))
        if story.asked is not None:
            assert Close(story.asked[0]) in effects
            late = LeaseGrant(id_of(story.opening), GENERATION, 1_000)
            assert story.route.receive(story.asked[0], late) == []
        story.leave()


def test_what_the_lost_miner_says_later_is_nobodys() -> None:
    story = Story()
    story.order()
    story.stream(3)
    assert story.lease is not None
    assert story.start is not None
    late, channel = answer_to(story.start, story.lease[1])[3:], story.lease[0]
    story.patience()
    assert channel in story.closed
    for granted in (False, True):
        for message in late:
            assert story.route.receive(channel, message) == []
        if not granted:
            story.grant()
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])


def test_a_failover_is_noted_with_its_reason() -> None:
    story = Story()
    story.order()
    effects = story.lose()
    (note,) = [note for note in of(effects, Note) if note.what == "router.fail-over"]
    assert dict(note.fields)["why"] == "the miner is gone: reset"
    assert not sent(effects, story.client)
