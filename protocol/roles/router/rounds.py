"""Finding miners for a session: announce, take bids, close, ask for leases, best first.

A router closes as soon as it holds enough good bids. Every bid it takes gets a countersigned receipt with its
position, and the signed bid set holds all of them with the router's own measurements: anyone can recompute the
pick. A miner alone decides over its slots, so a busy one just moves the question to the next in rank.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import Generation, ModelDigest, NodeId, SessionId
from protocol.core.machine import ChannelNumbers, Close, Note, Open, Persist, Publish, Send
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign, typed_digest
from protocol.messages.envelope import Envelope, envelope_digest, seal, unseal
from protocol.messages.sessions import (
    Announcement,
    Assignment,
    Bid,
    BidReceipt,
    BidSet,
    CountersignedBid,
    LeaseBusy,
    LeaseGrant,
    LeaseRequest,
    Measurement,
    SessionReady,
)
from protocol.roles.router.state import Lease, Measured, Round, RouterSettings, Session
from protocol.session.adverts import AdvertBook
from protocol.session.auction import compute_ranking, find_arrival_fault, find_fault, terms_of
from protocol.session.lifecycle import SessionFact, SessionState

RoundName = tuple[str, SessionId]
"""("bids" | "lease" | "retry", session): a round's window, the wait for one miner's answer, the next round."""

RETRY_MS_MIN = 100
RETRY_MS_MAX = 2_000
WIDENING_MAX = 16
WAKE_MS = 20
"""A released slot is announced this much later: its miner hears of the release first."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """The rules of an auction, over state that the machine owns."""

    settings: RouterSettings
    domain: Domain
    params: Params
    sign: Sign
    book: AdvertBook
    numbers: ChannelNumbers
    deadlines: Deadlines[RoundName]
    measured: Callable[[NodeId], Measured]
    assignment_numbers: dict[SessionId, int]
    assigned: Deadlines[SessionId] = field(default_factory=Deadlines)
    """When the number of a session need not be remembered any more."""

    def announce(self, session: Session, now_ms: int) -> list[object]:
        """Start a round."""
        opening = session.opening
        session.life.take(SessionFact.ANNOUNCED)
        session.round = Round()
        self.deadlines.set(("bids", session.id), now_ms + self.params.bid_window_ms)
        announcement = Announcement(
            session=session.id,
            router=self.settings.node,
            addresses=self.settings.addresses,
            model=opening.model,
            lanes=opening.lanes,
            price_cap_wei=opening.price_cap_wei,
            pool=self.pool(session),
            widening=session.widening,
            issued_ms=now_ms,
        )
        return [Publish("sessions", seal(self.domain, self.sign, announcement))]

    def pool(self, session: Session) -> int:
        """Miners of the session's model that the router knows."""
        return self.book.pool(ModelDigest(session.opening.model))

    def take_bid(
        self, session: Session, peer: NodeId, envelope: Envelope, now_ms: int
    ) -> tuple[Envelope, list[object]]:
        """A miner's bid: the receipt for it, and what follows. Raises RemoteProtocolError if it is of no use."""
        bid, signer = unseal(self.domain, envelope, Bid)
        if signer != bid.miner or peer != bid.miner:
            raise RemoteProtocolError("a bid is signed and brought by its miner")
        current = session.round
        if current is None or session.life.state is not SessionState.BIDDING:
            raise RemoteProtocolError("bids are closed")
        if len(current.bids) >= self.params.bids_max or NodeId(bid.miner) in current.bids:
            raise RemoteProtocolError("one bid a miner, and no more than bids_max")
        fault = find_fault(terms_of(self.domain, session.opening), bid) or find_arrival_fault(self.params, bid, now_ms)
        if fault is not None:
            raise RemoteProtocolError(f"the bid {fault.value}")
        digest = envelope_digest(self.domain, envelope, Bid)
        receipt = seal(self.domain, self.sign, BidReceipt(digest, session.id, len(current.bids)))
        current.bids[NodeId(bid.miner)] = (bid, CountersignedBid(envelope, receipt))
        return receipt, self.close(session, now_ms) if self._enough(session, current) else []

    def _enough(self, session: Session, current: Round) -> bool:
        # With a small pool there is nobody to wait for once all have bid; those that were lost may never bid again.
        pool, fresh = self.pool(session), len(current.bids.keys() - session.lost.keys())
        wanted = max(1, min(self.params.bids_good, pool - len(session.lost)))
        return fresh >= wanted or len(current.bids) >= min(self.params.bids_good, max(1, pool))

    def close(self, session: Session, now_ms: int) -> list[object]:
        """Fix the bid set, rank it, and ask the first for a lease."""
        current = session.round
        self.deadlines.clear(("bids", session.id))
        if current is None or not current.bids:
            return self.starve(session, now_ms)
        session.life.take(SessionFact.CLOSED)
        measurements = tuple(self._measurement(miner) for miner in current.bids)
        bid_set = BidSet(session.id, tuple(signed for _, signed in current.bids.values()), measurements)
        current.bid_set = seal(self.domain, self.sign, bid_set)
        bids = [bid for bid, _ in current.bids.values()]
        ranking = compute_ranking(self.params, terms_of(self.domain, session.opening), bids, measurements)
        # Who failed this session before is asked last, not never: it may be all there is.
        current.candidates = sorted(ranking.order, key=lambda miner: session.lost[miner])
        return self.ask_next(session, now_ms)

    def _measurement(self, miner: NodeId) -> Measurement:
        seen = self.measured(miner)
        return Measurement(miner, seen.tasks, seen.tokens_per_second, seen.first_token_ms, seen.success_bp)

    def ask_next(self, session: Session, now_ms: int) -> list[object]:
        """Ask the best miner that was not asked yet for a slot."""
        current = session.round
        assert current is not None
        if not current.candidates:
            return self.starve(session, now_ms)
        miner = current.candidates.pop(0)
        current.asked, current.channel = miner, self.numbers.take()
        self.deadlines.set(("lease", session.id), now_ms + self.params.lease_request_timeout_ms)
        bid = envelope_digest(self.domain, current.bids[miner][1].bid, Bid)
        request = LeaseRequest(session.opening, session.signature, bid)
        return [Open(current.channel, miner, "task"), Send(current.channel, request)]

    def granted(self, session: Session, grant: LeaseGrant) -> list[object]:
        """The miner holds a slot: assign, durably numbered, and tell the client.

        Raises RemoteProtocolError for a grant of another session. Spec: [ASSIGN-NUMBER.1] [MACHINE-PERSIST.1]
        """
        if grant.session != session.id:
            raise RemoteProtocolError("the grant is for another session")
        current = session.round
        assert current is not None and current.bid_set is not None
        assert current.asked is not None and current.channel is not None
        self.deadlines.clear(("lease", session.id))
        number = self.assignment_numbers.get(session.id, 0) + 1
        self.assignment_numbers[session.id] = number
        # After this no router takes the SessionOpen again.
        self.assigned.set(session.id, session.opening.expires_ms + self.params.clock_skew_ms_max)
        assignment = Assignment(
            session=session.id,
            number=number,
            router=self.settings.node,
            miners=(current.asked,),
            generations=(grant.generation,),
            bid_set=envelope_digest(self.domain, current.bid_set, BidSet),
        )
        signature = self.sign(typed_digest(self.domain, assignment))
        session.lease = Lease(current.asked, current.channel, Generation(grant.generation), assignment, signature)
        session.life.take(SessionFact.ASSIGNED)
        session.generations.add(session.lease.generation)
        session.spent, session.round = current, None
        record = assignment_record(session, number)
        return [
            Persist(session.id, (record,)),
            Send(session.client, SessionReady(session.id, assignment, signature, current.bid_set), key=session.id),
        ]

    def take_over(self, session: Session, now_ms: int) -> list[object]:
        """The leased miner is lost: ask the standbys, then announce again. Spec: [FAILOVER-NEXT.1]"""
        lease, spent = session.lease, session.spent
        assert lease is not None and spent is not None
        session.life.take(SessionFact.LOST)
        session.lost[lease.miner] += 1
        session.lease = None
        spent.asked = spent.channel = None
        session.round = spent
        if spent.candidates or session.starved:
            return self.ask_next(session, now_ms)
        # Nobody was asked in vain: no reason for a long pause. A miner that only stalled hears that its slot is free.
        effects = self.starve(session, now_ms)
        self.deadlines.set(("retry", session.id), now_ms + WAKE_MS)
        return effects

    def forget_expired(self, now_ms: int) -> list[object]:
        """Drop the numbers of sessions that nobody can open again."""
        effects: list[object] = []
        for session in self.assigned.due(now_ms):
            self.assignment_numbers.pop(session, None)
            effects.append(Persist(session, ((_record_name(session), None),)))
        return effects

    def refused(self, session: Session, now_ms: int, why: LeaseBusy | str) -> list[object]:
        """The miner asked said no, did not answer, or is gone."""
        current = session.round
        assert current is not None and current.asked is not None
        self.deadlines.clear(("lease", session.id))
        detail = why.detail if isinstance(why, LeaseBusy) else why
        note = Note("router.lease-refused", (("miner", current.asked.hex()), ("why", detail)))
        current.asked = current.channel = None
        return [note, *self.ask_next(session, now_ms)]

    def starve(self, session: Session, now_ms: int) -> list[object]:
        """No bid or no lease: ask again soon, wider if the lottery left somebody out."""
        session.life.take(SessionFact.STARVED)
        session.round = None
        session.starved += 1
        session.widening = min(session.widening + 1, WIDENING_MAX)
        pause_ms = min(RETRY_MS_MIN << min(session.starved - 1, 8), RETRY_MS_MAX)
        self.deadlines.set(("retry", session.id), now_ms + pause_ms)
        return []

    def slot_released(self, by: Session, waiting: Iterable[Session], now_ms: int) -> None:
        """The session of the same model that has looked for a slot longest, in vain so far, asks again.

        Args:
            waiting: Sessions that look for miners, the longest first.
        """
        for session in waiting:
            retry_ms = self.deadlines.at(("retry", session.id))
            fruitless = session.round is not None and not session.round.bids
            if session.opening.model != by.opening.model or not (fruitless or retry_ms is not None):
                continue
            if retry_ms is not None and retry_ms <= now_ms + WAKE_MS:
                continue  # another slot was released just before, for this one
            if fruitless:
                self.close(session, now_ms)
            self.deadlines.set(("retry", session.id), now_ms + WAKE_MS)
            return

    def abandon(self, session: Session) -> list[object]:
        """The session ended before it was assigned."""
        for kind in ("bids", "lease", "retry"):
            self.deadlines.clear((kind, session.id))
        channel = session.round.channel if session.round else None
        return [Close(channel)] if channel is not None else []


def assignment_record(session: Session, number: int) -> tuple[bytes, bytes]:
    """What is durable before an assignment leaves: its number, kept until the session expires."""
    return (_record_name(session.id), number.to_bytes(8, "big") + session.opening.expires_ms.to_bytes(8, "big"))


def _record_name(session: SessionId) -> bytes:
    return b"assignment/" + session
