"""Oracles that die, freeze and come back, as processes and under load: heights go on within the stated bound."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.cli import assert_refused, p2pnode
from tests.runtime.committee_net import Net, Oracle, bound_s, open_net
from tests.runtime.load import stretched

BACK_S = 20.0
"""An oracle that comes back has reconnected, caught up and been heard."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with open_net(tmp_path_factory.mktemp("faults")) as net:
        yield net


@pytest.fixture
def net(shared: Net) -> Net:
    """All run, and sign, whatever the test before left."""
    shared.start()
    shared.await_signing()
    shared.await_heights(shared.highest, within_s=BACK_S)
    return shared


def next_leader(net: Net) -> Oracle:
    return net.leader(net.oracles[0].ask("committee")["height"] + 1)


def assert_gaps(net: Net, oracle: Oracle, since: tuple[int, int]) -> None:
    """One leader of a turn of four is gone: at most two heights in a row are its."""
    gaps = [block["gap_ms"] for block in oracle.blocks_after(since)]
    assert max(gaps) <= 1_000 * stretched(bound_s(net.params, 4, 2)), gaps


def test_the_leader_is_killed_comes_back_and_leads_again(net: Net) -> None:
    with net.load():
        victim = next_leader(net)
        victim.kill()
        before = net.highest
        for _ in range(5):
            net.await_heights(net.highest, within_s=bound_s(net.params, 4, 2))
        assert_gaps(net, net.running[0], before)
        net.start(victim)
        net.await_signing(victim, within_s=BACK_S)
        net.await_leading(victim, net.highest)
        net.await_heights(net.highest, victim, within_s=BACK_S)


def test_a_frozen_leader_is_passed_and_goes_on_when_it_thaws(net: Net) -> None:
    with net.load():
        victim = next_leader(net)
        witness = net.others(victim)[0]
        victim.send(signal.SIGSTOP)
        before = witness.final
        for _ in range(5):
            net.await_heights(witness.final, *net.others(victim), within_s=bound_s(net.params, 4, 2))
        assert_gaps(net, witness, before)
        victim.send(signal.SIGCONT)
        net.await_leading(victim, witness.final)
        net.await_heights(witness.final, victim, within_s=BACK_S)


def test_without_a_quorum_nothing_is_final_and_with_it_heights_resume(net: Net) -> None:
    lost = net.oracles[2:]
    for oracle in lost:
        oracle.kill()
    net.include()
    stuck = net.highest
    timers_s = bound_s(net.params, 4, 1)
    with pytest.raises(AssertionError, match="above"):
        net.await_heights((stuck[0], stuck[1] + 1), within_s=timers_s)
    assert net.oracles[0].ask("committee")["members"][3]["link"] == "down"
    net.start(*lost)
    net.await_signing(within_s=BACK_S)
    net.await_heights(net.highest, within_s=bound_s(net.params, 4, 0))


def test_all_are_killed_at_once_and_nothing_that_was_final_is_lost(net: Net) -> None:
    with net.load():
        net.await_heights((1, net.highest[1] + 3), within_s=BACK_S)
        final = net.highest
        for oracle in net.oracles:
            oracle.kill()
    net.start()
    net.await_signing(within_s=BACK_S)
    net.include()
    net.await_heights(final, within_s=bound_s(net.params, 4, 0) + BACK_S)


def test_a_rolling_restart_loses_no_height(net: Net) -> None:
    """Each in turn is stopped and started, under load: it finds its log whole, signs again, and no gap is too long."""
    since = net.highest
    with net.load():
        for oracle in net.oracles:
            before = net.highest
            oracle.stop()
            net.await_heights(before, within_s=bound_s(net.params, 4, 2))
            assert_gaps(net, net.running[0], before)
            net.start(oracle)
            net.await_signing(oracle, within_s=BACK_S)
            net.await_heights(net.highest, within_s=BACK_S)
    assert net.highest > since
    for oracle in net.oracles:
        assert "log-lost" not in oracle.log.read_text()


def test_a_second_process_with_the_same_key_is_kept_out(net: Net, tmp_path: Path) -> None:
    oracle = net.oracles[1]
    env = {
        "P2PNODE_KEYS_KEYSTORE": str(oracle.folder / "node-key.json"),
        "P2PNODE_NETWORK_GENESIS": str(net.genesis_file),
    }
    assert_refused(p2pnode(tmp_path, "run", "--role", "oracle", **env), "another node signs with the key")
    ended = p2pnode(tmp_path, "run", "--role", "oracle", "--state-dir", oracle.folder, **env)
    assert_refused(ended, "is in use by another node")
    assert oracle.signing == "yes"


@pytest.mark.long
def test_of_seven_two_are_killed_and_come_back(tmp_path: Path) -> None:
    """f of 3f+1, one of them the leader: at most four heights in a row are theirs."""
    with open_net(tmp_path, size=7) as net:
        net.start()
        net.await_signing()
        with net.load():
            leader = next_leader(net)
            victims = [leader, net.others(leader)[0]]
            for oracle in victims:
                oracle.kill()
            for _ in range(10):
                net.await_heights(net.highest, within_s=bound_s(net.params, 7, 4))
            net.start(*victims)
            for oracle in victims:
                net.await_signing(oracle, within_s=2 * BACK_S)
                net.await_leading(oracle, net.highest, within_s=2 * BACK_S)
