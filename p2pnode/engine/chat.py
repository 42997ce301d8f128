"""A conversation as the token ids that a model was trained on, by the template in its own file.

Control tokens come from the template only. A message that spells one out is broken up with a mark inside the word,
so that the pieces on both sides are tokenised apart; without such a message there is no mark, and the ids are
exactly those of the whole text. Afterwards the control tokens are compared with those of the same conversation
with harmless contents: whatever a template does to its input, a difference means that a message reached them, and
then every message is tokenised on its own, as plain text.
"""

import re
from collections.abc import Sequence
from typing import Protocol

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from p2pnode.engine.api import ChatMessage, EngineError

ROLES = ("system", "developer", "user", "assistant", "tool")
"""A template may build control tokens out of the role, so no other text is taken for one."""
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


class ChatRenderer:
    """Renders conversations for one model. Raises EngineError if the template cannot be compiled."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._control = vocabulary.control_tokens()
        words = sorted((text for text in self._control.values() if len(text) > 1), key=len, reverse=True)
        self._word = re.compile("|".join(map(re.escape, words))) if words else None
        source = vocabulary.metadata("tokenizer.chat_template")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], autoescape=False
        )
        environment.globals["raise_exception"] = _raise
        try:
            self._template = environment.from_string(source) if source is not None else None
        except TemplateError as error:
            raise EngineError(f"the model's chat template is broken: {error}") from error

    def render(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The prompt's ids up to the assistant's turn, BOS exactly once. Raises EngineError."""
        if not messages:
            raise EngineError("a conversation needs at least one message")
        for message in messages:
            if message.role not in ROLES:
                raise EngineError(f"role {message.role!r} is none of {', '.join(ROLES)}")
        contents = [message.content.replace(_MARK, "") for message in messages]
        ids = self._tokenize(self._fill(messages, [self._break_words(content) for content in contents]))
        harmless = [f"{_MARK}{index}{_MARK}" for index in range(len(messages))]
        skeleton = self._fill(messages, harmless)
        if self._control_in(ids) != self._control_in(self._tokenize(skeleton)):
            ids = self._tokenize_apart(skeleton, contents)
        return self._with_one_bos(ids)

    def _fill(self, messages: Sequence[ChatMessage], contents: Sequence[str]) -> str:
        if self._template is None:
            raise EngineError("the model has no chat template: send a plain prompt, or choose a chat model")
        turns = [{"role": turn.role, "content": text} for turn, text in zip(messages, contents, strict=True)]
        try:
            return self._template.render(
                messages=turns,
                add_generation_prompt=True,
                bos_token=self._vocabulary.token_text("bos"),
                eos_token=self._vocabulary.token_text("eos"),
            )
        except Exception as error:
            # A template is a program of the model's author, run on the user's input: it may raise anything.
            raise EngineError(f"the model's chat template refuses this conversation: {error}") from error

    def _break_words(self, content: str) -> str:
        if self._word is None:
            return content
        # Once more while anything is found: what follows the mark may hold another, shorter word.
        while self._word.search(content):
            content = self._word.sub(lambda found: found[0][0] + _MARK + found[0][1:], content)
        return content

    def _tokenize(self, text: str) -> list[int]:
        tokenize = self._vocabulary.tokenize
        return [i for part in text.split(_MARK) if part for i in tokenize(part, add_special=False, parse_special=True)]

    def _tokenize_apart(self, skeleton: str, contents: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for place, part in enumerate(skeleton.split(_MARK)):
            if place % 2:
                if not (part.isdigit() and int(part) < len(contents)):
                    raise EngineError("the model's chat template cuts messages up, and this one forges control tokens")
                ids += self._vocabulary.tokenize(contents[int(part)], add_special=False, parse_special=False)
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


def _raise(message: str) -> None:
    raise TemplateError(message)
