"""Continuous batching over a model whose logits depend on every token in the cache."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2pnode.engine.api import (
    EngineBusy,
    EngineError,
    Finished,
    FinishReason,
    GenerateRequest,
    LogProb,
    PromptTooLong,
    SchemaRefused,
    ScoredToken,
    Token,
)
from p2pnode.engine.batcher import Batcher, Drawn, Ended, Outcome, Refused, Scored
from p2pnode.engine.grammars import TokensBreakSchema
from protocol.messages.sampling import SamplingParams
from protocol.session.sampling import choose, lane_seed
from tests.unit.engine.model import END, TinyModel


def make(queue_max: int = 16, **knobs: int) -> tuple[Batcher, TinyModel]:
    model = TinyModel(**knobs)
    return Batcher(model, queue_max=queue_max, clock=lambda: 0.0, grammars=Grammars()), model


class Grammars:
    """Grammars after which letters must rise, whatever the schema; ``END`` may come behind ``m``."""

    def __init__(self) -> None:
        self.held: dict[int, list[int]] = {}
        self.breaks_at: int | None = None
        """The grammar dies when it has taken so many tokens."""

    def open(self, number: int, grammar: str, emitted: Sequence[int]) -> None:
        assert grammar.startswith("r0 ::= ") or "root ::= " in grammar
        self.held[number] = list(emitted)

    def permits(self, number: int, accepted: Sequence[int], ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        so_far = self.held[number]
        for token in accepted:
            if not self._may(so_far, token):
                raise TokensBreakSchema("letters must rise")
            so_far.append(token)
        if self.breaks_at is not None and len(so_far) >= self.breaks_at:
            raise SchemaRefused("too dear")
        return np.array([self._may(so_far, int(token)) for token in ids], dtype=np.bool_)

    def close(self, number: int) -> None:
        del self.held[number]

    def _may(self, so_far: list[int], token: int) -> bool:
        last = so_far[-1] % 26 if so_far else -1
        return last >= 12 if token == END else token % 26 > last


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
        self.refusals: dict[int, EngineError] = {}

    def take(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            match outcome:
                case Drawn(number, token, text, logprobs):
                    assert number not in self.ends
                    self.tokens.setdefault(number, []).append(Token(token, text, logprobs))
                case Refused(number, error):
                    assert number not in self.ends
                    self.refusals[number] = error
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
    with pytest.raises(SchemaRefused, match="no type 'x'"):
        batcher.generate(4, ask([1], 9, schema='{"type": "x"}'))


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


ANY = '{"type": "object"}'


def served(request: GenerateRequest, grammars: Grammars | None = None, number: int = 1) -> Log:
    """What comes of a request with a schema, whose grammar opens at once."""
    model = TinyModel()
    model.end_bias = 4.0
    batcher = Batcher(model, queue_max=4, clock=lambda: 0.0, grammars=grammars or Grammars())
    log = Log()
    log.take(batcher.generate(number, request))
    assert batcher.idle, "it waits for its grammar first"
    log.take(batcher.grammar_opened(number, None))
    return run(batcher, log)


@pytest.mark.spec("SAMPLE-MASK.1")
@settings(deadline=None, max_examples=40)
@given(prompts, st.sampled_from([0, 7_000, 20_000]), st.integers(0, 2), st.integers(0, 8))
def test_only_what_the_grammar_permits_is_drawn_and_scored(
    prompt: list[int], temperature_bp: int, top_k: int, kept: int
) -> None:
    request = ask(prompt, 40, schema=ANY, temperature_bp=temperature_bp, top_k=top_k)
    grammars = Grammars()
    log = served(request, grammars)
    letters = log.text(1)
    assert all(one < other for one, other in pairwise(letters))
    if 1 in log.ends:
        assert log.ids(1)[-1] == END
        assert letters[-1:] >= b"m"
    else:
        assert "no token" in str(log.refusals[1]), "the last letter of the alphabet is drawn, and the end is out of it"
    assert grammars.held == {}

    resumed = served(replace(request, emitted=tuple(log.tokens[1][:kept])))
    assert [*log.ids(1)[:kept], *(token.id for token in resumed.tokens.get(1, []))] == log.ids(1)

    claimed = log.ids(1)
    batcher = Batcher(TinyModel(), queue_max=4, clock=lambda: 0.0, grammars=grammars)
    batcher._model.end_bias = 4.0  # type: ignore[attr-defined]
    batcher.score(2, request, claimed)
    batcher.grammar_opened(2, None)
    assert [token.margin for token in run(batcher).scores[2]] == [0.0] * len(claimed)
    wrong = [claimed[0], claimed[0], *claimed[1:]]
    batcher.score(3, request, wrong)
    batcher.grammar_opened(3, None)
    scores = run(batcher).scores[3]
    assert [token.margin for token in scores] == [0.0] + [math.inf] * len(claimed)
    assert all(math.isfinite(token.logprob) for token in scores)
    assert grammars.held == {}


def test_scores_tell_of_emitted_tokens_that_break_the_schema() -> None:
    grammars = Grammars()
    batcher = Batcher(TinyModel(), queue_max=4, clock=lambda: 0.0, grammars=grammars)
    batcher.score(1, replace(ask([1], 9, schema=ANY), emitted=(Token(5, b"f"), Token(4, b"e"))), [7, 8])
    assert batcher.grammar_opened(1, TokensBreakSchema("no")) == []
    assert [token.margin for token in run(batcher).scores[1]] == [math.inf] * 2


def test_a_grammar_that_is_refused_or_dies_ends_only_its_own_request() -> None:
    grammars = Grammars()
    batcher = Batcher(TinyModel(), queue_max=1, clock=lambda: 0.0, grammars=grammars)
    for number in (1, 2, 3, 4, 5):
        batcher.generate(number, ask([number], 9, schema=ANY))
    with pytest.raises(EngineBusy, match="wait for their grammars"):
        batcher.generate(6, ask([6], 9, schema=ANY))
    (refused,) = batcher.grammar_opened(1, SchemaRefused("left recursion"))
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, SchemaRefused)
    batcher.cancel(2)
    assert batcher.grammar_opened(2, None) == []
    assert sorted(grammars.held) == [3, 4, 5]
    log = Log()
    for number in (3, 4):
        log.take(batcher.grammar_opened(number, None))
    batcher.generate(7, ask([7], 9))
    log.take(batcher.step())
    grammars.breaks_at = 1
    run(batcher, log)
    assert {number: str(error) for number, error in log.refusals.items()} == {3: "too dear", 4: "too dear"}
    assert log.ids(7) == alone(ask([7], 9))
    assert sorted(grammars.held) == [5]


def test_log_probabilities_are_those_of_the_model_whatever_is_drawn() -> None:
    request = ask([1, 2], 6, logprobs=4, temperature_bp=20_000, repetition_penalty_bp=15_000)
    batcher, model = make()
    batcher.generate(1, request)
    history = [1, 2]
    for token in run(batcher).tokens[1]:
        logits = model.logits(history).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum())
        assert token.logprobs is not None
        own = token.logprobs.own
        assert own == LogProb(token.id, model.piece(token.id), own.logprob)
        assert own.logprob == pytest.approx(expected[token.id], abs=1e-5)
        assert [one.id for one in token.logprobs.top] == np.argsort(-logits, kind="stable")[:3].tolist()
        assert [one.logprob for one in token.logprobs.top] == pytest.approx(np.sort(expected)[::-1][:3], abs=1e-5)
        history.append(token.id)
    batcher.generate(2, replace(request, sampling=SamplingParams(logprobs=1)))
    assert all(token.logprobs is not None and not token.logprobs.top for token in run(batcher).tokens[2])
