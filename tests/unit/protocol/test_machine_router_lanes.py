"""The router's machine and sessions of several lanes: how they are filled, and taken over from."""

import pytest

from protocol.core.machine import Note
from protocol.messages.sessions import CloseSession, SessionEnded
from protocol.roles.router.leasing import HURRY_SHARE
from protocol.roles.router.rounds import RETRY_MS_MIN, WAKE_MS
from tests.unit.protocol.failover_at_hand import words
from tests.unit.protocol.lanes_at_hand import LANES_PARAMS, Cast, ready
from tests.unit.protocol.machines import of, opening_of, sent
from tests.unit.protocol.router_at_hand import Route

HURRY_MS = LANES_PARAMS.lease_request_timeout_ms // HURRY_SHARE


# Filling


@pytest.mark.spec("LANES-FILL.1")
@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
def test_a_session_starts_when_every_lane_has_a_miner_of_its_own(lanes: int) -> None:
    cast = Cast(lanes)
    for granted in range(lanes):
        assert cast.assignments == []
        assert len(cast.asked()) == lanes - granted
        cast.grant()
    assert len(set(cast.lanes())) == lanes
    assert cast.asked() == []
    assert all(cast.lane(lane).miner.node == miner for lane, miner in enumerate(cast.lanes()))
    cast.leave()


@pytest.mark.spec("LANES-FILL.1")
def test_a_busy_miner_is_followed_by_the_next_in_rank_for_its_lane() -> None:
    cast = Cast(2, 4)
    first, second = cast.asked()
    cast.busy(second)
    cast.grant(first)
    assert cast.assignments == []
    cast.grant()
    assert cast.lanes()[0] == first.miner.node
    assert second.miner.node not in cast.lanes()
    cast.leave()


@pytest.mark.spec("LANES-FILL.1")
def test_with_fewer_miners_than_lanes_nobody_is_held_and_all_are_asked_again() -> None:
    cast = Cast(3, 3)
    one, two, three = cast.asked()
    cast.grant(one)
    cast.grant(two)
    cast.busy(three)
    assert one.released
    assert two.released
    assert cast.holding() == []
    cast.wait(1_000)
    assert cast.bids_open
    cast.bid()
    cast.grant_all()
    assert len(cast.assignments) == 1
    cast.leave()


@pytest.mark.spec("LANES-FILL.1")
def test_lanes_that_cannot_be_had_are_said_so() -> None:
    route = Route(miners=2)
    client = route.client()
    for lanes, code in ((3, "no_capacity"), (9, "bad_request")):
        (told,) = sent(route.open(client, opening_of(lanes=lanes)), client)
        assert isinstance(told, SessionEnded)
        assert told.code == code


@pytest.mark.spec("LANES-FILL.1", "TASK-TERMINAL.1")
def test_a_session_that_finds_too_few_miners_ends_in_time_and_gives_everything_back() -> None:
    cast = Cast(2, 2)
    cast.grant()
    cast.alive.pop()
    cast.wait(60_000)
    assert cast.ends == [(0, "no_capacity")]
    cast.leave()


@pytest.mark.spec("LANES-FILL.1")
@pytest.mark.parametrize("late", ["first", "second"])
def test_a_miner_that_takes_long_to_answer_is_no_longer_waited_for_alone(late: str) -> None:
    cast = Cast(1)
    (first,) = cast.asked()
    cast.wait(HURRY_MS - 1)
    assert cast.asked() == [first]
    cast.wait(1)
    _, second = cast.asked()
    cast.wait(HURRY_MS)
    assert cast.asked() == [first, second], "two at once, no more"
    winner, loser = (second, first) if late == "first" else (first, second)
    cast.grant(winner)
    assert cast.lanes() == [winner.miner.node]
    cast.grant(loser)
    assert loser.closed, "its slot is free at once"
    assert len(cast.assignments) == 1
    cast.leave()


@pytest.mark.spec("LANES-FILL.1")
def test_once_one_of_two_has_granted_nobody_is_asked_for_want_of_the_others_answer() -> None:
    # Found by the simulator: the miner that had just begun was asked again, and let go of what it ran.
    cast = Cast(1)
    cast.wait(HURRY_MS)
    first, second = cast.asked()
    cast.wait(HURRY_MS - 1)
    cast.grant(first)
    cast.wait(HURRY_MS)
    assert cast.asked() == [second]
    cast.grant(second)
    assert second.closed
    assert cast.lanes() == [first.miner.node]
    cast.leave()


@pytest.mark.spec("LANES-FILL.1")
def test_two_that_are_waited_for_are_followed_one_by_one() -> None:
    cast = Cast(1)
    cast.wait(HURRY_MS)
    first, second = cast.asked()
    cast.busy(second)
    assert cast.asked() == [first], "the lane is still asked for"
    cast.wait(LANES_PARAMS.lease_request_timeout_ms - HURRY_MS)
    assert first.closed
    (third,) = cast.asked()
    cast.grant(third)
    assert cast.lanes() == [third.miner.node]
    cast.leave()


