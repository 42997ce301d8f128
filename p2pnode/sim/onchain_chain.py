"""The EVM chain of a world: the contracts' model, a block at a steady pace, and an endpoint for each node that asks.

A second of the chain is a tenth of one here, so that windows and finality pass within a world's life.
"""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from chain.model.blocks import MadeBlock, ModelChain, Transaction
from chain.model.client import ModelClient, ModelJournal
from chain.model.deployed import ModelContracts
from chain.model.reading import ModelEndpoint
from chain.model.terms import Terms
from p2pnode.sim.local_clock import EPOCH_MS
from protocol.core.ids import NodeId

if TYPE_CHECKING:
    from p2pnode.sim.world import World

SECOND_MS = 100
"""Of the world, in a second of the chain."""
BEGINS_S = EPOCH_MS // 1_000
"""As the nodes' clocks, which the chain then runs ahead of."""
RICH = 10**30

Hook = Callable[[MadeBlock], None]


class Onchain:
    """See the module. ``hooks`` are told of every block that comes on top, ``final_hooks`` of every one that is final,
    once."""

    def __init__(self, world: "World", terms: Terms, depth: int, block_ms: int) -> None:
        self.world = world
        self.terms = terms
        self.block_ms = block_ms
        self.chain = ModelChain(ModelContracts.deploy(terms, BEGINS_S), terms.domain.chain_id, BEGINS_S, depth=depth)
        self.hooks: list[Hook] = []
        self.final_hooks: list[Hook] = []
        self.stands = False
        """No blocks come."""
        self._endpoints: dict[str, ModelEndpoint] = {}
        self._skipped_s = 0
        self._final = 0

    @property
    def contracts(self) -> ModelContracts:
        """As they are after the latest block."""
        return self.chain.holdings().contracts

    @property
    def final_contracts(self) -> ModelContracts:
        """As they are after the newest final block."""
        return self.chain.holdings(self.chain.final.number).contracts

    def endpoint(self, name: str) -> ModelEndpoint:
        """The way to the chain of a node, or of somebody else."""
        return self._endpoints.setdefault(name, ModelEndpoint(self.chain))

    def deafen(self, name: str) -> None:
        """A node's endpoint is of no use, for good."""
        self.endpoint(name).deaf = True

    def client(self, name: str, key: NodeId) -> ModelClient:
        """A client with coin. Its journal lasts as long as it does: it stands for one on a disk."""
        self.chain.fund(key, RICH)
        return ModelClient(self.endpoint(name), key, ModelJournal())

    def now_s(self) -> int:
        """By the chain's clock."""
        return BEGINS_S + self._skipped_s + self.world.now_us // (1_000 * SECOND_MS)

    def skip(self, seconds: int) -> None:
        """A long time goes by on the chain, and nowhere else."""
        self._skipped_s += seconds

    def begin(self, blocks: int) -> None:
        """Some blocks are there when the world begins; then they come one by one."""
        for _ in range(blocks):
            self._mine()
        self.world.after(self.block_ms * 1_000, self._tick)

    def _tick(self) -> None:
        if not self.stands:
            self._mine()
        self.world.after(self.block_ms * 1_000, self._tick)

    def _mine(self) -> None:
        block = self.chain.mine(self.now_s())
        self._made(block)

    def _made(self, block: MadeBlock) -> None:
        world = self.world
        world.trace.add(world.now_us, "chain", f"block {block.number}, {len(block.receipts)} transactions", block.hash)
        for hook in self.hooks:
            hook(block)
        while self._final < self.chain.final.number:
            self._final += 1
            for hook in self.final_hooks:
                hook(self.chain.blocks[self._final])

    def reorganise(self, depth: int, rng: Random, lost_share: float) -> None:
        """The last blocks are others now; some of what was in them is forgotten."""
        depth = min(depth, self.chain.depth, self.chain.head.number)
        if not depth:
            return
        first = self.chain.head.number - depth + 1

        def keeps(_: Transaction) -> bool:
            return rng.random() >= lost_share

        self.chain.reorganise(depth, keeps)
        for block in self.chain.blocks[first:]:
            self._made(block)
