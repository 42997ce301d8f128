"""What is left of a session: recomputed from its papers, and a router that left out a bid is shown to have done so."""

import msgspec
import pytest

from protocol.core.codec import pack, unpack
from protocol.core.errors import RemoteProtocolError
from protocol.core.genesis import Genesis
from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import typed_digest
from protocol.messages.envelope import Envelope, envelope_digest, seal
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
from protocol.session.auction import compute_ranking, terms_of
from protocol.session.lottery import DRAW_RANGE, draw, is_eligible
from protocol.session.record import RECORD_BYTES_MAX, BidFate, SessionRecord, explain, judge_bid
from tests.unit.protocol.keys import Key, key

GENESIS = Genesis("test")
DOMAIN = GENESIS.domain()
CLIENT, ROUTER, LIAR = key(1), key(2), key(3)
MINERS = [key(10 + number) for number in range(4)]
MODEL = b"\x33" * 32
NOW_MS = 1_800_000_000_000
OPENING = SessionOpen(
    CLIENT.node, (ROUTER.node,), MODEL, 1, 1_000, 50_000, 10, NOW_MS + 60_000, False, bytes(32), bytes(32)
)
SESSION = session_id(DOMAIN, OPENING)


def announced(**changes: object) -> Envelope:
    """What opens a round; rounds of a session differ in widening."""
    announcement = Announcement(SESSION, ROUTER.node, (), MODEL, 1, 1_000, 4, 0, NOW_MS)
    return seal(DOMAIN, ROUTER.sign, msgspec.structs.replace(announcement, **changes))


FIRST = announced()


def countersigned(miner: Key, position: int, announcement: Envelope = FIRST) -> CountersignedBid:
    """A bid better by its position, with the router's receipt."""
    bid = Bid(SESSION, miner.node, MODEL, 500, 2, 4, 40 + position, 500, 4_096, NOW_MS)
    envelope = seal(DOMAIN, miner.sign, bid)
    round_ = envelope_digest(DOMAIN, announcement, Announcement)
    receipt = BidReceipt(envelope_digest(DOMAIN, envelope, Bid), SESSION, position, round_)
    return CountersignedBid(envelope, seal(DOMAIN, ROUTER.sign, receipt))


BIDS = [countersigned(miner, position) for position, miner in enumerate(MINERS)]


def ready(
    number: int,
    bids: list[CountersignedBid],
    miner: Key,
    *,
    router: Key = ROUTER,
    announcement: Envelope = FIRST,
    set_signer: Key = ROUTER,
) -> SessionReady:
    """A signed assignment over a bid set."""
    measurements = (Measurement(MINERS[0].node, 3, 50, 200, 10_000),)
    bid_set = seal(DOMAIN, set_signer.sign, BidSet(SESSION, announcement, tuple(bids), measurements))
    assignment = Assignment(
        session=SESSION,
        number=number,
        router=ROUTER.node,
        miners=(miner.node,),
        generations=(number.to_bytes(24, "big"),),
        bid_set=envelope_digest(DOMAIN, bid_set, BidSet),
    )
    return SessionReady(SESSION, assignment, router.sign(typed_digest(DOMAIN, assignment)), bid_set)


def head(miner: Key, generation: int, **changes: object) -> SegmentHead:
    """A segment under a lease."""
    made = SegmentHead(
        session=SESSION,
        task=1,
        lane=0,
        generation=generation.to_bytes(24, "big"),
        miner=miner.node,
        order=ZERO_DIGEST,
        prompt=ZERO_DIGEST,
        router=ROUTER.node,
        price_wei=1,
        prompt_tokens=ZERO_DIGEST,
        prompt_token_count=1,
        model=MODEL,
        sampling=ZERO_DIGEST,
        start_index=0,
        previous_head=ZERO_DIGEST,
    )
    return msgspec.structs.replace(made, **changes)


def record(*assignments: SessionReady, heads: tuple[SegmentHead, ...] = ()) -> SessionRecord:
    """A client's record."""
    return SessionRecord(GENESIS.to_json(), OPENING, CLIENT.sign(SESSION), assignments, heads)


