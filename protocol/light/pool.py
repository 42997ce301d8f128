"""The node pool as a router follows it: a copy of its section's tree, changed as oracles say and checked by root.

One oracle's word is enough, because it proves itself: the changes lead to the root that 2f+1 members signed, or they
are not taken. An oracle can only keep news back, and that shows where another one has a later header.
"""

from protocol.core.errors import DecodeError, RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, ModelDigest, NodeId
from protocol.core.params import Params
from protocol.core.sparse import EMPTY_TREE, SparseTree
from protocol.ledger.miners import Miner, PoolState
from protocol.ledger.records import Section
from protocol.ledger.state import ledger_root
from protocol.light.headers import HeaderTrust, place
from protocol.messages.committee import Certified, Header
from protocol.messages.results import LedgerNews

ANY_MODEL = ModelDigest(ZERO_DIGEST)
"""Stands for the model of miners that the genesis lists: they serve what they say they serve, until they enlist."""


class PoolError(RemoteProtocolError):
    """News of the pool that do not lead to the root of the header they come with."""

    code = "remote/pool"


class PoolFollower:
    """See the module. Spec: [POOL-FOLLOW.1]"""

    def __init__(self, params: Params, trust: HeaderTrust) -> None:
        self._params = params
        self._trust = trust
        self.certified: Certified | None = None
        """The latest final header, from whatever oracle."""
        self.header: Header | None = None
        """The one to which the pool belongs; none before the first."""
        self._tree = EMPTY_TREE
        self._served: dict[NodeId, ModelDigest] = {}
        """The miners that are available, and what they are tested for."""
        self._available: dict[ModelDigest, set[NodeId]] = {}
        """The same by model."""
        self._told: tuple[Header, SparseTree] | None = None
        """What the oracle that is asked has told; it may be behind one that was asked before. None: it tells all."""
        self._building: tuple[Header, SparseTree, int] | None = None
        """Changes of a header of which more are to come, and how many there were."""

    def __len__(self) -> int:
        return len(self._tree)

    @property
    def newest(self) -> Header | None:
        """The latest final header that was seen, whether the pool is as far or not."""
        return self.certified.header if self.certified is not None else None

    def available(self, miner: NodeId, model: bytes) -> bool:
        """Whether a miner may bid for sessions of a model. Spec: [POOL-GATE.1]"""
        return self._served.get(miner) in (ModelDigest(model), ANY_MODEL)

    def count(self, model: bytes) -> int:
        """How many may."""
        of_any = self._available.get(ANY_MODEL, ())
        return len(self._available.get(ModelDigest(model), ())) + len(of_any)

    def see(self, certified: Certified) -> bool:
        """Take note of a final header; whether it is later than all before. Raises CommitteeError, SignatureError."""
        header = self._trust.check(certified)
        if self.newest is not None and place(header) <= place(self.newest):
            return False
        self.certified = certified
        return True

    def restart(self) -> None:
        """Another oracle is asked, or the same anew: what comes next is all of the pool."""
        self._told = self._building = None

    def take(self, news: LedgerNews) -> bool:
        """Take what the oracle that is asked tells; whether the pool has come further.

        After anything that does not hold the pool stays as it was, and is to be asked for anew. Raises PoolError,
        CommitteeError, SignatureError. Spec: [POOL-FOLLOW.1]
        """
        try:
            return self._take(news)
        except RemoteProtocolError:
            self.restart()
            raise

    def _take(self, news: LedgerNews) -> bool:
        self.see(news.certified)
        header, told = self._trust.check(news.certified), self._told
        if told is not None and place(header) <= place(told[0]):
            raise PoolError("a header that is not later than the one before")
        building, tree, count = self._building or (header, told[1] if told is not None else EMPTY_TREE, 0)
        if header != building:
            raise PoolError("changes of another header, before those of the last one were all there")
        count += len(news.changes)
        if count > 2 * self._params.miners_max:
            raise PoolError(f"{count} changes of a pool of at most {self._params.miners_max} miners")
        tree = tree.updated((change.key, change.value) for change in news.changes)
        if news.more:
            self._building = (header, tree, count)
            return False
        if len(news.sections) != len(Section) or ledger_root(news.sections) != header.ledger_root:
            raise PoolError("the sections are not those of the header's ledger")
        if tree.root != news.sections[Section.MINERS]:
            raise PoolError("the changes do not lead to the pool's root")
        self._building, self._told = None, (header, tree)
        return self._adopt(header, tree)

    def _adopt(self, header: Header, tree: SparseTree) -> bool:
        if self.header is not None and place(header) <= place(self.header):
            return False
        for key, value in tree.diff(self._tree):
            self._list(NodeId(key), _tested_for(value))
        self.header, self._tree = header, tree
        return True

    def _list(self, miner: NodeId, model: ModelDigest | None) -> None:
        before = self._served.pop(miner, None)
        if before is not None:
            self._available[before].discard(miner)
            if not self._available[before]:
                del self._available[before]
        if model is not None:
            self._served[miner] = model
            self._available.setdefault(model, set()).add(miner)


def _tested_for(value: bytes | None) -> ModelDigest | None:
    """The model for which a pool record says its miner is available; None if it is not."""
    if value is None:
        return None
    try:
        record = Miner.read(value)
    except DecodeError:
        # 2f+1 members signed it: whatever it is, it names nobody as available.
        return None
    return ModelDigest(record.model) if record.state is PoolState.AVAILABLE else None
