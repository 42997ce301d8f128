"""The lanes above 0: the same order run again by other miners, with other noise, streamed to nobody.

A withheld lane never holds lane 0 up: each has a line of its own. What its miner signs at the end goes to the
client for the session's record; if the miner is lost, whoever gets the lane next runs the order from its start.
"""

from collections.abc import Callable
from dataclasses import dataclass

from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId
from protocol.core.machine import Send
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.messages.tasks import CancelTask, Delivery, EndReason, LaneEnded, StartTask, TaskFailed
from protocol.roles.router.hedging import TaskName
from protocol.roles.router.relay import BLAMELESS_CODES
from protocol.roles.router.state import Measured, Session, Task, Withheld
from protocol.session.transcript import check_ended, expect_segment

GRACE_MS = 2_000
"""How much longer than the miner the router waits for a withheld lane's end."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """The rules of withheld lanes, over state that the machine owns."""

    domain: Domain
    params: Params
    deadlines: Deadlines[TaskName]
    measured: Callable[[NodeId], Measured]

    def order(self, session: Session, task: Task, now_ms: int) -> list[object]:
        """Every other lane runs the order as well. Spec: [LANE-WITHHELD.1]"""
        effects: list[object] = []
        for lane in range(1, session.opening.lanes):
            line = session.withheld.setdefault(lane, Withheld())
            line.waiting.append(task)
            while len(line.waiting) > self.params.tasks_pending_per_session_max:
                line.waiting.popleft()
            effects += self.advance(session, lane, now_ms)
        return effects

    def advance(self, session: Session, lane: int, now_ms: int) -> list[object]:
        """Hand the lane's miner the next order of its line, if it is free."""
        line, lease, assigned = session.withheld.get(lane), session.leases.get(lane), session.assigned
        if line is None or line.running is not None or lease is None or assigned is None or not line.waiting:
            return []
        task = line.running = line.waiting.popleft()
        submit = task.submit
        timeout_ms = min(submit.timeout_ms, self.params.task_deadline_ms_max)
        self.deadlines.set(("lane", session.id, lane), now_ms + timeout_ms + GRACE_MS)
        start = StartTask(
            assignment=assigned.assignment,
            assignment_signature=assigned.signature,
            order=submit.order,
            signature=submit.signature,
            prompt=submit.prompt,
            lane=lane,
            timeout_ms=timeout_ms,
            delivery=Delivery.WITHHELD,
        )
        return [Send(lease.channel, start, key=session.id)]

    def ended(self, session: Session, lane: int, message: LaneEnded, now_ms: int) -> list[object]:
        """The lane's miner signed its end. Raises RemoteProtocolError if it does not hold. Spec: [LANE-WITHHELD.1]"""
        line, lease = session.withheld.get(lane), session.leases[lane]
        if line is None or line.running is None:
            raise RemoteProtocolError("the end of a lane that does not run")
        if message.end.reason is EndReason.CANCELLED and not line.running.cancelled:
            raise RemoteProtocolError("an order that nobody cancelled ends as cancelled")
        order, model = line.running.submit.order, session.opening.model
        price_wei = lease.price_wei
        expected = expect_segment(self.domain, order, lane, lease.generation, lease.miner, model, price_wei=price_wei)
        check_ended(self.domain, expected, message)
        self.measured(lease.miner).reported()
        return session.tell(message) + self._next(session, lane, line, now_ms)

    def failed(self, session: Session, lane: int, message: TaskFailed, now_ms: int) -> list[object]:
        """The lane's miner could not run the order."""
        line, lease = session.withheld.get(lane), session.leases[lane]
        if line is None or line.running is None or line.running.number != message.task:
            return []
        if message.code not in BLAMELESS_CODES:
            self.measured(lease.miner).failed(now_ms)
        return self._next(session, lane, line, now_ms)

    def _next(self, session: Session, lane: int, line: Withheld, now_ms: int) -> list[object]:
        self.deadlines.clear(("lane", session.id, lane))
        line.running = None
        return self.advance(session, lane, now_ms)

    def idle(self, session: Session, lane: int) -> bool:
        """Whether the lane's miner has nothing to do."""
        line = session.withheld.get(lane)
        return line is None or (line.running is None and not line.waiting)

    def lost(self, session: Session, lane: int) -> None:
        """The lane has no miner any more: whoever gets it begins anew."""
        self.deadlines.clear(("lane", session.id, lane))
        line = session.withheld.get(lane)
        if line is None or line.running is None:
            return
        if not line.running.cancelled:
            line.waiting.appendleft(line.running)
        line.running = None

    def cancel(self, session: Session, number: int) -> list[object]:
        """The client wants no more of an order."""
        effects: list[object] = []
        for lane, line in session.withheld.items():
            line.waiting = type(line.waiting)(task for task in line.waiting if task.number != number)
            lease = session.leases.get(lane)
            if lease is not None and line.running is not None and line.running.number == number:
                # Lane 0 may have ended it long ago.
                line.running.cancelled = True
                effects.append(Send(lease.channel, CancelTask(session.id, number), key=session.id))
        return effects

    def abandon(self, session: Session) -> None:
        """The session is over."""
        for lane in session.withheld:
            self.deadlines.clear(("lane", session.id, lane))
        session.withheld.clear()
