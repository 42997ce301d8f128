"""Schemas in the worker: llama.cpp's matcher says what our own says, and no schema takes more down than itself."""

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

import p2pnode.models
from p2pnode.engine.api import (
    ChatMessage,
    Engine,
    EngineConfig,
    GenerateRequest,
    SchemaRefused,
    Token,
    Tokens,
)
from p2pnode.engine.grammar import FEW, Grammar, GrammarError, Vocabulary
from p2pnode.engine.llama import Llama
from p2pnode.engine.supervisor import SupervisedEngine, open_engine
from protocol.messages.sampling import SamplingParams
from protocol.session.sampling import lane_seed
from protocol.session.schema import grammar_of
from tests.unit.protocol.gbnf import Grammar as OwnGrammar
from tests.unit.protocol.test_schema import ACCEPTED, PATTERNS, PERSON

MODEL = Path(p2pnode.models.__file__).parent / "shipped" / "tiny-q8_0.gguf"
CONFIG = EngineConfig(MODEL, slots=3, threads=1)
DEAR = json.dumps({"type": "string", "pattern": "^(a?){250}(a?){250}b$"})
"""Of 500 letters each of which may be left out any may come next: the matcher follows them all."""


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(MODEL)


@pytest.fixture(scope="module")
def model() -> Iterator[Llama]:
    loaded = Llama(MODEL, slots=1)
    yield loaded
    loaded.close()


def holds(vocabulary: Vocabulary, model: Llama, grammar: str, text: str) -> bool:
    """Whether a text, cut into the model's tokens, may be written and then end."""
    matcher = Grammar(vocabulary, grammar)
    end = min(model.end_tokens)
    try:
        matcher.accept([*model.tokenize(text, add_special=False, parse_special=False), end])
    except GrammarError:
        return False
    return True


@pytest.mark.spec("SAMPLE-MASK.1", "SCHEMA-GRAMMAR.1")
def test_the_matcher_permits_what_a_schema_permits(vocabulary: Vocabulary, model: Llama) -> None:
    for schema, yes, no in ACCEPTED:
        grammar = grammar_of(json.dumps(schema))
        for value in yes:
            for indent in (None, 2):
                text = json.dumps(value, ensure_ascii=False, indent=indent)
                assert holds(vocabulary, model, grammar, text), (schema, text)
        for value in no:
            assert not holds(vocabulary, model, grammar, json.dumps(value, ensure_ascii=False)), (schema, value)
    for pattern in PATTERNS:
        grammar = grammar_of(json.dumps({"type": "string", "pattern": pattern}))
        for text in ("a", "ab", "aab", "abc", "12-A", '2"', "", "b.x", "c", "ac", "x\\", "aaaa"):
            written = json.dumps(text)
            assert holds(vocabulary, model, grammar, written) == OwnGrammar(grammar).permits(written), (pattern, text)


def test_what_may_come_next_does_not_depend_on_how_many_are_asked_for(vocabulary: Vocabulary) -> None:
    assert vocabulary.size > FEW
    every = np.ones(vocabulary.size, dtype=np.bool_)
    generator = random.Random(1)
    for schema in ({}, PERSON, {"type": "string", "pattern": "^[äa-c]{3,90}$"}, {"enum": ["ä🙂", "äb", "x"]}):
        matcher = Grammar(vocabulary, grammar_of(json.dumps(schema)))
        for _ in range(60):
            together = matcher.permits(every)
            parts = np.zeros_like(every)
            for start in range(0, vocabulary.size, FEW):
                asked = np.zeros_like(every)
                asked[start : start + FEW] = True
                parts |= matcher.permits(asked)
            assert (together == parts).all()
            permitted = np.flatnonzero(together).tolist()
            assert permitted
            token = generator.choice(permitted)
            matcher.accept([token])
            if vocabulary.is_end(token):
                break


def test_a_token_that_says_nothing_is_never_permitted(vocabulary: Vocabulary, model: Llama) -> None:
    """The matcher takes a control token for the word that it is written as."""
    every = np.ones(vocabulary.size, dtype=np.bool_)
    control = [token for token in model.control_tokens() if token not in model.end_tokens]
    words = [model.control_tokens()[token] for token in control]
    assert control
    for schema in ({"type": "string"}, {"enum": words}):
        matcher = Grammar(vocabulary, grammar_of(json.dumps(schema)))
        matcher.accept(model.tokenize('"', add_special=False, parse_special=False))
        assert matcher.permits(every).any()
        assert not matcher.permits(every)[control].any()
        for token in control:
            assert not Grammar(vocabulary, grammar_of(json.dumps(schema))).permits(every)[token]
    written = json.dumps(words[0])
    assert holds(vocabulary, model, grammar_of(json.dumps({"const": words[0]})), written)


