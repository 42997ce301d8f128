"""A chain at hand: blocks with events of the contracts, and a ledger that is anchored in it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from protocol.core.genesis import Contracts
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import keccak
from protocol.ledger import LedgerState
from protocol.ledger.chain import ChainState
from protocol.messages.chain import Accepted, ChainEvent, ChainWord, Deposited, Drawn, NodeChanged
from protocol.messages.results import Content
from protocol.settlement.sightings import Seen
from protocol.settlement.words import AnchorBlock, next_word
from tests.evm_made import header_of
from tests.unit.protocol.ledger_at_hand import CLIENT, GENESIS, ORACLES, OWNER, PARAMS, Books

STRIDE = 4
CONTRACTS = Contracts(7, *(NodeId(bytes([number]) * 20) for number in range(1, 7)))
CHAIN_PARAMS = replace(PARAMS, anchor_stride=STRIDE, committee_terms_max=2, registered_max=16).validate()
CHAIN_GENESIS = replace(GENESIS, chain_id=1, params=CHAIN_PARAMS, allocation=(), contracts=CONTRACTS)
WITH_MONEY = replace(CHAIN_GENESIS, miners=())

ROUTER_ROLE, MINER_ROLE, ORACLE_ROLE = 1, 2, 4


def deposited(number: int, amount: int = 1_000, account: bytes = CLIENT.node_id) -> Deposited:
    """A deposit."""
    return Deposited(number, account, amount)


def changed(node: bytes, roles: int = MINER_ROLE, stake: int = 100, *, jailed: bool = False) -> NodeChanged:
    """The registry says something of a node."""
    return NodeChanged(node, OWNER.node_id, roles, stake, jailed)


def drawn(epoch: int, places: Iterable[int] = (1, 2, 3, 4)) -> Drawn:
    """A committee, by the places of its members among ORACLES."""
    return Drawn(epoch, tuple(ORACLES[place].node_id for place in places))


def accepted(epoch: int, height: int) -> Accepted:
    """A checkpoint."""
    return Accepted(epoch, height, keccak(b"%d/%d" % (epoch, height)))


def block_header(number: int) -> bytes:
    """Of a block of the true chain, in RLP."""
    return header_of(keccak(b"state %d" % number), abs(number), 1_800_000_000 + number)


def block_hash(number: int) -> Digest:
    """Of a block of the true chain."""
    return Digest(keccak(block_header(number)))


def block(number: int) -> AnchorBlock:
    """A block of the true chain."""
    return AnchorBlock(number, block_hash(number))


@dataclass
class Anchored(Books):
    """A ledger with contracts, its committee of four, and what they say of the chain."""

    genesis: object = CHAIN_GENESIS  # type: ignore[assignment]

    @property
    def chain(self) -> ChainState:
        """What the ledger knows of it."""
        assert self.state.chain is not None
        return self.state.chain

    def word(self, *events: ChainEvent, number: int | None = None, **wrong: object) -> ChainWord:
        """The word that takes these in, up to the next stride block, or whatever is said."""
        at = self.chain.number + STRIDE if number is None else number
        return msgspec.structs.replace(next_word(self.chain, events, block(at)), **wrong)

    def say(self, *words: ChainWord, by: Sequence[int] = (0, 1)) -> LedgerState:
        """Oracles say the same words: f+1, if nothing else is said."""
        return self.block({place: Content(words=words) for place in by})

    def take(self, *events: ChainEvent) -> LedgerState:
        """The ledger takes events in."""
        before = self.chain.events
        self.say(self.word(*events))
        assert self.chain.events == before + len(events)
        return self.state


@dataclass
class TrueChain:
    """What is final on the chain, block by block."""

    events: list[Seen] = field(default_factory=list)
    height: int = 0

    def mine(self, *events: ChainEvent) -> int:
        """One more block."""
        self.height += 1
        self.events += [(self.height, event) for event in events]
        return self.height

    def page(self, after: int, through: int) -> tuple[tuple[Seen, ...], tuple[AnchorBlock, ...]]:
        """What happened in blocks after one up to another, and the last stride blocks there."""
        strides = range(through - through % STRIDE, max(after, through - 4 * STRIDE), -STRIDE)
        seen = tuple((number, event) for number, event in self.events if after < number <= through)
        return seen, tuple(block(number) for number in sorted(strides) if number > 0)
