"""Every deliberate mistake in the committee's code is found by a checker, within the number of seeds that it names."""

import pytest

from p2pnode.sim.committee import PROFILES
from p2pnode.sim.committee_mutations import COMMITTEE_MUTATIONS
from p2pnode.sim.runner import run

NAMED_IN_THE_ISSUE = 14


def test_all_mistakes_are_there() -> None:
    assert len(COMMITTEE_MUTATIONS) >= NAMED_IN_THE_ISSUE
    assert {mutation.scenario for mutation in COMMITTEE_MUTATIONS.values()} <= set(PROFILES)


@pytest.mark.parametrize("name", COMMITTEE_MUTATIONS)
def test_each_mistake_is_found(name: str) -> None:
    mutation = COMMITTEE_MUTATIONS[name]
    runs = (run(seed, mutation.scenario, mutation=name) for seed in range(mutation.within))
    found = next((result for result in runs if result.violation is not None), None)
    assert found is not None and found.violation is not None, f"not found in {mutation.within} seeds"
    assert found.violation.invariant in mutation.breaks, str(found.violation)
    assert f"--seed {found.seed} --mutation {name}" in found.command()
    assert run(found.seed, mutation.scenario).violation is None, "the mistake was taken back"
