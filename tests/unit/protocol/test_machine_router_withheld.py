"""The router's machine and lanes that are streamed to nobody, and sessions whose miners wanted their slots back."""

import msgspec
import pytest

from protocol.core.machine import Publish
from protocol.messages.sessions import CloseSession, LeaseRelease
from protocol.messages.tasks import EndReason, TaskFailed
from protocol.roles.router.lanes import GRACE_MS
from tests.unit.protocol.lanes_at_hand import LANES_PARAMS, Cast, ended_of, ready
from tests.unit.protocol.machines import MALLORY, of, submit_of

# Withheld lanes


@pytest.mark.spec("LANE-WITHHELD.1")
def test_every_lane_runs_every_order_and_each_has_a_line_of_its_own() -> None:
    cast = ready(3)
    cast.order()
    for lane in range(3):
        start = cast.lane(lane).start
        assert (start.lane, start.order.task, start.resume) == (lane, 1, None)
    slow = cast.lane(1)
    for task in (1, 2, 3):
        cast.stream(cast.lane(0))
        cast.end_lane(cast.lane(2))
        cast.order(task + 1)
    assert cast.ends == [(1, "end"), (2, "end"), (3, "end")], "a slow lane holds nobody up"
    assert cast.lane_ends == [(1, 2), (2, 2), (3, 2)]
    assert [start.order.task for start in slow.starts] == [1]
    for _ in range(3):
        cast.end_lane(slow)
    assert [start.order.task for start in slow.starts] == [1, 2, 3, 4]
    cast.leave()


@pytest.mark.spec("LANE-WITHHELD.1")
def test_the_line_of_a_lane_is_bounded_and_loses_the_oldest() -> None:
    cast = ready()
    slow = cast.lane(1)
    for task in range(1, 8):
        cast.order(task)
        cast.stream(cast.lane(0))
        assert len(cast.session.withheld[1].waiting) <= LANES_PARAMS.tasks_pending_per_session_max
    cast.end_lane(slow)
    assert slow.start.order.task == 5
    cast.lose(slow)
    cast.order(8)
    assert len(cast.session.withheld[1].waiting) <= LANES_PARAMS.tasks_pending_per_session_max
    cast.leave()


@pytest.mark.spec("LANE-WITHHELD.1")
@pytest.mark.parametrize("when", ["idle", "running", "done"])
def test_a_lane_lost_before_in_and_after_an_order_begins_anew_only_what_was_not_ended(when: str) -> None:
    cast = ready()
    if when != "idle":
        cast.order()
    if when == "done":
        cast.end_lane(cast.lane(1))
    cast.lose(cast.lane(1))
    cast.grant()
    fresh = cast.lane(1)
    assert [start.order.task for start in fresh.starts] == ([1] if when == "running" else [])
    cast.order(2)
    assert fresh.start.order.task == (1 if when == "running" else 2)
    if when == "running":
        cast.end_lane(fresh)
        assert (cast.lane_ends, fresh.start.order.task) == ([(1, 1)], 2)
    cast.leave()


@pytest.mark.spec("LANE-WITHHELD.1")
@pytest.mark.parametrize(
    "what", ["signer", "lane", "task", "generation", "start", "miner", "chain", "cancelled", "again", "frame", "head"]
)
def test_an_end_that_the_lanes_miner_did_not_sign_for_this_run_costs_it_the_lane_and_nobody_else(what: str) -> None:
    cast = ready(3)
    cast.order()
    cast.stream(cast.lane(0), 3)
    liar = cast.lane(1)
    good = ended_of(liar)
    match what:
        case "signer":
            cast.end_lane(liar, signer=MALLORY)
        case "lane":
            cast.end_lane(liar, lane=2)
        case "task":
            cast.end_lane(liar, task=2)
        case "generation":
            cast.end_lane(liar, generation=cast.lane(0).generation)
        case "start":
            cast.end_lane(liar, start_index=3, previous_head=b"\x01" * 32)
        case "miner":
            cast.say(liar, ended_of(cast.lane(2)))
        case "chain":
            cast.say(liar, msgspec.structs.replace(good, chain=bytes(32)))
        case "cancelled":
            cast.end_lane(liar, reason=EndReason.CANCELLED)
        case "again":
            cast.say(liar, good, good)
        case _:
            messages = cast.lane(0).answer()
            cast.say(liar, messages[what == "frame"])
    assert liar.closed
    assert cast.lane_ends == ([(1, 1)] if what == "again" else [])
    assert not cast.lane(0).closed
    cast.stream(cast.lane(0))
    assert cast.ends == [(1, "end")]
    cast.grant()
    assert [start.order.task for start in cast.lane(1).starts] == ([] if what == "again" else [1])
    cast.leave()


