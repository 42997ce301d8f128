"""Assignments of several lanes: what a client takes from its router, whose lanes may be vacant or kept."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.errors import AuctionError
from protocol.core.ids import NO_GENERATION, NOBODY
from protocol.messages.envelope import Envelope, envelope_digest
from protocol.messages.sessions import Assignment, BidSet
from protocol.session.auction import VerifiedAuction, verify_bid_set
from tests.unit.protocol.machines import DOMAIN, MINERS, PARAMS, assignment_of, bid_set_of, opening_of

LANES = 3
OPENING = opening_of(lanes=LANES)
ALL = bid_set_of(OPENING, MINERS[:5])
FEW = bid_set_of(OPENING, MINERS[:2])
"""The bids of a later round, in which some of those that have a lane did not bid."""

Lane = tuple[bytes, bytes]
VACANT: Lane = (NOBODY, NO_GENERATION)


def lane(miner: int, generation: int | None = None) -> Lane:
    """A lease of a miner."""
    number = miner + 1 if generation is None else generation
    return MINERS[miner].node, bytes(23) + bytes([number])


def assigned(*lanes: Lane, number: int = 1, bids: Envelope = ALL) -> Assignment:
    """An assignment of lanes."""
    names: dict[str, Any] = {"miners": tuple(n for n, _ in lanes), "generations": tuple(g for _, g in lanes)}
    return assignment_of(OPENING, number=number, bid_set=envelope_digest(DOMAIN, bids, BidSet), **names)


def check(assignment: Assignment, before: Assignment | None = None, bids: Envelope = ALL) -> VerifiedAuction:
    """As a client does."""
    return verify_bid_set(DOMAIN, PARAMS, OPENING, bids, assignment, before)


@pytest.mark.spec("AUCTION-VERIFY.1")
def test_every_lane_has_a_rank_and_a_vacant_one_has_none() -> None:
    auction = check(assigned(lane(0), lane(3), lane(1)))
    order = auction.ranking.order
    assert auction.ranks == tuple(order.index(MINERS[miner].node) for miner in (0, 3, 1))
    assert check(assigned(lane(0), VACANT, lane(1))).ranks == (auction.ranks[0], None, auction.ranks[2])
    assert check(assigned(lane(0), VACANT, VACANT)).ranks == (auction.ranks[0], None, None)


@pytest.mark.spec("AUCTION-VERIFY.1")
@pytest.mark.parametrize(
    ("lanes", "complaint"),
    [
        ((VACANT, lane(1), lane(2)), "lane 0 has both"),
        (((NOBODY, lane(0)[1]), lane(1), lane(2)), "or neither"),
        ((lane(0), (NOBODY, lane(1)[1]), lane(2)), "or neither"),
        ((lane(0), (MINERS[1].node, NO_GENERATION), lane(2)), "or neither"),
        ((lane(0), lane(1), lane(1, 9)), "two lanes"),
        ((lane(0), lane(1), lane(2, 2)), "two lanes"),
        ((lane(0), lane(0)), "2 miners for 3 lanes"),
        ((lane(0), lane(1), lane(2), lane(3)), "4 miners for 3 lanes"),
        ((lane(0), lane(1), lane(5)), "no usable bid"),
        ((lane(5), lane(1), lane(2)), "no usable bid"),
    ],
)
def test_lanes_that_do_not_hold_are_named(lanes: tuple[Lane, ...], complaint: str) -> None:
    with pytest.raises(AuctionError, match=complaint) as caught:
        check(assigned(*lanes))
    assert caught.value.link == "assignment"


@pytest.mark.spec("AUCTION-VERIFY.1")
def test_a_lane_above_0_keeps_the_lease_it_had_whether_or_not_its_miner_bid_again() -> None:
    before = assigned(lane(0), lane(3), lane(4))
    after = assigned(lane(1, 9), lane(3), lane(4), number=2, bids=FEW)
    assert check(after, before, FEW).ranks[1:] == (None, None)
    with pytest.raises(AuctionError, match="no usable bid"):
        check(after, None, FEW)


@pytest.mark.spec("AUCTION-VERIFY.1")
@pytest.mark.parametrize(
    "lanes",
    [
        (lane(0), lane(3, 9), lane(4)),
        (lane(0), lane(4), lane(3)),
        (lane(3), VACANT, lane(4)),
        (lane(3, 9), VACANT, VACANT),
    ],
    ids=["another lease", "another lane", "lane 0", "lane 0 anew"],
)
def test_only_the_very_lease_of_the_very_lane_is_kept(lanes: tuple[Lane, ...]) -> None:
    before = assigned(lane(0), lane(3), lane(4))
    with pytest.raises(AuctionError, match="no usable bid"):
        check(assigned(*lanes, number=2, bids=FEW), before, FEW)


@pytest.mark.spec("AUCTION-VERIFY.1")
def test_lane_0_keeps_no_lease_without_a_bid() -> None:
    before = assigned(lane(3), VACANT, VACANT)
    with pytest.raises(AuctionError, match="no usable bid"):
        check(assigned(lane(3), lane(1), VACANT, number=2, bids=FEW), before, FEW)


@pytest.mark.spec("AUCTION-VERIFY.1")
@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=LANES, max_size=LANES))
def test_an_assignment_holds_exactly_if_lane_0_and_every_other_has_nobody_or_a_bidder_of_its_own(
    miners: list[int | None],
) -> None:
    lanes = [VACANT if miner is None else lane(miner) for miner in miners]
    taken = [miner for miner in miners if miner is not None]
    holds = miners[0] is not None and len(set(taken)) == len(taken) and 5 not in taken
    try:
        ranks = check(assigned(*lanes)).ranks
    except AuctionError:
        assert not holds
    else:
        assert holds
        assert [rank is None for rank in ranks] == [miner is None for miner in miners]
