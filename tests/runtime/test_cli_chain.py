"""``p2pnode chain``: up, deploy and status as a person uses them."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from protocol.core.genesis import Genesis, parse_genesis
from protocol.core.ids import NodeId
from tests.runtime.cli import ENTRY, assert_refused, environment, p2pnode

MEMBERS = tuple(NodeId(bytes([at]) * 20) for at in range(1, 5))


@contextmanager
def chain_up(home: Path) -> Iterator[dict[str, Any]]:
    """A running ``p2pnode chain up``: what it says. Ctrl-C takes it down."""
    command = [*ENTRY, "chain", "up", "--kind", "embedded", "--folder", home / "chain", "--block-time", "0.2", "--json"]
    with subprocess.Popen(
        list(map(str, command)), env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            said = ""
            while not said.endswith("}\n"):
                line = process.stdout.readline()
                assert line, process.communicate()
                said += line
            yield json.loads(said)
        finally:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "its state stays in" in err
        assert "Traceback" not in err


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.json"
    path.write_text(Genesis("test", committee=MEMBERS).to_json())
    return path


def test_a_chain_with_contracts_and_how_it_does(tmp_path: Path, plain: Path) -> None:
    out = tmp_path / "genesis.json"
    with chain_up(tmp_path) as up:
        url = up["url"]
        deploy = ["chain", "deploy", "--url", url, "--json"]
        done = p2pnode(tmp_path, *deploy, "--genesis", plain, "--out", out, "--window-s", "5", "--dead-s", "0x100")
        assert (done.status, done.err) == (0, "")
        genesis = parse_genesis(out.read_text())
        assert genesis.contracts is not None
        said = json.loads(done.out)
        assert said["network"] == genesis.network_id().hex()
        assert said["escrow"] == f"0x{genesis.contracts.escrow.hex()}"
        again = p2pnode(tmp_path, *deploy, "--genesis", out)
        assert json.loads(again.out) == {**said, "genesis": str(out)}
        assert_refused(p2pnode(tmp_path, *deploy, "--genesis", plain, "--out", out), f"{out} exists")
        status = p2pnode(tmp_path, "chain", "status", "--url", url, "--genesis", out, "--json")
        assert status.status == 0
        shown = json.loads(status.out)
        assert shown["contracts"] == "deployed, and this network's"
        assert (shown["checkpoint"], shown["deposits"], shown["exit_open"]) == (None, 0, False)
        assert shown["endpoints"][0]["usable"]
        some = p2pnode(tmp_path, "chain", "status", "--url", url, "--url", "http://127.0.0.1:1")
        assert some.status == 0
        assert "Connection refused" in some.out
        other = tmp_path / "other.json"
        other.write_text(Genesis("other", 31_337, committee=MEMBERS, contracts=genesis.contracts).to_json())
        assert_refused(p2pnode(tmp_path, "chain", "status", "--url", url, "--genesis", other), "is of another network")
    assert_refused(p2pnode(tmp_path, "chain", "status", "--url", url, "--genesis", out), "Connection refused")


def test_what_is_missing_is_said(tmp_path: Path, plain: Path) -> None:
    assert_refused(p2pnode(tmp_path, "chain", "status"), "an endpoint is needed")
    assert_refused(p2pnode(tmp_path, "chain", "deploy"), "a genesis is needed")
    assert_refused(p2pnode(tmp_path, "chain", "deploy", "--genesis", plain), "an endpoint is needed")
    assert_refused(p2pnode(tmp_path, "chain", "status", "--url", "ws://x"), "a chain's URL")
