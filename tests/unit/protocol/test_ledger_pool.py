"""The node pool as the ledger keeps it: enlisting, tests, age, statistics."""

from dataclasses import replace

import pytest

from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import keccak
from protocol.ledger.miners import Miner, PoolState, TestKind
from protocol.ledger.records import lane_key
from protocol.ledger.statistics import MILLI, Statistics
from protocol.messages.results import Content, TestReport, Verdict
from tests.unit.protocol.ledger_at_hand import (
    GENESIS,
    MINER,
    MINERS,
    MODEL,
    OWNER,
    PARAMS,
    STRANGER,
    Books,
    Part,
    available,
    enlist_of,
    failure,
    keyed,  # noqa: F401
    name_of,
    ok,
    opening_of,
    order_of,
    report_of,
    session_of,
)

NEW = MINERS[2]
AGE = PARAMS.test_age_epochs


def miner(books: Books, key: object = NEW) -> Miner:
    """A miner's record."""
    record = books.state.miner(key.node_id)  # type: ignore[attr-defined]
    assert record is not None
    return record


def report(books: Books, *, by: tuple[int, ...] = (0, 1), key: object = NEW, passed: bool = True) -> None:
    """Oracles say the same of the miner's present test."""
    for place in by:
        books.bring(reports=[report_of(key, miner(books, key).test, passed=passed)], by=place)  # type: ignore[arg-type]


def enlisted() -> Books:
    """A ledger in which NEW has enlisted."""
    books = Books()
    books.bring(enlistments=[enlist_of(NEW)])
    return books


@pytest.mark.spec("POOL-GENESIS.1")
def test_the_genesis_miners_are_available_and_their_own() -> None:
    books = Books()
    assert available(books) == {key.node_id for key in MINERS[:2]}
    record = miner(books, MINER)
    assert (record.owner, record.model, record.tested_epoch) == (MINER.node_id, ZERO_DIGEST, 1)


@pytest.mark.spec("POOL-GENESIS.1")
def test_a_genesis_miner_says_what_it_is_and_stays_available() -> None:
    books = Books()
    books.bring(enlistments=[enlist_of(MINER)])
    record = miner(books, MINER)
    assert (record.state, record.owner, record.model, record.call) == (PoolState.AVAILABLE, OWNER.node_id, MODEL, None)
    books.bring(enlistments=[enlist_of(MINER, 2, tokens_per_second=51)])
    assert miner(books, MINER).state is PoolState.TESTING


@pytest.mark.spec("POOL-ENLIST.1", "POOL-TEST.1")
def test_who_enlists_is_called_to_a_test_that_nobody_could_foresee() -> None:
    books = Books()
    before = books.state.roots.ledger_root
    books.bring(enlistments=[enlist_of(NEW)])
    record = miner(books)
    assert (record.state, record.owner, record.slots, record.test) == (PoolState.TESTING, OWNER.node_id, 2, 1)
    assert record.call is not None
    assert record.call.kind is TestKind.CHALLENGE
    assert record.call.seed == keccak(before + NEW.node_id + (1).to_bytes(8, "big"))
    assert NEW.node_id not in available(books)


@pytest.mark.spec("POOL-ENLIST.1")
def test_an_enlistment_counts_once_and_only_by_its_miners_hand() -> None:
    books = Books()
    books.bring(
        enlistments=[
            enlist_of(NEW, signer=STRANGER),
            enlist_of(NEW, 0),
            enlist_of(NEW, slots=0),
            enlist_of(NEW, model=ZERO_DIGEST),
        ]
    )
    assert books.state.miner(NEW.node_id) is None
    books.bring(enlistments=[enlist_of(NEW, 5), enlist_of(NEW, 5, STRANGER), enlist_of(NEW, 4, STRANGER)])
    assert miner(books).owner == OWNER.node_id


@pytest.mark.spec("POOL-ENLIST.1")
def test_nobody_gets_out_of_a_test_by_enlisting_again() -> None:
    books = enlisted()
    call = miner(books).call
    books.bring(enlistments=[enlist_of(NEW, 2, slots=3)])
    assert (miner(books).slots, miner(books).call, miner(books).test) == (3, call, 1)
    books.bring(enlistments=[enlist_of(NEW, 3, model=keccak(b"another"))])
    assert miner(books).test == 2


