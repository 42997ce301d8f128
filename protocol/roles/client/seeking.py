"""A session whose router is lost: the same router if it comes back, or another one that the session names.

A router that still holds the session sends what was missed. Any other is given the session anew, with the client's
signed word that it serves it from now on, and every open order with what was verified of its answer: assignment
numbers carry on, and the next miner begins after the last signed token.
"""

from collections.abc import Callable
from dataclasses import dataclass

from protocol.core.ids import NodeId, Signature
from protocol.core.machine import Open, Send
from protocol.core.signing import typed_digest
from protocol.messages.greeting import ClientHello
from protocol.messages.sessions import (
    CloseSession,
    OpenSession,
    ResumeSession,
    RouterTerm,
    SessionEnded,
    SessionReady,
    SessionResumed,
    SignedTerm,
)
from protocol.roles.client.events import Deliver, RouterFound, RouterSought
from protocol.roles.client.orders import U32_MAX
from protocol.roles.client.state import Held, Router, Seek, Session
from protocol.roles.client.tasks import Tasks

SEEK_MS = 15_000
"""So long a session without a router is kept alive."""
GREETING_MS = 3_000
OPEN_MS = 4_000
"""What a router is given to find miners in: less than it is waited for, so that its own refusal comes first."""
ANSWER_MS = 5_000
PAUSE_MS = 500
"""Before all routers are tried once more."""
TERM_NUMBERS = 1_024
"""Assignments that a router may sign in its term, whether the client saw them or not."""

End = Callable[[Session, str, str], list[object]]


