"""Requests for vectors on their way to lane 0's miner and back: handed on as they are, to the next one if it is lost.

Each ends for the client in one Embedded or one EmbedFailed, as long as its stream stands.
"""

from dataclasses import dataclass, field

from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId, SessionId
from protocol.core.machine import Channel, Send
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.messages.embeddings import EmbedAsked, Embedded, EmbedFailed
from protocol.roles.router.hedging import TaskName
from protocol.roles.router.state import Session
from protocol.session.embeddings import check_asked, check_embedded
from protocol.session.lifecycle import TERMINAL_CODES

EMBEDS_MAX = 4
"""Of one session, under way at once."""
SENDS_MAX = 3
"""Miners that are given one request, each after the one before was lost."""
RETRY_AFTER_MS = 1_000
RETRY_AFTER_MS_MAX = 60_000


@dataclass(slots=True)
class UnderWay:
    """A request that is not answered."""

    asked: EmbedAsked
    sends: int = 0


@dataclass(frozen=True, slots=True)
class Embeds:
    """See the module. Spec: [EMBED-RELAYED.1]"""

    domain: Domain
    params: Params
    deadlines: Deadlines[TaskName]
    under_way: dict[SessionId, dict[int, UnderWay]] = field(default_factory=dict)

    def taken(self, channel: Channel, session: Session | None, message: EmbedAsked, now_ms: int) -> list[object]:
        """A client asks; of a session that is not open here it hears so."""
        if session is None or not session.was_ready:
            name, number = message.order.session, message.order.number
            return [Send(channel, EmbedFailed(name, number, "session_expired", "the session is not open here", 0))]
        return self.asked(session, message, now_ms)

    def asked(self, session: Session, message: EmbedAsked, now_ms: int) -> list[object]:
        """A client asks. Raises RemoteProtocolError for what it may not send."""
        check_asked(self.domain, self.params, NodeId(session.opening.client), session.id, message)
        mine, number = self.under_way.setdefault(session.id, {}), message.order.number
        if number in mine:
            raise RemoteProtocolError("a request for vectors has a number of its own")
        if len(mine) >= EMBEDS_MAX:
            detail = "too many requests for vectors are under way"
            return self._failed(session, number, "queue_full", detail, RETRY_AFTER_MS)
        mine[number] = UnderWay(message)
        timeout_ms = min(message.timeout_ms, self.params.task_deadline_ms_max)
        self.deadlines.set(("embed", session.id, number), now_ms + timeout_ms)
        return self._hand_over(session, mine[number])

    def resume(self, session: Session) -> list[object]:
        """Lane 0 has another miner: it is asked what is not answered."""
        waiting = list(self.under_way.get(session.id, {}).values())
        return [effect for each in waiting for effect in self._hand_over(session, each)]

    def _hand_over(self, session: Session, each: UnderWay) -> list[object]:
        if session.lease is None:
            return []
        each.sends += 1
        if each.sends > SENDS_MAX:
            return self._over(session, each.asked.order.number, "miner_lost", "its miners were lost, one by one")
        return [Send(session.lease.channel, each.asked, key=session.id)]

    def answered(self, session: Session, message: Embedded) -> list[object]:
        """The miner's vectors. Raises RemoteProtocolError if they do not hold."""
        each, lease = self.under_way.get(session.id, {}).get(message.number), session.lease
        if each is None or lease is None:
            return []
        if message.session != session.id or message.generation != lease.generation:
            raise RemoteProtocolError("vectors for another session or lease")
        check_embedded(self.domain, each.asked, session.opening.model, lease.miner, message)
        self._forget(session, message.number)
        return [] if session.client is None else [Send(session.client, message, key=session.id)]

    def failed(self, session: Session, message: EmbedFailed) -> list[object]:
        """The miner has none."""
        if message.number not in self.under_way.get(session.id, {}):
            return []
        code = message.code if message.code in TERMINAL_CODES else "engine_failed"
        retry_after_ms = min(message.retry_after_ms, RETRY_AFTER_MS_MAX)
        return self._over(session, message.number, code, message.detail, retry_after_ms)

    def overdue(self, session: Session, number: int) -> list[object]:
        """The request's own deadline passed."""
        if number not in self.under_way.get(session.id, {}):
            return []
        return self._over(session, number, "deadline_exceeded", "the request's deadline passed")

    def waits(self, session: Session) -> bool:
        """Whether its miner has something to answer."""
        return bool(self.under_way.get(session.id))

    def abandon(self, session: Session) -> None:
        """The session is over, and its client hears of that."""
        for number in list(self.under_way.get(session.id, ())):
            self._forget(session, number)
        self.under_way.pop(session.id, None)

    def _over(self, session: Session, number: int, code: str, detail: str, retry_after_ms: int = 0) -> list[object]:
        self._forget(session, number)
        return self._failed(session, number, code, detail, retry_after_ms)

    def _forget(self, session: Session, number: int) -> None:
        self.deadlines.clear(("embed", session.id, number))
        del self.under_way[session.id][number]
        if not self.under_way[session.id]:
            del self.under_way[session.id]

    @staticmethod
    def _failed(session: Session, number: int, code: str, detail: str, retry_after_ms: int) -> list[object]:
        failed = EmbedFailed(session.id, number, code, detail, retry_after_ms)
        return [] if session.client is None else [Send(session.client, failed, key=session.id)]
