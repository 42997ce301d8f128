"""The auction of a session: from the bids to a ranking that anyone can compute again.

A router countersigns every bid it takes with the bid's position, scores the usable ones with
:mod:`protocol.session.scoring`, and picks with :mod:`protocol.session.pick`. All inputs are in the signed bid
set, so client, miners and auditors reach the same ranking. A miner may turn out busy and a lower one be
assigned; what can be checked is where in the ranking the assigned miners stand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from protocol.core.codec import Message
from protocol.core.errors import AuctionError, RemoteProtocolError
from protocol.core.ids import NO_GENERATION, NOBODY, Digest, NodeId, SessionId
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.messages.envelope import Envelope, envelope_digest, unseal
from protocol.messages.sessions import (
    Announcement,
    Assignment,
    Bid,
    BidReceipt,
    BidSet,
    CountersignedBid,
    Measurement,
    SessionOpen,
    session_id,
)
from protocol.session.lottery import is_eligible
from protocol.session.pick import pick, rank
from protocol.session.scoring import NEUTRAL_BP, compute_score

M = TypeVar("M", bound=Message)

NO_REPUTATION: Mapping[NodeId, int] = {}
"""Where no ledger speaks, every miner is neutral."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the client's SessionOpen asks of a bid."""

    session: SessionId
    model: bytes
    lanes: int
    price_cap_wei: int


def terms_of(domain: Domain, opening: SessionOpen) -> Terms:
    """The terms a SessionOpen sets."""
    return Terms(session_id(domain, opening), opening.model, opening.lanes, opening.price_cap_wei)


class BidFault(StrEnum):
    """Why a bid is not usable; the first that applies."""

    SESSION = "names another session"
    MODEL = "names another model"
    PRICE = "is above the client's price cap"
    CONTEXT = "offers no context"
    SLOTS = "has no free slot, or more free ones than slots"
    STALE = "was made too long ago"
    FUTURE = "is dated in the future"
    LOTTERY = "is of a miner that was not drawn"


@dataclass(frozen=True, slots=True)
class Ranking:
    """The outcome of an auction: ``picks[i]`` is for lane i; ``standbys`` follow, best first."""

    picks: tuple[NodeId, ...]
    standbys: tuple[NodeId, ...]
    scores: Mapping[NodeId, int]

    @property
    def order(self) -> tuple[NodeId, ...]:
        """The order in which leases are asked for: picks, then standbys."""
        return self.picks + self.standbys


@dataclass(frozen=True, slots=True)
class RecomputedAuction:
    """A bid set whose signatures hold, and what follows from it."""

    announcement: Announcement
    ranking: Ranking
    prices_wei: Mapping[NodeId, int]
    """Of a token, as each miner of the set bid it."""


@dataclass(frozen=True, slots=True)
class VerifiedAuction:
    """A bid set that holds, and where each lane's miner stands in ``ranking.order`` (0 is first).

    None for a lane that has nobody, or whose miner kept a lease of an earlier round and bid in that.
    """

    announcement: Announcement
    ranking: Ranking
    ranks: tuple[int | None, ...]
    prices_wei: Mapping[NodeId, int]
    """Of a token, as each miner of the set bid it."""


def find_fault(terms: Terms, bid: Bid) -> BidFault | None:
    """What makes a bid unusable, looking at nothing but the bid. Spec: [AUCTION-BID.1]"""
    if bid.session != terms.session:
        return BidFault.SESSION
    if bid.model != terms.model:
        return BidFault.MODEL
    if bid.price_wei > terms.price_cap_wei:
        return BidFault.PRICE
    if bid.context_tokens == 0:
        return BidFault.CONTEXT
    if not 0 < bid.slots_free <= bid.slots_total:
        return BidFault.SLOTS
    return None


def is_drawn(params: Params, announcement: Announcement, bid: Bid) -> bool:
    """Whether a bid's miner won the lottery that the announcement opened. Spec: [AUCTION-LOTTERY.1]"""
    return is_eligible(params, bid.session, bid.miner, announcement.pool, announcement.widening)


