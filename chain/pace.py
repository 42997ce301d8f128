"""How fast a chain is, and whether a network's epochs are long enough for it."""

from chain.endpoint import Refused
from chain.errors import ChainError
from chain.replies import Block, quantity
from chain.rpc import Rpc, block_call
from protocol.core.genesis import Genesis
from protocol.settlement.pace import least_epoch_ms, shortest_epoch_ms

BLOCKS_LOOKED_AT = 64
BLOCKS_LOOKED_AT_MIN = 8


class EpochsTooShort(ChainError):
    """A network whose epochs end before its chain can have drawn the next committee."""

    code = "chain/epochs-too-short"


def check_pace(rpc: Rpc, genesis: Genesis) -> None:
    """Refuse to settle a network on a chain that is too slow for its epochs: it would go on with one committee, and
    when that has served all its terms no checkpoint is accepted any more. Raises EpochsTooShort, ChainError.

    Spec: [SETTLE-PACE.1]
    """
    block_ms, final_ms = measured_pace_ms(rpc)
    least_ms = least_epoch_ms(genesis.params, block_ms, final_ms, len(genesis.committee))
    shortest_ms = shortest_epoch_ms(genesis.params)
    if shortest_ms < least_ms:
        blocks = -(-least_ms // genesis.params.block_interval_ms_min)
        raise EpochsTooShort(
            f"an epoch may be over in {shortest_ms / 1_000:.0f} s, and this chain needs {least_ms / 1_000:.0f} s to "
            f"hand over and draw: a block every {block_ms / 1_000:.1f} s, final {final_ms / 1_000:.0f} s later",
            hint=f"make a genesis with params.epoch_blocks of {blocks} or more",
        )


def measured_pace_ms(rpc: Rpc) -> tuple[int, int]:
    """From one block to the next, on average of the last ones, and how far the final block is behind the head. Of a
    chain that has only begun nothing is known: zeros. Raises ChainError."""
    head = rpc.call(*block_call("latest"), Block)
    number, time_s = quantity(head.number), quantity(head.timestamp)
    # The first block of all may have any time.
    first_number = max(1, number - BLOCKS_LOOKED_AT)
    if number - first_number < BLOCKS_LOOKED_AT_MIN:
        return 0, 0
    first = rpc.call(*block_call(first_number), Block)
    block_ms = (time_s - quantity(first.timestamp)) * 1_000 // (number - first_number)
    try:
        final_s = quantity(rpc.call(*block_call("finalized"), Block).timestamp)
    except Refused:
        final_s = time_s  # this chain marks none
    return max(0, block_ms), max(0, (time_s - final_s) * 1_000)
