"""A span: one stretch of a task's life in one process, under ids that every process derives alike.

No id travels on the wire: client, router, miner and oracles know the session, the task and each other's node ids, and
that is what ids are made of. So the spans of one task join into one trace, whoever wrote which.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from protocol.core.ids import NodeId

_TRACE = b"p2pnode/trace/1"
_SPAN = b"p2pnode/span/1"

HTTP = "http"
"""The role that an HTTP request's span has; orders stand under it where HTTP is what they come from."""

Attribute = str | int | bool


@dataclass(frozen=True, slots=True)
class Link:
    """A span elsewhere that this one belongs with, such as the one of an HTTP request's ``traceparent``."""

    trace_id: bytes
    span_id: bytes


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch that is over. ``role`` and ``node`` say whose it is; with session and task they are its id."""

    name: str
    """``order``, ``relay``, ``generation`` and so on."""
    role: str
    node: NodeId
    session: bytes
    """Empty where it came to none: such a span is counted and logged, and is of no trace."""
    task: int
    """0: of the session itself."""
    start_ns: int
    end_ns: int
    parent: bytes | None = None
    """A span id of the same trace."""
    code: str = ""
    """Why it failed, by one of the lifecycle's terminal codes; empty where it did not."""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    links: tuple[Link, ...] = ()

    @property
    def trace_id(self) -> bytes:
        """16 bytes: of the whole task, or of the session."""
        return trace_id(self.session, self.task)

    @property
    def span_id(self) -> bytes:
        """8 bytes."""
        return span_id(self.session, self.task, self.role, self.node)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9


Sink = Callable[[Span], None]
"""Takes a span that is over; must neither block nor raise."""


def trace_id(session: bytes, task: int) -> bytes:
    """The trace of a task; of a session where the task is 0."""
    return hashlib.sha256(_TRACE + session + task.to_bytes(8, "big")).digest()[:16]


def span_id(session: bytes, task: int, role: str, node: bytes) -> bytes:
    """The span of one role at one node. A role's own parts are named after it: ``miner/prefill``."""
    return hashlib.sha256(_SPAN + session + task.to_bytes(8, "big") + role.encode() + node).digest()[:8]


def in_json(span: Span) -> dict[str, Any]:
    """A span as it stands in a file of spans."""
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_span_id": span.parent.hex() if span.parent is not None else None,
        "name": span.name,
        "role": span.role,
        "node": "0x" + span.node.hex(),
        "session": span.session.hex(),
        "task": span.task,
        "start_unix_nano": span.start_ns,
        "end_unix_nano": span.end_ns,
        "code": span.code,
        "attributes": dict(span.attributes),
        "links": [{"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex()} for link in span.links],
    }
