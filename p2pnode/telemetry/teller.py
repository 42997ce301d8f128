"""What the roles' stories are told with: whose they are, by which clock, and to whom."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from p2pnode.telemetry.span import Attribute, Link, Sink, Span, span_id
from protocol.core.ids import NodeId
from protocol.session.lifecycle import TERMINAL_CODES

OPEN_MAX = 4_096
"""Tasks, sessions or lanes that one role is known to be at; the oldest of more is forgotten, and never told."""

K = TypeVar("K")
V = TypeVar("V")


class Table(Generic[K, V]):
    """What is under way, by name; bounded."""

    def __init__(self, size_max: int = OPEN_MAX) -> None:
        self._size_max = size_max
        self._held: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def put(self, name: K, value: V) -> V:
        """Hold it from now on."""
        self._held[name] = value
        if len(self._held) > self._size_max:
            self._held.popitem(last=False)
        return value

    def get(self, name: K) -> V | None:
        """What is held under a name."""
        return self._held.get(name)

    def pop(self, name: K) -> V | None:
        """The same, and it is held no more."""
        return self._held.pop(name, None)


@dataclass(frozen=True, slots=True)
class Teller:
    """For one role of one node."""

    role: str
    node: NodeId
    now_ns: Callable[[], int]
    sink: Sink

    def tell(
        self,
        name: str,
        session: bytes,
        task: int,
        start_ns: int,
        *,
        part: str = "",
        lane: int = 0,
        parent: bytes | None = None,
        code: str = "",
        end_ns: int | None = None,
        links: tuple[Link, ...] = (),
        attributes: dict[str, Attribute] | None = None,
    ) -> None:
        """A stretch is over. ``part``: of the role's own span, under which it stands."""
        role = of_lane(self.role, lane)
        if part:
            parent = span_id(session, task, role, self.node)
            role = f"{role}/{part}"
        given = {**(attributes or {}), "lane": lane} if lane else attributes or {}
        end_ns = self.now_ns() if end_ns is None else end_ns
        self.sink(Span(name, role, self.node, session, task, start_ns, end_ns, parent, known_code(code), given, links))


def of_lane(role: str, lane: int) -> str:
    """The role as spans of a lane name it: one node may run several lanes of a task, one after the other."""
    return f"{role}.{lane}" if lane else role


def known_code(code: str) -> str:
    """A terminal code, whatever a peer sent for one."""
    return code if not code or code in TERMINAL_CODES else "other"
