"""Orders to lane 0's miner, frames to the client: verified on the way, relayed as they are.

Orders of a session run at once as far as its miner has slots to spare; the others wait in line, each with its own
deadline. Every task ends for the client in exactly one terminal event: a frame with a signed end, or one TaskFailed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId
from protocol.core.machine import Send
from protocol.core.params import Params
from protocol.core.signing import Domain, typed_digest, verify
from protocol.messages.tasks import (
    AckMessage,
    CancelTask,
    Continuation,
    Delivery,
    EndReason,
    FrameMessage,
    LaneEnded,
    RelayTask,
    SegmentStart,
    StartTask,
    SubmitTask,
    TaskFailed,
)
from protocol.roles.router.admission import TOO_LONG, find_order_fault
from protocol.roles.router.hedging import TaskName
from protocol.roles.router.patience import CANCEL_TIMEOUT_MS, Patience
from protocol.roles.router.receipts import Receipts
from protocol.roles.router.state import Lease, Measured, Session, Task
from protocol.session.lifecycle import TERMINAL_CODES, TaskFact, TaskState
from protocol.session.transcript import (
    LaneVerifier,
    SegmentExpectation,
    check_ended,
    check_resume,
    continuation_bytes_max,
    expect_segment,
    fits,
    segment_id,
)

RETRY_AFTER_MS_MAX = 60_000

BLAMELESS_CODES = frozenset(("bad_request", "deadline_exceeded", "unreserved"))
"""A miner may end a task with these at any time; with most others it failed, and the next takes over."""
REFUSED_CODES = frozenset(("schema_refused", "tools_refused"))
"""What the model or its engine refuses, every miner of it would: unless one had begun."""
FAILURES_MAX = 4
"""When miners say so often in a row that they failed at an order, with no token in between, it is to blame itself."""
REPORTED_KEPT = 4


@dataclass(frozen=True, slots=True)
class Relay:
    """The rules of tasks, over state that the machine owns."""

    domain: Domain
    params: Params
    deadlines: Deadlines[TaskName]
    measured: Callable[[NodeId], Measured]
    arm: Callable[[Session, Task, Lease, int], None]
    """Starts the clock for a second start."""
    patience: Patience
    receipts: Receipts

    def submit(self, session: Session, message: SubmitTask, now_ms: int) -> list[object]:
        """Take an order, start it or put it in line. Raises RemoteProtocolError for what the client may not send."""
        order = message.order
        verify(typed_digest(self.domain, order), message.signature, session.opening.client, "the order")
        known = session.tasks.get(order.task)
        if order.task in session.direct:
            again = known is not None and order == known.submit.order
            return self.resubmit(session, known, message.resume, now_ms) if known and again else []
        if order.session != session.id or not session.last_task < order.task <= session.opening.tasks_max:
            raise RemoteProtocolError("order numbers of a session rise, up to its tasks_max")
        session.last_task = order.task
        task = Task(message, direct=message.direct)
        if message.direct:
            session.direct.add(order.task)
        if message.resume is not None:
            check_resume(self.domain, order, 0, message.resume)
            task.adopt(message.resume)
        refusal = find_order_fault(self.params, session, message)
        if refusal is not None:
            task.life.take(TaskFact.FAILED)
            return self._failed(session, order.task, *refusal)
        task.life.take(TaskFact.ORDERED)
        session.tasks[order.task] = task
        self._forget_reported(session)
        timeout_ms = min(message.timeout_ms, self.params.task_deadline_ms_max)
        self.deadlines.set(("task", session.id, order.task), now_ms + timeout_ms)
        return self.advance(session, now_ms)

    def advance(self, session: Session, now_ms: int) -> list[object]:
        """Hand the miner what another one began, then the orders in line, as many as it runs at once and has slots for.

        While a second start is under way nothing joins it: whoever wins has one order. Spec: [ORDER-PARALLEL.1]
        """
        lease, effects = session.lease, list[object]()
        busy = len(session.at_work())
        for task in session.in_line():
            if lease is None or (busy and (lease.full or busy >= lease.orders or session.hedge is not None)):
                break
            busy += 1
            if task.direct and task.generation is not None:
                # What was streamed past this router only the client can say, and it will: it hears of the new miner.
                continue
            if not task.started:
                task.life.take(TaskFact.STARTED)
            effects += self.hand_over(session, task, lease, now_ms)
        return effects

    def put_back(self, session: Session, message: TaskFailed) -> bool:
        """Whether the miner only had no slot to spare for one more order: it waits until another has ended.

        Spec: [ORDER-PARALLEL.1]
        """
        task, lease = session.tasks.get(message.task), session.lease
        if task is None or lease is None or message.code != "queue_full" or task.generation != lease.generation:
            return False
        begun = any(head.generation == lease.generation for head in task.heads)
        if begun or task.cancelled or len(session.at_work()) < 2:
            return False
        lease.full, task.generation = True, None
        task.fruitless = max(0, task.fruitless - 1)
        for kind in ("frame", "hedge"):
            self.deadlines.clear((kind, session.id, task.number))
        return True

    def hand_over(self, session: Session, task: Task, lease: Lease, now_ms: int) -> list[object]:
        """Hand a miner an order, or the rest of one that another began. Spec: [CHAIN-TAKEOVER.1]"""
        order, assigned = task.submit.order, session.assigned
        assert assigned is not None
        expected, resume = self._expect(session, task, lease), task.continuation()
        if task.verifier is not None:
            task.verifier.take_over(expected)
        else:
            task.verifier = LaneVerifier(self.domain, expected, task.logprobs)
            if resume is not None:
                task.verifier.adopt(expected, resume)
        task.generation = lease.generation
        task.started_ms, task.first_ms = now_ms, None
        # The new miner's credit starts here, whatever acks are on their way to the old one.
        task.acked = task.index
        task.fruitless += 1
        if not task.direct:
            self.patience.await_first(session, task, lease, now_ms)
            self.arm(session, task, lease, now_ms)
        start = StartTask(
            assignment=assigned.assignment,
            assignment_signature=assigned.signature,
            order=order,
            signature=task.submit.signature,
            prompt=task.submit.prompt,
            lane=0,
            timeout_ms=self.patience.left_ms(session, task, now_ms),
            delivery=Delivery.DIRECT if task.direct else Delivery.RELAYED,
            resume=resume,
        )
        self.receipts.begun(task, lease)
        return [Send(lease.channel, start, key=session.id), *self.explain(session, lease)]

    def explain(self, session: Session, lease: Lease) -> list[object]:
        """A miner that works on an order is shown why it was picked, beside its work."""
        explained = self.receipts.explained(session, lease)
        return [] if explained is None else [Send(lease.channel, explained, key=session.id)]

    def _expect(self, session: Session, task: Task, lease: Lease) -> SegmentExpectation:
        order, model = task.submit.order, session.opening.model
        price_wei = lease.price_wei
        return expect_segment(self.domain, order, 0, lease.generation, lease.miner, model, price_wei=price_wei)

    def resubmit(self, session: Session, task: Task, resume: Continuation | None, now_ms: int) -> list[object]:
        """The client has an order's frames no longer from the miner itself, and says how far it came.

        Raises RemoteProtocolError. Spec: [DIRECT-FALLBACK.1]
        """
        if not task.direct:
            return []
        if resume is not None:
            check_resume(self.domain, task.submit.order, 0, resume)
            if len(resume.ids) > len(task.ids):
                task.failures, task.fruitless = 0, min(task.fruitless, 1)
            task.adopt(resume)
        task.direct, lease = False, session.lease
        if resume is not None and not fits(self.params, resume):
            return self.fail(session, task, "miner_lost", TOO_LONG, now_ms)
        if lease is None or task.generation != lease.generation:
            task.reported = False
            return self.advance(session, now_ms)
        expected, resume = self._expect(session, task, lease), task.continuation()
        task.verifier = LaneVerifier(self.domain, expected, task.logprobs)
        if resume is not None:
            task.verifier.adopt(expected, resume)
            if task.verifier.head is not None:
                task.life.take(TaskFact.HEAD)
        task.acked, chain = task.verifier.index, task.verifier.chain
        # How fast frames come again says nothing of how fast they were made.
        task.awaited_ms = task.started_ms = task.first_ms = now_ms
        self.patience.await_first(session, task, lease, now_ms)
        return [Send(lease.channel, RelayTask(session.id, task.number, task.acked, chain), key=session.id)]

    def ended(self, session: Session, message: LaneEnded, now_ms: int) -> list[object]:
        """The miner reports the end of an order that it streamed to the client directly.

        Raises RemoteProtocolError. Spec: [LANE-WITHHELD.1]
        """
        task, lease = session.tasks.get(message.head.task), session.lease
        if task is None or lease is None or not task.direct or task.generation != lease.generation:
            return []
        if message.end.reason is EndReason.CANCELLED and not task.cancelled:
            raise RemoteProtocolError("an order that nobody cancelled ends as cancelled")
        check_ended(self.domain, self._expect(session, task, lease), message)
        task.reported, lease.full = True, False
        session.had += message.end.completion_tokens
        self.measured(lease.miner).reported()
        self.deadlines.clear(("frame", session.id, task.number))
        return self.advance(session, now_ms)

    def await_first(self, session: Session, task: Task, now_ms: int) -> list[object]:
        """The miner of a second start goes on alone."""
        assert session.lease is not None
        self.patience.await_first(session, task, session.lease, now_ms)
        return []

    def head(self, session: Session, message: SegmentStart, now_ms: int) -> list[object]:
        """A segment's head from the miner. Raises RemoteProtocolError if it does not hold."""
        task = session.tasks.get(message.head.task)
        if task is None:
            return []
        if task.verifier is None:
            raise RemoteProtocolError("a head for an order that was not handed over")
        task.verifier.begin(message.head)
        return self.begun(session, task, message, now_ms)

    def begun(self, session: Session, task: Task, message: SegmentStart, now_ms: int) -> list[object]:
        """A head that holds: the client has it next."""
        task.life.take(TaskFact.HEAD)
        task.heads.append(message.head)
        if task.direct and session.lease is not None:
            # The miner found no stream of the client's.
            task.direct = False
            self.patience.await_first(session, task, session.lease, now_ms)
        return session.tell(message)

    def frame(self, session: Session, message: FrameMessage, now_ms: int) -> list[object]:
        """A frame from the miner. Raises RemoteProtocolError if it does not hold."""
        task = session.tasks.get(message.task)
        if task is None:
            return []
        if task.verifier is None:
            raise RemoteProtocolError("a frame for an order that was not handed over")
        if message.end is not None and message.end.reason is EndReason.CANCELLED and not task.cancelled:
            raise RemoteProtocolError("an order that nobody cancelled ends as cancelled")
        task.verifier.take(message)
        task.life.take(_fact_of(message))
        effects = session.tell(message)
        self.patience.observe(session, task, message, now_ms)
        self.deadlines.clear(("hedge", session.id, task.number))
        if message.ids:
            task.keep(message, continuation_bytes_max(self.params))
            task.fruitless = task.failures = session.starved = 0
        self.receipts.took(session, task, message, now_ms)
        if message.end is None:
            self.patience.await_frame(session, task, now_ms)
            return effects
        session.had += message.end.completion_tokens
        self._drop(session, task)
        return effects + self.advance(session, now_ms)

    def another_may_do_better(self, session: Session, message: TaskFailed) -> bool:
        """Count a failure that a miner reports, and tell whether the next shall take over. Spec: [FAILOVER-NEXT.1]"""
        task, lease = session.tasks.get(message.task), session.lease
        mine = task is not None and lease is not None and task.generation == lease.generation
        if task is None or not mine or task.settled or message.code in BLAMELESS_CODES:
            return False
        if message.code == "cancelled":
            return not task.cancelled
        if message.code == "ack_timeout":
            return not task.direct and not self.patience.waits_for_ack(task)
        if message.code == "prompt_too_long":
            # Miners' contexts differ: where one had begun, the next may be too small.
            return bool(task.heads)
        if message.code in REFUSED_CODES and not task.heads:
            return False
        task.failures += 1
        return task.failures < FAILURES_MAX

    def miner_failed(self, session: Session, message: TaskFailed, now_ms: int) -> list[object]:
        """The miner ends a task without a signed end."""
        task = session.tasks.get(message.task)
        if task is None or task.settled:
            return []
        if session.lease is None or task.generation != session.lease.generation:
            raise RemoteProtocolError("a failure of an order that was not handed over")
        code = message.code if message.code in TERMINAL_CODES else "engine_failed"
        retry_after_ms = min(message.retry_after_ms, RETRY_AFTER_MS_MAX)
        return self.fail(session, task, code, message.detail, now_ms, retry_after_ms)

    def ack(self, session: Session, message: AckMessage, now_ms: int) -> list[object]:
        """A client's ack on its way to the miner, who checks what it says.

        Raises RemoteProtocolError unless it is the client's and for this lease: a miner drops a router that
        relays anything else. Spec: [ACK-SIGNED.1]
        """
        ack, lease = message.ack, session.lease
        if lease is None:
            return []
        verify(typed_digest(self.domain, ack), message.signature, session.opening.client, "the ack")
        task = session.tasks.get(ack.task)
        self.receipts.acked(task, message)
        if ack.generation != lease.generation:
            return self._ack_earlier(session, lease, task, message)
        session.acked(ack.task, ack.index)
        if task is not None and task.acked < ack.index <= task.index:
            held = self.patience.waits_for_ack(task)
            task.acked = ack.index
            if held:
                # It was the client that was waited for so far.
                task.awaited_ms = now_ms
                self.patience.await_frame(session, task, now_ms)
        return [Send(lease.channel, message, key=session.id)]

    def _ack_earlier(self, session: Session, lease: Lease, task: Task | None, message: AckMessage) -> list[object]:
        """An ack of a miner that was lost: whoever ends the lane hands it in. Spec: [ACK-EARLIER.1]"""
        ack = message.ack
        heads = [] if task is None or task.generation != lease.generation else task.segments()
        segments = [segment_id(self.domain, head) for head in heads if head.generation == ack.generation]
        if (ack.session, ack.lane) == (session.id, 0) and ack.segment in segments:
            return [Send(lease.channel, message, key=session.id)]
        # On its way while another miner took over, or of a lease that another router, or an earlier life of this one,
        # gave: the client signed it, so it is no fault.
        return []

    def cancel(self, session: Session, message: CancelTask, now_ms: int) -> list[object]:
        """The client wants no more of a task."""
        task = session.tasks.get(message.task)
        if task is None or task.cancelled or task.settled:
            return []
        task.cancelled = True
        lease = session.lease
        if lease is None or task.generation != lease.generation:
            return self.fail(session, task, "cancelled", "cancelled while no miner worked on it", now_ms)
        frame = ("frame", session.id, task.number)
        limit_ms = now_ms + CANCEL_TIMEOUT_MS
        self.deadlines.set(frame, min(limit_ms, self.deadlines.at(frame) or limit_ms))
        return [Send(lease.channel, message, key=session.id)]

    def fail(
        self, session: Session, task: Task, code: str, detail: str, now_ms: int, retry_after_ms: int = 0
    ) -> list[object]:
        """End a task for the client without a signed end, and go on with the next. Spec: [TASK-TERMINAL.1]"""
        task.life.take(TaskFact.FAILED)
        self._drop(session, task)
        return [*self._failed(session, task.number, code, detail, retry_after_ms), *self.advance(session, now_ms)]

    def suspend(self, session: Session, now_ms: int) -> list[object]:
        """A miner was lost: none of its frames is awaited, and what need not or cannot go on ends here."""
        effects: list[object] = []
        for task in list(session.tasks.values()):
            lost = session.lease is None or task.generation != session.lease.generation
            if not task.started or task.settled or not lost:
                continue
            task.reported = False
            self.deadlines.clear(("frame", session.id, task.number))
            if task.cancelled:
                effects += self.fail(session, task, "cancelled", "its miner was lost before it stopped", now_ms)
            elif not task.resumable:
                effects += self.fail(session, task, "miner_lost", f"its miner was lost, and {TOO_LONG}", now_ms)
        return effects

    def fail_all(self, session: Session, code: str, detail: str) -> list[object]:
        """End every task of a session that is over."""
        effects: list[object] = []
        for task in list(session.tasks.values()):
            if task.settled:
                self._close(session, task)
                continue
            task.life.take(TaskFact.FAILED)
            self._drop(session, task)
            effects += self._failed(session, task.number, code, detail, 0)
        return effects

    def overdue(self, session: Session, number: int, now_ms: int) -> list[object]:
        """A task's own deadline passed."""
        task, lease = session.tasks.get(number), session.lease
        if task is None:
            return []
        if task.settled:
            self._close(session, task)
            return []
        effects: list[object] = []
        if lease is not None and task.life.state is not TaskState.QUEUED:
            effects.append(Send(lease.channel, CancelTask(session.id, number), key=session.id))
        return effects + self.fail(session, task, "deadline_exceeded", "the request's deadline passed", now_ms)

    def _forget_reported(self, session: Session) -> None:
        """Of orders that were streamed directly and have ended, the latest can still be asked for again."""
        settled = [task for task in session.tasks.values() if task.settled]
        for task in settled[:-REPORTED_KEPT]:
            self._close(session, task)

    def _close(self, session: Session, task: Task) -> None:
        task.life.take(TaskFact.REPORTED)
        self._drop(session, task)

    def _drop(self, session: Session, task: Task) -> None:
        if session.lease is not None and task.generation == session.lease.generation:
            session.lease.full = False
        for kind in ("task", "frame", "hedge"):
            self.deadlines.clear((kind, session.id, task.number))
        session.tasks.pop(task.number, None)

    def _failed(self, session: Session, number: int, code: str, detail: str, retry_after_ms: int) -> list[object]:
        return session.tell(TaskFailed(session.id, number, code, detail[:1_024], retry_after_ms))


def _fact_of(message: FrameMessage) -> TaskFact:
    if message.end is None:
        return TaskFact.FRAME
    return TaskFact.CANCELLED_END if message.end.reason is EndReason.CANCELLED else TaskFact.END
