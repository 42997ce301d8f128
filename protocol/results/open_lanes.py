"""The lanes that an oracle has to do with, by their tasks, within bounds, until the ledger has decided them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from protocol.core.ids import NOBODY, NodeId
from protocol.core.params import Params
from protocol.messages.results import (
    CommitMessage,
    Observation,
    Papers,
    RevealMessage,
    SignedCommit,
)
from protocol.results.papers import Lane, Task, assigned

SOURCES_MAX = 4
PEER_SHARE = 8
"""One peer opens at most this part of all lanes, and sessions without a reservation half of them."""


@dataclass(slots=True)
class OpenLane:
    """What is known of a lane. Once it has a value, that never changes."""

    commit: SignedCommit | None = None
    """The one that counts."""
    number: int = -1
    """Of the assignment by which it is its miner's."""
    committed: CommitMessage | None = None
    revealed: RevealMessage | None = None
    """As they came, for oracles that did not get them."""
    value: Observation | None = None
    valued_ms: int = 0
    signed: bool = False
    """Whether the value is in a batch."""
    told: bool = False
    """Whether f+1 others have observed it: one of them is correct, so there is something to observe."""
    acked: int = 0
    """Tokens that the acks of the best opening so far add up to."""
    openings: int = 0
    sources: dict[int, None] = field(default_factory=dict)
    """The streams it came by, the newest last."""

    def commits_to(self, signed: SignedCommit) -> bool:
        """Whether the commit that counts is this one, whatever bytes its signature has."""
        return self.commit is not None and self.commit.commit == signed.commit

    def came_by(self, source: int | None) -> None:
        """Remember a stream."""
        if source is None:
            return
        self.sources.pop(source, None)
        self.sources[source] = None
        if len(self.sources) > SOURCES_MAX:
            del self.sources[next(iter(self.sources))]


@dataclass(slots=True)
class OpenTask:
    """The lanes of one order."""

    home_epoch: int
    peer: NodeId = NOBODY
    """Who was the first to speak of it, if it was a peer with papers."""
    reserved: bool = True
    papers: Papers | None = None
    """With the highest assignment that came."""
    closed: bool = False
    """No more commits are taken."""
    recorded: bool = False
    """Whether that is on the disk."""
    lanes: dict[int, OpenLane] = field(default_factory=dict)


class OpenLanes:
    """See the module. Spec: [OBSERVE-BOUNDS.1]"""

    def __init__(self, params: Params) -> None:
        self._max = params.lanes_observed_max
        self._count = 0
        self._unreserved = 0
        self._of_peer: Counter[NodeId] = Counter()
        self.tasks: dict[Task, OpenTask] = {}

    def __len__(self) -> int:
        return self._count

    def get(self, lane: Lane) -> OpenLane | None:
        """A lane, if it is open."""
        task = self.tasks.get(lane[:2])
        return None if task is None else task.lanes.get(lane[2])

    def admit(self, name: Task, papers: Papers, peer: NodeId, reserved: bool) -> OpenTask | None:
        """A task that a peer brings papers of; None where there is no room for it."""
        lanes = len(assigned(papers.assignment))
        if (
            self._count + lanes > self._max
            or self._of_peer[peer] + lanes > self._max // PEER_SHARE
            or (not reserved and self._unreserved + lanes > self._max // 2)
        ):
            return None
        return self.begin(name, OpenTask(papers.order.home_epoch, peer, reserved))

    def has_room(self) -> bool:
        """Whether another lane may be opened that no peer answers for."""
        return self._count < self._max

    def begin(self, name: Task, task: OpenTask) -> OpenTask:
        """A task without lanes so far."""
        self.tasks[name] = task
        return task

    def lane(self, name: Task, lane: int) -> OpenLane:
        """A lane of a task that is there, opened if it is not."""
        task = self.tasks[name]
        if lane not in task.lanes:
            task.lanes[lane] = OpenLane()
            self._add(task, 1)
        return task.lanes[lane]

    def drop(self, lane: Lane) -> bool:
        """A lane is decided; whether it was the last of its task."""
        name = lane[:2]
        task = self.tasks.get(name)
        if task is None or task.lanes.pop(lane[2], None) is None:
            return False
        self._add(task, -1)
        if task.lanes:
            return False
        del self.tasks[name]
        return True

    def drop_task(self, name: Task) -> None:
        """A task is of no home any more."""
        for lane in list(self.tasks[name].lanes):
            self.drop((*name, lane))
        self.tasks.pop(name, None)

    def all(self) -> Iterator[tuple[Lane, OpenTask, OpenLane]]:
        """Every open lane."""
        for name, task in self.tasks.items():
            for lane, found in task.lanes.items():
                yield (*name, lane), task, found

    def _add(self, task: OpenTask, lanes: int) -> None:
        self._count += lanes
        if not task.reserved:
            self._unreserved += lanes
        if task.peer != NOBODY:
            self._of_peer[task.peer] += lanes
            if not self._of_peer[task.peer]:
                del self._of_peer[task.peer]
