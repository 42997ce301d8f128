"""What the ledger pays, to whom, and what it does not."""

import msgspec
import pytest

from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import typed_digest
from protocol.ledger import Section
from protocol.ledger.records import lane_key
from protocol.messages.results import SEGMENTS_CLAIMED_MAX, Content, Verdict
from protocol.results.commitment import chain_heads, head_of
from tests.unit.protocol.ledger_at_hand import (
    CLIENT,
    DOMAIN,
    HAS_WEI,
    MINER,
    MINERS,
    ORACLES,
    OTHER_CLIENT,
    OTHER_ROUTER,
    OWNER,
    PARAMS,
    PRICE,
    ROUTER,
    STRANGER,
    Books,
    Part,
    enlist_of,
    failure,
    keyed,  # noqa: F401
    name_of,
    ok,
    opening_of,
    order_of,
    session_of,
)

CAP = 10_000
PAID = 100 * PRICE


def shares(amount: int, oracles: int = 3) -> tuple[int, int, int]:
    """What router, each oracle and the miner get."""
    router = amount * PARAMS.router_share_bp // 10_000
    each = amount * PARAMS.oracle_share_bp // 10_000 // oracles
    return router, each, amount - router - oracles * each


@pytest.mark.spec("LEDGER-PAY.1", "LEDGER-SHARES.1")
def test_a_lane_is_paid_from_the_reservation_when_outcome_and_opening_agree() -> None:
    books = Books()
    session = books.reserve(session_of())
    opening = opening_of(order_of(session), [Part(acked=100)])
    books.block({at: Content(observations=(ok(opening),), openings=(opening,) * (at == 2)) for at in range(3)})
    (outcome,) = books.decided
    assert outcome.paid_wei == PAID
    router, each, miner = shares(PAID)
    assert [books.balance(key) for key in (ROUTER, MINER, *ORACLES[:4])] == [router, miner, each, each, each, 0]
    assert books.account(CLIENT).reserved_wei == CAP - PAID
    held = books.state.session(name_of(session))
    assert held is not None
    assert held.spent_wei == PAID


@pytest.mark.spec("LEDGER-PAY.1", "LEDGER-CLAIM.1")
@pytest.mark.parametrize("first", ["opening", "outcome"])
def test_opening_and_outcome_may_come_in_either_order(first: str) -> None:
    books = Books()
    opening = opening_of(order_of(books.reserve(session_of())), [Part(acked=64)])
    books.observe(ok(opening), by=[0] if first == "opening" else [0, 1, 2])
    books.bring(openings=[opening], by=3)
    books.observe(ok(opening), by=[1, 2, 3])
    assert books.account(CLIENT).reserved_wei == CAP - 64 * PRICE
    assert books.decided[0].paid_wei == (64 * PRICE if first == "opening" else 0)


@pytest.mark.spec("LEDGER-PAY.2")
def test_lane_0_is_paid_to_the_last_acked_token_and_later_acks_top_it_up() -> None:
    books = Books()
    order = order_of(books.reserve(session_of()))
    paid = []
    for acked in (64, 10, 64, 100, 80):
        opening = opening_of(order, [Part(acked=acked)])
        books.observe(ok(opening))
        books.bring(openings=[opening])
        paid.append(CAP - books.account(CLIENT).reserved_wei)
    assert paid == [64 * PRICE, 64 * PRICE, 64 * PRICE, 100 * PRICE, 100 * PRICE]
    lane = books.state.lane(order.session, 1, 0)
    assert lane is not None
    assert lane.paid_wei == 100 * PRICE


@pytest.mark.spec("LEDGER-PAY.2")
def test_what_the_client_did_not_accept_is_not_paid() -> None:
    books = Books()
    order = order_of(books.reserve(session_of()))
    unacked = opening_of(order)
    books.observe(ok(unacked))
    books.bring(openings=[unacked, opening_of(order, [Part(acked=100, acker=MINER)])])
    books.bring(openings=[opening_of(order, [Part(acked=100)], client=STRANGER)])
    assert books.account(CLIENT).reserved_wei == CAP
    books.bring(openings=[opening_of(order, [Part(acked=100)])])
    assert books.account(CLIENT).reserved_wei == CAP - PAID


