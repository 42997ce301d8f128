"""Openings become claims: what a lane's miners may be paid for, as far as its client signed for it."""

import msgspec

from protocol.core.errors import RemoteProtocolError
from protocol.ledger.lanes import Claim, Claimed, Lane
from protocol.ledger.records import Section, lane_key, lanes_of, open_key
from protocol.ledger.sessions import Session
from protocol.ledger.verdicts import settle
from protocol.ledger.working import Working
from protocol.messages.results import SEGMENTS_CLAIMED_MAX, Opening, Verdict
from protocol.results.commitment import check_opening, opening_root


def take_opening(work: Working, opening: Opening) -> None:
    """Take what an opening adds to what is known of its lane; signatures are looked at last. Spec: [LEDGER-CLAIM.1]

    It counts if the lane's session is reserved, and if it leads to the root of the outcome; while there is none, to one
    that an oracle said is right.
    """
    order, home_epoch = opening.order, opening.order.home_epoch
    session = work.session(order.session)
    if session is None or home_epoch not in work.homes or not _fits(session, opening):
        return
    key = lane_key(order.session, order.task, opening.lane)
    section, name = lanes_of(home_epoch), key
    lane = work.lane(section, name)
    if lane is None:
        section, name = Section.OPEN, open_key(home_epoch, key)
        lane = work.lane(section, name)
    if lane is None:
        return
    root = opening_root(work.domain, opening)
    if not _is_right(lane, root, opening.count):
        return
    known = next((claim for claim in lane.claims if claim.root == root), None)
    claim = _joined(known, _claim_of(root, opening))
    if claim == known:
        return
    try:
        check_opening(work.domain, session.client, opening)
    except RemoteProtocolError:
        return
    claims = (*(other for other in lane.claims if other.root != root), claim)
    lane = msgspec.structs.replace(lane, claims=claims)
    work.write(section, name, lane if lane.outcome is None else settle(work, key, lane))


def _fits(session: Session, opening: Opening) -> bool:
    order = opening.order
    return (
        session.holds(order.home_epoch)
        and 0 < order.task <= session.tasks_max
        and opening.lane < session.lanes
        and opening.model == session.model
    )


def _is_right(lane: Lane, root: bytes, count: int) -> bool:
    if lane.outcome is not None:
        outcome = lane.outcome
        return (outcome.verdict, outcome.root, outcome.count) == (Verdict.OK, root, count)
    return any((said.verdict, said.root, said.count) == (Verdict.OK, root, count) for said in lane.said)


def _claim_of(root: bytes, opening: Opening) -> Claim:
    segments = tuple(
        Claimed(
            segment.miner,
            segment.router,
            segment.price_wei,
            segment.start_index,
            segment.start_index if segment.ack is None else segment.ack.index,
            segment.start_index,
        )
        for segment in opening.segments
    )
    return Claim(root, opening.count, opening.order.cap_wei, segments)


def _joined(known: Claim | None, claim: Claim) -> Claim:
    """Both together. They lead to one root, so a segment that starts at one token is the same in both."""
    if known is None:
        return claim
    segments = {segment.start_index: segment for segment in known.segments}
    for segment in claim.segments:
        held = segments.get(segment.start_index, segment)
        segments[segment.start_index] = msgspec.structs.replace(held, acked=max(held.acked, segment.acked))
    last = [segments[start] for start in sorted(segments)][-SEGMENTS_CLAIMED_MAX:]
    return msgspec.structs.replace(known, segments=tuple(last))
