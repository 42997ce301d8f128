"""The light client's machine.

It trusts nobody: the session id is its own signature's digest, the assignment is checked against the signed
bids, every frame against the chain that its own order began, and text is delivered only after the signature
that covers it. Whatever routers do or do not do, every wish ends in exactly one terminal item.
"""

from collections.abc import Mapping

from protocol.core.errors import ParameterError, RemoteProtocolError, TranscriptError
from protocol.core.genesis import Genesis, parse_genesis
from protocol.core.ids import Digest, NetworkId, NodeId, SessionId
from protocol.core.machine import (
    ChannelClosed,
    Close,
    DeadlineReached,
    Open,
    Received,
    Send,
)
from protocol.core.signing import Sign, typed_digest
from protocol.light.trust_book import KeptTrust
from protocol.messages.embeddings import Embedded, EmbedFailed
from protocol.messages.greeting import ClientHello, RouterHello
from protocol.messages.handover import HandOvers, HandOversFound
from protocol.messages.results import (
    CommittedNews,
    LedgerNews,
    ObservedNews,
    OutcomeNews,
    SessionClose,
    SessionNews,
    SettledNews,
)
from protocol.messages.sessions import (
    SessionEnded,
    SessionReady,
    SessionResumed,
)
from protocol.messages.tasks import FrameMessage, LaneEnded, SegmentStart, TaskFailed
from protocol.roles.client.chain import Chain, Trusted
from protocol.roles.client.direct import DirectStreams
from protocol.roles.client.embeds import Embeds
from protocol.roles.client.events import (
    AskTask,
    CancelAsk,
    CheckpointSeen,
    CloseAsked,
    ConnectRouter,
    Deliver,
    EmbedWanted,
    Handle,
    HeaderAccepted,
    OpenAsked,
    RouterGone,
    RouterReady,
    SessionOver,
    WatchRouters,
)
from protocol.roles.client.levels import Levels, News
from protocol.roles.client.omission import Omission
from protocol.roles.client.opening import Opening
from protocol.roles.client.seeking import Seeking
from protocol.roles.client.state import Greeting, Held, Router, Session
from protocol.roles.client.tasks import Tasks
from protocol.roles.client.watching import Watching
from protocol.session.lifecycle import TERMINAL_CODES, SessionFact, TaskFact

HELLO_TIMEOUT_MS = 10_000


