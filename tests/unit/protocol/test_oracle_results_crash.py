"""Oracles that crash, lose their store, or hand over to another committee in the middle of their observations."""

from dataclasses import replace

import pytest

from protocol.committee.members import Committee
from protocol.core.codec import pack
from protocol.core.ids import NodeId
from protocol.core.machine import Persist, PersistFailed
from protocol.light.headers import HeaderTrust
from protocol.light.news import check_outcome
from protocol.messages.results import (
    CommitMessage,
    Content,
    OutcomeNews,
    RevealAsked,
    Verdict,
    Watch,
)
from protocol.results.closed_tasks import CLOSED
from protocol.roles.oracle import Include
from protocol.roles.oracle.outcomes import OUTCOME
from tests.unit.protocol.committee_at_hand import keyed  # noqa: F401
from tests.unit.protocol.oracles_in_a_room import OracleHost, Room
from tests.unit.protocol.results_at_hand import MALLORY, PARAMS, Job, genesis_of, oracles
from tests.unit.protocol.results_scene import Scene, apart

ONE, TWO = Job(), Job(lanes=2)


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
    apart(scene)
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


@pytest.mark.spec("OBSERVE-ONCE.1", "BATCH-KEPT.1")
def test_what_a_kept_batch_says_stands_after_a_restart() -> None:
    scene = Scene()
    apart(scene)
    host = scene.room.hosts[0]
    host.tell(Include(pack(Content((ONE.failed(Verdict.LATE),)))))
    host.crash()
    scene.room.cut = lambda sender, receiver: False
    host.start()
    scene.miner().say(ONE.commits())
    assert scene.decided() == [Verdict.OK]
    scene.room.run(2_000)
    scene.one_value_each()
    view = host.state.lane(ONE.session, 1, 0)
    assert view is not None
    assert view.values[host.key.node_id].verdict is Verdict.LATE


@pytest.mark.spec("OBSERVE-ONCE.1", "OBSERVE-BOUNDS.1")
def test_what_the_ledger_says_this_oracle_said_is_open_after_a_restart() -> None:
    scene = Scene()
    scene.room.cut = lambda sender, receiver: False
    host, passes = scene.room.hosts[0], scene.room.transmit
    scene.room.transmit = lambda end, message: (  # type: ignore[method-assign]
        None if isinstance(end.owner, OracleHost) and isinstance(message, CommitMessage) else passes(end, message)
    )
    scene.miner().say(ONE.commits(), 0)
    scene.room.run(5_000)
    view = host.state.lane(ONE.session, 1, 0)
    assert view is not None
    assert list(view.values) == [host.key.node_id]
    assert not host.machine._kept
    host.crash()
    host.start()
    load = host.machine.results.load()
    assert (load["lanes_open"], load["lanes_observed"]) == (1, 1)


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


# Durable first


@pytest.mark.spec("REVEAL-ASKED.1")
def test_who_asks_for_openings_has_it_on_its_disk_that_it_takes_no_more_commits() -> None:
    scene = Scene(TWO)
    asked: list[bool] = []

    def look() -> None:
        asked.extend(
            bool(sender.load(CLOSED))
            for sender, _, message in scene.room.wire
            if isinstance(message, RevealAsked) and isinstance(sender, OracleHost)
        )
        scene.room.wire.clear()

    scene.room.watch = look
    for lane in (0, 1):
        scene.miner(lane).say(TWO.commits(lane))
    assert scene.decided() == [Verdict.OK, Verdict.OK]
    assert asked == [True] * 8


@pytest.mark.spec("RESULTS-KEPT.1")
def test_outcomes_are_durable_before_their_block_is() -> None:
    scene = Scene()
    host = scene.room.hosts[0]
    handle, seen = host.machine.handle, []

    def watched(event: object, now_ms: int) -> list[object]:
        effects = handle(event, now_ms)
        names = [name for effect in effects if isinstance(effect, Persist) for name, value in effect.records if value]
        outcome = next((at for at, name in enumerate(names) if name.startswith(OUTCOME)), None)
        if outcome is not None:
            seen.append(outcome < next(at for at, name in enumerate(names) if name.startswith(b"chain/")))
        return effects

    host.machine.handle = watched  # type: ignore[method-assign]
    scene.miner().say(ONE.commits())
    assert scene.decided() == [Verdict.OK]
    assert seen == [True]


@pytest.mark.spec("RESULTS-KEPT.1")
def test_after_a_restart_every_outcome_has_its_proof() -> None:
    scene = Scene()
    jobs = [replace(ONE, task=task) for task in range(1, 8)]
    for job in jobs:
        scene.miner(job=job).say(job.commits())
        assert scene.decided(job=job) == [Verdict.OK]
    host = scene.room.hosts[2]
    host.crash()
    host.start()
    assert host.machine.simplex.tree.final is None, "an epoch has begun"
    trust = HeaderTrust(scene.room.genesis)
    asker = scene.room.puppet(MALLORY).say(Watch(ONE.session), 2)
    scene.room.run(50)
    told = asker.of(OutcomeNews)
    assert [news.outcome.task for news in told] == [job.task for job in jobs]
    for news in told:
        check_outcome(trust, news)
