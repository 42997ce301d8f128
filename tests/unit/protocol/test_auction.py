"""The auction: bounded gains for liars, a pick that anyone computes alike."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.errors import AuctionError
from protocol.core.ids import NetworkId, NodeId
from protocol.core.params import Params
from protocol.core.signing import Domain
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
    session_id,
)
from protocol.session.auction import (
    BidFault,
    Ranking,
    Terms,
    compute_ranking,
    find_arrival_fault,
    find_fault,
    select_usable,
    terms_of,
    verify_bid_set,
)
from protocol.session.lottery import is_eligible
from protocol.session.pick import draw_two
from protocol.session.scoring import NEUTRAL_BP, ONE_BP, compute_score, measured_score, public_score
from tests.unit.protocol.keys import Key, key

PARAMS = Params()
DOMAIN = Domain(NetworkId(bytes(32)))
CLIENT, ROUTER = key(1), key(2)
MINERS = [key(10 + n) for n in range(6)]
MODEL = b"\x33" * 32
NOW_MS = 1_800_000_000_000
OPENING = SessionOpen(
    CLIENT.node, (ROUTER.node,), MODEL, 1, 1_000, 50_000, 10, NOW_MS + 60_000, False, bytes(32), bytes(32)
)
TERMS = terms_of(DOMAIN, OPENING)
ANNOUNCEMENT = Announcement(TERMS.session, ROUTER.node, (), MODEL, 1, 1_000, 6, 0, NOW_MS)

U32_MAX = 2**32 - 1
counts = st.integers(0, U32_MAX)
sessions = st.binary(min_size=32, max_size=32)


def bid_of(miner: bytes, **changes: object) -> Bid:
    """A usable bid of middling quality."""
    bid = Bid(TERMS.session, miner, MODEL, 500, 2, 4, 40, 500, 4_096, NOW_MS)
    return msgspec.structs.replace(bid, **changes)


usable_bids = st.builds(
    bid_of,
    miner=st.binary(min_size=20, max_size=20),
    price_wei=st.integers(0, 1_000),
    slots_free=st.integers(1, 4),
    slots_total=st.integers(4, 8),
    tokens_per_second=counts,
    first_token_ms=counts,
)
measurements = st.builds(
    Measurement,
    miner=st.just(bytes(20)),
    tasks=counts,
    tokens_per_second=counts,
    first_token_ms=counts,
    success_bp=counts,
)


# Bids


def partition(pool: int) -> tuple[list[bytes], list[bytes]]:
    """Of a hundred nodes, those that the session's lottery draws, and the others."""
    nodes = [number.to_bytes(20, "big") for number in range(100)]
    drawn = [node for node in nodes if is_eligible(PARAMS, TERMS.session, node, pool, 0)]
    return drawn, [node for node in nodes if node not in drawn]


@pytest.mark.spec("AUCTION-BID.1")
@pytest.mark.parametrize(
    ("fault", "changes"),
    [
        (None, {}),
        (None, {"price_wei": 1_000, "slots_free": 4}),
        (BidFault.SESSION, {"session": bytes(32)}),
        (BidFault.MODEL, {"model": bytes(32)}),
        (BidFault.PRICE, {"price_wei": 1_001}),
        (BidFault.CONTEXT, {"context_tokens": 0}),
        (BidFault.SLOTS, {"slots_free": 0}),
        (BidFault.SLOTS, {"slots_free": 5}),
    ],
)
def test_a_bid_that_breaks_the_terms_is_named(fault: BidFault | None, changes: dict[str, object]) -> None:
    assert find_fault(TERMS, bid_of(MINERS[0].node, **changes)) is fault


@pytest.mark.spec("AUCTION-BID.1")
@pytest.mark.parametrize(
    ("fault", "age_ms"),
    [(None, 0), (None, 35_000), (BidFault.STALE, 35_001), (None, -30_000), (BidFault.FUTURE, -30_001)],
)
def test_a_bid_is_taken_while_it_is_fresh(fault: BidFault | None, age_ms: int) -> None:
    bid = bid_of(MINERS[0].node, issued_ms=NOW_MS - age_ms)
    assert find_arrival_fault(PARAMS, ANNOUNCEMENT, bid, NOW_MS) is fault


