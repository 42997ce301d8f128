"""An oracle's desk: commits, windows, openings, and the one value that a lane gets."""

from dataclasses import replace

import msgspec
import pytest

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import typed_digest
from protocol.messages.evidence import ConflictingCommits, FalseReveal
from protocol.messages.results import CommitMessage, RevealMessage, SignedReveal, SignedSession, Verdict
from protocol.results.evidence import convict
from protocol.results.findings import CommitsClosed
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
