"""The simulator's committee: many seeds without a violation, each the same run whenever it is played."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from p2pnode.sim.committee import PROFILES
from p2pnode.sim.runner import run, run_many

ROOT = Path(__file__).parent.parent.parent
SEEDS = range(150)
LONG_SEEDS = range(1_000, 2_000)
HASHED = range(4)


def play(seeds: range) -> None:
    """Nothing is violated, and the worlds were worth playing."""
    results = list(run_many(seeds, ("committee",), processes=2))
    assert [(result.seed, str(result.violation)) for result in results if result.violation is not None] == []
    assert [result.seed for result in results] == list(seeds)
    assert all(4 <= result.counts.nodes <= 30 for result in results)
    assert max(result.counts.nodes for result in results) > 20
    assert sum(result.counts.faults for result in results) > 5 * len(results)
    assert sum(result.counts.events for result in results) > 10_000 * len(results)
    kinds = Counter(type(fault).__name__ for result in results for fault in result.faults)
    assert set(kinds) >= {"Crash", "CrashAtEffect", "Cut", "Drop", "Loss", "Slow", "SlowNode", "ClockJump", "DiskFails"}
    wiped = [fault for result in results for fault in result.faults if getattr(fault, "wiped", False)]
    assert wiped, "signer logs were lost"


def test_no_seed_violates_anything() -> None:
    play(SEEDS)


@pytest.mark.long
def test_none_of_a_thousand_seeds_violates_anything() -> None:
    play(LONG_SEEDS)


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
