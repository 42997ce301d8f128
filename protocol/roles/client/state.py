"""What a client holds of its routers, sessions and tasks. Data only; the rules are beside it."""

from dataclasses import dataclass, field

from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId, SessionId
from protocol.core.machine import Channel
from protocol.messages.sessions import Assignment, SessionOpen
from protocol.messages.tasks import TaskOrder
from protocol.roles.client.events import Handle
from protocol.session.lifecycle import (
    Lifecycle,
    SessionFact,
    SessionState,
    TaskFact,
    TaskState,
    session_lifecycle,
    task_lifecycle,
)
from protocol.session.transcript import LaneVerifier


@dataclass(slots=True)
class Router:
    """A router that was greeted, or is being."""

    handle: Handle
    node: NodeId
    channel: Channel
    expected_network: bytes | None
    genesis: Genesis | None = None
    sessions: dict[SessionId, "Session"] = field(default_factory=dict)


@dataclass(slots=True)
class Session:
    """A session that was asked for, or stands."""

    handle: Handle
    id: SessionId
    opening: SessionOpen
    router: Router
    life: Lifecycle[SessionState, SessionFact] = field(default_factory=session_lifecycle)
    assignment: Assignment | None = None
    orders: int = 0
    tasks: dict[int, "Task"] = field(default_factory=dict)


@dataclass(slots=True)
class Task:
    """An order that has not come to its end."""

    handle: Handle
    order: TaskOrder
    session: Session
    verifier: LaneVerifier
    life: Lifecycle[TaskState, TaskFact] = field(default_factory=task_lifecycle)
    acked: int = 0
    frames: int = 0
