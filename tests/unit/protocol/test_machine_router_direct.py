"""The router's machine, driven by hand: orders streamed past it, and the rest of them when the client asks."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.ids import ZERO_DIGEST
from protocol.messages.sessions import LeaseRelease, SessionReady
from protocol.messages.tasks import (
    Delivery,
    EndReason,
    StartTask,
)
from protocol.roles.router.relay import REPORTED_KEPT
from protocol.session.lifecycle import SessionState
from protocol.session.transcript import replay
from tests.unit.protocol.failover_at_hand import FAILOVER_PARAMS, TOTAL, words
from tests.unit.protocol.machines import (
    DOMAIN,
    MALLORY,
    id_of,
    sent,
)
from tests.unit.protocol.router_direct_at_hand import Past, relay_of

# Past the router


@pytest.mark.spec("DIRECT-TOKEN.1", "LANE-WITHHELD.1")
def test_an_order_is_streamed_past_the_router_which_hears_of_the_signed_end() -> None:
    story = Past()
    (start,) = sent(story.order_directly())
    assert isinstance(start, StartTask)
    assert start.delivery is Delivery.DIRECT
    assert sent(story.order_directly(2)) == [], "one at a time"
    (following,) = sent(story.say(story.ended()))
    assert isinstance(following, StartTask)
    assert following.order.task == 2
    assert story.measured() == (1, 10_000)
    story.say(story.ended(2))
    assert story.ends == [], "the client has it from the miner"
    story.leave()


@pytest.mark.spec("LANE-WITHHELD.1", "CHAIN-HEAD.1", "CHAIN-SIGNER.1")
@pytest.mark.parametrize(
    "change",
    [
        lambda ended: {"signature": MALLORY.sign(bytes(32))},
        lambda ended: {"chain": bytes(32)},
        lambda ended: {"end": msgspec.structs.replace(ended.end, completion_tokens=TOTAL - 1)},
        lambda ended: {"end": msgspec.structs.replace(ended.end, prompt_tokens=1)},
        lambda ended: {"head": msgspec.structs.replace(ended.head, generation=bytes(24))},
        lambda ended: {"head": msgspec.structs.replace(ended.head, miner=MALLORY.node)},
        lambda ended: {"head": msgspec.structs.replace(ended.head, prompt=bytes(32))},
    ],
    ids=["signature", "chain", "tokens", "prompt tokens", "generation", "miner", "prompt"],
)
def test_a_report_that_does_not_hold_costs_the_miner_its_lease(change: Any) -> None:
    story = Past()
    story.order_directly()
    assert story.lease is not None
    channel, ended = story.lease[0], story.ended()
    story.say(msgspec.structs.replace(ended, **change(ended)))
    assert channel in story.closed
    assert story.asked is not None


def test_a_miner_does_not_end_as_cancelled_what_nobody_cancelled() -> None:
    story = Past()
    story.order_directly()
    assert story.lease is not None
    channel = story.lease[0]
    story.say(story.ended(reason=EndReason.CANCELLED))
    assert channel in story.closed


def test_reports_of_what_is_not_streamed_directly_mean_nothing() -> None:
    story = Past()
    story.order()
    assert story.start is not None
    story.begun[1] = story.start
    assert story.say(story.ended()) == []
    story.stream()
    assert story.codes() == ["end"]
    story.order_directly(2)
    story.say(story.ended(2))
    assert story.say(story.ended(2)) == [], "once is enough"
    story.leave()


@pytest.mark.spec("DIRECT-FALLBACK.1")
def test_an_order_for_which_the_miner_has_no_stream_is_relayed_and_timed() -> None:
    story = Past()
    story.order_directly()
    head, *frames = story.streamed()
    story.read_by(1)
    story.say(head)
    late = msgspec.structs.replace(story.submits[1], direct=False)
    assert story.route.receive(story.client, late) == [], "it is relayed already"
    story.say(frames[0])
    assert story.patience() <= FAILOVER_PARAMS.frame_gap_timeout_ms + 10
    story.replace()
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])
    story.leave()


@pytest.mark.spec("FAILOVER-STALL.1")
def test_a_miner_that_relays_a_head_and_no_more_is_not_waited_for_for_ever() -> None:
    story = Past()
    story.order_directly()
    story.read_by(1)
    story.say(story.streamed()[0])
    assert story.patience() <= FAILOVER_PARAMS.first_frame_timeout_ms


# Back to the router


@pytest.mark.spec("DIRECT-FALLBACK.1")
@pytest.mark.parametrize("got", [0, 1, 2, 5, TOTAL])
def test_the_rest_comes_by_relay_from_where_the_client_stands(got: int) -> None:
    story = Past()
    story.order_directly()
    resume = story.resume(got)
    relay = relay_of(story.fall_back(got))
    index = len(resume.ids) if resume else 0
    assert (relay.task, relay.index) == (1, index)
    assert relay.chain == (replay(DOMAIN, resume) if resume else ZERO_DIGEST)
    story.say(*story.streamed()[index + 1 if index else 0 :])
    assert (story.text, story.codes()) == (words(), ["end"])
    assert story.starts == [story.begun[1]], "by the same miner"
    story.leave()


@pytest.mark.spec("DIRECT-FALLBACK.1", "CHAIN-TAKEOVER.1")
@settings(max_examples=60)
@given(
    got=st.integers(0, TOTAL),
    more=st.integers(0, TOTAL),
    when=st.sampled_from(("before", "asked", "granted", "relayed")),
)
def test_the_miner_may_be_lost_at_any_point_of_the_fallback(got: int, more: int, when: str) -> None:
    """The client's word comes before the miner is lost, while another is asked, after its grant, or while it relays."""
    story = Past()
    story.order_directly()
    index = max(0, got - 1)
    resume = story.resume(got)
    if when in ("asked", "granted"):
        story.lose()
        if when == "granted":
            effects = story.replace_quietly()
            assert not [message for message in sent(effects) if isinstance(message, StartTask)]
    story.fall_back(got, resume=resume)
    if when == "relayed":
        story.say(*story.streamed()[(index + 1 if index else 0) : min(index + more, TOTAL)])
    if when in ("before", "relayed"):
        story.lose()
    if when != "granted":
        story.replace()
    assert len(story.starts) == 2
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])
    story.leave()