@pytest.mark.spec("LANES-FILL.1")
def test_a_miner_that_granted_and_went_before_the_others_is_replaced() -> None:
    cast = Cast(2)
    first, second = cast.asked()
    cast.grant(first)
    cast.lose(first)
    cast.grant(second)
    assert cast.assignments == []
    cast.grant()
    assert first.miner.node not in cast.lanes()
    cast.leave()


@pytest.mark.spec("LANES-FILL.1")
@pytest.mark.parametrize("how", ["close", "leave"])
def test_who_was_asked_or_has_granted_is_let_go_when_the_session_ends(how: str) -> None:
    cast = Cast(3)
    granted = cast.grant()
    asked = cast.asked()
    assert len(asked) == 2
    if how == "close":
        cast.did(cast.route.receive(cast.client, CloseSession(cast.id)))
    else:
        cast.leave()
    assert granted.released
    assert all(strand.closed for strand in (granted, *asked))
    if how == "close":
        cast.leave()


@pytest.mark.spec("LANES-FILL.1", "ASSIGN-NUMBER.1")
def test_a_lane_above_0_that_lost_its_miner_gets_the_next_and_lane_0_hears_nothing_of_it() -> None:
    cast = ready(3)
    cast.order()
    cast.stream(cast.lane(0), 3)
    streamed = cast.lane(0)
    cast.lose(cast.lane(2))
    cast.grant()
    assert [a.number for a in cast.assignments] == [1, 2]
    assert cast.assignments[1].generations[:2] == cast.assignments[0].generations[:2]
    assert len(streamed.starts) == 1
    cast.stream(streamed)
    assert (cast.text[1], cast.ends) == (words(), [(1, "end")])
    cast.leave()


@pytest.mark.spec("LANES-FILL.1", "AUCTION-VERIFY.1")
def test_a_lane_above_0_for_which_there_is_nobody_stays_vacant_until_the_next_round() -> None:
    cast = ready(2, 2)
    cast.order()
    lost = cast.lane(1).miner
    cast.kill(lost)
    assert cast.asked() == []
    cast.stream(cast.lane(0))
    cast.order(2)
    assert cast.ends == [(1, "end")]
    cast.alive.append(lost)
    cast.lose(cast.lane(0))
    cast.wait(WAKE_MS)
    cast.bid()
    cast.grant()
    assert cast.lanes().count(None) == 1, "lane 0 goes on alone"
    cast.grant()
    assert None not in cast.lanes()
    cast.stream(cast.lane(0))
    assert cast.ends == [(1, "end"), (2, "end")]
    cast.leave()


# Takeover


@pytest.mark.spec("FAILOVER-NEXT.1", "LANE-WITHHELD.1", "ASSIGN-NUMBER.1")
@pytest.mark.parametrize("streamed", [0, 1, 4])
def test_lane_0_is_taken_over_by_another_lanes_miner_whose_own_lane_begins_anew_elsewhere(streamed: int) -> None:
    cast = ready()
    cast.order()
    cast.stream(cast.lane(0), streamed)
    helper = cast.lane(1)
    assert helper.start.lane == 1
    cast.lose(cast.lane(0))
    (asked,) = cast.asked()
    assert asked.miner == helper.miner, "its cache holds the prompt"
    cast.grant()
    assert helper.closed
    assert cast.lane(0).miner == helper.miner
    assert (cast.lane(0).start.lane, len(cast.lane(0).starts)) == (0, 1)
    (third,) = cast.asked()
    cast.stream(cast.lane(0))
    assert (cast.text[1], cast.ends) == (words(), [(1, "end")])
    cast.grant(third)
    assert (third.start.order.task, third.start.lane, third.start.resume) == (1, 1, None)
    cast.end_lane(third)
    assert cast.lane_ends == [(1, 1)]
    assert [a.number for a in cast.assignments] == [1, 2, 3]
    assert helper.miner.node not in cast.session.lost, "it did as it was asked"
    cast.leave()


@pytest.mark.spec("FAILOVER-NEXT.1")
def test_a_takeover_whose_old_stream_ends_before_its_grant_comes_is_no_loss() -> None:
    cast = ready()
    cast.order()
    helper = cast.lane(1)
    cast.lose(cast.lane(0))
    (asked,) = cast.asked()
    assert of(cast.lose(helper), Note) == []
    assert cast.asked() == [asked]
    cast.grant(asked)
    assert helper.miner.node not in cast.session.lost
    cast.grant()
    assert cast.lane(1).start.lane == 1
    cast.leave()


@pytest.mark.spec("FAILOVER-NEXT.1", "LANES-FILL.1")
@pytest.mark.parametrize("how", ["busy", "lose", "timeout"])
def test_a_lane_that_does_not_take_over_keeps_its_own_run(how: str) -> None:
    cast = ready()
    cast.order()
    cast.stream(cast.lane(0), 2)
    helper = cast.lane(1)
    cast.lose(cast.lane(0))
    (asked,) = cast.asked()
    if how == "busy":
        cast.busy(asked)
    elif how == "lose":
        cast.lose(asked)
    else:
        cast.wait(LANES_PARAMS.lease_request_timeout_ms)
        assert asked.closed
    (standby,) = cast.asked()
    assert standby.miner != helper.miner
    cast.grant(standby)
    assert not helper.closed
    assert len(helper.starts) == 1
    cast.stream(standby)
    cast.end_lane(helper)
    assert (cast.ends, cast.lane_ends) == ([(1, "end")], [(1, 1)])
    cast.leave()