def find_arrival_fault(params: Params, announcement: Announcement, bid: Bid, now_ms: int) -> BidFault | None:
    """What keeps a router from countersigning a bid that arrives now. Spec: [AUCTION-BID.1]

    Only the router sees the arrival, so what it says of time is no part of what others recompute.

    Args:
        announcement: Of the round that takes the bid; a late bid may answer an earlier one, of a smaller pool.
    """
    if bid.issued_ms > now_ms + params.clock_skew_ms_max:
        return BidFault.FUTURE
    if bid.issued_ms + params.announcement_lifetime_ms + params.clock_skew_ms_max < now_ms:
        return BidFault.STALE
    return None if is_drawn(params, announcement, bid) else BidFault.LOTTERY


def select_usable(terms: Terms, bids: Sequence[Bid]) -> dict[NodeId, Bid]:
    """The usable bids by miner, of each miner the one with the lowest position. Spec: [AUCTION-BID.1]"""
    usable: dict[NodeId, Bid] = {}
    for bid in bids:
        if find_fault(terms, bid) is None:
            usable.setdefault(NodeId(bid.miner), bid)
    return usable


def compute_ranking(
    params: Params,
    terms: Terms,
    bids: Sequence[Bid],
    measurements: Sequence[Measurement],
    reputation_bp: Mapping[NodeId, int] = NO_REPUTATION,
) -> Ranking:
    """Score, pick and rank. Spec: [AUCTION-SCORE.1] [AUCTION-PICK.1]

    Args:
        bids: In the order of their positions; signatures checked by the caller.
        measurements: Of each miner the first counts.
        reputation_bp: By miner, of the header the session names; miners not in it are neutral.
    """
    measured: dict[bytes, Measurement] = {}
    for measurement in measurements:
        measured.setdefault(measurement.miner, measurement)
    scores = {
        miner: compute_score(
            params, terms.price_cap_wei, bid, measured.get(miner), reputation_bp.get(miner, NEUTRAL_BP)
        )
        for miner, bid in select_usable(terms, bids).items()
    }
    picks = pick(terms.session, terms.lanes, scores)
    standbys = tuple(miner for miner in rank(terms.session, scores) if miner not in picks)
    return Ranking(picks, standbys, scores)


def verify_bid_set(
    domain: Domain,
    params: Params,
    opening: SessionOpen,
    bid_set: Envelope,
    assignment: Assignment,
    before: Assignment | None = None,
    reputation_bp: Mapping[NodeId, int] = NO_REPUTATION,
) -> VerifiedAuction:
    """Check an assignment (untrusted, its signature checked by the caller) against its bid set (untrusted).

    ``before`` is the assignment that this one follows: a lane may keep the lease it has there.

    Raises AuctionError naming the link that broke: ``assignment``, ``bid set``, ``announcement``, ``measurements``,
    ``bid`` or ``receipt``. Spec: [AUCTION-VERIFY.1]
    """
    terms = terms_of(domain, opening)
    check_assigned(terms, opening, assignment)
    if assignment.bid_set != envelope_digest(domain, bid_set, BidSet):
        raise AuctionError("assignment", "names another bid set")
    auction = recompute_auction(domain, params, terms, assignment.router, bid_set, reputation_bp)
    ranking = auction.ranking
    ranks: list[int | None] = []
    for lane, lease in enumerate(_leases(assignment)):
        miner = NodeId(lease[0])
        if miner in ranking.scores:
            ranks.append(ranking.order.index(miner))
        elif miner == NOBODY or (before is not None and lane > 0 and lease == _leases(before)[lane]):
            ranks.append(None)
        else:
            raise AuctionError("assignment", f"lane {lane} goes to {miner.hex()}, of whom there is no usable bid")
    return VerifiedAuction(auction.announcement, ranking, tuple(ranks), auction.prices_wei)


