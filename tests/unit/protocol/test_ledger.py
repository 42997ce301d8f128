"""What the ledger makes of sessions, observations, openings and withdrawals."""

import msgspec
import pytest

from protocol.committee.cut import Cut
from protocol.core.codec import pack
from protocol.ledger import Section
from protocol.messages.results import Content, Verdict
from tests.unit.protocol.ledger_at_hand import (
    CLIENT,
    HAS_WEI,
    ORACLES,
    OTHER_CLIENT,
    PARAMS,
    STRANGER,
    Books,
    batch_of,
    close_of,
    failure,
    keyed,  # noqa: F401
    name_of,
    ok,
    opening_of,
    order_of,
    session_of,
    signed_session,
    withdraw_of,
)

CAP = 10_000


# Reservations


@pytest.mark.spec("LEDGER-RESERVE.1")
def test_a_session_reserves_its_cap_once() -> None:
    books = Books()
    opening = books.reserve(session_of())
    assert (books.account(CLIENT).balance_wei, books.account(CLIENT).reserved_wei) == (HAS_WEI - CAP, CAP)
    books.bring(sessions=[signed_session(opening)] * 2, by=1)
    assert books.account(CLIENT).reserved_wei == CAP


@pytest.mark.spec("LEDGER-RESERVE.1")
def test_a_deposit_is_not_reserved_twice_over() -> None:
    books = Books()
    half = HAS_WEI // 2 + 1
    one, other = session_of(number=1, cap_wei=half), session_of(number=2, cap_wei=half)
    books.block({0: Content(sessions=(signed_session(one),)), 1: Content(sessions=(signed_session(other),))})
    held = [books.state.session(name_of(opening)) is not None for opening in (one, other)]
    assert sorted(held) == [False, True]
    assert books.account(CLIENT).balance_wei == HAS_WEI - half


@pytest.mark.spec("LEDGER-RESERVE.1")
def test_what_its_client_did_not_sign_or_cannot_pay_is_not_reserved() -> None:
    books = Books()
    refused = [
        signed_session(session_of(), STRANGER),
        signed_session(session_of(cap_wei=0)),
        signed_session(session_of(cap_wei=HAS_WEI + 1)),
        signed_session(session_of(lanes=PARAMS.lanes_max + 1)),
        signed_session(session_of(STRANGER), STRANGER),
        signed_session(session_of(nonce=b"\xff" * 32)),
    ]
    before = books.state.trees
    books.bring(sessions=refused)
    assert books.state.trees == before


@pytest.mark.spec("LEDGER-RELEASE.1")
@pytest.mark.parametrize("closed", [False, True])
def test_a_reservation_is_released_when_no_lane_can_draw_on_it(closed: bool) -> None:
    books = Books()
    opening = books.reserve(session_of())
    if closed:
        books.bring(closes=[close_of(opening)])
    last = 1 if closed else 1 + PARAMS.reservation_epochs
    books.turn(last + 3 - 1 - 1)
    assert books.state.session(name_of(opening)) is not None
    books.turn()
    assert books.epoch == last + 3
    assert books.state.session(name_of(opening)) is None
    assert books.account(CLIENT).balance_wei == HAS_WEI
    assert books.account(CLIENT).reserved_wei == 0


@pytest.mark.spec("LEDGER-RELEASE.1")
def test_a_session_that_was_released_does_not_come_back() -> None:
    books = Books()
    opening = books.reserve(session_of(number=5))
    books.bring(closes=[close_of(opening)])
    books.turn(3)
    books.bring(sessions=[signed_session(opening), signed_session(session_of(number=4))])
    assert books.account(CLIENT).reserved_wei == 0
    books.reserve(session_of(number=6))


@pytest.mark.spec("LEDGER-RELEASE.1")
def test_only_the_client_closes() -> None:
    books = Books()
    opening = books.reserve(session_of())
    books.bring(closes=[close_of(opening, STRANGER)])
    session = books.state.session(name_of(opening))
    assert session is not None
    assert not session.closed


# Withdrawals


