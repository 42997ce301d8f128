"""A testnet on anvil for tests that do something to the chain, in a thread with a loop of its own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from chain.api import AcceptedHeader, Reading, RegisteredNode
from chain.localchain import open_local_chain
from p2pnode.chain_access import open_reading
from p2pnode.control import ControlError
from p2pnode.testnet import Child, Testnet, TestnetPlan
from p2pnode.testnet_chain import CHAIN_FOLDER, TestnetChain
from protocol.core.genesis import Genesis, parse_genesis
from protocol.core.ids import NodeId
from tests.runtime.load import stretched
from tests.runtime.served import served

LOOK_S = 0.1


@dataclass
class OnChain:
    """A running testnet, and a look at its contracts."""

    net: Testnet
    genesis: Genesis
    contracts: Reading

    @property
    def chain(self) -> TestnetChain:
        assert self.net.chain is not None
        return self.net.chain

    def rpc(self, method: str, *params: Any) -> Any:
        """Ask anvil for something."""
        return self.chain.local.rpc().call(method, params, Any)

    def mine(self, blocks: int = 20) -> None:
        """Make blocks, so that what is in the chain becomes final."""
        self.rpc("anvil_mine", hex(blocks))

    def stop(self) -> int:
        """End anvil; gives the port that it listened on."""
        port = self.chain.local.port
        self.chain.local.close()
        return port

    def start(self, port: int, slots: int = 1) -> None:
        """Have anvil go on from its state, where everybody looks for it."""
        folder = self.net.plan.folder / CHAIN_FOLDER
        self.chain.local = open_local_chain(folder, "anvil", port=port, epoch_slots=slots)

    def checkpoint(self) -> AcceptedHeader | None:
        """The last one, at the latest block."""
        return self.contracts.latest_checkpoint()

    def height(self) -> int:
        """Of the last checkpoint; 0 before the first."""
        last = self.checkpoint()
        return 0 if last is None else last.height

    def node(self, child: Child) -> RegisteredNode:
        """A node's record in the registry."""
        found = self.contracts.node(NodeId(bytes.fromhex(child.ready["node"][2:])))
        assert found is not None
        return found

    def status(self, oracle: Child) -> dict[str, Any]:
        """What an oracle says of the chain."""
        found: dict[str, Any] = oracle.ask("status")["oracle"]["chain"]
        return found


def final(oracle: Child) -> tuple[int, int]:
    """Epoch and height of the last block that is final at an oracle."""
    found = oracle.ask("committee")["final"]
    return found["epoch"], found["height"]


def until(holds: Callable[[], Any], within_s: float, what: str) -> None:
    """Wait for something that is asked for again and again; who cannot be asked does not hold."""
    start = time.monotonic()
    pause = threading.Event()
    while True:
        with suppress(ControlError):
            if holds():
                return
        assert time.monotonic() < start + stretched(within_s), f"not within {within_s:g} s: {what}"
        pause.wait(LOOK_S)


@contextmanager
def settling(plan: TestnetPlan) -> Iterator[OnChain]:
    """The testnet for as long as the block lasts, and its contracts."""
    with served(plan) as running:
        genesis = parse_genesis((plan.folder / "genesis.json").read_text(encoding="utf-8"))
        yield OnChain(running.net, genesis, open_reading(genesis, running.net.rpc))
