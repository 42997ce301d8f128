"""What is left of a session: recomputed from its papers, and a router that left out a bid is shown to have done so."""

import msgspec
import pytest

from protocol.core.codec import pack, unpack
from protocol.core.errors import RemoteProtocolError
from protocol.core.genesis import Genesis
from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import typed_digest
from protocol.messages.envelope import envelope_digest, seal
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
from protocol.session.auction import compute_ranking, terms_of
from protocol.session.record import RECORD_BYTES_MAX, SessionRecord, explain, find_omission
from tests.unit.protocol.keys import Key, key

GENESIS = Genesis("test")
DOMAIN = GENESIS.domain()
CLIENT, ROUTER, LIAR = key(1), key(2), key(3)
MINERS = [key(10 + number) for number in range(4)]
MODEL = b"\x33" * 32
NOW_MS = 1_800_000_000_000
OPENING = SessionOpen(CLIENT.node, (ROUTER.node,), MODEL, 1, 1_000, 10, NOW_MS + 60_000, bytes(32), bytes(32))
SESSION = session_id(DOMAIN, OPENING)


def countersigned(miner: Key, position: int) -> CountersignedBid:
    """A bid better by its position, with the router's receipt."""
    bid = Bid(SESSION, miner.node, MODEL, 500, 2, 4, 40 + position, 500, 4_096, NOW_MS)
    envelope = seal(DOMAIN, miner.sign, bid)
    receipt = BidReceipt(envelope_digest(DOMAIN, envelope, Bid), SESSION, position)
    return CountersignedBid(envelope, seal(DOMAIN, ROUTER.sign, receipt))


BIDS = [countersigned(miner, position) for position, miner in enumerate(MINERS)]


def ready(number: int, bids: list[CountersignedBid], miner: Key, *, router: Key = ROUTER) -> SessionReady:
    """A signed assignment over a bid set."""
    measurements = (Measurement(MINERS[0].node, 3, 50, 200, 10_000),)
    bid_set = seal(DOMAIN, ROUTER.sign, BidSet(SESSION, tuple(bids), measurements))
    assignment = Assignment(
        session=SESSION,
        number=number,
        router=ROUTER.node,
        miners=(miner.node,),
        generations=(number.to_bytes(24, "big"),),
        bid_set=envelope_digest(DOMAIN, bid_set, BidSet),
    )
    return SessionReady(SESSION, assignment, router.sign(typed_digest(DOMAIN, assignment)), bid_set)


def head(miner: Key, generation: int) -> SegmentHead:
    """A segment under a lease."""
    return SegmentHead(
        session=SESSION,
        task=1,
        lane=0,
        generation=generation.to_bytes(24, "big"),
        miner=miner.node,
        order=ZERO_DIGEST,
        prompt=ZERO_DIGEST,
        prompt_tokens=ZERO_DIGEST,
        prompt_token_count=1,
        model=MODEL,
        sampling=ZERO_DIGEST,
        start_index=0,
        previous_head=ZERO_DIGEST,
    )


def record(*assignments: SessionReady, heads: tuple[SegmentHead, ...] = ()) -> SessionRecord:
    """A client's record."""
    return SessionRecord(GENESIS.to_json(), OPENING, CLIENT.sign(SESSION), assignments, heads)


@pytest.mark.spec("RECORD-EXPLAIN.1")
def test_the_story_is_recomputed_from_the_signed_bids() -> None:
    kept = record(ready(1, BIDS, MINERS[0]), ready(2, BIDS, MINERS[3]), heads=(head(MINERS[0], 1), head(MINERS[3], 2)))

    told = explain(unpack(SessionRecord, pack(kept), limit_bytes=RECORD_BYTES_MAX))

    bids = list(told.assignments[0].bids)
    content = [Bid(SESSION, m.node, MODEL, 500, 2, 4, 40 + n, 500, 4_096, NOW_MS) for n, m in enumerate(MINERS)]
    measured = [Measurement(MINERS[0].node, 3, 50, 200, 10_000)]
    ranking = compute_ranking(GENESIS.params, terms_of(DOMAIN, OPENING), content, measured)
    assert [bid.bid.miner for bid in bids] == list(ranking.order)
    assert {bid.bid.miner: bid.score_bp for bid in bids} == dict(ranking.scores)
    assert [item.rank for item in told.assignments] == [ranking.order.index(m.node) for m in (MINERS[0], MINERS[3])]
    assert len(told.heads) == 2


@pytest.mark.spec("RECORD-EXPLAIN.1")
@pytest.mark.parametrize(
    "lie",
    [
        msgspec.structs.replace(record(ready(1, BIDS, MINERS[0])), signature=LIAR.sign(SESSION)),
        record(ready(1, BIDS, MINERS[0], router=LIAR)),
        record(ready(2, BIDS, MINERS[0]), ready(1, BIDS, MINERS[1])),
        record(ready(1, BIDS[1:], MINERS[0])),
        record(ready(1, BIDS, MINERS[0]), heads=(head(MINERS[1], 1),)),
        record(ready(1, BIDS, MINERS[0]), heads=(head(MINERS[0], 2),)),
    ],
    ids=["client", "router", "numbers", "no bid", "another miner", "another lease"],
)
def test_a_record_that_does_not_hold_is_refused(lie: SessionRecord) -> None:
    with pytest.raises(RemoteProtocolError):
        explain(lie)


@pytest.mark.spec("BID-OMISSION.1")
def test_a_router_that_left_out_a_bid_is_shown_to_have_done_so() -> None:
    honest, cheating = record(ready(1, BIDS, MINERS[0])), record(ready(1, BIDS[:3], MINERS[0]))

    assert find_omission(honest, BIDS[3]) is None
    omission = find_omission(cheating, BIDS[3])
    assert omission is not None
    assert ROUTER.node.hex() in omission
    assert MINERS[3].node.hex() in omission


@pytest.mark.spec("BID-OMISSION.1")
def test_a_receipt_that_the_router_did_not_sign_accuses_nobody() -> None:
    forged = CountersignedBid(BIDS[3].bid, seal(DOMAIN, LIAR.sign, BidReceipt(bytes(32), SESSION, 3)))
    swapped = CountersignedBid(BIDS[3].bid, BIDS[2].receipt)

    for proof in (forged, swapped):
        with pytest.raises(RemoteProtocolError):
            find_omission(record(ready(1, BIDS[:3], MINERS[0])), proof)
