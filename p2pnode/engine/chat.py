"""A conversation as the token ids that a model was trained on, by the template in its own file.

Control tokens come from the template only. A text of the sender's (a message, or any text in tools and calls) that
spells one out is broken up with a mark inside the word, so that the pieces on both sides are tokenised apart; without
such a text there is no mark, and the ids are exactly those of the whole text. Afterwards the control tokens are
compared with those of the same conversation with harmless texts: whatever a template does to its input, a difference
means that a text reached them, and then every text is tokenised on its own, as plain text.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from p2pnode.engine.api import ChatMessage, EngineError, ToolsRefused
from p2pnode.engine.tools import PROBE, Change, Json, changed, harmless_id, names_by_id, read_tools, read_turns

ROLES = ("system", "developer", "user", "assistant", "tool")
"""A template may build control tokens out of the role, so no other text is taken for one."""
PLAIN = "plain"
"""The role of a text that stands alone and goes through no template."""
TODAY = date(2024, 7, 26)
"""What templates that ask for the date are told: whoever checks an answer fills them on another day. It is the date
that those of Llama fall back to."""
_MARK = "\ue0f1"
"""A private-use character: it splits words; those already in a message are dropped."""


class Vocabulary(Protocol):
    """What rendering needs of a model."""

    @property
    def bos(self) -> int | None: ...

    def metadata(self, key: str) -> str | None: ...

    def token_text(self, name: str) -> str: ...

    def control_tokens(self) -> dict[int, str]: ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class _Conversation:
    """What a template is given, read."""

    turns: Sequence[ChatMessage]
    calls: Sequence[list[Json]]
    tools: list[Json] | None

    def variables(self, content: Change, inner: Change, call_id: Change) -> dict[str, Json]:
        """Messages and tools with each content, each text within tools and calls, and each call's id changed."""
        names = names_by_id(self.calls)
        messages = []
        for turn, calls in zip(self.turns, self.calls, strict=True):
            shown: dict[str, Json] = {"role": turn.role, "content": content(turn.content)}
            if calls:
                shown["tool_calls"] = [
                    changed(call, inner) | ({"id": call_id(call["id"])} if call.get("id") else {}) for call in calls
                ]
            if turn.call_id:
                shown["tool_call_id"] = call_id(turn.call_id)
            if turn.call_id in names:
                shown["name"] = inner(names[turn.call_id])
            messages.append(shown)
        return {"messages": messages, "tools": None if self.tools is None else changed(self.tools, inner)}