@pytest.mark.spec("AUCTION-BID.1")
def test_a_bid_is_taken_if_the_lottery_of_its_round_drew_its_miner() -> None:
    drawn, others = partition(pool=100)
    announcement = msgspec.structs.replace(ANNOUNCEMENT, pool=100)
    assert drawn
    assert {find_arrival_fault(PARAMS, announcement, bid_of(node), NOW_MS) for node in drawn} == {None}
    assert {find_arrival_fault(PARAMS, announcement, bid_of(node), NOW_MS) for node in others} == {BidFault.LOTTERY}


@pytest.mark.spec("AUCTION-BID.1")
def test_of_two_usable_bids_the_first_counts() -> None:
    miner = MINERS[0].node
    first, second = bid_of(miner, price_wei=900), bid_of(miner, price_wei=1)
    unusable = bid_of(miner, price_wei=1_001)
    assert select_usable(TERMS, [unusable, first, second]) == {miner: first}


# Scores


@pytest.mark.spec("AUCTION-SCORE.1")
@given(counts, usable_bids, st.none() | measurements, st.integers(-(10**9), 10**9))
def test_a_score_is_in_basis_points(cap: int, bid: Bid, measurement: Measurement | None, reputation_bp: int) -> None:
    assert 0 <= compute_score(PARAMS, cap, bid, measurement, reputation_bp) <= ONE_BP


@pytest.mark.spec("AUCTION-SCORE.1")
@given(usable_bids, measurements, measurements, st.integers(0, 3_000))
def test_a_router_moves_a_score_by_its_weight_at_most(
    bid: Bid, one: Measurement, other: Measurement, weight: int
) -> None:
    params = replace(PARAMS, measurement_weight_bp=weight)
    difference = compute_score(params, 1_000, bid, one) - compute_score(params, 1_000, bid, other)
    assert abs(difference) <= weight


@pytest.mark.spec("AUCTION-SCORE.1")
@given(usable_bids, counts, counts)
def test_a_liar_gains_no_more_than_the_weight_of_what_it_states(bid: Bid, speed: int, first_ms: int) -> None:
    lie = msgspec.structs.replace(bid, tokens_per_second=speed, first_token_ms=first_ms, slots_free=bid.slots_total)
    gain = compute_score(PARAMS, 1_000, lie, None) - compute_score(PARAMS, 1_000, bid, None)
    # Speed 20, load 20 and first token 15 %, of the 70 % that are public; one for rounding.
    assert gain <= 5_500 * 7_000 // ONE_BP + 1


@pytest.mark.spec("AUCTION-SCORE.1")
def test_a_liar_that_fails_falls_behind_an_honest_miner() -> None:
    honest = compute_score(
        PARAMS,
        1_000,
        bid_of(bytes(20), tokens_per_second=30, first_token_ms=300),
        Measurement(bytes(20), 100, 30, 300, ONE_BP),
    )
    liar = compute_score(
        PARAMS,
        1_000,
        bid_of(bytes(20), tokens_per_second=120, first_token_ms=80),
        Measurement(bytes(20), 100, 2, 20_000, 1_000),
    )
    assert liar < honest


@pytest.mark.spec("AUCTION-SCORE.1")
def test_better_in_anything_is_never_worse() -> None:
    base = bid_of(bytes(20))
    for better in ({"price_wei": 400}, {"tokens_per_second": 80}, {"slots_free": 4}, {"first_token_ms": 100}):
        assert public_score(1_000, msgspec.structs.replace(base, **better), NEUTRAL_BP) > public_score(
            1_000, base, NEUTRAL_BP
        )
    assert public_score(1_000, base, ONE_BP) > public_score(1_000, base, 0)


@pytest.mark.spec("AUCTION-SCORE.1")
def test_what_is_not_known_is_neutral_and_what_is_not_stated_is_nothing() -> None:
    assert measured_score(None) == measured_score(Measurement(bytes(20), 0, 9_999, 1, ONE_BP)) == NEUTRAL_BP
    one, many = (measured_score(Measurement(bytes(20), tasks, 400, 5, ONE_BP)) for tasks in (1, 1_000))
    assert NEUTRAL_BP < one < many
    stated, silent = (public_score(0, bid_of(bytes(20), first_token_ms=ms), 0) for ms in (60_000, 0))
    assert silent < stated


# The pick


@pytest.mark.spec("AUCTION-PICK.1")
@given(sessions, st.integers(0, 15), st.integers(2, 1_000))
def test_two_distinct_places_are_drawn(session: bytes, lane: int, count: int) -> None:
    first, second = draw_two(session, lane, count)
    assert first != second
    assert {first, second} <= set(range(count))


