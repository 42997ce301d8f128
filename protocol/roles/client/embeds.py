"""Requests for vectors: signed and sent, and taken from nobody but the session's own miner."""

from dataclasses import dataclass

from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError, RemoteProtocolError
from protocol.core.ids import NodeId
from protocol.core.machine import Send
from protocol.core.signing import typed_digest
from protocol.messages.embeddings import EmbedAsked, Embedded, EmbedFailed, EmbedOrder, EmbedTexts
from protocol.roles.client.events import Deliver, EmbedOver, EmbedWanted, Handle
from protocol.roles.client.state import Held, Session
from protocol.session.embeddings import check_embedded, find_embed_fault
from protocol.session.lifecycle import TERMINAL_CODES

U32_MAX = 2**32 - 1
GRACE_MS = 2_000
"""How much longer than the router the client waits."""
UNDER_WAY_MAX = 4
"""Of one session."""


@dataclass(frozen=True, slots=True)
class Embeds:
    """The rules of requests for vectors, over what the machine holds. Spec: [EMBED-SIGNED.1]"""

    held: Held

    def ask(self, event: EmbedWanted, now_ms: int) -> list[object]:
        """Ask the session's miner; the one terminal item is an EmbedOver."""
        session = self.held.sessions.get(event.session)
        if session is None or session.assignment is None:
            return _over(event.handle, "session_expired", "the session is not open")
        if session.seek is not None:
            return _over(event.handle, "router_lost", "the session's router is being looked for")
        if len(session.embeds) >= UNDER_WAY_MAX:
            return _over(event.handle, "queue_full", "too many requests for vectors are under way", 1_000)
        asked = EmbedTexts(event.nonce, event.texts)
        try:
            unpack(EmbedTexts, pack(asked), limit_bytes=EmbedAsked.LIMIT_BYTES)
            fault = find_embed_fault(session.router.known.params, asked)
        except (DecodeError, ValueError, OverflowError) as error:
            fault = f"the texts cannot be sent: {error}"
        if fault is not None or not 0 < event.timeout_ms <= U32_MAX:
            return _over(event.handle, "bad_request", fault or "the time given must be positive")
        session.embeds_asked += 1
        order = EmbedOrder(session.id, session.embeds_asked, asked.commitment())
        message = EmbedAsked(order, self.held.sign(typed_digest(session.domain, order)), asked, event.timeout_ms)
        session.embeds[order.number] = event.handle, message
        self.held.deadlines.set(("embed", event.handle), now_ms + event.timeout_ms + GRACE_MS)
        return [Send(session.router.channel, message)]

    def answered(self, session: Session, message: Embedded | EmbedFailed) -> list[object]:
        """The router says what became of one. Raises RemoteProtocolError for vectors that do not hold."""
        handle, asked = session.embeds.get(message.number, (0, None))
        if asked is None:
            return []
        if isinstance(message, EmbedFailed):
            code = message.code if message.code in TERMINAL_CODES else "router_lost"
            return self._end(session, message.number, code, message.detail, message.retry_after_ms)
        assignment = session.assignment
        if assignment is None or message.generation != assignment.generations[0]:
            raise RemoteProtocolError("vectors of a lease that the session does not have")
        miner = NodeId(assignment.miners[0])
        check_embedded(session.domain, asked, session.opening.model, miner, message)
        self._forget(session, message.number)
        return [Deliver(handle, EmbedOver(message, miner, "", "", 0))]

    def overdue(self, handle: Handle) -> list[object]:
        """No word of the router in time."""
        for session in self.held.sessions.values():
            for number, (name, _) in list(session.embeds.items()):
                if name == handle:
                    return self._end(session, number, "deadline_exceeded", "no word of the router in time")
        return []

    def lost(self, session: Session, code: str, detail: str) -> list[object]:
        """The session's router is gone, or the session over: what was asked there is asked again, or not."""
        return [effect for number in list(session.embeds) for effect in self._end(session, number, code, detail)]

    def _end(self, session: Session, number: int, code: str, detail: str, retry_after_ms: int = 0) -> list[object]:
        handle = self._forget(session, number)
        return _over(handle, code, detail, retry_after_ms)

    def _forget(self, session: Session, number: int) -> Handle:
        handle, _ = session.embeds.pop(number)
        self.held.deadlines.clear(("embed", handle))
        return handle


def _over(handle: Handle, code: str, detail: str, retry_after_ms: int = 0) -> list[object]:
    return [Deliver(handle, EmbedOver(None, None, code, detail, retry_after_ms))]
