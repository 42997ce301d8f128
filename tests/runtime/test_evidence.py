"""``p2pnode evidence`` on a local chain, as a person uses it: two receipts, a file, and a node that is slashed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from chain.api import RegisteredNode, Role
from p2pnode.identity import SCRYPT_N_TESTNET, NodeKey, write_keystore
from protocol.core.codec import pack
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.signing import typed_digest
from protocol.light.levels import Level
from protocol.messages.chain import Consent
from protocol.messages.receipts import Tokens
from tests.receipts_made import MINERS, Maker
from tests.runtime.cli import assert_refused, p2pnode
from tests.runtime.local_chain import KEYS, Network, open_network

STAKE = 1_000
WAIT_S = 30.0


@dataclass(frozen=True)
class OnChain(Maker):
    """An answer in the network of a chain."""

    network: Genesis | None = None
    loud: bool = False
    """The miner gives the other answer, under the same lease."""

    @cached_property
    def genesis(self) -> Genesis:
        """The network's."""
        assert self.network is not None
        return self.network

    @cached_property
    def shown(self) -> Tokens:
        """The tokens."""
        said = super().shown
        return Tokens(said.ids, tuple(text.upper() for text in said.texts)) if self.loud else said


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """On the embedded chain: nothing but Python is needed."""
    with open_network(tmp_path_factory.mktemp("embedded"), "embedded") as network:
        (network.folder / "genesis.json").write_text(network.genesis.to_json(), encoding="utf-8")
        secret = bytes([2]) * 32
        write_keystore(network.folder / "reporter.json", NodeKey(secret), "", scrypt_n=SCRYPT_N_TESTNET)
        for loud in (False, True):
            maker = OnChain(network=network.genesis, level=Level.COMMITTED, loud=loud)
            (network.folder / f"receipt{int(loud)}").write_bytes(pack(maker.receipt(redacted=loud)))
        yield network


def registered(network: Network, node: NodeId) -> RegisteredNode | None:
    with network.chain() as chain:
        return chain.node(node)


def submit(network: Network, file: Path) -> tuple[str, ...]:
    """The command that sends evidence to the contract, as its reporter."""
    folder = network.folder
    options = ("--rpc", network.local.url, "--genesis", str(folder / "genesis.json"))
    return ("evidence", "submit", str(file), *options, "--key", str(folder / "reporter.json"))


@pytest.mark.spec("EVIDENCE-FIND.1", "EVIDENCE-FILE.1")
def test_two_receipts_that_contradict_cost_a_miner_its_stake(network: Network, tmp_path: Path) -> None:
    miner, file = MINERS[0], tmp_path / "evidence"
    receipts = [network.folder / "receipt0", network.folder / "receipt1"]
    made = p2pnode(tmp_path, "evidence", "make", *receipts, "-o", file)
    assert made.status == 0, made
    verified = p2pnode(tmp_path, "evidence", "verify", file)
    assert verified.status == 0
    assert f"0x{miner.node.hex()} is convicted of two frames that end at one token" in verified.out
    nobody = p2pnode(tmp_path, *submit(network, file))
    assert nobody.status == 1
    assert "the contract refuses it" in nobody.out, "who has no stake cannot lose it"
    with network.chain() as chain:
        consent = miner.sign(typed_digest(network.genesis.domain(), Consent(miner.node, KEYS[0].node_id)))
        chain.wait(chain.register(miner.node, Role.MINER, STAKE, consent), WAIT_S)
        before = chain.coin(KEYS[1].node_id)
    handed_in = p2pnode(tmp_path, *submit(network, file))
    assert handed_in.status == 0, handed_in
    assert "slashed and jailed, in block" in handed_in.out
    record = registered(network, miner.node)
    assert record is not None
    assert (record.jailed, record.stake) == (True, STAKE // 2)
    with network.chain() as chain:
        assert chain.coin(KEYS[1].node_id) != before, "the reporter paid for the transaction"
    # Who knows the network need not name it again.
    known = p2pnode(tmp_path, "trust", "add", "--genesis", network.folder / "genesis.json")
    assert known.status == 0, known
    command = [
        word for word in submit(network, file) if word not in ("--genesis", str(network.folder / "genesis.json"))
    ]
    again = p2pnode(tmp_path, *command)
    assert (again.status, "is jailed already" in again.out) == (0, True), again


def test_evidence_of_another_network_is_not_sent(network: Network, tmp_path: Path) -> None:
    elsewhere = [Maker(level=Level.COMMITTED).receipt(), Other(level=Level.COMMITTED).receipt()]
    for name, receipt in zip(("one", "other"), elsewhere, strict=True):
        (tmp_path / name).write_bytes(pack(receipt))
    assert p2pnode(tmp_path, "evidence", "make", tmp_path / "one", tmp_path / "other", "-o", tmp_path / "e").status == 0
    assert_refused(p2pnode(tmp_path, *submit(network, tmp_path / "e")), "the evidence is of network")


@dataclass(frozen=True)
class Other(Maker):
    """Another answer."""

    @cached_property
    def shown(self) -> Tokens:
        """The tokens."""
        return Tokens(super().shown.ids, tuple(text.upper() for text in super().shown.texts))
