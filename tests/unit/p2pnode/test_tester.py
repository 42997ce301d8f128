"""An oracle's engines for tests: loaded when asked, closed when idle, and what they say of answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pnode.engine.api import ChatMessage, Engine, EngineConfig, GenerateRequest, ModelLoadError, Token, Tokens
from p2pnode.engine.fake import FakeConfig, FakeEngine
from p2pnode.generation import chat
from p2pnode.tester import IDLE_S, CheckEngines, answer
from protocol.core.ids import ModelDigest
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import PromptMessage
from protocol.results.challenge import Question, question
from protocol.roles.tester import Compare, Compared, Score, Scored, ScoringFailed

MODEL = ModelDigest(b"\x01" * 32)
CONFIG = EngineConfig(Path("model.gguf"), slots=1)
ASKED = question(b"signature", 1)


async def answered(engine: FakeEngine, asked: Question = ASKED, tokens: int = 64) -> tuple[Token, ...]:
    """What an honest miner answers."""
    prompt = await engine.render([ChatMessage(turn.role, turn.content) for turn in asked.messages])
    found: list[Token] = []
    async for event in engine.generate(GenerateRequest(prompt, asked.sampling, asked.lane_seed, tokens)):
        found += event.tokens if isinstance(event, Tokens) else ()
    return tuple(found)


def score_of(tokens: tuple[Token, ...], number: int = 1, start: int = 0, stop: int | None = None) -> Score:
    """The question about an answer."""
    ids, texts = tuple(token.id for token in tokens), tuple(token.text for token in tokens)
    end = len(ids) if stop is None else stop
    return Score(number, MODEL, ASKED.messages, ASKED.sampling, ASKED.lane_seed, ids, texts, start, end)


async def test_an_honest_answer_lacks_nothing() -> None:
    engine = FakeEngine(FakeConfig(answer_tokens=20))
    tokens = await answered(engine)
    said = await answer(engine, score_of(tokens))
    assert isinstance(said, Scored)
    assert (said.margins_milli, said.ends, said.build) == ((0,) * 20, True, "fake")
    assert said.text == b"".join(token.text for token in tokens)
    assert said.prompt_tokens
    part = await answer(engine, score_of(tokens, start=5, stop=9))
    assert isinstance(part, Scored)
    assert len(part.margins_milli) == 4


async def test_an_answer_with_tools_calls_and_a_schema_is_read_as_its_miner_read_it() -> None:
    engine = FakeEngine(FakeConfig())
    turns = (
        PromptMessage("user", "Is it warm?"),
        PromptMessage("assistant", "", calls='[{"type":"function","function":{"name":"w","arguments":{}}}]'),
        PromptMessage("tool", "19 degrees", call_id="call_1"),
    )
    tools, sampling = '[{"type":"function","function":{"name":"w"}}]', SamplingParams(schema='{"type":"object"}')
    prompt = await engine.render(chat(turns), tools)
    tokens: list[Token] = []
    async for event in engine.generate(GenerateRequest(prompt, sampling, ASKED.lane_seed, 64)):
        tokens += event.tokens if isinstance(event, Tokens) else ()
    ids, texts = tuple(token.id for token in tokens), tuple(token.text for token in tokens)
    said = await answer(engine, Score(1, MODEL, turns, sampling, ASKED.lane_seed, ids, texts, 0, len(ids), tools))
    assert isinstance(said, Scored)
    assert (said.margins_milli, said.ends, said.text) == ((0,) * len(ids), True, b"{}")
    assert said.prompt_tokens == tuple(prompt)
    without = await answer(engine, Score(2, MODEL, turns, sampling, ASKED.lane_seed, ids, texts, 0, len(ids)))
    assert isinstance(without, Scored)
    assert without.prompt_tokens != tuple(prompt)


@pytest.mark.spec("TEST-EXACT.1")
async def test_an_answer_that_is_cut_short_does_not_end() -> None:
    engine = FakeEngine(FakeConfig(answer_tokens=20))
    tokens = await answered(engine)
    said = await answer(engine, score_of(tokens[:10]))
    assert isinstance(said, Scored)
    assert not said.ends


async def test_a_token_of_another_model_lacks_something() -> None:
    engine = FakeEngine(FakeConfig(answer_tokens=20))
    tokens = await answered(engine)
    other = next(token for token in tokens if token.id != tokens[0].id)
    said = await answer(engine, score_of((other, *tokens[1:])))
    assert isinstance(said, Scored)
    assert said.margins_milli[0] > 0
    assert not any(said.margins_milli[1:])


async def test_what_no_engine_made_is_the_miners_fault() -> None:
    engine = FakeEngine(FakeConfig(answer_tokens=20))
    tokens = await answered(engine)
    strange = await answer(engine, score_of((Token(10**6, b""), *tokens)))
    assert isinstance(strange, ScoringFailed)
    assert strange.blames_miner
    other = await answer(engine, score_of((Token(tokens[0].id, b"else"), *tokens[1:])))
    assert isinstance(other, ScoringFailed)
    assert other.blames_miner


async def test_what_the_oracles_own_engine_cannot_do_is_not() -> None:
    tokens = await answered(FakeEngine(FakeConfig(answer_tokens=20)))
    said = await answer(FakeEngine(FakeConfig(context_slot_tokens=8)), score_of(tokens))
    assert isinstance(said, ScoringFailed)
    assert not said.blames_miner


@pytest.mark.spec("TEST-EMBEDDING.1")
async def test_two_answers_are_compared_by_their_embeddings() -> None:
    engine = FakeEngine(FakeConfig(answer_tokens=20))
    own = b"".join(token.text for token in await answered(engine)).decode()
    asking = (1, MODEL, ASKED.messages, ASKED.sampling, ASKED.lane_seed, 64)
    assert await answer(engine, Compare(*asking, own)) == Compared(1, 10_000)
    other = await answer(engine, Compare(*asking, "something else"))
    assert isinstance(other, Compared)
    assert other.similarity_bp < 10_000
    assert await answer(engine, Compare(*asking, "")) == Compared(1, 0)


class Rig:
    """Engines that count how often one is loaded."""

    def __init__(self, nursery: trio.Nursery, fails: bool = False) -> None:
        self.loaded = self.closed = 0
        self.fails = fails
        self.said: list[object] = []
        self.engines = CheckEngines({MODEL: CONFIG}, self.open, nursery, self.said.append)

    @asynccontextmanager
    async def open(self, config: EngineConfig) -> AsyncIterator[Engine]:
        assert config == CONFIG
        self.loaded += 1
        if self.fails:
            raise ModelLoadError("no such file")
        yield FakeEngine(FakeConfig(answer_tokens=20))
        self.closed += 1


async def test_an_engine_is_loaded_once_and_closed_when_idle(autojump_clock: trio.testing.MockClock) -> None:
    tokens = await answered(FakeEngine(FakeConfig(answer_tokens=20)))
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        assert rig.engines.loaded == ()
        for number in (1, 2):
            rig.engines.ask(score_of(tokens, number))
        await trio.sleep(1)
        assert [said.number for said in rig.said if isinstance(said, Scored)] == [1, 2]
        assert (rig.loaded, rig.closed, rig.engines.loaded) == (1, 0, (MODEL,))
        await trio.sleep(IDLE_S)
        assert (rig.loaded, rig.closed, rig.engines.loaded) == (1, 1, ())
        rig.engines.ask(score_of(tokens, 3))
        await trio.sleep(1)
        assert (rig.loaded, len(rig.said)) == (2, 3)


async def test_a_model_that_cannot_be_loaded_is_said_so_each_time() -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, fails=True)
        for number in (1, 2):
            message = (PromptMessage("user", "?"),)
            rig.engines.ask(Score(number, MODEL, message, ASKED.sampling, ASKED.lane_seed, (), (), 0, 0))
        await trio.testing.wait_all_tasks_blocked()
        assert [(said.number, said.blames_miner) for said in rig.said if isinstance(said, ScoringFailed)] == [
            (1, False),
            (2, False),
        ]
        rig.fails = False
        rig.engines.ask(score_of((), 3))
        await trio.testing.wait_all_tasks_blocked()
        assert rig.loaded == 2
        nursery.cancel_scope.cancel()
