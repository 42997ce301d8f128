"""A node pool as oracles keep it, and the news of it that they send to a router."""

from collections.abc import Iterable

from protocol.core.ids import ZERO_DIGEST, NodeId
from protocol.core.signing import keccak
from protocol.core.sparse import EMPTY_TREE, SparseTree
from protocol.ledger.miners import Miner, PoolState
from protocol.ledger.records import Section
from protocol.ledger.state import ledger_root
from protocol.ledger.statistics import Statistics
from protocol.messages.results import Change, LedgerNews
from tests.unit.protocol.light_at_hand import EPOCH, certify, header_of


def record_of(model: bytes = ZERO_DIGEST, state: PoolState = PoolState.AVAILABLE, owner: bytes = b"\x01" * 20) -> bytes:
    """A miner's record in the pool."""
    return Miner(owner, model, 2, 10, 0, state, 1, 1, 0, None, 10, 100, Statistics(1)).packed()


class Pool:
    """The pool's section as the committee has it, height by height."""

    def __init__(self, available: Iterable[NodeId] = (), height: int = 10) -> None:
        self.height = height
        self.tree: SparseTree = EMPTY_TREE
        self.sent: SparseTree = EMPTY_TREE
        for miner in available:
            self.tree = self.tree.set(miner, record_of())

    @property
    def sections(self) -> tuple[bytes, ...]:
        """The roots of all sections."""
        roots = [keccak(bytes([section])) for section in Section]
        roots[Section.MINERS] = self.tree.root
        return tuple(roots)

    def news(self, *, all_of_it: bool = False, page: int = 512, epoch: int = EPOCH) -> list[LedgerNews]:
        """The next height, as it is told to whoever was told all before; each page with so many changes."""
        self.height += 1
        base = EMPTY_TREE if all_of_it else self.sent
        self.sent = self.tree
        changes = [Change(key, value) for key, value in self.tree.diff(base)]
        certified = certify(header_of(self.height, epoch, ledger_root=ledger_root(self.sections)))
        pages = [tuple(changes[at : at + page]) for at in range(0, len(changes), page)] or [()]
        return [LedgerNews(certified, self.sections, part, part is not pages[-1]) for part in pages]
