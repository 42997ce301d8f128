"""A testnet of four oracles: answers become final, are paid for, and what is left may leave the ledger."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from p2pnode.answer import RequestFailed
from p2pnode.client import connect
from p2pnode.identity import read_keystore
from p2pnode.testnet import CLIENT_WEI
from protocol.core.genesis import Genesis
from protocol.core.params import Params
from protocol.light.trust import parse_trust
from tests.runtime.test_network import Network, run, start_testnet, stop_testnet

CREDIT_WEI = 60
QUESTION = "Where does a bear live?"
PARAMS = Params(heartbeat_ms=1_500, unreserved_credit_wei=CREDIT_WEI)


@dataclass(frozen=True)
class Paying:
    """A running testnet with a ledger."""

    network: Network
    folder: Path

    @property
    def key(self) -> Path:
        """Of the client with a balance."""
        return self.folder / "client.json"

    def chat(self, *arguments: str) -> dict[str, Any]:
        """One answer, as JSON."""
        done = self.network.chat("--json", *arguments)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def ledger(self, *arguments: str | Path, oracle: int = 1, fails: bool = False) -> Any:
        """What an oracle says of the ledger; what it says on stderr where it is to fail."""
        place = ["--state-dir", str(self.folder / f"oracle-{oracle}")]
        done = run("ledger", *map(str, arguments), "--json", *place, env=self.network.env)
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else json.loads(done.stdout)

    def account(self, name: str | Path, oracle: int = 1) -> dict[str, int]:
        """What an address, or the key of a file, has."""
        record: dict[str, int] | None = self.ledger("account", name, oracle=oracle)["record"]
        return record or {"balance_wei": 0, "reserved_wei": 0, "withdrawable_wei": 0}

    def node(self, name: str) -> str:
        """A node's id."""
        return str(self.network.nodes[name]["node"])


@pytest.fixture(scope="module")
def paying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paying]:
    base = tmp_path_factory.mktemp("levels")
    genesis, config, folder = base / "genesis.json", base / "net.toml", base / "net"
    genesis.write_text(Genesis("levels", params=PARAMS).to_json(), encoding="utf-8")
    config.write_text(f'[network]\ngenesis = "{genesis}"\n', encoding="utf-8")
    env = {**os.environ, "P2PNODE_HOME": str(base / "home"), "NO_COLOR": "1"}
    network = start_testnet(folder, env, "--oracles", "4", "--miners", "2", "--chain", "none", "--config", str(config))
    yield Paying(network, folder)
    stop_testnet(network)


