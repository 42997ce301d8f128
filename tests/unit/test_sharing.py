"""``pytest --share``: several processes run each test once between them, and keep the tests of a file together."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = 6
FILE = """
import os
from pathlib import Path

import pytest

SAID = Path(__file__).parent / "said"


def say(what):
    with SAID.open("a") as file:
        file.write(f"{Path(__file__).name} {what} {os.getpid()}\\n")


@pytest.fixture(scope="module", autouse=True)
def whole():
    say("begins")
    yield
    say("ends")


@pytest.mark.parametrize("number", range(3))
def test_one(number):
    say(number)
    assert (Path(__file__).name, number) != ("test_4.py", 1)
"""


def test_each_test_is_run_once_and_each_file_by_one_process(tmp_path: Path) -> None:
    for number in range(FILES):
        (tmp_path / f"test_{number}.py").write_text(FILE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "--share", str(tmp_path / "taken")]
    (tmp_path / "taken").mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    running = [subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in running]

    lines = [line.split() for line in (tmp_path / "said").read_text().splitlines()]
    assert Counter((name, what) for name, what, _ in lines) == Counter(
        (f"test_{number}.py", what) for number in range(FILES) for what in ("begins", "0", "1", "2", "ends")
    )
    by = {name: {process for other, _, process in lines if other == name} for name, _, _ in lines}
    assert all(len(processes) == 1 for processes in by.values())
    # One process met the test that fails.
    assert sorted(process.returncode for process in running) == [0, 1], said
