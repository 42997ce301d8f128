"""The lottery: constant bids whatever the size, and a threshold that is the rule and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.params import Params
from protocol.session.lottery import DRAW_RANGE, EVERYONE_FACTOR, draw, is_eligible, threshold

PARAMS = Params()

counts = st.integers(0, 2**32 - 1)
sessions = st.binary(min_size=32, max_size=32)


@pytest.mark.spec("AUCTION-LOTTERY.1")
@pytest.mark.parametrize("pool", [33, 100, 1_000, 10_000])
def test_bids_stay_constant_as_the_network_grows(pool: int) -> None:
    nodes = [number.to_bytes(20, "big") for number in range(pool)]
    rounds = max(4, 40_000 // pool)
    bids = sum(is_eligible(PARAMS, n.to_bytes(32, "big"), node, pool, 0) for n in range(rounds) for node in nodes)
    # Binomial: three standard deviations around the target.
    assert abs(bids / rounds - PARAMS.bid_target) < 3 * (PARAMS.bid_target / rounds) ** 0.5


@pytest.mark.spec("AUCTION-LOTTERY.1")
@given(sessions, st.binary(min_size=20, max_size=20), st.integers(0, 255))
def test_everyone_bids_while_the_pool_is_small(session: bytes, node: bytes, widening: int) -> None:
    assert all(
        is_eligible(PARAMS, session, node, pool, widening) for pool in (0, 1, 10, PARAMS.bid_target * EVERYONE_FACTOR)
    )


@pytest.mark.spec("AUCTION-LOTTERY.1")
@given(sessions, st.binary(min_size=20, max_size=20), counts, st.integers(0, 254))
def test_widening_only_adds_bidders(session: bytes, node: bytes, pool: int, widening: int) -> None:
    if is_eligible(PARAMS, session, node, pool, widening):
        assert is_eligible(PARAMS, session, node, pool, widening + 1)
    assert is_eligible(PARAMS, session, node, pool, 255)


@pytest.mark.spec("AUCTION-LOTTERY.1")
@given(sessions, st.binary(min_size=20, max_size=20), counts, st.integers(0, 40))
def test_the_threshold_is_the_rule_divided_out(session: bytes, node: bytes, pool: int, widening: int) -> None:
    limit = threshold(PARAMS, pool, widening)
    for ticket in {draw(session, node), limit - 1, min(limit, DRAW_RANGE - 1)}:
        rule = ticket * pool < PARAMS.bid_target * 2 ** min(widening, 32) * 2**64
        assert (ticket < limit) == (rule or pool <= 4 * PARAMS.bid_target)


@pytest.mark.spec("AUCTION-LOTTERY.1")
def test_who_is_drawn_changes_with_the_session() -> None:
    nodes = [number.to_bytes(20, "big") for number in range(1_000)]
    drawn = [{node for node in nodes if is_eligible(PARAMS, bytes([n]) * 32, node, 1_000, 0)} for n in range(20)]
    assert len(set.union(*drawn)) > 100
