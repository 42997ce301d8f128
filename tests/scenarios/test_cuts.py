"""A session that is disturbed after any message between client and router: the client is shown what it would have been.

The wire is cut, with what is under way on it, or the router is killed. Whoever notices, and whatever else happens
meanwhile, each wish ends once, with the text that nothing disturbed, and every slot is free in the end.
"""

from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.messages.tasks import EndReason
from protocol.roles.client import (
    LaneReported,
    RouterFound,
    RouterSought,
    SessionAssigned,
    SessionOver,
    TaskHead,
    TaskOver,
    TaskText,
)
from protocol.roles.client.seeking import SEEK_MS
from tests.scenarios.rig import World
from tests.scenarios.script import Script

WISHES = """
connect c1
run 20
open c1 session
run 50
ask c1 first session tokens=9
run 8
ask c1 second session tokens=3
run 300
ask c1 third session tokens=6
run 200
"""
ASKS = ("first", "second", "third")
MESSAGES = 38
"""With the last of them the session is closed."""


@dataclass
class Played:
    """One run."""

    script: Script
    items: dict[str, list[object]] = field(default_factory=dict)

    @property
    def world(self) -> World:
        assert self.script.world is not None
        return self.script.world

    def text(self, name: str) -> bytes:
        return b"".join(item.text for item in self.items[name] if isinstance(item, TaskText))

    def heads(self, name: str) -> list[TaskHead]:
        return [item for item in self.items[name] if isinstance(item, TaskHead)]

    def over(self, name: str) -> TaskOver:
        (*_, last), ends = self.items[name], [item for item in self.items[name] if isinstance(item, TaskOver)]
        assert ends == [last]
        return ends[0]

    def told(self, kind: type) -> int:
        return sum(isinstance(item, kind) for item in self.items["session"])

    def whole(self, name: str) -> None:
        """As if nothing had happened."""
        plain = undisturbed()
        assert self.text(name) == plain.text(name)
        assert self.over(name).end == plain.over(name).end
        assert self.over(name).code == ""

    def all_free(self) -> None:
        """Nobody holds anything for the session."""
        for name, node in self.world.nodes.items():
            if node.alive and name.startswith("m"):
                assert node.machine.slots() == (1, 1)
            if node.alive and name.startswith("r"):
                load = node.machine.load()
                assert (load["sessions"], load["tasks"], load["clients_away"]) == (0, 0, 0)
                assert not node.machine._clients.kept
                assert not node.machine._clients.held


def play(
    *disturbances: tuple[int, tuple[str, ...]],
    world: str = "world miners=2 tokens=9",
    wishes: str = WISHES,
    pause: int = 40_000,
) -> Played:
    """Do something after so many messages between client and router, then go on to the end."""
    script = Script()
    script.do(world)
    assert script.world is not None
    wire, due = script.world, dict(disturbances)

    def watch() -> None:
        for command in due.pop(wire.carried, ()):
            wire.at(0, lambda command=command: script.do(command))  # type: ignore[misc]

    wire.watch = watch
    for line in wishes.strip().splitlines():
        script.do(line)
    script.do(f"run {pause}")
    script.do("close c1 session")
    script.do("run 17000")
    names = {handle: name for name, handle in script.handles.items()}
    return Played(script, {names[handle]: list(items) for handle, items in wire.items.items()})


@cache
def undisturbed() -> Played:
    return play()


def test_undisturbed_it_is_this_long() -> None:
    assert undisturbed().world.carried == MESSAGES + 1, "and the answer to that"
    assert [undisturbed().text(name) for name in ASKS] == [
        b"A bear lives in the woods, mostly.",
        b"A bear lives",
        b"A bear lives in the woods",
    ]
    undisturbed().all_free()


@pytest.mark.spec("RESUME-REPLAY.1", "TASK-TERMINAL.1", "CHAIN-ORDER.1")
@pytest.mark.parametrize("notice", ["", "c1"], ids=["both notice", "the router does not"])
@pytest.mark.parametrize("after", range(5, MESSAGES))
def test_a_client_that_was_cut_off_is_shown_the_same(after: int, notice: str) -> None:
    played = play((after, (f"cut c1 r1 {notice}",)))
    for name in ASKS:
        played.whole(name)
        if played.told(SessionAssigned) == 1:
            assert played.heads(name) == undisturbed().heads(name), "the very same segment"
    assert played.told(RouterSought) == played.told(RouterFound)
    played.all_free()


