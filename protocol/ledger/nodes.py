"""The registry's nodes, as the contract has told of them: who owns them, what they do, and what they stand to lose."""

from protocol.core.signing import U8, U64, Bytes20
from protocol.ledger.records import Record
from protocol.messages.chain import NodeChanged

_MINER = 2


class Node(Record, frozen=True):
    """A node of the registry."""

    owner: Bytes20
    """Who is paid for it."""
    roles: U8
    """Bits: 1 router, 2 miner, 4 oracle."""
    stake: U64
    """In the ledger's units."""
    jailed: bool

    @property
    def may_mine(self) -> bool:
        """Whether it may have a place among the miners."""
        return bool(self.roles & _MINER) and not self.jailed


def node_of(event: NodeChanged) -> Node | None:
    """A node as an event leaves it; None if it is registered no more."""
    return Node(event.owner, event.roles, event.stake, event.jailed) if event.roles else None
