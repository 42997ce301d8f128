"""Where every chain behind the seam is looked at: a rig that each side brings, and who is in the scene.

A check begins on a chain with the contracts just deployed; everybody in it has coin.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from chain.api import (
    Chain,
    Role,
    TxId,
    TxState,
)
from chain.deploy import Terms
from protocol.core.genesis import Genesis
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain, typed_digest
from protocol.messages.chain import ChainEvent, Consent
from protocol.messages.committee import Certified, header_digest
from tests.unit.chain.small_ledger import Book, finalized, root_of
from tests.unit.protocol.keys import Key, key

COMMITTEE = [key(number) for number in range(4)]
OWNER, ROUTER, POOR = key(100), key(101), key(102)
ORACLES = [key(200 + number) for number in range(5)]
ACCOUNT, OTHER = NodeId(b"\xa1" * 20), NodeId(b"\xa2" * 20)
NOWHERE = TxId(b"\x99" * 32)

TERMS = Terms(unit=3, deposit_min=5, window_s=600, dead_s=5_000, stake_min=100, stake_cap=1_000, unbonding_s=10_000)


class Rig(Protocol):
    """A chain whose time is in the test's hands."""

    genesis: Genesis

    def client(self, payer: Key | None) -> Chain:
        """A client with a key, or one that only looks."""

    def mine(self, blocks: int = 1) -> None:
        """Blocks are made, of all that waits."""

    def skip(self, seconds: int) -> None:
        """Time passes: the next block is so much later."""


@dataclass
class Scene:
    """A network on a rig's chain: who does what to it, and what its ledger holds."""

    rig: Rig
    book: Book = field(default_factory=Book)

    def __post_init__(self) -> None:
        self.domain: Domain = self.rig.genesis.domain()
        self.chain = self.rig.client(OWNER)

    def done(self, tx: TxId, chain: Chain | None = None) -> None:
        """A transaction is in a block that is final."""
        chain = chain or self.chain
        self.rig.mine()
        chain.maintain()
        assert chain.status(tx).state is TxState.FINAL, chain.status(tx)

    def submitted(self, epoch: int, height: int) -> Certified:
        """The committee finalizes a header, and the contract accepts it."""
        certified, members = self.finalized(epoch, height)
        self.done(self.chain.submit_checkpoint(certified, members))
        return certified

    def finalized(self, epoch: int, height: int, book: Book | None = None) -> tuple[Certified, tuple[NodeId, ...]]:
        """A header over the ledger."""
        header = (book or self.book).header(epoch, height, root_of(COMMITTEE))
        return finalized(self.domain, header, COMMITTEE)

    def deposited(self, account: NodeId, amount: int) -> None:
        """Money comes in, and the ledger has it."""
        self.done(self.chain.deposit(account, amount))
        self.book = self.book.credited(account, balance=amount).counting(self.book.deposits + 1)

    def registered(self, node: Key, stake: int = 500, roles: Role = Role.ORACLE) -> None:
        """A node is registered."""
        consent = node.sign(typed_digest(self.domain, Consent(node.node, OWNER.node)))
        self.done(self.chain.register(node.node, roles, stake, consent))

    def events(self) -> list[ChainEvent]:
        """All that the contracts ever said."""
        return [event for _, event in self.chain.events(self.chain.start(), 10_000).events]

    def digest(self, certified: Certified) -> Digest:
        """A header's name."""
        assert certified.header is not None
        return header_digest(self.domain, certified.header)


Check = Callable[[Scene], None]