@pytest.mark.spec("AUCTION-PICK.1")
@given(st.lists(usable_bids, max_size=12, unique_by=lambda bid: bid.miner), st.integers(1, 16), st.randoms())
def test_the_order_of_bids_makes_no_difference(bids: list[Bid], lanes: int, random: Random) -> None:
    terms = replace(TERMS, lanes=lanes)
    seen = [Measurement(bid.miner, 5, 10, 200, 9_000) for bid in bids[::2]]
    ranking = compute_ranking(PARAMS, terms, bids, seen)
    random.shuffle(bids)
    random.shuffle(seen)
    assert compute_ranking(PARAMS, terms, bids, seen) == ranking
    _check_ranking(ranking, terms, {NodeId(bid.miner) for bid in bids})


def _check_ranking(ranking: Ranking, terms: Terms, miners: set[NodeId]) -> None:
    assert sorted(ranking.order) == sorted(miners)
    assert len(ranking.picks) == min(terms.lanes, len(miners))
    standby_scores = [ranking.scores[miner] for miner in ranking.standbys]
    assert standby_scores == sorted(standby_scores, reverse=True)


@pytest.mark.spec("AUCTION-PICK.1")
def test_the_worst_of_many_is_never_picked_and_the_best_is_picked_most() -> None:
    bids = [bid_of(miner.node, price_wei=100 * place) for place, miner in enumerate(MINERS)]
    picked = []
    for number in range(1_200):
        terms = replace(
            TERMS, session=session_id(DOMAIN, msgspec.structs.replace(OPENING, nonce=number.to_bytes(32, "big")))
        )
        moved = [msgspec.structs.replace(bid, session=terms.session) for bid in bids]
        picked.append(compute_ranking(PARAMS, terms, moved, []).picks[0])
    shares = [picked.count(miner.node) for miner in MINERS]
    # Of two drawn from six the best is one of them in 1 of 3 cases; the worst never wins.
    assert shares[-1] == 0
    assert shares == sorted(shares, reverse=True)
    assert 300 < shares[0] < 500


@pytest.mark.spec("AUCTION-PICK.1")
def test_equal_miners_share_the_sessions() -> None:
    counts_by_miner = dict.fromkeys((miner.node for miner in MINERS), 0)
    for number in range(600):
        terms = replace(
            TERMS, session=session_id(DOMAIN, msgspec.structs.replace(OPENING, nonce=number.to_bytes(32, "big")))
        )
        bids = [bid_of(miner.node, session=terms.session) for miner in MINERS]
        counts_by_miner[compute_ranking(PARAMS, terms, bids, []).picks[0]] += 1
    assert all(60 < count < 140 for count in counts_by_miner.values())


# Verification


def announced(signer: Key = ROUTER, **changes: object) -> Envelope:
    """What opened the round."""
    return seal(DOMAIN, signer.sign, msgspec.structs.replace(ANNOUNCEMENT, **changes))


def round_of(announcement: Envelope) -> bytes:
    """What receipts name their round by."""
    return envelope_digest(DOMAIN, announcement, Announcement)


def bid_set_of(
    bids: list[Bid],
    *,
    signers: list[Key] | None = None,
    router: Key = ROUTER,
    seen: tuple[Measurement, ...] = (),
    announcement: Envelope | None = None,
) -> BidSet:
    """A bid set as an honest router makes it."""
    entries = []
    announcement = announcement or announced()
    for position, (bid, signer) in enumerate(zip(bids, signers or MINERS, strict=False)):
        envelope = seal(DOMAIN, signer.sign, bid)
        digest = envelope_digest(DOMAIN, envelope, Bid)
        receipt = BidReceipt(digest, TERMS.session, position, round_of(announcement))
        entries.append(CountersignedBid(envelope, seal(DOMAIN, router.sign, receipt)))
    return BidSet(TERMS.session, announcement, tuple(entries), seen)


def assignment_of(envelope: Envelope, miner: bytes, **changes: object) -> Assignment:
    """The assignment of one miner under a bid set."""
    digest = envelope_digest(DOMAIN, envelope, BidSet)
    assignment = Assignment(TERMS.session, 1, ROUTER.node, (miner,), (b"\x09" * 24,), digest)
    return msgspec.structs.replace(assignment, **changes)