@pytest.mark.spec("RECORD-EXPLAIN.1")
def test_the_story_is_recomputed_from_the_signed_bids() -> None:
    heads = (
        head(MINERS[0], 1),
        head(MINERS[3], 2, start_index=5, previous_head=b"\1" * 32),
        head(MINERS[3], 2, task=2),
    )
    kept = record(ready(1, BIDS, MINERS[0]), ready(2, BIDS, MINERS[3]), heads=heads)

    told = explain(unpack(SessionRecord, pack(kept), limit_bytes=RECORD_BYTES_MAX))

    bids = list(told.assignments[0].bids)
    content = [Bid(SESSION, m.node, MODEL, 500, 2, 4, 40 + n, 500, 4_096, NOW_MS) for n, m in enumerate(MINERS)]
    measured = [Measurement(MINERS[0].node, 3, 50, 200, 10_000)]
    ranking = compute_ranking(GENESIS.params, terms_of(DOMAIN, OPENING), content, measured)
    assert [bid.bid.miner for bid in bids] == list(ranking.order)
    assert {bid.bid.miner: bid.score_bp for bid in bids} == dict(ranking.scores)
    assert [item.rank for item in told.assignments] == [ranking.order.index(m.node) for m in (MINERS[0], MINERS[3])]
    assert [(one.head, one.assignment) for one in told.segments] == list(zip(heads, (1, 2, 2), strict=True))


@pytest.mark.spec("RECORD-EXPLAIN.1", "AUCTION-LOTTERY.1")
@pytest.mark.parametrize(("pool", "widening"), [(4, 0), (10**4, 11), (10**4, 10)])
def test_the_lottery_is_recomputed_from_the_announcement(pool: int, widening: int) -> None:
    opened = announced(pool=pool, widening=widening)
    drawn = [m for m in MINERS if is_eligible(GENESIS.params, SESSION, m.node, pool, widening)]
    kept = record(ready(1, [countersigned(m, n, opened) for n, m in enumerate(drawn)], drawn[0], announcement=opened))

    (told,) = explain(kept).assignments
    assert (told.announcement.pool, told.announcement.widening) == (pool, widening)
    assert (told.threshold == DRAW_RANGE) == (pool == 4 or widening == 11)
    assert {bid.bid.miner: bid.draw for bid in told.bids} == {m.node: draw(SESSION, m.node) for m in drawn}
    assert {m for m in MINERS if draw(SESSION, m.node) < told.threshold} == set(drawn)


@pytest.mark.spec("RECORD-EXPLAIN.1")
def test_a_lane_may_keep_the_lease_of_an_earlier_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    opening = msgspec.structs.replace(OPENING, lanes=2)
    monkeypatch.setitem(globals(), "OPENING", opening)
    monkeypatch.setitem(globals(), "SESSION", session_id(DOMAIN, opening))

    def of_two(number: int, lead: Key, generation: bytes) -> SessionReady:
        opened = announced(lanes=2, widening=number)
        bids = [countersigned(lead, 0, opened)] + [countersigned(MINERS[3], 1, opened)] * (number == 1)
        made = ready(number, bids, lead, announcement=opened)
        leases = {"miners": (lead.node, MINERS[3].node), "generations": (generation, kept.generation)}
        assignment = msgspec.structs.replace(made.assignment, **leases)
        signature = ROUTER.sign(typed_digest(DOMAIN, assignment))
        return msgspec.structs.replace(made, assignment=assignment, signature=signature)

    new, kept = head(MINERS[1], 2), head(MINERS[3], 3, lane=1)
    first, second = of_two(1, MINERS[0], head(MINERS[0], 1).generation), of_two(2, MINERS[1], new.generation)
    assert [told.assignment for told in explain(record(first, second, heads=(new, kept))).segments] == [2, 1]
    with pytest.raises(RemoteProtocolError, match="no usable bid"):
        explain(record(second))


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
        record(ready(1, BIDS, MINERS[0]), heads=(head(MINERS[0], 1, lane=1),)),
        record(ready(1, BIDS, MINERS[0]), heads=(head(MINERS[0], 1, model=bytes(32)),)),
        record(ready(1, BIDS, MINERS[0]), heads=(head(MINERS[0], 1, session=bytes(32)),)),
        record(ready(1, BIDS, MINERS[0]), heads=(head(MINERS[0], 1, start_index=1),)),
        record(ready(1, BIDS, MINERS[0]), heads=(head(MINERS[0], 1), head(MINERS[0], 1))),
        record(ready(1, BIDS, MINERS[0]), ready(2, BIDS, MINERS[1]), heads=(head(MINERS[1], 2), head(MINERS[0], 1))),
        record(
            *(ready(number, BIDS, MINERS[number]) for number in (1, 2, 3)),
            heads=(head(MINERS[1], 1), head(MINERS[2], 2, start_index=5), head(MINERS[3], 3, start_index=4)),
        ),
    ],
    ids=[
        "client",
        "router",
        "numbers",
        "no bid",
        "another miner",
        "another lease",
        "another lane",
        "another model",
        "another session",
        "no beginning",
        "one lease twice",
        "backwards",
        "overlapping",
    ],
)
def test_a_record_that_does_not_hold_is_refused(lie: SessionRecord) -> None:
    with pytest.raises(RemoteProtocolError):
        explain(lie)


