"""Putting a network's contracts on a chain, and telling whether they are there.

The genesis names the contracts' addresses, and the contracts know the network id, which is the genesis' hash. So the
addresses come first: they follow from who deploys and from the nonces that it will use (``predict``). What is deployed
is then compared with the artifacts, byte by byte but for the values that were set at deployment, and those are asked.

Spec: [CHAIN-DEPLOY.1]
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chain.artifacts import load_artifact
from chain.binding import CONTRACT_OF, binding, reason_of
from chain.endpoint import Refused
from chain.errors import ChainError, ChainUnreachable, NoFunds, Reverted, TransactionFailed, WrongChain
from chain.replies import Block, Receipt, octets, quantity
from chain.rpc import Rpc, block_call
from chain.signed import Payer, Transaction, created_by, hash_of
from protocol.core.genesis import CONTRACTS, Contracts, Genesis
from protocol.core.ids import NOBODY, NodeId

DEPLOY_TIMEOUT_S = 180.0
POLL_S = 0.1
TIP_DEFAULT = 10**9

Told = Callable[[str, int, int], None]
"""Told of progress: what is done, and how much of how much."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the contracts are deployed with, beside what the genesis says. Amounts are in the ledger's units."""

    token: NodeId = NOBODY
    """The ERC-20 that money is in; zero: the chain's coin."""
    unit: int = 1
    """How much of it one unit of the ledger is."""
    deposit_min: int = 1
    guardian: NodeId = NOBODY
    """Who may pause withdrawals for a while; zero: nobody."""
    pause_max_s: int = 86_400
    window_s: int = 600
    """A header is challengeable for so long before money leaves by it."""
    dead_s: int = 7 * 86_400
    """Without a checkpoint for so long, the exit opens."""
    stake_min: int = 1
    stake_cap: int = 1 << 62
    """Stake beyond this adds no weight in the draw."""
    unbonding_s: int = 14 * 86_400
    slash_bp: int = 5_000
    reward_bp: int = 1_000
    """Of what is slashed, for who reports it."""
    proving_s: int = 86_400
    """So long a router has to prove an answer."""


class Deployment(ChainError):
    """Contracts that cannot be put where the genesis names them."""

    code = "chain/deploy"


class StakeTooShort(ChainError):
    """Contracts by which stake is free while its owner's signatures are still believed."""

    code = "chain/stake-too-short"


def check_terms(genesis: Genesis, terms: Terms) -> None:
    """Whoever signs for a committee answers with its stake for as long as anybody believes it. Raises StakeTooShort.

    Spec: [TRUST-UNBONDING.1]
    """
    period_ms = genesis.params.trust_period_ms
    if terms.unbonding_s * 1_000 <= period_ms:
        raise StakeTooShort(
            f"stake would be free {terms.unbonding_s} s after its owner leaves, and committees are believed for "
            f"{period_ms // 1_000} s",
            hint="deploy with a longer --unbonding-s, or make a genesis with a shorter params.trust_period_ms",
        )


def predict(rpc: Rpc, deployer: NodeId) -> Contracts:
    """Where the contracts will be if the deployer's next transactions make them. Raises ChainError."""
    nonce = rpc.number("eth_getTransactionCount", [f"0x{deployer.hex()}", "pending"])
    start_block = rpc.number("eth_blockNumber", [])
    return Contracts(start_block, *(created_by(deployer, nonce + place) for place in range(len(CONTRACTS))))


def deploy(rpc: Rpc, payer: Payer, genesis: Genesis, terms: Terms, told: Told | None = None) -> None:
    """Make the contracts that the genesis names, and check them; what is there already is left as it is.

    Raises Deployment if the deployer cannot make them at those addresses, StakeTooShort, NoFunds, Reverted,
    ChainUnreachable.
    """
    contracts = _contracts(genesis)
    check_terms(genesis, terms)
    missing = [name for name in CONTRACTS if not _code(rpc, getattr(contracts, name))]
    say = told or (lambda *_: None)
    if missing:
        say("deploying", len(CONTRACTS) - len(missing), len(CONTRACTS))
        _make(rpc, payer, genesis, terms, missing, say)
    check_deployed(rpc, genesis)
    say("deployed", len(CONTRACTS), len(CONTRACTS))


def check_deployed(rpc: Rpc, genesis: Genesis) -> None:
    """Check that the contracts of a genesis are there, and are its own. Raises WrongChain, ChainError."""
    contracts = _contracts(genesis)
    own = {name: _own_values(rpc, name, getattr(contracts, name)) for name in CONTRACTS}
    for name, values in own.items():
        if bytes(genesis.network_id()) not in values or rpc.chain_id.to_bytes(32, "big") not in values:
            raise WrongChain(f"the contract {name} on chain {rpc.chain_id} is of another network")
    for name, view, other in _REFERENCES:
        function = binding(CONTRACT_OF[name]).functions[view]
        call = {"to": f"0x{getattr(contracts, name).hex()}", "data": f"0x{function.encode().hex()}"}
        if function.decode(octets(rpc.call("eth_call", [call, "latest"], str))) != getattr(contracts, other):
            raise WrongChain(f"the contract {name} belongs to another {other} than the genesis names")


def _own_values(rpc: Rpc, name: str, address: NodeId) -> bytes:
    """What was set when a contract was deployed: it stands behind the code, which has to be the artifact's."""
    code, artifact = _code(rpc, address), load_artifact(CONTRACT_OF[name])
    if not code:
        raise WrongChain(
            f"there is no contract {name} at 0x{address.hex()} on chain {rpc.chain_id}",
            hint="`p2pnode chain deploy` puts them there; a chain that was started anew has none",
        )
    if not code.startswith(artifact.runtime):
        raise WrongChain(f"what is at 0x{address.hex()} is not this build's contract {name}")
    return code[len(artifact.runtime) :]


