"""The simulator's committee: many seeds without a violation, each the same run whenever it is played."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2pnode.sim.committee import PROFILES
from p2pnode.sim.runner import run
from tests.simulation.played import play

ROOT = Path(__file__).parent.parent.parent
SEEDS = range(100)
LONG_SEEDS = range(1_000, 2_000)
HASHED = range(4)


def test_no_seed_violates_anything() -> None:
    play("committee", SEEDS, 5_000)


@pytest.mark.long
def test_none_of_a_thousand_seeds_violates_anything() -> None:
    play("committee", LONG_SEEDS, 5_000)


@pytest.mark.parametrize("profile", sorted(set(PROFILES) - {"committee"}))
def test_no_profile_violates_anything(profile: str) -> None:
    assert [str(run(seed, profile).violation) for seed in range(4)] == ["None"] * 4


@pytest.mark.parametrize("seed", [0, 7, 49])
def test_a_seed_run_twice_is_the_same_run(seed: int) -> None:
    one, other = run(seed, "committee", trace=True), run(seed, "committee", trace=True)
    assert (one.hash, one.counts, one.trace) == (other.hash, other.counts, other.trace)
    assert one.hash != run(seed + 1, "committee").hash


def test_a_seed_is_the_same_run_in_a_process_that_hashes_otherwise() -> None:
    code = (
        "from p2pnode.sim.runner import run\n"
        f"print(*(run(seed, 'committee').hash for seed in range({HASHED.start}, {HASHED.stop})))"
    )
    said = set()
    for hash_seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        said.add(done.stdout.strip())
    assert said == {" ".join(run(seed, "committee").hash for seed in HASHED)}
