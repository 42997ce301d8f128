"""Log lines: for people, for machines, and what never stands in one."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from p2pnode.telemetry.log_record import fields
from p2pnode.telemetry.logs import set_up_logs
from tests.unit.p2pnode.telemetry.heard_world import HeardScript

PLAY = (
    "world miners=1 tokens=6",
    "connect c1",
    "run 20",
    "open c1 session",
    "run 50",
    "ask c1 answer session",
    "run 500",
)
PROMPT = "Where does a bear live?"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What the tests set up is taken down."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Terminal(io.StringIO):
    """Standard error, before a person."""

    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_where_nobody_looks_with_the_fields_at_the_top() -> None:
    stream = io.StringIO()
    set_up_logs("info", name="router", stream=stream)
    logging.getLogger("p2pnode.x").info("router.fail-over", extra=fields({"miner": "ab", "task": 3, "level": "x"}))
    logging.getLogger("p2pnode.x").debug("not told")
    (line,) = lines(stream)
    assert str(line.pop("time")).endswith("+00:00")
    expected = {"level": "info", "logger": "p2pnode.x", "message": "router.fail-over", "name": "router"}
    assert line == {**expected, "miner": "ab", "task": 3, "level_": "x"}


def test_lines_for_a_person_hold_nothing_that_a_terminal_acts_on() -> None:
    stream = Terminal()
    set_up_logs("info", stream=stream)
    logging.getLogger("p2pnode.x").warning("bad \x1b[2J %s", "\r\nfake I line", extra=fields({"why": "a\x9bb\u202ec"}))
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r"W p2pnode.x bad \x1b[2J \r\nfake I line why=a\x9bb\u202ec")
    assert line[:-1].isprintable()


def test_the_format_may_be_chosen() -> None:
    human, machine = io.StringIO(), Terminal()
    set_up_logs("info", "human", stream=human)
    logging.getLogger("p2pnode.x").info("hello")
    set_up_logs("info", "json", stream=machine)
    logging.getLogger("p2pnode.x").info("hello")
    assert human.getvalue().endswith("I p2pnode.x hello\n"), "and the second one took its place"
    assert [line["message"] for line in lines(machine)] == ["hello"]


@pytest.mark.parametrize("wanted", ["human", "json"])
def test_a_failure_comes_with_where_it_happened(wanted: str) -> None:
    stream = io.StringIO()
    set_up_logs("info", wanted, stream=stream)
    try:
        raise ValueError("what it was \x1b[2J")
    except ValueError:
        logging.getLogger("p2pnode.x").exception("bug")
    text = stream.getvalue()
    assert "ValueError: what it was" in text
    assert "test_logs.py" in text
    assert "\x1b" not in text


def test_tasks_are_logged_by_session_and_number_and_without_a_word_of_their_text() -> None:
    stream = io.StringIO()
    set_up_logs("debug", "json", stream=stream)
    script = HeardScript()
    script.play(*PLAY)
    order = script.span("order")
    told = [line for line in lines(stream) if line["logger"] == "p2pnode.task" and line.get("task") == 1]
    assert {line["message"] for line in told} >= {"order.over", "relay.over", "task.over"}
    assert {line["session"] for line in told} == {order.session.hex()}
    assert {line["trace_id"] for line in told} == {order.trace_id.hex()}
    assert "bear" not in stream.getvalue()


def test_prompts_and_answers_are_logged_where_that_is_asked_for() -> None:
    stream = io.StringIO()
    set_up_logs("info", "json", stream=stream)
    HeardScript(prompts=True).play(*PLAY)
    told = [line for line in lines(stream) if line["logger"] == "p2pnode.prompts"]
    assert {(line["role"], line["message"]) for line in told} == {
        ("client", "prompt"),
        ("client", "answer"),
        ("miner", "prompt"),
        ("miner", "answer"),
    }
    assert all(line["prompt"] == f"user: {PROMPT}" for line in told if line["message"] == "prompt")
    answers = {line["answer"] for line in told if line["message"] == "answer"}
    assert answers == {"A bear lives in the woods"}
