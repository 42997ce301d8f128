"""The router's machine, driven by hand: orders to the miner, frames to the client, one terminal event for each."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from protocol.core.machine import ChannelClosed, Close
from protocol.core.signing import typed_digest
from protocol.messages.sessions import (
    CloseSession,
    LeaseRelease,
    SessionEnded,
)
from protocol.messages.tasks import (
    AckMessage,
    CancelTask,
    FrameMessage,
    SegmentStart,
    StartTask,
    TaskFailed,
)
from protocol.roles.router.relay import CANCEL_TIMEOUT_MS
from protocol.session.lifecycle import TERMINAL_CODES
from protocol.session.transcript import LaneVerifier, expect_segment, make_ack
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    MALLORY,
    MINER,
    MODEL,
    PARAMS,
    id_of,
    opening_of,
    order_of,
    sent,
    stream_of,
    submit_of,
)
from tests.unit.protocol.router_at_hand import Route, Task

# Tasks

NOBODY_ELSE = [(TaskFailed, "miner_lost"), (TaskFailed, "miner_lost"), (SessionEnded, "miner_lost")]
"""How two orders and their session end; of one order that is over before, only the rest."""


def test_an_order_goes_through_and_its_frames_come_back_as_they_are() -> None:
    task = Task()
    (start,) = sent(task.begun, task.miner)
    assert isinstance(start, StartTask)
    assert (start.order, start.timeout_ms) == (task.order, 60_000)
    stream = task.stream()
    assert sent(task.send(stream), task.client) == stream
    assert task.route.machine.load()["tasks"] == 0
    assert task.send([stream[-1]]) == []


def test_orders_of_a_session_run_one_after_the_other() -> None:
    task = Task()
    assert sent(task.submit(2)) == []
    effects = task.send(task.stream())
    assert isinstance(sent(effects, task.client)[-1], FrameMessage)
    (start,) = sent(effects, task.miner)
    assert isinstance(start, StartTask)
    assert start.order.task == 2


@pytest.mark.spec("TASK-TERMINAL.1")
def test_orders_that_wait_are_bounded() -> None:
    task = Task()
    for number in range(2, 6):
        effects = task.submit(number)
    (failed,) = sent(effects, task.client)
    assert isinstance(failed, TaskFailed)
    assert (failed.code, failed.retry_after_ms > 0) == ("queue_full", True)


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("bad_request", {"prompt": bytes(32)}),
        ("bad_request", {"sampling": bytes(32)}),
        ("bad_request", {"max_tokens": 0}),
        ("bad_request", {"max_tokens": 32_769}),
    ],
)
@pytest.mark.spec("ORDER-PROMPT.1")
def test_an_order_that_cannot_be_run_fails_and_the_session_stays(code: str, fields: dict[str, Any]) -> None:
    task = Task()
    (failed,) = sent(task.submit(2, **fields))
    assert isinstance(failed, TaskFailed)
    assert (failed.task, failed.code) == (2, code)
    assert sent(task.send(task.stream()), task.client)


@pytest.mark.parametrize("fields", [{"task": 1}, {"task": 11}, {"task": 2, "client": MALLORY}])
def test_an_order_out_of_turn_or_not_the_clients_ends_the_connection(fields: dict[str, Any]) -> None:
    task = Task()
    effects = task.submit(**fields)
    assert Close(task.client) in effects
    assert sent(effects, task.miner) == [LeaseRelease(id_of(task.opening))]
    task.route.empty()


@pytest.mark.spec("TASK-TERMINAL.1", "CHAIN-SIGNER.1")
@pytest.mark.parametrize("place", range(5))
def test_a_frame_that_does_not_hold_costs_the_miner_its_lease_and_is_not_passed_on(place: int) -> None:
    task = Task()
    task.submit(2)
    stream = task.stream()
    honest, bad = stream[: place + 1], stream[place + 1]
    assert isinstance(bad, FrameMessage)
    task.send(honest)
    effects = task.send([msgspec.structs.replace(bad, signature=bytes(64) + b"\x1b"), *stream[place + 1 :]])
    assert sent(effects, task.client) == []
    assert Close(task.miner) in effects
    effects = task.route.wait(PARAMS.first_frame_timeout_ms)
    assert [(type(m), m.code) for m in task.ended(effects)] == NOBODY_ELSE
    task.route.tell(ChannelClosed(task.client, "left"))
    task.route.empty()


@pytest.mark.spec("TASK-TERMINAL.1", "FAILOVER-NEXT.1")
@pytest.mark.parametrize("sent_before", range(6))
def test_a_miner_lost_at_any_point_ends_everything_once_if_nobody_takes_over(sent_before: int) -> None:
    task = Task()
    task.submit(2)
    task.send(task.stream()[:sent_before])
    effects = task.route.tell(ChannelClosed(task.miner, "reset"))
    assert task.ended(effects) == []
    assert task.route.machine._measured[MINER.node].success_bp < 10_000
    assert sent(effects, task.miner) == []
    assert task.ended(task.route.wait(PARAMS.first_frame_timeout_ms - 1)) == []
    effects = task.route.wait(1)
    assert [(type(m), m.code) for m in task.ended(effects)] == NOBODY_ELSE
    assert [m.code for m in sent(task.submit(3))] == ["session_expired"]


@pytest.mark.spec("TASK-TERMINAL.1", "FAILOVER-STALL.1")
@pytest.mark.parametrize("sent_before", [0, 1, 3])
def test_a_miner_that_stalls_loses_its_lease(sent_before: int) -> None:
    task = Task()
    task.submit(2)
    for message in task.stream()[:sent_before]:
        task.route.wait(2_500)
        task.send([message])
    limit_ms = PARAMS.first_frame_timeout_ms - 2_500 * sent_before if sent_before < 2 else PARAMS.frame_gap_timeout_ms
    assert task.route.wait(limit_ms - 1) == []
    effects = task.route.wait(1)
    assert Close(task.miner, key=id_of(task.opening)) in effects
    assert task.ended(effects) == []
    effects = task.route.wait(PARAMS.first_frame_timeout_ms)
    assert [m.code for m in task.ended(effects)] == ["miner_lost"] * 3


@pytest.mark.spec("TASK-TERMINAL.1")
def test_an_order_ends_by_its_own_deadline_and_the_next_one_starts() -> None:
    task = Task()
    head, first, *others = task.stream()[:-1]
    task.send([head, first])
    task.route.wait(15_000)
    task.submit(2)
    for message in others:
        task.send([message])
        effects = task.route.wait(15_000)
    assert [(m.task, m.code) for m in task.ended(effects)] == [(1, "deadline_exceeded")]
    cancel, start = sent(effects, task.miner)
    assert cancel == CancelTask(id_of(task.opening), 1)
    assert isinstance(start, StartTask)
    assert (start.order.task, start.timeout_ms) == (2, 15_000)
    assert task.send([task.stream()[-1]]) == [], "what comes late is nobody's any more"


def test_a_client_that_leaves_and_does_not_come_back_releases_the_slot() -> None:
    task = Task(Route(params=replace(PARAMS, resume_window_ms=100)))
    task.send(task.stream()[:3])
    assert task.route.tell(ChannelClosed(task.client, "left")) == []
    effects = task.route.wait(100)
    assert sent(effects, task.miner) == [LeaseRelease(id_of(task.opening))]
    task.route.empty()
    assert task.send(task.stream()[3:]) == []


@pytest.mark.spec("TASK-TERMINAL.1")
def test_a_cancelled_order_ends_once_whatever_its_miner_does() -> None:
    task = Task()
    task.submit(2)
    task.send(task.stream()[:3])
    cancel = CancelTask(id_of(task.opening), 1)
    assert sent(task.route.receive(task.client, cancel), task.miner) == [cancel]
    assert task.route.receive(task.client, cancel) == []
    task.send([task.stream()[3]])
    effects = task.route.wait(CANCEL_TIMEOUT_MS)
    assert [(m.task, m.code) for m in task.ended(effects)] == [(1, "cancelled")]
    assert Close(task.miner, key=id_of(task.opening)) in effects, "a miner that does not stop is no miner to keep"
    effects = task.route.wait(PARAMS.first_frame_timeout_ms)
    assert [(type(m), m.code) for m in task.ended(effects)] == NOBODY_ELSE[1:]
    waiting = Task()
    waiting.submit(2)
    (failed,) = sent(waiting.route.receive(waiting.client, CancelTask(id_of(waiting.opening), 2)))
    assert isinstance(failed, TaskFailed)
    assert (failed.task, failed.code) == (2, "cancelled")
    assert waiting.route.receive(waiting.client, CancelTask(id_of(waiting.opening), 7)) == []


@pytest.mark.spec("ACK-SIGNED.1")
def test_acks_are_relayed_if_they_are_the_clients() -> None:
    task = Task()
    task.send(task.stream()[:3])
    lane = LaneVerifier(DOMAIN, expect_segment(DOMAIN, task.order, 0, GENERATION, MINER.node, MODEL))
    start, frame = task.stream()[:2]
    assert isinstance(start, SegmentStart)
    assert isinstance(frame, FrameMessage)
    lane.begin(start.head)
    lane.take(frame)
    ack = make_ack(DOMAIN, CLIENT.sign, lane)
    assert sent(task.route.receive(task.client, ack), task.miner) == [ack]
    assert task.route.receive(task.client, foreign(ack)) == []
    forged = AckMessage(ack.ack, MALLORY.sign(typed_digest(DOMAIN, ack.ack)))
    effects = task.route.receive(task.client, forged)
    assert Close(task.client) in effects
    assert sent(effects, task.miner) == [LeaseRelease(id_of(task.opening))]
    assert MINER.node not in task.route.machine._measured or task.route.machine._measured[MINER.node].tasks == 0


def foreign(message: AckMessage) -> AckMessage:
    """An ack for a session that is not this client's."""
    ack = msgspec.structs.replace(message.ack, session=bytes(32))
    return AckMessage(ack, CLIENT.sign(typed_digest(DOMAIN, ack)))


