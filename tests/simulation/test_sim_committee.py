"""The simulator's committee: many seeds without a violation, each the same run whenever it is played."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2pnode.sim.committee import PROFILES
from p2pnode.sim.runner import run, run_many

ROOT = Path(__file__).parent.parent.parent
SEEDS = range(160)
LONG_SEEDS = range(1_000, 2_000)


def play(seeds: range) -> None:
    """Nothing is violated, and the worlds were worth playing."""
    results = list(run_many(seeds, ("committee",), processes=2))
    assert [(result.seed, str(result.violation)) for result in results if result.violation is not None] == []
    assert [result.seed for result in results] == list(seeds)
    assert all(4 <= result.counts.nodes <= 30 for result in results)
    assert sum(result.counts.faults for result in results) > 5 * len(results)
    assert sum(result.counts.events for result in results) > 5_000 * len(results)


def test_no_seed_violates_anything() -> None:
    play(SEEDS)


@pytest.mark.long
def test_none_of_a_thousand_seeds_violates_anything() -> None:
    play(LONG_SEEDS)


@pytest.mark.parametrize("seed", [1, 49])
def test_a_seed_run_twice_is_the_same_run(seed: int) -> None:
    one, other = run(seed, "committee", trace=True), run(seed, "committee", trace=True)
    assert (one.hash, one.counts, one.trace) == (other.hash, other.counts, other.trace)
    assert one.hash != run(seed + 1, "committee").hash


def test_a_seed_is_the_same_run_in_a_process_that_hashes_otherwise() -> None:
    hashes = set()
    for hash_seed in ("0", "4242"):
        command = [sys.executable, "-m", "p2pnode.cli.entry", "sim", "--scenario", "committee", "--json"]
        done = subprocess.run(
            [*command, "--seeds", "4", "--jobs", "1"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(tuple(result["hash"] for result in json.loads(done.stdout)["runs"]))
    assert len(hashes) == 1


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "committee"])
def test_the_worlds_that_mutations_are_found_in_are_green_without(profile: str) -> None:
    assert [str(run(seed, profile).violation) for seed in range(3)] == ["None"] * 3
