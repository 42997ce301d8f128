"""Miners in processes of their own, tested by four oracles over real libp2p with real models.

A miner that is what it says becomes available; one that runs Q4_0 for Q8_0, or another model, is slow against its claim
or answers nothing does not, and each oracle that reported says why.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pnode.client import connect
from p2pnode.testnet import Testnet, TestnetPlan, client_key, open_testnet
from protocol.core.genesis import Genesis
from protocol.core.params import Params
from tests.runtime.logged import logged

PARAMS = Params(heartbeat_ms=1_000, test_deadline_ms=8_000)
CLAIMED = 20
"""Tokens a second; next to nothing, so that a busy machine fails nobody."""
MINERS = {
    "miner-1": ("", "available", "honest"),
    "miner-2": ("q4_0", "jailed", "margins"),
    "miner-3": ("other", "jailed", "margins"),
    "miner-4": ("slow", "jailed", "speed"),
    "miner-5": ("silent", "jailed", "deadline"),
}
"""By name: how it lies, where it ends up, and what is said of it."""
WITHIN_S = 240.0
SESSIONS = 3
"""Opened when all tests are over; each must find the one miner that is left."""
ORDERS_MAX = 150
"""One lane in sixteen has its miner tested again."""


@pytest.fixture(autouse=True)
def _miners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PNODE_MINER_TOKENS_PER_SECOND", str(CLAIMED))


def plan_of(folder: Path, miners: int) -> TestnetPlan:
    """Four oracles that hold the model, one router, and miners that are not tested and may lie."""
    genesis = Genesis("tests", params=PARAMS.validate())
    module = "tests.runtime.lying_miner"
    return TestnetPlan(folder, miners, oracles=4, genesis=genesis, miners_listed=False, miner_module=module)


async def pool(net: Testnet) -> dict[str, dict[str, Any]]:
    """Where each miner stands, by its name."""
    rows = (await trio.to_thread.run_sync(net.oracles[0].ask, "pool"))["miners"]
    return {net.name_of(row["node"]): row for row in rows}


async def until(net: Testnet, holds: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
    """The pool, once something holds of it."""
    rows: dict[str, dict[str, Any]] = {}
    with trio.move_on_after(WITHIN_S):
        while True:
            rows = await pool(net)
            if holds(rows):
                return rows
            await trio.sleep(0.2)
    raise AssertionError(f"not within {WITHIN_S:g} s: {rows}")


def reports(net: Testnet, name: str) -> list[str]:
    """What the oracles reported of a miner, and why."""
    node = next(child.ready["node"] for child in net.children if child.name == name).removeprefix("0x")
    told = [line for oracle in net.oracles for line in logged(oracle.log, "tester.passed", "tester.failed")]
    return [f"test={line['test']}: {line['why']}" for line in told if line["miner"] == node]


@pytest.mark.spec("TEST-CALLED.1")
async def test_only_a_miner_that_is_what_it_says_becomes_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIES", ",".join(f"{name}={lie}" for name, (lie, _, _) in MINERS.items() if lie))
    async with open_testnet(plan_of(tmp_path, len(MINERS))) as net:
        rows = await until(
            net, lambda rows: len(rows) == len(MINERS) and not any(row["called"] for row in rows.values())
        )
        assert {name: row["state"] for name, row in rows.items()} == {
            name: ends for name, (_, ends, _) in MINERS.items()
        }
        assert rows["miner-1"]["tokens_per_second"] >= CLAIMED // 2
        for name, (_, _, why) in MINERS.items():
            said = reports(net, name)
            assert len(said) >= 2, f"f+1 reports decide: {name} has {said}"
            assert all(each.startswith(f"test=1: {why}: ") for each in said), f"{name}: {said}"
        async with connect(net.address) as client:
            for _ in range(SESSIONS):
                async with client.session() as session:
                    assert net.name_of("0x" + session.miner.hex()) == "miner-1"


@pytest.mark.spec("TEST-TRANSCRIPT.1", "TEST-KEPT.1")
async def test_a_miner_is_tested_again_by_what_it_wrote_for_a_client_that_agreed(tmp_path: Path) -> None:
    async with open_testnet(plan_of(tmp_path, 1)) as net:
        await until(net, lambda rows: rows.get("miner-1", {}).get("state") == "available")
        async with (
            connect(net.address, key=client_key(tmp_path)) as client,
            client.session(audits=True) as session,
        ):
            for number in range(ORDERS_MAX):
                async with session.ask(f"What does a bear eat? {number}", max_tokens=24) as answer:
                    await answer.read()
                if (await pool(net))["miner-1"]["test"] > 1:
                    break
        rows = await until(net, lambda rows: rows["miner-1"]["test"] > 1 and not rows["miner-1"]["called"])
        assert rows["miner-1"]["state"] == "available"
        said = [each for each in reports(net, "miner-1") if not each.startswith("test=1:")]
        assert len(said) >= 2
        # As many tokens as the lane has, so it was its transcript that was scored.
        assert all(re.match(r"test=2: honest: 0 of \d\d? tokens differ", each) for each in said), said
