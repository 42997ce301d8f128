"""Oracles when the committee changes: the hand-overs that they keep and tell, and what a former member still owes."""

from dataclasses import replace

import pytest

from protocol.committee.members import Committee
from protocol.core.ids import NodeId
from protocol.light.handovers import HandOverBook, hand_over_key
from protocol.messages.handover import HandOvers, HandOversAsked
from protocol.messages.results import Follow, LedgerNews, Verdict
from tests.unit.protocol.committee_at_hand import keyed  # noqa: F401
from tests.unit.protocol.oracles_in_a_room import OracleHost, Room
from tests.unit.protocol.results_at_hand import PARAMS, ROUTER, Job, genesis_of, oracles
from tests.unit.protocol.results_scene import Scene

SIZE = 8
EVERYBODY = tuple(key.node_id for key in oracles(SIZE))


def next_four(committee: Committee) -> tuple[NodeId, ...]:
    """Each epoch one comes and one goes."""
    return tuple(EVERYBODY[(committee.epoch + place) % SIZE] for place in range(4))


def other_four(committee: Committee) -> tuple[NodeId, ...]:
    """After the first epoch nobody is left of the first committee."""
    return EVERYBODY[4:] if committee.epoch == 1 else committee.members


def turning(heartbeat_ms: int = 400) -> Room:
    return Room(genesis_of(replace(PARAMS, epoch_blocks=3, heartbeat_ms=heartbeat_ms).validate()), next_four, size=SIZE)


def epoch_of(host: OracleHost) -> int:
    """Where an oracle is."""
    return host.machine.simplex.committee.epoch


@pytest.mark.spec("HANDOVER-KEPT.1", "HANDOVER-TOLD.1")
def test_hand_overs_lead_from_the_genesis_to_now_and_each_comes_before_it_is_needed() -> None:
    room = turning()
    book = HandOverBook(room.genesis)
    router = room.puppet(ROUTER)

    def follow(_place: int, message: object) -> None:
        if isinstance(message, HandOvers):
            book.take(message.hand_overs)
        elif isinstance(message, LedgerNews):
            book.trust.check(message.certified)

    router.on_message = follow
    router.say(HandOversAsked(1), 0).say(Follow(False), 0)
    assert room.run(60_000, lambda: all(epoch_of(host) >= 6 for host in room.hosts))
    assert len(router.of(LedgerNews)) > 10
    assert book.trust.epoch in (epoch_of(room.hosts[0]), epoch_of(room.hosts[0]) + 1)
    for epoch in range(2, 7):
        assert book.trust.members_of(epoch) == tuple(EVERYBODY[(epoch - 1 + place) % SIZE] for place in range(4))
    # Whoever was no member for long, or never, has them as well.
    for place in range(SIZE):
        late = HandOverBook(room.genesis)
        asker = room.puppet(oracles(SIZE + 1)[SIZE])
        asker.heard.clear()
        asker.say(HandOversAsked(1), place)
        room.run(50)
        (page,) = asker.of(HandOvers, place)
        assert isinstance(page, HandOvers)
        late.take(page.hand_overs)
        assert late.trust.epoch >= 6


@pytest.mark.spec("HANDOVER-KEPT.1")
def test_one_that_a_crash_has_cut_off_is_there_after_the_restart() -> None:
    room = turning()
    host = room.hosts[0]
    assert room.run(60_000, lambda: epoch_of(host) == 4 and host.machine.results.final is not None)
    assert room.run(60_000, lambda: epoch_of(host) == 5)
    host.crash()
    del host.disk[hand_over_key(4)]
    host.start()
    room.run(1_000)
    for epoch in range(1, 5):
        found = host.machine.results.hand_overs.store.get(epoch)
        assert found is not None
        assert found.members == tuple(EVERYBODY[(epoch + place) % SIZE] for place in range(4))
    assert hand_over_key(4) in host.disk


def handed_over() -> tuple[Scene, Job]:
    """A session that the first committee reserved, and the second one is at work."""
    genesis = genesis_of(replace(PARAMS, epoch_blocks=6, heartbeat_ms=1_000).validate())
    room = Room(genesis, other_four, size=SIZE)
    job = Job(domain=genesis.domain())
    scene = Scene(job, room=room)
    assert epoch_of(room.hosts[0]) == 1
    assert room.run(60_000, lambda: all(epoch_of(host) == 2 for host in room.hosts))
    return scene, job


@pytest.mark.spec("OBSERVE-HOME.1", "BATCH-CONTENT.1", "BATCH-SHARED.1")
def test_former_members_have_paid_what_they_observe() -> None:
    scene, job = handed_over()
    scene.miner(job=job).say(job.commits(), 0, 1, 2, 3)
    assert scene.decided(job=job) == [Verdict.OK]
    view = scene.room.hosts[5].state.lane(job.session, 1, 0)
    assert view is not None
    assert scene.room.run(10_000, lambda: scene.room.hosts[5].state.lane(job.session, 1, 0).paid_wei == 70)  # type: ignore[union-attr]
    assert set(view.values) <= set(EVERYBODY[:4])
    scene.room.run(10_000)
    for host in scene.room.hosts[:4]:
        assert not host.machine.results.outbox.owes
        assert not host.machine.links._out, "what they owed is said"


@pytest.mark.spec("COMMIT-PASSED-ON.1", "OBSERVE-HOME.1")
def test_former_members_pass_on_to_one_another_what_only_one_was_told() -> None:
    scene, job = handed_over()
    miner = scene.miner(job=job)
    scene.again(lambda: miner.say(job.commits(), 1))
    assert scene.decided(job=job) == [Verdict.OK]
    scene.one_value_each()
