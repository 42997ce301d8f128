"""Fewer faults that still break the same promise: delta debugging over a run's faults.

Source: A. Zeller and R. Hildebrandt, Simplifying and Isolating Failure-Inducing Input, 2002 (ddmin).
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from p2pnode.sim.faults import Fault
from p2pnode.sim.runner import Result, run

T = TypeVar("T")

RUNS_MAX = 400

Progress = Callable[[int, int], None]
"""Told how many faults are left and how many runs were made."""


def smallest(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """A part of the items, in order, that still fails, of which none can be left out. The whole of them fails."""
    kept, parts = list(items), 2
    while kept:
        size = -(-len(kept) // parts)
        without = [kept[:at] + kept[at + size :] for at in range(0, len(kept), size)]
        failing = next((rest for rest in without if fails(rest)), None)
        if failing is not None:
            kept, parts = failing, max(2, parts - 1)
        elif size == 1:
            break
        else:
            parts = min(len(kept), 2 * parts)
    return kept


def shrink(result: Result, progress: Progress | None = None) -> Result:
    """The run of a violated seed with as few faults as still violate the same invariant.

    Raises ValueError if nothing was violated.
    """
    if result.violation is None:
        raise ValueError("there is nothing to shrink: the run violated nothing")
    invariant, runs = result.violation.invariant, 0

    def play(faults: Sequence[Fault]) -> Result:
        return run(result.seed, result.scenario, mutation=result.mutation, faults=faults)

    def fails(faults: Sequence[Fault]) -> bool:
        nonlocal runs
        runs += 1
        if runs > RUNS_MAX:
            return False
        violation = play(faults).violation
        found = violation is not None and violation.invariant == invariant
        if progress is not None:
            progress(len(faults), runs)
        return found

    return play(smallest(result.faults, fails))
