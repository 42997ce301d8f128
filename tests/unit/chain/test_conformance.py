"""The real chain (on the embedded EVM) and the model pass one suite."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from chain.api import Chain
from chain.client import EvmChain, open_sender
from chain.deploy import deploy, predict
from chain.embedded import EmbeddedChain
from chain.embedded_rpc import EmbeddedRpc
from chain.endpoint import Endpoint
from chain.finality import Finality
from chain.model.blocks import ModelChain
from chain.model.client import ModelClient
from chain.model.deployed import ModelContracts
from chain.model.reading import ModelEndpoint
from chain.model.terms import Terms
from chain.rpc import Rpc
from chain.signed import created_by
from protocol.core.genesis import CONTRACTS, Contracts, Genesis
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.core.signing import Sign
from tests.unit.chain.conformance import CHECKS
from tests.unit.chain.conformance_scene import COMMITTEE, OWNER, ROUTER, TERMS, Check, Rig, Scene
from tests.unit.protocol.keys import Key

CHAIN_ID = 31_337
RICH = 10**24


@dataclass(frozen=True)
class Payer:
    """A key as the chain's client takes it."""

    node_id: NodeId
    sign: Sign


def genesis_with(contracts: Contracts) -> Genesis:
    """Of the network that all checks are of."""
    members = tuple(member.node for member in COMMITTEE)
    params = Params(committee_size_max=4, trust_period_ms=9_999_000)
    return Genesis("conformance", CHAIN_ID, params, members, contracts=contracts)


@dataclass
class ModelRig:
    """The model; final are all blocks, as on the embedded chain."""

    genesis: Genesis = field(init=False)

    def __post_init__(self) -> None:
        addresses = Contracts(0, *(created_by(OWNER.node, nonce) for nonce in range(len(CONTRACTS))))
        self.genesis = genesis_with(addresses)
        self._chain = ModelChain(ModelContracts.deploy(Terms.of(self.genesis, TERMS), 1_000), CHAIN_ID, 1_000)
        for rich in (OWNER, ROUTER):
            self._chain.fund(rich.node, RICH)
        self._skipped = 0

    def client(self, payer: Key | None) -> Chain:
        """See Rig."""
        return ModelClient(ModelEndpoint(self._chain), None if payer is None else payer.node)

    def mine(self, blocks: int = 1) -> None:
        """See Rig."""
        for _ in range(blocks):
            self._chain.mine(self._chain.head.time_s + 1 + self._skipped)
            self._skipped = 0

    def skip(self, seconds: int) -> None:
        """See Rig."""
        self._skipped += seconds


class EvmRig:
    """The embedded chain behind its JSON-RPC, without the HTTP."""

    def __init__(self) -> None:
        self._chain = EmbeddedChain(CHAIN_ID, {OWNER.node: RICH, ROUTER.node: RICH})
        self._server = EmbeddedRpc(self._chain)
        self._rpc = Rpc([Endpoint("embedded", self._post)], CHAIN_ID)
        self._deploying = True
        deployer = Payer(OWNER.node, OWNER.sign)
        self.genesis = genesis_with(predict(self._rpc, deployer.node_id))
        deploy(self._rpc, deployer, self.genesis, TERMS)
        self._deploying = False
        self._deployed = bytes(self._chain.head.hash)

    def _post(self, body: bytes, timeout_s: float) -> bytes:
        if self._deploying and b"eth_getTransactionReceipt" in body:
            self._chain.mine()
        return self._server.answer(body)

    def anew(self) -> "EvmRig":
        """As it was when the contracts were deployed."""
        self._chain.rewind(self._deployed)
        self._chain.skip(-self._chain._ahead_s)
        return self

    def client(self, payer: Key | None) -> Chain:
        """See Rig."""
        assert self.genesis.contracts is not None
        finality = Finality(self._rpc)
        known = None if payer is None else Payer(payer.node, payer.sign)
        sender = None if known is None else open_sender(self._rpc, finality, known, None)
        return EvmChain(self._rpc, self.genesis.contracts, sender=sender, finality=finality)

    def mine(self, blocks: int = 1) -> None:
        """See Rig."""
        for _ in range(blocks):
            self._chain.mine()

    def skip(self, seconds: int) -> None:
        """See Rig."""
        # Blocks that were made at once are ahead of the clock already.
        ahead_s = self._chain.head.timestamp - int(time.time()) - self._chain._ahead_s
        self._chain.skip(max(0, ahead_s) + seconds)


@pytest.fixture(scope="module")
def evm() -> Iterator[EvmRig]:
    """Deployed once."""
    yield EvmRig()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", ["model", "evm"])
def test_conformance(kind: str, check: Check, evm: EvmRig) -> None:
    rig: Rig = ModelRig() if kind == "model" else evm.anew()
    check(Scene(rig))
