"""Embeddings a micro-batch at a time: several requests in turn, none of which another changes."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2pnode.engine.api import EMBED_TEXTS_MAX, Embeddings, EngineBusy, EngineError, PromptTooLong
from p2pnode.engine.embedding import Embedder

CONTEXT = 50


class LetterModel:
    """A token per letter after a BOS; a token's state depends on all before it, so a slip in the cache shows."""

    context_tokens = CONTEXT
    embedding_size = 4
    microbatch_tokens = 8

    def __init__(self) -> None:
        self._cache: list[int] = []
        self.calls = 0

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        assert add_special
        assert not parse_special
        return [0, *map(ord, text)]

    def hidden_sum(self, tokens: Sequence[int], start: int) -> NDArray[np.float64]:
        assert 1 <= len(tokens) <= self.microbatch_tokens
        self.calls += 1
        del self._cache[start:]
        assert len(self._cache) == start
        total = np.zeros(4)
        for token in tokens:
            self._cache.append(token)
            total += np.random.default_rng(abs(hash(tuple(self._cache)))).standard_normal(4)
        return total


def run(embedder: Embedder) -> dict[int, Embeddings]:
    done: dict[int, Embeddings] = {}
    while not embedder.idle:
        done.update(embedder.step())
    return done


texts = st.lists(st.text("abc", min_size=1, max_size=30), min_size=1, max_size=4)


@given(st.lists(texts, min_size=1, max_size=4), st.integers(0, 12), st.integers(0, 3))
def test_each_answer_is_what_it_would_be_alone(asked: list[list[str]], steps: int, given_up: int) -> None:
    alone = []
    for each in asked:
        embedder = Embedder(LetterModel(), queue_max=1)
        embedder.submit(1, each)
        alone.append(run(embedder)[1])
    embedder = Embedder(LetterModel(), queue_max=9)
    for number, each in enumerate(asked):
        embedder.submit(number, each)
    done: dict[int, Embeddings] = {}
    for _ in range(steps):
        done.update(embedder.step())
    embedder.cancel(given_up)
    done.update(run(embedder))
    for number, expected in enumerate(alone):
        if number != given_up or number in done:
            assert done[number] == expected
    assert all(np.linalg.norm(vector) == pytest.approx(1.0) for one in alone for vector in one.floats())
    assert [one.tokens for one in alone] == [sum(len(text) + 1 for text in each) for each in asked]


def test_a_step_is_one_micro_batch_and_requests_take_turns() -> None:
    model = LetterModel()
    embedder = Embedder(model, queue_max=2)
    embedder.submit(1, ["a" * 15] * 20)
    embedder.submit(2, ["b"])
    assert embedder.step() == []
    assert model.calls == 1
    assert embedder.step() == []
    ((number, answer),) = embedder.step()
    assert (number, answer.tokens, model.calls) == (2, 2, 3)


def test_what_is_not_embedded() -> None:
    embedder = Embedder(LetterModel(), queue_max=1)
    for wrong in ([], [""], ["a", ""], ["a"] * (EMBED_TEXTS_MAX + 1)):
        with pytest.raises(EngineError):
            embedder.submit(1, wrong)
    with pytest.raises(PromptTooLong, match=f"{CONTEXT + 1} tokens .* {CONTEXT}: embed it in parts"):
        embedder.submit(1, ["a", "b" * CONTEXT])
    assert embedder.idle
    embedder.submit(1, ["a"])
    with pytest.raises(EngineBusy):
        embedder.submit(2, ["a"])
    embedder.cancel(7)
    assert list(run(embedder)) == [1]
