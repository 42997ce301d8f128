"""The router's machine and second starts: when, at what price, and that whoever loses leaves no trace."""

import pytest

from protocol.core.machine import ChannelClosed
from protocol.messages.sessions import LeaseRelease, SessionReady
from protocol.messages.tasks import EndReason, EndRecord, FrameMessage, SegmentStart, StartTask, TaskFailed
from protocol.roles.router.hedging import PATIENCE_FACTOR
from protocol.session.transcript import SegmentWriter
from tests.unit.protocol.failover_at_hand import words
from tests.unit.protocol.lanes_at_hand import HEDGE_MS, LANES_PARAMS, done, hedged, late, ready
from tests.unit.protocol.machines import DOMAIN, MALLORY, PROMPT, of, sent, submit_of

# When


@pytest.mark.spec("HEDGE-START.1")
@pytest.mark.parametrize("streamed", [0, 1])
def test_a_late_first_frame_starts_the_order_at_the_next_in_rank_as_well(streamed: int) -> None:
    cast = ready(1, hedge_bp=500)
    cast.order()
    cast.stream(cast.lane(0), streamed)
    cast.wait(HEDGE_MS - 1)
    assert cast.asked() == []
    cast.wait(1)
    (second,) = cast.asked()
    cast.grant(second)
    assert second.start.assignment.number == 2
    assert second.start.assignment.miners == (second.miner.node,)
    assert [a.number for a in cast.assignments] == [1], "the client hears nothing of it"
    cast.stream(cast.lane(0))
    done(cast)


