"""One answer as a program holds it: how it becomes certain after its end."""

from dataclasses import replace

import pytest
import trio
import trio.testing

from p2pnode.answer import Answer, Reached
from p2pnode.cli.chat import level_line
from protocol.core.ids import Digest
from protocol.light.levels import Checkpoint, Final, Level
from protocol.roles.client import Item, TaskLevel

FINAL = Final(3, 41, 7, 56)


def answer() -> Answer:
    _, items = trio.open_memory_channel[Item](0)
    return Answer(lambda: None, items)


def news(
    level: Level,
    after_ms: int,
    agreeing: int = 0,
    *,
    proved: tuple[Level, ...] = (),
    against: str = "",
    evidence: int = 0,
) -> TaskLevel:
    final = FINAL if level >= Level.FINALIZED else None
    settled = Checkpoint(3, 64, Digest(bytes(32))) if level is Level.SETTLED else None
    levels = proved or tuple(step for step in Level if Level.STREAMED < step <= level)
    return TaskLevel(level, levels, after_ms, agreeing, 4, final, against, evidence, settled)


def test_its_levels_are_named_with_the_time_when_each_was_proved() -> None:
    held = answer()
    assert (held.level, held.levels, held.paid_wei) == ("streamed", [], None)
    held.rise(news(Level.COMMITTED, 12))
    held.rise(news(Level.CERTIFIED, 61, 3))
    held.rise(news(Level.CERTIFIED, 70, 4))
    held.rise(news(Level.FINALIZED, 118, 4))
    assert held.level == "finalized"
    assert held.levels == [
        Reached("committed", 12, ""),
        Reached("certified", 61, "4 of 4"),
        Reached("finalized", 118, "3/41"),
    ]
    assert held.paid_wei == 56
    assert level_line(held) == "streamed → committed 12 ms → certified 4 of 4 61 ms → finalized 3/41 118 ms"
    held.rise(news(Level.SETTLED, 3_912, 4))
    assert (held.level, held.levels[-1]) == ("settled", Reached("settled", 3_912, "3/64"))


def test_a_proof_that_comes_late_is_told_in_its_place() -> None:
    held = answer()
    held.rise(news(Level.FINALIZED, 50, 0, proved=(Level.FINALIZED,)))
    held.rise(news(Level.FINALIZED, 60, 4, proved=(Level.FINALIZED, Level.CERTIFIED)))
    assert [step.level for step in held.levels] == ["certified", "finalized"]


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (news(Level.COMMITTED, 5, against="late"), "streamed → committed 5 ms; not certified: late"),
        (
            news(Level.CERTIFIED, 5, 3, proved=(Level.CERTIFIED,), against="mismatch"),
            "streamed → certified 3 of 4 5 ms; not finalized: mismatch",
        ),
        (
            news(Level.STREAMED, 5, against="another result", evidence=1),
            "streamed; not certified: another result; 1 oracle(s) contradicted themselves, which convicts them",
        ),
    ],
)
def test_what_speaks_against_it_is_told(told: TaskLevel, line: str) -> None:
    held = answer()
    held.rise(told)
    assert level_line(held) == line


async def test_waiting_ends_when_the_level_is_there(autojump_clock: trio.testing.MockClock) -> None:
    held = answer()
    async with trio.open_nursery() as nursery:

        async def rise() -> None:
            for step in (news(Level.COMMITTED, 100), news(Level.CERTIFIED, 200, 3), news(Level.FINALIZED, 300, 3)):
                await trio.sleep(0.1)
                held.rise(step)

        nursery.start_soon(rise)
        assert await held.wait_for("certified", timeout_ms=5_000)
        assert held.level == "certified"
        assert await held.wait_for("committed")
        assert await held.wait_for("finalized")
    assert round(trio.current_time() * 10) % 10 == 3


async def test_waiting_ends_when_it_cannot_come_or_time_is_up(autojump_clock: trio.testing.MockClock) -> None:
    held = answer()
    assert await held.wait_for("streamed")
    assert not await held.wait_for("finalized", timeout_ms=1_000)
    held.rise(news(Level.COMMITTED, 5, against="late"))
    assert not await held.wait_for("finalized")
    closed = answer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(closed.wait_for, "finalized")
        await trio.testing.wait_all_tasks_blocked()
        closed.settle()
    assert not await closed.wait_for("finalized")
    with pytest.raises(ValueError, match="a level is one of streamed, committed, certified, finalized, settled"):
        await held.wait_for("proved")


@pytest.mark.spec("LIGHT-OMISSION.1")
def test_what_should_be_final_by_now_is_told_as_long_as_it_is_not() -> None:
    held = answer()
    told = []
    for step in (replace(news(Level.COMMITTED, 3_000), overdue=True), news(Level.FINALIZED, 4_100, 4)):
        held.rise(step)
        told.append((held.unfinalized, "unfinalized" in level_line(held)))
    assert told == [(True, True), (False, False)]
