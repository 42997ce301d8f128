"""A testnet with a committee, as who tries it out sees it: the height rises, and goes on where it stopped."""

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from p2pnode.cli.blocks import Row
from tests.runtime.test_network import P2PNODE, Network, Terminal, run, start_testnet, stop_testnet

WITHIN_S = 60.0
COMMITTEE = ("committee",)


def test_the_height_rises_on_a_terminal_and_goes_on_in_the_same_folder(tmp_path: Path) -> None:
    env = {**os.environ, "P2PNODE_HOME": str(tmp_path / "home"), "NO_COLOR": "1"}
    folder = tmp_path / "net"
    with Terminal([*P2PNODE, "testnet", "up", "--miners", "1", "--folder", str(folder)], env) as terminal:
        table = terminal.expect("stop it: Ctrl-C", timeout_s=60)
        assert re.findall(r"oracle-\d", table) == [
            "oracle-1",
            *(f"oracle-{n}" for n in (1, 2, 2, 3, 3, 4, 4)),
            "oracle-1",
            "oracle-1",
        ]
        for _ in range(2):
            terminal.expect(r"epoch 1, height [1-9]\d* final, oracle-\d leads the next; 4 of 4 oracles there")
        terminal.type("\x03")
        terminal.expect("the testnet is down")
    reached = height(folder, env)
    assert reached > 0

    network = start_testnet(folder, env, "--oracles", "4", "--miners", "1")
    try:
        _goes_on(network, folder, reached)
    finally:
        stop_testnet(network)


def _goes_on(network: Network, folder: Path, reached: int) -> None:
    env = network.env
    for name in ("oracle-1", "oracle-2", "oracle-3", "oracle-4"):
        oracle = network.nodes[name]["oracle"]
        assert isinstance(oracle, dict)
        assert oracle["signing"] == "yes"
        # Who was stopped first catches up with what the others made final after it.
        shown_by(name, folder, env, lambda said: said["final"]["height"] >= reached)
    assert run("committee", "--state-dir", str(folder / "router"), env=env).stderr.startswith(
        "error: this node is no oracle"
    )
    # The chain goes on as well, and so does the client's money on it.
    place = ["--key", str(folder / "client.json"), "--rpc", str(network.nodes["chain"]["url"])]
    answer = json.loads(network.chat("--json", "--level", "settled", *place, "Where does a bear live?").stdout)
    assert answer["level"] == answer["levels"][-1]["level"] == "settled"
    # Not by the outcome: a lane that is decided a block before its session is reserved is paid in a later one.
    session = ["ledger", "session", answer["session"]]
    shown_by("oracle-1", folder, env, lambda said: said["record"]["spent_wei"] > 0, session)
    # Another oracle may have told the client of the checkpoint: this one looks at the chain now and then.
    shown_by("oracle-1", folder, env, lambda said: said["chain"]["checkpoint"] and said["chain"]["ahead"] is not None)
    shown = run("committee", "--state-dir", str(folder / "oracle-1"), env=env).stdout
    assert re.search(
        r"^settled  1/\d+, the committee is \d+ heights ahead; \d+ transactions under way$", shown, re.M
    ), shown


def shown_by(
    oracle: str, folder: Path, env: dict[str, str], holds: Callable[[Row], object], command: Sequence[str] = COMMITTEE
) -> None:
    """Ask an oracle until something holds."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        said: Row = json.loads(run(*command, "--json", "--state-dir", str(folder / oracle), env=env).stdout)
        if holds(said):
            return
        assert time.monotonic() < deadline, said


def height(folder: Path, env: dict[str, str]) -> int:
    rows: list[Row] = json.loads(
        run("blocks", "--json", "--last", "1", "--state-dir", str(folder / "oracle-1"), env=env).stdout
    )
    return int(rows[0]["height"])
