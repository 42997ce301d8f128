"""How long a member waits at a height before it gives the leader up."""

from protocol.core.params import Params

DOUBLINGS_MAX = 6


def timeout_ms(params: Params, faulty_max: int, height: int, final_height: int) -> int:
    """T: a proposal, votes and their certificate take 3Δ; doubled for each height beyond the first f+1 that passed
    without a finalization, whatever the reason, so that it outgrows any delay. Spec: [SIMPLEX-TIMER.1]
    """
    unfinalized = height - 1 - final_height
    doublings = min(DOUBLINGS_MAX, max(0, unfinalized - faulty_max - 1))
    return params.block_interval_ms_min + (3 * params.delta_ms << doublings)
