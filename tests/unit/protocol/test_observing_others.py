"""An oracle's desk: later assignments, commits by gossip, what other oracles say, restarts, and bounds."""

from dataclasses import replace

import msgspec
import pytest

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST
from protocol.messages.evidence import ConflictingValues
from protocol.messages.results import CommitMessage, Observation, RevealMessage, Verdict
from protocol.results.evidence import convict
from protocol.results.observing import OPENINGS_MAX
from protocol.results.open_lanes import PEER_SHARE
from tests.unit.protocol.committee_at_hand import KEYS, keyed  # noqa: F401
from tests.unit.protocol.desk_at_hand import ME, SOURCE, AtDesk
from tests.unit.protocol.results_at_hand import (
    DOMAIN,
    MALLORY,
    MINERS,
    OTHER_ROUTER,
    PARAMS,
    Job,
    signed_commit,
)

ONE, TWO, THREE = Job(), Job(lanes=2), Job(lanes=3)
WINDOW_MS, REVEAL_MS = PARAMS.commit_window_ms, PARAMS.reveal_window_ms


# Assignments


@pytest.mark.spec("COMMIT-FIRST.1")
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_miners_that_of_the_higher_assignment_counts(order: tuple[int, int]) -> None:
    first = TWO
    later = replace(TWO, miners=(MINERS[5], MINERS[1]), assignment=2, router=OTHER_ROUTER)
    desk = AtDesk()
    for at in order:
        desk.commit((first, later)[at].commits(0))
    desk.commit(later.commits(1))
    assert len(desk.asked) == 1
    assert desk.reveal(first.reveals(0)) == [], "not the one that counts"
    desk.reveal(later.reveals(0))
    assert desk.signed == [later.ok(0)]


@pytest.mark.spec("REVEAL-ASKED.1")
def test_whoever_took_over_a_lane_is_waited_for() -> None:
    later = replace(TWO, miners=(MINERS[5], MINERS[1]), assignment=2)
    desk = AtDesk()
    desk.commit(TWO.commits(0))
    desk.commit(later.commits(1))
    assert desk.asked == [], "lane 0 has another miner by now"
    desk.wait(WINDOW_MS)
    desk.reveal(TWO.reveals(0))
    assert desk.signed == [TWO.ok(0)], "it did not commit: the earlier one's is the highest that came"


@pytest.mark.spec("OBSERVE-LATE.1")
def test_a_lane_whose_miner_went_to_another_is_not_late() -> None:
    later = replace(TWO, miners=(MINERS[1], None), assignment=2, generation=2)
    desk = AtDesk()
    desk.commit(CommitMessage(TWO.commit(0), TWO.papers))
    desk.commit(later.commits(0))
    desk.reveal(later.reveals(0))
    desk.wait(WINDOW_MS + REVEAL_MS)
    assert desk.signed == [later.ok(0)]


@pytest.mark.spec("OBSERVE-ONCE.1")
def test_whoever_has_the_lane_again_opens_what_does_not_count_and_breaks_no_rule() -> None:
    again = replace(ONE, assignment=2, generation=2)
    desk = AtDesk()
    desk.commit(ONE.commits(acked=4))
    desk.commit(again.commits(acked=4))
    assert desk.reveal(again.reveals(acked=10)) == []
    assert desk.signed == [ONE.ok()]


# Committees that change


@pytest.mark.spec("OBSERVE-TOLD.1", "OBSERVE-HOME.1")
def test_who_speaks_of_a_lane_in_another_epoch_than_its_own_counts_in_none() -> None:
    desk = AtDesk()
    others = tuple(KEYS[place].node_id for place in range(1, 4))
    desk.book.homes = {1: (*others, KEYS[5].node_id), 2: (KEYS[ME].node_id, *others)}
    desk.hear(1, ONE.ok(0))
    desk.hear(2, ONE.ok(0), home_epoch=2)
    desk.wait(2 * WINDOW_MS)
    assert desk.signed == [], "one of epoch 1 is right, and one of f faulty ones says the same in epoch 2"
    desk.hear(3, ONE.ok(0), home_epoch=2)
    desk.wait(2 * WINDOW_MS)
    assert [value.verdict for value in desk.signed] == [Verdict.LATE], "f+1 of epoch 2 do"


