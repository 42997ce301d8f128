"""An oracle's desk: commits, windows, openings, and the one value that a lane gets."""

from dataclasses import replace

import msgspec
import pytest

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import typed_digest
from protocol.messages.evidence import ConflictingCommits, ConflictingValues, FalseReveal
from protocol.messages.results import CommitMessage, Observation, RevealMessage, SignedReveal, SignedSession, Verdict
from protocol.results.evidence import convict
from protocol.results.findings import CommitsClosed
from protocol.results.observing import OPENINGS_MAX
from protocol.results.open_lanes import PEER_SHARE
from tests.unit.protocol.committee_at_hand import KEYS, keyed  # noqa: F401
from tests.unit.protocol.desk_at_hand import ME, SOURCE, AtDesk
from tests.unit.protocol.results_at_hand import (
    CLIENT,
    DOMAIN,
    MALLORY,
    MINERS,
    MODEL,
    OTHER_ROUTER,
    PARAMS,
    Job,
    signed_commit,
)

ONE, TWO, THREE = Job(), Job(lanes=2), Job(lanes=3)
WINDOW_MS, REVEAL_MS = PARAMS.commit_window_ms, PARAMS.reveal_window_ms


# One lane


@pytest.mark.spec("OBSERVE-OK.1", "REVEAL-ASKED.1")
def test_an_only_lane_is_observed_as_soon_as_its_commit_comes_with_its_opening() -> None:
    desk = AtDesk()
    desk.commit(ONE.commits())
    assert desk.signed == [ONE.ok()]
    assert desk.openings == [ONE.shown()]
    assert desk.asked == []
    desk.commit(ONE.commits())
    desk.wait(WINDOW_MS + REVEAL_MS)
    assert desk.signed == [ONE.ok()]


@pytest.mark.spec("REVEAL-ASKED.1", "OBSERVE-UNREVEALED.1")
def test_an_only_lane_whose_commit_has_no_opening_is_asked_for_it() -> None:
    desk = AtDesk()
    desk.commit(CommitMessage(ONE.commit(), ONE.papers))
    assert desk.asked == [((ONE.session, 1), (SOURCE,))]
    desk.reveal(ONE.reveals())
    assert desk.signed == [ONE.ok()]
    silent = AtDesk()
    silent.commit(CommitMessage(ONE.commit(), ONE.papers))
    silent.wait(REVEAL_MS - 1)
    assert silent.signed == []
    silent.wait(1)
    assert silent.signed == [ONE.failed(Verdict.UNREVEALED)]
    silent.reveal(ONE.reveals())
    assert silent.signed == [ONE.failed(Verdict.UNREVEALED)]


# Valid commits


@pytest.mark.spec("COMMIT-VALID.1")
def test_what_client_router_or_miner_did_not_sign_is_no_commit() -> None:
    papers, good = THREE.papers, THREE.commits()
    session = SignedSession(papers.session.opening, MALLORY.sign(THREE.session))  # type: ignore[arg-type]
    digest = typed_digest(DOMAIN, papers.assignment)
    other = replace(THREE, number=1).papers
    bad = [
        msgspec.structs.replace(papers, session=session),
        msgspec.structs.replace(papers, session=other.session),
        msgspec.structs.replace(papers, order=other.order, order_signature=other.order_signature),
        msgspec.structs.replace(papers, order_signature=papers.assignment_signature),
        msgspec.structs.replace(papers, assignment_signature=OTHER_ROUTER.sign(digest)),
        replace(THREE, router=MALLORY).papers,
        replace(THREE, task=11).papers,
        replace(THREE, miners=MINERS[:2]).papers,
        replace(THREE, miners=MINERS[1:4]).papers,
        replace(THREE, generation=2).papers,
    ]
    for each in bad:
        desk = AtDesk()
        with pytest.raises(RemoteProtocolError):
            desk.commit(msgspec.structs.replace(good, papers=each))
        assert len(desk.desk.open) == 0
        desk.wait(WINDOW_MS)
        assert desk.signed == []
    forged = signed_commit(MALLORY, good.signed.commit)
    with pytest.raises(RemoteProtocolError):
        AtDesk().commit(msgspec.structs.replace(good, signed=forged))


@pytest.mark.spec("COMMIT-VALID.1")
def test_papers_that_were_looked_at_vouch_for_no_others() -> None:
    desk = AtDesk()
    desk.commit(THREE.commits(0))
    order = msgspec.structs.replace(THREE.order, max_tokens=399)
    for papers in (
        msgspec.structs.replace(THREE.papers, order=order),
        msgspec.structs.replace(THREE.papers, assignment=replace(THREE, assignment=2).papers.assignment),
    ):
        with pytest.raises(RemoteProtocolError):
            desk.commit(CommitMessage(THREE.commit(1), papers))