@pytest.mark.spec("LEDGER-WITHDRAW.1")
def test_a_withdrawal_is_a_total_and_saying_it_again_changes_nothing() -> None:
    books = Books()
    for total in (300, 300, 200, 1_000):
        books.bring(withdrawals=[withdraw_of(total)] * 2)
    assert books.account(CLIENT).withdrawable_wei == 1_000
    assert books.balance(CLIENT) == HAS_WEI - 1_000


@pytest.mark.spec("LEDGER-WITHDRAW.1")
def test_nobody_withdraws_what_is_reserved_or_anothers() -> None:
    books = Books()
    books.reserve(session_of(cap_wei=HAS_WEI - 10))
    books.bring(withdrawals=[withdraw_of(11), withdraw_of(5, OTHER_CLIENT, CLIENT)])
    assert books.account(CLIENT).withdrawable_wei == 0
    assert books.account(OTHER_CLIENT).withdrawable_wei == 0
    books.bring(withdrawals=[withdraw_of(10)])
    assert books.account(CLIENT).withdrawable_wei == 10


# Outcomes


@pytest.mark.spec("OUTCOME-DECIDE.1")
def test_a_lane_is_decided_in_the_first_block_with_a_quorum_of_values() -> None:
    books = Books()
    opening = opening_of(order_of(session_of()))
    books.observe(ok(opening), by=[0, 1])
    assert books.decided == []
    lane = books.state.lane(opening.order.session, 1, 0)
    assert lane is not None
    assert set(lane.values) == {ORACLES[0].node_id, ORACLES[1].node_id}
    assert lane.outcome is None
    assert books.state.lane(opening.order.session, 1, 1) is None
    books.observe(ok(opening), by=[3])
    (outcome,) = books.decided
    assert (outcome.verdict, outcome.root, outcome.count) == (Verdict.OK, ok(opening).root, 100)
    assert books.state.decided == (outcome,)
    assert books.state.roots.results_count == 1
    books.block()
    assert books.state.decided == ()


@pytest.mark.spec("OUTCOME-DECIDE.1")
def test_a_lane_has_one_outcome_whatever_is_said_after_it() -> None:
    books = Books()
    opening = opening_of(order_of(session_of()))
    books.observe(ok(opening))
    books.observe(failure(opening.order), by=[3])
    books.observe(failure(opening.order))
    books.turn()
    books.observe(failure(opening.order))
    books.observe(failure(opening.order), by=[3], home_epoch=1)
    books.turn(3)
    assert len(books.decided) == 1
    assert books.state.lane(opening.order.session, 1, 0) is None


@pytest.mark.spec("OUTCOME-ONE.1")
def test_what_comes_after_the_outcome_is_noted_and_changes_nothing() -> None:
    books = Books()
    opening = opening_of(order_of(session_of()))
    books.observe(ok(opening))
    books.observe(failure(opening.order), by=[0, 3])
    lane = books.state.lane(opening.order.session, 1, 0)
    assert lane is not None
    assert lane.index == 0
    assert lane.outcome == books.decided[0]
    assert {node: value.verdict for node, value in lane.values.items()} == {
        **{key.node_id: Verdict.OK for key in ORACLES[:3]},
        ORACLES[3].node_id: Verdict.LATE,
    }
    assert len(books.state.tree(Section.OPEN)) == 0


@pytest.mark.spec("OUTCOME-ONE.1")
def test_a_lane_of_two_home_epochs_has_one_outcome() -> None:
    books = Books()
    opening = opening_of(order_of(session_of()))
    books.observe(ok(opening), by=[0, 1])
    books.turn()
    books.observe(failure(opening.order), by=[2, 3])
    books.observe(ok(opening), by=[2], home_epoch=1)
    books.observe(failure(opening.order), by=[0])
    books.turn(4)
    assert [outcome.verdict for outcome in books.decided] == [Verdict.OK]
    assert books.state.opened == {}


@pytest.mark.spec("OUTCOME-HOME.1")
def test_an_oracle_gives_a_lane_one_value_and_the_first_one_counts() -> None:
    books = Books()
    opening = opening_of(order_of(session_of()))
    books.block([(0, Content(observations=(failure(opening.order),))), (0, Content(observations=(ok(opening),)))])
    books.observe(ok(opening), by=[0, 1, 2])
    lane = books.state.lane(opening.order.session, 1, 0)
    assert lane is not None
    assert lane.values[ORACLES[0].node_id].verdict is Verdict.LATE
    assert lane.outcome is not None
    assert lane.outcome.verdict is Verdict.OK


