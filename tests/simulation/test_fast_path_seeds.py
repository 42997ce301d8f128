"""Many random worlds: what is shown was signed, every wish ends in time, and nothing is left when all have gone."""

from collections import Counter

import pytest

from tests.simulation.fast_path import play

SEEDS = range(30)
LONG_SEEDS = range(1_000, 1_500)


@pytest.mark.spec("TASK-TERMINAL.1", "CHAIN-ORDER.1", "RECORD-EXPLAIN.1", "BID-OMISSION.1")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_world_that_fails(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play(seed, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("seed", LONG_SEEDS)
def test_many_more_worlds_that_fail(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play(seed, monkeypatch)


@pytest.mark.parametrize("seed", range(3))
def test_without_faults_no_miner_and_no_router_is_lost(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Counter(play(seed, monkeypatch, faulty=False).ends)
    assert ends["stop"] + ends["length"] > 0
    assert not set(ends) & {"miner_lost", "router_lost", "engine_failed", "unreachable"}


def test_a_seed_repeats_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert play(5, monkeypatch).digest() == play(5, monkeypatch).digest()