@pytest.mark.spec("LANE-WITHHELD.1")
def test_a_lane_that_fails_at_an_order_goes_on_with_the_next() -> None:
    cast = ready()
    cast.order()
    cast.order(2)
    lane = cast.lane(1)
    cast.say(lane, TaskFailed(cast.id, 2, "engine_failed", "not what it runs", 0))
    assert lane.start.order.task == 1
    cast.say(lane, TaskFailed(cast.id, 1, "engine_failed", "out of luck", 0))
    assert lane.start.order.task == 2
    assert cast.ends == []
    cast.leave()


@pytest.mark.spec("LANE-WITHHELD.1")
def test_a_lane_that_never_ends_is_lost_a_while_after_its_order_and_the_next_has_it_from_the_start() -> None:
    cast = ready()
    cast.order(timeout_ms=5_000)
    cast.stream(cast.lane(0))
    frozen = cast.lane(1)
    cast.wait(5_000 + GRACE_MS - 1)
    assert not frozen.closed
    cast.wait(1)
    assert frozen.closed
    assert cast.lane(0).closed is False
    cast.grant()
    assert (cast.lane(1).start.order.task, cast.lane(1).start.lane) == (1, 1)
    cast.leave()


@pytest.mark.spec("LANE-WITHHELD.1")
def test_a_cancelled_order_is_cancelled_in_every_lane_and_begun_anew_in_none() -> None:
    cast = ready(3)
    for task in (1, 2):
        cast.order(task)
    cast.stream(cast.lane(0), 2)
    cast.end_lane(cast.lane(2))
    cast.cancel(1)
    assert cast.lane(0).cancelled
    assert cast.lane(1).cancelled
    assert not cast.lane(2).cancelled, "it runs the next one"
    cast.cancel(2)
    assert cast.lane(2).cancelled
    cast.end_lane(cast.lane(2), reason=EndReason.CANCELLED)
    assert cast.lane_ends == [(1, 2), (2, 2)]
    cast.lose(cast.lane(1))
    cast.grant()
    assert cast.lane(1).starts == []
    cast.leave()


@pytest.mark.spec("LANE-WITHHELD.1")
def test_an_order_that_lane_0_has_ended_can_still_be_cancelled_elsewhere() -> None:
    cast = ready()
    cast.order()
    cast.stream(cast.lane(0))
    cast.cancel()
    assert cast.lane(1).cancelled
    cast.end_lane(cast.lane(1), reason=EndReason.CANCELLED)
    assert cast.lane_ends == [(1, 1)]
    assert not cast.lane(1).closed
    cast.leave()


@pytest.mark.spec("LANE-WITHHELD.1")
def test_an_order_that_is_refused_is_run_by_no_lane() -> None:
    cast = ready()
    for task in range(1, LANES_PARAMS.tasks_pending_per_session_max + 2):
        cast.order(task)
    assert cast.ends == [(LANES_PARAMS.tasks_pending_per_session_max + 1, "queue_full")]
    assert len(cast.session.withheld[1].waiting) == LANES_PARAMS.tasks_pending_per_session_max - 1
    cast.leave()


@pytest.mark.spec("LEASE-RENEWAL.1", "LANES-FILL.1")
def test_a_lane_with_nothing_to_do_rests_without_blame_and_is_filled_with_the_next_order() -> None:
    cast = ready(2, 2)
    cast.order()
    cast.stream(cast.lane(0), 2)
    idle = cast.lane(1)
    cast.end_lane(idle)
    cast.say(idle, LeaseRelease(cast.id))
    assert idle.closed
    assert cast.asked() == [], "nobody is wanted for it yet"
    assert idle.miner.node not in cast.session.lost
    cast.order(2)
    (asked,) = cast.asked()
    assert asked.miner == idle.miner
    cast.grant()
    assert [start.order.task for start in asked.starts] == [2]
    cast.stream(cast.lane(0))
    assert cast.ends == [(1, "end")]
    cast.leave()