_REFERENCES = (
    ("registry", "EVIDENCE", "evidence"),
    ("registry", "CHECKPOINTS", "checkpoints"),
    ("evidence", "REGISTRY", "registry"),
    ("checkpoints", "REGISTRY", "registry"),
    ("escrow", "CHECKPOINTS", "checkpoints"),
    ("inbox", "CHECKPOINTS", "checkpoints"),
    ("models", "CHECKPOINTS", "checkpoints"),
)
"""A contract, its view, and which contract that must name."""


def _contracts(genesis: Genesis) -> Contracts:
    if genesis.contracts is None:
        raise Deployment("the genesis names no contracts", hint="make one with `p2pnode chain deploy --new`")
    return genesis.contracts


def _code(rpc: Rpc, address: NodeId) -> bytes:
    return octets(rpc.call("eth_getCode", [f"0x{address.hex()}", "latest"], str))


def _arguments(genesis: Genesis, terms: Terms) -> dict[str, tuple[Any, ...]]:
    """What each contract is made with."""
    contracts, params = _contracts(genesis), genesis.params
    network = genesis.network_id(), genesis.chain_id
    money = terms.token, terms.unit
    return {
        "registry": (
            *(*network, contracts.evidence, contracts.checkpoints, *money, genesis.committee),
            *(params.committee_size_max, terms.stake_min, terms.stake_cap, terms.unbonding_s),
            *(terms.slash_bp, terms.reward_bp),
        ),
        "evidence": (*network, contracts.registry),
        "checkpoints": (
            *(*network, contracts.registry, terms.guardian, params.committee_terms_max),
            *(terms.window_s, terms.dead_s, terms.pause_max_s),
        ),
        "escrow": (*network, contracts.checkpoints, *money, terms.deposit_min),
        "inbox": (*network, contracts.checkpoints, terms.proving_s),
        "models": (*network, contracts.checkpoints),
    }


def _make(rpc: Rpc, payer: Payer, genesis: Genesis, terms: Terms, missing: list[str], say: Told) -> None:
    contracts, arguments = _contracts(genesis), _arguments(genesis, terms)
    nonce = rpc.number("eth_getTransactionCount", [f"0x{payer.node_id.hex()}", "latest"])
    for place, name in enumerate(missing):
        address = getattr(contracts, name)
        if created_by(payer.node_id, nonce + place) != address:
            raise Deployment(
                f"0x{payer.node_id.hex()} cannot make {name} at 0x{address.hex()} with its nonce {nonce + place}",
                hint="the addresses follow from who deploys and from its nonces: make a new genesis and deploy at once",
            )
    # The others ask the first one while they are made, so that has to be there before their gas can be estimated.
    rounds = [missing[:1], missing[1:]] if missing[0] == CONTRACTS[0] else [missing]
    for names in rounds:
        sent = []
        for name in names:
            raw = _creation(rpc, payer, nonce, CONTRACT_OF[name], arguments[name])
            sent.append((name, raw))
            nonce += 1
        for name, raw in sent:
            _send(rpc, name, raw)
        for name, raw in sent:
            _await(rpc, name, raw)
            say(f"deployed {name}", CONTRACTS.index(name) + 1, len(CONTRACTS))


def _creation(rpc: Rpc, payer: Payer, nonce: int, contract: str, values: tuple[Any, ...]) -> bytes:
    data = binding(contract).creation(*values)
    call = {"from": f"0x{payer.node_id.hex()}", "data": f"0x{data.hex()}"}
    try:
        gas = rpc.number("eth_estimateGas", [call]) * 5 // 4
    except Refused as error:
        if "insufficient" in error.said.lower():
            raise NoFunds(f"0x{payer.node_id.hex()} has too little coin to deploy {contract}") from error
        raise Reverted(f"deploying {contract}", reason_of(error.data) or error.said) from error
    block = rpc.call(*block_call("latest"), Block)
    if block.base_fee_per_gas is None:
        price = rpc.number("eth_gasPrice", [])
        return Transaction(rpc.chain_id, nonce, b"", data, 0, gas, price, None).signed(payer)
    try:
        tip = rpc.number("eth_maxPriorityFeePerGas", [])
    except Refused:
        tip = TIP_DEFAULT
    fee = 3 * quantity(block.base_fee_per_gas) + tip
    return Transaction(rpc.chain_id, nonce, b"", data, 0, gas, fee, tip).signed(payer)


def _send(rpc: Rpc, name: str, raw: bytes) -> None:
    refusals = [refusal for refusal in rpc.send(raw) if "already known" not in refusal.said.lower()]
    if any("insufficient" in refusal.said.lower() for refusal in refusals):
        raise NoFunds(f"deploying {name}: {refusals[0].said}")
    if refusals:
        raise Deployment(f"deploying {name}: {refusals[0].said}")


def _await(rpc: Rpc, name: str, raw: bytes) -> None:
    deadline = time.monotonic() + DEPLOY_TIMEOUT_S
    while True:
        receipt = rpc.call("eth_getTransactionReceipt", [f"0x{hash_of(raw).hex()}"], Receipt | None)
        if receipt is not None:
            if quantity(receipt.status) != 1:
                raise TransactionFailed(f"deploying {name} reverted")
            return
        if time.monotonic() > deadline:
            raise ChainUnreachable(f"deploying {name} is not in a block after {DEPLOY_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)