class ChatRenderer:
    """Renders conversations for one model. Raises EngineError if the template cannot be compiled."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._control = vocabulary.control_tokens()
        words = sorted((text for text in self._control.values() if len(text) > 1), key=len, reverse=True)
        self._word = re.compile("|".join(map(re.escape, words))) if words else None
        source = vocabulary.metadata("tokenizer.chat_template")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generated], autoescape=False
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = TODAY.strftime
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source) if source is not None else None
        except TemplateError as error:
            raise EngineError(f"the model's chat template is broken: {error}") from error
        self.takes_tools = self._shows_tools()

    def render(self, messages: Sequence[ChatMessage], tools: str = "") -> list[int]:
        """The prompt's ids up to the assistant's turn, BOS exactly once. Raises EngineError, ToolsRefused."""
        if not messages:
            raise EngineError("a conversation needs at least one message")
        if any(message.role == PLAIN for message in messages):
            return self._plain(messages, tools)
        for message in messages:
            if message.role not in ROLES:
                raise EngineError(f"role {message.role!r} is none of {', '.join(ROLES)}")
        given = _Conversation(messages, read_turns(messages), read_tools(tools) if tools else None)
        if (tools or any(given.calls)) and not self.takes_tools:
            raise ToolsRefused("the model's chat template knows nothing of tools: leave them out, or choose another")
        ids = self._tokenize(self._fill(given.variables(self._break_words, self._break_words, str)))
        texts = _Texts()
        skeleton = self._fill(given.variables(texts.content, texts.inner, harmless_id))
        if self._control_in(ids) != self._control_in(self._tokenize(skeleton)):
            ids = self._tokenize_apart(skeleton, texts.known)
        return self._with_one_bos(ids)

    def _plain(self, messages: Sequence[ChatMessage], tools: str) -> list[int]:
        if len(messages) > 1 or tools or messages[0].calls or messages[0].call_id:
            raise EngineError("a plain text stands alone: no other message, no tools")
        ids = self._vocabulary.tokenize(messages[0].content, add_special=False, parse_special=False)
        bos = self._vocabulary.bos
        if not ids and bos is None:
            raise EngineError("an empty text gives this model nothing to go on with")
        return ids if bos is None else [bos, *ids]

    def _fill(self, variables: dict[str, Json]) -> str:
        if self._template is None:
            raise EngineError("the model has no chat template: send a plain prompt, or choose a chat model")
        tokens = {f"{name}_token": self._vocabulary.token_text(name) for name in ("bos", "eos")}
        try:
            return self._template.render(**variables, **tokens, add_generation_prompt=True)
        except Exception as error:
            # A template is a program of the model's author, run on the user's input: it may raise anything.
            if "tools" in variables and variables["tools"] is None:
                # Some are written for no tools being none, some for their not being there at all.
                return self._fill({"messages": variables["messages"]})
            raise EngineError(f"the model's chat template refuses this conversation: {error}") from error

    def _shows_tools(self) -> bool:
        if self._template is None:
            return False
        given = _Conversation([ChatMessage("user", "probe")], [[]], PROBE)
        try:
            return PROBE[0]["function"]["name"] in self._fill(given.variables(str, str, str))  # type: ignore[index]
        except EngineError:
            return False

    def _break_words(self, content: str) -> str:
        content = content.replace(_MARK, "")
        if self._word is None:
            return content
        # Once more while anything is found: what follows the mark may hold another, shorter word.
        while self._word.search(content):
            content = self._word.sub(lambda found: found[0][0] + _MARK + found[0][1:], content)
        return content

    def _tokenize(self, text: str) -> list[int]:
        tokenize = self._vocabulary.tokenize
        return [i for part in text.split(_MARK) if part for i in tokenize(part, add_special=False, parse_special=True)]

    def _tokenize_apart(self, skeleton: str, known: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for place, part in enumerate(skeleton.split(_MARK)):
            if place % 2:
                if not (part.isdigit() and int(part) < len(known)):
                    raise EngineError("the model's chat template cuts messages up, and this one forges control tokens")
                ids += self._vocabulary.tokenize(known[int(part)], add_special=False, parse_special=False)
            elif part:
                ids += self._vocabulary.tokenize(part, add_special=False, parse_special=True)
        return ids

    def _control_in(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in self._control]

    def _with_one_bos(self, ids: list[int]) -> list[int]:
        bos = self._vocabulary.bos
        if bos is None:
            return ids
        while ids[:1] == [bos]:
            ids = ids[1:]
        return [bos, *ids]


class _Texts:
    """Stands numbers between marks in the place of texts, and knows which is which. An empty text stays empty, and
    equal ones get equal numbers: templates look at both."""

    def __init__(self) -> None:
        self.known: list[str] = []
        self._numbers: dict[tuple[str, bool], int] = {}

    def content(self, text: str) -> str:
        return self._number(text, inner=False)

    def inner(self, text: str) -> str:
        """Of tools and calls: templates mostly write them as JSON."""
        return self._number(text, inner=True)

    def _number(self, text: str, *, inner: bool) -> str:
        text = text.replace(_MARK, "")
        if not text:
            return ""
        number = self._numbers.setdefault((text, inner), len(self.known))
        if number == len(self.known):
            self.known.append(json.dumps(text, ensure_ascii=False)[1:-1] if inner else text)
        return f"{_MARK}{number}{_MARK}"


class _Generated(Extension):
    """``{% generation %}``, with which templates mark what a model learns to write, means nothing here."""

    tags = {"generation"}  # noqa: RUF012  (as jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Json, **how: Any) -> str:
    """The filter as chat templates are written for: no HTML in it, letters of all languages as they are."""
    return json.dumps(value, **({"ensure_ascii": False} | how))


def _raise(message: str) -> None:
    raise TemplateError(message)
