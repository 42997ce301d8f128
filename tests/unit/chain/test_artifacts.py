"""The artifacts are what the sources give, on every machine; and what the sources look like."""

import json
import re
import shutil
from pathlib import Path

import pytest

from chain import artifacts
from chain.artifacts import ARTIFACTS, NAMES, RUNTIME_BYTES_MAX, SOURCES, compile_contract, load_artifact

LINES_MAX = 600
MODULES = sorted(path.name for path in SOURCES.glob("*.vy"))
ASSERTED = re.compile(r"^\s*(assert\b.*|raise\b.*)$", re.MULTILINE)
REASON = re.compile(r', "[a-z0-9 ]{3,24}"$')


@pytest.mark.parametrize("name", NAMES)
def test_artifacts_are_what_the_sources_give_wherever_they_lie(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "SOURCES", shutil.copytree(SOURCES, tmp_path / "elsewhere"))
    made = compile_contract(name)
    assert (ARTIFACTS / f"{name}.json").read_text() == made, "python -m chain.artifacts"
    assert json.loads(made)["abi"] == load_artifact(name).abi


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_takes_every_contract(name: str) -> None:
    assert 0 < len(load_artifact(name).runtime) <= RUNTIME_BYTES_MAX


def test_no_artifact_is_left_over() -> None:
    assert sorted(path.stem for path in ARTIFACTS.iterdir()) == sorted(NAMES)


def test_a_stale_artifact_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "ARTIFACTS", tmp_path)
    monkeypatch.setattr(artifacts, "compile_contract", lambda name: f"{name} compiled")
    artifacts.main([])
    artifacts.main(["--check"])
    (tmp_path / "Escrow.json").write_text("of yesterday")
    (tmp_path / "Retired.json").write_text("")
    with pytest.raises(SystemExit, match=r"Retired\.json, Escrow\.json"):
        artifacts.main(["--check"])
    assert (tmp_path / "Escrow.json").read_text() == "of yesterday"


@pytest.mark.parametrize("name", MODULES)
def test_every_revert_has_a_reason(name: str) -> None:
    source = (SOURCES / name).read_text()
    assert [line.strip() for line in ASSERTED.findall(source) if not REASON.search(line)] == []


@pytest.mark.parametrize("name", MODULES)
def test_sources_are_short_and_say_what_they_are(name: str) -> None:
    source = (SOURCES / name).read_text()
    lines = source.splitlines()
    assert lines[0] == "# pragma version 0.4.3"
    assert len(lines) <= LINES_MAX
    types = r"keccak256\(|\"[A-Z][A-Za-z]+\("  # what is hashed as a type stands on one line
    assert [line for line in lines if len(line) > 120 and not re.search(types, line)] == []
    assert "@title" in source
    assert "@notice" in source