@pytest.mark.spec("RESUME-REPLAY.1", "TASK-TERMINAL.1")
@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(5, 2 * MESSAGES), st.sampled_from(("", "c1"))), max_size=4))
def test_however_often_it_is_cut_off(cuts: list[tuple[int, str]]) -> None:
    played = play(*((after, (f"cut c1 r1 {notice}",)) for after, notice in cuts))
    for name in ASKS:
        played.whole(name)
    played.all_free()


@pytest.mark.spec("RESUME-REPLAY.1", "FAILOVER-NEXT.1")
@pytest.mark.parametrize("after", range(5, MESSAGES))
def test_a_miner_is_lost_while_the_client_is_away(after: int) -> None:
    played = play((after, ("cut c1 r1", "kill leased")))
    for name in ASKS:
        played.whole(name)
    played.all_free()


@pytest.mark.spec("ROUTER-TERM.1", "CHAIN-TAKEOVER.1", "ASSIGN-NUMBER.1", "TASK-TERMINAL.1")
@pytest.mark.parametrize("how", ["kill r1", "cut c1 r1 c1"])
@pytest.mark.parametrize("after", range(3, MESSAGES))
def test_another_router_goes_on_when_one_is_lost_after_any_message(after: int, how: str) -> None:
    # Cut off from a router that does not notice: it is frozen, and goes on long after.
    commands = (how,) if how.startswith("kill") else ("freeze r1", how)
    thaw = "" if how.startswith("kill") else "run 9000\nthaw r1\n"
    wishes = WISHES.replace("run 50", "run 5000") + thaw
    played = play((after, commands), world="world miners=2 routers=2 tokens=9", wishes=wishes)
    for name in ASKS:
        played.whole(name)
    numbers = [item.assignment.number for item in played.items["session"] if isinstance(item, SessionAssigned)]
    assert numbers == sorted(set(numbers))
    played.all_free()


@pytest.mark.spec("ROUTER-TERM.1", "TASK-TERMINAL.1")
@pytest.mark.parametrize("after", range(5, MESSAGES))
def test_the_router_and_its_miner_are_lost_together(after: int) -> None:
    played = play((after, ("kill r1", "kill leased")), world="world miners=3 routers=2 tokens=9")
    for name in ASKS:
        played.whole(name)
    played.all_free()


@pytest.mark.spec("TASK-TERMINAL.1", "ROUTER-TERM.1")
@pytest.mark.parametrize("after", range(3, MESSAGES))
def test_without_any_router_every_wish_ends_once_and_in_time(after: int) -> None:
    played = play(
        (after, ("kill r1", "kill r2")), world="world miners=2 routers=2 tokens=9", wishes=WISHES, pause=SEEK_MS + 5_000
    )
    (over,) = [item for item in played.items["session"] if isinstance(item, SessionOver)]
    plain = undisturbed()
    assert over.code in ("router_lost", "session_closed", "deadline_exceeded")
    for name in ASKS:
        ended = played.over(name)
        assert plain.text(name).startswith(played.text(name))
        assert ended.end is not None or ended.code in ("router_lost", "deadline_exceeded", "session_expired")
    played.all_free()


@pytest.mark.spec("RESUME-REPLAY.1", "TASK-TERMINAL.1")
@pytest.mark.parametrize("after", range(7, 26))
def test_a_cancellation_that_is_lost_on_the_way_is_said_again(after: int) -> None:
    wishes = WISHES.replace("run 300", "run 45\ncancel c1 first\nrun 300")
    played = play((after, ("cut c1 r1",)), wishes=wishes)
    first = played.over("first").end
    assert first is not None
    assert first.reason is EndReason.CANCELLED
    assert undisturbed().text("first").startswith(played.text("first"))
    for name in ("second", "third"):
        played.whole(name)
    played.all_free()


@pytest.mark.spec("RESUME-REPLAY.1", "LANE-WITHHELD.1")
@pytest.mark.parametrize("after", range(5, MESSAGES + 2))
def test_ends_of_other_lanes_are_told_once_however_the_client_comes_back(after: int) -> None:
    played = play(
        (after, ("cut c1 r1",)),
        world="world miners=3 tokens=9",
        wishes=WISHES.replace("c1 session", "c1 session lanes=2"),
    )
    for name in ASKS:
        played.whole(name)
    reports = [item.ended.head.task for item in played.items["session"] if isinstance(item, LaneReported)]
    assert sorted(reports) == [1, 2, 3]
    played.all_free()