@pytest.mark.spec("OUTCOME-HOME.1")
def test_only_values_of_one_home_epoch_count_together() -> None:
    books = Books()
    opening = opening_of(order_of(session_of()))
    books.observe(ok(opening), by=[0, 1])
    books.turn()
    books.observe(ok(opening), by=[2, 3])
    assert books.decided == []
    books.observe(ok(opening), by=[2], home_epoch=1)
    assert [outcome.home_epoch for outcome in books.decided] == [1]


@pytest.mark.spec("OUTCOME-HOME.1")
def test_a_value_that_says_what_none_may_is_none() -> None:
    books = Books()
    order = order_of(session_of())
    lane = failure(order)
    for bad in (
        msgspec.structs.replace(lane, verdict=Verdict.UNDECIDED),
        msgspec.structs.replace(lane, count=1),
        msgspec.structs.replace(lane, root=b"\1" * 32),
        msgspec.structs.replace(lane, lane=PARAMS.lanes_max),
    ):
        books.observe(bad, by=range(4))
    assert books.decided == []
    assert len(books.state.tree(Section.OPEN)) == 0


@pytest.mark.spec("OUTCOME-UNDECIDED.1")
@pytest.mark.parametrize("spoken", [1, 2])
def test_two_epochs_on_a_lane_of_which_a_correct_oracle_spoke_is_undecided(spoken: int) -> None:
    books = Books()
    opening = opening_of(order_of(session_of()))
    books.observe(ok(opening), by=range(spoken))
    books.turn(2)
    assert books.decided == []
    books.state = books.ledger.turn(books.state, books._committee(4))
    books.execute(b"")
    assert [outcome.verdict for outcome in books.decided] == [Verdict.UNDECIDED] * (spoken > 1)
    assert len(books.state.tree(Section.OPEN)) == 0
    assert books.state.opened == {}


@pytest.mark.spec("OUTCOME-UNDECIDED.1")
def test_what_a_turn_decides_is_told_with_the_first_block_after_it() -> None:
    books = Books()
    opening = opening_of(order_of(session_of()))
    books.observe(ok(opening), by=[0, 1])
    books.turn(2)
    books.state = books.ledger.turn(books.state, books._committee(4))
    other = opening_of(order_of(session_of(), 2, home_epoch=4))
    restored = books.ledger.restore(books.state.pack())
    for state in (books.state, restored):
        after = books.ledger.execute(state, books.body({at: Content(observations=(ok(other),)) for at in range(3)}))
        assert [outcome.verdict for outcome in after.decided] == [Verdict.UNDECIDED, Verdict.OK]
        assert after.mountain.count == 2
        assert dict(after.nodes).keys() == {(0, 0), (0, 1), (1, 0)}
        assert books.ledger.execute(after, b"").decided == ()


@pytest.mark.spec("OUTCOME-HOME.1")
def test_an_oracle_opens_a_bounded_number_of_lanes() -> None:
    books = Books()
    orders = [order_of(session_of(), task) for task in range(1, PARAMS.lanes_observed_max + 5)]
    books.observe(*(failure(order) for order in orders), by=[0])
    assert len(books.state.tree(Section.OPEN)) == PARAMS.lanes_observed_max
    books.observe(*(failure(order) for order in orders), by=[1])
    assert len(books.state.tree(Section.OPEN)) == len(orders)
    books.observe(*(failure(order) for order in orders), by=[2, 3])
    assert len(books.decided) == len(orders)
    assert books.state.opened == {}


@pytest.mark.spec("LEDGER-CONTENT.1")
def test_content_that_is_none_counts_as_empty_and_its_batch_is_in() -> None:
    books = Books()
    before = books.state
    books.execute(pack(Cut((batch_of(ORACLES[0], b"\xc1 no content"),))))
    assert books.state.included(1, ORACLES[0].node_id)[0] == 1
    assert books.state.batches == 1
    assert books.state.trees == before.trees
    assert books.state.roots.ledger_root != before.roots.ledger_root