async def ask(engine: Engine, schema: Any = None, max_tokens: int = 90, lane: int = 0) -> GenerateRequest:
    prompt = await engine.render([ChatMessage("user", "Tell me a story about a rabbit.")])
    text = schema if isinstance(schema, str) else json.dumps(schema) if schema else ""
    return GenerateRequest(tuple(prompt), SamplingParams(schema=text), lane_seed(bytes(32), 0, lane), max_tokens)


async def collect(engine: Engine, request: GenerateRequest) -> list[Token]:
    return [token async for event in engine.generate(request) if isinstance(event, Tokens) for token in event.tokens]


def worker_of(engine: Engine) -> int:
    assert isinstance(engine, SupervisedEngine)
    assert engine.worker is not None
    return engine.worker.pid


def children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


async def until(fact: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not fact():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_schema_that_costs_too_much_ends_alone_and_leaves_nothing_behind() -> None:
    async with open_engine(CONFIG) as engine:
        plain, person = await ask(engine), await ask(engine, PERSON)
        expected = await collect(engine, plain), await collect(engine, person)
        refused: list[str] = []

        async def run_dear() -> None:
            with pytest.raises(SchemaRefused) as error:
                await collect(engine, await ask(engine, DEAR))
            refused.append(str(error.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_dear)
            for _ in range(3):
                assert (await collect(engine, plain), await collect(engine, person)) == expected
        (why,) = refused
        assert "costs too much" in why
        stats = await engine.stats()
        assert (stats.worker_restarts, stats.slots_busy) == (0, 0)
        (forker,) = children(worker_of(engine))
        await until(lambda: not children(forker))
    await until(lambda: not Path(f"/proc/{forker}").exists())


@pytest.mark.spec("SAMPLE-MASK.1")
async def test_an_answer_with_a_schema_outlives_its_worker() -> None:
    async with open_engine(CONFIG) as engine:
        request = await ask(engine, PERSON)
        expected = await collect(engine, request)
        tokens: list[Token] = []
        async for event in engine.generate(request):
            if isinstance(event, Tokens):
                if not tokens:
                    os.kill(worker_of(engine), signal.SIGKILL)
                tokens += event.tokens
        assert tokens == expected
        assert (await engine.stats()).worker_restarts == 1


async def test_a_grammar_that_dies_ends_its_answer_and_no_other() -> None:
    async with open_engine(CONFIG) as engine:
        expected = await collect(engine, await ask(engine, PERSON))
        (forker,) = children(worker_of(engine))
        await until(lambda: not children(forker))
        with pytest.raises(SchemaRefused):
            async for event in engine.generate(await ask(engine, {"type": "object"}, 400)):
                if isinstance(event, Tokens) and (victims := children(forker)):
                    os.kill(victims[0], signal.SIGKILL)
        assert await collect(engine, await ask(engine, PERSON)) == expected
        os.kill(forker, signal.SIGKILL)
        answers: list[list[Token]] = []

        async def run() -> None:
            answers.append(await collect(engine, await ask(engine, PERSON)))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(run)
        assert answers == [expected] * 4, "another takes its place"


async def test_emitted_tokens_that_break_the_schema_are_not_gone_on_with() -> None:
    async with open_engine(CONFIG) as engine:
        request = await ask(engine, PERSON)
        emitted = await collect(engine, replace(await ask(engine), max_tokens=4))
        with pytest.raises(SchemaRefused, match="not what the schema permits"):
            await collect(engine, replace(request, emitted=tuple(emitted)))


async def test_giving_up_an_answer_ends_its_grammar_whether_it_has_begun_or_not() -> None:
    async with open_engine(CONFIG) as engine:
        await collect(engine, await ask(engine, PERSON))
        (forker,) = children(worker_of(engine))
        with trio.CancelScope() as scope:
            async for _ in engine.generate(await ask(engine, {"type": "object"}, 400)):
                scope.cancel()
        async with trio.open_nursery() as nursery:
            for lane in range(6):
                nursery.start_soon(collect, engine, await ask(engine, {"type": "object"}, 400, lane))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await until(lambda: not children(forker))
        assert (await engine.stats()).slots_busy == 0
