"""Answers that should be final by now and are not: the client says so, and asks whoever else may know.

What a router does not tell nobody can prove; but it takes one router that tells, and what it tells proves itself.
"""

from dataclasses import dataclass

from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import Digest, SessionId
from protocol.core.machine import Channel
from protocol.light.headers import Untrusted
from protocol.light.news import check_outcome
from protocol.messages.receipts import OutcomeAsked
from protocol.roles.client.events import ChainWanted, Handle
from protocol.roles.client.levels import Levels, News
from protocol.roles.client.state import Held, Session, Settling
from protocol.roles.client.watching import OutcomeTold, Watching

PAUSE_MS, PAUSE_MS_MAX = 2_000, 30_000
"""Before all are asked again."""
CHAIN_AFTER = 2
"""Rounds in which routers are asked before the chain is."""


@dataclass(frozen=True, slots=True)
class Omission:
    """The rules of asking elsewhere, over what the machine holds. Spec: [LIGHT-OMISSION.1]"""

    held: Held
    levels: Levels
    watching: Watching

    def due(self, handle: Handle, now_ms: int) -> list[object]:
        """An answer may be overdue."""
        found = self._settling(handle)
        if found is None or found[1].lane.final is not None or found[1].lane.against:
            return []
        session, settling = found
        settling.overdue += 1
        pause_ms = min(PAUSE_MS << min(settling.overdue - 1, 8), PAUSE_MS_MAX)
        self.held.deadlines.set(("final", handle), now_ms + pause_ms)
        effects = self.levels.told(session, settling, now_ms) if settling.overdue == 1 else []
        effects += self.watching.ask(OutcomeAsked(session.id, settling.lane.result.task), now_ms)
        if settling.overdue >= CHAIN_AFTER:
            effects += self.watching.tell(ChainWanted())
        return effects

    def _settling(self, handle: Handle) -> tuple[Session, Settling] | None:
        for session in self.held.sessions.values():
            for settling in session.settling.values():
                if settling.handle == handle:
                    return session, settling
        return None

    def received(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        """A router that is watched says something."""
        if isinstance(message, OutcomeTold):
            return self._told(channel, message, now_ms)
        return self.watching.received(channel, message, now_ms)

    def _told(self, channel: Channel, message: OutcomeTold, now_ms: int) -> list[object]:
        """It counts like news of the session's own router, and that one should have told it."""
        asked, name = self.watching.node(channel), SessionId(Digest(message.outcome.session))
        effects = self.watching.received(channel, message, now_ms)
        session = next((each for each in self.held.sessions.values() if each.id == name), None)
        if session is None or not self.watching.owns(channel):
            return effects
        settling = session.settling.get(message.outcome.task)
        was_final = settling is None or settling.lane.final is not None
        effects += self.levels.news(session, message, now_ms)
        own = session.router.node
        if settling is not None and not was_final and settling.lane.final is not None and asked != own:
            effects += self.watching.withheld(own, now_ms)
        return effects

    def news(self, session: Session, news: News, now_ms: int) -> list[object]:
        """What the session's router passes on: outcomes it has checked, if it is honest. Spec: [LIGHT-WATCH.3]"""
        lied: list[object] = []
        if isinstance(news, OutcomeTold):
            try:
                check_outcome(session.router.followed.trust, news)
            except Untrusted:
                pass  # too old to be believed here, or too new
            except RemoteProtocolError as error:
                lied = self.watching.lied(session.router.node, str(error))
        effects = lied + self.levels.news(session, news, now_ms)
        if isinstance(news, OutcomeTold):
            settling = session.settling.get(news.outcome.task)
            if settling is not None and settling.lane.final is not None and not settling.overdue:
                self.watching.told_in_time(session.router.node)
        return effects
