"""A router's sessions and the orders that it relays."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from p2pnode.telemetry.span import Attribute, span_id
from p2pnode.telemetry.tap import Take
from p2pnode.telemetry.teller import Table, Teller
from protocol.core.signing import Domain
from protocol.messages.sessions import OpenSession, SessionEnded, SessionReady, session_id
from protocol.messages.tasks import EndRecord, FrameMessage, LaneEnded, SegmentStart, StartTask, SubmitTask, TaskFailed


@dataclass(slots=True)
class _Session:
    start_ns: int
    client: bytes
    model: bytes
    lanes: int
    ready: bool = False


@dataclass(slots=True)
class _Order:
    start_ns: int
    started_ns: int | None = None
    """When a miner was first handed it."""
    starts: int = 0
    """Times that a miner was handed it, second starts beside a slow one included."""
    bound: set[bytes] = field(default_factory=set)
    """The leases under which it was worked on, as its client saw: more than one after a failover."""
    resumed: int = 0
    first_ns: int | None = None
    miner: bytes = b""


class RouterWork:
    """Hears a router's machine."""

    def __init__(self, teller: Teller, domain: Domain) -> None:
        self._teller = teller
        self._domain = domain
        self._sessions: Table[bytes, _Session] = Table()
        self._orders: Table[tuple[bytes, int], _Order] = Table()
        self.events: Mapping[type, Take] = {}
        self.effects: Mapping[type, Take] = {}
        self.received: Mapping[type, Take] = {
            OpenSession: self._opened,
            SubmitTask: self._submitted,
            LaneEnded: self._lane_ended,
        }
        self.sent: Mapping[type, Take] = {
            SessionReady: self._ready,
            SessionEnded: self._session_ended,
            StartTask: self._started,
            SegmentStart: self._bound,
            FrameMessage: self._frame,
            TaskFailed: self._failed,
        }

    # Sessions

    def _opened(self, message: OpenSession) -> None:
        opening = message.opening
        session = _Session(self._teller.now_ns(), opening.client, opening.model, opening.lanes)
        self._sessions.put(session_id(self._domain, opening), session)

    def _ready(self, message: SessionReady) -> None:
        name = message.assignment.session
        session = self._sessions.get(name)
        if session is None or session.ready:
            return
        session.ready = True
        self._tell_session(name, session, "", {"miner": "0x" + message.assignment.miners[0].hex()})

    def _session_ended(self, message: SessionEnded) -> None:
        session = self._sessions.pop(message.session)
        if session is not None and not session.ready:
            self._tell_session(message.session, session, message.code, {})

    def _tell_session(self, name: bytes, session: _Session, code: str, more: dict[str, Attribute]) -> None:
        parent = span_id(name, 0, "client", session.client)
        attributes: dict[str, Attribute] = {"model": session.model.hex(), "lanes": session.lanes, **more}
        self._teller.tell("session", name, 0, session.start_ns, parent=parent, code=code, attributes=attributes)

    # Orders

    def _submitted(self, message: SubmitTask) -> None:
        name = (message.order.session, message.order.task)
        if self._orders.get(name) is None:
            self._orders.put(name, _Order(self._teller.now_ns()))

    def _started(self, message: StartTask) -> None:
        order = self._orders.get((message.order.session, message.order.task))
        if order is None or message.lane:
            return
        order.starts += 1
        if message.resume is not None:
            order.resumed = max(order.resumed, len(message.resume.ids))
        if order.started_ns is None:
            order.started_ns = self._teller.now_ns()
            self._teller.tell("queue", message.order.session, message.order.task, order.start_ns, part="queue")

    def _bound(self, message: SegmentStart) -> None:
        order = self._orders.get((message.head.session, message.head.task))
        if order is not None:
            order.bound.add(message.head.generation)
            order.miner = message.head.miner

    def _frame(self, message: FrameMessage) -> None:
        name = (message.session, message.task)
        order = self._orders.get(name)
        if order is None:
            return
        if order.first_ns is None:
            order.first_ns = self._teller.now_ns()
        if message.end is not None:
            self._over(name, order, message.end, "")

    def _lane_ended(self, message: LaneEnded) -> None:
        """A miner's word that it streamed lane 0 to the client itself."""
        name = (message.head.session, message.head.task)
        order = self._orders.get(name)
        if order is not None and message.head.lane == 0:
            self._over(name, order, message.end, "")

    def _failed(self, message: TaskFailed) -> None:
        name = (message.session, message.task)
        order = self._orders.get(name)
        if order is not None:
            self._over(name, order, None, message.code)

    def _over(self, name: tuple[bytes, int], order: _Order, end: EndRecord | None, code: str) -> None:
        self._orders.pop(name)
        session = self._sessions.get(name[0])
        attributes: dict[str, Attribute] = {"attempts": len(order.bound), "starts": order.starts}
        if session is not None:
            attributes["model"] = session.model.hex()
        if order.miner:
            attributes["miner"] = "0x" + order.miner.hex()
        if order.resumed:
            attributes["resumed_tokens"] = order.resumed
        if order.first_ns is not None:
            attributes["first_token_us"] = (order.first_ns - order.start_ns) // 1_000
        if end is not None:
            attributes["finish"] = end.reason.name.lower()
            attributes["prompt_tokens"] = end.prompt_tokens
            attributes["completion_tokens"] = end.completion_tokens
            attributes["cached_tokens"] = end.cached_tokens
        parent = span_id(*name, "client", session.client) if session is not None else None
        self._teller.tell("relay", *name, order.start_ns, parent=parent, code=code, attributes=attributes)
