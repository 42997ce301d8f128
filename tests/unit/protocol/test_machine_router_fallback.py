"""The router's machine, driven by hand: what clients and miners may make of an order that was streamed past it."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from protocol.core.machine import ChannelClosed, Close
from protocol.messages.tasks import (
    CancelTask,
    Continuation,
    Delivery,
    EndReason,
    FrameMessage,
    StartTask,
    TaskFailed,
)
from protocol.roles.router.relay import CANCEL_TIMEOUT_MS, FAILURES_MAX
from protocol.session.lifecycle import SessionState
from protocol.session.transcript import replay
from tests.unit.protocol.failover_at_hand import FAILOVER_PARAMS, words
from tests.unit.protocol.machines import (
    DOMAIN,
    PARAMS,
    head_of,
    id_of,
    order_of,
    sent,
    stream_of,
    submit_of,
)
from tests.unit.protocol.router_direct_at_hand import Past, failed_of, relay_of

# What clients may do


@pytest.mark.spec("DIRECT-FALLBACK.1")
def test_an_order_falls_back_once_however_often_its_client_asks() -> None:
    story = Past()
    story.order_directly()
    relay_of(story.fall_back(3))
    for resume in (None, story.resume(2), story.resume(5)):
        again = msgspec.structs.replace(story.submits[1], direct=False, resume=resume)
        assert story.route.receive(story.client, again) == []
        assert story.route.receive(story.client, msgspec.structs.replace(again, direct=True)) == []
    story.say(*story.streamed()[3:])
    assert (story.text, story.codes()) == (words(), ["end"])
    assert story.route.receive(story.client, story.submits[1]) == [], "it has ended"
    story.leave()


def test_another_order_under_the_same_number_is_not_taken_for_it() -> None:
    story = Past()
    story.order_directly()
    other = msgspec.structs.replace(submit_of(story.opening, 1, max_tokens=7), resume=story.resume(3))
    assert story.route.receive(story.client, other) == []
    relay_of(story.fall_back(3))


@pytest.mark.spec("CHAIN-TAKEOVER.1", "DIRECT-FALLBACK.1")
@pytest.mark.parametrize(
    "fields",
    [
        {"ids": (1,)},
        {"texts": ()},
        {"heads": ("other order",)},
        {"heads": ("other session",)},
        {"heads": ("other prompt",)},
        {"heads": ("starts late",)},
        {"heads": ("another lease's other order",)},
    ],
    ids=str,
)
def test_a_continuation_that_cannot_hold_ends_the_clients_session_and_blames_no_miner(fields: Any) -> None:
    story = Past()
    story.order_directly()
    resume = story.resume(4)
    assert resume is not None
    (head,) = resume.heads
    changed = {
        "other order": {"order": bytes(32)},
        "other session": {"session": bytes(32)},
        "other prompt": {"prompt": bytes(32)},
        "starts late": {"start_index": 1},
        "another lease's other order": {"generation": b"\x31" * 24, "order": bytes(32)},
    }
    if "heads" in fields:
        fields = {"heads": (msgspec.structs.replace(head, **changed[fields["heads"][0]]),)}
    before = story.measured()
    forged = msgspec.structs.replace(story.submits[1], direct=False, resume=msgspec.structs.replace(resume, **fields))
    effects = story.route.receive(story.client, forged)
    assert Close(story.client) in effects
    assert story.measured() == before


@pytest.mark.spec("DIRECT-FALLBACK.1")
def test_tokens_that_no_miner_signed_end_their_own_order_and_blame_no_miner() -> None:
    """The miner compares the chain; what it answers is not held against it."""
    story = Past()
    story.order_directly()
    resume = story.resume(4)
    assert resume is not None
    before = story.measured()
    relay = relay_of(story.fall_back(4, resume=msgspec.structs.replace(resume, ids=(7, 7, 7))))
    assert relay.chain != replay(DOMAIN, resume)
    story.say(TaskFailed(id_of(story.opening), 1, "bad_request", "no such frame", 0))
    assert story.codes() == ["bad_request"]
    assert (story.measured(), story.asked) == (before, None)
    story.leave()


def test_what_was_said_when_the_order_came_counts_also_when_the_client_says_nothing_later() -> None:
    """An order that came with a continuation and falls back without one goes on from the first."""
    story = Past()
    story.order_directly()
    story.submits[2] = msgspec.structs.replace(submit_of(story.opening, 2), direct=True)
    head = head_of(order_of(story.opening, 2), b"\x31" * 24)
    resume = Continuation((head,), (1, 2), (b"a", b"b"))
    story.route.receive(story.client, msgspec.structs.replace(story.submits[2], resume=resume))
    (start,) = sent(story.say(story.ended()))
    assert isinstance(start, StartTask)
    assert start.resume == resume
    relay = relay_of(story.route.receive(story.client, msgspec.structs.replace(story.submits[2], direct=False)))
    assert (relay.index, relay.chain) == (2, replay(DOMAIN, resume))
    assert story.session.tasks[2].verifier.index == 2


@pytest.mark.parametrize("anew", [False, True])
def test_a_continuation_that_no_miner_could_be_sent_is_refused(anew: bool) -> None:
    params = replace(FAILOVER_PARAMS, prompt_bytes_max=1_048_576 // 2)
    story = Past(params=params)
    story.order_directly(max_tokens=480)
    resume = story.resume(2)
    assert resume is not None
    count = 480
    big = msgspec.structs.replace(resume, ids=(1,) * count, texts=(b"x" * 1_024,) * count)
    if anew:
        submit = msgspec.structs.replace(submit_of(story.opening, 2, max_tokens=480), resume=big)
        head = head_of(submit.order, b"\x31" * 24)
        submit = msgspec.structs.replace(submit, order=submit.order, resume=msgspec.structs.replace(big, heads=(head,)))
    else:
        submit = msgspec.structs.replace(story.submits[1], direct=False, resume=big)
    (failed,) = sent(story.route.receive(story.client, submit))
    assert isinstance(failed, TaskFailed)
    assert failed.code == "miner_lost"


def test_a_client_that_does_not_acknowledge_directly_is_not_held_against_the_miner() -> None:
    story = Past()
    story.order_directly()
    before = story.measured()
    story.say(TaskFailed(id_of(story.opening), 1, "ack_timeout", "", 0))
    assert story.codes() == ["ack_timeout"]
    assert (story.measured(), story.asked) == (before, None)
    story.leave()


def test_a_miner_that_fails_at_a_direct_order_is_replaced() -> None:
    story = Past()
    story.order_directly()
    story.say(TaskFailed(id_of(story.opening), 1, "engine_failed", "", 0))
    story.replace()
    story.fall_back(0)
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])
    story.leave()


def test_miners_that_each_bring_a_part_directly_may_be_many() -> None:
    """An order is to blame itself when four miners in a row fail at it without a token; here each brought some."""
    story = Past(miners=5)
    story.order_directly()
    story.say(failed_of(story))
    story.replace_quietly()
    story.fall_back(4)
    for _ in range(FAILURES_MAX - 1):
        assert story.codes() == []
        story.say(failed_of(story))
        story.replace()
    assert story.codes() == []
    story.say(failed_of(story))
    assert story.codes() == ["engine_failed"]


def test_a_miner_does_not_fail_at_what_it_was_not_handed() -> None:
    story = Past()
    story.order_directly()
    story.lose()
    story.replace_quietly()
    assert story.lease is not None
    channel = story.lease[0]
    story.say(failed_of(story, "bad_request"))
    assert (channel in story.closed, story.codes()) == (True, [])


def test_a_miner_that_reports_an_end_and_then_a_failure_is_not_heard() -> None:
    story = Past()
    story.order_directly()
    story.say(story.ended())
    assert story.say(TaskFailed(id_of(story.opening), 1, "engine_failed", "", 0)) == []
    relay_of(story.fall_back(3))


def test_what_the_miner_does_not_hold_any_more_the_next_goes_on_with() -> None:
    story = Past()
    story.order_directly()
    story.say(story.ended())
    story.fall_back(3)
    story.say(TaskFailed(id_of(story.opening), 1, "engine_failed", "not held", 0))
    story.replace()
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])
    story.leave()


def test_an_order_goes_on_after_a_later_one_that_its_new_miner_began_first() -> None:
    story = Past()
    story.order_directly()
    story.say(story.ended())
    resume = story.resume(3)
    story.lose()
    story.replace_quietly()
    story.order_directly(2)
    story.fall_back(3, resume=resume)
    assert story.start is not None
    assert story.start.order.task == 2
    story.say(story.ended(2))
    assert story.codes() == []
    assert story.start.order.task == 1
    assert story.start.resume is not None
    assert len(story.start.resume.ids) == 2
    story.leave()


# Cancellations and deadlines


@pytest.mark.spec("TASK-TERMINAL.1")
def test_a_cancelled_order_ends_with_the_miners_report_or_in_time() -> None:
    story = Past()
    story.order_directly()
    (cancel,) = sent(story.route.receive(story.client, CancelTask(id_of(story.opening), 1)))
    assert isinstance(cancel, CancelTask)
    story.say(story.ended(reason=EndReason.CANCELLED))
    story.wait(CANCEL_TIMEOUT_MS)
    assert (story.ends, story.asked) == ([], None)
    story.order_directly(2)
    story.did(story.route.receive(story.client, CancelTask(id_of(story.opening), 2)))
    story.wait(CANCEL_TIMEOUT_MS)
    assert story.codes() == ["cancelled"]
    story.leave()


def test_cancelling_what_is_reported_costs_no_miner_its_lease() -> None:
    story = Past()
    story.order_directly()
    story.say(story.ended())
    assert story.route.receive(story.client, CancelTask(id_of(story.opening), 1)) == []
    story.wait(CANCEL_TIMEOUT_MS)
    assert story.session.life.state is SessionState.READY


def test_a_cancelled_order_that_falls_back_still_ends_in_time() -> None:
    story = Past()
    story.order_directly()
    story.route.receive(story.client, CancelTask(id_of(story.opening), 1))
    story.fall_back(3)
    assert story.patience() <= CANCEL_TIMEOUT_MS
    assert story.codes() == ["cancelled"]


@pytest.mark.spec("TASK-TERMINAL.1")
def test_an_order_whose_client_never_speaks_again_ends_at_its_deadline_and_the_next_runs() -> None:
    story = Past()
    story.order_directly()
    story.order_directly(2)
    story.lose()
    story.replace_quietly()
    story.did(story.route.receive(story.client, CancelTask(bytes(32), 1)))
    assert 2 not in story.begun
    story.wait(60_000)
    assert set(story.codes()) == {"deadline_exceeded"}


def test_the_clients_word_that_it_has_an_end_lets_the_next_order_run() -> None:
    """The report was lost with its miner; the client says that it needs no more."""
    story = Past()
    story.order_directly()
    story.order_directly(2)
    story.lose()
    story.replace_quietly()
    story.did(story.route.receive(story.client, CancelTask(id_of(story.opening), 1)))
    assert 2 not in story.begun or story.begun[2].delivery is Delivery.DIRECT
    assert 2 in story.begun
    story.say(story.ended(2))
    story.leave()


# The miner's own rules


@pytest.mark.spec("CHAIN-SIGNER.1", "DIRECT-FALLBACK.1")
def test_a_miner_that_relays_another_chain_than_it_streamed_is_replaced() -> None:
    story = Past()
    story.order_directly()
    story.fall_back(4)
    assert story.lease is not None
    channel, miner = story.lease
    generation = story.begun[1].assignment.generations[0]
    other = stream_of(story.begun[1].order, sizes=[2] * 4, miner=miner, generation=generation)
    bad = next(frame for frame in other if isinstance(frame, FrameMessage) and frame.first_index == 4)
    story.say(msgspec.structs.replace(bad, first_index=3))
    assert channel in story.closed
    story.replace()
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])
    story.leave()


def test_a_miner_that_does_not_answer_a_fallback_is_replaced() -> None:
    story = Past()
    story.order_directly()
    story.fall_back(4)
    assert story.patience() <= FAILOVER_PARAMS.first_frame_timeout_ms
    story.replace()
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])
    story.leave()


def test_how_fast_frames_come_again_says_nothing_of_the_miner() -> None:
    story = Past()
    story.order_directly()
    story.wait(500)
    story.fall_back(1)
    story.say(*story.streamed())
    assert story.lease is not None
    seen = story.route.machine._measured.of(story.lease[1].node)
    assert (seen.begin_ms, seen.first_token_ms, seen.tokens_per_second) == (0, 0, 0)


@pytest.mark.spec("DIRECT-FALLBACK.1", "TASK-TERMINAL.1")
def test_some_orders_of_a_session_are_streamed_directly_and_some_are_not() -> None:
    story = Past(params=replace(FAILOVER_PARAMS, tasks_pending_per_session_max=4))
    story.order_directly(1)
    story.order(2)
    story.order_directly(3)
    story.order(4)
    story.say(story.ended(1))
    story.stream()
    assert story.text == words()
    story.fall_back(3, 3)
    story.say(*story.streamed(3)[3:])
    story.stream()
    assert story.text == words() * 3
    assert story.codes() == ["end"] * 3
    story.leave()


def test_sessions_that_rest_on_reports_only_let_their_client_go() -> None:
    story = Past()
    story.order_directly()
    story.say(story.ended())
    story.did(story.route.tell(ChannelClosed(story.client, "left")))
    story.wait(PARAMS.resume_window_ms)
    story.route.empty()
