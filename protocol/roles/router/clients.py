"""The router's clients: whose stream carries which sessions, and what happens when it goes.

A session with work in it outlives its client's stream for ``resume_window_ms``. The same peer, back on a new
stream, says how many messages of the session it has, and gets the others as they were sent.
"""

from collections import Counter
from dataclasses import dataclass, field

from protocol.core.deadlines import Deadlines
from protocol.core.ids import Digest, NodeId, SessionId
from protocol.core.machine import Channel, Send
from protocol.core.params import Params
from protocol.messages.sessions import ResumeSession, SessionEnded, SessionResumed
from protocol.roles.router.state import Session

DETACHED_SHARE = 4
"""At most this share of the sessions a router may hold are kept for clients that are away; beyond it, whoever has most
of them loses one."""


@dataclass(frozen=True, slots=True)
class Clients:
    """Streams of clients, over sessions that the machine owns."""

    params: Params
    sessions: dict[SessionId, Session]
    peers: dict[Channel, NodeId]
    channels: dict[Channel, dict[SessionId, None]] = field(default_factory=dict)
    away: Deadlines[SessionId] = field(default_factory=Deadlines)
    """Until when a session is kept whose client's stream is lost."""
    kept: dict[NodeId, dict[SessionId, None]] = field(default_factory=dict)
    """Those sessions by client, the longest kept first."""
    held: Counter[NodeId] = field(default_factory=Counter)
    """How many sessions a client has here, on whatever stream or on none."""

    def session(self, channel: Channel, session: bytes) -> Session | None:
        """A session that the stream carries."""
        name = SessionId(Digest(session))
        return self.sessions[name] if name in self.channels[channel] else None

    def admit(self, channel: Channel, session: Session) -> None:
        """A new session, on its client's stream."""
        self.held[session.peer] += 1
        self._attach(channel, session)

    def dismiss(self, session: Session) -> None:
        """A session is over."""
        self._detach(session)
        self.held[session.peer] -= 1
        if not self.held[session.peer]:
            del self.held[session.peer]

    def _attach(self, channel: Channel, session: Session) -> None:
        session.client = channel
        self.channels[channel][session.id] = None

    def _detach(self, session: Session) -> None:
        """No stream carries the session, and it is not kept for want of one."""
        if session.client in self.channels:
            self.channels[session.client].pop(session.id, None)
        session.client = None
        self.away.clear(session.id)
        kept = self.kept.get(session.peer, {})
        kept.pop(session.id, None)
        if not kept:
            self.kept.pop(session.peer, None)

    def wait(self, session: Session, now_ms: int) -> SessionId | None:
        """Keep a session for a while whose client is away; tells which one has to end for it, if any.

        Nobody loses one to a client that has as many, this one included. Spec: [RESUME-REPLAY.1]
        """
        self._detach(session)
        self.away.set(session.id, now_ms + self.params.resume_window_ms)
        self.kept.setdefault(session.peer, {})[session.id] = None
        if len(self.away) <= self.params.sessions_per_router_max // DETACHED_SHARE:
            return None
        most = max(self.kept, key=lambda peer: (len(self.kept[peer]), peer == session.peer))
        return next(iter(self.kept[most]))

    def resume(self, channel: Channel, message: ResumeSession) -> list[object]:
        """A client is back: it gets what it missed, byte for byte. Spec: [RESUME-REPLAY.1]"""
        session = self.sessions.get(SessionId(Digest(message.session)))
        missed = session.told - message.received if session is not None else 0
        # Only who opened the session is told what is in it.
        known = session is not None and session.peer == self.peers[channel] and session.was_ready
        if session is None or not known or not 0 <= missed <= len(session.kept):
            ended = SessionEnded(message.session, "session_expired", "the session is not held here any more", 0)
            return [Send(channel, ended)]
        # The old stream may be dead without this node having noticed.
        self._detach(session)
        self._attach(channel, session)
        again = list(session.kept)[len(session.kept) - missed :]
        resumed = [SessionResumed(session.id, session.last_task), *again]
        return [Send(channel, item, key=session.id) for item in resumed]
