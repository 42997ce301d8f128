"""Receipts of a running network: written by who asked, kept by router and miner, raised later, and verified offline."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from p2pnode.address import parse_router_address
from p2pnode.client import connect
from p2pnode.identity import NodeKey
from p2pnode.light_asker import NotTold, asking
from p2pnode.receipts import load_receipt, save_receipt
from p2pnode.refreshing import reached
from p2pnode.transport.libp2p import Libp2pConfig, open_libp2p
from p2pnode.transport.seam import Transport
from protocol.core.genesis import Genesis, parse_genesis
from protocol.core.params import Params
from protocol.light.levels import Level
from protocol.light.receipt import Verified, verify_receipt
from protocol.messages.receipts import Receipt
from tests.browser.node import missing, question, verdicts
from tests.runtime.test_network import Network, run, start_testnet, stop_testnet

QUESTION = "Where does a bear live?"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("receipts")


@pytest.fixture(scope="module")
def network(home: Path) -> Iterator[Network]:
    genesis, config = home / "genesis.json", home / "net.toml"
    genesis.write_text(Genesis("receipts", params=Params(heartbeat_ms=1_500)).to_json(), encoding="utf-8")
    config.write_text(f'[network]\ngenesis = "{genesis}"\n', encoding="utf-8")
    env = {**os.environ, "P2PNODE_HOME": str(home / "own"), "NO_COLOR": "1"}
    options = ("--oracles", "4", "--miners", "2", "--chain", "none", "--config", str(config))
    network = start_testnet(home / "net", env, *options)
    yield network
    stop_testnet(network)


@pytest.fixture(scope="module")
def genesis(network: Network, home: Path) -> Path:
    return home / "net" / "genesis.json"


def address_of(network: Network, name: str) -> str:
    addresses = network.nodes[name]["addresses"]
    assert isinstance(addresses, list)
    return str(addresses[0])


def verified(network: Network, file: Path, *options: str) -> dict[str, Any]:
    """What `p2pnode verify` says to a user who has never seen the network."""
    env = {**network.env, "P2PNODE_HOME": str(file.parent / "stranger")}
    done = run("verify", str(file), "--json", *options, env=env)
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == {"verified": 0, "not_enough_trust": 3, "invalid": 1}[told["verdict"]], done.stderr
    if not missing() and options[:1] in ((), ("--genesis",)):
        assert in_javascript(file, *options[1:]) == (told["verdict"].replace("_", " "), told.get("level"))
    return told


def in_javascript(file: Path, genesis: str | None = None) -> tuple[str, str | None]:
    """Verdict and level by the other verifier."""
    network = None if genesis is None else parse_genesis(Path(genesis).read_text()).network_id().hex()
    (answer,) = verdicts([question(file.read_bytes(), {"network": network})])
    return answer["verdict"], answer.get("level")


def test_the_receipt_of_an_answer_is_verified_by_whoever_has_the_genesis(
    network: Network, genesis: Path, tmp_path: Path
) -> None:
    file, redacted = tmp_path / "answer.receipt", tmp_path / "redacted.receipt"
    done = network.chat("--json", "--receipt", str(file), "--level", "finalized", QUESTION)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    told = verified(network, file, "--genesis", str(genesis))
    assert (told["verdict"], told["level"]) == ("verified", "finalized")
    shown = json.loads(run("receipt", "show", "--json", str(file), env=network.env).stdout)
    assert shown["tokens"]["text"] == answer["text"]
    assert shown["prompt"]["messages"][0]["content"] == QUESTION

    done = run("receipt", "redact", str(file), "-o", str(redacted), env=network.env)
    assert done.returncode == 0, done.stderr
    assert verified(network, redacted, "--genesis", str(genesis))["level"] == "finalized"
    data = redacted.read_bytes()
    assert QUESTION.encode() in file.read_bytes()
    assert QUESTION.encode() not in data


def test_an_early_receipt_is_raised_by_what_any_node_tells_later(network: Network, tmp_path: Path) -> None:
    file, raised = tmp_path / "early.receipt", tmp_path / "raised.receipt"
    done = network.chat("--json", "--receipt", str(file), QUESTION)
    assert done.returncode == 0, done.stderr
    later = {"commit": None, "reveal": None, "batches": (), "final": None, "hand_overs": (), "committees": ()}
    save_receipt(file, replace(load_receipt(file), **later))
    assert level_of(load_receipt(file)) == Level.STREAMED
    nodes = ("--router", address_of(network, "oracle-2"), "--router", network.address)
    with_nodes = ("receipt", "refresh", str(file), *nodes)

    def refreshed(*options: str) -> dict[str, Any]:
        done = run(*with_nodes, "--json", *options, env=network.env)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    told = refreshed("-o", str(raised))
    assert (told["before"], told["level"]) == ("streamed", "finalized"), told
    assert level_of(load_receipt(raised)) == Level.FINALIZED
    assert load_receipt(raised).tokens == load_receipt(file).tokens, "what it was raised by had none"
    assert refreshed()["level"] == "finalized"
    assert level_of(load_receipt(file)) == Level.FINALIZED, "in place"


def test_the_session_is_unknown_to_a_node_that_had_no_part_in_it(network: Network, tmp_path: Path) -> None:
    done = run("receipt", "fetch", "ab" * 32, "--router", network.address, "-o", str(tmp_path / "x"), env=network.env)
    assert done.returncode == 1
    assert "no receipt of this order is kept here" in done.stderr
    assert not (tmp_path / "x").exists()


class Asked:
    """An answer, and what nodes tell of it."""

    def __init__(self, network: Network, transport: Transport, receipt: Receipt) -> None:
        self.network = network
        self.transport = transport
        self.receipt = receipt

    async def of(self, name: str) -> Receipt | None:
        """The receipt as a node shows it to this key; None if it says that it has none."""
        node = await reached(self.transport, parse_router_address(address_of(self.network, name)))
        async with asking(self.transport, node) as asker:
            try:
                return await asker.receipt(self.receipt.order.session, self.receipt.order.task)
            except NotTold as told:
                assert "no receipt of this order" in str(told)
                return None


def level_of(receipt: Receipt) -> Level:
    """By its own genesis; it holds."""
    verdict = verify_receipt(receipt, network=parse_genesis(receipt.genesis).network_id())
    assert isinstance(verdict, Verified), verdict
    return verdict.level


@pytest.mark.parametrize(("lanes", "direct"), [(1, False), (2, False), (1, True)])
async def test_router_and_miner_show_all_of_it_to_the_client_and_no_text_to_others(
    network: Network, lanes: int, direct: bool
) -> None:
    key = NodeKey.generate()
    async with connect(network.address, key=key) as client, client.session(lanes=lanes, direct=direct) as session:
        async with session.ask(QUESTION, max_tokens=24) as answer:
            text = await answer.read()
        assert await answer.wait_for("finalized", timeout_ms=60_000)
        receipt, miner = answer.receipt(), "0x" + session.miner.hex()
    assert level_of(receipt) == Level.FINALIZED
    assert receipt.tokens is not None and b"".join(receipt.tokens.texts).decode() == text
    miners = [name for name in network.nodes if name.startswith("miner")]
    ran = next(name for name in miners if network.nodes[name]["node"] == miner)
    for who in (key, NodeKey.generate()):
        async with open_libp2p(who, Libp2pConfig(listen=())) as transport:
            asked = Asked(network, transport, receipt)
            shown = {name: await asked.of(name) for name in ("router", ran, "oracle-1")}
        assert shown["oracle-1"] is None
        assert shown[ran] is not None
        assert direct or shown["router"] is not None, "only what it did not relay it does not know"
        # The miner may hear of the outcome a moment later than the client.
        for found, least in ((shown["router"], Level.FINALIZED), (shown[ran], Level.COMMITTED)):
            if found is not None:
                assert level_of(found) >= least
                assert found.tokens == (receipt.tokens if who is key else None)
                assert found.segments == receipt.segments, "with the client's last ack"
