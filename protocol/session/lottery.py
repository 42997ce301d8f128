"""Who may bid on a session: a lottery that keeps the number of bids constant as the network grows.

Each miner draws one number from the hash of the session id and its own node id, so the router, the miner and
anyone later agree on the outcome without a message, and a client that wants another draw needs another
signed session.
"""

import hashlib

from protocol.core.params import Params

EVERYONE_FACTOR = 4
"""While the pool is at most this many times the target, everyone may bid."""

WIDENING_MAX = 32
"""More doublings than this make no difference: pools are counted in 32 bits."""

DRAW_RANGE = 1 << 64
"""Draws are below this."""


def draw(session: bytes, node: bytes) -> int:
    """A node's ticket in a session's lottery: 64 bits, uniform. Spec: [AUCTION-LOTTERY.1]"""
    return int.from_bytes(hashlib.sha256(b"p2pnode/lottery/1" + session + node).digest()[:8], "big")


def threshold(params: Params, pool: int, widening: int) -> int:
    """What a draw must stay below to win; 2^64 lets everyone in. Spec: [AUCTION-LOTTERY.1]

    Args:
        pool: Miners of the model, as the announcement states it (untrusted, any size).
        widening: Doublings of the threshold, as the announcement states it.
    """
    if pool <= EVERYONE_FACTOR * params.bid_target:
        return DRAW_RANGE
    winners = params.bid_target << min(widening, WIDENING_MAX)
    # draw × pool < winners × 2^64 holds for the draws below this quotient, rounded up, and for no other.
    return min(DRAW_RANGE, -(-winners * DRAW_RANGE // pool))


def is_eligible(params: Params, session: bytes, node: bytes, pool: int, widening: int) -> bool:
    """Whether a node may bid; arguments as of :func:`threshold`. Spec: [AUCTION-LOTTERY.1]"""
    return draw(session, node) < threshold(params, pool, widening)
