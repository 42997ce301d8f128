"""The two tables: every state can be reached, ends are ends, and nothing walks outside of them."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.errors import RemoteProtocolError
from protocol.session.lifecycle import (
    SESSION_TABLE,
    TASK_TABLE,
    TERMINAL_CODES,
    Lifecycle,
    SessionFact,
    SessionState,
    TaskFact,
    TaskState,
    session_lifecycle,
    task_lifecycle,
)

Table = Mapping[Any, Mapping[Any, Any]]
TABLES = {
    "session": (SESSION_TABLE, SessionState, SessionFact, {SessionState.ENDED}),
    "task": (TASK_TABLE, TaskState, TaskFact, {TaskState.DONE, TaskState.CANCELLED, TaskState.FAILED}),
}
each_table = pytest.mark.parametrize(("table", "states", "facts", "ends"), TABLES.values(), ids=TABLES)


def reachable(table: Table, start: Any) -> set[Any]:
    """All states that some walk from ``start`` passes."""
    found, front = {start}, [start]
    while front:
        for state in table[front.pop()].values():
            if state not in found:
                found.add(state)
                front.append(state)
    return found


@pytest.mark.spec("LIFECYCLE-TABLE.1")
@each_table
def test_every_state_is_reached_and_every_fact_used(
    table: Table, states: type[StrEnum], facts: type[StrEnum], ends: set[StrEnum]
) -> None:
    assert set(table) == set(states)
    assert reachable(table, next(iter(states))) == set(states)
    assert {fact for row in table.values() for fact in row} == set(facts)


@pytest.mark.spec("LIFECYCLE-TABLE.1")
@each_table
def test_an_end_has_no_exits_and_is_near_from_everywhere(
    table: Table, states: type[StrEnum], facts: type[StrEnum], ends: set[StrEnum]
) -> None:
    assert {state for state in states if not table[state]} == ends
    for state in set(states) - ends:
        assert ends & set(table[state].values()), f"{state} has no way to end at once"


@pytest.mark.spec("LIFECYCLE-TABLE.1", "TASK-TERMINAL.1")
@given(st.data(), st.sampled_from(sorted(TABLES)))
def test_any_walk_stays_in_the_table_and_ends_once(data: st.DataObject, name: str) -> None:
    table, _, facts, ends = TABLES[name]
    life: Lifecycle[Any, Any] = session_lifecycle() if name == "session" else task_lifecycle()
    ended = 0
    for fact in data.draw(st.lists(st.sampled_from(list(facts)), max_size=40)):
        before = life.state
        if life.allows(fact):
            assert life.take(fact) == table[before][fact]
            ended += life.over
        else:
            with pytest.raises(RemoteProtocolError, match=re.escape(f"{fact.value!r} has no place in")):
                life.take(fact)
            assert life.state == before
    assert ended == (life.state in ends)


def test_a_whole_session_and_a_whole_task() -> None:
    session = session_lifecycle()
    for fact in (
        SessionFact.OPENED,
        SessionFact.ANNOUNCED,
        SessionFact.STARVED,
        SessionFact.ANNOUNCED,
        SessionFact.CLOSED,
        SessionFact.STARVED,
        SessionFact.ANNOUNCED,
        SessionFact.CLOSED,
        SessionFact.ASSIGNED,
        SessionFact.ENDED,
    ):
        assert not session.over
        session.take(fact)
    assert session.over
    task = task_lifecycle()
    for step in (TaskFact.ORDERED, TaskFact.STARTED, TaskFact.HEAD, TaskFact.FRAME, TaskFact.FRAME, TaskFact.END):
        task.take(step)
    assert (task.state, task.over) == (TaskState.DONE, True)


def test_codes_are_stable_words() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) and len(code) <= 64 for code in TERMINAL_CODES)
    assert all(meaning for meaning in TERMINAL_CODES.values())
