"""Prompts and answers in the log. Only where the operator asked for it in so many words."""

import logging
from collections.abc import Mapping
from typing import Any

from p2pnode.telemetry.log_record import fields
from p2pnode.telemetry.tap import Take
from p2pnode.telemetry.teller import Table
from protocol.messages.tasks import PromptMessage
from protocol.roles.client import AskTask, Deliver, TaskOver, TaskText
from protocol.roles.miner import Generate, Generated, GenerationFailed, Produced

log = logging.getLogger("p2pnode.prompts")

CHARACTERS_MAX = 65_536
"""Of a prompt or an answer; the rest is left out."""
OPEN_MAX = 256


class PromptLog:
    """Hears a client's or a miner's machine."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._answers: Table[Any, bytearray] = Table(OPEN_MAX)
        self.received: Mapping[type, Take] = {}
        self.sent: Mapping[type, Take] = {}
        self.events: Mapping[type, Take] = {
            AskTask: self._asked,
            Produced: self._produced,
            Generated: lambda event: self._answered(event.generation),
            GenerationFailed: lambda event: self._answered(event.generation),
        }
        self.effects: Mapping[type, Take] = {Generate: self._generates, Deliver: self._delivered}

    def _asked(self, event: AskTask) -> None:
        self._prompt(event.handle, event.messages)

    def _generates(self, effect: Generate) -> None:
        self._prompt(effect.generation, effect.messages)

    def _prompt(self, name: Any, messages: tuple[PromptMessage, ...]) -> None:
        self._answers.put(name, bytearray())
        text = "\n".join(f"{turn.role}: {turn.content}" for turn in messages)
        log.info("prompt", extra=fields({**self._named(name), "prompt": text[:CHARACTERS_MAX]}))

    def _produced(self, event: Produced) -> None:
        self._text(event.generation, b"".join(event.texts))

    def _delivered(self, effect: Deliver) -> None:
        if isinstance(effect.item, TaskText):
            self._text(effect.handle, effect.item.text)
        elif isinstance(effect.item, TaskOver):
            self._answered(effect.handle)

    def _text(self, name: Any, text: bytes) -> None:
        answer = self._answers.get(name)
        if answer is not None and len(answer) < CHARACTERS_MAX:
            answer += text

    def _answered(self, name: Any) -> None:
        answer = self._answers.pop(name)
        if answer is not None:
            text = answer.decode("utf-8", "replace")[:CHARACTERS_MAX]
            log.info("answer", extra=fields({**self._named(name), "answer": text}))

    def _named(self, name: Any) -> dict[str, str | int]:
        if isinstance(name, tuple):
            return {"role": self._role, "session": name[0].hex(), "task": name[1], "lane": name[2]}
        return {"role": self._role, "handle": name}