@pytest.mark.spec("POOL-ENLIST.1")
def test_who_claims_something_else_is_tested_first() -> None:
    books = enlisted()
    report(books)
    assert NEW.node_id in available(books)
    books.bring(enlistments=[enlist_of(NEW, 2, owner=STRANGER)])
    assert NEW.node_id in available(books)
    books.bring(enlistments=[enlist_of(NEW, 3, tokens_per_second=1_000)])
    assert NEW.node_id not in available(books)
    assert miner(books).call is not None


@pytest.mark.spec("POOL-REPORT.1")
def test_f_plus_1_reports_decide_a_test() -> None:
    books = enlisted()
    report(books, by=(0,))
    assert miner(books).state is PoolState.TESTING
    books.turn()
    report(books, by=(0,), passed=False)
    report(books, by=(1,), passed=False)
    assert miner(books).state is PoolState.TESTING
    report(books, by=(2,))
    record = miner(books)
    assert (record.state, record.tested_epoch, record.call) == (PoolState.AVAILABLE, 2, None)
    assert (record.tokens_per_second, record.first_token_ms) == (40, 30)


@pytest.mark.spec("POOL-REPORT.1")
def test_reports_of_another_test_or_of_nobody_count_for_nothing() -> None:
    books = enlisted()
    for test in (0, 2):
        books.block({at: Content(reports=(report_of(NEW, test, passed=False),)) for at in range(4)})
    books.block({at: Content(reports=(report_of(STRANGER, 1), report_of(MINER, 0))) for at in range(4)})
    assert miner(books).state is PoolState.TESTING
    assert miner(books, MINER).state is PoolState.AVAILABLE


@pytest.mark.spec("POOL-REPORT.1")
def test_the_middle_measurement_counts() -> None:
    books = enlisted()
    speeds = {0: 1, 1: 50}
    books.block(
        {at: Content(reports=(TestReport(NEW.node_id, 1, True, speed, speed),)) for at, speed in speeds.items()}
    )
    assert (miner(books).tokens_per_second, miner(books).first_token_ms) == (1, 50), "the worse of two"


@pytest.mark.spec("POOL-REPORT.1")
def test_a_test_that_measures_no_speed_leaves_what_was_measured() -> None:
    books = enlisted()
    report(books)
    books.turn(AGE + 1)
    books.block({at: Content(reports=(TestReport(NEW.node_id, 2, True, 0, 0),)) for at in range(2)})
    record = miner(books)
    assert (record.test, record.call, record.tested_epoch) == (2, None, books.epoch)
    assert (record.tokens_per_second, record.first_token_ms) == (40, 30)


@pytest.mark.spec("POOL-REPORT.1", "POOL-AGE.1")
def test_who_fails_is_jailed_and_may_enlist_again_two_epochs_on() -> None:
    books = enlisted()
    report(books, passed=False)
    assert miner(books).state is PoolState.JAILED
    for _ in range(2):
        books.bring(enlistments=[enlist_of(NEW, 2)])
        assert miner(books).state is PoolState.JAILED
        books.turn()
    assert miner(books).state is PoolState.PENDING
    books.bring(enlistments=[enlist_of(NEW, 2)])
    assert (miner(books).state, miner(books).test) == (PoolState.TESTING, 2)


@pytest.mark.spec("POOL-AGE.1")
def test_who_never_passed_a_test_is_forgotten() -> None:
    books = enlisted()
    books.turn()
    assert miner(books).state is PoolState.TESTING
    books.turn()
    assert books.state.miner(NEW.node_id) is None


@pytest.mark.spec("POOL-AGE.1")
def test_an_old_pass_calls_a_test_and_too_old_a_one_ends() -> None:
    books = Books()
    stood = {}
    for _ in range(2 * AGE + 3):
        record = miner(books, MINER)
        stood[books.epoch] = (record.state, record.test)
        books.turn()
    assert [epoch for epoch, (state, _) in stood.items() if state is PoolState.AVAILABLE] == list(range(1, 2 * AGE + 2))
    assert stood[1 + AGE][1] == 0
    assert stood[2 + AGE][1] == 1
    assert stood[4 + AGE][1] == 2, "one that is not decided is called again"


@pytest.mark.spec("POOL-AGE.1")
def test_a_miner_that_passes_again_stays() -> None:
    books = Books()
    for _ in range(5 * AGE):
        if miner(books, MINER).call is not None:
            report(books, key=MINER)
        assert MINER.node_id in available(books)
        books.turn()


