"""Which tests an oracle makes, as the ledger calls for them."""

from collections.abc import Iterable

import pytest

from p2pnode.sim.crypto import Key
from protocol.core.ids import ModelDigest, NodeId
from protocol.core.signing import keccak
from protocol.messages.results import Content
from protocol.roles.tester import Called, CalledLane
from protocol.roles.tester.calling import CallBook
from tests.unit.protocol.ledger_at_hand import (
    MINER,
    MINERS,
    MODEL,
    ORACLES,
    PARAMS,
    Books,
    Part,
    enlist_of,
    keyed,  # noqa: F401
    ok,
    opening_of,
    order_of,
    report_of,
    session_of,
)

NEW = MINERS[2]
HELD = ModelDigest(MODEL)
TASKS_MAX = 400


def book_of(oracle: Key = ORACLES[0], offers: Iterable[bytes] = ()) -> CallBook:
    """An oracle's, which holds one model; every miner says that it serves these."""
    return CallBook(oracle.node_id, {HELD}, lambda _: [ModelDigest(model) for model in offers])


def calls(book: CallBook, books: Books) -> list[Called]:
    """What it reads in the present state."""
    return list(book.read(books.state).calls)


@pytest.mark.spec("TEST-CALLED.1")
def test_who_enlisted_is_tested_by_those_that_hold_its_model() -> None:
    books, book = Books(), book_of()
    assert calls(book, books) == []
    books.bring(enlistments=[enlist_of(NEW), enlist_of(MINERS[3], model=keccak(b"another"))])
    record = books.state.miner(NEW.node_id)
    assert record is not None
    assert record.call is not None
    assert calls(book, books) == [Called(NodeId(NEW.node_id), 1, record.call.seed, HELD, 50)]
    assert calls(book, books) == calls(book_of(), books)


@pytest.mark.spec("TEST-SPEED.1")
def test_a_miner_that_is_available_is_not_held_to_its_claim() -> None:
    books, book = Books(), book_of()
    books.bring(enlistments=[enlist_of(NEW)])
    for oracle in (0, 1):
        books.bring(reports=[report_of(NEW, 1)], by=oracle)
    books.turn(PARAMS.test_age_epochs + 1)
    assert [(call.miner, call.tokens_per_second) for call in calls(book, books)] == [(NEW.node_id, 0)]


@pytest.mark.spec("TEST-CALLED.1")
def test_a_test_is_over_once_this_oracle_reported_or_enough_others_did() -> None:
    books, mine, other = Books(), book_of(), book_of(ORACLES[1])
    books.bring(enlistments=[enlist_of(NEW)])
    books.bring(reports=[report_of(NEW, 1)], by=0)
    assert calls(mine, books) == []
    assert len(calls(other, books)) == 1
    books.bring(reports=[report_of(NEW, 1)], by=2)
    assert calls(other, books) == []


@pytest.mark.spec("TEST-CALLED.1")
def test_who_is_in_no_committee_tests_nobody() -> None:
    books = Books()
    books.bring(enlistments=[enlist_of(NEW)])
    assert calls(book_of(ORACLES[5]), books) == []


@pytest.mark.spec("TEST-CALLED.1")
def test_a_genesis_miner_is_tested_by_what_it_says_it_serves() -> None:
    books = Books()
    book, told = book_of(), book_of(offers=[keccak(b"another"), MODEL])
    books.turn(PARAMS.test_age_epochs + 1)
    assert calls(book, books) == []
    assert {call.miner for call in calls(told, books)} == {key.node_id for key in MINERS[:2]}
    assert {call.model for call in calls(told, books)} == {HELD}


@pytest.mark.spec("TEST-TRANSCRIPT.1")
@pytest.mark.parametrize("audits", [True, False])
def test_a_lane_is_scored_by_what_the_committee_certified_of_it(audits: bool) -> None:
    books, book = Books(), book_of(offers=[MODEL])
    session = books.reserve(session_of(audits=audits, cap_wei=500_000, tasks_max=TASKS_MAX))
    for task in range(1, TASKS_MAX):
        opening = opening_of(order_of(session, task), [Part(acked=100)])
        books.block({at: Content(observations=(ok(opening),), openings=(opening,)) for at in range(3)})
        if found := calls(book, books):
            break
    (called,) = found
    assert (called.miner, called.model) == (MINER.node_id, HELD)
    wanted = CalledLane(0, books.decided[-1].root)
    assert called.lane == (wanted if audits else None)
