"""Four production oracles over the real ledger: from a commit to its final outcome, and what goes wrong on the way."""

from dataclasses import replace

import pytest

from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.ledger import Section
from protocol.ledger.proofs import verify_ledger_proof
from protocol.light.handovers import HandOverBook
from protocol.light.headers import HeaderTrust
from protocol.light.news import check_outcome, check_session
from protocol.light.pool import PoolFollower
from protocol.messages.committee import CertificateKind
from protocol.messages.handover import HandOvers, HandOversAsked
from protocol.messages.results import (
    Follow,
    LedgerNews,
    ObservedNews,
    OutcomeNews,
    RevealMessage,
    SessionNews,
    Submit,
    TestReport,
    Verdict,
    Watch,
)
from protocol.results.closed_tasks import CLOSED
from protocol.roles.oracle import Report
from tests.unit.protocol.committee_at_hand import HASHES, keyed  # noqa: F401
from tests.unit.protocol.oracles_in_a_room import Room
from tests.unit.protocol.results_at_hand import CLIENT, MALLORY, MINERS, PARAMS, ROUTER, Job, genesis_of
from tests.unit.protocol.results_scene import Scene, apart

ONE, TWO = Job(), Job(lanes=2)


# To the outcome


@pytest.mark.spec("OBSERVE-OK.1", "RESULTS-STREAMS.1", "BATCH-CONTENT.1")
def test_a_commit_becomes_certified_and_final_and_its_miner_is_paid() -> None:
    scene = Scene()
    miner = scene.miner().say(ONE.commits())
    assert scene.room.run(100, lambda: len({at for at, m in scene.client.heard if isinstance(m, ObservedNews)}) == 4)
    oracles = {NodeId(news.signed.batch.oracle) for news in scene.client.of(ObservedNews)}
    assert len(oracles) == 4
    assert scene.decided() == [Verdict.OK]
    scene.room.run(50)
    trust = HeaderTrust(scene.room.genesis)
    for puppet in (scene.client, miner):
        news = puppet.of(OutcomeNews)
        assert len(news) == 4, "once by each oracle"
        for told in news:
            check_outcome(trust, told)
            assert (told.outcome.root, told.outcome.count) == (ONE.ok().root, 10)
            assert told.outcome.paid_wei == 70
    view = scene.room.hosts[0].state.lane(ONE.session, 1, 0)
    assert view is not None
    assert view.paid_wei == 70
    scene.one_value_each()


@pytest.mark.spec("REVEAL-ASKED.1", "OBSERVE-OK.1")
def test_several_lanes_commit_are_asked_and_open() -> None:
    scene = Scene(TWO)
    for lane in (0, 1):
        scene.miner(lane).say(TWO.commits(lane))
    assert scene.decided() == [Verdict.OK, Verdict.OK]
    assert [host.load(CLOSED) for host in scene.room.hosts] == [{}] * 4, "the records are of no use any more"
    scene.one_value_each()


@pytest.mark.spec("OBSERVE-LATE.1", "OBSERVE-UNREVEALED.1")
def test_who_is_late_and_who_does_not_open_is_named() -> None:
    job = Job(lanes=3)
    scene = Scene(job)
    scene.miner(0).say(job.commits(0))
    scene.room.puppet(job.miner(1)).say(job.commits(1))
    assert scene.decided() == [Verdict.OK, Verdict.UNREVEALED, Verdict.LATE]
    for lane in (1, 2):
        miner = scene.room.hosts[0].state.lane(job.session, 1, lane)
        assert miner is not None
        assert {value.root[12:] for value in miner.values.values()} == {job.miner(lane).node_id}


@pytest.mark.spec("COMMIT-PASSED-ON.1", "OBSERVE-TOLD.1")
def test_a_miner_that_reaches_one_oracle_only_has_its_outcome() -> None:
    scene = Scene()
    scene.miner().say(ONE.commits(), 2)
    assert scene.decided() == [Verdict.OK]


