"""Commits that came by gossip, without papers: held for a while, in case the papers come."""

from collections import Counter

from protocol.core.deadlines import Deadlines
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.messages.results import COMMITS_MAX, Commit, SignedCommit
from protocol.results.papers import Task

MINER_MAX = 4 * COMMITS_MAX
"""Of one miner."""

_Place = tuple[int, bytes, bytes]


class BareCommits:
    """Bounded in all and for each miner; nothing of them is checked before there are papers. Spec: [COMMIT-BARE.1]"""

    def __init__(self, params: Params) -> None:
        self._max = params.lanes_observed_max
        self._window_ms = params.commit_window_ms
        self._held: dict[Task, dict[_Place, SignedCommit]] = {}
        self._of_miner: Counter[NodeId] = Counter()
        self._count = 0
        self._until: Deadlines[Task] = Deadlines()

    def __len__(self) -> int:
        return self._count

    def next_deadline(self) -> int | None:
        """When some are too old."""
        return self._until.next()

    def expire(self, now_ms: int) -> None:
        """Drop those for which no papers came in time."""
        for task in self._until.due(now_ms):
            self.take(task)

    def hold(self, task: Task, signed: SignedCommit, now_ms: int) -> SignedCommit | None:
        """Hold a commit; gives the first one of its place if that was another."""
        commit = signed.commit
        miner, place = NodeId(commit.miner), _place(commit)
        first = self._held.get(task, {}).get(place)
        if first is not None:
            return None if first.commit == commit else first
        if len(self) >= self._max or self._of_miner[miner] >= MINER_MAX:
            return None
        self._held.setdefault(task, {})[place] = signed
        self._of_miner[miner] += 1
        self._count += 1
        if self._until.at(task) is None:
            self._until.set(task, now_ms + self._window_ms)
        return None

    def of(self, task: Task) -> list[SignedCommit]:
        """Those of a task, in the order in which they came."""
        return list(self._held.get(task, {}).values())

    def take(self, task: Task) -> None:
        """A task needs none any more."""
        self._until.clear(task)
        for signed in self._held.pop(task, {}).values():
            miner = NodeId(signed.commit.miner)
            self._of_miner[miner] -= 1
            self._count -= 1
            if not self._of_miner[miner]:
                del self._of_miner[miner]


def _place(commit: Commit) -> _Place:
    return commit.lane, commit.generation, commit.miner
