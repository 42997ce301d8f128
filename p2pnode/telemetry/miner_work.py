"""A miner's orders: queue, prefill, generation, and the commit to what came out."""

from collections.abc import Mapping
from dataclasses import dataclass

from p2pnode.telemetry.span import Attribute, span_id
from p2pnode.telemetry.tap import Take
from p2pnode.telemetry.teller import Table, Teller, of_lane
from protocol.messages.results import CommitMessage
from protocol.messages.tasks import EndRecord, FrameMessage, LaneEnded, StartTask, TaskFailed
from protocol.roles.miner import Generate, Generated, Produced, Rendered

Lane = tuple[bytes, int, int]
"""Session, task, lane."""


@dataclass(slots=True)
class _Order:
    start_ns: int
    parent: bytes
    model: bytes = b""
    begun_ns: int | None = None
    """When the engine was asked."""
    first_ns: int | None = None
    prompt_tokens: int = 0
    emitted: int = 0
    """Tokens that others had brought before."""
    produced: int = 0


class MinerWork:
    """Hears a miner's machine."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._orders: Table[Lane, _Order] = Table()
        self._ended: Table[Lane, int] = Table()
        """Lanes whose end is signed and whose commit has not left, and since when."""
        self.received: Mapping[type, Take] = {StartTask: self._started}
        self.sent: Mapping[type, Take] = {
            FrameMessage: self._frame,
            LaneEnded: self._lane_ended,
            TaskFailed: self._failed,
            CommitMessage: self._committed,
        }
        self.effects: Mapping[type, Take] = {Generate: self._generates}
        self.events: Mapping[type, Take] = {
            Rendered: self._rendered,
            Produced: self._produced,
            Generated: self._generated,
        }

    def _started(self, message: StartTask) -> None:
        session, task = message.order.session, message.order.task
        name = (session, task, message.lane)
        if self._orders.get(name) is None:
            parent = span_id(session, task, "router", message.assignment.router)
            self._orders.put(name, _Order(self._teller.now_ns(), parent))

    def _generates(self, effect: Generate) -> None:
        order = self._orders.get(effect.generation)
        if order is not None:
            order.model, order.emitted, order.begun_ns = effect.model, len(effect.emitted), self._teller.now_ns()
            self._part("queue", effect.generation, order.start_ns)

    def _rendered(self, event: Rendered) -> None:
        order = self._orders.get(event.generation)
        if order is not None:
            order.prompt_tokens = len(event.prompt_tokens)

    def _produced(self, event: Produced) -> None:
        order = self._orders.get(event.generation)
        if order is None:
            return
        order.produced += len(event.ids)
        if order.first_ns is None:
            order.first_ns = self._teller.now_ns()
            if order.begun_ns is not None:
                # The engine's own queue is in it: a miner leases no more slots than its engine has.
                prompt: dict[str, Attribute] = {"prompt_tokens": order.prompt_tokens}
                self._part("prefill", event.generation, order.begun_ns, prompt)

    def _generated(self, event: Generated) -> None:
        order = self._orders.get(event.generation)
        if order is not None and order.first_ns is not None:
            made: dict[str, Attribute] = {"tokens": order.produced, "cached_tokens": event.cached_tokens}
            self._part("generation", event.generation, order.first_ns, made)

    def _part(self, name: str, lane: Lane, start_ns: int, attributes: dict[str, Attribute] | None = None) -> None:
        session, task, number = lane
        self._teller.tell(name, session, task, start_ns, part=name, lane=number, attributes=attributes)

    # Ends

    def _frame(self, message: FrameMessage) -> None:
        if message.end is not None:
            self._over((message.session, message.task, message.lane), message.end, "")

    def _lane_ended(self, message: LaneEnded) -> None:
        self._over((message.head.session, message.head.task, message.head.lane), message.end, "")

    def _failed(self, message: TaskFailed) -> None:
        # It names no lane: a router's other lanes of the same task are on other streams, as a rule on other miners.
        for lane in range(256):
            name = (message.session, message.task, lane)
            if self._orders.get(name) is not None:
                self._over(name, None, message.code)
                return

    def _over(self, name: Lane, end: EndRecord | None, code: str) -> None:
        order = self._orders.pop(name)
        if order is None:
            return
        session, task, lane = name
        attributes: dict[str, Attribute] = {"model": order.model.hex(), "prompt_tokens": order.prompt_tokens}
        if order.emitted:
            attributes["resumed_tokens"] = order.emitted
        if order.first_ns is not None:
            attributes["first_token_us"] = (order.first_ns - order.start_ns) // 1_000
        attributes["completion_tokens"] = order.produced
        if end is not None:
            attributes["finish"] = end.reason.name.lower()
            attributes["cached_tokens"] = end.cached_tokens
            self._ended.put(name, self._teller.now_ns())
        start_ns, parent = order.start_ns, order.parent
        self._teller.tell("task", session, task, start_ns, lane=lane, parent=parent, code=code, attributes=attributes)

    def _committed(self, message: CommitMessage) -> None:
        commit = message.signed.commit
        name = (commit.session, commit.task, commit.lane)
        ended_ns = self._ended.pop(name)
        if ended_ns is not None:
            self._part("commit", name, ended_ns)


def miner_span(session: bytes, task: int, lane: int, miner: bytes) -> bytes:
    """The span id of the miner that committed to a lane."""
    return span_id(session, task, of_lane("miner", lane), miner)
