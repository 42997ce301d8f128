"""The router's machine and second starts: beside other lanes, and what they may cost."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.roles.router.hedging import CREDIT_BP_MAX, ORDER_BP, PATIENCE_FACTOR, Budget
from tests.unit.protocol.lanes_at_hand import HEDGE_MS, LANES_PARAMS, Cast, done, hedged, late, ready

# Beside other lanes


@pytest.mark.spec("HEDGE-START.1", "LANES-FILL.1", "ASSIGN-NUMBER.1")
@pytest.mark.parametrize("how", ["frame", "lost"])
def test_a_lane_that_is_filled_while_two_run_keeps_its_miner_when_the_second_wins(how: str) -> None:
    cast, first, second = hedged(2)
    cast.lose(cast.lane(1))
    fresh = cast.grant()
    assert [a.number for a in cast.assignments] == [1, 3]
    if how == "lost":
        cast.lose(first)
    cast.stream(second, 2)
    assert [a.number for a in cast.assignments] == [1, 3, 4], "numbers only rise"
    assert cast.lanes() == [second.miner.node, fresh.miner.node]
    cast.end_lane(fresh)
    assert cast.lane_ends == [(1, 1)]
    cast.stream(second)
    done(cast)


@pytest.mark.spec("HEDGE-START.1", "LANE-WITHHELD.1")
def test_other_lanes_run_on_whoever_wins_lane_0() -> None:
    cast, _, second = hedged(2)
    other = cast.lane(1)
    cast.stream(second, 2)
    assert cast.lane(1) is other
    assert len(other.starts) == 1
    cast.end_lane(other)
    cast.stream(second)
    done(cast)


@pytest.mark.spec("HEDGE-START.1", "ROUTER-TERM.1")
@pytest.mark.parametrize("used", [1_022, 1_023, 1_024])
def test_no_second_start_goes_beyond_the_routers_numbers(used: int) -> None:
    cast = ready(2, hedge_bp=500)
    cast.order()
    cast.route.machine._leasing.numbers[cast.id] = used
    first = cast.lane(0)
    cast.wait(HEDGE_MS)
    assert len(cast.asked()) == (used < 1_024)
    if used < 1_024:
        second = cast.grant()
        assert second.start.assignment.number == used + 1
    if used == 1_022:
        cast.lose(cast.lane(1))
        cast.grant()
        assert cast.assignments[-1].number == 1_024
        cast.stream(second, 2)
        assert second.closed, "it could only go on under a number that is not the router's"
    cast.stream(cast.lane(0) if used != 1_022 else first)
    assert cast.route.machine._leasing.numbers[cast.id] <= 1_024
    done(cast)


# Budget


@pytest.mark.spec("HEDGE-BUDGET.1")
@given(st.integers(0, 2_000), st.lists(st.integers(0, 60), max_size=60))
def test_no_sequence_spends_more_than_the_share_and_five_in_a_row(share_bp: int, gaps: list[int]) -> None:
    budget = Budget(share_bp)
    orders, spent_at = 0, []
    for gap in gaps:
        for _ in range(gap):
            budget.earn()
        orders += gap
        for _ in range(10):
            if not budget.spent:
                budget.spend()
                spent_at.append(orders)
    for first in range(len(spent_at)):
        for last in range(first, len(spent_at)):
            window = spent_at[last] - spent_at[first]
            spent = last - first + 1
            assert spent * ORDER_BP <= CREDIT_BP_MAX + window * share_bp
    if spent_at:
        assert len(spent_at) * ORDER_BP <= ORDER_BP + orders * share_bp
        assert share_bp


@pytest.mark.spec("HEDGE-BUDGET.1")
def test_at_most_one_order_in_twenty_is_started_twice_and_five_more_in_a_row() -> None:
    cast = Cast(1, params=replace(LANES_PARAMS, tasks_per_session_max=10_000), hedge_bp=500)
    cast.route.machine._hedging.budget.spend()
    cast.grant_all()
    budget = cast.route.machine._hedging.budget
    assert budget.spent
    cast.order(1)
    cast.wait(HEDGE_MS)
    assert cast.asked() == [], "late, and nothing left for it"
    for _ in range(18):
        budget.earn()
    cast.wait(HEDGE_MS)
    cast.stream(cast.lane(0))
    cast.order(2)
    cast.wait(PATIENCE_FACTOR * 2 * HEDGE_MS)
    assert len(cast.asked()) == 1, "twenty orders pay for one"
    assert budget.spent
    for _ in range(10_000):
        budget.earn()
    for _ in range(5):
        assert not budget.spent
        budget.spend()
    assert budget.spent
    cast.leave()


@pytest.mark.spec("HEDGE-BUDGET.1")
def test_a_second_start_that_nobody_has_a_slot_for_is_paid_all_the_same() -> None:
    cast, _, second = late()
    assert cast.route.machine._hedging.budget.spent
    cast.busy(second)
    assert cast.route.machine._hedging.budget.spent
    cast.leave()