@pytest.mark.spec("COMMIT-VALID.1")
def test_more_lanes_than_the_network_has_are_no_session() -> None:
    many = Job(lanes=PARAMS.lanes_max + 1, miners=MINERS + MINERS[:1])
    with pytest.raises(RemoteProtocolError, match="at most"):
        AtDesk().commit(many.commits())


def test_one_order_of_a_task_counts() -> None:
    desk = AtDesk()
    desk.commit(TWO.commits(0))
    order = msgspec.structs.replace(TWO.order, max_tokens=399)
    digest = typed_digest(DOMAIN, order)
    papers = msgspec.structs.replace(TWO.papers, order=order, order_signature=CLIENT.sign(digest))
    assert desk.commit(CommitMessage(TWO.commit(1), papers)) == []
    assert desk.asked == []


@pytest.mark.spec("OBSERVE-HOME.1")
def test_only_the_oracles_of_the_home_epoch_observe() -> None:
    for homes in ({2: (KEYS[ME].node_id,)}, {1: (KEYS[1].node_id,)}):
        desk = AtDesk()
        desk.book.homes = homes  # type: ignore[assignment]
        assert desk.commit(ONE.commits()) == []
        assert desk.signed == []


@pytest.mark.spec("OBSERVE-HOME.1")
def test_a_lane_of_an_epoch_that_was_closed_is_observed_for_two_more() -> None:
    desk = AtDesk()
    desk.book.homes = {1: desk.book.homes[1], 2: (), 3: ()}
    (found,) = desk.commit(ONE.commits())
    assert found.home_epoch == 1  # type: ignore[union-attr]
    desk.book.homes = {2: (), 3: (), 4: ()}
    desk.desk.turned(desk.book)
    assert len(desk.desk.open) == 0
    assert desk.commit(replace(ONE, task=2).commits()) == []


# Several lanes


@pytest.mark.spec("REVEAL-ASKED.1", "OBSERVE-OK.1")
def test_when_all_lanes_have_committed_their_miners_are_asked_to_open() -> None:
    desk = AtDesk()
    desk.commit(TWO.commits(0), 1)
    assert desk.asked == []
    (closed,) = desk.commit(TWO.commits(1), 2)
    assert isinstance(closed, CommitsClosed)
    assert closed.record is not None, "durable before anybody is asked"
    assert desk.asked == [((TWO.session, 1), (1, 2))]
    desk.reveal(TWO.reveals(0))
    desk.reveal(TWO.reveals(1))
    assert desk.signed == [TWO.ok(0), TWO.ok(1)]
    desk.commit(TWO.commits(0), 3)
    assert len(desk.asked) == 1, "it has its value: nothing is asked"


@pytest.mark.spec("REVEAL-ASKED.1")
def test_a_miner_that_commits_again_is_asked_again() -> None:
    desk = AtDesk()
    desk.commit(TWO.commits(0), 1)
    desk.commit(TWO.commits(1), 2)
    assert desk.commit(TWO.commits(0), 5) == [CommitsClosed((TWO.session, 1), None, (5,))]


@pytest.mark.spec("OBSERVE-LATE.1")
def test_after_the_window_who_has_not_committed_is_late() -> None:
    desk = AtDesk()
    desk.commit(THREE.commits(1))
    desk.wait(WINDOW_MS - 1)
    assert (desk.asked, desk.signed) == ([], [])
    desk.wait(1)
    assert desk.signed == [THREE.failed(Verdict.LATE, 0), THREE.failed(Verdict.LATE, 2)]
    assert desk.asked == [((THREE.session, 1), (SOURCE,))]
    desk.commit(THREE.commits(0))
    desk.reveal(THREE.reveals(0))
    desk.reveal(THREE.reveals(1))
    assert desk.signed[2:] == [THREE.ok(1)]


@pytest.mark.spec("OBSERVE-LATE.1")
def test_a_lane_that_has_nobody_is_not_waited_for() -> None:
    job = Job(lanes=3, miners=(MINERS[0], None, MINERS[2]))
    desk = AtDesk()
    desk.commit(job.commits(0))
    desk.commit(job.commits(2))
    assert len(desk.asked) == 1
    desk.wait(REVEAL_MS)
    assert [value.lane for value in desk.signed] == [0, 2]


@pytest.mark.spec("REVEAL-EARLY.1")
def test_an_opening_before_the_commits_are_closed_does_not_count() -> None:
    desk = AtDesk()
    desk.commit(TWO.commits(0))
    desk.reveal(TWO.reveals(0))
    desk.reveal(TWO.reveals(0))
    assert desk.signed == []
    desk.commit(TWO.commits(1))
    desk.wait(REVEAL_MS)
    assert desk.signed == [TWO.failed(Verdict.UNREVEALED, 0), TWO.failed(Verdict.UNREVEALED, 1)]


