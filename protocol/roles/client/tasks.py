"""Orders out, verified frames in: by the router, or on a stream of the client's own to the miner."""

from dataclasses import dataclass

from protocol.core.errors import RemoteProtocolError, TranscriptError
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, Send
from protocol.core.signing import typed_digest
from protocol.messages.results import SEGMENTS_CLAIMED_MAX
from protocol.messages.sessions import Assignment
from protocol.messages.tasks import (
    CancelTask,
    EndReason,
    FrameMessage,
    LaneEnded,
    SegmentStart,
    SubmitTask,
    TaskOrder,
)
from protocol.roles.client import papers
from protocol.roles.client.events import (
    AskTask,
    Deliver,
    Handle,
    LaneReported,
    TaskHead,
    TaskOver,
    TaskText,
    TaskTranscript,
)
from protocol.roles.client.levels import Levels
from protocol.roles.client.orders import find_fault, order_of, prompt_of
from protocol.roles.client.state import Held, Session, Task, Withheld
from protocol.session.lifecycle import TaskFact
from protocol.session.transcript import (
    LaneVerifier,
    SegmentExpectation,
    check_ended,
    expect_segment,
    fits,
    make_ack,
)

GRACE_MS = 2_000
"""How much longer than the router the client waits: the router's own terminal event says more."""
CANCEL_TIMEOUT_MS = 5_000
STALL_FACTOR = 10
ACKS_SHARE = 4
"""Between frames a client waits at most this share of frame_gap_timeout_ms, half of what a miner waits for acks: those
that are lost with the stream come again by way of the router in time."""
WITHHELD_MAX = 64