@dataclass(frozen=True, slots=True)
class Seeking:
    """The rules of finding a router again, over what the machine holds."""

    held: Held
    tasks: Tasks
    end: End

    @staticmethod
    def may_go_on(session: Session) -> bool:
        """Whether it is worth looking for a router: another one is named, or a miner was found before."""
        return session.assignment is not None or len(session.opening.routers) > 1

    def lost(self, session: Session, detail: str, now_ms: int, *, left: bool = False) -> list[object]:
        """The session's router is gone; with ``left`` it said so itself, and is asked last. Spec: [ROUTER-TERM.1]"""
        session.router.sessions.pop(session.id, None)
        said: list[object] = []
        if session.seek is None:
            routers = self._routers(session)
            routers = [*routers[1:], routers[0]] if left else routers
            session.seek = Seek(now_ms + SEEK_MS, routers, resumable=not left)
            said.append(Deliver(session.handle, RouterSought(detail)))
        return said + self._next(session, now_ms)

    def _next(self, session: Session, now_ms: int) -> list[object]:
        """Try the next router; after the last one, all again a little later."""
        seek = session.seek
        assert seek is not None
        if now_ms >= seek.until_ms:
            return self.end(session, "router_lost", f"no router of the session took it on in time{seek.refusal}")
        if not seek.routers:
            seek.routers = self._routers(session)
            self._wait(session, min(now_ms + PAUSE_MS, seek.until_ms))
            return []
        return self._reach(session, seek.routers.pop(0), now_ms)

    @staticmethod
    def _routers(session: Session) -> list[NodeId]:
        """The last one first: it may still hold the session."""
        named = [NodeId(router) for router in session.opening.routers]
        at = named.index(session.router.node)
        return named[at:] + named[:at]

    def _wait(self, session: Session, until_ms: int) -> None:
        self.held.deadlines.set(("seek", session.handle), until_ms)

    def again(self, session: Session, now_ms: int) -> list[object]:
        """A pause is over, or a router took too long."""
        effects = self.leave_off(session)
        return effects + self._next(session, now_ms)

    def leave_off(self, session: Session, signature: Signature | None = None) -> list[object]:
        """No router is to do anything more for the session: what one still finds for it nobody would use.

        ``signature``: of its SessionClose, where no other router is to have it either.
        """
        effects: list[object] = []
        for router in self.held.by_channel.values():
            router.awaited_by.pop(session.handle, None)
            if router.sessions.pop(session.id, None) is not None:
                effects.append(Send(router.channel, CloseSession(session.id, signature)))
                if session.seek is not None:
                    session.seek.resumable = False
        return effects

    def _reach(self, session: Session, node: NodeId, now_ms: int) -> list[object]:
        router = self.held.routers.get(node)
        if router is not None and router.genesis is not None:
            return self.reopen(session, router, now_ms)
        self._wait(session, now_ms + GREETING_MS)
        if router is not None:
            router.awaited_by[session.handle] = None
            return []
        channel = self.held.numbers.take()
        router = Router(int(channel), node, channel, session.router.known.network_id())
        router.awaited_by[session.handle] = None
        self.held.routers[node] = self.held.by_channel[channel] = router
        self.held.deadlines.set(("router", router.handle), now_ms + GREETING_MS)
        return [Open(channel, node, "client"), Send(channel, ClientHello())]

    def reopen(self, session: Session, router: Router, now_ms: int) -> list[object]:
        """A router answers: it may hold the session still, or gets it anew."""
        assert session.seek is not None
        if router.known.network_id() != session.router.known.network_id():
            return self._next(session, now_ms)
        held_there = router.node == session.router.node and session.seek.resumable and session.assignment is not None
        session.router = router
        router.sessions[session.id] = session
        self._wait(session, now_ms + ANSWER_MS)
        if held_there:
            return [Send(router.channel, ResumeSession(session.id, session.received))]
        return self._open_anew(session)

    def _open_anew(self, session: Session) -> list[object]:
        """Spec: [ROUTER-TERM.1]"""
        router = session.router
        session.received = 0
        assert session.seek is not None
        session.seek.resumable = False
        before = session.term.term.after if session.term is not None else 0
        last = session.assignment.number if session.assignment is not None else 0
        term = RouterTerm(session.id, router.node, (max(before, last) // TERM_NUMBERS + 1) * TERM_NUMBERS)
        session.term = SignedTerm(term, self.held.sign(typed_digest(session.domain, term)))
        signature = self.held.sign(session.id)
        timeout_ms = min(session.timeout_ms, OPEN_MS)
        message = OpenSession(session.opening, signature, timeout_ms, min(session.tokens, U32_MAX), session.term)
        return [Send(router.channel, message)]

    @staticmethod
    def expects(session: Session, message: SessionReady | SessionEnded | SessionResumed) -> bool:
        """Whether a router answers what it was asked last; a slow one may still speak of what was asked before."""
        assert session.seek is not None
        match message:
            case SessionResumed():
                return session.seek.resumable
            case SessionReady():
                after = session.term.term.after if session.term is not None else 0
                return not session.seek.resumable and message.assignment.number > after
        return message.code != "session_closed"

    def resumed(self, session: Session, message: SessionResumed, now_ms: int) -> list[object]:
        """The router held the session: what was missed follows; what it missed is sent again."""
        effects = self._found(session)
        for task in list(session.tasks.values()):
            if task.order.task > message.last_task or task.fell_back:
                effects += self.tasks.submit(task, now_ms)
            if not task.direct:
                effects += self.tasks.ack_again(task)
            if task.cancelled:
                effects += self.tasks.send_cancel(task)
        return effects

    def assigned(self, session: Session, now_ms: int) -> list[object]:
        """A router that had nothing of the session leased miners for it: it gets every open order."""
        effects = self._found(session)
        for task in list(session.tasks.values()):
            self.tasks.relayed(task)
            task.fell_back = False
            effects += self.tasks.submit(task, now_ms) + self.tasks.accept_lost_again(task)
            if task.cancelled:
                effects += self.tasks.send_cancel(task)
        return effects

    def refused(self, session: Session, message: SessionEnded, now_ms: int) -> list[object]:
        """The router does not hold the session, or does not want it."""
        assert session.seek is not None
        if session.seek.resumable and session.assignment is not None:
            session.seek.resumable = False
            self._wait(session, now_ms + ANSWER_MS)
            return self._open_anew(session)
        session.seek.refusal = f"; the last that answered said {message.code}: {message.detail}"
        return self.again(session, now_ms)

    def _found(self, session: Session) -> list[object]:
        session.seek = None
        self.held.deadlines.clear(("seek", session.handle))
        return [Deliver(session.handle, RouterFound(session.router.node))]