@pytest.mark.spec("REVEAL-EARLY.1")
def test_with_several_lanes_an_opening_that_comes_with_the_commit_does_not_count_either() -> None:
    desk = AtDesk()
    for lane in (0, 1):
        desk.commit(CommitMessage(TWO.commit(lane), TWO.papers, TWO.reveal(lane), TWO.shown(lane)))
    assert desk.signed == []
    desk.wait(REVEAL_MS)
    assert [value.verdict for value in desk.signed] == [Verdict.UNREVEALED] * 2


# Openings


@pytest.mark.spec("OBSERVE-MISMATCH.1", "EVIDENCE-REVEAL.1")
def test_a_signed_reveal_that_opens_nothing_is_a_mismatch_and_convicts() -> None:
    desk = AtDesk()
    desk.commit(TWO.commits(0))
    desk.commit(TWO.commits(1))
    desk.reveal(TWO.reveals(0, salt=b"\x08" * 32))
    desk.reveal(TWO.reveals(0))
    assert desk.signed == [TWO.failed(Verdict.MISMATCH)]
    (evidence,) = desk.evidence
    assert isinstance(evidence, FalseReveal)
    assert convict(DOMAIN, evidence) == MINERS[0].node_id


@pytest.mark.spec("OBSERVE-MISMATCH.1")
def test_nobody_but_the_miner_can_make_a_mismatch() -> None:
    desk = AtDesk()
    desk.commit(TWO.commits(0))
    desk.commit(TWO.commits(1))
    good, other = TWO.reveals(0), TWO.reveals(0, salt=b"\x08" * 32)
    forged = SignedReveal(other.signed.reveal, MALLORY.sign(typed_digest(DOMAIN, other.signed.reveal)))
    for message in (
        RevealMessage(forged, other.opening),
        RevealMessage(good.signed, TWO.shown(0, count=11)),
        RevealMessage(good.signed, TWO.shown(1)),
        RevealMessage(good.signed, msgspec.structs.replace(good.opening, model=ZERO_DIGEST)),
        RevealMessage(good.signed, msgspec.structs.replace(good.opening, signature=bytes(65))),
    ):
        with pytest.raises(RemoteProtocolError):
            desk.reveal(message)
    desk.reveal(good)
    assert desk.signed == [TWO.ok(0)]


@pytest.mark.spec("OBSERVE-OK.1")
def test_a_result_of_another_model_is_not_ok() -> None:
    class Cheap(Job):
        def shown(self, lane: int = 0, **more: object):  # type: ignore[no-untyped-def,override]
            return msgspec.structs.replace(super().shown(lane, **more), model=b"\x0b" * 32)  # type: ignore[arg-type]

    job, desk = Cheap(lanes=2), AtDesk()
    desk.commit(job.commits(0))
    desk.commit(job.commits(1))
    with pytest.raises(RemoteProtocolError, match="another order or model"):
        desk.reveal(job.reveals(0))
    assert job.opening.model == MODEL
    desk.wait(REVEAL_MS)
    assert {value.verdict for value in desk.signed} == {Verdict.UNREVEALED}


@pytest.mark.spec("COMMIT-BOUND.1", "OBSERVE-MISMATCH.1")
def test_who_copies_a_commit_never_opens_it() -> None:
    desk = AtDesk()
    honest = TWO.commit(0)
    copied = msgspec.structs.replace(honest.commit, lane=1, generation=TWO.generation_of(1), miner=MINERS[1].node_id)
    desk.commit(CommitMessage(honest, TWO.papers))
    desk.commit(CommitMessage(signed_commit(MINERS[1], copied), TWO.papers))
    desk.reveal(TWO.reveals(0))
    stolen = msgspec.structs.replace(
        TWO.reveal(0).reveal, lane=1, generation=TWO.generation_of(1), miner=MINERS[1].node_id
    )
    desk.reveal(RevealMessage(SignedReveal(stolen, MINERS[1].sign(typed_digest(DOMAIN, stolen))), TWO.shown(0)))
    assert desk.signed == [TWO.ok(0), TWO.failed(Verdict.MISMATCH, 1)]


@pytest.mark.spec("COMMIT-FIRST.1", "EVIDENCE-COMMITS.1")
def test_of_two_commits_of_one_miner_the_first_counts_and_both_convict() -> None:
    desk = AtDesk()
    desk.commit(TWO.commits(0))
    desk.commit(TWO.commits(0, count=11))
    (evidence,) = desk.evidence
    assert isinstance(evidence, ConflictingCommits)
    assert convict(DOMAIN, evidence) == MINERS[0].node_id
    desk.commit(TWO.commits(1))
    desk.reveal(TWO.reveals(0))
    assert desk.signed == [TWO.ok(0)]
    desk.commit(TWO.commits(0, count=12))
    assert len(desk.evidence) == 2, "afterwards as well"


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
    desk.take(desk.desk.decided([(TWO.session, 1, 0)]))
    assert len(desk.disk) == 1
    desk.take(desk.desk.decided([(TWO.session, 1, 1)]))
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
