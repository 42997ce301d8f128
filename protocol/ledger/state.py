"""The ledger's state after a block: immutable; sibling blocks share all that they have in common."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from enum import IntEnum
from functools import cached_property

import msgpack
import msgspec

from protocol.committee.cut import Home
from protocol.committee.election import committee_root
from protocol.committee.payload import Roots
from protocol.core.codec import pack
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.params import Params
from protocol.core.signing import U64, Bytes20, Bytes32, keccak
from protocol.core.sparse import EMPTY_TREE, SparseTree
from protocol.ledger.accounts import Account
from protocol.ledger.chain import ChainState
from protocol.ledger.lanes import Lane, LaneView, view
from protocol.ledger.miners import Miner
from protocol.ledger.names import Name
from protocol.ledger.nodes import Node
from protocol.ledger.records import TREES, Record, Section, lane_key, lanes_of, open_key
from protocol.ledger.sessions import Session
from protocol.messages.results import LedgerProof, Neighbour, Outcome
from protocol.results.mountain import NO_OUTCOMES, Mountain, Place

EMPTY_TREES = (EMPTY_TREE,) * TREES


class Share(IntEnum):
    """As what an account is paid for a lane."""

    MINER = 0
    ROUTER = 1
    ORACLE = 2


@dataclass(frozen=True, slots=True)
class Earned:
    """What an account was paid."""

    account: NodeId
    share: Share
    wei: int


def params_digest(params: Params) -> Digest:
    """What a header says of the parameters: keccak of all of them, packed in their order. Spec: [LEDGER-PARAMS.1]"""
    return Digest(keccak(msgpack.packb(astuple(params))))


class _Home(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    epoch: U64
    members: tuple[Bytes20, ...]


class _Chain(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An oracle's batches of a home epoch."""

    home_epoch: U64
    oracle: Bytes20
    number: U64
    digest: Bytes32
    opened: U64


