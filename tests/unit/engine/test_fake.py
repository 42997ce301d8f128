"""The fake engine's own knobs, on virtual time."""

import pytest
import trio
from trio.testing import MockClock

from p2pnode.engine.api import EngineUnavailable, Finished, FinishReason, GenerateRequest, Tokens
from p2pnode.engine.fake import FakeConfig, FakeEngine
from protocol.messages.sampling import SamplingParams


def ask(max_tokens: int = 10) -> GenerateRequest:
    return GenerateRequest((1, 2, 3), SamplingParams(), bytes(32), max_tokens)


async def test_tokens_come_by_the_clock(autojump_clock: MockClock) -> None:
    engine = FakeEngine(FakeConfig(first_token_s=0.020, token_s=0.005, answer_tokens=50))
    began = trio.current_time()
    times = []
    async for event in engine.generate(ask()):
        if isinstance(event, Tokens):
            times += [trio.current_time() - began] * len(event.tokens)
    assert times == pytest.approx([0.020 + 0.005 * index for index in range(10)])


async def test_what_is_ready_comes_together(autojump_clock: MockClock) -> None:
    engine = FakeEngine(FakeConfig(token_s=1.0, answer_tokens=50))
    events = engine.generate(ask())
    first = await anext(events)
    await trio.sleep(4.5)
    rest = await anext(events)
    assert isinstance(first, Tokens)
    assert isinstance(rest, Tokens)
    assert (len(first.tokens), len(rest.tokens)) == (1, 4)
    await events.aclose()


async def test_it_fails_when_told(autojump_clock: MockClock) -> None:
    engine = FakeEngine(FakeConfig(fail_at=3, answer_tokens=50))
    count = 0
    with pytest.raises(EngineUnavailable, match="token 3"):
        async for event in engine.generate(ask()):
            count += len(event.tokens) if isinstance(event, Tokens) else 0
    assert count == 3
    assert (await engine.stats()).slots_busy == 0


async def test_it_stalls_when_told(autojump_clock: MockClock) -> None:
    engine = FakeEngine(FakeConfig(stall_at=2, answer_tokens=50))
    events = engine.generate(ask())
    first = await anext(events)
    assert isinstance(first, Tokens)
    assert len(first.tokens) == 2
    with trio.move_on_after(3_600) as scope:
        await anext(events)
    assert scope.cancelled_caught
    assert (await engine.stats()).slots_busy == 0


async def test_waiting_for_a_slot_can_be_cancelled(autojump_clock: MockClock) -> None:
    engine = FakeEngine(FakeConfig(slots=1, first_token_s=1.0, answer_tokens=3))
    ends: list[Finished] = []

    async def run() -> None:
        async for event in engine.generate(ask()):
            if isinstance(event, Finished):
                ends.append(event)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(0.5)
        with trio.move_on_after(0.1):
            await run()
        nursery.start_soon(run)
    assert [end.reason for end in ends] == [FinishReason.STOP] * 2
    assert (await engine.stats()).slots_busy == 0