@pytest.mark.spec("BID-OMISSION.1")
def test_a_router_that_left_out_a_bid_is_shown_to_have_done_so() -> None:
    honest, cheating = record(ready(1, BIDS, MINERS[0])), record(ready(1, BIDS[:3], MINERS[0]))

    assert judge_bid(honest, BIDS[3]).fate is BidFate.LISTED
    judged = judge_bid(cheating, BIDS[3])
    assert (judged.fate, judged.router, judged.bid.miner) == (BidFate.LEFT_OUT, ROUTER.node, MINERS[3].node)
    assert judged.receipt.position == 3


@pytest.mark.spec("BID-OMISSION.1")
def test_only_a_bid_set_of_the_bids_round_and_of_its_router_accuses() -> None:
    second = announced(widening=1)
    later = ready(2, [countersigned(MINERS[1], 0, second)], MINERS[1], announcement=second)
    forged = ready(1, BIDS[:3], MINERS[0], set_signer=LIAR)

    assert judge_bid(record(later), BIDS[3]).fate is BidFate.UNPROVEN
    assert judge_bid(record(forged), BIDS[3]).fate is BidFate.UNPROVEN
    assert judge_bid(record(ready(1, BIDS[:3], MINERS[0]), later), BIDS[3]).fate is BidFate.LEFT_OUT
    assert judge_bid(record(ready(1, BIDS, MINERS[0]), later), BIDS[3]).fate is BidFate.LISTED


@pytest.mark.spec("BID-OMISSION.1")
def test_what_router_and_miner_did_not_sign_accuses_nobody() -> None:
    receipt = BidReceipt(envelope_digest(DOMAIN, BIDS[3].bid, Bid), SESSION, 3, bytes(32))
    stranger = Bid(SESSION, MINERS[2].node, MODEL, 500, 2, 4, 40, 500, 4_096, NOW_MS)
    unsigned = seal(DOMAIN, LIAR.sign, stranger)
    elsewhere = seal(DOMAIN, MINERS[2].sign, msgspec.structs.replace(stranger, session=bytes(32)))

    def over(bid: Envelope, signer: Key = ROUTER, **changes: object) -> CountersignedBid:
        content = msgspec.structs.replace(receipt, bid=envelope_digest(DOMAIN, bid, Bid))
        return CountersignedBid(bid, seal(DOMAIN, signer.sign, msgspec.structs.replace(content, **changes)))

    proofs = {
        "no router": over(BIDS[3].bid, LIAR),
        "not for this bid": CountersignedBid(BIDS[3].bid, BIDS[2].receipt),
        "receipt is not for": over(BIDS[3].bid, session=bytes(32)),
        "not signed by its miner": over(unsigned),
        "another session": over(elsewhere, session=bytes(32)),
    }
    for why, proof in proofs.items():
        with pytest.raises(RemoteProtocolError, match=why):
            judge_bid(record(ready(1, BIDS[:3], MINERS[0])), proof)