def test_an_answer_becomes_final_and_everybody_has_their_share(paying: Paying) -> None:
    nodes = ("router", "miner-1", "miner-2", *(f"oracle-{number}" for number in range(1, 5)))
    before = {name: paying.account(paying.node(name))["balance_wei"] for name in nodes}
    started = paying.account(paying.key)
    assert sum(started.values()) == CLIENT_WEI
    answer = paying.chat("--key", str(paying.key), "--level", "finalized", "--max-tokens", "200", QUESTION)
    assert [step["level"] for step in answer["levels"]][-1] == answer["level"] == "finalized"
    assert answer["against"] == ""
    tokens = answer["completion_tokens"]
    assert answer["paid_wei"] == tokens, "a wei a token, all of them acknowledged"
    gained = {name: paying.account(paying.node(name))["balance_wei"] - before[name] for name in nodes}
    assert sum(gained.values()) == tokens
    share = tokens * 500 // 10_000
    assert gained["router"] == share
    oracles = [gained[name] for name in nodes if name.startswith("oracle")]
    assert set(oracles) <= {0, share // 4, share // 3}
    miner = next(name for name in nodes if paying.node(name) == answer["miner"])
    assert gained[miner] == tokens - share - sum(oracles)
    after = paying.account(paying.key)
    assert sum(after.values()) == CLIENT_WEI - tokens, "nothing is lost and nothing is made"
    assert after["reserved_wei"] > 0, "until nothing can draw on it any more"


def test_what_an_oracle_says_is_proved_and_a_lie_is_not(paying: Paying, tmp_path: Path) -> None:
    answer = paying.chat("--key", str(paying.key), "--level", "finalized", QUESTION)
    genesis = paying.folder / "genesis.json"
    told = paying.ledger("session", answer["session"], "--prove", "--genesis", genesis, oracle=2)
    assert told["record"]["spent_wei"] == answer["completion_tokens"]
    assert len(told["checked"]) == 3
    total = paying.ledger(oracle=2)["total"]
    held = total["balance_wei"] + total["reserved_wei"] + total["withdrawable_wei"]
    assert held == 2 * CLIENT_WEI, "the client's, and the router's, which is the client of those who ask over HTTP"
    index = total["outcomes"] - 1
    outcome = paying.ledger("outcome", str(index), "--prove", "--genesis", genesis, oracle=3)
    assert outcome["record"]["verdict"] == "ok"
    assert {row["state"] for row in paying.ledger("pool")["rows"]} == {"available"}
    nothing = paying.ledger("account", "0x" + "42" * 20, "--prove", "--genesis", genesis)
    assert nothing["record"] is None
    assert "p2pnode trust" in paying.ledger("account", paying.key, "--prove")["checked"][0]
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(genesis.read_text(encoding="utf-8").replace('"levels"', '"lies"'), encoding="utf-8")
    assert "the proof does not hold" in paying.ledger(
        "account", paying.key, "--prove", "--genesis", elsewhere, fails=True
    )


@pytest.mark.spec("TRUST-KEPT.1", "TRUST-SHOWN.1")
def test_whom_a_chat_believed_is_kept_and_an_oracle_shows_it_to_others(paying: Paying, tmp_path: Path) -> None:
    paying.chat("--key", str(paying.key), QUESTION)
    (row,) = json.loads(run("trust", "list", "--json", env=paying.network.env).stdout)
    network = hashlib.sha256((paying.folder / "genesis.json").read_bytes()).hexdigest()
    assert (row["network"], row["epoch"], row["state"]) == (network, 2, "believed")
    oracle = ["--state-dir", str(paying.folder / "oracle-2")]
    shown = json.loads(run("trust", "show", "--json", *oracle, env=paying.network.env).stdout)
    assert parse_trust(shown["string"]).epoch == 1, "the present one"
    elsewhere = paying.network.env | {"P2PNODE_HOME": str(tmp_path / "home")}
    assert run("trust", "add", shown["string"], env=elsewhere).returncode == 0
    command = ["chat", "--router", paying.network.address, "--key", str(paying.key), "--level", "finalized", "--json"]
    done = run(*command, QUESTION, env=elsewhere)
    assert (done.returncode, json.loads(done.stdout)["level"]) == (0, "finalized"), done.stderr
    (row,) = json.loads(run("trust", "list", "--json", env=elsewhere).stdout)
    assert (row["network"], row["state"]) == (network, "believed")


def test_a_withdrawal_is_taken_once_and_never_for_more_than_there_is(paying: Paying) -> None:
    before = paying.account(paying.key)
    total = before["withdrawable_wei"] + 1_000
    for oracle in (2, 3):
        paying.ledger("withdraw", "--key", paying.key, "--total", str(total), oracle=oracle)
    after = paying.account(paying.key, oracle=3)
    assert after["withdrawable_wei"] == total
    assert after["balance_wei"] == before["balance_wei"] - 1_000
    refused = paying.ledger("withdraw", "--key", paying.key, "--total", str(2 * CLIENT_WEI), fails=True)
    assert "are not withdrawable" in refused
    assert paying.account(paying.key)["withdrawable_wei"] == total


async def test_who_reserves_nothing_is_served_on_credit_and_no_further(paying: Paying) -> None:
    async with connect(paying.network.address) as client, client.session() as session:
        async with session.ask(QUESTION, max_tokens=CREDIT_WEI // 2) as answer:
            await answer.read()
        assert await answer.wait_for("finalized", timeout_ms=60_000), "it is certified like any other"
        assert answer.paid_wei == 0
        with pytest.raises(RequestFailed) as refused:
            async with session.ask(QUESTION, max_tokens=CREDIT_WEI) as more:
                await more.read()
        assert refused.value.code == "unreserved"
        assert session.reserved is None


async def test_who_reserves_is_served_beyond_the_credit_and_leaving_early_cuts_no_news(paying: Paying) -> None:
    key = read_keystore(paying.key, "")
    async with connect(paying.network.address, key=key) as client, client.session(tokens=400) as session:
        asked = session.ask("Tell me a story about a rabbit.", max_tokens=400)
        async with asked as answer, aclosing(aiter(answer)) as texts:
            async for _ in texts:
                if len(answer.token_ids) > 20:
                    break
        assert answer.level == "streamed"
        assert await answer.wait_for("finalized", timeout_ms=60_000), "stopped by its client, and yet an answer"
        assert answer.paid_wei is not None
        assert answer.paid_wei >= len(answer.token_ids)
        reserved = session.reserved
        assert reserved is not None
        assert reserved.cap_wei >= 400
