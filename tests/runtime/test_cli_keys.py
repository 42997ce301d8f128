"""``p2pnode keys``: made once, never overwritten, never printed, opened by the right password only."""

import json
import stat
from pathlib import Path

import pytest

from p2pnode.identity import read_keystore
from tests.runtime.cli import assert_refused, p2pnode


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_show_and_never_twice(tmp_path: Path) -> None:
    path = tmp_path / "node" / "node-key.json"
    made = p2pnode(tmp_path, "keys", "new", "--json", P2PNODE_PASSWORD="secret")
    assert made.status == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    key = read_keystore(path, "secret")
    assert json.loads(made.out) == {"node": f"0x{key.node_id.hex()}", "peer_id": key.peer_id, "keystore": str(path)}
    shown = p2pnode(tmp_path, "keys", "show", P2PNODE_PASSWORD="secret")
    assert shown.out.splitlines()[1].split() == ["peer_id:", key.peer_id]
    assert key.secret.hex() not in made.out + made.err + shown.out + shown.err
    before = path.read_bytes()
    assert_refused(p2pnode(tmp_path, "keys", "new", P2PNODE_PASSWORD="x"), "exists and is never overwritten")
    assert path.read_bytes() == before


def test_without_a_password_the_key_is_made_and_that_is_said(tmp_path: Path) -> None:
    made = p2pnode(tmp_path, "keys", "new")
    assert made.status == 0
    assert "The key has no password" in made.err
    assert p2pnode(tmp_path, "keys", "show").status == 0


def test_another_password(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("first\n")
    new.write_text("second\n")
    made = p2pnode(tmp_path, "keys", "new", "--password-file", old)
    changed = p2pnode(tmp_path, "keys", "password", "--password-file", old, "--new-password-file", new)
    assert (changed.status, changed.out) == (0, made.out)
    assert p2pnode(tmp_path, "keys", "show", "--password-file", new).out == made.out
    node = json.loads(p2pnode(tmp_path, "keys", "show", "--json", P2PNODE_PASSWORD="second").out)["node"]
    assert names(tmp_path / "node") == ["node-key.json", f"signer-{node[2:]}.db"]
    again = p2pnode(tmp_path, "keys", "password", P2PNODE_PASSWORD="second", P2PNODE_NEW_PASSWORD="third")
    assert again.out == made.out


@pytest.fixture
def home(tmp_path: Path) -> Path:
    assert p2pnode(tmp_path, "keys", "new", P2PNODE_PASSWORD="secret").status == 0
    return tmp_path


def test_a_wrong_password_changes_nothing(home: Path) -> None:
    before = (home / "node" / "node-key.json").read_bytes()
    for action in ("show", "password"):
        for env in ({"P2PNODE_PASSWORD": "wrong"}, {}):
            ended = p2pnode(home, "keys", action, P2PNODE_NEW_PASSWORD="x", **env)
            assert (ended.status, ended.out) == (1, "")
            assert ended.err.startswith("error: wrong password for ")
            assert "Traceback" not in ended.err
    assert_refused(p2pnode(home, "keys", "password", P2PNODE_PASSWORD="secret"), "no new password is given")
    assert (home / "node" / "node-key.json").read_bytes() == before


def test_a_disk_that_takes_no_more_costs_no_key(home: Path) -> None:
    before, files = (home / "node" / "node-key.json").read_bytes(), names(home / "node")
    assert len(files) == 2  # the key and its signer log
    env = {"P2PNODE_PASSWORD": "secret", "P2PNODE_NEW_PASSWORD": "other"}
    for action in (["password"], ["new", "--keystore", home / "second.json"]):
        ended = p2pnode(home, "keys", *action, limit="-f 0", **env)
        assert (ended.status, ended.out) == (1, "")
        assert ended.err.startswith("error: cannot write ")
    assert (home / "node" / "node-key.json").read_bytes() == before
    assert names(home / "node") == files
    assert names(home) == ["node"]


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"version": 3}', '{"version": 3, "crypto": {}}'])
def test_a_damaged_keystore(home: Path, content: str) -> None:
    (home / "node" / "node-key.json").write_text(content)
    ended = p2pnode(home, "keys", "show")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("error: ")
    assert "Traceback" not in ended.err


def test_no_key_no_folder_no_password_file(tmp_path: Path) -> None:
    missing = p2pnode(tmp_path, "keys", "show")
    assert missing.status == 1
    assert missing.err.startswith("error: no key file at ")
    (tmp_path / "node").touch()
    blocked = p2pnode(tmp_path, "keys", "new")
    assert blocked.status == 1
    assert "Traceback" not in blocked.err
    assert_refused(p2pnode(tmp_path, "keys", "new", "--password-file", tmp_path / "none"), "password file")
