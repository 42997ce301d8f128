"""The nodes of the counting mode: production's machines, with what ten thousand of them share in one process."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from p2pnode.sim.committee_node import load
from p2pnode.sim.crypto import Key
from p2pnode.sim.fast_path import NodeProgram
from p2pnode.sim.host import Boot, Host, Part
from p2pnode.sim.results_node import ProvingMiner, signer_log
from protocol.committee.members import Committee
from protocol.committee.signer import Signer
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.machine import PeerConnected
from protocol.core.sparse import SparseTree
from protocol.ledger import Ledger, LedgerState, Section
from protocol.ledger.pool import genesis_miner
from protocol.light.handovers import HandOverBook
from protocol.messages.adverts import Advert
from protocol.messages.envelope import Envelope, seal
from protocol.roles.miner import MinerMachine
from protocol.roles.oracle import OracleMachine, OracleSettings
from protocol.roles.peer import PeerMachine
from protocol.roles.router import RouterMachine, RouterSettings
from protocol.session.adverts import NOBODY, AdvertBook, Taken


class StandingBook(AdvertBook):
    """A book that is written once and takes in nothing more: all nodes but routers share it."""

    def fill(self, adverts: Sequence[tuple[Advert, Envelope]], now_ms: int) -> None:
        """Write it."""
        for advert, envelope in adverts:
            AdvertBook.add(self, advert, envelope, now_ms)

    def add(self, advert: Advert, envelope: Envelope, now_ms: int, connected: object = NOBODY) -> Taken:
        """Nothing is new here."""
        return Taken.NOT_NEWER

    def expire(self, now_ms: int) -> tuple[NodeId, ...]:
        """Nothing expires."""
        return ()

    def next_deadline(self) -> int | None:
        """Never."""
        return None


def standing_book(genesis: Genesis, adverts: Sequence[tuple[Key, Advert]]) -> StandingBook:
    """The book of a network in which everybody knows everybody."""
    book, domain = StandingBook(genesis.params, bytes(16)), genesis.domain()
    book.fill([(advert, seal(domain, key.sign, advert)) for key, advert in adverts], 1)
    return book


class StandingLedger(Ledger):
    """A ledger that begins with a pool of miners that were tested long ago: more than a genesis file has room for.

    All oracles of a world share it, and its first state.
    """

    def __init__(self, genesis: Genesis, miners: Sequence[NodeId]) -> None:
        super().__init__(genesis.domain(), genesis.params, genesis)
        self._miners = miners
        self._first: LedgerState | None = None

    def genesis(self, committee: Committee) -> LedgerState:
        """See Payload."""
        if self._first is None:
            state = super().genesis(committee)
            trees = list(state.trees)
            trees[Section.MINERS] = SparseTree.of((miner, genesis_miner(miner).packed()) for miner in self._miners)
            self._first = replace(state, trees=tuple(trees))
        return self._first


@dataclass(frozen=True, slots=True)
class CountingMiner(ProvingMiner):
    """A miner that is in the pool already."""

    standing: AdvertBook | None = None

    def book(self, boot: Boot) -> AdvertBook:
        """See NodeProgram."""
        assert self.standing is not None
        return self.standing

    def start(self, boot: Boot) -> Sequence[Part]:
        """See Program."""
        parts = _in_the_mesh(ProvingMiner.start(self, boot), self.genesis, boot)
        for part in parts:
            if isinstance(part.machine, MinerMachine):
                part.machine._proving._enlisting._offers = ()
        return parts


@dataclass(frozen=True, slots=True)
class CountingRouter(NodeProgram):
    """A router."""

    def start(self, boot: Boot) -> Sequence[Part]:
        """See Program."""
        genesis, book = self.genesis, self.book(boot)
        followed = HandOverBook(genesis) if genesis.committee else None
        settings = RouterSettings(self.key.node_id, (self.address,), genesis.to_json(), followed=followed)
        machine = RouterMachine(settings, genesis.domain(), genesis.params, self.key.sign, book)
        return _in_the_mesh([Part(machine), self.peer(book)], genesis, boot)


@dataclass(slots=True)
class CountingOracle:
    """An oracle. ``host`` is set as soon as there is one."""

    key: Key
    genesis: Genesis
    ledger: Ledger
    address: str
    standing: AdvertBook
    host: Host | None = field(default=None)

    def start(self, boot: Boot) -> Sequence[Part]:
        """See Program."""
        assert self.host is not None
        genesis, key, records = self.genesis, self.key, self.host.disk.records
        signer = Signer(genesis.domain(), key.node_id, key.sign, signer_log(records))
        loading = partial(load, records)
        settings = OracleSettings(key.node_id, genesis.committee, self.ledger, signer, None, loading)
        machine = OracleMachine(settings, genesis.domain(), genesis.params, key.sign, boot.now_ms)
        peer = NodeProgram(key, genesis, "oracle", self.address).peer(self.standing)
        return _in_the_mesh([Part(machine), peer], genesis, boot)


def _in_the_mesh(parts: Sequence[Part], genesis: Genesis, boot: Boot) -> Sequence[Part]:
    """The links of the mesh are no connections of the world: each node is told of one, or it would take the first
    that it meets later for the one that lets it speak at all."""
    for part in parts:
        if isinstance(part.machine, PeerMachine):
            part.machine.handle(PeerConnected(NodeId(genesis.network_id()[:20])), boot.now_ms)
    return parts
