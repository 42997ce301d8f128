"""The miner's machine, driven by hand: what it streams, how far, and when it stops."""

from dataclasses import replace

import msgspec
import pytest

from protocol.core.machine import ChannelClosed, Close, Send, Sent
from protocol.core.signing import typed_digest
from protocol.messages.sessions import (
    LeaseGrant,
    LeaseRelease,
)
from protocol.messages.tasks import (
    AckMessage,
    CancelTask,
    EndReason,
    FrameMessage,
    SegmentStart,
    TaskOrder,
)
from protocol.roles.miner import (
    CancelGeneration,
    Generate,
    GenerationFailed,
)
from protocol.session.transcript import make_ack
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    MALLORY,
    PARAMS,
    PROMPT_TOKENS,
    id_of,
    of,
    opening_of,
    sent,
)
from tests.unit.protocol.miner_at_hand import UNACKED, Mine, Run

# Streaming


def test_one_frame_is_in_flight_and_what_is_ready_joins_the_next() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    assert [m.first_index for m in sent(run.produce(1)) if isinstance(m, FrameMessage)] == [0]
    for _ in range(5):
        assert run.produce(3) == []
    assert run.finish() == []
    (frame,) = sent(run.report())
    assert isinstance(frame, FrameMessage)
    assert (len(frame.ids), frame.end is not None) == (15, True)
    assert run.report() == []
    assert run.verifier.finish().completion_tokens == 16


@pytest.mark.spec("ACK-CREDIT.1")
def test_no_token_leaves_beyond_the_credit_of_the_last_ack() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    acked = 0
    for _ in range(10):
        run.produce(37)
        while any(isinstance(m, FrameMessage) for m in sent(run.report())):
            pass
        assert run.verifier.index - acked <= UNACKED
        if run.verifier.index - acked == UNACKED:
            acked = run.verifier.index
            run.ack()
    assert run.verifier.index > 2 * UNACKED


