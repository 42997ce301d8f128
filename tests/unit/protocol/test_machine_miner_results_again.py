"""Results of the miner's lanes that are said again: how often, how long, after restarts, and how many."""

import msgspec
import pytest

from protocol.core.codec import pack
from protocol.core.machine import Note
from protocol.messages.results import (
    OutcomeNews,
    RevealMessage,
    Verdict,
)
from protocol.results.commitment import (
    commitment,
)
from protocol.roles.miner.outstanding import (
    AGAIN_MS_MAX,
    BURST_MAX,
    KEPT_MS,
    RESULTS_MAX,
    TOP_UP_MS,
)
from protocol.roles.miner.result import StoredResult, record_of
from tests.unit.protocol.light_at_hand import outcome_news
from tests.unit.protocol.machines import DOMAIN, MALLORY, NOW_MS, ORACLES, PARAMS, of, opening_of
from tests.unit.protocol.miner_results_at_hand import SALT_KEY, Bound, Streamed, stored_of
from tests.unit.protocol.test_machine_miner_results import outcome_of

RESEND_MS = PARAMS.result_resend_ms


# Again, until it is final


@pytest.mark.spec("RESULT-RESEND.1")
def test_it_is_said_again_less_and_less_often_until_the_outcome_is_final() -> None:
    mine = Bound()
    Streamed(mine).done()
    (first,) = mine.commits()
    gaps, waited = list[int](), 0
    while len(gaps) < 6:
        mine.wait(100)
        waited += 100
        if mine.commits():
            gaps.append(waited)
            waited = 0
    assert gaps == [RESEND_MS, 2 * RESEND_MS, 4 * RESEND_MS, 8 * RESEND_MS, AGAIN_MS_MAX, AGAIN_MS_MAX]
    effects = mine.say(0, outcome_news(outcome_of(first)))
    assert [note.what for note in of(effects, Note)] == ["miner.result-final"]
    assert (mine.disk, mine.machine.results) == ({}, 0)
    mine.wait(4 * AGAIN_MS_MAX)
    assert not mine.commits()


@pytest.mark.spec("RESULT-RESEND.1")
@pytest.mark.parametrize("verdict", [Verdict.LATE, Verdict.UNREVEALED, Verdict.MISMATCH, Verdict.UNDECIDED])
def test_any_final_outcome_ends_it(verdict: Verdict) -> None:
    mine = Bound()
    Streamed(mine).done()
    (first,) = mine.commits()
    mine.say(2, outcome_news(outcome_of(first, verdict)))
    assert (mine.disk, mine.machine.results) == ({}, 0)


def unproved(news: OutcomeNews) -> OutcomeNews:
    return msgspec.structs.replace(news, outcome=msgspec.structs.replace(news.outcome, paid_wei=1))


@pytest.mark.spec("RESULT-RESEND.1", "LIGHT-OUTCOME.1")
def test_an_outcome_without_its_proof_ends_nothing_but_the_oracles_link() -> None:
    outcome = None
    for case in range(4):
        mine = Bound()
        Streamed(mine).done()
        (first,) = mine.commits()
        outcome = outcome_of(first)
        news = [
            unproved(outcome_news(outcome)),
            outcome_news(outcome, places=(0, 1, 2), signers=[ORACLES[0], ORACLES[1], MALLORY]),
            msgspec.structs.replace(outcome_news(outcome), certified=outcome_news(outcome, before=6).certified),
            msgspec.structs.replace(outcome_news(outcome), proof=outcome_news(outcome, before=6).proof),
        ][case]
        effects = mine.say(0, news)
        assert [note.what for note in of(effects, Note)] == ["miner.oracle-broke-rule"]
        assert ORACLES[0].node not in mine.links
        assert mine.machine.results == 1
        mine.say(1, outcome_news(outcome_of(first, task=2)))
        assert mine.machine.results == 1, "another lane's outcome"


def test_an_oracle_that_says_what_is_not_for_a_miner_loses_its_link() -> None:
    mine = Bound()
    Streamed(mine).done()
    (message,) = mine.commits()
    mine.say(0, message)
    assert ORACLES[0].node not in mine.links
    assert ORACLES[1].node in mine.links


