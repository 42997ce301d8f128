"""A client's sessions and orders, from the wish to the level that an answer comes to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from p2pnode.telemetry.span import Attribute, Link, span_id, trace_id
from p2pnode.telemetry.tap import Take
from p2pnode.telemetry.teller import Table, Teller
from protocol.messages.tasks import SubmitTask
from protocol.roles.client import (
    AskTask,
    Deliver,
    OpenAsked,
    SessionAssigned,
    SessionOver,
    TaskHead,
    TaskLevel,
    TaskOver,
    TaskText,
)

RISING_MAX = 1_024


@dataclass(slots=True)
class _Session:
    start_ns: int
    model: bytes
    id: bytes = b""


@dataclass(slots=True)
class _Order:
    start_ns: int
    nonce: bytes
    session: _Session | None
    number: int = 0
    miners: list[bytes] = field(default_factory=list)
    """Each that bound the order, in turn: more than one after a failover."""
    resumed: int = 0
    first_ns: int | None = None


@dataclass(slots=True)
class _Rising:
    session: bytes
    number: int
    end_ns: int
    told: set[str] = field(default_factory=set)


class ClientWork:
    """Hears a client's machine. ``under``: the role of the same process whose requests its orders come from."""

    def __init__(self, teller: Teller, under: str = "") -> None:
        self._teller = teller
        self._under = under
        self._sessions: Table[int, _Session] = Table()
        self._orders: Table[int, _Order] = Table()
        self._by_nonce: Table[bytes, _Order] = Table()
        self._rising: Table[int, _Rising] = Table(RISING_MAX)
        self.received: Mapping[type, Take] = {}
        self.sent: Mapping[type, Take] = {SubmitTask: self._submitted}
        self.events: Mapping[type, Take] = {OpenAsked: self._opened, AskTask: self._asked}
        self.effects: Mapping[type, Take] = {Deliver: self._delivered}
        self._items: Mapping[type, Take] = {
            SessionAssigned: self._assigned,
            SessionOver: self._session_over,
            TaskHead: self._bound,
            TaskText: self._text,
            TaskOver: self._over,
            TaskLevel: self._rose,
        }
        self._handle = 0

    def _opened(self, event: OpenAsked) -> None:
        self._sessions.put(event.handle, _Session(self._teller.now_ns(), event.model))

    def _asked(self, event: AskTask) -> None:
        order = _Order(self._teller.now_ns(), event.nonce, self._sessions.get(event.session))
        self._orders.put(event.handle, order)
        self._by_nonce.put(event.nonce, order)

    def _submitted(self, message: SubmitTask) -> None:
        order = self._by_nonce.get(message.prompt.nonce)
        if order is not None:
            order.number = message.order.task
            if message.resume is not None:
                order.resumed = max(order.resumed, len(message.resume.ids))

    def _delivered(self, effect: Deliver) -> None:
        take = self._items.get(type(effect.item))
        if take is not None:
            self._handle = effect.handle
            take(effect.item)

    def _assigned(self, item: SessionAssigned) -> None:
        session = self._sessions.get(self._handle)
        if session is None or session.id:
            return
        session.id = item.session
        attributes: dict[str, Attribute] = {
            "model": session.model.hex(),
            "lanes": item.opening.lanes,
            "miner": "0x" + item.assignment.miners[0].hex(),
        }
        self._teller.tell("session", session.id, 0, session.start_ns, attributes=attributes)

    def _session_over(self, item: SessionOver) -> None:
        session = self._sessions.pop(self._handle)
        if session is not None and not session.id:
            model: dict[str, Attribute] = {"model": session.model.hex()}
            self._teller.tell("session", b"", 0, session.start_ns, code=item.code, attributes=model)

    def _bound(self, item: TaskHead) -> None:
        order = self._orders.get(self._handle)
        if order is not None:
            order.miners.append(item.head.miner)
            order.resumed = max(order.resumed, item.head.start_index)

    def _text(self, _item: TaskText) -> None:
        order = self._orders.get(self._handle)
        if order is not None and order.first_ns is None:
            order.first_ns = self._teller.now_ns()

    def _over(self, item: TaskOver) -> None:
        order = self._orders.pop(self._handle)
        if order is None:
            return
        self._by_nonce.pop(order.nonce)
        session = order.session.id if order.session is not None else b""
        attributes: dict[str, Attribute] = {"attempts": len(order.miners), "frames": item.frames}
        if order.session is not None:
            attributes["model"] = order.session.model.hex()
        if order.miners:
            attributes["miner"] = "0x" + order.miners[-1].hex()
        if order.resumed:
            attributes["resumed_tokens"] = order.resumed
        if order.first_ns is not None:
            attributes["first_token_us"] = (order.first_ns - order.start_ns) // 1_000
        if item.end is not None:
            attributes["finish"] = item.end.reason.name.lower()
            attributes["prompt_tokens"] = item.end.prompt_tokens
            attributes["completion_tokens"] = item.end.completion_tokens
            attributes["cached_tokens"] = item.end.cached_tokens
            self._rising.put(self._handle, _Rising(session, order.number, self._teller.now_ns()))
        else:
            attributes["completion_tokens"] = item.tokens
        node, number = self._teller.node, order.number
        known = session if number else b""
        self._teller.tell(
            "order",
            known,
            number,
            order.start_ns,
            parent=span_id(session, number, self._under, node) if self._under and known else None,
            code=item.code,
            links=(Link(trace_id(session, 0), span_id(session, 0, self._teller.role, node)),) if session else (),
            attributes=attributes,
        )

    def _rose(self, item: TaskLevel) -> None:
        rising = self._rising.get(self._handle)
        if rising is None:
            return
        for level in item.proved:
            name = level.name.lower()
            if name not in rising.told:
                rising.told.add(name)
                attributes: dict[str, Attribute] = {"level": name, "agreeing": item.agreeing, "members": item.members}
                self._teller.tell(
                    "level", rising.session, rising.number, rising.end_ns, part=name, attributes=attributes
                )
