"""The simulator's fast path: many seeds without a violation, each the same run whenever it is played."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2pnode.cli.entry import main
from p2pnode.sim.mutations import MUTATIONS
from p2pnode.sim.runner import run
from tests.simulation.played import play

ROOT = Path(__file__).parent.parent.parent
SEEDS = range(500)
LONG_SEEDS = range(1_000, 2_000)
MINE = [name for name, mutation in MUTATIONS.items() if mutation.scenario == "fast-path"]


def test_no_seed_violates_anything() -> None:
    play("fast-path", SEEDS, 1_000)


@pytest.mark.long
def test_none_of_a_thousand_seeds_violates_anything() -> None:
    play("fast-path", LONG_SEEDS, 1_000)


@pytest.mark.parametrize("seed", [0, 5, 49])
def test_a_seed_run_twice_is_the_same_run(seed: int) -> None:
    one, other = run(seed, "fast-path", trace=True), run(seed, "fast-path", trace=True)
    assert (one.hash, one.counts, one.trace) == (other.hash, other.counts, other.trace)
    assert one.hash != run(seed + 1, "fast-path").hash


def test_a_seed_is_the_same_run_in_a_process_that_hashes_otherwise() -> None:
    hashes = set()
    for hash_seed in ("0", "1", "4242"):
        command = [sys.executable, "-m", "p2pnode.cli.entry", "sim", "--scenario", "fast-path", "--json"]
        done = subprocess.run(
            [*command, "--seeds", "6", "--jobs", "1"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(tuple(result["hash"] for result in json.loads(done.stdout)["runs"]))
    assert len(hashes) == 1
    assert [run(seed, "fast-path").hash for seed in range(6)] == list(*hashes)


@pytest.mark.parametrize("name", MINE)
def test_each_mistake_is_found(name: str) -> None:
    mutation = MUTATIONS[name]
    runs = (run(seed, mutation.scenario, mutation=name) for seed in range(mutation.within))
    found = next((result for result in runs if result.violation is not None), None)
    assert found is not None and found.violation is not None, f"not found in {mutation.within} seeds"
    assert found.violation.invariant in mutation.breaks
    assert found.command() == f"p2pnode sim --scenario fast-path --seed {found.seed} --mutation {name} --trace"
    assert run(found.seed, mutation.scenario).violation is None, "the mistake was taken back"


def test_the_command_says_how_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--scenario", "fast-path", "--seeds", "2", "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "fast-path: 2 seeds from 0 on, ok" in said
    assert "simulated" in said


def test_the_command_shows_how_to_replay_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--seed", "0", "--mutation", "gossip-learned", "--shrink"]) == 1
    out, err = capsys.readouterr()
    assert "error: fast-path, seed 0: S15 at" in err
    assert "p2pnode sim --scenario fast-path --seed 0 --mutation gossip-learned --trace --shrink" in err
    assert "no faults planned" in out
    assert "gossip nodes Envelope" in out
    assert "\x1b" not in out + err


def test_the_command_tells_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--seed", "0", "--mutation", "gossip-learned", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["violations"][0]["invariant"] == "S15"
    assert told["runs"][0]["violated"] == "S15"


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--seed", "x"], ["--scenario", "none"], ["--mutation", "none"]])
def test_a_wrong_command_line_is_told(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sim", *wrong])
    assert ended.value.code == 2
