"""A simulated node keeps the driver's contract, and dies where it is told to."""

from p2pnode.sim.checkers import Checker, Violation
from p2pnode.sim.disk import Disk
from p2pnode.sim.faults import CrashAtEffect
from p2pnode.sim.host import Host, PlannedCrash
from p2pnode.sim.local_clock import EPOCH_MS, LocalClock
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    Close,
    DeadlineReached,
    Note,
    Open,
    PeerConnected,
    Persist,
    PersistFailed,
    Received,
    Send,
    SendAll,
)
from tests.unit.sim.worlds import Runs, Told, host_of, number, run_ms, told, world_of

GO = PeerConnected(b"")  # type: ignore[arg-type]
"""Any event that makes a machine ask for what the test wants."""


class Executed(Checker):
    """Notes which effects were executed, and when."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, int]] = []

    def effect(self, drive: object, effect: object) -> None:
        if isinstance(effect, Note):
            self.notes.append((effect.what, self.world.now_us))

    def names(self) -> list[str]:
        return [name for name, _ in self.notes]


def persist(key: bytes, name: bytes = b"name", *, vital: bool = True) -> Persist:
    return Persist(key, ((name, b"value"),), vital)


def asking(*effects: object) -> tuple[Executed, Host]:
    """A node whose machine asks for these effects at the first event."""
    world, checker = world_of(), Executed()
    world.watched_by((checker,))
    asked = [list(effects)]
    host = host_of(world, "node", Told(lambda event: asked.pop() if asked else []))
    host.drives[0].dispatch(GO)
    return checker, host


def test_a_persist_is_durable_before_the_next_effect_of_its_key_and_nothing_else_waits() -> None:
    effects = (persist(b"a"), Note("a1", key=b"a"), Note("b", key=b"b"), Note("free"), Note("a2", key=b"a"))
    checker, host = asking(*effects)
    assert checker.names() == ["b", "free"]
    assert host.disk.records == {}
    run_ms(host.world, 40)
    assert checker.names() == ["b", "free", "a1", "a2"]
    assert checker.notes[2][1] >= 500
    assert host.disk.records == {b"name": b"value"}
    assert host.drives[0].held == {}


def test_effects_of_a_key_stay_in_order_across_calls_and_persists() -> None:
    checker, host = asking(persist(b"a"), Note("1", key=b"a"), persist(b"a", b"other"), Note("2", key=b"a"))
    machine = told(host)
    machine.answer = lambda event: [Note("3", key=b"a")]
    host.drives[0].dispatch(GO)
    assert checker.names() == []
    run_ms(host.world, 80)
    assert checker.names() == ["1", "2", "3"]
    assert checker.notes[0][1] < checker.notes[1][1]


def test_a_crash_loses_what_was_not_durable_and_a_restart_finds_what_was() -> None:
    world, runs = world_of(), Runs(lambda boot: Told())
    host = Host(world, "node", world.keys.key("node"), runs)
    host.start()
    runs.lives[0].answer = lambda event: [persist(b"a", b"first"), Note("never", key=b"a")]
    host.drives[0].dispatch(GO)
    run_ms(world, 40)
    runs.lives[0].answer = lambda event: [persist(b"a", b"second")]
    host.drives[0].dispatch(GO)
    host.crash()
    run_ms(world, 40)
    host.start()
    assert [boot.incarnation for boot in runs.boots] == [1, 2]
    assert runs.boots[1].records.keys() - {b"second"} == {b"first"}
    assert runs.boots[0].random.random() != runs.boots[1].random.random()


def test_of_what_is_being_written_a_crash_leaves_nothing_or_the_first_batches() -> None:
    left = set()
    for seed in range(60):
        world = world_of(seed)
        disk = Disk(world.random("disk"), world.after, (1_000, 1_000))
        for name in (b"1", b"2", b"3"):
            disk.write(((name, b""),), 0, lambda: None, lambda: None)
        disk.crash()
        run_ms(world, 10)
        left.add(b"".join(sorted(disk.records)))
    assert left == {b"", b"1", b"12", b"123"}


def test_a_disk_that_fails_ends_the_node_unless_it_can_go_on_without() -> None:
    checker, host = asking(persist(b"a", vital=False), Note("never", key=b"a"), Note("other", key=b"b"))
    host.disk.fails = True
    run_ms(host.world, 40)
    assert checker.names() == ["other"]
    assert told(host).of(PersistFailed)[0].key == b"a"
    assert host.up
    told(host).answer = lambda event: [persist(b"c")]
    host.drives[0].dispatch(GO)
    run_ms(host.world, 40)
    assert not host.up


def test_a_node_dies_just_before_or_just_after_any_effect() -> None:
    effects = [Note(str(at)) for at in range(5)]
    for number_ in range(1, 6):
        for after in (False, True):
            world, checker = world_of(), Executed()
            world.watched_by((checker,))
            host = host_of(world, "node", Told(lambda event: list(effects)))
            host.planned = PlannedCrash(number_, after, host.crash)
            host.drives[0].dispatch(GO)
            assert not host.up
            assert len(checker.notes) == number_ - (not after)


def test_a_planned_crash_comes_between_what_is_durable_and_what_leaves_because_of_it() -> None:
    world, checker = world_of(), Executed()
    world.watched_by((checker,))
    host = host_of(world, "node", Told(lambda event: [persist(b"a"), Note("leaves", key=b"a")]))
    CrashAtEffect("node", 2, after=False, down_ms=5).plan(world, 10**9)
    host.drives[0].dispatch(GO)
    run_ms(world, 60)
    assert (host.incarnation, host.up, checker.names()) == (2, True, [])
    assert host.disk.records == {b"name": b"value"}


def test_a_deadline_is_told_once_when_the_nodes_own_clock_reaches_it() -> None:
    world = world_of()
    host = host_of(world, "node", skew_ms=-100)
    machine = told(host)
    machine.deadline = EPOCH_MS + 50
    host.drives[0].arm()
    run_ms(world, 149)
    assert machine.heard == []
    run_ms(world, 1)
    assert machine.of(DeadlineReached) == [DeadlineReached()]
    assert machine.times == [EPOCH_MS + 50]


def test_a_clock_that_jumps_makes_things_due_and_never_goes_back() -> None:
    world = world_of()
    host = host_of(world, "node")
    machine = told(host)
    machine.deadline = EPOCH_MS + 1_000
    host.drives[0].arm()
    host.jump_clock(600)
    run_ms(world, 400)
    assert machine.times == [EPOCH_MS + 1_000]
    host.jump_clock(-700)
    assert host.clock.now_ms() == EPOCH_MS + 1_000
    run_ms(world, 701)
    assert host.clock.now_ms() == EPOCH_MS + 1_001


def test_a_clock_that_was_overtaken_is_due_at_once() -> None:
    now = [0]
    clock = LocalClock(lambda: now[0])
    now[0] = 5_000_000
    assert clock.now_ms() == EPOCH_MS + 5_000
    clock.jump(-2_000)
    assert clock.reached_us(EPOCH_MS + 4_000) == now[0]
    assert clock.reached_us(EPOCH_MS + 5_001) == 7_001_000


def test_a_slow_node_handles_everything_late_and_in_order() -> None:
    world = world_of()
    host = host_of(world, "node")
    host.lag_us = 100_000
    for at in range(20):
        host.drives[0].dispatch(Received(Channel(1), number(at)))
    assert told(host).heard == []
    run_ms(world, 50)
    host.lag_us = 0
    host.drives[0].dispatch(Received(Channel(1), number(20)))
    run_ms(world, 200)
    assert told(host).numbers() == list(range(21))
    assert len(set(told(host).times)) > 1


def test_a_machine_that_raises_breaks_a_promise() -> None:
    def raise_(event: object) -> list[object]:
        raise ValueError("a bug")

    world = world_of()
    host = host_of(world, "node", Told(raise_))
    try:
        host.drives[0].dispatch(GO)
    except Violation as violation:
        assert (violation.invariant, violation.node) == ("TOTAL", "node/Told")
        assert "a bug" in violation.what
    else:
        raise AssertionError("the bug went unseen")


def test_what_is_sent_to_all_is_one_effect_and_may_be_cut_short() -> None:
    world = world_of()
    other = host_of(world, "other")
    channels = [Channel(-1), Channel(-2), Channel(-3)]
    opens = [Open(channel, other.node, "talk") for channel in channels]
    node = host_of(world, "node", Told(lambda event: [*opens, SendAll(tuple(channels), number(7))]))
    node.planned = PlannedCrash(len(opens) + 2, True, lambda: node.crash(silent=True))
    node.drives[0].dispatch(GO)
    assert not node.up
    world = world_of()
    other = host_of(world, "other")
    node = host_of(world, "node", Told(lambda event: [*opens, SendAll(tuple(channels), number(7))]))
    node.drives[0].dispatch(GO)
    told(node).answer = lambda event: []
    run_ms(world, 100)
    assert told(other).numbers() == [7, 7, 7]


def test_after_a_close_nothing_more_is_told_of_a_channel() -> None:
    world = world_of()
    other = host_of(world, "other", Told(lambda event: [Close(event.channel)] if isinstance(event, Received) else []))
    opening = [Open(Channel(-1), other.node, "talk"), Send(Channel(-1), number(1))]
    node = host_of(world, "node", Told(lambda event: opening if event is GO else []))
    node.drives[0].dispatch(GO)
    run_ms(world, 100)
    assert told(other).of(ChannelClosed) == []
    assert [event.channel for event in told(node).of(ChannelClosed)] == [-1]
    assert node.drives[0].channels == other.drives[0].channels == {}
