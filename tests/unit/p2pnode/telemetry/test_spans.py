"""What is told of a task's life: by real machines, in the scenarios' world."""

import hashlib

import pytest

from p2pnode.telemetry.instruments import Instruments
from p2pnode.telemetry.span import Span, in_json, span_id, trace_id
from p2pnode.telemetry.tap import Counts, Tap
from p2pnode.telemetry.teller import Table, known_code
from protocol.core.ids import NodeId
from protocol.core.machine import Note
from tests.unit.p2pnode.telemetry.heard_world import HeardScript

START = ("connect c1", "run 20", "open c1 session", "run 50")


def test_ids_follow_from_session_task_role_and_node() -> None:
    session, node = bytes(range(32)), NodeId(bytes(range(20)))
    number = (7).to_bytes(8, "big")
    assert trace_id(session, 7) == hashlib.sha256(b"p2pnode/trace/1" + session + number).digest()[:16]
    expected = hashlib.sha256(b"p2pnode/span/1" + session + number + b"miner" + node).digest()[:8]
    assert span_id(session, 7, "miner", node) == expected
    assert trace_id(session, 8) != trace_id(session, 7)
    assert span_id(session, 7, "router", node) != expected


def test_the_spans_of_a_task_are_one_tree_whoever_wrote_them() -> None:
    script = HeardScript()
    script.play("world miners=2 tokens=6", *START, "ask c1 answer session", "run 500")
    world = script.here
    order, relay, task = script.span("order"), script.span("relay"), script.span("task")
    assert order.node == world.nodes["c1"].key.node
    assert relay.node == world.nodes["r1"].key.node
    assert task.node == world.nodes[world.leased].key.node
    assert order.parent is None
    assert relay.parent == order.span_id
    assert task.parent == relay.span_id
    of_task = [span for span in script.spans if span.task == 1]
    assert {span.name for span in of_task} == {"order", "relay", "task", "queue", "prefill", "generation"}
    assert {span.trace_id for span in of_task} == {trace_id(order.session, 1)}
    ids = {span.span_id for span in of_task}
    assert len(ids) == len(of_task)
    assert all(span.parent in ids for span in of_task if span is not order)
    assert all(span.start_ns <= span.end_ns for span in script.spans)
    # And each lies within the one above it, as long as the clock is one.
    assert order.start_ns < relay.start_ns < task.start_ns
    assert task.end_ns <= relay.end_ns <= order.end_ns


def test_a_session_is_a_trace_of_its_own_that_its_orders_name() -> None:
    script = HeardScript()
    script.play("world miners=2", *START, "ask c1 answer session", "run 500")
    client, router, order = script.span("session", "client"), script.span("session", "router"), script.span("order")
    assert client.task == router.task == 0
    assert router.parent == client.span_id
    assert router.trace_id == client.trace_id != order.trace_id
    assert [(link.trace_id, link.span_id) for link in order.links] == [(client.trace_id, client.span_id)]
    # 10 ms to the router and back, 10 for bids, 10 for a lease, and 1 for the router's disk, as a scenario's trace
    # has it; the router's part is over when it says so to its disk.
    assert client.end_ns - client.start_ns == 31_000_000
    assert router.end_ns - router.start_ns == 20_000_000


def test_an_order_says_what_it_took() -> None:
    script = HeardScript()
    script.play("world miners=1 tokens=6 token=10", *START, "ask c1 answer session", "run 500")
    order, relay, task = script.span("order"), script.span("relay"), script.span("task")
    for span in (order, relay, task):
        assert span.code == ""
        assert span.attributes["finish"] == "length"
        assert span.attributes["prompt_tokens"] == 3
        assert span.attributes["completion_tokens"] == 6
        assert "resumed_tokens" not in span.attributes
        assert span.attributes["model"] == script.span("session", "client").attributes["model"]
    assert order.attributes["attempts"] == relay.attributes["attempts"] == 1
    first = [span.attributes["first_token_us"] for span in (order, relay, task)]
    assert first[0] > first[1] > first[2] > 0
    prefill, generation = script.span("prefill"), script.span("generation")
    assert prefill.end_ns == generation.start_ns
    assert generation.attributes["tokens"] == 6
    # Six tokens at 10 ms each: the first ends the prefill.
    assert 50_000_000 <= generation.end_ns - generation.start_ns <= 70_000_000


def test_a_takeover_counts_as_an_attempt_and_what_it_went_on_from_as_resumed() -> None:
    script = HeardScript()
    commands = ("ask c1 answer session tokens=9", "run 60", "kill leased", "run 20000")
    script.play("world miners=2 tokens=9", *START, *commands)
    order, relay, task = script.span("order"), script.span("relay"), script.span("task")
    assert order.code == relay.code == ""
    assert order.attributes["attempts"] == relay.attributes["attempts"] == 2
    resumed = order.attributes["resumed_tokens"]
    assert isinstance(resumed, int)
    assert 0 < resumed < 9
    assert relay.attributes["resumed_tokens"] == task.attributes["resumed_tokens"] == resumed
    # The miner that died told nothing; the other one's span hangs under the same router's.
    assert task.parent == relay.span_id
    assert task.attributes["completion_tokens"] == 9 - resumed
    assert order.attributes["completion_tokens"] == 9
    assert script.instruments["r1"].counts.notes["router.fail-over"] >= 1