# Without papers


@pytest.mark.spec("COMMIT-BARE.1")
def test_a_commit_by_gossip_counts_once_there_are_papers() -> None:
    desk = AtDesk()
    desk.gossip(TWO.bare(1))
    assert len(desk.desk.open) == 0
    desk.commit(TWO.commits(0))
    assert len(desk.asked) == 1
    assert len(desk.desk.bare) == 0
    later = AtDesk()
    later.commit(TWO.commits(0))
    later.gossip(TWO.bare(1))
    assert len(later.asked) == 1, "the papers were there before"


@pytest.mark.spec("COMMIT-BARE.1")
def test_without_papers_it_is_forgotten_and_starts_nothing() -> None:
    desk = AtDesk()
    desk.gossip(TWO.bare(1))
    desk.wait(WINDOW_MS)
    assert len(desk.desk.bare) == 0
    desk.commit(TWO.commits(0))
    assert desk.asked == []


@pytest.mark.spec("COMMIT-BARE.1", "COMMIT-FIRST.1")
def test_a_commit_by_gossip_that_its_miner_did_not_sign_counts_for_nothing() -> None:
    desk = AtDesk()
    bare = TWO.bare(1)
    forged = signed_commit(MALLORY, bare.commits[0].commit)
    desk.gossip(msgspec.structs.replace(bare, commits=(forged,)))
    desk.gossip(msgspec.structs.replace(bare, miner=MALLORY.node_id))
    desk.commit(TWO.commits(0))
    assert desk.asked == []
    desk.commit(TWO.commits(1))
    assert len(desk.asked) == 1


@pytest.mark.spec("EVIDENCE-COMMITS.1")
def test_two_commits_by_gossip_convict_as_well() -> None:
    desk = AtDesk()
    desk.gossip(TWO.bare(1))
    other = TWO.commit(1, count=11)
    desk.gossip(msgspec.structs.replace(TWO.bare(1), commits=(other,)))
    assert [convict(DOMAIN, each) for each in desk.evidence] == [MINERS[1].node_id]


# Other oracles


@pytest.mark.spec("OBSERVE-TOLD.1")
def test_a_lane_that_f_plus_one_oracles_observed_is_observed_without_its_miner() -> None:
    desk = AtDesk()
    desk.hear(1, ONE.ok())
    desk.wait(2 * WINDOW_MS)
    assert desk.signed == [], "one may be faulty, and name what was never ordered"
    desk.hear(2, ONE.failed(Verdict.LATE))
    desk.wait(WINDOW_MS)
    assert desk.signed == [Observation(ONE.session, 1, 0, Verdict.LATE, ZERO_DIGEST, 0)]


@pytest.mark.spec("OBSERVE-TOLD.1")
def test_the_miner_may_still_commit_in_the_window_that_they_opened() -> None:
    desk = AtDesk()
    desk.hear(1, ONE.ok())
    desk.hear(2, ONE.ok())
    desk.wait(WINDOW_MS - 1)
    desk.commit(ONE.commits())
    desk.wait(WINDOW_MS)
    assert desk.signed == [ONE.ok()]


@pytest.mark.spec("OBSERVE-TOLD.1")
def test_who_is_no_oracle_of_the_home_epoch_does_not_count_and_what_the_ledger_holds_does() -> None:
    desk = AtDesk()
    desk.hear(9, ONE.ok())
    desk.hear(10, ONE.ok())
    desk.wait(WINDOW_MS)
    assert desk.signed == []
    desk.book.values[ONE.session, 1, 0] = {KEYS[3].node_id}
    desk.hear(1, ONE.ok())
    desk.wait(WINDOW_MS)
    assert len(desk.signed) == 1


