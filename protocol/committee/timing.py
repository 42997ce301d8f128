"""Whether there is a reason for a block at a height, and how long a member waits for one before it gives up."""

from protocol.committee.tree import Tree
from protocol.committee.waiting import Waiting
from protocol.core.params import Params

DOUBLINGS_MAX = 6


def timeout_ms(params: Params, faulty_max: int, height: int, final_height: int) -> int:
    """T: a proposal, votes and their certificate take 3Δ; doubled for each height beyond the first f+1 that passed
    without a finalization, whatever the reason, so that it outgrows any delay. Spec: [SIMPLEX-TIMER.1]
    """
    unfinalized = height - 1 - final_height
    doublings = min(DOUBLINGS_MAX, max(0, unfinalized - faulty_max - 1))
    return params.block_interval_ms_min + (3 * params.delta_ms << doublings)


def wants_block(tree: Tree, waiting: Waiting, height: int) -> bool:
    """Whether there is a reason for a block at a height, beside that the heartbeat is due. Spec: [SIMPLEX-TIMER.2]"""
    if height > tree.closing_above or tree.unfinished():
        return True
    parent = tree.parent_for(height)
    state = tree.base.state if parent is None else tree.state_after(parent)
    return next(waiting.offered(state), None) is not None
