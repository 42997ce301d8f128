"""Continuous batching over a model whose logits depend on every token in the cache."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.engine.api import (
    EngineBusy,
    EngineError,
    Finished,
    FinishReason,
    GenerateRequest,
    PromptTooLong,
    ScoredToken,
    Token,
)
from p2pnode.engine.batcher import Batcher, Drawn, Ended, Outcome, Scored
from protocol.messages.sampling import SamplingParams
from protocol.session.sampling import choose, lane_seed
from tests.unit.engine.model import END, TinyModel


def make(queue_max: int = 16, **knobs: int) -> tuple[Batcher, TinyModel]:
    model = TinyModel(**knobs)
    return Batcher(model, queue_max=queue_max, clock=lambda: 0.0), model


def ask(prompt: Sequence[int], max_tokens: int = 12, *, lane: int = 0, **sampling: object) -> GenerateRequest:
    return GenerateRequest(
        tuple(prompt),
        SamplingParams(**sampling),  # type: ignore[arg-type]
        lane_seed(bytes(32), 0, lane),
        max_tokens,
    )


def alone(request: GenerateRequest, end_bias: float = -100.0) -> list[int]:
    """The answer, token by token, without any batching or cache."""
    model = TinyModel()
    model.end_bias = end_bias
    history = [*request.prompt, *(token.id for token in request.emitted)]
    tokens: list[int] = []
    while len(tokens) < request.max_tokens - len(request.emitted) and tokens[-1:] != [END]:
        logits = model.logits(history)
        position = len(request.emitted) + len(tokens)
        tokens.append(choose(logits, request.sampling, request.lane_seed, position, history))
        history.append(tokens[-1])
    return tokens


class Log:
    """What came of each request."""

    def __init__(self) -> None:
        self.tokens: dict[int, list[Token]] = {}
        self.ends: dict[int, Finished] = {}
        self.scores: dict[int, tuple[ScoredToken, ...]] = {}

    def take(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            match outcome:
                case Drawn(number, token, text):
                    assert number not in self.ends
                    self.tokens.setdefault(number, []).append(Token(token, text))
                case Ended(number, finished):
                    assert number not in self.ends
                    self.ends[number] = finished
                case Scored(number, tokens):
                    self.scores[number] = tokens

    def ids(self, number: int) -> list[int]:
        return [token.id for token in self.tokens[number]]

    def text(self, number: int) -> bytes:
        return b"".join(token.text for token in self.tokens[number])


def run(batcher: Batcher, log: Log | None = None) -> Log:
    log = log or Log()
    while not batcher.idle:
        log.take(batcher.step())
    return log


prompts = st.lists(st.integers(0, 5), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(prompts, st.integers(1, 20), st.integers(0, 3)), min_size=1, max_size=9), st.data())
def test_every_answer_is_what_it_would_be_alone(asked: list[tuple[list[int], int, int]], data: st.DataObject) -> None:
    batcher, model = make(slots=3)
    model.end_bias = 2.0
    log = Log()
    requests = {}
    for number, (prompt, max_tokens, lane) in enumerate(asked, start=1):
        requests[number] = ask(prompt, max_tokens, lane=lane, repetition_penalty_bp=12_000)
        log.take(batcher.generate(number, requests[number]))
        for _ in range(data.draw(st.integers(0, 3))):
            log.take(batcher.step())
    run(batcher, log)
    for number, request in requests.items():
        assert log.ids(number) == alone(request, model.end_bias)
        assert log.ends[number].completion_tokens == len(log.ids(number))


@settings(deadline=None, max_examples=60)
@given(prompts, st.integers(0, 14), st.lists(st.sampled_from([b"a", b"ab", b"xyz", b"c"]), max_size=2))
def test_a_resumed_answer_goes_on_identically(prompt: list[int], kept: int, stops: list[bytes]) -> None:
    request = ask(prompt, 14, stop=tuple(stops))
    batcher, _ = make()
    batcher.generate(1, request)
    whole = run(batcher)
    emitted = tuple(whole.tokens[1][:kept])
    batcher, _ = make()
    log = Log()
    log.take(batcher.generate(1, replace(request, emitted=emitted)))
    run(batcher, log)
    assert [*emitted, *log.tokens.get(1, [])] == whole.tokens[1]
    assert replace(log.ends[1], cached_tokens=0) == replace(whole.ends[1], cached_tokens=0)


def test_the_end_token_is_released_without_text() -> None:
    batcher, model = make()
    model.end_bias = 100.0
    batcher.generate(1, ask([1, 2]))
    log = run(batcher)
    assert log.tokens[1] == [Token(END, b"")]
    assert log.ends[1].reason is FinishReason.STOP


def test_the_token_limit_ends_an_answer() -> None:
    batcher, _ = make()
    batcher.generate(1, ask([1, 2], 5))
    log = run(batcher)
    assert len(log.ids(1)) == 5
    assert log.ends[1] == Finished(FinishReason.LENGTH, 2, 5, 0)


def test_a_stop_sequence_over_several_tokens_never_shows() -> None:
    batcher, model = make()
    batcher.generate(1, ask([1, 2], 30))
    text = run(batcher).text(1)
    stop = text[7:10]
    batcher, _ = make()
    batcher.generate(1, ask([1, 2], 30, stop=(stop,)))
    log = run(batcher)
    assert log.text(1) == text[: text.find(stop)]
    assert log.ends[1].reason is FinishReason.STOP
    assert model.copies == []


def test_text_held_back_comes_with_the_last_token() -> None:
    batcher, _ = make()
    batcher.generate(1, ask([1, 2], 6))
    text = run(batcher).text(1)
    batcher, _ = make()
    batcher.generate(1, ask([1, 2], 6, stop=(text[4:] + b"?",)))
    log = run(batcher)
    assert log.text(1) == text
    assert log.tokens[1][4].text == b""


def test_a_shared_prompt_is_found_in_the_cache() -> None:
    batcher, model = make()
    prompt = list(range(50))
    batcher.generate(1, ask(prompt, 3))
    run(batcher)
    batcher.generate(2, ask([*prompt, 51], 3))
    assert run(batcher).ends[2].cached_tokens == 50
    assert batcher.totals.cached_tokens == 50
    assert sum(len(call) for call in model.calls) == 50 + 2 + 1 + 2


def test_a_prompt_shared_with_a_running_stream_is_copied() -> None:
    batcher, model = make()
    prompt = [token % 60 for token in range(120)]
    batcher.generate(1, ask(prompt, 40))
    log = Log()
    while not log.tokens:
        log.take(batcher.step())
    batcher.generate(2, ask([*prompt, 1], 40))
    run(batcher, log)
    assert model.copies == [(0, 1, 120)]
    assert log.ends[2].cached_tokens == 120
    assert log.ids(2) == alone(ask([*prompt, 1], 40))


def test_a_long_prompt_does_not_stall_a_running_stream() -> None:
    batcher, model = make()
    batcher.generate(1, ask([1], 60))
    batcher.step()
    batcher.generate(2, ask([2] * 200, 1))
    log = Log()
    steps = 0
    while 2 not in log.ends:
        before = len(model.calls)
        log.take(batcher.step())
        steps += 1
        assert len(log.ids(1)) == steps, "one token of the stream in every step"
        assert len(model.calls) - before <= 2
    assert steps == 7, "200 tokens are seven micro-batches"


def test_a_finished_prompt_is_reported_before_the_next_is_fed() -> None:
    batcher, _ = make()
    batcher.generate(1, ask([1] * 20))
    batcher.generate(2, ask([2] * 200))
    log = Log()
    log.take(batcher.step())
    assert 1 in log.tokens
    assert 2 not in log.tokens


def test_cancellation_frees_the_slot_within_one_step() -> None:
    batcher, _ = make(slots=1)
    batcher.generate(1, ask([1], 200))
    batcher.generate(2, ask([2], 3))
    log = Log()
    log.take(batcher.step())
    batcher.cancel(1)
    log.take(batcher.step())
    assert len(log.ids(1)) == 1
    assert len(log.ids(2)) == 1
    run(batcher, log)
    assert 1 not in log.ends
    batcher.cancel(1)


def test_what_cannot_be_served_is_refused_before_it_starts() -> None:
    batcher, _ = make(slots=1, context_tokens=32, queue_max=1)
    with pytest.raises(PromptTooLong, match=r"20 tokens .* 13 .* context of 32"):
        batcher.generate(1, ask([1] * 20, 13))
    with pytest.raises(EngineError, match="no tokens"):
        batcher.generate(1, ask([], 1))
    with pytest.raises(EngineError, match="0 to 63, not 1 to 64"):
        batcher.generate(1, ask([1, 64], 1))
    with pytest.raises(EngineError, match="texts of the emitted tokens"):
        batcher.generate(1, replace(ask([1], 9), emitted=(Token(1, b"forged"),)))
    batcher.generate(1, ask([1], 9))
    batcher.generate(2, ask([1], 9))
    with pytest.raises(EngineBusy):
        batcher.generate(3, ask([1], 9))


def test_an_answer_that_has_ended_already_is_not_continued() -> None:
    batcher, _ = make()
    (ended,) = batcher.generate(1, replace(ask([1], 9), emitted=(Token(END, b""),)))
    assert isinstance(ended, Ended)
    assert ended.finished == Finished(FinishReason.STOP, 1, 1, 0)
    (ended,) = batcher.generate(2, replace(ask([1], 1), emitted=(Token(3, b"d"),)))
    assert isinstance(ended, Ended)
    assert ended.finished.reason is FinishReason.LENGTH
    assert batcher.idle


@settings(deadline=None, max_examples=30)
@given(prompts, st.integers(0, 10), st.sampled_from([0, 7_000, 20_000]))
def test_an_honest_answer_scores_zero_and_a_changed_token_does_not(
    prompt: list[int], resumed_after: int, temperature_bp: int
) -> None:
    request = ask(prompt, 40, temperature_bp=temperature_bp, frequency_penalty_bp=3_000)
    batcher, model = make()
    batcher.generate(1, request)
    whole = run(batcher)
    partial = replace(request, emitted=tuple(whole.tokens[1][:resumed_after]))
    claimed = whole.ids(1)[resumed_after:]
    assert batcher.score(2, partial, claimed) == []
    scores = run(batcher).scores[2]
    assert [score.id for score in scores] == claimed
    assert all(score.margin == 0.0 and score.logprob <= 0.0 for score in scores)
    claimed[5] = (claimed[5] + 1) % 60
    batcher.score(3, partial, claimed)
    scores = run(batcher).scores[3]
    assert scores[5].margin > 0.0
    assert np.isfinite(scores[5].logprob)
    assert model.calls


def test_scoring_nothing_is_nothing() -> None:
    batcher, _ = make()
    assert batcher.score(1, ask([1], 4), []) == [Scored(1, ())]
