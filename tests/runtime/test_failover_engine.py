"""An engine that goes on with what another began says the rest and not a token more; the same over fake and model."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

import p2pnode.models
from p2pnode.engine.api import (
    ChatMessage,
    Engine,
    EngineConfig,
    EngineError,
    Finished,
    FinishReason,
    GenerateRequest,
    Token,
    Tokens,
)
from p2pnode.engine.fake import FakeConfig, open_fake_engine
from p2pnode.engine.supervisor import open_engine
from protocol.messages.sampling import SamplingParams
from protocol.session.sampling import lane_seed

MODEL = Path(p2pnode.models.__file__).parent / "shipped" / "tiny-q8_0.gguf"
CONTEXT = 512


@pytest.fixture(params=["fake", "llama"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    if request.param == "fake":
        async with open_fake_engine(FakeConfig(slots=2, context_slot_tokens=CONTEXT)) as opened:
            yield opened
    else:
        async with open_engine(EngineConfig(MODEL, slots=2, context_slot_tokens=CONTEXT, threads=1)) as opened:
            yield opened


async def ask(engine: Engine, max_tokens: int, **sampling: object) -> GenerateRequest:
    prompt = await engine.render([ChatMessage("user", "Who are you?")])
    params = SamplingParams(**sampling)  # type: ignore[arg-type]
    return GenerateRequest(tuple(prompt), params, lane_seed(bytes(32), 0, 0), max_tokens)


async def collect(engine: Engine, request: GenerateRequest) -> tuple[list[Token], Finished]:
    tokens: list[Token] = []
    async for event in engine.generate(request):
        if isinstance(event, Tokens):
            tokens += event.tokens
        else:
            assert isinstance(event, Finished)
            return tokens, event
    raise AssertionError("no end")


@pytest.mark.spec("CHAIN-TAKEOVER.1")
async def test_what_ended_with_the_end_token_is_over_at_once(engine: Engine) -> None:
    request = await ask(engine, 400)
    whole, finished = await collect(engine, request)
    assert finished.reason is FinishReason.STOP
    before = (await engine.stats()).generated_tokens_total
    rest, end = await collect(engine, replace(request, emitted=tuple(whole)))
    assert (rest, end.reason, end.completion_tokens) == ([], FinishReason.STOP, len(whole))
    # The same when the end token is the last that the order allowed: it stopped, and was not cut.
    rest, end = await collect(engine, replace(request, emitted=tuple(whole), max_tokens=len(whole)))
    assert (rest, end.reason) == ([], FinishReason.STOP)
    assert (await engine.stats()).generated_tokens_total == before


@pytest.mark.spec("CHAIN-TAKEOVER.1")
@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_what_reached_the_orders_limit_is_over_at_once(engine: Engine, limit: int) -> None:
    request = await ask(engine, limit)
    whole, finished = await collect(engine, request)
    assert (len(whole), finished.reason) == (limit, FinishReason.LENGTH)
    rest, end = await collect(engine, replace(request, emitted=tuple(whole)))
    assert (rest, end.reason, end.completion_tokens) == ([], FinishReason.LENGTH, limit)


@pytest.mark.spec("CHAIN-TAKEOVER.1")
async def test_one_token_before_the_limit_exactly_one_more_comes(engine: Engine) -> None:
    request = await ask(engine, 7)
    whole, _ = await collect(engine, request)
    rest, end = await collect(engine, replace(request, emitted=tuple(whole[:6])))
    assert (rest, end.reason, end.completion_tokens) == (whole[6:], FinishReason.LENGTH, 7)


@pytest.mark.spec("CHAIN-TAKEOVER.1")
async def test_what_ended_with_a_stop_text_is_over_at_once(engine: Engine) -> None:
    plain, _ = await collect(engine, await ask(engine, 60))
    text = b"".join(token.text for token in plain)
    request = await ask(engine, 60, stop=(text[8:11],))
    whole, finished = await collect(engine, request)
    assert finished.reason is FinishReason.STOP
    for kept in range(len(whole) + 1):
        rest, end = await collect(engine, replace(request, emitted=tuple(whole[:kept])))
        assert rest == whole[kept:], kept
        assert (end.reason, end.completion_tokens) == (FinishReason.STOP, len(whole))


@pytest.mark.spec("CHAIN-TAKEOVER.1")
async def test_what_no_engine_of_this_model_said_is_not_gone_on_with(engine: Engine) -> None:
    request = await ask(engine, 20)
    for forged in (Token(engine.model.vocab_size, b""), Token(2**32 - 1, b"x"), Token(300, b"forged")):
        with pytest.raises(EngineError):
            await collect(engine, replace(request, emitted=(forged,)))
    tokens, _ = await collect(engine, request)
    assert tokens, "and the engine goes on for others"
