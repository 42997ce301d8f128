"""The simulator's results: many seeds without a violation, each the same run whenever it is played; and worlds that
were worth playing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2pnode.sim.results import PROFILES
from p2pnode.sim.results_mutations import RESULTS_MUTATIONS
from p2pnode.sim.runner import run
from tests.simulation.played import play

ROOT = Path(__file__).parent.parent.parent
SEEDS = range(28)
LONG_SEEDS = range(1_000, 1_400)
TURNING_SEEDS = range(2_000, 2_100)
HASHED = range(2)
MISTAKES_MIN = 10


def test_no_seed_violates_anything() -> None:
    play("results", SEEDS, 5_000)


@pytest.mark.long
def test_none_of_many_seeds_violates_anything() -> None:
    play("results", LONG_SEEDS, 5_000)


@pytest.mark.long
def test_none_of_many_seeds_whose_committees_take_turns_violates_anything() -> None:
    play("results-turns", TURNING_SEEDS, 5_000)


@pytest.mark.parametrize("profile", sorted(set(PROFILES) - {"results"}))
def test_no_profile_violates_anything(profile: str) -> None:
    assert [str(run(seed, profile).violation) for seed in range(2)] == ["None"] * 2


@pytest.mark.parametrize("seed", [0, 49])
def test_a_seed_run_twice_is_the_same_run(seed: int) -> None:
    one, other = run(seed, "results", trace=True), run(seed, "results", trace=True)
    assert (one.hash, one.counts, one.trace) == (other.hash, other.counts, other.trace)
    assert one.hash != run(seed + 1, "results").hash


def test_a_seed_is_the_same_run_in_a_process_that_hashes_otherwise() -> None:
    code = (
        "from p2pnode.sim.runner import run\n"
        f"print(*(run(seed, 'results').hash for seed in range({HASHED.start}, {HASHED.stop})))"
    )
    said = set()
    for hash_seed in ("0", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        said.add(done.stdout.strip())
    assert said == {" ".join(run(seed, "results").hash for seed in HASHED)}


def test_all_mistakes_are_there() -> None:
    assert len(RESULTS_MUTATIONS) >= MISTAKES_MIN
    assert {mutation.scenario for mutation in RESULTS_MUTATIONS.values()} <= set(PROFILES)


@pytest.mark.parametrize("name", RESULTS_MUTATIONS)
def test_each_mistake_is_found(name: str) -> None:
    mutation = RESULTS_MUTATIONS[name]
    runs = (run(seed, mutation.scenario, mutation=name) for seed in range(mutation.within))
    found = next((result for result in runs if result.violation is not None), None)
    assert found is not None and found.violation is not None, f"not found in {mutation.within} seeds"
    assert found.violation.invariant in mutation.breaks, str(found.violation)
    assert run(found.seed, mutation.scenario).violation is None, "the mistake was taken back"