@dataclass(frozen=True, slots=True)
class Tasks:
    """The rules of orders and frames, over what the machine holds."""

    held: Held
    levels: Levels

    def ask(self, event: AskTask, now_ms: int) -> list[object]:
        """Order an answer."""
        session = self.held.sessions.get(event.session)
        if session is None or session.assignment is None:
            return [self._refused(event.handle, "session_expired", "the session is not open")]
        fault = find_fault(session.router.known.params, event)
        if fault is not None:
            return [self._refused(event.handle, "bad_request", fault)]
        if session.orders >= session.opening.tasks_max:
            return [self._refused(event.handle, "session_expired", "all orders of the session are used up")]
        session.orders += 1
        prompt = prompt_of(event)
        order = order_of(session, session.orders, event, prompt)
        task = Task(
            handle=event.handle,
            order=order,
            signature=self.held.sign(typed_digest(session.domain, order)),
            prompt=prompt,
            until_ms=now_ms + event.timeout_ms,
            session=session,
            verifier=LaneVerifier(
                session.domain, self._expect(session, order, session.assignment), event.sampling.logprobs
            ),
            direct=session.direct is not None and session.direct.ready,
            transcript=event.transcript,
        )
        task.life.take(TaskFact.ORDERED)
        task.life.take(TaskFact.STARTED)
        self.held.tasks[event.handle] = session.tasks[order.task] = task
        if session.opening.lanes > 1:
            session.withheld[order.task] = Withheld(order)
            while len(session.withheld) > WITHHELD_MAX:
                session.withheld.popitem(last=False)
        self.held.deadlines.set(("task", event.handle), task.until_ms + GRACE_MS)
        return self.submit(task, now_ms) if session.seek is None else []

    @staticmethod
    def _refused(handle: Handle, code: str, detail: str) -> Deliver:
        return Deliver(handle, TaskOver(None, code, detail, 0, 0, 0))

    @staticmethod
    def _expect(session: Session, order: TaskOrder, assignment: Assignment, lane: int = 0) -> SegmentExpectation:
        generation, miner = assignment.generations[lane], assignment.miners[lane]
        price_wei = session.prices_wei.get(NodeId(miner))
        opening, router = session.opening, assignment.router
        return expect_segment(session.domain, order, lane, generation, miner, opening.model, router, price_wei)

    def submit(self, task: Task, now_ms: int) -> list[object]:
        """Send the order to the session's router, with what was verified of its answer so far."""
        left_ms = max(1, task.until_ms - now_ms)
        if task.direct:
            self.await_direct(task, now_ms)
        resume = task.continuation()
        if resume is not None and not fits(task.session.router.known.params, resume):
            detail = "what was answered so far is too long to be gone on with"
            return self.send_cancel(task) + self.over(task, TaskFact.FAILED, "miner_lost", detail, 0)
        message = SubmitTask(task.order, task.signature, task.prompt, left_ms, task.direct, resume)
        return [Send(task.session.router.channel, message)]

    def go_on(self, session: Session, assignment: Assignment, now_ms: int) -> list[object]:
        """Another miner goes on where the last signed frame ended. Spec: [CHAIN-TAKEOVER.1]"""
        effects: list[object] = []
        while session.over_directly:
            # If the lost miner did not report it, the router waits for this client's word on it.
            effects += self._done(session, session.over_directly.popleft())
        for task in list(session.tasks.values()):
            self._accept_lost(task)
            task.verifier.take_over(self._expect(session, task.order, assignment))
            if task.direct:
                effects += self.relay(task, now_ms)
            if session.seek is None and task.handle in self.held.tasks:
                effects += self.accept_lost_again(task)
        return effects

    def _accept_lost(self, task: Task) -> None:
        """Sign for all that a lost miner's segment brought: whoever ends the lane hands it in, so that it is paid.

        Spec: [ACK-EARLIER.1]
        """
        head, verifier = task.verifier.head, task.verifier
        if head is None or verifier.index <= head.start_index:
            return
        ack = make_ack(task.session.domain, self.held.sign, verifier)
        task.last_acks[head.generation] = papers.acked(task, ack)
        if len(task.last_acks) > SEGMENTS_CLAIMED_MAX:
            task.last_acks.popitem(last=False)

    @staticmethod
    def accept_lost_again(task: Task) -> list[object]:
        """The lane has a new miner, who may have none of the acks of the segments before. Spec: [ACK-EARLIER.1]"""
        return [Send(task.session.router.channel, message) for message in task.last_acks.values()]

    def relay(self, task: Task, now_ms: int) -> list[object]:
        """What came directly shall come through the router from here on. Spec: [DIRECT-FALLBACK.1]"""
        self.relayed(task)
        task.fell_back = True
        self._expect_again(task)
        if task.session.seek is not None:
            return []
        effects = self.submit(task, now_ms)
        if task.handle not in self.held.tasks:
            return effects
        effects += self.ack_again(task)
        return effects + self.send_cancel(task) if task.cancelled else effects

    def relayed(self, task: Task) -> None:
        """Its frames come through the router: the miner may have found no stream before this client lost it."""
        task.direct = False
        self.held.deadlines.clear(("direct", task.handle))

    @staticmethod
    def _expect_again(task: Task) -> None:
        """A head without a token is sent again: it is part of no chain yet."""
        head, assignment = task.verifier.head, task.session.assignment
        if head is not None and head.start_index == task.verifier.index and assignment is not None:
            task.verifier.take_over(Tasks._expect(task.session, task.order, assignment))

    def cancel(self, handle: Handle, now_ms: int) -> list[object]:
        """Stop an answer; its signed end follows."""
        task = self.held.tasks.get(handle)
        if task is None:
            return []
        task.cancelled = True
        at, limit = self.held.deadlines.at(("task", handle)), now_ms + CANCEL_TIMEOUT_MS
        self.held.deadlines.set(("task", handle), limit if at is None else min(at, limit))
        return self.send_cancel(task)

    def send_cancel(self, task: Task) -> list[object]:
        """Tell the router."""
        return self._done(task.session, task.order.task)

    @staticmethod
    def _done(session: Session, number: int) -> list[object]:
        return [Send(session.router.channel, CancelTask(session.id, number))] if session.seek is None else []

    def head(self, task: Task, message: SegmentStart) -> list[object]:
        """A segment begins. Raises TranscriptError."""
        task.verifier.begin(message.head)
        task.life.take(TaskFact.HEAD)
        if task.heads and task.heads[-1] == message.head:
            # Sent again by another way.
            return []
        task.heads.append(message.head)
        papers.begun(task, message.head)
        return [Deliver(task.handle, TaskHead(message.head))]

    def frame(self, task: Task, message: FrameMessage, channel: Channel, now_ms: int) -> list[object]:
        """Verified tokens. Raises TranscriptError."""
        if message.end is not None and message.end.reason is EndReason.CANCELLED and not task.cancelled:
            raise TranscriptError("end.reason", "an order that nobody cancelled ends as cancelled")
        task.verifier.take(message)
        papers.took(task, message)
        task.frames += 1
        task.ids += message.ids
        task.texts += message.texts
        effects: list[object] = []
        if message.ids:
            logprobs = () if message.logprobs is None else message.logprobs.tokens
            text = TaskText(message.first_index, message.ids, b"".join(message.texts), logprobs)
            effects.append(Deliver(task.handle, text))
        due = task.verifier.index - task.acked >= task.session.router.known.params.ack_every_tokens
        if (due or message.end is not None) and task.verifier.index > 0:
            effects += self.ack(task, channel)
        if message.end is None:
            task.life.take(TaskFact.FRAME)
            if task.direct:
                self._paced(task, now_ms)
            return effects
        fact = TaskFact.CANCELLED_END if message.end.reason is EndReason.CANCELLED else TaskFact.END
        task.receipt = papers.receipt(self.held, task)
        return effects + self.over(task, fact, "", "", 0) + self.levels.ended(task, now_ms)

    def ack(self, task: Task, channel: Channel) -> list[object]:
        """Acknowledge all that was verified, where it came from. Spec: [ACK-SIGNED.1]"""
        task.acked = task.verifier.index
        ack = make_ack(task.session.domain, self.held.sign, task.verifier)
        return [Send(channel, papers.acked(task, ack))]

    def ack_again(self, task: Task) -> list[object]:
        """Acks may have been lost with a stream, and with them the miner's credit."""
        head, assignment = task.verifier.head, task.session.assignment
        if head is None or assignment is None or head.generation != assignment.generations[0]:
            # The miner of an earlier lease needs none, and a router that never had it knows no such generation.
            return []
        return self.ack(task, task.session.router.channel) if task.verifier.index > 0 else []

    def _paced(self, task: Task, now_ms: int) -> None:
        if task.framed_ms is not None:
            task.gap_ms = max(task.gap_ms, now_ms - task.framed_ms)
        task.framed_ms = now_ms
        self.await_direct(task, now_ms)

    def await_direct(self, task: Task, now_ms: int) -> None:
        """How long the miner may be silent before the router is asked to find out: ten times what it was.

        Spec: [DIRECT-FALLBACK.1]
        """
        params = task.session.router.known.params
        patience_ms = params.frame_gap_timeout_ms
        if task.framed_ms is not None:
            patience_ms //= ACKS_SHARE
        if task.gap_ms:
            patience_ms = min(max(STALL_FACTOR * task.gap_ms, params.stall_ms_min), patience_ms)
        self.held.deadlines.set(("direct", task.handle), now_ms + patience_ms)

    def lane_ended(self, session: Session, message: LaneEnded) -> list[object]:
        """A lane that was streamed to nobody has ended. Raises RemoteProtocolError if that does not hold."""
        head, assignment = message.head, session.assignment
        withheld = session.withheld.get(head.task)
        if withheld is None or assignment is None:
            return []
        if not 0 < head.lane < session.opening.lanes or head.generation in withheld.ended:
            raise RemoteProtocolError("the end of a lane that the session does not have, or that has ended")
        try:
            check_ended(session.domain, self._expect(session, withheld.order, assignment, head.lane), message)
        except TranscriptError as error:
            raise RemoteProtocolError(f"lane {head.lane}: {error}") from error
        withheld.ended.add(head.generation)
        return [Deliver(session.handle, LaneReported(message))]

    def over(self, task: Task, fact: TaskFact, code: str, detail: str, retry_after_ms: int) -> list[object]:
        """The one terminal item of a task. Spec: [TASK-TERMINAL.1]"""
        task.life.take(fact)
        self.held.tasks.pop(task.handle, None)
        task.session.tasks.pop(task.order.task, None)
        if task.direct:
            task.session.over_directly.append(task.order.task)
        for kind in ("task", "direct"):
            self.held.deadlines.clear((kind, task.handle))
        end = task.verifier.end if fact is not TaskFact.FAILED else None
        if end is None and code != "transcript_broken" and task.verifier.head is not None:
            # Whoever is to blame, what was shown is not the whole answer.
            detail = f"{detail} ({_cut(task.verifier)})"
        over = TaskOver(end, code, detail, retry_after_ms, task.verifier.index, task.frames)
        return [*self._transcript(task), *papers.ended(task), Deliver(task.handle, over)]

    @staticmethod
    def _transcript(task: Task) -> list[object]:
        end = task.verifier.end
        if end is None or not task.transcript:
            return []
        heads, texts = tuple(task.segments()), tuple(task.texts)
        return [Deliver(task.handle, TaskTranscript(task.order, task.prompt, heads, tuple(task.ids), texts, end))]


def _cut(verifier: LaneVerifier) -> str:
    try:
        verifier.finish()
    except TranscriptError as error:
        return str(error)
    raise AssertionError("a task with a signed end does not fail")