BIDS = [bid_of(miner.node, price_wei=100 * place) for place, miner in enumerate(MINERS)]
BID_SET = bid_set_of(BIDS)
SEALED = seal(DOMAIN, ROUTER.sign, BID_SET)


@pytest.mark.spec("AUCTION-VERIFY.1")
def test_anyone_computes_the_rank_of_every_miner() -> None:
    ranking = compute_ranking(PARAMS, TERMS, BIDS, ())
    for rank, miner in enumerate(ranking.order):
        verified = verify_bid_set(DOMAIN, PARAMS, OPENING, SEALED, assignment_of(SEALED, miner))
        assert verified.ranks == (rank,)
        assert verified.ranking == ranking


@pytest.mark.spec("AUCTION-VERIFY.1")
def test_measurements_in_the_bid_set_count() -> None:
    worst = Measurement(MINERS[0].node, 1_000, 0, 0, 0)
    sealed = seal(DOMAIN, ROUTER.sign, bid_set_of(BIDS, seen=(worst,)))
    verified = verify_bid_set(DOMAIN, PARAMS, OPENING, sealed, assignment_of(sealed, MINERS[0].node))
    assert verified.ranking.scores[MINERS[0].node] < compute_ranking(PARAMS, TERMS, BIDS, ()).scores[MINERS[0].node]


def _with_entry(place: int, entry: CountersignedBid) -> BidSet:
    return _with_bids((*BID_SET.bids[:place], entry, *BID_SET.bids[place + 1 :]))


def _with_bids(bids: tuple[CountersignedBid, ...]) -> BidSet:
    return BidSet(TERMS.session, BID_SET.announcement, bids, ())


def _receipt(**changes: object) -> Envelope:
    honest = BidReceipt(envelope_digest(DOMAIN, BID_SET.bids[1].bid, Bid), TERMS.session, 1, round_of(announced()))
    return seal(DOMAIN, ROUTER.sign, msgspec.structs.replace(honest, **changes))


SECOND = BID_SET.bids[1].bid
BROKEN_SETS: list[tuple[str, str, Callable[[], BidSet]]] = [
    ("bid set", "of session", lambda: BidSet(bytes(32), BID_SET.announcement, BID_SET.bids, ())),
    ("announcement", "is signed by", lambda: bid_set_of(BIDS, announcement=announced(MINERS[0]))),
    ("announcement", "expected Announcement", lambda: bid_set_of(BIDS, announcement=SECOND)),
    *(
        ("announcement", "something else", lambda lie=lie: bid_set_of(BIDS, announcement=announced(**lie)))
        for lie in (
            {"session": bytes(32)},
            {"model": bytes(32)},
            {"lanes": 2},
            {"price_cap_wei": 999},
            {"router": CLIENT.node},
        )
    ),
    (
        "bid",
        "position 0 is of a miner that was not drawn",
        lambda: bid_set_of(BIDS, announcement=announced(pool=10**9)),
    ),
    ("measurements", "two of one", lambda: bid_set_of(BIDS, seen=(Measurement(bytes(20), 1, 1, 1, 1),) * 2)),
    ("bid", "position 0 is signed by", lambda: bid_set_of(BIDS, signers=MINERS[::-1])),
    ("bid", "position 1 expected Bid", lambda: _with_entry(1, CountersignedBid(_receipt(), _receipt()))),
    (
        "bid",
        "position 1 not MessagePack",
        lambda: _with_entry(1, CountersignedBid(Envelope(b"", bytes(65)), _receipt())),
    ),
    ("receipt", "position 0 is signed by", lambda: bid_set_of(BIDS, router=MINERS[0])),
    ("receipt", "position 1 expected BidReceipt", lambda: _with_entry(1, CountersignedBid(SECOND, SECOND))),
    ("receipt", "another bid", lambda: _with_entry(1, CountersignedBid(SECOND, _receipt(bid=bytes(32))))),
    ("receipt", "another bid", lambda: _with_entry(1, CountersignedBid(SECOND, _receipt(session=bytes(32))))),
    ("receipt", "says position 2", lambda: _with_entry(1, CountersignedBid(SECOND, _receipt(position=2)))),
    ("receipt", "another round", lambda: _with_entry(1, CountersignedBid(SECOND, _receipt(announcement=bytes(32))))),
    ("receipt", "says position 1", lambda: _with_bids(BID_SET.bids[1:])),
    ("receipt", "says position 0", lambda: _with_bids(BID_SET.bids[:1] * 2)),
]