@pytest.mark.spec("ACK-CREDIT.1")
def test_a_client_that_stops_acknowledging_loses_its_task_and_not_the_lease() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    patience_ms = PARAMS.frame_gap_timeout_ms // 2
    run.produce(UNACKED + 50)
    run.report()
    for _ in range(9):
        # Neither more tokens nor the same old ack buys more time.
        assert run.mine.wait(patience_ms // 10) == []
        run.produce(1)
        run.ack(index=0)
    effects = run.mine.wait(patience_ms // 10)
    assert run.failed([e for e in effects if isinstance(e, Send)]).code == "ack_timeout"
    assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
    assert run.mine.machine.slots() == (1, 2)
    assert of(Run(run.mine, run.opening, 2, (run.channel, run.generation)).begun, Generate)


@pytest.mark.spec("ACK-SIGNED.1", "ACK-CREDIT.1")
@pytest.mark.parametrize(("index", "chain"), [(99, None), (1, bytes(32))], ids=["not sent yet", "another chain"])
def test_a_client_that_acknowledges_nonsense_loses_its_task(index: int, chain: bytes | None) -> None:
    run = Run(Mine(), opening_of())
    run.render()
    run.produce(1)
    effects = run.ack(index, chain)
    assert run.failed([e for e in effects if isinstance(e, Send)]).code == "bad_request"
    assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
    assert run.mine.machine.slots() == (1, 2)


@pytest.mark.spec("ACK-SIGNED.1")
def test_an_ack_that_the_client_did_not_sign_is_the_routers_fault() -> None:
    for change in ("key", "generation", "session"):
        run = Run(Mine(), opening_of())
        run.render()
        run.produce(1)
        good = make_ack(DOMAIN, CLIENT.sign, run.verifier).ack
        ack = (
            good if change == "key" else msgspec.structs.replace(good, **{change: b"\x09" * len(getattr(good, change))})
        )
        signer = MALLORY if change == "key" else CLIENT
        effects = run.mine.receive(run.channel, AckMessage(ack, signer.sign(typed_digest(DOMAIN, ack))))
        assert Close(run.channel) in effects
        assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
        assert run.mine.machine.slots() == (2, 2)


def test_the_next_order_may_come_before_the_last_frame_is_reported() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    run.produce(2)
    run.report()
    run.finish()
    following = Run(run.mine, run.opening, 2, (run.channel, run.generation))
    assert of(following.begun, Generate)
    following.render()
    assert following.produce(3) == [], "one frame in flight on the stream, whosever it is"
    (frame,) = sent(following.report())
    assert isinstance(frame, FrameMessage)
    assert (frame.task, len(frame.ids)) == (2, 3)


@pytest.mark.spec("ORDER-PARALLEL.1")
def test_orders_run_beside_each_other_as_long_as_nobody_else_has_the_slots() -> None:
    mine, opening = Mine(), opening_of()
    channel, effects = mine.request(opening)
    (grant,) = sent(effects, channel)
    assert isinstance(grant, LeaseGrant)
    assert grant.orders == 2, "as many as the miner has slots"
    leased = channel, grant.generation
    first, second = Run(mine, opening, 1, leased), Run(mine, opening, 2, leased)
    assert of(first.begun, Generate)
    assert of(second.begun, Generate)
    assert mine.machine.slots() == (0, 2)
    refused = Run(mine, opening, 3, leased)
    failed = refused.failed(refused.begun)
    assert (failed.code, failed.retry_after_ms) == ("queue_full", 1_000)
    second.render()
    second.finish()
    assert mine.machine.slots() == (1, 2), "the lease holds one, whatever runs"
    assert of(Run(mine, opening, 3, leased).begun, Generate), "what was refused was not begun"


@pytest.mark.spec("ORDER-PARALLEL.1")
def test_a_slot_that_another_session_holds_is_not_to_spare() -> None:
    mine = Mine()
    run = Run(mine, opening_of())
    mine.lease(opening_of(number=2))
    refused = Run(mine, run.opening, 2, (run.channel, run.generation))
    assert refused.failed(refused.begun).code == "queue_full"


def test_lanes_of_one_lease_have_their_frames_in_turns() -> None:
    mine, opening = Mine(), opening_of()
    leased = mine.lease(opening)
    runs = [Run(mine, opening, task, leased) for task in (1, 2)]
    for run in runs:
        run.render()
    tasks = []
    for _ in range(4):
        frames = [message for run in runs for message in sent(run.produce(3)) if isinstance(message, FrameMessage)]
        frames += [message for message in sent(mine.tell(Sent(leased[0]))) if isinstance(message, FrameMessage)]
        tasks += [frame.task for frame in frames]
    assert tasks == [1, 2, 1, 2, 1]


# Ends


@pytest.mark.spec("TASK-TERMINAL.1")
def test_a_cancelled_order_ends_with_a_signed_end_or_a_code() -> None:
    before = Run(Mine(), opening_of())
    assert before.failed([e for e in before.cancel() if isinstance(e, Send)]).code == "cancelled"
    run = Run(Mine(), opening_of())
    run.render()
    run.produce(1)
    run.produce(40)
    effects = run.cancel()
    assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
    assert sent(effects) == [], "a frame is in flight"
    run.report()
    assert run.verifier.finish().reason is EndReason.CANCELLED
    assert run.verifier.finish().completion_tokens == 1
    assert run.produce(5) == run.finish() == run.cancel() == run.report() == []
    ended = Run(Mine(), opening_of())
    ended.render()
    ended.finish()
    assert ended.cancel() == []
    assert ended.verifier.finish().reason is EndReason.STOP


def test_a_cancellation_needs_no_credit() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    run.produce(UNACKED + 1)
    run.report()
    run.cancel()
    assert run.verifier.finish().completion_tokens == UNACKED
    assert run.mine.wait(PARAMS.frame_gap_timeout_ms) == []


def test_cancelling_another_task_or_session_does_nothing() -> None:
    run = Run(Mine(), opening_of())
    for other in (CancelTask(run.order.session, 2), CancelTask(bytes(32), 1)):
        assert run.mine.receive(run.channel, other) == []
    run.render()
    assert sent(run.produce(1))


@pytest.mark.spec("TASK-TERMINAL.1")
def test_the_deadline_of_an_order_ends_it_once() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    run.produce(1)
    run.report()
    effects = run.mine.wait(60_000)
    assert run.failed([e for e in effects if isinstance(e, Send)]).code == "deadline_exceeded"
    assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
    assert run.produce(1) == run.finish() == []
    assert run.mine.machine.slots() == (1, 2)


def test_an_order_that_is_written_has_no_deadline_any_more() -> None:
    run = Run(Mine(), opening_of())
    run.render()
    run.finish()
    assert run.mine.wait(60_000) == [], "its end waits for the connection, which has a deadline of its own"


@pytest.mark.parametrize("code", ["prompt_too_long", "no_capacity", "engine_failed"])
def test_what_the_engine_cannot_run_ends_with_its_code(code: str) -> None:
    run = Run(Mine(), opening_of())
    failed = run.failed([e for e in run.mine.tell(GenerationFailed(run.name, code, "no")) if isinstance(e, Send)])
    assert (failed.code, failed.retry_after_ms > 0) == (code, code == "no_capacity")
    assert of(Run(run.mine, run.opening, 2, (run.channel, run.generation)).begun, Generate)


def test_a_lost_router_frees_the_slot_and_stops_the_engine() -> None:
    for event in (None, LeaseRelease(id_of(opening_of()))):
        run = Run(Mine(), opening_of())
        run.render()
        run.produce(1)
        if event is None:
            effects = run.mine.tell(ChannelClosed(run.channel, "gone"))
        else:
            effects = run.mine.receive(run.channel, event)
        assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
        assert (run.mine.machine.slots(), run.mine.machine.next_deadline()) == ((2, 2), None)
        assert run.produce(1) == run.finish() == []


def test_lanes_that_wind_down_are_bounded() -> None:
    mine, opening = Mine(replace(PARAMS, lease_idle_ms=10**6)), opening_of(tasks_max=100)
    leased = mine.lease(opening)
    for task in range(1, 100):
        run = Run(mine, opening, task, leased)
        run.render()
        run.produce(2)
        if task % 2:
            run.cancel()
        else:
            run.finish()
        run.report()
        run.report()
        assert run.verifier.finish().completion_tokens == 2
        (lease,) = mine.machine._leases.values()
        assert len(lease.lanes) <= 5
    assert len(mine.machine._deadlines) == 1


def test_the_head_binds_the_order() -> None:
    run = Run(Mine(), opening_of())
    (start,) = sent(run.render())
    assert isinstance(start, SegmentStart)
    order: TaskOrder = run.order
    assert start.head.order == typed_digest(DOMAIN, order)
    assert (start.head.prompt_token_count, start.head.generation) == (len(PROMPT_TOKENS), run.generation)