@pytest.mark.spec("FAILOVER-NEXT.1")
def test_all_other_lanes_are_asked_before_any_standby_and_once_each_a_round() -> None:
    cast = ready(3, 4)
    cast.order()
    helpers = [cast.lane(1).miner, cast.lane(2).miner]
    cast.lose(cast.lane(0))
    for helper in helpers:
        (asked,) = cast.asked()
        assert asked.miner == helper
        cast.busy(asked)
    (standby,) = cast.asked()
    assert standby.miner not in helpers
    cast.busy(standby)
    assert cast.asked() == []
    cast.wait(RETRY_MS_MIN)
    cast.bid()
    for helper in helpers:
        (asked,) = cast.asked()
        assert asked.miner == helper, "a new round, a new chance"
        cast.busy(asked)
    others = []
    while cast.asked():
        others.append(cast.asked()[0].miner)
        cast.busy()
    # The miner that was lost may have bid again before the round closed; then it is asked last.
    assert others[0] == standby.miner
    assert len(set(others)) == len(others) <= 2
    assert not set(others) & set(helpers), "each of them once a round"
    cast.wait(2 * RETRY_MS_MIN)
    cast.bid()
    cast.grant()
    cast.stream(cast.lane(0))
    assert cast.ends == [(1, "end")]
    cast.leave()


@pytest.mark.spec("FAILOVER-NEXT.1")
def test_who_is_left_of_two_may_answer_late_and_still_saves_the_session() -> None:
    cast = ready(2, 2)
    cast.order()
    cast.kill(cast.lane(0).miner)
    (asked,) = cast.asked()
    cast.wait(LANES_PARAMS.lease_request_timeout_ms)
    assert asked.closed
    cast.wait(1_000)
    cast.bid()
    cast.grant()
    cast.stream(cast.lane(0))
    assert (cast.text[1], cast.ends) == (words(), [(1, "end")])
    cast.leave()


@pytest.mark.spec("LANES-FILL.1", "FAILOVER-NEXT.1")
def test_lane_0_lost_while_another_lane_is_being_filled_has_the_standbys_to_itself() -> None:
    cast = ready(2, 4)
    cast.order()
    cast.kill(cast.lane(1).miner)
    (asked,) = cast.asked()
    cast.lose(cast.lane(0))
    assert asked.closed, "what was asked for another lane is withdrawn"
    (last,) = cast.asked()
    cast.grant(last)
    assert cast.lane(0) is last
    assert cast.lanes()[1] is None
    cast.stream(last)
    assert cast.ends == [(1, "end")]
    cast.leave()


@pytest.mark.spec("LANES-FILL.1", "FAILOVER-NEXT.1")
def test_no_other_lane_is_filled_while_lane_0_has_nobody() -> None:
    cast = ready(2, 4)
    cast.order()
    cast.lose(cast.lane(0))
    (helper,) = cast.asked()
    cast.busy(helper)
    cast.lose(cast.lane(1))
    (standby,) = cast.asked()
    cast.busy(standby)
    (last,) = cast.asked()
    cast.grant(last)
    assert cast.lane(0) is last
    cast.stream(last)
    assert cast.ends == [(1, "end")]
    cast.leave()


@pytest.mark.spec("FAILOVER-NEXT.1", "LANES-FILL.1")
def test_a_grant_that_comes_after_lane_0_was_taken_is_given_back() -> None:
    cast = ready()
    cast.order()
    helper = cast.lane(1)
    cast.lose(cast.lane(0))
    cast.wait(HURRY_MS)
    slow, quick = cast.asked()
    assert slow.miner == helper.miner
    cast.grant(quick)
    cast.grant(slow)
    assert slow.closed
    assert helper.closed, "its own run ended when it granted"
    cast.grant()
    assert cast.lane(1).start.lane == 1
    cast.stream(cast.lane(0))
    cast.end_lane(cast.lane(1))
    assert (cast.ends, cast.lane_ends) == ([(1, "end")], [(1, 1)])
    cast.leave()


@pytest.mark.spec("FAILOVER-NEXT.1", "LANES-FILL.1", "TASK-TERMINAL.1")
def test_who_was_asked_is_let_go_when_nobody_is_left_for_lane_0() -> None:
    cast = ready(2, 2)
    cast.order()
    helper = cast.lane(1)
    cast.alive.clear()
    cast.lose(cast.lane(0))
    cast.busy()
    cast.wait(LANES_PARAMS.first_frame_timeout_ms)
    assert cast.ends == [(1, "miner_lost"), (0, "miner_lost")]
    assert helper.released
    cast.leave()
