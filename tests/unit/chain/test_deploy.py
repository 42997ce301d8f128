"""Contracts come to where the genesis names them, and what is there is known by its bytes."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from chain.artifacts import load_artifact
from chain.binding import CONTRACT_OF
from chain.client import open_chain
from chain.deploy import Deployment, StakeTooShort, Terms, check_deployed, check_terms, deploy, predict
from chain.embedded import EmbeddedChain
from chain.embedded_rpc import EmbeddedRpc
from chain.endpoint import Endpoint
from chain.errors import NoFunds, Reverted, WrongChain
from chain.rpc import Rpc
from chain.signed import SecretKey, Transaction
from protocol.core.genesis import CONTRACTS, Genesis
from protocol.core.ids import NodeId
from protocol.core.params import Params

DEPLOYER, POOR = SecretKey(b"\x01" * 32), SecretKey(b"\x02" * 32)
ID = 31_337
MEMBERS = tuple(NodeId(bytes([at]) * 20) for at in range(1, 5))


class Local:
    """An embedded chain that makes a block whenever somebody waits for one."""

    def __init__(self) -> None:
        self.chain = EmbeddedChain(ID, {DEPLOYER.node_id: 10**24})
        self.server = EmbeddedRpc(self.chain)
        self.rpc = Rpc([Endpoint("embedded", self._post)], ID)
        self.start = self.chain.head.hash

    def _post(self, body: bytes, _: float) -> bytes:
        if b"eth_getTransactionReceipt" in body:
            self.chain.mine()
        return self.server.answer(body)

    def genesis(self, payer: SecretKey = DEPLOYER, **more: object) -> Genesis:
        return Genesis("test", ID, committee=MEMBERS, contracts=predict(self.rpc, payer.node_id), **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def kept() -> Iterator[Local]:
    local = Local()
    yield local
    local.chain.close()


@pytest.fixture
def local(kept: Local) -> Local:
    kept.chain.rewind(kept.start)
    return kept


@pytest.mark.spec("CHAIN-DEPLOY.1")
def test_they_come_to_where_they_were_predicted(local: Local) -> None:
    genesis = local.genesis()
    told: list[tuple[str, int, int]] = []
    deploy(local.rpc, DEPLOYER, genesis, Terms(), lambda *one: told.append(one))
    check_deployed(local.rpc, genesis)
    assert [(done, total) for _, done, total in told] == [(at, 6) for at in (0, 1, 2, 3, 4, 5, 6, 6)]
    assert genesis.contracts is not None
    assert genesis.contracts.start_block == 0
    head = local.chain.head.block_number
    deploy(local.rpc, DEPLOYER, genesis, Terms())
    assert local.chain.head.block_number == head  # nothing was left to do


def test_a_deployment_that_was_cut_off_goes_on(local: Local) -> None:
    genesis = local.genesis()

    class Cut(Exception):
        pass

    def cut(what: str, done: int, _: int) -> None:
        if done == 1 and what.startswith("deployed"):
            raise Cut

    with pytest.raises(Cut):
        deploy(local.rpc, DEPLOYER, genesis, Terms(), cut)
    with pytest.raises(WrongChain, match="no contract evidence"):
        check_deployed(local.rpc, genesis)
    deploy(local.rpc, DEPLOYER, genesis, Terms())
    check_deployed(local.rpc, genesis)


def test_an_address_that_cannot_be_reached_any_more(local: Local) -> None:
    genesis = local.genesis()
    raw = Transaction(ID, 0, MEMBERS[0], b"", 1, 21_000, 10**10, 1).signed(DEPLOYER)
    local.rpc.send(raw)
    local.chain.mine()
    with pytest.raises(Deployment, match="cannot make registry") as caught:
        deploy(local.rpc, DEPLOYER, genesis, Terms())
    assert "new genesis" in str(caught.value.hint)
    with pytest.raises(Deployment):
        deploy(local.rpc, POOR, genesis, Terms())


def test_terms_that_a_contract_refuses(local: Local) -> None:
    with pytest.raises(Reverted, match="settings"):
        deploy(local.rpc, DEPLOYER, local.genesis(), Terms(window_s=10, dead_s=10))


@pytest.mark.spec("TRUST-UNBONDING.1")
def test_stake_is_not_free_while_its_owner_is_believed(local: Local) -> None:
    genesis = local.genesis(params=Params(trust_period_ms=10_000_000))
    with pytest.raises(StakeTooShort, match="10000 s"):
        deploy(local.rpc, DEPLOYER, genesis, Terms(unbonding_s=10_000))
    assert local.chain.head.block_number == 0, "nothing was deployed"
    check_terms(genesis, Terms(unbonding_s=10_001))
    check_terms(Genesis("test"), Terms())


def test_without_coin_nothing_is_deployed(local: Local) -> None:
    with pytest.raises(NoFunds):
        deploy(local.rpc, POOR, local.genesis(POOR), Terms())


@pytest.mark.spec("CHAIN-DEPLOY.1")
def test_the_contracts_of_another_network_are_refused(local: Local) -> None:
    genesis = local.genesis()
    deploy(local.rpc, DEPLOYER, genesis, Terms())
    other = replace(genesis, name="other")
    with pytest.raises(WrongChain, match="is of another network"):
        check_deployed(local.rpc, other)


@pytest.mark.spec("CHAIN-DEPLOY.1")
def test_another_contract_is_refused(local: Local) -> None:
    genesis = local.genesis()
    deploy(local.rpc, DEPLOYER, genesis, Terms())
    assert genesis.contracts is not None
    swapped = replace(genesis.contracts, escrow=genesis.contracts.inbox, inbox=genesis.contracts.escrow)
    with pytest.raises(WrongChain, match="is not this build's contract escrow"):
        check_deployed(local.rpc, replace(genesis, contracts=swapped))


def test_a_chain_without_the_contracts(local: Local) -> None:
    genesis = local.genesis()
    with pytest.raises(WrongChain, match="no contract registry"):
        check_deployed(local.rpc, genesis)


def test_a_genesis_without_contracts_has_no_chain() -> None:
    with pytest.raises(WrongChain, match="no contracts"):
        open_chain(["http://127.0.0.1:1"], Genesis("test"))
    with pytest.raises(Deployment, match="names no contracts"):
        check_deployed(None, Genesis("test"))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_contract_of_a_genesis_has_an_artifact(name: str) -> None:
    assert load_artifact(CONTRACT_OF[name]).runtime
