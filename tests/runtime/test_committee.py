"""The committee on real parts: processes of their own over real libp2p, and what its operators see of it."""

import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from p2pnode.control import SOCKET, ControlError, ask_control
from protocol.core.genesis import Genesis
from tests.runtime.cli import ENTRY, assert_refused, environment, p2pnode
from tests.runtime.committee_net import Net, Oracle, bound_s, open_net, until


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with open_net(tmp_path_factory.mktemp("committee")) as net:
        net.start()
        net.await_signing()
        yield net


def test_one_bootstrap_address_is_enough_for_all_to_find_each_other(net: Net) -> None:
    """The first knows nobody and the others know the first; all links are up within seconds of the start."""
    net.await_links(within_s=3)


def test_heights_become_final_and_the_leader_rotates(net: Net) -> None:
    oracle, first = net.oracles[0], net.highest
    for _ in range(8):
        before = oracle.batches
        net.include(oracle)
        until(partial(_is_in, oracle, before), bound_s(net.params, 4, 0), "the item is final")
    seen = oracle.blocks_after(first)
    heights = [block["height"] for block in seen]
    assert heights == sorted(set(heights))
    assert sum(not block["empty"] for block in seen) == 8
    assert [block["leader"] for block in seen] == [net.leader(height).shown for height in heights]
    assert len({block["leader"] for block in seen}) == 4


def _is_in(oracle: Oracle, before: int) -> bool:
    return oracle.batches > before


def test_an_idle_committee_goes_on_with_empty_blocks(net: Net) -> None:
    before, batches = net.highest, net.oracles[0].batches
    net.await_heights((1, before[1] + 2), within_s=2 * net.params.heartbeat_ms / 1_000 + bound_s(net.params, 4, 0))
    assert net.oracles[0].batches == batches
    assert net.oracles[0].ask("blocks")["blocks"][-1]["empty"]


def test_what_the_operator_sees(net: Net, tmp_path: Path) -> None:
    oracle = net.oracles[1]
    at = ("--state-dir", oracle.folder)
    net.await_heights((1, 3), within_s=5 * net.params.heartbeat_ms / 1_000 + bound_s(net.params, 4, 0))
    seen = p2pnode(tmp_path, "committee", *at)
    assert seen.status == 0, seen.err
    head, *_ = seen.out.splitlines()
    assert re.fullmatch(r"epoch 1, height \d+, led by 0x[0-9a-f]{40}", head)
    assert "signing  yes\n" in seen.out
    assert "\n3 of 4 members decide\n" in seen.out
    rows = [line.split() for line in seen.out.splitlines()[-4:]]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert sum("leads" in row for row in rows) == 1
    assert sum("this node" in line for line in seen.out.splitlines()) == 1

    told = json.loads(p2pnode(tmp_path, "committee", "--json", *at).out)
    assert [member["node"] for member in told["members"]] == [each.shown for each in net.oracles]
    assert {member["link"] for member in told["members"]} == {"this node", "up"}
    assert max(member["lag"] for member in told["members"]) <= 1
    assert 0 < told["gap_ms"]["p50"] <= told["gap_ms"]["p99"]

    status = json.loads(p2pnode(tmp_path, "status", "--json", *at).out)
    assert status["oracle"]["signing"] == "yes"
    assert status["oracle"]["height"] > status["oracle"]["final"] > 0

    blocks = json.loads(p2pnode(tmp_path, "blocks", "--json", "--last", "3", *at).out)
    assert len(blocks) == 3
    assert [block["height"] for block in blocks] == sorted(block["height"] for block in blocks)
    table = p2pnode(tmp_path, "blocks", "--last", "3", *at).out.splitlines()
    assert table[0].split() == ["BLOCK", "LEADER", "OUTCOMES", "BODY", "FINAL", "GAP"]
    assert len(table) == 4


def test_blocks_are_followed_as_they_become_final(net: Net, tmp_path: Path) -> None:
    oracle = net.oracles[0]
    command = [*ENTRY, "blocks", "--follow", "--last", "1", "--json", "--state-dir", str(oracle.folder)]
    with subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        rows = [json.loads(following.stdout.readline()) for _ in range(4)]
        following.kill()
    heights = [row["height"] for row in rows]
    assert heights == sorted(set(heights))


def test_blocks_of_an_oracle_that_is_down_come_from_its_disk(net: Net, tmp_path: Path) -> None:
    oracle = net.oracles[3]
    at = ("--state-dir", oracle.folder)
    oracle.stop()
    try:
        assert_refused(p2pnode(tmp_path, "committee", *at), "no node is running in")
        stored = json.loads(p2pnode(tmp_path, "blocks", "--json", "--last", "5", *at).out)
        live = {block["height"]: block for block in net.oracles[0].ask("blocks")["blocks"]}
        assert len(stored) == 5
        assert stored == [{**live[block["height"]], "final_ms": None, "gap_ms": None} for block in stored]
    finally:
        net.start(oracle)
        net.await_signing(oracle)


def test_a_key_that_is_in_no_committee_follows_and_says_so(net: Net, tmp_path: Path) -> None:
    folder = tmp_path / "follower"
    bootstrap = net.oracles[2].ask("status")["addresses"][0]
    run = ["run", "--json", "--role", "oracle", "--genesis", str(net.genesis_file), "--bootstrap", bootstrap]
    with subprocess.Popen(
        [*ENTRY, *run, "--state-dir", str(folder)], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        ready = json.loads(follower.stdout.readline())
        assert ready["oracle"]["signing"] == "no member of this committee"
        before = net.highest
        until(
            lambda: ask_control(folder / SOCKET, "committee")["final"]["height"] > before[1],
            10 + net.params.heartbeat_ms / 1_000,
            "it follows",
        )
        assert ask_control(folder / SOCKET, "include:00")["batch"] is None
        with pytest.raises(ControlError, match="an item is 1 to"):
            ask_control(folder / SOCKET, "include:nothing")
        follower.terminate()
    other = tmp_path / "other.json"
    other.write_text(Genesis("another", committee=net.genesis.committee).to_json())
    ended = p2pnode(tmp_path, "run", "--role", "oracle", "--genesis", other, "--state-dir", folder)
    assert_refused(ended, "this folder holds the chain of another network")


def test_an_oracle_needs_a_network_with_a_committee(tmp_path: Path) -> None:
    assert_refused(p2pnode(tmp_path, "run", "--role", "oracle"), "role oracle needs a network with a committee")
