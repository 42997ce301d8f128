"""What is left of a session: enough to recompute who was picked and why, and nothing that was said.

A client keeps the record of each of its sessions. :func:`explain` checks every signature in it again and computes
lottery and auction from the signed bids, so the story it tells is not the router's word. A miner keeps the bids that
a router countersigned; :func:`judge_bid` holds one against a record and shows whether the router left it out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.errors import RemoteProtocolError
from protocol.core.genesis import Genesis, parse_genesis
from protocol.core.ids import ZERO_DIGEST, NodeId, SessionId
from protocol.core.signing import Domain, SignatureBytes, typed_digest, verify
from protocol.messages.envelope import envelope_digest, unseal
from protocol.messages.sessions import (
    Announcement,
    Assignment,
    Bid,
    BidReceipt,
    BidSet,
    CountersignedBid,
    Measurement,
    SessionOpen,
    SessionReady,
    session_id,
)
from protocol.messages.tasks import SegmentHead
from protocol.session.auction import VerifiedAuction, verify_bid_set
from protocol.session.lottery import draw, threshold
from protocol.session.scoring import measured_score, public_score

RECORD_BYTES_MAX = 4 << 20
BIDS_BYTES_MAX = 1 << 20
NEUTRAL_REPUTATION_BP = 5_000


class SessionRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The signed papers of one session, in order. No prompt and no text is in it."""

    genesis: Annotated[str, Meta(max_length=65_536)]
    opening: SessionOpen
    signature: SignatureBytes
    assignments: Annotated[tuple[SessionReady, ...], Meta(max_length=256)]
    heads: Annotated[tuple[SegmentHead, ...], Meta(max_length=4_096)]
    """Of every segment the client verified."""


