"""``p2pnode doctor``: a line per check, what to do where one is not ok, and a status that tells."""

import json
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pnode.cli.doctor import CHECKS, DEPENDENCIES
from p2pnode.store import lock_folder
from tests.runtime.cli import Ended, p2pnode

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def findings(ended: Ended) -> dict[str, dict[str, Any]]:
    assert ended.err == ""
    return {finding["check"]: finding for finding in json.loads(ended.out)}


def test_a_good_machine(tmp_path: Path) -> None:
    found = findings(p2pnode(tmp_path, "doctor", "--json"))
    assert list(found) == ["configuration", *CHECKS]
    assert all(finding["next"] for finding in found.values() if finding["level"] != "ok")
    for check in ("configuration", "python", "engine", "models", "state folder", "key", "ports", "clock"):
        assert found[check]["level"] in ("ok", "warn")
    assert list(tmp_path.iterdir()) == []  # it looks, and leaves nothing


def test_people_get_lines(tmp_path: Path) -> None:
    (tmp_path / "node").touch()
    ended = p2pnode(tmp_path, "doctor")
    assert ended.status == 1
    lines = ended.out.splitlines()
    bad = next(number for number, line in enumerate(lines) if line.startswith("fail  state folder: "))
    assert lines[bad + 1].startswith("      next: ")
    assert "\x1b" not in ended.out


def keep_key(home: Path) -> None:
    assert p2pnode(home, "keys", "new", P2PNODE_PASSWORD="secret").status == 0


def open_key(home: Path) -> None:
    assert p2pnode(home, "keys", "new").status == 0
    (home / "node" / "node-key.json").chmod(0o644)


@pytest.mark.parametrize(
    ("prepare", "env", "check", "level"),
    [
        (keep_key, {}, "key", "fail"),
        (keep_key, {"P2PNODE_PASSWORD": "secret"}, "key", "ok"),
        (open_key, {}, "key", "warn"),
        (None, {"P2PNODE_MINER_MODEL": "tinny"}, "models", "fail"),
        (None, {"P2PNODE_MINER_SLOTS": "no"}, "configuration", "fail"),
        (None, {"P2PNODE_NODE_ROLES": "oracle"}, "configuration", "fail"),
        (None, {"P2PNODE_NETWORK_GENESIS": "/none.json"}, "configuration", "fail"),
        (None, {"P2PNODE_NETWORK_LISTEN": "/ip4/203.0.113.7/tcp/9"}, "ports", "fail"),
        (None, {"P2PNODE_MINER_THREADS": "1024"}, "machine", "warn"),
    ],
)
def test_what_is_wrong_is_found(
    tmp_path: Path, prepare: Callable[[Path], None] | None, env: dict[str, str], check: str, level: str
) -> None:
    if prepare is not None:
        prepare(tmp_path)
    ended = p2pnode(tmp_path, "doctor", "--json", **env)
    found = findings(ended)[check]
    assert found["level"] == level
    assert bool(found["next"]) == (level != "ok")
    if level == "fail":
        assert ended.status == 1


def test_a_busy_port_and_few_open_files(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        listen = f"/ip4/127.0.0.1/tcp/{busy.getsockname()[1]}"
        ended = p2pnode(tmp_path, "doctor", "--json", limit="-n 256", P2PNODE_NETWORK_LISTEN=listen)
    found = findings(ended)
    assert found["ports"]["level"] == "fail"
    assert "in use by another program" in found["ports"]["message"]
    assert found["open files"]["level"] == "warn"


def test_the_packages_it_looks_for_are_the_ones_that_are_asked_for() -> None:
    asked = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    for name, wanted in DEPENDENCIES.items():
        line = next(item for item in asked if item.partition("[")[0].startswith((f"{name}=", f"{name}>", name)))
        assert wanted in line


def test_what_can_be_mended_is_mended(tmp_path: Path) -> None:
    node = tmp_path / "node"
    open_key(tmp_path)
    node.chmod(0o755)
    (node / "node.db").write_bytes(b"SQLite format 3\0" + bytes(5_000))
    (node / ".backup-0123").mkdir()
    for draft in (".backup-0123/node.db", ".node-key.json.0123", "node-key.json.4567.new"):
        (node / draft).touch()
    mended = ("state folder", "key", "database", "leftovers")
    found = findings(p2pnode(tmp_path, "doctor", "--json"))
    assert [found[check]["level"] for check in mended] == ["warn", "warn", "fail", "warn"]
    fixed = findings(p2pnode(tmp_path, "doctor", "--fix", "--json"))
    assert [(fixed[check]["level"], bool(fixed[check]["fixed"])) for check in mended] == [("ok", True)] * 4
    found = findings(p2pnode(tmp_path, "doctor", "--json"))
    assert [(found[check]["level"], found[check]["fixed"]) for check in mended] == [("ok", None)] * 4
    left = {path.name for path in node.iterdir() if not path.name.startswith("signer-")}
    assert left == {"lock", "node-key.json", "node.db.damaged-1"}


def test_a_node_that_runs_keeps_its_database(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "node"):
        (tmp_path / "node" / "node.db").write_bytes(b"SQLite format 3\0" + bytes(5_000))
        found = findings(p2pnode(tmp_path, "doctor", "--fix", "--json"))["database"]
    assert found["level"] == "fail"
    assert "in use by another node" in found["next"]
    assert (tmp_path / "node" / "node.db").exists()