@pytest.mark.spec("DIRECT-FALLBACK.1")
def test_a_lost_miner_is_replaced_and_the_next_waits_for_the_clients_word() -> None:
    story = Past()
    story.order_directly()
    story.order_directly(2)
    story.lose()
    effects = story.replace_quietly()
    assert [type(message) for message in sent(effects)] == [SessionReady]
    story.fall_back(3)
    assert story.start is not None
    assert story.start.delivery is Delivery.RELAYED
    assert story.start.resume is not None
    assert len(story.start.resume.ids) == 2
    story.stream()
    assert story.text == words()
    assert story.begun[2].delivery is Delivery.DIRECT, "the next in line is direct again"
    story.say(story.ended(2))
    story.leave()


@pytest.mark.spec("DIRECT-FALLBACK.1", "TASK-TERMINAL.1")
@pytest.mark.parametrize("next_began", [False, True])
def test_an_end_that_was_reported_can_still_be_asked_for(next_began: bool) -> None:
    story = Past()
    story.order_directly()
    story.say(story.ended())
    if next_began:
        story.order_directly(2)
    relay_of(story.fall_back(4))
    story.say(*story.streamed()[4:])
    assert (story.text, story.codes()) == (words(), ["end"])
    if next_began:
        assert story.session.running().number == 2
        story.say(story.ended(2))
    story.leave()


@pytest.mark.spec("DIRECT-FALLBACK.1", "CHAIN-TAKEOVER.1")
@pytest.mark.parametrize("directly", [False, True])
def test_an_end_that_was_reported_and_is_lost_with_its_miner_comes_from_the_next(directly: bool) -> None:
    """The miner is lost while it sends the end of one order again and works on the next: both go on, in order."""
    story = Past()
    story.order_directly()
    story.say(story.ended())
    story.order_directly(2) if directly else story.order(2)
    if directly:
        second = story.resume(3, 2)
    else:
        story.stream(3)
        story.text = b""
    story.fall_back(4)
    story.lose()
    story.replace_quietly()
    if directly:
        story.fall_back(0, 2, second)
        story.text = story.text[: len(words(3))]
    assert story.start is not None
    assert story.start.order.task == 1
    story.stream()
    assert story.text == words()
    assert story.start.order.task == 2
    assert story.start.resume is not None
    assert len(story.start.resume.ids) == 2
    story.stream()
    assert story.codes() == ["end", "end"]
    story.leave()


@pytest.mark.spec("LEASE-RENEWAL.1", "DIRECT-FALLBACK.1")
def test_an_end_that_is_asked_for_when_the_session_rests_finds_another_miner() -> None:
    story = Past()
    story.order_directly()
    story.say(story.ended())
    resume = story.resume(4)
    assert story.lease is not None
    story.did(story.route.receive(story.lease[0], LeaseRelease(id_of(story.opening))))
    assert story.session.life.state is SessionState.RESTING
    story.fall_back(4, resume=resume)
    story.replace()
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])
    story.leave()


def test_a_miner_that_ends_the_lease_before_it_sent_a_lost_end_again_is_replaced() -> None:
    story = Past()
    story.order_directly()
    story.say(story.ended())
    story.fall_back(4)
    story.say(LeaseRelease(id_of(story.opening)))
    assert story.session.life.state is SessionState.LEASING
    story.replace()
    story.stream()
    assert (story.text, story.codes()) == (words(), ["end"])
    story.leave()


def test_only_the_latest_ends_are_kept_to_be_asked_for() -> None:
    story = Past()
    for task in range(1, 9):
        story.order_directly(task)
        story.say(story.ended(task))
        assert len(story.session.tasks) <= REPORTED_KEPT + 1
    assert story.route.receive(story.client, msgspec.structs.replace(story.submits[1], direct=False)) == []
    story.leave()


def test_a_report_is_forgotten_with_the_orders_deadline_and_nobody_is_told() -> None:
    story = Past()
    story.order_directly()
    story.say(story.ended())
    story.wait(60_000)
    assert (story.session.tasks, story.ends) == ({}, [])
    story.leave()
