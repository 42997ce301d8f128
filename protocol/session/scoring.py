"""How good a bid is: a pure function of public inputs and of the router's published measurements, in basis points.

What a miner states of itself can be a lie, and what a router measured can be a favour. So neither decides
alone: statements and ledger figures weigh at least 70 %, measurements at most 30 %, and each term is bounded,
so that no figure, however large, gains more than its own weight. What is not stated scores nothing; what was
not measured yet scores the neutral half, so that new miners get work.
"""

from protocol.core.params import Params
from protocol.messages.sessions import Bid, Measurement

ONE_BP = 10_000
NEUTRAL_BP = 5_000
MEASUREMENT_WEIGHT_BP_MAX = 3_000

SPEED_HALF = 40
"""Tokens a second of one stream that score half."""
FIRST_TOKEN_HALF_MS = 500
"""Time to the first token that scores half."""
TASKS_HALF = 4
"""Measured tasks after which measurements count half, and the neutral value the other half."""

PRICE_WEIGHT_BP = 3_500
SPEED_WEIGHT_BP = 2_000
LOAD_WEIGHT_BP = 2_000
FIRST_TOKEN_WEIGHT_BP = 1_500
REPUTATION_WEIGHT_BP = 1_000


def compute_score(
    params: Params, price_cap_wei: int, bid: Bid, measurement: Measurement | None, reputation_bp: int = NEUTRAL_BP
) -> int:
    """The score of a usable bid, 0 to 10,000. Spec: [AUCTION-SCORE.1]

    Args:
        measurement: What the router published of this miner, None if nothing.
        reputation_bp: From the ledger of the header the session names; neutral where there is none.
    """
    weight = min(params.measurement_weight_bp, MEASUREMENT_WEIGHT_BP_MAX)
    public = public_score(price_cap_wei, bid, reputation_bp)
    return ((ONE_BP - weight) * public + weight * measured_score(measurement)) // ONE_BP


def public_score(price_cap_wei: int, bid: Bid, reputation_bp: int) -> int:
    """The part that follows from the bid and the ledger. Spec: [AUCTION-SCORE.1]"""
    weighted = (
        PRICE_WEIGHT_BP * _price(bid.price_wei, price_cap_wei)
        + SPEED_WEIGHT_BP * _rising(bid.tokens_per_second, SPEED_HALF)
        + LOAD_WEIGHT_BP * _free_share(bid.slots_free, bid.slots_total)
        + FIRST_TOKEN_WEIGHT_BP * _falling(bid.first_token_ms, FIRST_TOKEN_HALF_MS)
        + REPUTATION_WEIGHT_BP * _clipped(reputation_bp)
    )
    return weighted // ONE_BP


def measured_score(measurement: Measurement | None) -> int:
    """The part that follows from the router's own measurements; trusted more the more tasks they are of."""
    if measurement is None:
        return NEUTRAL_BP
    seen = (
        5_000 * _clipped(measurement.success_bp)
        + 3_000 * _rising(measurement.tokens_per_second, SPEED_HALF)
        + 2_000 * _falling(measurement.first_token_ms, FIRST_TOKEN_HALF_MS)
    ) // ONE_BP
    return (measurement.tasks * seen + TASKS_HALF * NEUTRAL_BP) // (measurement.tasks + TASKS_HALF)


def _price(price: int, cap: int) -> int:
    return ONE_BP if cap == 0 else ONE_BP * max(cap - price, 0) // cap


def _rising(value: int, half: int) -> int:
    return ONE_BP * value // (value + half)


def _falling(value: int, half: int) -> int:
    return ONE_BP * half // (half + value) if value else 0


def _free_share(free: int, total: int) -> int:
    return ONE_BP * min(free, total) // max(total, 1)


def _clipped(value_bp: int) -> int:
    return max(0, min(value_bp, ONE_BP))
