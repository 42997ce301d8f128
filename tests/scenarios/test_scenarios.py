"""Every scenario file reads as it always did."""

from pathlib import Path

import pytest

from tests.scenarios.script import Script

FILES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.spec("MACHINE-PERSIST.1", "TASK-TERMINAL.1")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_scenario_reads_as_it_did(path: Path, rewrite: bool) -> None:
    text = path.read_text()
    replayed = Script().replay(text)
    if rewrite:
        path.write_text(replayed)
    assert replayed == text or rewrite, "pytest tests/scenarios --rewrite, then review the diff"
    assert Script().replay(text) == replayed, "a scenario repeats exactly"


def test_there_are_scenarios() -> None:
    assert len(FILES) >= 5
