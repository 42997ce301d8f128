"""``p2pnode model``: what works, and every bad input, as real commands."""

import json
from pathlib import Path

import pytest

from p2pnode.models.store import SHIPPED
from tests.runtime.cli import assert_refused, p2pnode

TINY = SHIPPED / "tiny-q4_0.gguf"


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_life_of_a_model(tmp_path: Path) -> None:
    listed = p2pnode(tmp_path, "model", "list")
    assert listed.status == 0
    assert listed.out.splitlines()[0].split() == ["NAME", "DIGEST", "TYPE", "SIZE", "CONTEXT", "WHERE"]
    assert listed.out.splitlines()[1].split()[0] == "tiny"
    added = json.loads(p2pnode(tmp_path, "model", "add", TINY, "--name", "mine", "--json").out)
    assert (added["name"], added["quantization"], added["shipped"]) == ("mine", "Q4_0", False)
    assert Path(added["path"]).read_bytes() == TINY.read_bytes()
    shown = p2pnode(tmp_path, "model", "show", added["digest"][:8], "--json")
    assert json.loads(shown.out) == added
    assert added in json.loads(p2pnode(tmp_path, "model", "list", "--json").out)
    verified = p2pnode(tmp_path, "model", "verify")
    assert verified.status == 0
    assert f"mine: ok, sha256 {added['file_sha256']}" in verified.out
    assert p2pnode(tmp_path, "model", "remove", "mine").out == "removed mine\n"
    assert files_of(tmp_path) == []


def test_a_corrupt_or_missing_file_is_refused(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(TINY.read_bytes()[:100_000])
    assert_refused(p2pnode(tmp_path, "model", "add", cut), "the end is missing")
    (tmp_path / "text.gguf").write_text("hello")
    assert_refused(p2pnode(tmp_path, "model", "add", tmp_path / "text.gguf"), "does not start with 'GGUF'")
    assert_refused(p2pnode(tmp_path, "model", "add", tmp_path / "none.gguf"), "No such file")
    assert_refused(p2pnode(tmp_path, "model", "add", tmp_path), "Is a directory")
    assert_refused(p2pnode(tmp_path, "model", "show", tmp_path / "none.gguf"), "there is no file")
    assert_refused(p2pnode(tmp_path, "model", "show", cut), "the end is missing")
    assert_refused(p2pnode(tmp_path, "model", "add", TINY, "--name", "-"), "cannot be described")


@pytest.mark.parametrize("action", ["show", "verify", "remove"])
def test_an_unknown_model_is_refused(tmp_path: Path, action: str) -> None:
    assert_refused(p2pnode(tmp_path, "model", action, "tinny"), "unknown model 'tinny'; did you mean tiny?")


def test_a_shipped_model_stays(tmp_path: Path) -> None:
    assert_refused(p2pnode(tmp_path, "model", "remove", "tiny"), "part of the package")


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    ended = p2pnode(tmp_path, "model", "add", TINY, "--name", "mine", limit="-f 500")
    assert_refused(ended, "no space left")
    assert files_of(tmp_path) == []
    assert p2pnode(tmp_path, "model", "add", TINY, "--name", "mine").status == 0


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    assert_refused(p2pnode(tmp_path, "model", "add", TINY), "Not a directory")


def test_a_model_that_changed_on_the_disk(tmp_path: Path) -> None:
    added = json.loads(p2pnode(tmp_path, "model", "add", TINY, "--name", "mine", "--json").out)
    with Path(added["path"]).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\0\0")
    assert_refused(p2pnode(tmp_path, "model", "verify", "mine"), "has changed")