class _Course(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    epoch: U64
    homes: tuple[_Home, ...]
    next_members: tuple[Bytes20, ...]
    chains: tuple[_Chain, ...]
    batches: U64
    anchored: ChainState | None


class _Node(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    level: U64
    index: U64
    digest: Bytes32


class _Packed(Record, frozen=True):
    params: Bytes32
    course: _Course
    count: U64
    peaks: tuple[Bytes32, ...]
    trees: tuple[tuple[tuple[bytes, bytes], ...], ...]
    decided: tuple[Outcome, ...]
    nodes: tuple[_Node, ...]
    turned: bool


@dataclass(frozen=True)
class State:
    """See the module, and LedgerState."""

    params_digest: Digest
    epoch: int
    homes: dict[int, tuple[NodeId, ...]]
    """See LedgerState."""
    next_members: tuple[NodeId, ...]
    """See LedgerState."""
    cut: Mapping[Home, tuple[int, Digest]] = field(default_factory=dict)
    opened: Mapping[Home, int] = field(default_factory=dict)
    """Of how many lanes that are not decided an oracle was the first to speak."""
    batches: int = 0
    """That were ever included."""
    mountain: Mountain = NO_OUTCOMES
    """Of all outcomes since genesis."""
    trees: tuple[SparseTree, ...] = EMPTY_TREES
    decided: tuple[Outcome, ...] = ()
    """What this very block decided, in the order of the leaves, which end at ``mountain.count - 1``. In the first
    block of an epoch what its turn decided comes first."""
    nodes: tuple[tuple[Place, Digest], ...] = ()
    """The nodes of the results tree that are new with them."""
    turned: bool = False
    """No block has followed the turn yet."""
    chain: ChainState | None = None
    """What is taken in of the chain; None where the network settles on none."""
    earned: tuple[Earned, ...] = field(default=(), compare=False)
    """What this very block paid to whom, for the node's own books: no root and no snapshot holds it."""

    # Roots

    @cached_property
    def sections(self) -> tuple[Digest, ...]:
        """The roots of all sections, in order."""
        return (*(tree.root for tree in self.trees), Digest(keccak(pack(self._course()))))

    @cached_property
    def roots(self) -> Roots:
        """See LedgerState. Spec: [LEDGER-ROOT.1]"""
        root = ledger_root(self.sections)
        next_root = committee_root(self.next_members)
        mountain, chain = self.mountain, self.chain or ChainState()
        anchor = (chain.number, chain.hash, chain.deposits)
        return Roots(mountain.root, mountain.count, root, self.params_digest, *anchor, next_root)

    def _course(self) -> _Course:
        homes = tuple(_Home(epoch, self.homes[epoch]) for epoch in sorted(self.homes))
        names = sorted(self.cut.keys() | self.opened.keys())
        chains = tuple(_Chain(*home, *self.included(*home), self.opened.get(home, 0)) for home in names)
        return _Course(self.epoch, homes, self.next_members, chains, self.batches, self.chain)

    # What is in it

    def included(self, home_epoch: int, oracle: bytes) -> tuple[int, Digest]:
        """See LedgerState."""
        return self.cut.get((home_epoch, oracle), (0, ZERO_DIGEST))

    def tree(self, section: Section) -> SparseTree:
        """A section that is a tree."""
        return self.trees[section]

    def account(self, address: bytes) -> Account:
        """What an address has."""
        data = self.trees[Section.ACCOUNTS].get(address)
        return Account() if data is None else Account.read(data)

    def session(self, session: bytes) -> Session | None:
        """A session's reservation; None where none is held, or none any more."""
        data = self.trees[Section.SESSIONS].get(session)
        return None if data is None else Session.read(data)

    def miner(self, node: bytes) -> Miner | None:
        """A miner's place in the pool; None if it has none."""
        data = self.trees[Section.MINERS].get(node)
        return None if data is None else Miner.read(data)

    def miners(self) -> Iterator[tuple[NodeId, Miner]]:
        """The whole pool."""
        return ((NodeId(key), Miner.read(data)) for key, data in self.trees[Section.MINERS].items())

    def registered(self, node: bytes) -> Node | None:
        """A node's record in the registry; None if it has none."""
        data = self.trees[Section.NODES].get(node)
        return None if data is None else Node.read(data)

    def name(self, name: str) -> Name | None:
        """The head of a model name's log; None if nobody owns the name."""
        data = self.trees[Section.NAMES].get(name.encode())
        return None if data is None else Name.read(data)

    def lane(self, session: bytes, task: int, lane: int) -> LaneView | None:
        """A lane of the last three home epochs, a decided one first; None if no oracle has spoken of it."""
        key = lane_key(session, task, lane)
        for section, name in ((lanes_of, False), (None, True)):
            for home_epoch in sorted(self.homes, reverse=True):
                tree = self.trees[Section.OPEN if section is None else section(home_epoch)]
                data = tree.get(open_key(home_epoch, key) if name else key)
                if data is not None:
                    return view(Lane.read(data), self.homes[home_epoch], session, task, lane)
        return None

    def prove(self, section: Section, key: bytes) -> LedgerProof:
        """That a key of a section has its value, or none. Spec: [LEDGER-PROOF.1]"""
        value, siblings, beside = self.trees[section].prove(key)
        neighbour = None if beside is None else Neighbour(*beside)
        return LedgerProof(section, key, value, siblings, neighbour, self.sections)

    # A snapshot

    def pack(self) -> bytes:
        """See LedgerState."""
        trees = tuple(tuple(tree.items()) for tree in self.trees)
        nodes = tuple(_Node(*place, digest) for place, digest in self.nodes)
        mountain = self.mountain
        packed = _Packed(
            self.params_digest,
            self._course(),
            mountain.count,
            mountain.peaks,
            trees,
            self.decided,
            nodes,
            self.turned,
        )
        return packed.packed()


def ledger_root(sections: tuple[bytes, ...]) -> Digest:
    """One digest for all sections. Spec: [LEDGER-ROOT.1]"""
    return Digest(keccak(b"\x03" + b"".join(sections)))


def unpack_state(packed: bytes) -> State:
    """The state that was packed. Raises DecodeError."""
    stored = _Packed.read(packed)
    course = stored.course
    chains = {(chain.home_epoch, chain.oracle): chain for chain in course.chains}
    return State(
        Digest(stored.params),
        course.epoch,
        {home.epoch: tuple(map(NodeId, home.members)) for home in course.homes},
        tuple(map(NodeId, course.next_members)),
        {home: (chain.number, Digest(chain.digest)) for home, chain in chains.items() if chain.number},
        {home: chain.opened for home, chain in chains.items() if chain.opened},
        course.batches,
        Mountain(stored.count, tuple(map(Digest, stored.peaks))),
        tuple(SparseTree.of(items) for items in stored.trees),
        stored.decided,
        tuple(((node.level, node.index), Digest(node.digest)) for node in stored.nodes),
        stored.turned,
        course.anchored,
    )
