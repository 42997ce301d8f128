"""The light client's machine.

It trusts nobody: the session id is its own signature's digest, the assignment is checked against the signed
bids, every frame against the chain that its own order began, and text is delivered only after the signature
that covers it. Whatever the router does or does not do, every wish ends in exactly one terminal item.
"""

from protocol.core.deadlines import Deadlines
from protocol.core.errors import ParameterError, RemoteProtocolError, TranscriptError
from protocol.core.genesis import parse_genesis
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId, SessionId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelNumbers,
    Close,
    DeadlineReached,
    Open,
    Received,
    Send,
)
from protocol.core.signing import Sign, typed_digest, verify
from protocol.messages.sessions import (
    Assignment,
    ClientHello,
    CloseSession,
    OpenSession,
    RouterHello,
    SessionEnded,
    SessionOpen,
    SessionReady,
    session_id,
)
from protocol.messages.tasks import (
    CancelTask,
    EndReason,
    FrameMessage,
    SegmentStart,
    SubmitTask,
    TaskFailed,
)
from protocol.roles.client.events import (
    AskTask,
    CancelAsk,
    CloseAsked,
    ConnectRouter,
    Deliver,
    Handle,
    OpenAsked,
    RouterGone,
    RouterReady,
    SessionAssigned,
    SessionOver,
    TaskHead,
    TaskOver,
    TaskText,
)
from protocol.roles.client.orders import U32_MAX, WEI_MAX, find_fault, order_of, prompt_of
from protocol.roles.client.state import Router, Session, Task
from protocol.session.auction import verify_bid_set
from protocol.session.lifecycle import (
    TERMINAL_CODES,
    SessionFact,
    TaskFact,
)
from protocol.session.transcript import LaneVerifier, expect_segment, make_ack

HELLO_TIMEOUT_MS = 10_000
GRACE_MS = 2_000
"""How much longer than the router the client waits: the router's own terminal event says more."""
CANCEL_TIMEOUT_MS = 5_000