@pytest.mark.spec("LEDGER-PAY.2")
def test_each_segment_is_paid_to_its_miner_at_its_price() -> None:
    books = Books()
    order = order_of(books.reserve(session_of()))
    parts = [Part(acked=30), Part(MINERS[1], 40, 9, 55, OTHER_ROUTER), Part(MINERS[2], 60, 11, 100)]
    opening = opening_of(order, parts)
    books.observe(ok(opening))
    books.bring(openings=[opening])
    first, second = 30 * PRICE, 15 * 9
    assert books.balance(MINER) == shares(first)[2]
    assert books.balance(OTHER_ROUTER) == 0, "it is no router of the session"
    assert books.balance(MINERS[1]) == shares(second)[2] + shares(second)[0]
    assert books.balance(MINERS[2]) == 0, "its price is above the cap"
    more = [Part(acked=40), *parts[1:]]
    books.bring(openings=[opening_of(order, more)])
    assert books.balance(MINER) == shares(first)[2] + shares(10 * PRICE)[2]


@pytest.mark.spec("LEDGER-PAY.2")
def test_a_lane_above_0_is_paid_a_share_once() -> None:
    books = Books()
    order = order_of(books.reserve(session_of(lanes=2)))
    opening = opening_of(order, [Part(MINERS[1])], lane=1)
    books.observe(ok(opening))
    for _ in range(3):
        books.bring(openings=[opening])
    fee = 100 * PRICE * PARAMS.lane_fee_bp // 10_000
    assert CAP - books.account(CLIENT).reserved_wei == fee
    assert books.balance(MINERS[1]) == shares(fee)[2]


@pytest.mark.spec("LEDGER-PAY.2", "LEDGER-CLAIM.1")
@pytest.mark.parametrize("lane", [0, 1])
def test_openings_that_show_more_or_less_of_one_lane_are_one_claim(lane: int) -> None:
    books = Books()
    order = order_of(books.reserve(session_of(lanes=2)))
    acked = [None if lane else (at + 1) * 10 for at in range(10)]
    whole = opening_of(order, [Part(start=at * 10, acked=acked[at]) for at in range(10)], lane=lane)
    assert len(whole.segments) == SEGMENTS_CLAIMED_MAX
    hidden = head_of(DOMAIN, whole, whole.segments[0])
    less = msgspec.structs.replace(
        whole, segments=whole.segments[1:], earlier=chain_heads(whole.earlier, [typed_digest(DOMAIN, hidden)])
    )
    assert ok(less) == ok(whole)
    books.observe(ok(whole))
    paid = []
    for opening in (less, whole, less):
        books.bring(openings=[opening])
        paid.append(CAP - books.account(CLIENT).reserved_wei)
    fee = 100 * PRICE * PARAMS.lane_fee_bp // 10_000
    assert paid == ([fee] * 3 if lane else [70 * PRICE, 80 * PRICE, 80 * PRICE])


@pytest.mark.spec("LEDGER-PAY.1")
def test_the_owner_of_a_miner_is_paid() -> None:
    books = Books()
    books.bring(enlistments=[enlist_of(MINER)])
    opening = opening_of(order_of(books.reserve(session_of())), [Part(acked=100)])
    books.observe(ok(opening))
    books.bring(openings=[opening])
    assert books.balance(MINER) == 0
    assert books.balance(OWNER) == shares(PAID)[2]


@pytest.mark.spec("LEDGER-CAP.1")
def test_an_order_is_paid_at_most_its_cap_over_all_its_lanes() -> None:
    books = Books()
    order = order_of(books.reserve(session_of(lanes=2)), cap_wei=PAID + 50)
    lanes = [opening_of(order, [Part(acked=100)]), opening_of(order, [Part(MINERS[1])], lane=1)]
    for opening in lanes:
        books.observe(ok(opening))
        books.bring(openings=[opening])
    assert CAP - books.account(CLIENT).reserved_wei == PAID + 50
    assert sum(outcome.paid_wei for outcome in books.decided) == 0
    assert [books.state.lane(order.session, 1, number).paid_wei for number in (0, 1)] == [PAID, 50]  # type: ignore[union-attr]


