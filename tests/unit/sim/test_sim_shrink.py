"""Fewer faults that still fail, and the draws that give them."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.sim.runner import run
from p2pnode.sim.shrink import shrink, smallest
from p2pnode.sim.swarm import ALL_KINDS, Menu, draw_faults

NODES = ("a", "b", "c", "d")
MENU = Menu(nodes=NODES, crashing=NODES[:2], from_ms=1_000, heal_ms=20_000, wiped_bp=500, kinds=ALL_KINDS)


@given(st.lists(st.integers(0, 99), unique=True, min_size=1, max_size=40), st.data())
def test_the_smallest_part_that_fails_is_found(items: list[int], data: st.DataObject) -> None:
    needed = set(data.draw(st.lists(st.sampled_from(items), unique=True, max_size=5)))
    found = smallest(items, lambda part: needed <= set(part))
    assert found == [item for item in items if item in needed]


def test_of_what_is_left_nothing_can_be_left_out() -> None:
    def fails(part: object) -> bool:
        assert isinstance(part, list)
        return sum(part) >= 10

    found = smallest([1, 2, 3, 4, 5, 6], fails)
    assert sum(found) >= 10
    assert all(sum(found) - item < 10 for item in found)


def test_a_violated_run_is_shrunk_to_the_faults_it_needs() -> None:
    result = run(5, "fast-path", mutation="absent-kept")
    seeds = iter(range(40))
    while result.violation is None:
        result = run(next(seeds), "fast-path", mutation="absent-kept")
    small = shrink(result)
    assert small.violation is not None
    assert small.violation.invariant == result.violation.invariant
    assert len(small.faults) < max(2, len(result.faults))
    assert set(small.faults) <= set(result.faults)


def test_nothing_is_shrunk_where_nothing_failed() -> None:
    result = run(0, "fast-path")
    with pytest.raises(ValueError, match="nothing to shrink"):
        shrink(result)


def test_drawn_faults_keep_within_the_menu_and_every_kind_comes_up() -> None:
    kinds = set()
    for seed in range(60):
        faults = draw_faults(Random(seed), MENU)
        assert faults == draw_faults(Random(seed), MENU)
        kinds |= {type(fault).__name__ for fault in faults}
        for fault in faults:
            assert MENU.from_ms <= getattr(fault, "at_ms", MENU.from_ms) < MENU.heal_ms
            if type(fault).__name__ in ("Crash", "CrashAtEffect", "DiskFails"):
                assert fault.node in MENU.crashing  # type: ignore[attr-defined]
    assert kinds == {
        *("Crash", "CrashAtEffect", "Cut", "DiskFails", "Drop"),
        *("Loss", "Slow", "SlowNode", "ClockJump"),
    }
    assert any(draw_faults(Random(seed), MENU) == () for seed in range(60)), "some worlds are quiet"