@pytest.mark.parametrize("code", ["prompt_too_long", "bad_request", "deadline_exceeded"])
def test_a_miners_refusal_that_is_not_its_fault_reaches_the_client(code: str) -> None:
    task = Task()
    effects = task.send([TaskFailed(id_of(task.opening), 1, code, "because", 10**9)])
    (failed,) = task.ended(effects)
    assert isinstance(failed, TaskFailed)
    assert failed.code == code in TERMINAL_CODES
    assert failed.retry_after_ms <= 60_000
    assert sent(task.submit(2), task.miner)


def test_a_miner_says_nothing_of_orders_it_was_not_given() -> None:
    for message in (
        TaskFailed(id_of(opening_of()), 2, "engine_failed", "", 0),
        *stream_of(order_of(opening_of(), 2))[:2],
    ):
        task = Task()
        task.submit(2)
        assert Close(task.miner) in task.send([message])


def test_clients_are_told_only_of_their_own_sessions() -> None:
    task = Task()
    stranger = task.route.client(MALLORY)
    for message in (CloseSession(id_of(task.opening)), CancelTask(id_of(task.opening), 1)):
        assert task.route.receive(stranger, message) == []
    (failed,) = sent(task.route.receive(stranger, submit_of(task.opening, 2)), stranger)
    assert isinstance(failed, TaskFailed)
    assert failed.code == "session_expired"
    assert Close(stranger) in task.route.receive(stranger, task.stream()[0])
    assert sent(task.send(task.stream()), task.client) == task.stream()