@pytest.mark.spec("OBSERVE-TOLD.1")
def test_a_lane_they_saw_of_a_task_that_is_closed_here_is_late() -> None:
    later = replace(THREE, assignment=2)
    earlier = replace(THREE, miners=(MINERS[0], None, None))
    desk = AtDesk()
    desk.commit(earlier.commits(0))
    assert len(desk.asked) == 1
    desk.hear(1, later.ok(1))
    desk.hear(2, later.ok(1))
    assert [value.lane for value in desk.signed] == [1]
    assert desk.signed[0].verdict is Verdict.LATE


@pytest.mark.spec("EVIDENCE-VALUES.1")
def test_two_values_of_one_oracle_for_one_lane_convict_it() -> None:
    desk = AtDesk()
    desk.hear(1, ONE.ok())
    desk.hear(1, ONE.ok(), number=2)
    assert desk.evidence == [], "saying it twice is no lie"
    desk.hear(1, ONE.failed(Verdict.LATE), number=3)
    (evidence,) = desk.evidence
    assert isinstance(evidence, ConflictingValues)
    assert convict(DOMAIN, evidence) == KEYS[1].node_id
    at_once = AtDesk()
    at_once.hear(1, ONE.ok(), ONE.failed(Verdict.LATE))
    assert convict(DOMAIN, at_once.evidence[0]) == KEYS[1].node_id


@pytest.mark.spec("COMMIT-PASSED-ON.1")
def test_what_an_oracle_has_is_for_those_that_have_not_spoken() -> None:
    desk = AtDesk()
    desk.commit(TWO.commits(0))
    desk.commit(TWO.commits(1))
    desk.reveal(TWO.reveals(0))
    lane = (TWO.session, 1, 0)
    desk.hear(1, TWO.ok(0))
    desk.book.values[lane] = {KEYS[2].node_id}
    assert list(desk.desk.unheard(desk.book, desk.now_ms - 1)) == []
    ((held, members),) = desk.desk.unheard(desk.book, desk.now_ms)
    assert (held.committed, held.revealed) == (TWO.commits(0), TWO.reveals(0))
    assert members == {KEYS[3].node_id}


# Never revised


@pytest.mark.spec("OBSERVE-ONCE.1", "REVEAL-ASKED.1")
def test_a_restart_does_not_open_the_commits_again() -> None:
    desk = AtDesk()
    desk.commit(THREE.commits(0))
    desk.commit(THREE.commits(1))
    desk.wait(WINDOW_MS)
    assert desk.signed == [THREE.failed(Verdict.LATE, 2)]
    desk.restart()
    desk.commit(THREE.commits(2))
    desk.commit(THREE.commits(0, count=11))
    assert len(desk.evidence) == 1
    desk.reveal(THREE.reveals(0))
    desk.wait(REVEAL_MS)
    assert desk.signed[1:] == [THREE.ok(0), THREE.failed(Verdict.UNREVEALED, 1)]


@pytest.mark.spec("REVEAL-ASKED.1")
def test_what_was_asked_for_before_a_restart_counts_after_it() -> None:
    desk = AtDesk()
    desk.commit(TWO.commits(0))
    desk.commit(TWO.commits(1))
    desk.restart()
    later = replace(TWO, miners=(MINERS[5], MINERS[1]), assignment=2)
    assert desk.commit(later.commits(0)) == [], "it came too late"
    desk.commit(TWO.commits(0), 9)
    assert desk.asked[1:] == [((TWO.session, 1), (9,))]
    desk.reveal(TWO.reveals(0))
    desk.wait(REVEAL_MS)
    assert desk.signed == [TWO.ok(0), TWO.failed(Verdict.UNREVEALED, 1)]


@pytest.mark.spec("OBSERVE-ONCE.1")
def test_who_was_late_before_a_restart_is_late_after_it_signed_or_not() -> None:
    desk = AtDesk(signs=False)
    desk.commit(THREE.commits(0))
    desk.wait(WINDOW_MS)
    desk.signs = True
    desk.restart()
    assert desk.signed == [THREE.failed(Verdict.LATE, 1), THREE.failed(Verdict.LATE, 2)]


