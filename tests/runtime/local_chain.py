"""A local chain with a network's contracts on it, for tests that need a real node behind a real port."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chain.client import EvmChain, open_chain
from chain.deploy import Terms, deploy, predict
from chain.localchain import FAUCET, Kind, LocalChain, has_anvil, open_local_chain
from chain.signed import SecretKey
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId

needs_anvil = pytest.mark.skipif(not has_anvil(), reason="anvil is not on the path: npm i -g @foundry-rs/anvil")

KEYS = [SecretKey(bytes([number]) * 32) for number in range(1, 5)]
ACCOUNT = NodeId(b"\xaa" * 20)
BLOCK_S = 0.2


@dataclass
class Network:
    """A genesis with contracts on a chain, and a key that has coin there."""

    local: LocalChain
    folder: Path
    genesis: Genesis
    slots: int

    @property
    def journal(self) -> Path:
        """Of the first key."""
        return self.folder / "journal.db"

    @contextmanager
    def chain(self) -> Iterator[EvmChain]:
        """A client with the first key."""
        chain = open_chain([self.local.url], self.genesis, KEYS[0], self.journal)
        try:
            yield chain
        finally:
            chain.close()

    def ask(self, method: str, *params: Any) -> Any:
        """A call of the node's own."""
        return self.local.rpc().call(method, params, Any)

    def hold(self) -> None:
        """Make no blocks but those that are asked for (anvil)."""
        self.ask("evm_setIntervalMining", 0)

    def mine(self, blocks: int = 1) -> None:
        """So many blocks at once (anvil)."""
        self.ask("anvil_mine", hex(blocks))

    def stop(self) -> None:
        """Take the chain down; what it holds stays."""
        self.local.close()

    def start(self) -> None:
        """Bring it back where it was."""
        self.local = open_local_chain(
            self.folder / "chain",
            self.local.kind,
            port=self.local.port,
            epoch_slots=self.slots,  # type: ignore[arg-type]
        )


@contextmanager
def open_network(folder: Path, kind: Kind, *, slots: int = 1) -> Iterator[Network]:
    """A chain with contracts, taken down in the end."""
    local = open_local_chain(folder / "chain", kind, block_s=BLOCK_S, epoch_slots=slots)
    network = None
    try:
        rpc = local.rpc()
        members = tuple(key.node_id for key in KEYS)
        genesis = Genesis("test", local.chain_id, committee=members, contracts=predict(rpc, FAUCET.node_id))
        deploy(rpc, FAUCET, genesis, Terms())
        local.fund([key.node_id for key in KEYS[:2]])
        network = Network(local, folder, genesis, slots)
        yield network
    finally:
        (local if network is None else network.local).close()
