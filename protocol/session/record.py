"""What is left of a session: enough to recompute who was picked and why, and nothing that was said.

A client keeps the record of each of its sessions. :func:`explain` checks every signature in it again and computes
the auction from the signed bids, so the story it tells is not the router's word. A miner that holds a countersigned
bid can show with :func:`find_omission` that a router left it out.
"""

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.errors import RemoteProtocolError
from protocol.core.genesis import Genesis, parse_genesis
from protocol.core.ids import NodeId, SessionId
from protocol.core.signing import SignatureBytes, typed_digest, verify
from protocol.messages.envelope import envelope_digest, unseal
from protocol.messages.sessions import (
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
from protocol.session.scoring import measured_score, public_score

RECORD_BYTES_MAX = 4 << 20
NEUTRAL_REPUTATION_BP = 5_000


class SessionRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The signed papers of one session, in order. No prompt and no text is in it."""

    genesis: Annotated[str, Meta(max_length=65_536)]
    opening: SessionOpen
    signature: SignatureBytes
    assignments: Annotated[tuple[SessionReady, ...], Meta(max_length=256)]
    heads: Annotated[tuple[SegmentHead, ...], Meta(max_length=4_096)]
    """Of every segment the client verified."""


@dataclass(frozen=True, slots=True)
class ExplainedBid:
    """One bid of a round, with what its score was made of; all in basis points."""

    position: int
    bid: Bid
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
    bids: tuple[ExplainedBid, ...]
    rank: int
    """Where the assigned miner stood; those above it were busy, silent, or lost before."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A session as its papers tell it, every signature checked."""

    session: SessionId
    genesis: Genesis
    assignments: tuple[ExplainedAssignment, ...]
    heads: tuple[SegmentHead, ...]


def explain(record: SessionRecord) -> Explanation:
    """Check and recompute a record (untrusted). Raises RemoteProtocolError, ParameterError. Spec: [RECORD-EXPLAIN.1]"""
    genesis = parse_genesis(record.genesis)
    domain, opening = genesis.domain(), record.opening
    session = session_id(domain, opening)
    verify(session, record.signature, opening.client, "the session")
    explained = []
    last = 0
    for ready in record.assignments:
        assignment = ready.assignment
        verify(typed_digest(domain, assignment), ready.signature, assignment.router, "the assignment")
        if assignment.number <= last:
            raise RemoteProtocolError("the numbers of a session's assignments rise")
        last = assignment.number
        auction = verify_bid_set(domain, genesis.params, opening, ready.bid_set, assignment)
        bids = _bids(genesis, opening, ready, auction)
        rank = auction.ranks[0]
        assert rank is not None, "the miner of lane 0 is in the bid set, or the check failed"
        explained.append(ExplainedAssignment(assignment, bids, rank))
    for head in record.heads:
        _check_head(session, record, head)
    return Explanation(session, genesis, tuple(explained), record.heads)


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
                measurement=measured.get(bid.miner),
                public_bp=public_score(opening.price_cap_wei, bid, NEUTRAL_REPUTATION_BP),
                measured_bp=measured_score(measured.get(bid.miner)),
                score_bp=auction.ranking.scores[miner],
                rank=order.index(miner),
            )
        )
    return tuple(sorted(rows, key=lambda row: row.rank))


def _check_head(session: SessionId, record: SessionRecord, head: SegmentHead) -> None:
    leases = {
        (miner, generation)
        for ready in record.assignments
        for miner, generation in zip(ready.assignment.miners, ready.assignment.generations, strict=False)
    }
    if head.session != session or (head.miner, head.generation) not in leases:
        raise RemoteProtocolError(f"a segment of task {head.task} was written under no lease of the session")


def find_omission(record: SessionRecord, countersigned: CountersignedBid) -> str | None:
    """What a router has to answer for: that it countersigned this bid (untrusted) and left it out of the bid set.

    None if the bid is where its receipt says. Raises RemoteProtocolError if the bid or its receipt proves nothing.
    Spec: [BID-OMISSION.1]
    """
    genesis = parse_genesis(record.genesis)
    domain = genesis.domain()
    session = session_id(domain, record.opening)
    receipt, router = unseal(domain, countersigned.receipt, BidReceipt)
    bid, bidder = unseal(domain, countersigned.bid, Bid)
    digest = envelope_digest(domain, countersigned.bid, Bid)
    if bidder != bid.miner or receipt.bid != digest or receipt.session != session or bid.session != session:
        raise RemoteProtocolError("the receipt is not for this bid and this session")
    sets = [ready for ready in record.assignments if ready.assignment.router == router]
    if not sets:
        raise RemoteProtocolError("the receipt's router assigned nobody in this session")
    for ready in sets:
        content, _ = unseal(domain, ready.bid_set, BidSet)
        if any(envelope_digest(domain, entry.bid, Bid) == digest for entry in content.bids):
            return None
    return (
        f"router {router.hex()} countersigned the bid of {bid.miner.hex()} at position {receipt.position}, "
        "and signed a bid set without it"
    )
