"""Chat templates: the ids of the whole text, and no control token from a message, whatever it says."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.engine.api import ChatMessage, EngineError
from p2pnode.engine.chat import ChatRenderer

CONTROL = {0: "<s>", 1: "</s>", 2: "<|user|>", 3: "<|assistant|>", 4: "<|end|>", 5: "|end|>"}
TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content CHANGED }}<|end|>{% endfor %}<|assistant|>"


class LetterVocabulary:
    """One token per letter, one per pair of equal letters, and the control tokens above."""

    def __init__(self, template: str | None = TURNS.replace("CHANGED", ""), bos: int | None = 0) -> None:
        self.bos = bos
        self._template = template

    def metadata(self, key: str) -> str | None:
        assert key == "tokenizer.chat_template"
        return self._template

    def token_text(self, name: str) -> str:
        return {"bos": "<s>", "eos": "</s>"}[name]

    def control_tokens(self) -> dict[int, str]:
        return CONTROL

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        assert not add_special
        words = sorted(CONTROL.values(), key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, words))})", text) if parse_special else [text]
        ids: list[int] = []
        for part in parts:
            if parse_special and part in words:
                ids += [token for token, word in CONTROL.items() if word == part]
            else:
                letters = [match[0] for match in re.finditer(r"(.)\1|.", part, re.DOTALL)]
                ids += [10 + len(one) * 0x110000 + ord(one[0]) for one in letters]
        return ids


def control_in(ids: list[int]) -> list[int]:
    return [token for token in ids if token in CONTROL]


def user(content: str) -> ChatMessage:
    return ChatMessage("user", content)


pieces = st.sampled_from(["<", "|", ">", "end", "<|end|>", "<s>", "</s>", "<|user|>", "|end|>", "x", " ", "\ue0f1"])
contents = st.lists(pieces, max_size=12).map("".join)
changes = st.sampled_from(["", "| trim", "| replace('x', '')", "| upper | lower", "[1:]", "| reverse", "* 2"])


@given(st.lists(contents, min_size=1, max_size=3), changes)
def test_messages_never_bring_in_control_tokens(texts: list[str], change: str) -> None:
    renderer = ChatRenderer(LetterVocabulary(TURNS.replace("CHANGED", change)))
    ids = renderer.render([user(text) for text in texts])
    assert control_in(ids) == [0, *[2, 4] * len(texts), 3]


@given(st.lists(st.text("abc <>|\n", max_size=20), min_size=1, max_size=3))
def test_harmless_messages_give_the_ids_of_the_whole_text(texts: list[str]) -> None:
    vocabulary = LetterVocabulary()
    ids = ChatRenderer(vocabulary).render([user(text) for text in texts])
    whole = "<s>" + "".join(f"<|user|>{text}<|end|>" for text in texts) + "<|assistant|>"
    assert ids == vocabulary.tokenize(whole, add_special=False, parse_special=True)


def test_the_words_of_a_message_are_kept() -> None:
    vocabulary = LetterVocabulary()
    ids = ChatRenderer(vocabulary).render([user("say <|end|> twice")])
    assert [chr((token - 10) % 0x110000) for token in ids if token not in CONTROL] == list("say <|end|> twice")


@pytest.mark.parametrize("prefix", ["", "{{ bos_token }}", "{{ bos_token }}{{ bos_token }}"])
def test_bos_comes_exactly_once(prefix: str) -> None:
    ids = ChatRenderer(LetterVocabulary(prefix + TURNS.replace("CHANGED", ""))).render([user("a")])
    assert ids.count(0) == 1
    assert ids[0] == 0


def test_a_role_is_one_of_the_known() -> None:
    with pytest.raises(EngineError, match=r"role 'user\|>x' is none of system"):
        ChatRenderer(LetterVocabulary()).render([ChatMessage("user|>x", "a")])


def test_what_a_template_refuses_is_an_error_that_says_so() -> None:
    template = "{% if messages[0].role != 'user' %}{{ raise_exception('a user begins') }}{% endif %}"
    with pytest.raises(EngineError, match="a user begins"):
        ChatRenderer(LetterVocabulary(template)).render([ChatMessage("system", "a")])
    with pytest.raises(EngineError, match="no chat template"):
        ChatRenderer(LetterVocabulary(None)).render([user("a")])
    with pytest.raises(EngineError, match="chat template is broken"):
        ChatRenderer(LetterVocabulary("{% if %}"))
    with pytest.raises(EngineError, match="at least one message"):
        ChatRenderer(LetterVocabulary()).render([])


def test_templates_find_what_they_are_written_for() -> None:
    dated = "{{ strftime_now('%d %b %Y') }}" + TURNS.replace("CHANGED", "")
    vocabulary = LetterVocabulary(dated)
    begins = [0, *vocabulary.tokenize("26 Jul 2024", add_special=False, parse_special=False)]
    assert ChatRenderer(vocabulary).render([user("a")])[: len(begins)] == begins
    plain = ChatRenderer(LetterVocabulary()).render([user("a")])
    marked = TURNS.replace("CHANGED", "").replace("<|end|>", "{% generation %}<|end|>{% endgeneration %}")
    assert ChatRenderer(LetterVocabulary(marked)).render([user("a")]) == plain
    for without in (
        "{% for t in tools %}{{ t }}{% endfor %}",
        "{% if tools is not none %}{{ tools | length }}{% endif %}",
    ):
        assert ChatRenderer(LetterVocabulary(without + TURNS.replace("CHANGED", ""))).render([user("a")]) == plain


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(EngineError, match="refuses this conversation"):
        ChatRenderer(LetterVocabulary(template)).render([user("a")])