class KeptBids(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a miner kept of its bids on one session, on its way to whoever holds the session's record."""

    bids: Annotated[tuple[CountersignedBid, ...], Meta(min_length=1, max_length=512)]


@dataclass(frozen=True, slots=True)
class ExplainedBid:
    """One bid of a round, with what its score was made of; all in basis points."""

    position: int
    bid: Bid
    draw: int
    """In the lottery; below the round's threshold."""
    measurement: Measurement | None
    public_bp: int
    measured_bp: int
    score_bp: int
    rank: int
    """In the order in which leases are asked for, from 0."""


@dataclass(frozen=True, slots=True)
class ExplainedAssignment:
    """One assignment and the auction behind it, recomputed."""

    assignment: Assignment
    announcement: Announcement
    """What opened the round; its ``pool`` is the router's word."""
    threshold: int
    """Every miner whose draw is below was eligible; 2^64: all were."""
    bids: tuple[ExplainedBid, ...]
    rank: int
    """Where the assigned miner stood; those above it were busy, silent, or lost before."""


@dataclass(frozen=True, slots=True)
class ExplainedSegment:
    """One segment of a lane and the number of the first assignment that holds the lease it was written under."""

    head: SegmentHead
    assignment: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """A session as its papers tell it, every signature checked."""

    session: SessionId
    genesis: Genesis
    assignments: tuple[ExplainedAssignment, ...]
    segments: tuple[ExplainedSegment, ...]


def explain(record: SessionRecord) -> Explanation:
    """Check and recompute a record (untrusted). Raises RemoteProtocolError, ParameterError. Spec: [RECORD-EXPLAIN.1]"""
    genesis = parse_genesis(record.genesis)
    domain, opening = genesis.domain(), record.opening
    session = session_id(domain, opening)
    verify(session, record.signature, opening.client, "the session")
    explained = []
    before: Assignment | None = None
    for ready in record.assignments:
        assignment = ready.assignment
        verify(typed_digest(domain, assignment), ready.signature, assignment.router, "the assignment")
        if before is not None and assignment.number <= before.number:
            raise RemoteProtocolError("the numbers of a session's assignments rise")
        auction = verify_bid_set(domain, genesis.params, opening, ready.bid_set, assignment, before)
        before = assignment
        bids = _bids(genesis, opening, ready, auction)
        rank = auction.ranks[0]
        assert rank is not None, "the miner of lane 0 is in the bid set, or the check failed"
        announcement = auction.announcement
        winning = threshold(genesis.params, announcement.pool, announcement.widening)
        explained.append(ExplainedAssignment(assignment, announcement, winning, bids, rank))
    return Explanation(session, genesis, tuple(explained), tuple(_segments(session, record)))


def _bids(
    genesis: Genesis, opening: SessionOpen, ready: SessionReady, auction: VerifiedAuction
) -> tuple[ExplainedBid, ...]:
    content, _ = unseal(genesis.domain(), ready.bid_set, BidSet)
    measured = {measurement.miner: measurement for measurement in content.measurements}
    order = auction.ranking.order
    rows = []
    for position, entry in enumerate(content.bids):
        bid, _ = unseal(genesis.domain(), entry.bid, Bid)
        miner = NodeId(bid.miner)
        if miner not in order:
            continue
        rows.append(
            ExplainedBid(
                position=position,
                bid=bid,
                draw=draw(bid.session, bid.miner),
                measurement=measured.get(bid.miner),
                public_bp=public_score(opening.price_cap_wei, bid, NEUTRAL_REPUTATION_BP),
                measured_bp=measured_score(measured.get(bid.miner)),
                score_bp=auction.ranking.scores[miner],
                rank=order.index(miner),
            )
        )
    return tuple(sorted(rows, key=lambda row: row.rank))


def _segments(session: SessionId, record: SessionRecord) -> Iterator[ExplainedSegment]:
    """The segments with their leases. Raises RemoteProtocolError for one that cannot follow those before it."""
    leases: dict[tuple[int, bytes, bytes], int] = {}
    for ready in record.assignments:
        named = ready.assignment
        for lane, lease in enumerate(zip(named.miners, named.generations, strict=True)):
            leases.setdefault((lane, *lease), named.number)
    before: dict[tuple[int, int], ExplainedSegment] = {}
    for head in record.heads:
        number = leases.get((head.lane, head.miner, head.generation))
        if head.session != session or head.model != record.opening.model or number is None:
            raise RemoteProtocolError(f"a segment of task {head.task} was written under no lease of the session")
        last = before.get((head.task, head.lane))
        if last is None and (head.start_index, head.previous_head) != (0, ZERO_DIGEST):
            raise RemoteProtocolError(f"the first segment of task {head.task} starts at token {head.start_index}")
        if last is not None and not (last.assignment < number and last.head.start_index <= head.start_index):
            raise RemoteProtocolError(f"the segments of task {head.task} do not follow each other")
        before[head.task, head.lane] = ExplainedSegment(head, number)
        yield before[head.task, head.lane]


class BidFate(StrEnum):
    """What a record shows of a bid that a router countersigned."""

    LISTED = "is in the bid set"
    LEFT_OUT = "was left out: the bid set of its round, signed by the same router, is without it"
    UNPROVEN = "came in a round of which the record holds no bid set, so it proves nothing"


@dataclass(frozen=True, slots=True)
class JudgedBid:
    """A countersigned bid, opened and held against a session's record."""

    bid: Bid
    receipt: BidReceipt
    router: NodeId
    fate: BidFate


def open_countersigned(domain: Domain, signed: CountersignedBid) -> tuple[Bid, BidReceipt, NodeId]:
    """A bid, its receipt and the router that signed it (all untrusted). Raises RemoteProtocolError if they do not fit.

    That this router serves the session is the caller's to check.
    """
    receipt, router = unseal(domain, signed.receipt, BidReceipt)
    bid, bidder = unseal(domain, signed.bid, Bid)
    if bidder != bid.miner:
        raise RemoteProtocolError("the bid is not signed by its miner")
    if receipt.bid != envelope_digest(domain, signed.bid, Bid) or receipt.session != bid.session:
        raise RemoteProtocolError("the receipt is not for this bid")
    return bid, receipt, router


def judge_bid(record: SessionRecord, signed: CountersignedBid) -> JudgedBid:
    """Whether the router that countersigned this bid (untrusted) left it out of the bid set of its round.

    A session that found no miner is announced again, and the next bid set holds the bids of the next round; so only
    a set of the round that the receipt names convicts. Raises RemoteProtocolError if bid or receipt proves nothing
    of this session. Spec: [BID-OMISSION.1]
    """
    domain = parse_genesis(record.genesis).domain()
    bid, receipt, router = open_countersigned(domain, signed)
    if bid.session != session_id(domain, record.opening):
        raise RemoteProtocolError(f"the bid is on another session, {bid.session.hex()}")
    if router not in record.opening.routers:
        raise RemoteProtocolError(f"the receipt is signed by {router.hex()}, no router of the session")
    sets = list(_bid_sets(domain, record, router))
    if any(envelope_digest(domain, entry.bid, Bid) == receipt.bid for content in sets for entry in content.bids):
        fate = BidFate.LISTED
    elif any(envelope_digest(domain, content.announcement, Announcement) == receipt.announcement for content in sets):
        fate = BidFate.LEFT_OUT
    else:
        fate = BidFate.UNPROVEN
    return JudgedBid(bid, receipt, router, fate)


def _bid_sets(domain: Domain, record: SessionRecord, router: NodeId) -> Iterator[BidSet]:
    """What this router signed; a set that another signed accuses nobody."""
    for ready in record.assignments:
        content, signer = unseal(domain, ready.bid_set, BidSet)
        if signer == router:
            yield content
