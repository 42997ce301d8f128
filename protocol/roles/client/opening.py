"""Sessions as they are opened and assigned: what the client signs for them, and what it takes a router's word for.

That is little: who has the leases is recomputed from the bids, which the bidders signed.
"""

from dataclasses import dataclass

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.core.machine import Send
from protocol.core.signing import typed_digest, verify
from protocol.messages.committee import header_digest
from protocol.messages.sessions import (
    ROUTERS_MAX,
    Assignment,
    OpenSession,
    SessionOpen,
    SessionReady,
    session_id,
)
from protocol.roles.client import papers
from protocol.roles.client.direct import DirectStreams
from protocol.roles.client.events import Deliver, OpenAsked, SessionAssigned, SessionOver
from protocol.roles.client.orders import U32_MAX, WEI_MAX
from protocol.roles.client.seeking import Seeking
from protocol.roles.client.state import Held, Router, Session
from protocol.roles.client.tasks import GRACE_MS, Tasks
from protocol.session.auction import verify_bid_set
from protocol.session.lifecycle import SessionFact


@dataclass(frozen=True, slots=True)
class Opening:
    """The rules of opening a session, over what the machine holds."""

    held: Held
    tasks: Tasks
    direct: DirectStreams
    seeking: Seeking

    def open(self, event: OpenAsked, now_ms: int) -> list[object]:
        """Sign a session, and ask a router for miners."""
        router = self.held.routers.get(event.router)
        if router is None or router.genesis is None:
            return [Deliver(event.handle, SessionOver("router_lost", "not connected to the router", 0))]
        params = router.genesis.params
        others = [node for node in dict.fromkeys(event.others) if node != event.router]
        opening = SessionOpen(
            client=self.held.client,
            routers=(event.router, *others)[:ROUTERS_MAX],
            model=event.model,
            lanes=max(1, min(event.lanes, params.lanes_max)),
            price_cap_wei=min(event.price_cap_wei, WEI_MAX),
            cap_wei=min(event.cap_wei, WEI_MAX),
            tasks_max=min(event.tasks_max, params.tasks_per_session_max),
            expires_ms=now_ms + min(event.lifetime_ms, params.session_lifetime_ms_max),
            audits=event.audits,
            nonce=event.nonce,
            header=self._newest(router),
        )
        id_ = session_id(router.genesis.domain(), opening)
        named = router.expected_network is not None
        session = Session(event.handle, id_, opening, router, event.tokens, event.timeout_ms, event.direct, named)
        session.life.take(SessionFact.OPENED)
        session.life.take(SessionFact.ANNOUNCED)
        self.held.sessions[event.handle] = router.sessions[id_] = session
        self.held.deadlines.set(("session", event.handle), now_ms + event.timeout_ms + GRACE_MS)
        timeout_ms, tokens = min(event.timeout_ms, U32_MAX), min(event.tokens, U32_MAX)
        return [Send(router.channel, OpenSession(opening, self.held.sign(id_), timeout_ms, tokens))]

    @staticmethod
    def _newest(router: Router) -> Digest:
        """The final header that a session names; zero where none is known."""
        header = router.followed.header
        return ZERO_DIGEST if header is None else header_digest(router.known.domain(), header)

    def assigned(self, session: Session, ready: SessionReady, now_ms: int) -> list[object]:
        """A router says who has the leases. Raises RemoteProtocolError if that does not hold."""
        assignment, before = ready.assignment, session.assignment
        domain, params = session.domain, session.router.known.params
        if assignment.router != session.router.node:
            raise RemoteProtocolError("the assignment is another router's")
        verify(typed_digest(domain, assignment), ready.signature, session.router.node, "the assignment")
        auction = verify_bid_set(domain, params, session.opening, ready.bid_set, assignment, before)
        session.prices_wei.update(auction.prices_wei)
        effects: list[object] = []
        moved = before is None or assignment.generations[0] != before.generations[0]
        if before is None:
            session.life.take(SessionFact.CLOSED)
        else:
            self._check_number(session, assignment, before)
            session.life.take(SessionFact.LOST)
        session.life.take(SessionFact.ASSIGNED)
        session.assignment = assignment
        papers.assigned(session, ready)
        self.held.deadlines.clear(("session", session.handle))
        item = SessionAssigned(session.id, assignment, auction, session.opening, self.held.sign(session.id), ready)
        effects.append(Deliver(session.handle, item))
        if moved:
            effects += self.direct.attach(session, ready)
        if moved and before is not None:
            effects += self.tasks.go_on(session, assignment, now_ms)
        if session.seek is not None:
            effects += self.seeking.assigned(session, now_ms)
        return effects

    @staticmethod
    def _check_number(session: Session, assignment: Assignment, before: Assignment) -> None:
        """Spec: [ASSIGN-NUMBER.1] [ROUTER-TERM.1]"""
        after = session.term.term.after if session.term is not None else 0
        if assignment.number <= max(before.number, after):
            raise RemoteProtocolError("the number of a session's assignments only rises")
