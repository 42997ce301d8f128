"""Four production oracles over the real ledger: from a commit to its final outcome, and what goes wrong on the way."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from protocol.committee.members import Committee
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.machine import PersistFailed
from protocol.ledger import LedgerState, Section
from protocol.ledger.proofs import verify_ledger_proof
from protocol.light.headers import HeaderTrust
from protocol.light.news import check_outcome, check_session
from protocol.light.pool import PoolFollower
from protocol.messages.committee import CertificateKind
from protocol.messages.results import (
    Follow,
    LedgerNews,
    Observation,
    ObservedNews,
    OutcomeNews,
    RevealAsked,
    RevealMessage,
    SessionNews,
    Submit,
    TestReport,
    Verdict,
    Watch,
)
from protocol.results.closed_tasks import CLOSED
from protocol.results.evidence import observations_of
from protocol.roles.oracle import Report
from tests.unit.protocol.committee_at_hand import HASHES, keyed  # noqa: F401
from tests.unit.protocol.oracles_in_a_room import OracleHost, Puppet, Room
from tests.unit.protocol.results_at_hand import CLIENT, MALLORY, MINERS, PARAMS, ROUTER, Job, genesis_of, oracles

ONE, TWO = Job(), Job(lanes=2)


class Scene:
    """A room in which the committee works, a client that watches a session, and miners that do what is right."""

    def __init__(self, job: Job = ONE, *, reserve: bool = True, room: Room | None = None) -> None:
        self.room, self.job = room or Room(), job
        self.room.run(3_000)
        self.client = self.room.puppet(CLIENT).say(Watch(job.session))
        if reserve:
            self.client.say(Submit(sessions=(job.signed_session,)))
            assert self.room.run(5_000, lambda: all(self.state(at).session(job.session) for at in self.room.hosts))
        self.said: dict[tuple[NodeId, bytes, int, int], set[Observation]] = {}
        self.room.watch = self.note

    @staticmethod
    def state(host: OracleHost) -> LedgerState:
        return host.state

    def note(self) -> None:
        """Everything that an oracle ever says of a lane on any wire."""
        for _, _, message in self.room.wire:
            signed = getattr(message, "signed", None)
            if signed is not None and hasattr(signed, "batch"):
                for value in observations_of(signed):
                    name = (NodeId(signed.batch.oracle), value.session, value.task, value.lane)
                    self.said.setdefault(name, set()).add(value)
        self.room.wire.clear()

    def miner(self, lane: int = 0, job: Job | None = None) -> Puppet:
        """A miner that opens its commit when f+1 oracles have asked."""
        job = job or self.job
        puppet = self.room.puppet(job.miner(lane))

        def on_message(place: int, message: object) -> None:
            if isinstance(message, RevealAsked):
                asked = {at for at, told in puppet.heard if isinstance(told, RevealAsked)}
                if len(asked) == 2:
                    puppet.say(job.reveals(lane))
                elif len(asked) > 2:
                    puppet.say(job.reveals(lane), place)

        puppet.on_message = on_message
        return puppet

    def works(self, job: Job, lane: int) -> None:
        """A miner commits, and opens what it was asked for, until the outcome is final."""
        miner = self.miner(lane, job)
        self.again(lambda: miner.say(job.commits(lane)))
        self.again(lambda: miner.say(job.reveals(lane)) if miner.of(RevealAsked) else None)

    def again(self, say: Callable[[], object], ms: int = PARAMS.result_resend_ms, times: int = 30) -> None:
        """A node says something again and again, as miners do until the outcome is final."""
        if times:
            say()
            self.room.later(ms, lambda: self.again(say, ms, times - 1))

    def outcome(self, job: Job | None = None, lane: int = 0) -> Verdict | None:
        """The verdict on a lane, the same at every oracle that runs; None until then."""
        job = job or self.job
        found = {
            None if view is None or view.outcome is None else view.outcome.verdict
            for host in self.room.hosts
            if host.up
            for view in [host.state.lane(job.session, job.task, lane)]
        }
        return found.pop() if len(found) == 1 else None

    def decided(self, ms: int = 30_000, job: Job | None = None) -> list[Verdict | None]:
        """Wait for the verdicts on all lanes."""
        lanes = range((job or self.job).lanes)
        self.room.run(ms, lambda: all(self.outcome(job, lane) is not None for lane in lanes))
        return [self.outcome(job, lane) for lane in lanes]

    def one_value_each(self) -> None:
        """No oracle ever said two things of a lane."""
        assert self.said
        assert all(len(values) == 1 for values in self.said.values())


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
    scene.room.cut = lambda sender, receiver: isinstance(receiver, OracleHost) and isinstance(sender, OracleHost)
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
    pool = PoolFollower(params, HeaderTrust(genesis))
    router = room.puppet(ROUTER)
    router.on_message = lambda place, message: take(pool, message)
    router.say(Follow(True), 0)
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


# Crashes


@pytest.mark.spec("OBSERVE-ONCE.1", "OBSERVE-ONCE.2", "REVEAL-ASKED.1", "BATCH-KEPT.1")
@pytest.mark.parametrize("fuse", range(0, 60, 4))
@pytest.mark.parametrize("alone", [False, True], ids=["one of four", "one of three"])
def test_an_oracle_that_crashes_in_the_middle_never_says_another_thing(fuse: int, alone: bool) -> None:
    job = Job(lanes=3)
    scene = Scene(job)
    if alone:
        scene.room.hosts[3].crash()
    for lane in (0, 1):
        scene.works(job, lane)
    host = scene.room.hosts[1]
    host.fuse = fuse
    scene.room.run(PARAMS.commit_window_ms + 50, lambda: not host.up)
    if host.up:
        host.crash()
    scene.room.run(500)
    host.start()
    assert scene.decided(60_000) == [Verdict.OK, Verdict.OK, Verdict.LATE]
    scene.room.run(500)
    scene.one_value_each()
    for lane in range(3):
        view = host.state.lane(job.session, 1, lane)
        assert view is not None
        assert host.key.node_id in view.values or not alone


@pytest.mark.spec("OBSERVE-ONCE.2")
def test_who_lost_its_store_but_not_its_log_says_nothing_before_it_knows_what_it_said() -> None:
    scene = Scene()
    scene.room.cut = lambda sender, receiver: isinstance(receiver, OracleHost) and isinstance(sender, OracleHost)
    scene.miner().say(ONE.commits())
    scene.room.run(50)
    host = scene.room.hosts[0]
    host.crash()
    host.disk = {name: data for name, data in host.disk.items() if name.startswith((b"signed/", b"batch/"))}
    assert any(name.startswith(b"batch/") for name in host.disk)
    scene.room.cut = lambda sender, receiver: False
    host.start()
    other = replace(ONE, task=2)
    scene.room.run(3_000)
    host.machine.results.desk.open.drop((ONE.session, 1, 0))
    scene.miner(job=other).say(other.commits())
    scene.room.run(1_000)
    assert (NodeId(host.key.node_id), other.session, 2, 0) not in scene.said, "its first batch is nowhere"
    assert scene.decided(job=other) == [Verdict.OK], "the other three do"


@pytest.mark.spec("OBSERVE-ONCE.2")
def test_a_batch_that_another_gives_back_fills_the_gap() -> None:
    scene = Scene()
    host = scene.room.hosts[0]
    down = {scene.room.hosts[2], scene.room.hosts[3]}
    scene.room.cut = lambda sender, receiver: sender in down or receiver in down
    scene.miner().say(ONE.commits(), 0)
    scene.room.run(100)
    host.crash()
    host.disk = {name: data for name, data in host.disk.items() if name.startswith((b"signed/", b"batch/"))}
    host.start()
    scene.room.cut = lambda sender, receiver: False
    other = replace(ONE, task=2)
    scene.again(lambda: scene.miner(job=other).say(other.commits()))
    scene.room.run(10_000, lambda: (NodeId(host.key.node_id), other.session, 2, 0) in scene.said)
    assert scene.decided(job=other) == [Verdict.OK]
    scene.room.run(1_000)
    view = host.state.lane(ONE.session, 1, 0)
    assert view is not None
    assert view.values[host.key.node_id] == ONE.ok()
    scene.one_value_each()


def test_a_disk_that_fails_ends_every_stream() -> None:
    scene = Scene()
    host = scene.room.hosts[0]
    host.tell(PersistFailed(b"committee", "full"))
    scene.room.run(50)
    before = len(scene.client.heard)
    scene.miner().say(ONE.commits())
    scene.room.run(1_000)
    assert not [place for place, _ in scene.client.heard[before:] if place == 0]
    assert (NodeId(host.key.node_id), ONE.session, 1, 0) not in scene.said


# Epochs


def turning() -> Room:
    """A room whose epochs are short."""
    return Room(genesis_of(replace(PARAMS, epoch_blocks=3, heartbeat_ms=400).validate()))


@pytest.mark.spec("OBSERVE-HOME.1")
def test_a_task_that_was_ordered_before_the_epoch_closed_is_observed_by_its_home() -> None:
    room = turning()
    job = Job(domain=room.genesis.domain())
    scene = Scene(job, room=room)
    first = room.hosts[0].machine.simplex.committee.epoch
    job = replace(job, home_epoch=first, task=2)
    assert room.run(30_000, lambda: all(epoch_of(host) == first + 1 for host in room.hosts))
    scene.miner(job=job).say(job.commits())
    assert scene.decided(job=job) == [Verdict.OK]
    view = room.hosts[0].state.lane(job.session, 2, 0)
    assert view is not None
    assert (view.home_epoch, epoch_of(room.hosts[0])) == (first, first + 1)
    assert view.paid_wei == 70


@pytest.mark.spec("OBSERVE-HOME.1")
def test_nothing_is_observed_of_an_epoch_that_is_two_more_than_past() -> None:
    room = turning()
    job = Job(domain=room.genesis.domain())
    scene = Scene(job, room=room)
    assert room.run(60_000, lambda: all(epoch_of(host) == 5 for host in room.hosts))
    scene.miner(job=job).say(job.commits())
    room.run(5_000)
    assert scene.said == {}


@pytest.mark.spec("OBSERVE-HOME.1", "OBSERVE-ONCE.1")
def test_who_is_no_member_any_more_goes_on_for_its_home_epoch() -> None:
    everybody = tuple(key.node_id for key in oracles(8))

    def others(committee: Committee) -> tuple[NodeId, ...]:
        return everybody[4:] if committee.epoch == 1 else committee.members

    params = replace(PARAMS, epoch_blocks=3, heartbeat_ms=4_000).validate()
    genesis = genesis_of(params)
    room = Room(genesis, others, size=8)
    job = Job(domain=genesis.domain())
    scene = Scene(job, reserve=False, room=room)
    assert room.run(30_000, lambda: all(epoch_of(host) == 2 for host in room.hosts))
    room.hosts[0].crash()
    room.hosts[1].crash()
    room.run(200)
    room.hosts[1].start()
    miner = scene.miner(job=job)
    scene.again(lambda: miner.say(job.commits(), 1, 2, 3))
    assert room.run(20_000, lambda: room.hosts[5].state.lane(job.session, 1, 0) is not None)
    assert scene.decided(job=job) == [Verdict.OK]
    view = room.hosts[5].state.lane(job.session, 1, 0)
    assert view is not None
    assert set(view.values) == set(everybody[1:4])
    scene.one_value_each()


def epoch_of(host: OracleHost) -> int:
    """Where an oracle is."""
    return host.machine.simplex.committee.epoch


def take(pool: PoolFollower, message: object) -> None:
    """News of the pool are checked and taken."""
    if isinstance(message, LedgerNews):
        pool.take(message)