@pytest.mark.spec("COMMIT-BARE.1")
def test_a_commit_by_gossip_with_papers_by_another_lane() -> None:
    scene = Scene(TWO)
    scene.miner(1)
    scene.room.gossip(TWO.miner(1), "results", TWO.bare(1))
    scene.room.run(100)
    scene.miner(0).say(TWO.commits(0))
    scene.room.run(100)
    scene.room.puppet(TWO.miner(1)).say(TWO.commits(1))
    assert scene.decided() == [Verdict.OK, Verdict.OK]


@pytest.mark.spec("RESULTS-STREAMS.1")
def test_a_miner_that_says_it_again_gets_its_outcome_again() -> None:
    scene = Scene()
    scene.miner().say(ONE.commits())
    scene.decided()
    late = scene.room.puppet(MALLORY).say(ONE.commits())
    scene.room.run(50)
    assert len(late.of(OutcomeNews)) == 4
    late.say(RevealMessage(ONE.reveal(), ONE.shown()))
    scene.room.run(50)
    assert len(late.of(OutcomeNews)) == 8


@pytest.mark.spec("RESULTS-STREAMS.1", "RESULTS-KEPT.1")
def test_who_begins_to_watch_is_told_what_is_known() -> None:
    scene = Scene()
    apart(scene)
    scene.miner().say(ONE.commits(), 1)
    scene.room.run(50)
    early = scene.room.puppet(ROUTER).say(Watch(ONE.session))
    scene.room.run(50)
    assert {news.signed.batch.oracle for news in early.of(ObservedNews)} == {scene.room.hosts[1].key.node_id}
    assert len(early.of(SessionNews)) == 4
    scene.room.cut = lambda sender, receiver: False
    scene.decided()
    later = scene.room.puppet(MALLORY).say(Watch(ONE.session))
    scene.room.run(50)
    trust = HeaderTrust(scene.room.genesis)
    assert [check_outcome(trust, news) is not None for news in later.of(OutcomeNews)] == [True] * 4
    _, session = check_session(trust, later.of(SessionNews)[0])
    assert session is not None
    assert session.spent_wei == 70


@pytest.mark.spec("BATCH-SHARED.1")
def test_an_item_is_in_f_plus_one_oracles_batches_and_then_in_the_ledger() -> None:
    scene = Scene(reserve=False)
    scene.client.say(Submit(sessions=(ONE.signed_session,)))
    assert scene.room.run(5_000, lambda: all(host.state.session(ONE.session) for host in scene.room.hosts))
    scene.room.run(20_000)
    signed = [host.machine.signer.last_batch(1) for host in scene.room.hosts]
    assert sorted(signed) == [0, 0, 1, 1]
    assert all(host.machine.results.outbox.items == 0 for host in scene.room.hosts)


@pytest.mark.spec("BATCH-SHARED.1")
def test_what_the_first_do_not_include_the_others_do_a_while_later() -> None:
    scene = Scene(reserve=False)
    probe = Room()
    probe.run(3_000)
    probe.puppet(CLIENT).say(Submit(sessions=(ONE.signed_session,)))
    probe.run(1_000)
    first = [host.place for host in probe.hosts if host.machine.signer.last_batch(1)]
    others = [place for place in range(4) if place not in first]
    scene.client.say(Submit(sessions=(ONE.signed_session,)), *others)
    scene.room.run(PARAMS.resend_interval_ms)
    assert not scene.room.hosts[others[0]].state.session(ONE.session)
    scene.room.run(2 * PARAMS.resend_interval_ms)
    assert scene.room.hosts[others[0]].state.session(ONE.session)


@pytest.mark.spec("BATCH-CONTENT.1")
def test_what_the_ledger_would_not_take_is_not_carried() -> None:
    scene = Scene(reserve=False)
    forged = replace(ONE, wrong={"client": MALLORY.node_id}).signed_session
    rich = replace(ONE, wrong={"cap_wei": 2 * 10**9}).signed_session
    scene.client.say(Submit(sessions=(forged, rich)))
    scene.room.run(10_000)
    assert [host.machine.signer.last_batch(1) for host in scene.room.hosts] == [0] * 4


