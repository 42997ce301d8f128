"""A committee that moves on with every epoch, on real processes: six oracles take turns in a committee of four, and
routers, miners and clients follow."""

import os
from pathlib import Path

import pytest
import trio

from p2pnode.client import connect
from p2pnode.stored_chain import stored_rows
from p2pnode.testnet import Testnet, TestnetPlan, client_key, open_testnet
from protocol.core.genesis import Genesis
from protocol.core.params import Params
from tests.runtime.compare_disks import compare
from tests.runtime.test_network import run
from tests.runtime.test_results_faults import FINAL_MS, ask, session_at

PARAMS = Params(heartbeat_ms=500, epoch_blocks=5)
MEMBERS, ORACLES = 4, 6
EPOCHS = 3
WITHIN_S = 240


def plan(folder: Path) -> TestnetPlan:
    genesis = Genesis("turns", params=PARAMS)
    module = "tests.runtime.turning_oracle"
    return TestnetPlan(folder, miners=2, oracles=ORACLES, members=MEMBERS, genesis=genesis, oracle_module=module)


def committees(net: Testnet) -> dict[int, frozenset[str]]:
    """The committees of the epochs that oracles are in right now."""
    told = [oracle.ask("committee") for oracle in net.oracles]
    return {each["epoch"]: frozenset(member["node"] for member in each["members"]) for each in told}


@pytest.mark.spec("HANDOVER-TOLD.1", "ROUTER-FOLLOWS.1", "RESULT-HOME.1", "LEVEL-PROVED.1")
async def test_everybody_follows_committees_that_take_turns(tmp_path: Path) -> None:
    seen: dict[int, frozenset[str]] = {}
    async with open_testnet(plan(tmp_path)) as net:
        async with session_at(net) as session:
            with trio.fail_after(WITHIN_S):
                while len(seen) < EPOCHS:
                    seen.update(committees(net))
                    answer = await ask(session)
                    assert await answer.wait_for("finalized", timeout_ms=FINAL_MS), (answer.levels, answer.against)
                    assert answer.paid_wei is not None
        assert len(set(seen.values())) >= EPOCHS, "each epoch has another committee"
        # A client that knows nothing but the genesis is shown how the present committee came about.
        async with connect(net.address, key=client_key(tmp_path)) as client:
            assert "4 oracles" in client.level_note
            async with client.session(tokens=1_000) as session:
                late = await ask(session)
                assert await late.wait_for("finalized", timeout_ms=FINAL_MS), (late.levels, late.against)
        signing = [oracle.ask("status")["oracle"]["signing"] for oracle in net.oracles]
        assert 0 < signing.count("yes") <= MEMBERS
        asked = ["ledger", "account", str(tmp_path / "client.json"), "--prove"]
        place = ["--state-dir", str(tmp_path / "oracle-1"), "--genesis", str(tmp_path / "genesis.json")]
        proved = await trio.to_thread.run_sync(lambda: run(*asked, *place, env=dict(os.environ)))
        assert proved.returncode == 0, proved.stderr
        assert "hand-overs lead to that of epoch" in proved.stdout
    rows = stored_rows(tmp_path / "oracle-6", 1_000)
    assert {row["epoch"] for row in rows} >= set(range(1, EPOCHS))
    assert all(row["leader"] in seen.get(row["epoch"], {row["leader"]}) for row in rows)
    found = compare([oracle.folder for oracle in net.oracles])
    assert found.wrong == []
    assert found.signatures > 0
