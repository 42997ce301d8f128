"""The learned vocabulary is well formed, and cutting a text loses nothing."""

from __future__ import annotations

from itertools import islice

import pytest

from p2pnode.models.train.corpus import conversations
from p2pnode.models.train.tokenizer import Tokenizer, learn
from p2pnode.models.vocabulary import CONTROL, SPECIALS, Turn, base_vocabulary, filler_vocabulary


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(learn((turn.text for turns in islice(conversations(1), 300) for turn in turns), 700))


def test_learning_is_repeatable_and_bounded(tokenizer: Tokenizer) -> None:
    again = learn((turn.text for turns in islice(conversations(1), 300) for turn in turns), 700)
    assert again == tokenizer.vocabulary
    assert len(again) == 700
    assert len(set(again.pieces)) == 700


@pytest.mark.parametrize(
    "text",
    [
        "A fox lives in the forest.",
        "two  spaces",
        " lead and trail ",
        "",
        "Hällo, Wörld!",
        "日本語",
        "emoji 😀.",
        "a\tb\nc",
        "7+5=12",
    ],
)
def test_decode_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_best_score_joins_first() -> None:
    tokenizer = Tokenizer(base_vocabulary(["bc", "ab"]))
    pieces = [tokenizer.vocabulary.pieces[token] for token in tokenizer.encode("abc")]
    assert pieces == ["a", "bc"]


def test_specials_in_a_text_are_plain_letters(tokenizer: Tokenizer) -> None:
    assert all(tokenizer.vocabulary.types[token] != CONTROL for token in tokenizer.encode("<|end|></s>"))


def test_chat_learns_answers_with_their_end_only(tokenizer: Tokenizer) -> None:
    tokens, learned = tokenizer.encode_chat([Turn("user", "Hello!"), Turn("assistant", "Hi there.")])
    names = [tokenizer.vocabulary.pieces[token] for token in tokens]
    assert names[0] == "<s>"
    assert [name for name in names if name in SPECIALS] == ["<s>", "<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]
    said = [token for token, flag in zip(tokens, learned, strict=True) if flag]
    assert tokenizer.decode(said) == "Hi there."
    assert tokenizer.vocabulary.pieces[said[-1]] == "<|end|>"


def test_filler_vocabulary_has_the_size_asked_for() -> None:
    vocabulary = filler_vocabulary(5_000)
    assert len(vocabulary) == len(set(vocabulary.pieces)) == 5_000
    with pytest.raises(ValueError, match="at least"):
        filler_vocabulary(100)