@pytest.mark.spec("OPENING-LATER.1")
def test_an_opening_waits_for_its_sessions_reservation_and_more_acks_bring_more() -> None:
    scene = Scene(reserve=False)
    scene.miner().say(ONE.commits(acked=4))
    assert scene.decided() == [Verdict.OK]

    def paid() -> list[int]:
        views = [host.state.lane(ONE.session, 1, 0) for host in scene.room.hosts]
        return [0 if view is None else view.paid_wei for view in views]

    scene.room.run(100)
    assert paid() == [0] * 4
    scene.client.say(Submit(sessions=(ONE.signed_session,)))
    assert scene.room.run(10_000, lambda: paid() == [28] * 4)
    scene.miner().say(RevealMessage(ONE.reveal(), ONE.shown(acked=10)))
    assert scene.room.run(10_000, lambda: paid() == [70] * 4)


@pytest.mark.spec("BATCH-CONTENT.1")
def test_reports_of_tests_go_out_once() -> None:
    scene = Scene(reserve=False)
    report = TestReport(MINERS[0].node_id, 1, True, 10, 20)
    for _ in range(3):
        scene.room.hosts[0].tell(Report(report))
        scene.room.run(200)
    assert scene.room.hosts[0].machine.signer.last_batch(1) == 1


# Followers


@pytest.mark.spec("LEDGER-NEWS.1")
def test_a_follower_has_the_pool_of_every_header() -> None:
    params = replace(PARAMS, heartbeat_ms=1_000, epoch_blocks=4).validate()
    genesis = Genesis(
        "pool",
        params=params,
        committee=genesis_of().committee,
        miners=tuple(sorted(HASHES.key(f"pool {number}").node_id for number in range(1_500))),
    )
    room = Room(genesis)
    book = HandOverBook(genesis)
    pool = PoolFollower(params, book.trust)
    router = room.puppet(ROUTER)
    router.on_message = lambda place, message: take(pool, book, message)
    router.say(HandOversAsked(1), 0).say(Follow(True), 0)
    plain = room.puppet(CLIENT).say(Follow(False), 1)
    room.run(30_000)
    assert len(pool) == 1_500
    assert pool.header is not None
    assert pool.header.epoch > 2
    assert len([news for news in router.of(LedgerNews) if news.more]) >= 2
    headers = [news.certified for news in plain.of(LedgerNews)]
    assert len(headers) > 10
    assert all(each.certificate.kind is CertificateKind.FINALIZATION for each in headers)
    assert not any(news.changes for news in plain.of(LedgerNews))


@pytest.mark.spec("LEDGER-NEWS.1")
def test_one_message_is_on_its_way_to_a_follower() -> None:
    scene = Scene(reserve=False)
    host = scene.room.hosts[0]
    reports: list[object] = []
    tell = host.tell
    host.tell = lambda event: reports.append(event) if type(event).__name__ == "Sent" else tell(event)  # type: ignore[method-assign]
    slow = scene.room.puppet(ROUTER).say(Follow(True), 0)
    scene.client.say(Submit(sessions=(ONE.signed_session,)))
    scene.miner().say(ONE.commits())
    scene.decided()
    scene.room.run(100)
    assert len(slow.of(LedgerNews)) == 1
    tell(reports[0])
    scene.room.run(50)
    _, newest = slow.of(LedgerNews)
    assert newest.certified == host.machine.results.final.certified  # type: ignore[union-attr]


@pytest.mark.spec("RESULTS-STREAMS.1")
def test_proofs_of_a_reservation_hold_against_their_header() -> None:
    scene = Scene()
    for news in scene.client.of(SessionNews):
        assert news.certified.header is not None
        assert verify_ledger_proof(news.certified.header, news.proof)
        assert news.proof.section == Section.SESSIONS


def take(pool: PoolFollower, book: HandOverBook, message: object) -> None:
    """News of the pool are checked and taken, and so are hand-overs, which come in time."""
    if isinstance(message, LedgerNews):
        pool.take(message)
    elif isinstance(message, HandOvers):
        book.take(message.hand_overs)