@pytest.mark.spec("OPENING-ACK.1", "RESULT-RESEND.1")
def test_what_is_acknowledged_after_the_outcome_is_still_said_for_a_while() -> None:
    mine = Bound()
    run = Streamed(mine)
    run.end()
    mine.wait(PARAMS.ack_wait_ms)
    (first,) = mine.commits()
    mine.say(0, outcome_news(outcome_of(first)))
    assert not mine.disk
    mine.wait(TOP_UP_MS // 2)
    assert not mine.heard()
    run.ack()
    (more,) = mine.heard()
    assert isinstance(more, RevealMessage)
    mine.wait(TOP_UP_MS)
    assert {type(message) for message in mine.heard()} == {RevealMessage}
    assert mine.machine.results == 0
    late = Bound()
    run = Streamed(late)
    run.end()
    late.wait(PARAMS.ack_wait_ms)
    (first,) = late.commits()
    late.say(0, outcome_news(outcome_of(first)))
    late.wait(TOP_UP_MS)
    run.ack()
    assert (late.heard(), late.machine.results) == ([], 0)


@pytest.mark.spec("RESULT-RESEND.1")
def test_a_link_that_stands_again_is_told_at_once() -> None:
    mine = Bound()
    mine.tell_deadline()
    mine.cut(0)
    Streamed(mine).done()
    assert not mine.commits(0)
    assert mine.commits(1)
    mine.again(0)
    assert len(mine.commits(0)) == 1


@pytest.mark.spec("RESULT-RESEND.1")
def test_results_are_taken_up_after_a_restart_and_salt_and_commit_stay() -> None:
    mine = Bound()
    Streamed(mine).done()
    (first,) = mine.commits()
    reborn = mine.restart()
    (again,) = reborn.commits()
    assert again == first
    reborn.wait(3 * RESEND_MS)
    assert {message.signed for message in reborn.commits()} == {first.signed}
    reborn.say(0, outcome_news(outcome_of(first)))
    assert (reborn.disk, reborn.machine.results) == ({}, 0)


def test_a_salt_is_nobodys_to_guess_and_of_one_lane_alone() -> None:
    mine = Bound()
    salts = set()
    for number in range(3):
        Streamed(mine, opening_of(number=number)).done()
    for message in mine.commits():
        assert message.reveal is not None
        reveal = message.reveal.reveal
        place = (reveal.session, reveal.task, reveal.lane, reveal.generation, reveal.miner)
        assert message.signed.commit.commitment == commitment(DOMAIN, *place, reveal.root, reveal.salt)
        salts.add(reveal.salt)
    assert len(salts) == 3
    assert SALT_KEY not in salts


# Bounds


def test_a_result_that_nobody_decides_is_given_up_after_hours() -> None:
    mine = Bound()
    Streamed(mine).done()
    mine.wait(KEPT_MS)
    assert mine.machine.results == 1
    effects = mine.wait(AGAIN_MS_MAX)
    assert "miner.result-given-up" in [note.what for note in of(effects, Note)]
    assert (mine.disk, mine.machine.results) == ({}, 0)


def test_a_result_whose_home_epoch_is_long_past_is_given_up() -> None:
    mine = Bound()
    Streamed(mine, opening_of(number=1), home_epoch=1).done()
    Streamed(mine, opening_of(number=2), home_epoch=2).done()
    first, second = mine.commits()
    mine.say(0, outcome_news(outcome_of(second, home_epoch=2), epoch=4))
    assert mine.machine.results == 0, "a header of epoch 4 came with the other's outcome"
    assert mine.disk == {}
    assert first.papers.order.home_epoch == 1


@pytest.mark.spec("COMMIT-DURABLE.1")
def test_an_order_of_no_epoch_is_not_committed_to() -> None:
    mine = Bound()
    Streamed(mine, home_epoch=0).done()
    assert (mine.commits(), mine.disk, mine.machine.results) == ([], {}, 0)


def full_disk(one: StoredResult) -> dict[bytes, bytes]:
    """As many results as are kept, made one after another."""
    disk = {}
    for number in range(RESULTS_MAX):
        commit = msgspec.structs.replace(one.commit.commit, task=number + 2)
        signed = msgspec.structs.replace(one.commit, commit=commit)
        disk[record_of(commit)] = pack(msgspec.structs.replace(one, made_ms=NOW_MS + number, commit=signed))
    return disk


def test_results_are_bounded_and_the_oldest_is_given_up() -> None:
    mine = Bound()
    Streamed(mine).done()
    (one,) = stored_of(mine.disk).values()
    full = Bound(disk=full_disk(one), boot=b"\x46" * 16)
    assert full.machine.results == RESULTS_MAX
    full.tell_deadline()
    effects = Streamed(full, opening_of(number=7)).end()
    assert "miner.result-given-up" in [note.what for note in of(effects, Note)]
    assert (full.machine.results, len(full.disk)) == (RESULTS_MAX, RESULTS_MAX)
    assert min(value.made_ms for value in stored_of(full.disk).values()) == NOW_MS, "its clock is that of its end"
    assert NOW_MS + 1 in {value.made_ms for value in stored_of(full.disk).values()}


def test_what_is_sent_again_does_not_leave_all_at_once() -> None:
    mine = Bound()
    Streamed(mine).done()
    (one,) = stored_of(mine.disk).values()
    full = Bound(disk=full_disk(one), boot=b"\x46" * 16)
    full.tell_deadline()
    assert len(full.commits()) == BURST_MAX, "a link that stands is told of the latest"
    seen: set[int] = set()
    while len(seen) < RESULTS_MAX:
        said = full.tell_next()
        assert len(said) <= BURST_MAX
        seen |= {message.signed.commit.task for message in said}