@pytest.mark.spec("LEDGER-CAP.1")
def test_a_session_is_paid_at_most_its_cap_over_all_its_orders() -> None:
    books = Books()
    session = books.reserve(session_of(cap_wei=PAID + 50))
    for task in (1, 2, 3):
        opening = opening_of(order_of(session, task), [Part(acked=100)])
        books.observe(ok(opening))
        books.bring(openings=[opening])
    assert books.account(CLIENT).reserved_wei == 0
    assert books.balance(CLIENT) == HAS_WEI - PAID - 50


@pytest.mark.spec("LEDGER-CLAIM.1")
def test_what_the_session_does_not_stand_for_is_not_paid() -> None:
    books = Books()
    session = books.reserve(session_of())
    foreign = session_of(OTHER_CLIENT)
    strange = [
        opening_of(order_of(session, 101), [Part(acked=100)]),
        opening_of(order_of(session, 2), [Part(acked=100)], model=ZERO_DIGEST),
        opening_of(order_of(session, 3), [Part()], lane=1),
        opening_of(order_of(foreign, 4), [Part(acked=100)], client=OTHER_CLIENT),
    ]
    for opening in strange:
        books.observe(ok(opening))
        books.bring(openings=[opening])
    assert len(books.decided) == len(strange)
    assert [outcome.paid_wei for outcome in books.decided] == [0] * len(strange)
    assert books.account(CLIENT).reserved_wei == CAP


@pytest.mark.spec("LEDGER-CLAIM.1")
@pytest.mark.parametrize(("home_epoch", "paid"), [(1, True), (2, True), (3, True), (4, False)])
def test_a_reservation_holds_for_some_epochs(home_epoch: int, paid: bool) -> None:
    books = Books()
    session = books.reserve(session_of())
    books.turn(home_epoch - 1)
    opening = opening_of(order_of(session, home_epoch=home_epoch), [Part(acked=100)])
    books.observe(ok(opening))
    books.bring(openings=[opening])
    assert (books.account(CLIENT).reserved_wei < CAP) == paid


@pytest.mark.spec("LEDGER-CLAIM.1")
def test_an_opening_that_leads_elsewhere_than_the_outcome_is_not_paid() -> None:
    books = Books()
    order = order_of(books.reserve(session_of()))
    right, wrong = opening_of(order, [Part(acked=50)]), opening_of(order, [Part(MINERS[1], acked=100)])
    books.block(
        {
            0: Content(observations=(ok(wrong),), openings=(wrong,)),
            1: Content(observations=(ok(right),)),
            2: Content(observations=(ok(right),)),
        }
    )
    books.bring(openings=[wrong, right])
    assert CAP - books.account(CLIENT).reserved_wei == 50 * PRICE
    assert books.balance(MINERS[1]) == 0
    lane = books.state.lane(order.session, 1, 0)
    assert lane is not None
    assert [claim.root for claim in lane.record.claims] == [ok(right).root]


@pytest.mark.spec("LEDGER-PAY.1")
@pytest.mark.parametrize("verdict", [Verdict.LATE, Verdict.UNREVEALED, Verdict.MISMATCH])
def test_a_lane_that_failed_is_not_paid(verdict: Verdict) -> None:
    books = Books()
    opening = opening_of(order_of(books.reserve(session_of())), [Part(acked=100)])
    said = {at: Content(observations=(failure(opening.order, verdict),)) for at in range(3)}
    books.block({3: Content(observations=(ok(opening),), openings=(opening,))})
    books.block(said)
    books.bring(openings=[opening])
    assert [outcome.verdict for outcome in books.decided] == [verdict]
    assert books.account(CLIENT).reserved_wei == CAP


@pytest.mark.spec("LEDGER-CLAIM.1")
def test_two_epochs_on_a_lane_is_forgotten_and_not_topped_up() -> None:
    books = Books()
    order = order_of(books.reserve(session_of()))
    opening = opening_of(order, [Part(acked=10)])
    books.observe(ok(opening))
    books.turn(2)
    books.bring(openings=[opening_of(order, [Part(acked=20)])])
    assert CAP - books.account(CLIENT).reserved_wei == 20 * PRICE
    key = lane_key(order.session, 1, 0)
    assert books.state.tree(Section.LANES_1).get(key) is not None
    books.turn()
    assert books.state.tree(Section.LANES_1).get(key) is None
    books.bring(openings=[opening_of(order, [Part(acked=100)])])
    assert CAP - books.account(CLIENT).reserved_wei == 20 * PRICE
