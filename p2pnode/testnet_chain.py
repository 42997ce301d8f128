"""The chain that a testnet settles on: started with it, with its contracts deployed, its nodes registered with stake,
and its client's money paid in. All of it blocks, and is called from worker threads.

Its state lies in the testnet's folder: started again there, the same chain goes on.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chain.api import Role, TxId
from chain.client import EvmChain, open_chain
from chain.deploy import Terms, deploy, predict
from chain.localchain import FAUCET, Kind, LocalChain, has_anvil, open_local_chain
from chain.signed import SecretKey
from p2pnode.identity import NodeKey
from protocol.core.errors import P2PNodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.signing import typed_digest
from protocol.messages.chain import Consent

CHAIN_FOLDER = "chain"
STATES: Mapping[Kind, str] = {"anvil": "anvil.json", "embedded": "embedded.sqlite"}
"""What a chain leaves in its folder."""
STAKE = 1_000_000
MINED_S = 30.0
"""So long a transaction of the start may take."""


class ChainLost(P2PNodeError):
    """The chain of this folder's network cannot go on."""

    code = "testnet/chain"


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """What chain to start, and what its contracts are deployed with."""

    kind: Kind = "auto"
    """anvil, embedded, or auto: what the folder has, else anvil where it is installed."""
    terms: Terms = field(default_factory=lambda: Terms(window_s=10, dead_s=86_400))
    epoch_slots: int = 1
    """Half of the blocks until a block of anvil's is final."""


ROLES: Mapping[str, Role] = {"router": Role.ROUTER, "miner": Role.MINER, "oracle": Role.ORACLE}

Named = tuple[NodeKey, str]
"""A node to register, its own owner: its key, and what it does."""


class TestnetChain:
    """A running chain. Made by :func:`open_testnet_chain`."""

    __test__ = False

    def __init__(self, local: LocalChain, plan: ChainPlan) -> None:
        self.local = local
        self.plan = plan

    @property
    def url(self) -> str:
        """Where it is asked."""
        return self.local.url

    @property
    def kind(self) -> str:
        """anvil or embedded."""
        return self.local.kind

    @property
    def chain_id(self) -> int:
        """The chain's own id."""
        return self.local.chain_id

    def named(self, genesis: Genesis) -> Genesis:
        """The genesis of a network with contracts: of a new one it says where they will be. Raises ChainError."""
        if genesis.contracts is not None:
            return genesis
        founded_s = genesis.founded_s or int(time.time())
        return replace(genesis, founded_s=founded_s, contracts=predict(self.local.rpc(), FAUCET.node_id))

    def introduce(self, genesis: Genesis, nodes: Sequence[Named], deposits: Mapping[NodeId, int]) -> None:
        """Deploy the contracts, give everybody coin, register the nodes, and pay in for the accounts; what was done
        before is not done again. Raises ChainError."""
        deploy(self.local.rpc(), FAUCET, genesis, self.plan.terms)
        chain = self._opened(genesis, FAUCET)
        new = [node for node in nodes if chain.node(node[0].node_id) is None]
        first = not chain.deposits()
        poor = [*(key.node_id for key, _ in new), *(deposits if first else ())]
        self.local.fund([address for address in dict.fromkeys(poor) if not chain.coin(address)])
        sent = [(chain, chain.deposit(account, amount)) for account, amount in deposits.items()] if first else []
        # All at once: a block a second holds them together.
        sent += [self._registered(genesis, *node) for node in new]
        for sender, tx in sent:
            sender.wait(tx, MINED_S)

    def _registered(self, genesis: Genesis, key: NodeKey, role: str) -> tuple[EvmChain, TxId]:
        consent = key.sign(typed_digest(genesis.domain(), Consent(key.node_id, key.node_id)))
        chain = self._opened(genesis, key)
        return chain, chain.register(key.node_id, ROLES[role], STAKE, consent)

    def _opened(self, genesis: Genesis, key: NodeKey | SecretKey) -> EvmChain:
        """Without a journal on disk: what is lost in a crash is done at the next start, and the node has its own."""
        return open_chain([self.url], genesis, key)

    def close(self) -> None:
        """End it; its state stays in its folder."""
        self.local.close()


def open_testnet_chain(folder: Path, plan: ChainPlan) -> TestnetChain:
    """Start the chain whose state is in a testnet's folder, or a new one. Raises ChainLost, NoLocalChain."""
    place = folder / CHAIN_FOLDER
    left = [state for state, name in STATES.items() if (place / name).exists()]
    kind: Kind = plan.kind if plan.kind != "auto" else left[0] if left else "auto"
    if left and kind not in left:
        raise ChainLost(
            f"the chain of {folder} is one of {left[0]}, and cannot go on as one of {kind}",
            hint=f"start it with --chain {left[0]}, or in a new folder",
        )
    if left and kind == "anvil" and not has_anvil():
        raise ChainLost(
            f"the chain of {folder} needs anvil, which is not on the path",
            hint="`npm i -g @foundry-rs/anvil`, or a new folder with --chain embedded",
        )
    return TestnetChain(open_local_chain(place, kind, epoch_slots=plan.epoch_slots), plan)
