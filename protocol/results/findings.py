"""What an oracle's desk finds, and what it has to know of the ledger."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from protocol.core.ids import NodeId
from protocol.messages.results import Observation, Opening
from protocol.results.evidence import ResultEvidence
from protocol.results.papers import Lane, Task


class Known(Protocol):
    """What the finalized ledger says."""

    @property
    def homes(self) -> Mapping[int, tuple[NodeId, ...]]:
        """The oracles by home epoch, of the epochs whose lanes may still be decided."""

    def spoken(self, lane: Lane, home_epoch: int | None = None) -> Collection[NodeId]:
        """The oracles whose value of a lane is in it, by batches of one home epoch or of any."""

    def decided(self, lane: Lane) -> bool:
        """Whether the verdict on a lane is in it."""

    def reserved(self, session: bytes) -> bool:
        """Whether a session has a reservation."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A lane has its value, and the opening that shows it if it is OK."""

    lane: Lane
    home_epoch: int
    value: Observation
    opening: Opening | None = None


@dataclass(frozen=True, slots=True)
class Reopened:
    """An opening of a lane that was observed, with more acks than the one before."""

    opening: Opening


@dataclass(frozen=True, slots=True)
class CommitsClosed:
    """No more commits of a task are taken: when that is durable, the miners on these streams are to open theirs."""

    task: Task
    record: tuple[bytes, bytes] | None
    """None if it was durable before."""
    sources: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that is of no use any more."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Contradicted:
    """Somebody signed what no correct node does."""

    evidence: ResultEvidence


Finding = Observed | Reopened | CommitsClosed | Dropped | Contradicted
