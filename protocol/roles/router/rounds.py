"""Finding miners for a session: announce, take bids, close, rank.

A router closes as soon as it holds enough good bids. Every bid it takes gets a countersigned receipt with its
position, and the signed bid set holds all of them with the router's own measurements: anyone can recompute the
pick.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ModelDigest, NodeId, SessionId
from protocol.core.machine import Publish
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign
from protocol.messages.envelope import Envelope, envelope_digest, seal, unseal
from protocol.messages.sessions import (
    Announcement,
    Bid,
    BidReceipt,
    BidSet,
    CountersignedBid,
    Measurement,
)
from protocol.roles.router.following import Following
from protocol.roles.router.pace import Pace
from protocol.roles.router.state import Measured, Round, RouterSettings, Session
from protocol.session.adverts import AdvertBook
from protocol.session.auction import compute_ranking, find_arrival_fault, find_fault, terms_of
from protocol.session.lifecycle import SessionFact, SessionState
from protocol.session.lottery import DRAW_RANGE, threshold

RoundName = tuple[str, SessionId]
"""("bids" | "retry", session): a round's window, and the next round."""

RETRY_MS_MIN = 100
RETRY_MS_MAX = 2_000
WIDENING_MAX = 16
WINDOW_DOUBLINGS_MAX = 3
POOL_WAIT_MS = 100
"""While it is not known who may bid nobody is asked to; the session's deadline bounds that."""
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
    deadlines: Deadlines[RoundName]
    measured: Callable[[NodeId], Measured]
    pace: Pace
    following: Following

    def announce(self, session: Session, now_ms: int) -> list[object]:
        """Start a round, now or when it is the session's turn to announce. Spec: [ANNOUNCE-PACE.1] [ROUND-WINDOW.1]"""
        opening, ready_ms = session.opening, self.pace.ready_ms(now_ms)
        if not self.following.knows_pool:
            ready_ms = max(ready_ms, now_ms + POOL_WAIT_MS)
        if ready_ms > now_ms:
            self.deadlines.set(("retry", session.id), ready_ms)
            return []
        self.pace.take(now_ms)
        session.life.take(SessionFact.ANNOUNCED)
        session.tried.clear()
        # Where nobody bid in time, all may be too far away to.
        window_ms = self.params.bid_window_ms << min(session.bidless, WINDOW_DOUBLINGS_MAX)
        self.deadlines.set(("bids", session.id), now_ms + min(window_ms, self.params.announcement_lifetime_ms))
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
        session.round = Round(announcement, seal(self.domain, self.sign, announcement))
        return [Publish("sessions", session.round.announced)]

    def pool(self, session: Session) -> int:
        """Miners of the session's model that the router knows, and that may bid."""
        model = ModelDigest(session.opening.model)
        return self.following.pool(model, self.book.pool(model))

    def take_bid(self, session: Session, peer: NodeId, envelope: Envelope, now_ms: int) -> Envelope:
        """A miner's bid: the receipt for it. Raises RemoteProtocolError if it is of no use. Spec: [POOL-GATE.1]"""
        bid, signer = unseal(self.domain, envelope, Bid)
        if signer != bid.miner or peer != bid.miner:
            raise RemoteProtocolError("a bid is signed and brought by its miner")
        if not self.following.may_bid(signer, session.opening.model):
            raise RemoteProtocolError("the bid is of a miner that is not available for the model")
        current = session.round
        if current is None or session.life.state is not SessionState.BIDDING:
            raise RemoteProtocolError("bids are closed")
        if len(current.bids) >= self.params.bids_max or NodeId(bid.miner) in current.bids:
            raise RemoteProtocolError("one bid a miner, and no more than bids_max")
        fault = find_fault(terms_of(self.domain, session.opening), bid)
        fault = fault or find_arrival_fault(self.params, current.announcement, bid, now_ms)
        if fault is not None:
            raise RemoteProtocolError(f"the bid {fault.value}")
        digest = envelope_digest(self.domain, envelope, Bid)
        round_ = envelope_digest(self.domain, current.announced, Announcement)
        receipt = seal(self.domain, self.sign, BidReceipt(digest, session.id, len(current.bids), round_))
        current.bids[NodeId(bid.miner)] = (bid, CountersignedBid(envelope, receipt))
        return receipt

    def enough(self, session: Session) -> bool:
        """Whether there is no use in waiting for more bids."""
        current = session.round
        assert current is not None
        # With a small pool there is nobody to wait for once all have bid; those that were lost may never bid again.
        pool, fresh = self.pool(session), len(current.bids.keys() - session.lost.keys())
        good = max(self.params.bids_good, session.opening.lanes)
        wanted = max(1, min(good, pool - len(session.lost)))
        # Those that failed this session count only once everybody has bid: another may be sound, and on its way.
        return fresh >= wanted or len(current.bids) >= max(1, pool)

    def close(self, session: Session, now_ms: int) -> None:
        """Fix the bid set and rank it: leases are asked for next, or another round follows."""
        current = session.round
        waited = self.deadlines.at(("bids", session.id)) is None
        self.deadlines.clear(("bids", session.id))
        if current is None or not current.bids:
            session.bidless += waited
            self.starve(session, now_ms)
            return
        session.bidless = 0
        session.life.take(SessionFact.CLOSED)
        measurements = tuple(self._measurement(miner) for miner in current.bids)
        signed = tuple(signed for _, signed in current.bids.values())
        bid_set = BidSet(session.id, current.announced, signed, measurements)
        current.bid_set = seal(self.domain, self.sign, bid_set)
        bids = [bid for bid, _ in current.bids.values()]
        ranking = compute_ranking(self.params, terms_of(self.domain, session.opening), bids, measurements)
        # Who failed this session before, or any lately, is asked last, not never: it may be all there is. No claim in
        # a bid outdoes that.
        current.candidates = sorted(
            ranking.order, key=lambda miner: (session.lost[miner], self.measured(miner).doubted_until_ms > now_ms)
        )

    def _measurement(self, miner: NodeId) -> Measurement:
        seen = self.measured(miner)
        return Measurement(miner, seen.tasks, seen.tokens_per_second, seen.first_token_ms, seen.success_bp)

    def starve(self, session: Session, now_ms: int) -> None:
        """No bid or no lease: ask again soon, wider if the lottery left somebody out."""
        session.life.take(SessionFact.STARVED)
        session.starved += 1
        session.widening = min(session.widening + 1, WIDENING_MAX)
        pause_ms = min(RETRY_MS_MIN << min(session.starved - 1, 8), RETRY_MS_MAX)
        self.deadlines.set(("retry", session.id), now_ms + pause_ms)

    def retry_soon(self, session: Session, now_ms: int) -> None:
        """Ask again as soon as a miner can have heard that its slot is free."""
        self.deadlines.set(("retry", session.id), now_ms + WAKE_MS)

    def slot_released(self, by: Session, waiting: Iterable[Session], now_ms: int) -> None:
        """The session of the same model that has looked for a slot longest, in vain so far, asks again.

        Args:
            waiting: Sessions that look for miners, the longest first.
        """
        for session in waiting:
            retry_ms = self.deadlines.at(("retry", session.id))
            bidding = session.life.state is SessionState.BIDDING
            # In a large pool the lottery hardly drew the miner that is free now: a round that just began goes on.
            fruitless = bidding and session.round is not None and not session.round.bids and self._all_bid(session)
            if session.opening.model != by.opening.model or not (fruitless or retry_ms is not None):
                continue
            if retry_ms is not None and retry_ms <= now_ms + WAKE_MS:
                continue  # another slot was released just before, for this one
            if fruitless:
                self.close(session, now_ms)
            self.retry_soon(session, now_ms)
            return

    def _all_bid(self, session: Session) -> bool:
        return threshold(self.params, self.pool(session), session.widening) == DRAW_RANGE

    def abandon(self, session: Session) -> None:
        """The session is over."""
        self.deadlines.clear(("bids", session.id))
        self.deadlines.clear(("retry", session.id))