def recompute_auction(
    domain: Domain,
    params: Params,
    terms: Terms,
    router: bytes,
    bid_set: Envelope,
    reputation_bp: Mapping[NodeId, int] = NO_REPUTATION,
) -> RecomputedAuction:
    """What follows from a bid set (untrusted) of a router, whoever was assigned then.

    Raises AuctionError naming the link that broke, as :func:`verify_bid_set` does. Spec: [AUCTION-VERIFY.1]
    """
    content = _open_bid_set(domain, terms, router, bid_set)
    announcement = _open_announcement(domain, terms, router, content.announcement)
    round_ = envelope_digest(domain, content.announcement, Announcement)
    bids = []
    for position, entry in enumerate(content.bids):
        bids.append(_open_bid(domain, terms, router, position, entry, round_))
        if not is_drawn(params, announcement, bids[-1]):
            raise AuctionError("bid", f"at position {position} {BidFault.LOTTERY.value}: {bids[-1].miner.hex()}")
    ranking = compute_ranking(params, terms, bids, content.measurements, reputation_bp)
    prices = {miner: bid.price_wei for miner, bid in select_usable(terms, bids).items()}
    return RecomputedAuction(announcement, ranking, prices)


def _leases(assignment: Assignment) -> list[tuple[bytes, bytes]]:
    return list(zip(assignment.miners, assignment.generations, strict=True))


def check_assigned(terms: Terms, opening: SessionOpen, assignment: Assignment) -> None:
    """Whether an assignment (untrusted) gives the session's lanes to miners, looking at nothing but the session.

    Raises AuctionError. Spec: [AUCTION-VERIFY.1]
    """
    if assignment.session != terms.session:
        raise AuctionError("assignment", f"session {assignment.session.hex()}, expected {terms.session.hex()}")
    if assignment.router not in opening.routers:
        raise AuctionError("assignment", f"router {assignment.router.hex()} is none that the client named")
    if not len(assignment.miners) == len(assignment.generations) == terms.lanes:
        raise AuctionError("assignment", f"{len(assignment.miners)} miners for {terms.lanes} lanes")
    leases = [lease for lease in _leases(assignment) if lease != (NOBODY, NO_GENERATION)]
    if assignment.miners[0] == NOBODY or any(NOBODY in lease or NO_GENERATION in lease for lease in leases):
        raise AuctionError("assignment", "a lane has a miner and a lease, or neither; lane 0 has both")
    for parts in zip(*leases, strict=True):
        if len(set(parts)) != len(leases):
            raise AuctionError("assignment", "one lease or one miner serves two lanes")


def _open_bid_set(domain: Domain, terms: Terms, router: bytes, envelope: Envelope) -> BidSet:
    content = _unseal(domain, envelope, BidSet, router, "bid set", "")
    if content.session != terms.session:
        raise AuctionError("bid set", f"of session {content.session.hex()}, expected {terms.session.hex()}")
    if len({measurement.miner for measurement in content.measurements}) != len(content.measurements):
        raise AuctionError("measurements", "two of one miner")
    return content


def _open_announcement(domain: Domain, terms: Terms, router: bytes, envelope: Envelope) -> Announcement:
    content = _unseal(domain, envelope, Announcement, router, "announcement", "")
    announced = Terms(SessionId(Digest(content.session)), content.model, content.lanes, content.price_cap_wei)
    if announced != terms or content.router != router:
        raise AuctionError("announcement", "asks for something else than the client's session")
    return content


def _open_bid(
    domain: Domain, terms: Terms, router: bytes, position: int, entry: CountersignedBid, round_: Digest
) -> Bid:
    where = f"at position {position} "
    bid = _unseal(domain, entry.bid, Bid, None, "bid", where)
    receipt = _unseal(domain, entry.receipt, BidReceipt, router, "receipt", where)
    if receipt.session != terms.session or receipt.bid != envelope_digest(domain, entry.bid, Bid):
        raise AuctionError("receipt", f"{where}is of another bid")
    if receipt.announcement != round_:
        raise AuctionError("receipt", f"{where}is of another round")
    if receipt.position != position:
        raise AuctionError("receipt", f"{where}says position {receipt.position}")
    return bid


def _unseal(domain: Domain, envelope: Envelope, kind: type[M], signer: bytes | None, link: str, where: str) -> M:
    """What is in an envelope; ``signer`` None stands for the miner that a bid names itself."""
    try:
        content, found = unseal(domain, envelope, kind)
    except RemoteProtocolError as error:
        raise AuctionError(link, f"{where}{error}") from error
    expected = content.miner if isinstance(content, Bid) else signer
    if found != expected:
        raise AuctionError(link, f"{where}is signed by {found.hex()}, expected {bytes(expected or b'').hex()}")
    return content
