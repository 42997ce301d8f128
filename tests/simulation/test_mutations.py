"""Every deliberate mistake in the committee's code is found, by the checker that it is meant for, within its seeds."""

import pytest

from p2pnode.sim.committee_mutations import COMMITTEE_MUTATIONS
from p2pnode.sim.runner import run

NAMED_BY_THE_ISSUE = 14


def test_all_are_there() -> None:
    assert len(COMMITTEE_MUTATIONS) >= NAMED_BY_THE_ISSUE


@pytest.mark.parametrize("name", COMMITTEE_MUTATIONS)
def test_it_is_found(name: str) -> None:
    mutation = COMMITTEE_MUTATIONS[name]
    for seed in range(mutation.within):
        violation = run(seed, mutation.scenario, mutation=name).violation
        if violation is not None and violation.invariant in mutation.breaks:
            return
    pytest.fail(f"{name} was not found within {mutation.within} seeds")
