"""``p2pnode status``, ``peers``, ``committee``: what a running node says, and what is said when there is none."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pnode.control import SOCKET, serve_control
from protocol.core.errors import P2PNodeError
from tests.runtime.cli import Ended, assert_refused, p2pnode

PEERS = [{"node": "0x01", "roles": ["router"]}, {"node": "0x02", "roles": ["miner"], "model": "tiny"}]


def answer(what: str) -> Mapping[str, Any]:
    if what == "status":
        return {"node": "0x00", "roles": ["router", "miner"], "mdns": False}
    if what == "peers":
        return {"peers": PEERS}
    raise P2PNodeError(f"no {what} here")


@pytest.mark.parametrize("command", ["status", "peers", "committee"])
def test_no_node_is_running(tmp_path: Path, command: str) -> None:
    assert_refused(p2pnode(tmp_path, command), f"no node is running in {tmp_path / 'node'}")
    assert_refused(p2pnode(tmp_path, command, "--state-dir", tmp_path / "x"), f"no node is running in {tmp_path / 'x'}")


async def test_a_running_node_answers(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    await trio.Path(folder).mkdir()

    async def ask(*arguments: str) -> Ended:
        return await trio.to_thread.run_sync(partial(p2pnode, tmp_path, *arguments))

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, folder / SOCKET, answer)
        assert (await ask("status")).out == "node:  0x00\nroles: router, miner\nmdns:  no\n"
        assert json.loads((await ask("status", "--json")).out) == answer("status")
        table = (await ask("peers")).out.splitlines()
        assert [line.split() for line in table] == [
            ["NODE", "ROLES", "MODEL"],
            ["0x01", "router", "-"],
            ["0x02", "miner", "tiny"],
        ]
        assert json.loads((await ask("peers", "--json")).out) == PEERS
        nursery.cancel_scope.cancel()
