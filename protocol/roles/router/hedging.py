"""A second start: when a miner takes long to its first token, the next in rank begins beside it.

Whoever brings the first frame goes on; the other hears that its slot is free. Only before the first token, because
after it the lane's text is bound to one miner's chain; and only for a share of all orders, so that a network that is
slow because it is full is not asked to do everything twice.
Source: J. Dean and L. Barroso, The Tail at Scale, 2013 (hedged requests).
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId
from protocol.core.machine import Send
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.messages.tasks import Delivery, EndReason, FrameMessage, SegmentStart, StartTask
from protocol.roles.router.leasing import Leasing
from protocol.roles.router.state import Hedge, Lease, Measured, Session, Task
from protocol.session.lifecycle import SessionFact
from protocol.session.transcript import LaneVerifier, expect_segment

TaskName = tuple[str, bytes, int]
"""("task" | "frame" | "hedge" | "embed", session, number): a task's own deadline, the wait for its next frame, and for
its first one before a second start; and the deadline of a request for vectors."""

ORDER_BP = 10_000
CREDIT_BP_MAX = 50_000
PATIENCE_FACTOR = 2
"""A second start comes after twice the longest that the miner lately took."""
UNKNOWN_SHARE = 4
"""A miner of unknown pace is given this share of the least time after which it would count as stalled, doubled."""


class Budget:
    """What second starts may cost: a share of all orders. Spec: [HEDGE-BUDGET.1]"""

    def __init__(self, share_bp: int) -> None:
        self._share_bp = share_bp
        self._credit_bp = ORDER_BP if share_bp else 0

    def earn(self) -> None:
        """An order was started."""
        self._credit_bp = min(CREDIT_BP_MAX, self._credit_bp + self._share_bp)

    @property
    def spent(self) -> bool:
        """Whether nothing is left for a second start."""
        return self._credit_bp < ORDER_BP

    def spend(self) -> None:
        """Pay for a second start."""
        self._credit_bp -= ORDER_BP


@dataclass(frozen=True, slots=True)
class Hedging:
    """The rules of second starts, over state that the machine owns."""

    domain: Domain
    params: Params
    deadlines: Deadlines[TaskName]
    measured: Callable[[NodeId], Measured]
    leasing: Leasing
    budget: Budget

    def arm(self, session: Session, task: Task, lease: Lease, now_ms: int) -> None:
        """An order was handed over: from when on is its first frame late?"""
        self.budget.earn()
        seen, floor_ms = self.measured(lease.miner), self.params.stall_ms_min // UNKNOWN_SHARE
        if seen.begin_ms:
            usual_ms = seen.begin_ms * max(seen.begin_size, task.size) // seen.begin_size
            patience_ms = max(PATIENCE_FACTOR * usual_ms, floor_ms)
        else:
            patience_ms = PATIENCE_FACTOR * self.params.stall_ms_min
        self.deadlines.set(("hedge", session.id, task.number), now_ms + patience_ms)

    def late(self, session: Session, number: int, now_ms: int) -> list[object]:
        """The first frame is late: ask the next in rank for a slot."""
        task = self._alone(session, number)
        if task is None or not self._wanted(session, task):
            return []
        if self.budget.spent or any(ask.hedge for ask in session.asks.values()):
            return []
        effects = self.leasing.ask_next(session, 0, now_ms, hedge=number)
        if effects:
            self.budget.spend()
        return effects

    @staticmethod
    def _alone(session: Session, number: int) -> Task | None:
        """The order, if the miner works on nothing else: others that stream already would be moved for it."""
        at_work = session.at_work()
        return at_work[0] if [task.number for task in at_work] == [number] else None

    def _wanted(self, session: Session, task: Task) -> bool:
        if session.hedge is not None or session.lease is None or self.leasing.used_up(session):
            return False
        if session.strains(task, self.params.unreserved_credit_wei):
            # Another miner would be asked to give the credit that this one has refused.
            return False
        return task.index == 0 and not task.cancelled

    def granted(self, session: Session, number: int, lease: Lease, timeout_ms: int, now_ms: int) -> list[object]:
        """The second miner has a slot: it starts under an assignment that the client hears of only if it wins.

        Spec: [HEDGE-START.1]
        """
        task = self._alone(session, number)
        if task is None or not self._wanted(session, task):
            return self.leasing.release(session, lease)
        assigned, persist = self.leasing.sign_assignment(session, {**session.leases, 0: lease})
        order, model, price_wei = task.submit.order, session.opening.model, lease.price_wei
        expected = expect_segment(self.domain, order, 0, lease.generation, lease.miner, model, price_wei=price_wei)
        verifier = LaneVerifier(self.domain, expected, task.logprobs)
        session.hedge = Hedge(number, lease, assigned, verifier, now_ms)
        start = StartTask(
            assignment=assigned.assignment,
            assignment_signature=assigned.signature,
            order=order,
            signature=task.submit.signature,
            prompt=task.submit.prompt,
            lane=0,
            timeout_ms=timeout_ms,
            delivery=Delivery.RELAYED,
        )
        return [persist, Send(lease.channel, start, key=session.id)]

    def head(self, session: Session, message: SegmentStart) -> None:
        """The second miner binds the order; nothing is shown yet. Raises RemoteProtocolError."""
        assert session.hedge is not None
        session.hedge.verifier.begin(message.head)
        session.hedge.head = message

    def vet(self, session: Session, message: FrameMessage) -> None:
        """Whether the second miner's frame holds, before the first one is let go for it. Raises RemoteProtocolError."""
        assert session.hedge is not None
        copy(session.hedge.verifier).take(message)
        if message.end is not None and message.end.reason is EndReason.CANCELLED:
            raise RemoteProtocolError("an order that nobody cancelled ends as cancelled")

    def fit(self, session: Session) -> bool:
        """Whether there is a second miner that can go on: other lanes may have used up the numbers meanwhile."""
        hedge = session.hedge
        return hedge is not None and (self._latest(session, hedge) or not self.leasing.used_up(session))

    def _latest(self, session: Session, hedge: Hedge) -> bool:
        return self.leasing.numbers[session.id] == hedge.assigned.assignment.number

    def promote(self, session: Session, now_ms: int) -> list[object]:
        """The second miner goes on in place of the first, which is slow or gone."""
        hedge, task, first = session.hedge, session.running(), session.lease
        assert hedge is not None and task is not None and first is not None
        session.hedge = None
        # How long the first one took, it took at least.
        self.measured(first.miner).began(now_ms - task.started_ms, task.size)
        effects = self.leasing.release(session, first)
        session.life.take(SessionFact.LOST)
        session.life.take(SessionFact.ASSIGNED)
        session.leases[0], session.assigned = hedge.lease, hedge.assigned
        if not self._latest(session, hedge):
            # Another lane was filled meanwhile, and the client was told: numbers only rise.
            session.assigned, persist = self.leasing.sign_assignment(session, session.leases)
            effects.append(persist)
        task.verifier, task.generation, task.started_ms = hedge.verifier, hedge.lease.generation, hedge.started_ms
        task.heads, task.first_ms = [], None
        return effects + self.leasing.announce(session)

    def drop(self, session: Session) -> list[object]:
        """The second miner is not needed, or gone."""
        hedge, session.hedge = session.hedge, None
        return self.leasing.release(session, hedge.lease) if hedge is not None else []

    def settled(self, session: Session, number: int) -> list[object]:
        """An order needs no second miner any more: it has its first frame, or ends."""
        return self.drop(session) if session.hedge is not None and session.hedge.task == number else []