class ClientMachine:
    """See the module. ``handle`` takes the common events and the wishes of ``client.events``.

    Args:
        kept: What earlier runs knew of networks' committees.
        live: Whether it runs beside a node that follows the committee all the time, so that none is too old.
    """

    protocols = ()
    topics = ()

    def __init__(
        self, client: NodeId, sign: Sign, kept: Mapping[NetworkId, KeptTrust] | None = None, *, live: bool = False
    ) -> None:
        self._held = Held(client, sign, trusted=Trusted(kept, live=live))
        self._levels = Levels(self._held)
        self._tasks = Tasks(self._held, self._levels)
        self._embeds = Embeds(self._held)
        self._direct = DirectStreams(self._held, self._tasks)
        self._seeking = Seeking(self._held, self._tasks, self._end)
        self._opening = Opening(self._held, self._tasks, self._direct, self._seeking)
        self._watching = Watching(self._held)
        self._omission = Omission(self._held, self._levels, self._watching)

    def next_deadline(self) -> int | None:
        """The earliest of greetings, sessions and tasks."""
        return self._held.deadlines.next()

    def handle(self, event: object, now_ms: int) -> list[object]:
        """Take one event; total on whatever routers and miners sent."""
        self._held.trusted.at(now_ms)
        effects = self._handle(event, now_ms)
        return [*effects, *self._held.trusted.news()]

    def _handle(self, event: object, now_ms: int) -> list[object]:
        match event:
            case ConnectRouter():
                return self._connect(event, now_ms)
            case OpenAsked():
                return self._opening.open(event, now_ms)
            case AskTask():
                return self._tasks.ask(event, now_ms)
            case EmbedWanted():
                return self._embeds.ask(event, now_ms)
            case CancelAsk():
                return self._tasks.cancel(event.handle, now_ms)
            case CloseAsked():
                session = self._held.sessions.get(event.handle)
                return self._close(session, "session_closed", "closed") if session else []
            case HeaderAccepted():
                return self._levels.accepted(event.digest, now_ms)
            case WatchRouters():
                return self._watch(event, now_ms)
            case CheckpointSeen():
                return self._watching.checkpoint((event.epoch, event.height), now_ms)
            case Received() if self._watching.owns(event.channel):
                return self._omission.received(event.channel, event.message, now_ms)
            case ChannelClosed() if self._watching.owns(event.channel):
                return self._watching.closed(event.channel, event.reason, now_ms)
            case Received() if event.channel in self._held.direct:
                return self._direct.received(event.channel, event.message, now_ms)
            case Received():
                return self._received(event, now_ms)
            case ChannelClosed() if event.channel in self._held.direct:
                return self._direct.lost(self._held.direct[event.channel], now_ms)
            case ChannelClosed():
                router = self._held.by_channel.get(event.channel)
                return self._router_lost(router, event.reason, now_ms) if router else []
            case DeadlineReached():
                return self._expire(now_ms)
        return []

    # Routers

    def _connect(self, event: ConnectRouter, now_ms: int) -> list[object]:
        before = self._held.routers.get(event.router)
        if before is not None and before.genesis is not None:
            # It is greeted anew, for what it has miners for now: the old stream stays while it carries a session.
            before.handle = int(before.channel)
        channel = self._held.numbers.take()
        router = Router(event.handle, event.router, channel, event.network)
        self._held.routers[event.router] = self._held.by_channel[channel] = router
        self._held.deadlines.set(("router", event.handle), now_ms + HELLO_TIMEOUT_MS)
        return [Open(channel, event.router, "client"), Send(channel, ClientHello())]

    def _hello(self, router: Router, hello: RouterHello, now_ms: int) -> list[object]:
        try:
            genesis = parse_genesis(hello.genesis)
        except ParameterError as error:
            return self._refuse_router(router, f"its genesis is no good: {error}", now_ms)
        if hello.router != router.node:
            return self._refuse_router(router, "it claims another identity than its connection proves", now_ms)
        if router.expected_network is not None and genesis.network_id() != router.expected_network:
            served, expected = genesis.network_id().hex()[:16], router.expected_network.hex()[:16]
            return self._refuse_router(router, f"it serves network {served}, the address names {expected}", now_ms)
        try:
            chain = self._chain_of(genesis)
        except RemoteProtocolError as error:
            return self._refuse_router(router, f"what is known of its network contradicts it: {error}", now_ms)
        try:
            asks = chain.greeted(router.channel, hello.certified)
        except RemoteProtocolError as error:
            return self._refuse_router(router, f"the header that it shows is not final: {error}", now_ms)
        router.greeting = Greeting(hello, genesis, chain)
        return [*asks, *self._greeted(router, router.greeting, now_ms)]

    def _greeted(self, router: Router, greeting: Greeting, now_ms: int) -> list[object]:
        """It is ready as soon as what it has shown is checked."""
        if greeting.chain.awaits(router.channel):
            return []
        self._held.deadlines.clear(("router", router.handle))
        router.genesis, router.chain, router.greeting = greeting.genesis, greeting.chain, None
        effects: list[object] = []
        if router.handle > 0:
            oracles = len(greeting.chain.trust.members_of(greeting.chain.epoch) or greeting.chain.trust.members)
            ready = RouterReady(greeting.hello, greeting.genesis, oracles, greeting.chain.untrusted)
            effects.append(Deliver(router.handle, ready))
        waiting, router.awaited_by = router.awaited_by, {}
        for handle in waiting:
            session = self._held.sessions.get(handle)
            if session is not None and session.seek is not None:
                effects += self._seeking.reopen(session, router, now_ms)
        return effects + self._leave_unneeded()

    def _watch(self, event: WatchRouters, now_ms: int) -> list[object]:
        router = self._held.routers.get(event.at)
        if router is None or router.genesis is None:
            return []
        return self._watching.watch(event, router.genesis, router.followed, now_ms)

    def _chain_of(self, genesis: Genesis) -> Chain:
        """What is known of a network already, by whichever router."""
        network, watched = genesis.network_id(), self._watching.chain_of(genesis)
        if watched is not None:
            return watched
        sessions = (session.router for session in self._held.sessions.values())
        for router in (*self._held.by_channel.values(), *sessions):
            if router.greeting is not None and router.greeting.genesis.network_id() == network:
                return router.greeting.chain
            if router.chain is not None and router.known.network_id() == network:
                return router.chain
        return Chain(genesis, self._held.trusted)

    def _told_of_committee(
        self, router: Router, message: LedgerNews | HandOvers | HandOversFound, now_ms: int
    ) -> list[object]:
        """A router shows a header, or whom epochs were handed over to. Raises RemoteProtocolError."""
        greeting = router.greeting
        chain = router.chain if greeting is None else greeting.chain
        if chain is None:
            # It may be told before the greeting is answered, which then shows a later header.
            return []
        if isinstance(message, LedgerNews):
            chain.follow(router.channel, message.certified)
            return []
        asks = chain.took(router.channel, message)
        return asks if greeting is None else [*asks, *self._greeted(router, greeting, now_ms)]

    def _refuse_router(self, router: Router, why: str, now_ms: int) -> list[object]:
        gone = self._router_gone(router, "bad_request", f"the router is refused: {why}", now_ms)
        return [*self._watching.lied(router.node, why), Close(router.channel), *gone]

    def _router_lost(self, router: Router, detail: str, now_ms: int) -> list[object]:
        """The stream is gone: sessions look for a router again. Spec: [ROUTER-TERM.1]"""
        return self._router_gone(router, "router_lost", detail, now_ms)

    def _router_gone(
        self, router: Router, code: str, detail: str, now_ms: int, *, at_fault: bool = False
    ) -> list[object]:
        held = self._held
        self._forget(router)
        held.by_channel.pop(router.channel, None)
        if held.routers.get(router.node) is router:
            del held.routers[router.node]
        held.deadlines.clear(("router", router.handle))
        effects: list[object] = []
        for session in list(router.sessions.values()):
            # Of a router that is only being asked nothing was taken: others may do better.
            over = at_fault and session.seek is None
            effects += self._embeds.lost(session, code, detail)
            if over or not self._seeking.may_go_on(session):
                effects += self._session_over(session, code, detail, 0)
            else:
                effects += self._seeking.lost(session, detail, now_ms)
        for handle in list(router.awaited_by):
            waiting = held.sessions.get(handle)
            if waiting is not None and waiting.seek is not None:
                effects += self._seeking.again(waiting, now_ms)
        if router.handle > 0:
            effects.append(Deliver(router.handle, RouterGone(code, detail)))
        return effects

    # Sessions

    def _close(self, session: Session, code: str, detail: str) -> list[object]:
        signature = None
        if session.opening.cap_wei and session.router.followed.header is not None:
            signature = self._held.sign(typed_digest(session.domain, SessionClose(session.id)))
        effects = self._seeking.leave_off(session, signature)
        return effects + self._session_over(session, code, detail, 0)

    def _end(self, session: Session, code: str, detail: str) -> list[object]:
        return self._session_over(session, code, detail, 0)

    def _session_over(self, session: Session, code: str, detail: str, retry_after_ms: int) -> list[object]:
        held = self._held
        effects = [*self._direct.close(session), *self._embeds.lost(session, code, detail)]
        for task in list(session.tasks.values()):
            effects += self._tasks.over(task, TaskFact.FAILED, code, detail, retry_after_ms)
        session.life.take(SessionFact.ENDED)
        held.sessions.pop(session.handle, None)
        session.router.sessions.pop(session.id, None)
        for kind in ("session", "seek"):
            held.deadlines.clear((kind, session.handle))
        effects.append(Deliver(session.handle, SessionOver(code, detail, retry_after_ms)))
        return effects + self._leave_unneeded()

    def _leave_unneeded(self) -> list[object]:
        """Routers that only sessions looked for, and that none has found or awaits, are left."""
        held = self._held
        unneeded = [r for r in held.by_channel.values() if r.handle < 0 and not r.sessions and not r.awaited_by]
        for router in unneeded:
            self._forget(router)
            del held.by_channel[router.channel]
            if held.routers.get(router.node) is router:
                del held.routers[router.node]
            held.deadlines.clear(("router", router.handle))
        return [Close(router.channel) for router in unneeded]

    # What a router says

    def _received(self, event: Received, now_ms: int) -> list[object]:
        router = self._held.by_channel.get(event.channel)
        if router is None:
            return []
        message = event.message
        try:
            match message:
                case RouterHello() if router.genesis is None and router.greeting is None:
                    return self._hello(router, message, now_ms)
                case SessionReady() | SessionEnded() | SessionResumed():
                    return self._about_session(router, message, now_ms)
                case LaneEnded() | SegmentStart() | FrameMessage() | TaskFailed():
                    return self._about_task(router, message, now_ms)
                case Embedded() | EmbedFailed():
                    session = router.sessions.get(SessionId(Digest(message.session)))
                    return [] if session is None else self._embeds.answered(session, message)
                case LedgerNews() | HandOvers() | HandOversFound():
                    return self._told_of_committee(router, message, now_ms)
                case CommittedNews() | ObservedNews() | OutcomeNews() | SettledNews() | SessionNews() if (
                    router.chain is not None
                ):
                    return self._about_results(router, message, now_ms)
        except RemoteProtocolError as error:
            return self._broke_rule(router, f"the router broke a rule: {error}", now_ms)
        return self._broke_rule(router, f"the router sent {type(message).__name__} out of place", now_ms)

    @staticmethod
    def _forget(router: Router) -> None:
        """Nothing more is heard on its stream."""
        chain = router.chain if router.greeting is None else router.greeting.chain
        if chain is not None:
            chain.gone(router.channel)
        router.greeting = None

    def _broke_rule(self, router: Router, why: str, now_ms: int) -> list[object]:
        lied = self._watching.lied(router.node, why)
        return [*lied, Close(router.channel), *self._router_gone(router, "router_lost", why, now_ms, at_fault=True)]

    def _about_session(
        self, router: Router, message: SessionReady | SessionEnded | SessionResumed, now_ms: int
    ) -> list[object]:
        session = router.sessions.get(SessionId(Digest(message.session)))
        if session is None or (session.seek is not None and not self._seeking.expects(session, message)):
            return []
        if isinstance(message, SessionResumed):
            found = self._seeking.resumed(session, message, now_ms) if session.seek is not None else []
            return found + self._leave_unneeded()
        session.received += 1
        if isinstance(message, SessionReady):
            return self._opening.assigned(session, message, now_ms) + self._leave_unneeded()
        if session.seek is not None:
            return self._seeking.refused(session, message, now_ms)
        if message.code == "shutting_down" and self._seeking.may_go_on(session):
            unanswered = self._embeds.lost(session, "router_lost", message.detail)
            return [*unanswered, *self._seeking.lost(session, message.detail, now_ms, left=True)]
        return self._session_over(session, _known(message.code), message.detail, message.retry_after_ms)

    def _about_results(self, router: Router, message: News | SessionNews, now_ms: int) -> list[object]:
        """News that a router passes on, or has kept for the time that this client was away."""
        match message:
            case CommittedNews():
                name = message.signed.commit.session
            case OutcomeNews() | SettledNews():
                name = message.outcome.session
            case _:
                name = message.session
        session = router.sessions.get(SessionId(Digest(name)))
        if session is None:
            return []
        if isinstance(message, SessionNews):
            return self._levels.reserved(session, message)
        return self._omission.news(session, message, now_ms)

    def _about_task(
        self, router: Router, message: LaneEnded | SegmentStart | FrameMessage | TaskFailed, now_ms: int
    ) -> list[object]:
        name = message.head if isinstance(message, SegmentStart | LaneEnded) else message
        session = router.sessions.get(SessionId(Digest(name.session)))
        if session is None or session.seek is not None:
            # A router that is asked for the session has to say first whether it holds it.
            return []
        session.received += 1
        if isinstance(message, LaneEnded):
            return self._tasks.lane_ended(session, message)
        task = session.tasks.get(name.task)
        if task is None:
            # Late frames of a task that is over, or frames of somebody else's: either way nothing is shown.
            return []
        try:
            if isinstance(message, SegmentStart):
                self._tasks.relayed(task)
                return self._tasks.head(task, message)
            if isinstance(message, FrameMessage):
                return self._tasks.frame(task, message, router.channel, now_ms)
        except TranscriptError as error:
            over = self._tasks.over(task, TaskFact.FAILED, "transcript_broken", str(error), 0)
            # It checks what it relays, so no miner is to blame.
            over += self._watching.lied(router.node, str(error))
            return [*over, *self._close(session, "transcript_broken", str(error))]
        code = _known(message.code)
        return self._tasks.over(task, TaskFact.FAILED, code, message.detail, message.retry_after_ms)

    def _expire(self, now_ms: int) -> list[object]:
        effects: list[object] = []
        for kind, handle in self._held.deadlines.due(now_ms):
            effects += self._due(kind, handle, now_ms)
        return effects

    def _due(self, kind: str, handle: Handle, now_ms: int) -> list[object]:
        if kind in ("round", "light"):
            return self._watching.due(kind, handle, now_ms)
        if kind == "final":
            return self._omission.due(handle, now_ms)
        if kind == "embed":
            return self._embeds.overdue(handle)
        session, task = self._held.sessions.get(handle), self._held.tasks.get(handle)
        if kind == "router":
            router = next((r for r in self._held.by_channel.values() if r.handle == handle), None)
            if router is None:
                return []
            gone = self._router_gone(router, "router_lost", "no greeting in time", now_ms)
            return [Close(router.channel), *gone]
        if kind == "seek" and session is not None and session.seek is not None:
            return self._seeking.again(session, now_ms)
        if kind == "session" and session is not None:
            return self._close(session, "deadline_exceeded", "the router found no miner in time")
        if kind == "direct" and task is not None:
            return self._direct.stalled(task, now_ms)
        if kind == "task" and task is not None:
            detail = "no terminal event from the router in time"
            return self._tasks.over(task, TaskFact.FAILED, "deadline_exceeded", detail, 0)
        return []


def _known(code: str) -> str:
    return code if code in TERMINAL_CODES else "router_lost"