@pytest.mark.spec("LANE-WITHHELD.1", "LANES-FILL.1")
def test_a_lane_whose_miner_wants_its_slot_back_with_work_left_is_lost() -> None:
    cast = ready()
    cast.order()
    leaver = cast.lane(1)
    cast.say(leaver, LeaseRelease(cast.id))
    assert leaver.closed
    assert cast.session.lost[leaver.miner.node] == 1
    cast.grant()
    assert cast.lane(1).start.order.task == 1
    cast.leave()


# Rest


def rested(lanes: int = 2) -> Cast:
    """A session whose miners wanted their slots back after an order."""
    cast = ready(lanes)
    cast.order()
    cast.stream(cast.lane(0))
    cast.say(cast.lane(0), LeaseRelease(cast.id))
    assert cast.holding() == []
    return cast


@pytest.mark.spec("LEASE-RENEWAL.1", "LANE-WITHHELD.1")
def test_an_order_that_a_slow_lane_was_at_when_the_session_came_to_rest_is_begun_anew() -> None:
    cast = rested()
    line = cast.session.withheld[1]
    assert (line.running, [task.number for task in line.waiting]) == (None, [1]), "nothing runs while nobody is leased"
    cast.wait(120_000)
    assert cast.asked() == []
    cast.order(2)
    cast.bid()
    cast.grant_all()
    assert [start.order.task for start in cast.lane(1).starts] == [1]
    cast.end_lane(cast.lane(1))
    cast.end_lane(cast.lane(1))
    cast.stream(cast.lane(0))
    assert cast.lane_ends == [(1, 1), (2, 1)]
    assert cast.ends == [(1, "end"), (2, "end")]
    cast.leave()


@pytest.mark.spec("LEASE-RENEWAL.1")
@pytest.mark.parametrize("when", ["resting", "looking", "asking"])
@pytest.mark.parametrize("how", ["expiry", "close", "leave"])
def test_a_session_that_rests_or_looks_again_ends_like_any_other(when: str, how: str) -> None:
    cast = rested()
    waits = []
    if when != "resting":
        cast.wait(cast.opening.expires_ms - cast.route.now_ms - 1_000 if how == "expiry" else 0)
        cast.order(2)
        waits = [(2, "miner_lost"), (0, "miner_lost")]
    if when == "asking":
        cast.bid()
        assert cast.asked()
    if how == "expiry":
        cast.alive.clear()
        cast.wait(cast.opening.expires_ms - cast.route.now_ms)
        assert cast.ends[1:] == (waits or [(0, "session_expired")])
    elif how == "close":
        cast.did(cast.route.receive(cast.client, CloseSession(cast.id)))
        assert cast.ends[-1] == (0, "session_closed")
    cast.leave()


@pytest.mark.spec("LEASE-RENEWAL.1", "TASK-TERMINAL.1")
def test_an_order_for_which_no_miner_is_found_again_ends_in_time() -> None:
    cast = rested()
    cast.alive.clear()
    cast.order(2)
    cast.wait(LANES_PARAMS.first_frame_timeout_ms - 1)
    assert len(cast.ends) == 1
    cast.wait(1)
    assert cast.ends[1:] == [(2, "miner_lost"), (0, "miner_lost")]
    cast.leave()


@pytest.mark.spec("LEASE-RENEWAL.1")
def test_an_order_is_cancelled_while_its_session_looks_again() -> None:
    cast = rested()
    cast.order(2)
    cast.cancel(2)
    assert cast.ends[1:] == [(2, "cancelled")]
    cast.bid()
    cast.grant_all()
    assert all(start.order.task == 1 for strand in cast.holding() for start in strand.starts)
    cast.order(3)
    cast.stream(cast.lane(0))
    assert cast.ends[2:] == [(3, "end")]
    cast.leave()


@pytest.mark.spec("LEASE-RENEWAL.1")
def test_a_second_order_starts_no_second_round() -> None:
    cast = rested(1)
    assert len(of(cast.order(2), Publish)) == 1
    assert of(cast.order(3), Publish) == []
    cast.bid()
    cast.grant_all()
    cast.stream(cast.lane(0))
    cast.stream(cast.lane(0))
    assert [task for task, _ in cast.ends] == [1, 2, 3]
    cast.leave()


@pytest.mark.spec("LEASE-RENEWAL.1")
def test_an_order_that_is_refused_wakes_nobody() -> None:
    cast = rested(1)
    refused = cast.did(cast.route.receive(cast.client, submit_of(cast.opening, 2, max_tokens=0)))
    assert of(refused, Publish) == []
    assert cast.ends[1:] == [(2, "bad_request")]
    cast.leave()