def test_a_cancelled_order_and_one_that_failed_say_so() -> None:
    script = HeardScript()
    commands = ("ask c1 answer session tokens=9", "run 60", "cancel c1 answer", "run 200")
    script.play("world miners=1 tokens=9", *START, *commands)
    assert script.span("order").attributes["finish"] == "cancelled"
    failed = HeardScript()
    commands = ("ask c1 answer session tokens=9 timeout=3000", "run 60", "kill leased", "run 20000")
    failed.play("world miners=1 tokens=9", *START, *commands)
    order, relay = failed.span("order"), failed.span("relay")
    assert order.code == relay.code != ""
    assert "finish" not in order.attributes


def test_a_session_that_found_no_miner_is_of_no_trace_and_told_all_the_same() -> None:
    script = HeardScript()
    script.play("world miners=1", "connect c1", "run 20", "kill m1", "open c1 session timeout=2000", "run 20000")
    client = script.span("session", "client")
    assert client.code == "no_capacity"
    assert client.session == b""
    assert script.span("session", "router").code == "no_capacity"


def test_lanes_of_a_task_are_spans_of_different_miners() -> None:
    script = HeardScript()
    commands = ("open c1 session lanes=2", "run 60", "ask c1 answer session tokens=6", "run 800")
    script.play("world miners=2 tokens=6", "connect c1", "run 20", *commands)
    tasks = [span for span in script.spans if span.name == "task"]
    assert {span.role for span in tasks} == {"miner", "miner.1"}
    assert len({span.node for span in tasks}) == 2
    relay = script.span("relay")
    assert {span.parent for span in tasks} == {relay.span_id}


def test_messages_streams_and_bids_are_counted() -> None:
    script = HeardScript()
    script.play("world miners=2", *START, "ask c1 answer session", "run 500")
    router = script.instruments["r1"].counts
    assert router.messages["router", "received", "Envelope"] == 2
    assert router.messages["router", "sent", "StartTask"] == 1
    assert router.messages["router", "published", "sessions"] == 1
    assert router.streams["router", "accepted", "bid"] == 2
    assert router.streams["router", "accepted", "client"] == 1
    miners = [script.instruments[name].counts for name in ("m1", "m2")]
    assert [counts.streams["miner", "opened", "bid"] for counts in miners] == [1, 1]
    assert sum(counts.messages["miner", "received", "StartTask"] for counts in miners) == 1
    assert all(made.counts.bugs == 0 for made in script.instruments.values())


class _Broken:
    """Work that fails at whatever it hears."""

    def __init__(self) -> None:
        self.events = self.received = self.sent = {}
        self.effects = {Note: self._fail}

    def _fail(self, _effect: Note) -> None:
        raise ZeroDivisionError


def test_what_fails_in_listening_is_logged_once_and_never_reaches_the_machine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts = Counts()
    tap = Tap("router", counts, [_Broken()])
    for _ in range(3):
        tap.effect(Note("router.fail-over"))
    assert counts.notes == {"router.fail-over": 3}
    assert counts.bugs == 3
    assert caplog.text.count("Traceback") == 1


def test_a_place_for_spans_that_fails_keeps_no_other_from_its_own(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[Span] = []

    def fail(_span: Span) -> None:
        raise OSError("gone")

    instruments = Instruments()
    instruments.sinks += [fail, taken.append]
    span = Span("relay", "router", NodeId(bytes(20)), bytes(32), 3, 10, 25)
    instruments.take(span)
    instruments.take(span)
    assert taken == [span, span]
    assert instruments.counts.bugs == 2
    assert caplog.text.count("Traceback") == 1


def test_tables_are_bounded_and_forget_the_oldest() -> None:
    table: Table[int, str] = Table(3)
    for number in range(5):
        table.put(number, str(number))
    assert len(table) == 3
    assert table.get(0) is table.get(1) is None
    assert table.pop(4) == "4"


def test_codes_that_no_rule_knows_are_not_repeated() -> None:
    assert known_code("") == ""
    assert known_code("miner_lost") == "miner_lost"
    assert known_code("<script>") == "other"


def test_a_span_in_a_file_says_all_of_it() -> None:
    span = Span("relay", "router", NodeId(bytes(20)), bytes(32), 3, 10, 25, parent=bytes(8), code="miner_lost")
    told = in_json(span)
    assert told["trace_id"] == span.trace_id.hex()
    assert told["parent_span_id"] == "00" * 8
    assert (told["start_unix_nano"], told["end_unix_nano"]) == (10, 25)
    assert told["code"] == "miner_lost"
