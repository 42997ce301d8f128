"""Which steps a session and a task may take, in one role-blind table.

Router, miner and client run the same two tables; each reports the facts it sees. A fact that has no place in
the table is the peer's fault, and nothing else in the program decides about order. SPEC.md's diagrams are
generated from here.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from protocol.core.errors import RemoteProtocolError

S = TypeVar("S", bound=StrEnum)
F = TypeVar("F", bound=StrEnum)


class SessionState(StrEnum):
    """Where a session stands."""

    NEW = "new"
    OPEN = "open"
    BIDDING = "bidding"
    LEASING = "leasing"
    READY = "ready"
    RESTING = "resting"
    ENDED = "ended"


class SessionFact(StrEnum):
    """What happens to a session."""

    OPENED = "opened"
    """The client's signed SessionOpen was taken."""
    ANNOUNCED = "announced"
    """Bids are asked for."""
    CLOSED = "bids closed"
    """The bid set is fixed."""
    STARVED = "starved"
    """No bid or no lease: it waits for the next round."""
    LOST = "miner lost"
    """The leased miner died, stalled or broke its chain: the next one takes over."""
    RESTED = "lease ran out"
    """Nothing ran for so long that the miner took its slot back; the next order looks for miners again."""
    ASSIGNED = "assigned"
    """Miners are leased and named in a signed assignment."""
    ENDED = "ended"
    """Closed, refused, expired, or its miner is lost."""


class TaskState(StrEnum):
    """Where a task stands."""

    NEW = "new"
    QUEUED = "queued"
    STARTED = "started"
    STREAMING = "streaming"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class TaskFact(StrEnum):
    """What happens to a task."""

    ORDERED = "ordered"
    """The client's signed order was taken."""
    STARTED = "started"
    """Handed to the leased miner."""
    HEAD = "segment head"
    FRAME = "frame"
    END = "signed end"
    CANCELLED_END = "signed end after cancellation"
    REPORTED = "end reported"
    """The signed end of a lane whose frames went to the client directly."""
    FAILED = "failed"
    """A terminal event without a signed end: refused, late, miner or router lost."""


SESSION_TABLE: Mapping[SessionState, Mapping[SessionFact, SessionState]] = {
    SessionState.NEW: {SessionFact.OPENED: SessionState.OPEN, SessionFact.ENDED: SessionState.ENDED},
    SessionState.OPEN: {SessionFact.ANNOUNCED: SessionState.BIDDING, SessionFact.ENDED: SessionState.ENDED},
    SessionState.BIDDING: {
        SessionFact.CLOSED: SessionState.LEASING,
        SessionFact.STARVED: SessionState.OPEN,
        SessionFact.ENDED: SessionState.ENDED,
    },
    SessionState.LEASING: {
        SessionFact.ASSIGNED: SessionState.READY,
        SessionFact.STARVED: SessionState.OPEN,
        SessionFact.ENDED: SessionState.ENDED,
    },
    SessionState.READY: {
        SessionFact.LOST: SessionState.LEASING,
        SessionFact.RESTED: SessionState.RESTING,
        SessionFact.ENDED: SessionState.ENDED,
    },
    SessionState.RESTING: {SessionFact.ANNOUNCED: SessionState.BIDDING, SessionFact.ENDED: SessionState.ENDED},
    SessionState.ENDED: {},
}

TASK_TABLE: Mapping[TaskState, Mapping[TaskFact, TaskState]] = {
    TaskState.NEW: {TaskFact.ORDERED: TaskState.QUEUED, TaskFact.FAILED: TaskState.FAILED},
    TaskState.QUEUED: {TaskFact.STARTED: TaskState.STARTED, TaskFact.FAILED: TaskState.FAILED},
    TaskState.STARTED: {
        TaskFact.HEAD: TaskState.STREAMING,
        TaskFact.REPORTED: TaskState.DONE,
        TaskFact.FAILED: TaskState.FAILED,
    },
    TaskState.STREAMING: {
        TaskFact.HEAD: TaskState.STREAMING,
        TaskFact.FRAME: TaskState.STREAMING,
        TaskFact.END: TaskState.DONE,
        TaskFact.CANCELLED_END: TaskState.CANCELLED,
        TaskFact.REPORTED: TaskState.DONE,
        TaskFact.FAILED: TaskState.FAILED,
    },
    TaskState.DONE: {},
    TaskState.CANCELLED: {},
    TaskState.FAILED: {},
}

TERMINAL_CODES: Mapping[str, str] = {
    "bad_request": "the request breaks a rule; sending it again will not help",
    "model_not_found": "no miner the router knows serves the model",
    "no_capacity": "every miner is busy; try again after retry_after_ms",
    "queue_full": "the router's queue is full; try again after retry_after_ms",
    "rate_limited": "this client has too much open at the router",
    "prompt_too_long": "prompt and requested tokens exceed the model's context",
    "schema_refused": "the miner's engine cannot hold an answer to the schema",
    "tools_refused": "the model has no place for tools",
    "deadline_exceeded": "the request's own deadline passed",
    "cancelled": "stopped as its client asked, before the first token",
    "miner_lost": "the miner stopped answering or broke its transcript",
    "router_lost": "the connection to the router ended",
    "engine_failed": "the miner's engine could not run the request",
    "ack_timeout": "the client stopped acknowledging",
    "unreserved": "the miner gives no more credit: the ledger holds no reservation of the session, or it is used up",
    "session_closed": "the session ended as its client asked",
    "session_expired": "the session's lifetime or idle time is over",
    "shutting_down": "the node is being stopped",
    "transcript_broken": "a frame did not hold; nothing after it was shown",
}
"""Every code a session or task can end with, beside a signed end. Codes are stable."""


class Lifecycle(Generic[S, F]):
    """One walk through a table."""

    def __init__(self, table: Mapping[S, Mapping[F, S]], start: S) -> None:
        self._table = table
        self.state = start

    def allows(self, fact: F) -> bool:
        """Whether the table has a place for the fact now."""
        return fact in self._table[self.state]

    def take(self, fact: F) -> S:
        """Move on by a fact. Raises RemoteProtocolError when it has no place. Spec: [LIFECYCLE-TABLE.1]"""
        following = self._table[self.state].get(fact)
        if following is None:
            raise RemoteProtocolError(f"{fact.value!r} has no place in state {self.state.value!r}")
        self.state = following
        return following

    @property
    def over(self) -> bool:
        """Whether nothing can happen any more."""
        return not self._table[self.state]


def session_lifecycle() -> Lifecycle[SessionState, SessionFact]:
    """A session's walk from its start."""
    return Lifecycle(SESSION_TABLE, SessionState.NEW)


def task_lifecycle() -> Lifecycle[TaskState, TaskFact]:
    """A task's walk from its start."""
    return Lifecycle(TASK_TABLE, TaskState.NEW)
