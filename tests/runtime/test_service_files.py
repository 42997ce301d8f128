"""The container file and the systemd unit in configs/, as far as they can be checked without an engine or root."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from p2pnode.cli.entry import COMMANDS
from p2pnode.sections import NodeSection

ROOT = Path(__file__).parents[2]
CONTAINER, UNIT = ROOT / "configs" / "Containerfile", ROOT / "configs" / "p2pnode.service"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """Of the container file: word and rest, lines joined."""
    text = CONTAINER.read_text().replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line and line[0] != "#")]


def values_of(word: str) -> list[str]:
    return [rest for each, rest in instructions() if each == word]


def test_the_container_runs_the_command_as_nobody_special_and_is_stopped_in_order() -> None:
    images = [image.split()[0] for image in values_of("FROM")]
    versions = [re.match(r"python:(\d+)\.(\d+)-", image) for image in images]
    wanted = tuple(map(int, PROJECT["project"]["requires-python"].removeprefix(">=").split(".")))
    assert all(version is not None and tuple(map(int, version.groups())) >= wanted for version in versions)
    assert values_of("USER") == ["p2pnode"]
    assert values_of("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(values_of("ENTRYPOINT")[0]) == ["p2pnode"]
    command = json.loads(values_of("CMD")[0])
    assert command[0] in COMMANDS
    copied = [copy.split() for copy in values_of("COPY")]
    assert command[-1] in [target for *_, target in copied], "the configuration that it starts with is in it"
    health = json.loads(values_of("HEALTHCHECK")[0].partition("CMD ")[2])
    assert health[1] in COMMANDS


def test_what_the_container_is_built_from_is_the_whole_program(tmp_path: Path) -> None:
    for *sources, target in (copy.split() for copy in values_of("COPY") if not copy.startswith("--from")):
        assert all((ROOT / source).exists() for source in sources)
        if not target.startswith("/src/"):
            continue
        for source in sources:
            place = tmp_path / target.lstrip("/") / (source if target.endswith("/") else "")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    packages = {name for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"] if "*" not in name}
    built = {path.name for path in (tmp_path / "src").iterdir()}
    assert built == {*packages, "pyproject.toml", PROJECT["project"]["readme"], "LICENSE"}
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package, forms in data.items():
        for form in forms:
            assert list((tmp_path / "src" / package).glob(form)), f"{package}/{form}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_the_unit_is_one_and_well_closed(tmp_path: Path) -> None:
    # Where it is installed there is the program.
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    command = ["systemd-analyze", "verify", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=25", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_the_unit_gives_a_stop_the_time_that_it_takes() -> None:
    unit = dict(line.partition("=")[::2] for line in UNIT.read_text().splitlines() if re.match(r"\w+=", line))
    assert int(unit["TimeoutStopSec"]) > NodeSection().stop_s
    assert unit["KillMode"] == "mixed", "the engine is the node's to end"
    assert unit["ExecStart"].split()[1] in COMMANDS
    assert unit["Environment"] == f"P2PNODE_HOME=/var/lib/{unit['StateDirectory']}"