@pytest.mark.spec("OBSERVE-ONCE.1")
def test_what_was_signed_before_stands() -> None:
    desk = AtDesk()
    desk.signed.append(ONE.failed(Verdict.LATE))
    desk.restart()
    desk.commit(ONE.commits())
    assert desk.signed == [ONE.failed(Verdict.LATE)]
    ledger = AtDesk()
    ledger.book.values[ONE.session, 1, 0] = {KEYS[ME].node_id}
    assert ledger.commit(ONE.commits()) == []
    verdict = AtDesk()
    verdict.book.verdicts.add((ONE.session, 1, 0))
    assert verdict.commit(ONE.commits()) == []


@pytest.mark.spec("OBSERVE-ONCE.1")
def test_a_value_that_comes_back_from_another_takes_the_place_of_one_that_is_not_signed() -> None:
    desk = AtDesk(signs=False)
    desk.commit(ONE.commits())
    lane = (ONE.session, 1, 0)
    assert desk.desk.unsigned(lane, desk.book) == ONE.ok()
    desk.hear(ME, ONE.failed(Verdict.LATE))
    assert desk.desk.unsigned(lane, desk.book) is None


@pytest.mark.spec("OBSERVE-ONCE.1")
def test_no_value_is_signed_that_the_ledger_has_meanwhile() -> None:
    desk = AtDesk(signs=False)
    desk.commit(ONE.commits())
    desk.book.values[ONE.session, 1, 0] = {KEYS[ME].node_id}
    assert desk.desk.unsigned((ONE.session, 1, 0), desk.book) is None


def test_what_is_decided_is_forgotten_with_its_record() -> None:
    desk = AtDesk()
    desk.commit(TWO.commits(0))
    desk.commit(TWO.commits(1))
    desk.hear(1, TWO.ok(0))
    assert len(desk.disk) == 1
    desk.take(desk.desk.decided([(TWO.session, 1, 0)], desk.now_ms))
    assert len(desk.disk) == 1
    desk.take(desk.desk.decided([(TWO.session, 1, 1)], desk.now_ms))
    assert desk.disk == {}
    assert (len(desk.desk.open), len(desk.desk.hearsay), desk.desk.next_deadline()) == (0, 0, None)


def test_records_of_an_epoch_that_is_long_over_are_dropped_at_the_start() -> None:
    desk = AtDesk()
    desk.commit(TWO.commits(0))
    desk.commit(TWO.commits(1))
    desk.book.homes = {4: desk.book.homes[1]}
    desk.signed.clear()
    desk.restart()
    assert desk.disk == {}
    assert len(desk.desk.open) == 0


# What is public


@pytest.mark.spec("REVEAL-ASKED.1", "OBSERVE-LATE.1")
def test_once_a_lane_is_decided_no_other_lane_of_its_task_commits() -> None:
    desk = AtDesk()
    earlier = replace(TWO, miners=(MINERS[0], None))
    later = replace(TWO, assignment=2)
    desk.commit(earlier.commits(0))
    desk.reveal(earlier.reveals(0))
    lane = (TWO.session, 1, 0)
    desk.book.verdicts.add(lane)
    desk.take(desk.desk.decided([lane], desk.now_ms))
    assert len(desk.desk.open) == 0
    desk.commit(later.commits(1))
    desk.reveal(later.reveals(1))
    assert desk.signed == [TWO.ok(0), TWO.failed(Verdict.LATE, 1)]


@pytest.mark.spec("REVEAL-ASKED.1", "OBSERVE-LATE.1")
def test_when_others_have_decided_a_lane_the_commits_are_closed_here_too() -> None:
    job, desk = Job(lanes=3), AtDesk()
    desk.commit(job.commits(1))
    lane = (job.session, 1, 0)
    desk.book.verdicts.add(lane)
    desk.take(desk.desk.decided([lane], desk.now_ms))
    assert desk.asked == [((job.session, 1), (SOURCE,))]
    assert desk.signed == [job.failed(Verdict.LATE, 2)]
    desk.commit(job.commits(2))
    desk.reveal(job.reveals(1))
    assert desk.signed[1:] == [job.ok(1)]


