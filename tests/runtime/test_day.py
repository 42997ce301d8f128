"""A day of a whole network with its chain: answers, money in and out, a question by plain web3; no unit is lost."""

import json
import os
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

from p2pnode.identity import NodeKey, read_keystore
from p2pnode.testnet import open_testnet
from protocol.core.codec import unpack
from protocol.messages.inbox import InboxQuestion
from tests.runtime.day import CLIENTS, FEE, QUESTION, Day, plan_of
from tests.runtime.plain_web3 import prompt_of
from tests.runtime.test_network import run

DEPOSIT, WITHDRAWAL = 50_000, 1_234
LONGEST_S = 400
"""What is typed takes a third of a minute, and on a busy machine as many times as long as it is busy."""


async def _settled(asked: Any) -> tuple[bytes, str]:
    """The answer to a question on the chain, once it is proved."""
    while True:
        answer = await trio.to_thread.run_sync(asked.answer)
        proved = await trio.to_thread.run_sync(asked.proved_root)
        if answer is not None and proved is not None:
            assert answer[0] == proved
            found: tuple[bytes, str] = answer
            return found
        await trio.sleep(0.5)


def _typed(day: Day) -> None:
    """What a person types, one command after the other."""
    net = day.net
    oracle = ["--state-dir", str(net.oracles[0].folder)]
    env = {**os.environ, "P2PNODE_HOME": str(day.folder / "home")}

    def type_(*words: str) -> Any:
        done = run(*words, *oracle, "--json", env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    client, router = str(net.client_keystore), net.router.ask("status")["inbox"]["router"]
    asked = type_("inbox", "ask", QUESTION, "--router", router, "--max-tokens", "32", "--key", client)
    assert asked["proved"]
    assert asked["text"].strip()
    miner = net.children[1]
    earned = type_("wallet", "earnings", "--account", miner.ready["node"])
    assert earned["earned_wei"] == earned["miner_wei"] > 0
    key = str(miner.folder / "node-key.json")
    out = type_("wallet", "withdraw", "1", "--key", key)
    assert out["paid_out_wei"] == 1
    balance = type_("wallet", "balance", "--account", miner.ready["node"])
    assert (balance["paid_out_wei"], balance["waiting_wei"], balance["ledger"]) == (1, 0, "final")
    day.withdrawn[bytes.fromhex(miner.ready["node"][2:])] = 1
    gone = run("wallet", "exit", "--key", key, *oracle, env=env)
    assert gone.stderr.startswith("error: the committee lives")


async def _day(folder: Path, kind: str, seconds: float) -> None:
    clients = [NodeKey.generate() for _ in range(CLIENTS)]
    async with open_testnet(plan_of(folder / "net", kind, clients)) as net:
        day = Day(net, clients, folder)
        router = read_keystore(net.router.folder / "node-key.json", "")
        await day.pays_in(clients[0], router.node_id, DEPOSIT)
        asked = await day.asks_on_chain(clients[1])
        with trio.fail_after(LONGEST_S + seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(day.lives_on, seconds)
                nursery.start_soon(day.takes_out, clients[2], WITHDRAWAL)
                nursery.start_soon(trio.to_thread.run_sync, _typed, day)
                _, text = await _settled(asked)
        assert text.strip()
        found = await trio.to_thread.run_sync(day.looks_for_every_unit)
        epochs = net.oracles[0].ask("status")["oracle"]["epoch"]
    assert day.answers >= CLIENTS
    assert day.withdrawn[clients[2].node_id] == WITHDRAWAL
    assert sum(day.withdrawn.values()) > WITHDRAWAL
    assert epochs > 1
    print(f"{day.answers} answers in {epochs} epochs, {day.refused} refusals: {found}, {FEE} for a question")


def test_what_plain_web3_asks_is_a_question() -> None:
    """A router answers nothing else, so that a day without this would wait in vain."""
    asked = msgpack.packb([prompt_of(QUESTION), 32])
    assert unpack(InboxQuestion, asked, limit_bytes=len(asked)).prompt.messages[0].content == QUESTION


async def test_a_short_day_loses_no_unit(tmp_path: Path) -> None:
    await _day(tmp_path, "auto", 6)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["auto", "embedded"])
async def test_a_day_loses_no_unit(tmp_path: Path, kind: str) -> None:
    await _day(tmp_path, kind, 60)