@pytest.mark.spec("HEDGE-START.1")
@pytest.mark.parametrize(("begin_ms", "patience_ms"), [(10, 250), (200, 400), (700, 1_400)])
def test_late_is_twice_what_the_miner_lately_took(begin_ms: int, patience_ms: int) -> None:
    cast = ready(1, hedge_bp=500)
    size = sum(len(turn.content) for turn in PROMPT.messages)
    cast.route.machine._measured.of(cast.lane(0).miner.node).began(begin_ms, size)
    cast.order()
    cast.wait(patience_ms - 1)
    assert cast.asked() == []
    cast.wait(1)
    assert len(cast.asked()) == 1
    assert patience_ms == max(PATIENCE_FACTOR * begin_ms, LANES_PARAMS.stall_ms_min // 4)
    cast.leave()


@pytest.mark.spec("HEDGE-START.1")
def test_nothing_is_started_twice_after_a_token_nor_when_the_share_is_zero_nor_without_a_standby() -> None:
    begun = ready(1, hedge_bp=500)
    begun.order()
    begun.stream(begun.lane(0), 2)
    off = ready(1, hedge_bp=0)
    off.order()
    alone = ready(1, 1, hedge_bp=500)
    alone.order()
    for cast in (begun, off, alone):
        cast.wait(10_000)
        assert len(cast.strands) == 1
        cast.stream(cast.lane(0))
        done(cast)


@pytest.mark.spec("HEDGE-START.1")
def test_a_rest_that_another_began_is_not_started_twice() -> None:
    cast = ready(1, hedge_bp=500)
    cast.order()
    cast.stream(cast.lane(0), 3)
    cast.lose(cast.lane(0))
    cast.grant()
    cast.wait(HEDGE_MS)
    assert cast.asked() == []
    cast.stream(cast.lane(0))
    done(cast)


@pytest.mark.spec("HEDGE-START.1")
def test_an_order_that_is_streamed_directly_is_not_started_twice() -> None:
    cast = ready(1, hedge_bp=500)
    submit = submit_of(cast.opening)
    submit = type(submit)(submit.order, submit.signature, submit.prompt, 60_000, direct=True)
    started = cast.route.receive(cast.client, submit)
    assert [type(message) for message in sent(started)] == [StartTask, SessionReady]
    cast.wait(30_000)
    assert len(cast.strands) == 1
    cast.leave()


@pytest.mark.spec("HEDGE-START.1")
def test_a_second_miner_is_none_that_has_a_lane() -> None:
    cast, _, second = late(3, 4)
    assert second.miner not in {cast.lane(lane).miner for lane in range(3)}
    cast.busy(second)
    cast.wait(10_000)
    assert cast.asked() == [], "asked once, no more"
    cast.stream(cast.lane(0))
    done(cast)


# Who wins


@pytest.mark.spec("HEDGE-START.1", "ASSIGN-NUMBER.1", "MACHINE-PERSIST.1")
@pytest.mark.parametrize("streamed", [0, 1])
def test_the_second_wins_with_its_first_frame_and_the_first_ones_slot_is_free(streamed: int) -> None:
    cast, first, second = hedged(streamed=streamed)
    cast.stream(second, 1)
    assert len(cast.assignments) == 1, "a head is no frame"
    cast.stream(second, 1)
    assert first.released
    assert first.closed
    assert [a.number for a in cast.assignments] == [1, 2]
    cast.stream(second)
    done(cast)


@pytest.mark.spec("HEDGE-START.1", "ASSIGN-NUMBER.1")
@pytest.mark.parametrize("said", [0, 1])
def test_the_first_wins_with_its_first_frame_and_the_second_ones_slot_is_free(said: int) -> None:
    cast, first, second = hedged()
    cast.stream(second, said)
    cast.stream(first, 2)
    assert second.released
    assert second.closed
    cast.stream(first)
    assert [a.number for a in cast.assignments] == [1]
    cast.lose(first)
    cast.grant()
    assert [a.number for a in cast.assignments] == [1, 3], "a number is not given twice"
    done(cast)


@pytest.mark.spec("HEDGE-START.1")
def test_one_frame_that_is_all_the_answer_wins_as_well() -> None:
    cast, first, second = hedged()
    cast.order(2)
    cast.say(second, *second.answer(size=8))
    assert cast.ends == [(1, "end")]
    assert first.released
    assert cast.lane(0) is second
    assert second.start.order.task == 2
    cast.stream(second)
    done(cast, 2)


@pytest.mark.spec("HEDGE-START.1", "FAILOVER-NEXT.1")
@pytest.mark.parametrize("said", [0, 1])
@pytest.mark.parametrize("how", ["lose", "forge", "fail", "stall"])
def test_when_the_first_is_lost_the_second_goes_on_alone(how: str, said: int) -> None:
    cast, first, second = hedged()
    cast.stream(second, said)
    match how:
        case "lose":
            cast.lose(first)
        case "forge":
            head, frame = first.answer()[:2]
            assert isinstance(frame, FrameMessage)
            cast.say(first, head, replace_text(frame))
        case "fail":
            cast.say(first, TaskFailed(cast.id, 1, "engine_failed", "out of luck", 0))
        case _:
            cast.wait(LANES_PARAMS.first_frame_timeout_ms - HEDGE_MS)
    assert first.closed
    assert cast.lane(0) is second
    assert [a.number for a in cast.assignments] == [1, 2]
    assert cast.asked() == []
    cast.stream(second)
    done(cast)


def replace_text(frame: FrameMessage) -> FrameMessage:
    """The same frame with other words in it."""
    return FrameMessage(frame.session, frame.task, 0, 0, frame.ids, (b"forged",), frame.end, frame.signature)


@pytest.mark.spec("HEDGE-START.1")
@pytest.mark.parametrize("how", ["lose", "release", "fail", "forge", "early", "wrong head", "cancelled"])
def test_when_the_second_is_lost_or_lies_the_first_goes_on_undisturbed(how: str) -> None:
    cast, first, second = hedged()
    head, frame = second.answer()[:2]
    assert isinstance(head, SegmentStart)
    assert isinstance(frame, FrameMessage)
    match how:
        case "lose":
            cast.lose(second)
        case "release":
            cast.say(second, LeaseRelease(cast.id))
        case "fail":
            cast.say(second, TaskFailed(cast.id, 1, "engine_failed", "out of luck", 0))
        case "forge":
            cast.say(second, head, replace_text(frame))
        case "early":
            cast.say(second, frame)
        case "wrong head":
            cast.say(second, first.answer()[0])
        case _:
            writer = SegmentWriter(DOMAIN, second.miner.sign, head.head)
            end = EndRecord(EndReason.CANCELLED, head.head.prompt_token_count, 0, 0)
            cast.say(second, head, writer.frame([], [], end))
    assert second.closed
    assert not first.closed
    assert cast.session.hedge is None
    assert [a.number for a in cast.assignments] == [1]
    cast.stream(first)
    done(cast)


@pytest.mark.spec("HEDGE-START.1", "FAILOVER-NEXT.1")
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_when_both_are_lost_a_third_takes_over(order: tuple[int, int]) -> None:
    cast, *pair = hedged()
    for place in order:
        cast.lose(pair[place])
    (third,) = cast.asked()
    assert third.miner not in {strand.miner for strand in pair}
    cast.grant(third)
    cast.stream(third)
    done(cast)


@pytest.mark.spec("HEDGE-START.1", "TASK-TERMINAL.1")
@pytest.mark.parametrize("stage", ["asked", "granted", "head"])
@pytest.mark.parametrize("how", ["cancel", "timeout", "bad_request", "end", "leave"])
def test_an_order_that_ends_otherwise_lets_both_go(stage: str, how: str) -> None:
    cast, first, second = late()
    if stage != "asked":
        cast.grant(second)
    cast.stream(second if stage == "head" else first, 1)
    match how:
        case "cancel":
            cast.cancel()
            assert first.cancelled
            cast.say(first, TaskFailed(cast.id, 1, "cancelled", "", 0))
        case "timeout":
            # It goes on after a stall with whoever is there, up to the order's own time.
            first.said = second.said = 0
            cast.route.machine._task_deadlines.clear(("frame", cast.id, 1))
            cast.wait(60_000)
        case "bad_request":
            cast.say(first, TaskFailed(cast.id, 1, "bad_request", "", 0))
        case "end":
            cast.stream(first)
    codes = {"cancel": "cancelled", "timeout": "deadline_exceeded", "bad_request": "bad_request", "end": "end"}
    assert cast.ends == ([(1, codes[how])] if how in codes else [])
    if how != "leave":
        if stage == "asked" and not second.closed:
            cast.grant(second)
        assert second.closed
        assert cast.holding() == [first]
        assert [a.number for a in cast.assignments] == [1]
    cast.leave()


@pytest.mark.spec("HEDGE-START.1")
@pytest.mark.parametrize("how", ["cancel", "timeout", "failure", "late frames"])
def test_what_becomes_of_another_order_does_not_concern_the_second_miner(how: str) -> None:
    cast = ready(1, hedge_bp=500)
    cast.order(1, timeout_ms=500)
    first = cast.lane(0)
    cast.stream(first, 3)
    rest = first.answer()[3:]
    cast.order(2)
    cast.order(3, timeout_ms=800)
    cast.wait(500)
    assert cast.ends == [(1, "deadline_exceeded")]
    cast.wait(LANES_PARAMS.stall_ms_min // 4)
    second = cast.grant()
    assert second.start.order.task == 2
    match how:
        case "cancel":
            cast.cancel(3)
        case "timeout":
            cast.wait(100)
        case "failure":
            cast.say(first, TaskFailed(cast.id, 1, "cancelled", "", 0))
        case _:
            cast.say(first, *rest)
    assert cast.ends[1:] == {"cancel": [(3, "cancelled")], "timeout": [(3, "deadline_exceeded")]}.get(how, [])
    assert not second.closed
    cast.stream(second, 2)
    assert first.closed
    cast.stream(second)
    assert (2, "end") in cast.ends
    cast.leave()


@pytest.mark.spec("HEDGE-START.1")
def test_a_failure_out_of_place_costs_the_first_miner_its_lane_and_the_second_nothing() -> None:
    cast, first, second = hedged()
    cast.order(2)
    cast.say(first, TaskFailed(cast.id, 2, "bad_request", "was not handed over", 0))
    assert first.closed
    assert cast.lane(0) is second
    cast.stream(second)
    cast.stream(second)
    done(cast, 2)


@pytest.mark.spec("HEDGE-START.1")
def test_a_slot_that_is_granted_for_an_order_that_has_ended_starts_no_other() -> None:
    cast, first, second = late()
    cast.order(2)
    cast.stream(first)
    assert first.start.order.task == 2
    cast.grant(second)
    assert second.closed
    assert second.released
    assert second.starts == []
    cast.stream(first)
    done(cast, 2)


@pytest.mark.spec("HEDGE-START.1", "FAILOVER-NEXT.1")
def test_who_was_asked_for_a_second_start_is_let_go_when_the_first_is_lost() -> None:
    cast, first, second = late()
    cast.lose(first)
    assert second.closed
    (third,) = cast.asked()
    cast.grant(third)
    cast.stream(third)
    done(cast)


@pytest.mark.spec("HEDGE-START.1")
def test_a_stranger_cannot_speak_for_the_second_miner() -> None:
    cast, first, second = hedged()
    head, frame = second.answer()[:2]
    forged = SegmentWriter(DOMAIN, MALLORY.sign, head.head)  # type: ignore[attr-defined]
    cast.say(second, head, forged.frame((100,), (words(1),), None))
    assert isinstance(frame, FrameMessage)
    assert second.closed
    assert not of(cast.did(cast.route.tell(ChannelClosed(second.channel, "reset"))), LeaseRelease)
    cast.stream(first)
    done(cast)