class ClientMachine:
    """See the module. ``handle`` takes the common events and the wishes of ``client.events``."""

    protocols = ()
    topics = ()

    def __init__(self, client: NodeId, sign: Sign) -> None:
        self._client = client
        self._sign = sign
        self._numbers = ChannelNumbers()
        self._routers: dict[NodeId, Router] = {}
        self._by_channel: dict[Channel, Router] = {}
        self._sessions: dict[Handle, Session] = {}
        self._tasks: dict[Handle, Task] = {}
        self._deadlines: Deadlines[tuple[str, Handle]] = Deadlines()

    def next_deadline(self) -> int | None:
        """The earliest of greetings, sessions and tasks."""
        return self._deadlines.next()

    def handle(self, event: object, now_ms: int) -> list[object]:
        """Take one event; total on whatever the router sent."""
        match event:
            case ConnectRouter():
                return self._connect(event, now_ms)
            case OpenAsked():
                return self._open(event, now_ms)
            case AskTask():
                return self._ask(event, now_ms)
            case CancelAsk():
                return self._cancel(event.handle, now_ms)
            case CloseAsked():
                session = self._sessions.get(event.handle)
                return self._close(session, "session_closed", "closed") if session else []
            case Received():
                return self._received(event, now_ms)
            case ChannelClosed():
                router = self._by_channel.get(event.channel)
                return self._router_gone(router, "router_lost", event.reason) if router else []
            case DeadlineReached():
                return self._expire(now_ms)
        return []

    # Routers

    def _connect(self, event: ConnectRouter, now_ms: int) -> list[object]:
        channel = self._numbers.take()
        router = Router(event.handle, event.router, channel, event.network)
        self._routers[event.router] = self._by_channel[channel] = router
        self._deadlines.set(("router", event.handle), now_ms + HELLO_TIMEOUT_MS)
        return [Open(channel, event.router, "client"), Send(channel, ClientHello())]

    def _hello(self, router: Router, hello: RouterHello) -> list[object]:
        self._deadlines.clear(("router", router.handle))
        try:
            genesis = parse_genesis(hello.genesis)
        except ParameterError as error:
            return self._refuse_router(router, f"its genesis is no good: {error}")
        if hello.router != router.node:
            return self._refuse_router(router, "it claims another identity than its connection proves")
        if router.expected_network is not None and genesis.network_id() != router.expected_network:
            served, expected = genesis.network_id().hex()[:16], router.expected_network.hex()[:16]
            return self._refuse_router(router, f"it serves network {served}, the address names {expected}")
        router.genesis = genesis
        return [Deliver(router.handle, RouterReady(hello, genesis))]

    def _refuse_router(self, router: Router, why: str) -> list[object]:
        return [Close(router.channel), *self._router_gone(router, "bad_request", f"the router is refused: {why}")]

    def _router_gone(self, router: Router, code: str, detail: str) -> list[object]:
        self._by_channel.pop(router.channel, None)
        if self._routers.get(router.node) is router:
            del self._routers[router.node]
        self._deadlines.clear(("router", router.handle))
        effects: list[object] = []
        for session in list(router.sessions.values()):
            effects += self._session_over(session, code, detail, 0)
        return [*effects, Deliver(router.handle, RouterGone(code, detail))]

    # Sessions

    def _open(self, event: OpenAsked, now_ms: int) -> list[object]:
        router = self._routers.get(event.router)
        if router is None or router.genesis is None:
            return [Deliver(event.handle, SessionOver("router_lost", "not connected to the router", 0))]
        opening = SessionOpen(
            client=self._client,
            routers=(event.router,),
            model=event.model,
            lanes=1,
            price_cap_wei=min(event.price_cap_wei, WEI_MAX),
            tasks_max=min(event.tasks_max, router.genesis.params.tasks_per_session_max),
            expires_ms=now_ms + min(event.lifetime_ms, router.genesis.params.session_lifetime_ms_max),
            nonce=event.nonce,
            header=ZERO_DIGEST,
        )
        id_ = session_id(router.genesis.domain(), opening)
        session = Session(event.handle, id_, opening, router)
        session.life.take(SessionFact.OPENED)
        session.life.take(SessionFact.ANNOUNCED)
        self._sessions[event.handle] = router.sessions[id_] = session
        self._deadlines.set(("session", event.handle), now_ms + event.timeout_ms + GRACE_MS)
        timeout_ms, tokens = min(event.timeout_ms, U32_MAX), min(event.tokens, U32_MAX)
        return [Send(router.channel, OpenSession(opening, self._sign(id_), timeout_ms, tokens))]

    def _assigned(self, session: Session, ready: SessionReady) -> list[object]:
        genesis, assignment = session.router.genesis, ready.assignment
        assert genesis is not None
        domain = genesis.domain()
        verify(typed_digest(domain, assignment), ready.signature, session.router.node, "the assignment")
        auction = verify_bid_set(domain, genesis.params, session.opening, ready.bid_set, assignment)
        if session.assignment is None:
            session.life.take(SessionFact.CLOSED)
        else:
            self._reassigned(session, assignment)
        session.life.take(SessionFact.ASSIGNED)
        session.assignment = assignment
        self._deadlines.clear(("session", session.handle))
        signature = self._sign(session.id)
        item = SessionAssigned(session.id, assignment, auction, session.opening, signature, ready)
        return [Deliver(session.handle, item)]

    def _reassigned(self, session: Session, assignment: Assignment) -> None:
        """Another miner goes on where the last signed frame ended. Spec: [ASSIGN-NUMBER.1] [CHAIN-TAKEOVER.1]"""
        assert session.assignment is not None and session.router.genesis is not None
        if assignment.number <= session.assignment.number:
            raise RemoteProtocolError("the number of a session's assignments only rises")
        session.life.take(SessionFact.LOST)
        domain, model = session.router.genesis.domain(), session.opening.model
        for task in session.tasks.values():
            generation, miner = assignment.generations[0], assignment.miners[0]
            task.verifier.take_over(expect_segment(domain, task.order, 0, generation, miner, model))

    def _close(self, session: Session, code: str, detail: str) -> list[object]:
        effects: list[object] = [Send(session.router.channel, CloseSession(session.id))]
        return effects + self._session_over(session, code, detail, 0)

    def _session_over(self, session: Session, code: str, detail: str, retry_after_ms: int) -> list[object]:
        effects: list[object] = []
        for task in list(session.tasks.values()):
            effects += self._task_over(task, TaskFact.FAILED, code, detail, retry_after_ms)
        session.life.take(SessionFact.ENDED)
        self._sessions.pop(session.handle, None)
        session.router.sessions.pop(session.id, None)
        self._deadlines.clear(("session", session.handle))
        return [*effects, Deliver(session.handle, SessionOver(code, detail, retry_after_ms))]

    # Tasks

    def _ask(self, event: AskTask, now_ms: int) -> list[object]:
        session = self._sessions.get(event.session)
        if session is None or session.assignment is None or session.router.genesis is None:
            return [self._refused(event.handle, "session_expired", "the session is not open")]
        fault = find_fault(session.router.genesis.params, event)
        if fault is not None:
            return [self._refused(event.handle, "bad_request", fault)]
        if session.orders >= session.opening.tasks_max:
            return [self._refused(event.handle, "session_expired", "all orders of the session are used up")]
        session.orders += 1
        domain, assignment = session.router.genesis.domain(), session.assignment
        prompt = prompt_of(event)
        order = order_of(session, session.orders, event, prompt)
        expected = expect_segment(
            domain, order, 0, assignment.generations[0], assignment.miners[0], session.opening.model
        )
        task = Task(event.handle, order, session, LaneVerifier(domain, expected))
        task.life.take(TaskFact.ORDERED)
        task.life.take(TaskFact.STARTED)
        self._tasks[event.handle] = session.tasks[order.task] = task
        self._deadlines.set(("task", event.handle), now_ms + event.timeout_ms + GRACE_MS)
        signature = self._sign(typed_digest(domain, order))
        return [Send(session.router.channel, SubmitTask(order, signature, prompt, event.timeout_ms))]

    @staticmethod
    def _refused(handle: Handle, code: str, detail: str) -> Deliver:
        return Deliver(handle, TaskOver(None, code, detail, 0, 0, 0))

    def _cancel(self, handle: Handle, now_ms: int) -> list[object]:
        task = self._tasks.get(handle)
        if task is None:
            return []
        at = self._deadlines.at(("task", handle))
        limit = now_ms + CANCEL_TIMEOUT_MS
        self._deadlines.set(("task", handle), limit if at is None else min(at, limit))
        return [Send(task.session.router.channel, CancelTask(task.session.id, task.order.task))]

    def _head(self, task: Task, message: SegmentStart) -> list[object]:
        task.verifier.begin(message.head)
        task.life.take(TaskFact.HEAD)
        return [Deliver(task.handle, TaskHead(message.head))]

    def _frame(self, task: Task, message: FrameMessage) -> list[object]:
        task.verifier.take(message)
        task.frames += 1
        effects: list[object] = []
        if message.ids:
            text = TaskText(message.first_index, message.ids, b"".join(message.texts))
            effects.append(Deliver(task.handle, text))
        genesis = task.session.router.genesis
        assert genesis is not None
        due = task.verifier.index - task.acked >= genesis.params.ack_every_tokens
        if (due or message.end is not None) and task.verifier.index > 0:
            task.acked = task.verifier.index
            effects.append(Send(task.session.router.channel, make_ack(genesis.domain(), self._sign, task.verifier)))
        if message.end is None:
            task.life.take(TaskFact.FRAME)
            return effects
        fact = TaskFact.CANCELLED_END if message.end.reason is EndReason.CANCELLED else TaskFact.END
        return effects + self._task_over(task, fact, "", "", 0)

    def _task_over(self, task: Task, fact: TaskFact, code: str, detail: str, retry_after_ms: int) -> list[object]:
        """The one terminal item of a task. Spec: [TASK-TERMINAL.1]"""
        task.life.take(fact)
        self._tasks.pop(task.handle, None)
        task.session.tasks.pop(task.order.task, None)
        self._deadlines.clear(("task", task.handle))
        end = task.verifier.end if fact is not TaskFact.FAILED else None
        if end is None and code != "transcript_broken" and task.verifier.head is not None:
            # Whoever is to blame, what was shown is not the whole answer.
            detail = f"{detail} ({self._cut(task.verifier)})"
        over = TaskOver(end, code, detail, retry_after_ms, task.verifier.index, task.frames)
        return [Deliver(task.handle, over)]

    @staticmethod
    def _cut(verifier: LaneVerifier) -> str:
        try:
            verifier.finish()
        except TranscriptError as error:
            return str(error)
        raise AssertionError("a task with a signed end does not fail")

    # What the router says

    def _received(self, event: Received, now_ms: int) -> list[object]:
        router = self._by_channel.get(event.channel)
        if router is None:
            return []
        message = event.message
        try:
            match message:
                case RouterHello() if router.genesis is None:
                    return self._hello(router, message)
                case SessionReady() | SessionEnded():
                    return self._about_session(router, message)
                case SegmentStart() | FrameMessage() | TaskFailed():
                    return self._about_task(router, message)
        except RemoteProtocolError as error:
            why = f"the router broke a rule: {error}"
            return [Close(router.channel), *self._router_gone(router, "router_lost", why)]
        why = f"the router sent {type(message).__name__} out of place"
        return [Close(router.channel), *self._router_gone(router, "router_lost", why)]

    def _about_session(self, router: Router, message: SessionReady | SessionEnded) -> list[object]:
        session = router.sessions.get(SessionId(Digest(message.session)))
        if session is None:
            return []
        if isinstance(message, SessionReady):
            return self._assigned(session, message)
        return self._session_over(session, _known(message.code), message.detail, message.retry_after_ms)

    def _about_task(self, router: Router, message: SegmentStart | FrameMessage | TaskFailed) -> list[object]:
        name = message.head if isinstance(message, SegmentStart) else message
        session = router.sessions.get(SessionId(Digest(name.session)))
        task = session.tasks.get(name.task) if session else None
        if session is None or task is None:
            # Late frames of a task that is over, or frames of somebody else's: either way nothing is shown.
            return []
        try:
            if isinstance(message, SegmentStart):
                return self._head(task, message)
            if isinstance(message, FrameMessage):
                return self._frame(task, message)
        except TranscriptError as error:
            over = self._task_over(task, TaskFact.FAILED, "transcript_broken", str(error), 0)
            return [*over, *self._close(session, "transcript_broken", str(error))]
        code = _known(message.code)
        return self._task_over(task, TaskFact.FAILED, code, message.detail, message.retry_after_ms)

    def _expire(self, now_ms: int) -> list[object]:
        effects: list[object] = []
        for kind, handle in self._deadlines.due(now_ms):
            if kind == "router":
                router = next((r for r in self._by_channel.values() if r.handle == handle), None)
                if router is not None:
                    effects += [Close(router.channel), *self._router_gone(router, "router_lost", "no greeting in time")]
            elif kind == "session" and handle in self._sessions:
                effects += self._close(self._sessions[handle], "deadline_exceeded", "the router found no miner in time")
            elif kind == "task" and handle in self._tasks:
                task = self._tasks[handle]
                detail = "no terminal event from the router in time"
                effects += self._task_over(task, TaskFact.FAILED, "deadline_exceeded", detail, 0)
        return effects


def _known(code: str) -> str:
    return code if code in TERMINAL_CODES else "router_lost"
