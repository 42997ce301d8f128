"""What people get wrong: one short line, a next step, exit status 1, no traceback, nothing lost."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.cli import ENTRY, assert_refused, environment, p2pnode

PEER = "16Uiu2HAkzjLLosHcV4LGvLY4vskdgvuQuyKwh59nsCyS2VUwvP9i"
NOBODY = f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}"


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chat", "--router", "nonsense", "hi"], "does not start with '/'"),
        (["chat", "--router", "/ip4/127.0.0.1/tcp/4001", "hi"], "/p2p/"),
        (["chat", "--router", NOBODY + "?network=12", "hi"], "64"),
        (["chat", "--router", NOBODY, "hi"], "Connection refused"),
        (["chat", "--router", NOBODY, ""], "the prompt is empty"),
        (["chat", "--router", NOBODY, "--temperature", "9", "hi"], "--temperature must be from 0 to 2"),
        (["chat", "--router", NOBODY, "--max-tokens", "0", "hi"], "--max-tokens must be at least 1"),
        (["chat", "hi"], "no router is named"),
        (["demo", " "], "the prompt is empty"),
        (["demo", "--miners", "99"], "from 1 to 16"),
        (["run", "--role", "minor"], "did you mean miner"),
        (["run", "--role", "oracle"], "role oracle needs a network with a committee"),
        (["run", "--genesis", "nowhere.json"], "cannot use the genesis"),
        (["testnet", "up", "--oracles", "5"], "must be one of 0, 4, 7, 10, 13"),
        (["run", "--role", "miner", "--model", "tinny"], "did you mean tiny"),
        (["run", "--listen", "localhost:4001"], "listen"),
    ],
)
def test_a_short_error_with_a_next_step(tmp_path: Path, arguments: list[str], says: str) -> None:
    assert_refused(p2pnode(tmp_path, *arguments), says)


def test_a_busy_port(tmp_path: Path, busy_port: int) -> None:
    ended = p2pnode(tmp_path, "run", "--role", "router", "--listen", f"/ip4/127.0.0.1/tcp/{busy_port}")

    assert_refused(ended, "in use")
    assert str(busy_port) in ended.err


def test_a_corrupt_gguf(tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + os.urandom(4_096))

    assert_refused(p2pnode(tmp_path, "run", "--role", "miner", "--model", file), "broken.gguf")


def test_a_gguf_that_was_cut_short(tmp_path: Path) -> None:
    whole = Path(__file__).parents[2] / "p2pnode" / "models" / "shipped" / "tiny-q8_0.gguf"
    file = tmp_path / "cut.gguf"
    file.write_bytes(whole.read_bytes()[:1_000_000])

    assert_refused(p2pnode(tmp_path, "run", "--role", "miner", "--model", file), "cut.gguf")


def test_a_wrong_keystore_password(tmp_path: Path) -> None:
    assert p2pnode(tmp_path, "keys", "new", P2PNODE_PASSWORD="right").status == 0
    key = tmp_path / "node" / "node-key.json"
    before = key.read_bytes()

    assert_refused(p2pnode(tmp_path, "run", "--role", "router", P2PNODE_PASSWORD="wrong"), "wrong password")
    assert key.read_bytes() == before


def test_a_state_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    assert_refused(p2pnode(tmp_path, "run", "--role", "router", "--state-dir", tmp_path / "file" / "node"), "file")


def test_a_full_disk(tmp_path: Path) -> None:
    # Every write to a file fails, as on a full disk; pipes go on working.
    assert_refused(p2pnode(tmp_path, "run", "--role", "router", limit="-f 0"), "node")


def test_a_second_node_in_one_folder(tmp_path: Path) -> None:
    command = [*ENTRY, "run", "--role", "router", "--json"]
    first = subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE)
    assert first.stdout is not None
    try:
        assert first.stdout.readline().startswith(b"{")
        assert_refused(p2pnode(tmp_path, "run", "--role", "router"), "another")
    finally:
        first.terminate()
        assert first.wait(20) == 0
        first.stdout.close()