@pytest.mark.spec("POOL-AGE.1")
def test_who_never_answers_again_is_forgotten_in_the_end() -> None:
    books = Books()
    books.turn(5 * AGE)
    assert books.state.miner(MINER.node_id) is None
    assert available(books) == set()


@pytest.mark.spec("POOL-ENLIST.1")
def test_the_pool_is_bounded() -> None:
    full = replace(
        GENESIS, params=replace(PARAMS, miners_max=16), miners=tuple(bytes([at]) * 20 for at in range(1, 16))
    )
    books = Books(full)
    books.bring(enlistments=[enlist_of(MINERS[2]), enlist_of(MINERS[3])])
    assert sum(1 for _ in books.state.miners()) == 16


# Statistics


def run_lane(books: Books, session: object, task: int, parts: tuple[Part, ...] = (Part(acked=100),)) -> None:
    """A lane comes to OK and is opened."""
    opening = opening_of(order_of(session, task, books.epoch), parts)  # type: ignore[arg-type]
    books.block({at: Content(observations=(ok(opening),), openings=(opening,)) for at in range(3)})


@pytest.mark.spec("POOL-STATISTICS.1")
def test_tokens_count_for_whoever_wrote_them_and_the_task_for_whoever_ended_it() -> None:
    books = Books()
    session = books.reserve(session_of())
    run_lane(books, session, 1, (Part(acked=40), Part(MINERS[1], 40, acked=100)))
    first, last = miner(books, MINER).statistics, miner(books, MINERS[1]).statistics
    assert (first.tokens, first.ok_milli) == (40, 0)
    assert (last.tokens, last.ok_milli) == (60, MILLI)
    opening = opening_of(order_of(session, 1), (Part(acked=40), Part(MINERS[1], 40, acked=100)))
    books.bring(openings=[opening])
    assert miner(books, MINERS[1]).statistics == last


@pytest.mark.spec("POOL-STATISTICS.1", "OUTCOME-BLAME.1")
def test_a_failure_counts_against_the_miner_that_f_plus_1_name() -> None:
    books = Books()
    order = order_of(session_of())
    books.observe(failure(order, Verdict.UNREVEALED, miner=MINER))
    assert miner(books, MINER).statistics.failed_milli == MILLI
    books.observe(failure(order_of(session_of(), 2), Verdict.UNREVEALED))
    assert miner(books, MINER).statistics.failed_milli == MILLI
    assert miner(books, MINER).statistics.reputation_bp() == 10_000 // 3


@pytest.mark.spec("POOL-DECAY.1", "POOL-REPUTATION.1")
def test_what_was_loses_weight_from_epoch_to_epoch() -> None:
    before = Statistics(3, 1_000, 10 * MILLI, 2 * MILLI)
    assert before.at(3, 9_500) == before == before.at(2, 9_500)
    assert before.at(4, 9_500) == Statistics(4, 950, 9_500, 1_900)
    assert before.at(5, 9_500) == before.at(4, 9_500).at(5, 9_500)
    assert before.at(10**9, 9_500) == Statistics(10**9)
    assert before.at(10**9, 10_000).tokens == 1_000
    assert Statistics(1).reputation_bp() == 5_000
    assert before.reputation_bp() == 10_000 * 11 // 14


@pytest.mark.spec("POOL-RETEST.1")
@pytest.mark.parametrize("audits", [False, True])
def test_by_hash_a_lane_calls_its_miner_to_a_test_while_it_stays(audits: bool) -> None:
    books = Books()
    session = books.reserve(session_of(audits=audits, cap_wei=500_000, tasks_max=1_000))
    called = 0
    for task in range(1, 201):
        drawn = keccak(books.state.roots.ledger_root + lane_key(name_of(session), task, 0))[0] < 16
        before = miner(books, MINER)
        run_lane(books, session, task)
        record = miner(books, MINER)
        assert record.state is PoolState.AVAILABLE
        assert (record.test == before.test + 1) == (drawn and before.call is None)
        if record.test > before.test:
            called += 1
            assert record.call is not None
            assert record.call.kind is (TestKind.LANE if audits else TestKind.CHALLENGE)
            assert record.call.session == (name_of(session) if audits else ZERO_DIGEST)
            assert (record.call.task, record.call.lane) == ((task, 0) if audits else (0, 0))
            report(books, key=MINER)
    assert 4 <= called <= 25