@pytest.mark.spec("OBSERVE-LATE.1")
def test_whoever_commits_to_a_lane_of_which_nobody_here_had_heard_when_the_commits_were_closed_is_late() -> None:
    desk = AtDesk()
    desk.commit(replace(TWO, miners=(MINERS[0], None)).commits(0))
    with pytest.raises(RemoteProtocolError):
        desk.commit(CommitMessage(TWO.commit(1), replace(TWO, router=MALLORY).papers))
    desk.commit(replace(TWO, assignment=2).commits(1))
    assert desk.signed == [TWO.failed(Verdict.LATE, 1)]
    stale = AtDesk()
    stale.commit(replace(TWO, miners=(MINERS[0], None), assignment=2).commits(0))
    assert stale.commit(TWO.commits(1)) == [], "its lane was taken away"


# More acks


@pytest.mark.spec("OPENING-LATER.1")
def test_an_opening_with_more_acks_is_passed_to_the_ledger() -> None:
    desk = AtDesk()
    desk.commit(ONE.commits(acked=4))
    desk.reveal(RevealMessage(ONE.reveal(), ONE.shown(acked=4)))
    desk.reveal(RevealMessage(ONE.reveal(), ONE.shown(acked=3)))
    desk.reveal(RevealMessage(ONE.reveal(), ONE.shown(acked=10)))
    assert desk.openings == [ONE.shown(acked=4), ONE.shown(acked=10)]
    assert desk.signed == [ONE.ok()]


@pytest.mark.spec("OPENING-LATER.1")
def test_one_with_another_result_is_not_and_so_many_are_enough() -> None:
    desk = AtDesk()
    desk.commit(ONE.commits(count=50, acked=1))
    with pytest.raises(RemoteProtocolError):
        desk.reveal(RevealMessage(ONE.reveal(), ONE.shown(count=51)))
    for acked in range(2, 50):
        desk.reveal(RevealMessage(ONE.reveal(), ONE.shown(count=50, acked=acked)))
    assert len(desk.openings) == OPENINGS_MAX


# Bounds


@pytest.mark.spec("OBSERVE-BOUNDS.1")
def test_a_peer_opens_no_more_than_its_share_of_lanes() -> None:
    desk = AtDesk()
    for number in range(PARAMS.lanes_observed_max):
        desk.commit(Job(lanes=2, number=number).commits())
    assert len(desk.desk.open) == PARAMS.lanes_observed_max // PEER_SHARE


@pytest.mark.spec("OBSERVE-BOUNDS.1")
def test_sessions_without_a_reservation_take_half_of_the_room_at_most() -> None:
    desk = AtDesk()
    for number in range(PARAMS.lanes_observed_max):
        job = Job(lanes=2, number=number)
        desk.book.unreserved.add(job.session)
        desk.desk.committed(job.commits(), KEYS[number % 31].node_id, None, desk.book, 0)
    assert len(desk.desk.open) == PARAMS.lanes_observed_max // 2
    job = Job(lanes=2, number=1_000)
    desk.commit(job.commits())
    assert len(desk.desk.open) == PARAMS.lanes_observed_max // 2 + 2


@pytest.mark.spec("OBSERVE-BOUNDS.1", "COMMIT-BARE.1")
def test_everything_else_is_bounded_too() -> None:
    desk = AtDesk()
    for number in range(3 * PARAMS.lanes_observed_max):
        job = Job(lanes=2, number=number)
        desk.gossip(job.bare(0))
        desk.hear(1, job.ok(), number=number + 1)
        desk.hear(2, job.ok(), number=number + 1)
        desk.desk.committed(job.commits(1), KEYS[number % 31].node_id, number, desk.book, 0)
    assert len(desk.desk.open) <= PARAMS.lanes_observed_max + 1
    assert len(desk.desk.bare) <= PARAMS.lanes_observed_max
    assert len(desk.desk.hearsay) <= 2 * PARAMS.lanes_observed_max
    for job in (Job(lanes=2, number=number) for number in range(4)):
        for source in range(20):
            desk.commit(job.commits(0), source)
    assert all(len(lane.sources) <= 4 for _, _, lane in desk.desk.open.all())