@pytest.mark.spec("AUCTION-VERIFY.1")
@pytest.mark.parametrize(("link", "complaint", "make"), BROKEN_SETS)
def test_a_bid_set_that_does_not_hold_is_named(link: str, complaint: str, make: Callable[[], BidSet]) -> None:
    sealed = seal(DOMAIN, ROUTER.sign, make())
    with pytest.raises(AuctionError, match=complaint) as caught:
        verify_bid_set(DOMAIN, PARAMS, OPENING, sealed, assignment_of(sealed, MINERS[1].node))
    assert caught.value.link == link


@pytest.mark.spec("AUCTION-VERIFY.1")
@pytest.mark.parametrize(
    ("complaint", "changes"),
    [
        ("session", {"session": bytes(32)}),
        ("none that the client named", {"router": MINERS[0].node}),
        ("2 miners for 1 lanes", {"miners": (MINERS[0].node, MINERS[1].node)}),
        ("1 miners for 1 lanes", {"generations": (b"\2" * 24, b"\1" * 24)}),
        ("another bid set", {"bid_set": bytes(32)}),
        ("of whom there is no usable bid", {"miners": (CLIENT.node,)}),
    ],
)
def test_an_assignment_that_does_not_hold_is_named(complaint: str, changes: dict[str, object]) -> None:
    with pytest.raises(AuctionError, match=complaint) as caught:
        verify_bid_set(DOMAIN, PARAMS, OPENING, SEALED, assignment_of(SEALED, MINERS[0].node, **changes))
    assert caught.value.link == "assignment"


@pytest.mark.spec("AUCTION-VERIFY.1")
def test_a_miner_with_an_unusable_bid_cannot_be_assigned() -> None:
    sealed = seal(DOMAIN, ROUTER.sign, bid_set_of([bid_of(MINERS[0].node, price_wei=1_001), *BIDS[1:]]))
    with pytest.raises(AuctionError, match="no usable bid"):
        verify_bid_set(DOMAIN, PARAMS, OPENING, sealed, assignment_of(sealed, MINERS[0].node))


@pytest.mark.spec("AUCTION-VERIFY.1")
def test_a_bid_set_that_another_router_signed_is_refused() -> None:
    sealed = seal(DOMAIN, MINERS[0].sign, BID_SET)
    with pytest.raises(AuctionError, match="bid set: is signed by"):
        verify_bid_set(DOMAIN, PARAMS, OPENING, sealed, assignment_of(sealed, MINERS[0].node))


@pytest.mark.spec("AUCTION-VERIFY.1")
def test_one_lease_cannot_serve_two_lanes() -> None:
    opening = msgspec.structs.replace(OPENING, lanes=2)
    assignment = assignment_of(
        SEALED,
        MINERS[0].node,
        session=session_id(DOMAIN, opening),
        miners=(MINERS[0].node, MINERS[1].node),
        generations=(b"\1" * 24, b"\1" * 24),
    )
    with pytest.raises(AuctionError, match="one lease"):
        verify_bid_set(DOMAIN, PARAMS, opening, SEALED, assignment)


@pytest.mark.spec("AUCTION-VERIFY.1")
@given(st.binary(max_size=200), st.binary(min_size=65, max_size=65))
def test_any_bytes_as_a_bid_set_end_in_an_auction_error(payload: bytes, signature: bytes) -> None:
    sealed = Envelope(payload, signature)
    with pytest.raises(AuctionError):
        verify_bid_set(DOMAIN, PARAMS, OPENING, sealed, assignment_of(sealed, MINERS[0].node))


@pytest.mark.spec("AUCTION-VERIFY.1")
def test_the_largest_bid_set_fits_its_message() -> None:
    widest = Bid(TERMS.session, MINERS[0].node, MODEL, 2**63 - 1, *([U32_MAX] * 5), 2**63 - 1)
    envelope = seal(DOMAIN, MINERS[0].sign, widest)
    receipt = seal(DOMAIN, ROUTER.sign, BidReceipt(bytes(32), bytes(32), U32_MAX, bytes(32)))
    announcement = Envelope(bytes(Announcement.LIMIT_BYTES), bytes(65))
    seen = tuple(Measurement(n.to_bytes(20, "big"), *([U32_MAX] * 4)) for n in range(128))
    bids = (CountersignedBid(envelope, receipt),) * 128
    seal(DOMAIN, ROUTER.sign, BidSet(TERMS.session, announcement, bids, seen))
