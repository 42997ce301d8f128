"""How long an epoch has to be for its chain: the hand-over, the draw that follows it, and their way back."""

from protocol.committee.members import faulty_max
from protocol.core.params import Params

SEED_BLOCKS = 8
"""The registry draws from the block so long after a hand-over."""


def least_epoch_ms(params: Params, block_ms: int, final_ms: int, members: int) -> int:
    """How long an epoch lasts at least if the next draw is to be in the ledger when it closes, with f members silent.

    Two transactions, the hand-over and the draw, wait for the turn of f members each; then the draw's block is to be
    final, and one that may be an anchor to follow it. Spec: [SETTLE-PACE.1]

    Args:
        block_ms: From one EVM block to the next.
        final_ms: How far final blocks are behind the head.
        members: Of the committee.
    """
    turns_ms = 2 * faulty_max(members) * params.turn_ms
    blocks = 1 + SEED_BLOCKS + 1 + params.anchor_stride
    return turns_ms + blocks * block_ms + final_ms + 2 * params.resend_interval_ms


def shortest_epoch_ms(params: Params) -> int:
    """No epoch is shorter: heights follow one another no faster."""
    return params.epoch_blocks * params.block_interval_ms_min
