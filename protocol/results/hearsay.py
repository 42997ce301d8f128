"""What oracles said of lanes that are not decided: one value each, and the batch it stands in."""

from collections.abc import Iterable, Iterator

from protocol.core.ids import NodeId
from protocol.messages.committee import SignedBatch
from protocol.messages.results import Observation
from protocol.results.papers import Lane

Said = tuple[Observation, SignedBatch]


class Hearsay:
    """Bounded for each oracle: who says more loses what it said first."""

    def __init__(self, lanes_max: int) -> None:
        self._max = lanes_max
        self._said: dict[bytes, dict[Lane, dict[NodeId, Said]]] = {}
        self._by: dict[NodeId, dict[Lane, None]] = {}

    def __len__(self) -> int:
        return sum(len(lanes) for lanes in self._by.values())

    def add(self, lane: Lane, value: Observation, signed: SignedBatch) -> SignedBatch | None:
        """An oracle's value; gives the batch of its first if that was another."""
        oracle = NodeId(signed.batch.oracle)
        values = self._said.setdefault(lane[0], {}).setdefault(lane, {})
        first = values.setdefault(oracle, (value, signed))
        if first[0] != value:
            return first[1]
        mine = self._by.setdefault(oracle, {})
        mine[lane] = None
        if len(mine) > self._max:
            self._forget(oracle, next(iter(mine)))
        return None

    def oracles(self, lane: Lane, home_epoch: int | None = None) -> frozenset[NodeId]:
        """Who gave a lane a value, in a batch of one home epoch or of any."""
        said = self._said.get(lane[0], {}).get(lane, {})
        return frozenset(by for by, (_, signed) in said.items() if home_epoch in (None, signed.batch.home_epoch))

    def batches(self, session: bytes) -> Iterator[SignedBatch]:
        """The batches that speak of a session, each once."""
        seen: dict[bytes, None] = {}
        for values in self._said.get(session, {}).values():
            for _, signed in values.values():
                if signed.signature not in seen:
                    seen[signed.signature] = None
                    yield signed

    def drop(self, lane: Lane) -> None:
        """A lane is decided."""
        for oracle in self.oracles(lane):
            self._forget(oracle, lane)

    def keep(self, home_epochs: Iterable[int]) -> None:
        """Forget what was said in batches of other epochs."""
        kept = set(home_epochs)
        for lanes in list(self._said.values()):
            for lane, values in list(lanes.items()):
                for oracle, (_, signed) in list(values.items()):
                    if signed.batch.home_epoch not in kept:
                        self._forget(oracle, lane)

    def _forget(self, oracle: NodeId, lane: Lane) -> None:
        self._by[oracle].pop(lane, None)
        if not self._by[oracle]:
            del self._by[oracle]
        lanes = self._said[lane[0]]
        del lanes[lane][oracle]
        if not lanes[lane]:
            del lanes[lane]
        if not lanes:
            del self._said[lane[0]]
