"""What a model wrote, told apart: words for the user, and calls of tools.

Where the answer is held to a schema it is one call, ``{"name": …, "arguments": …}``, and its arguments are passed on as
they come. Where the model is free it writes calls in the form that it was trained on: Hermes and Qwen between
``<tool_call>`` and ``</tool_call>``, Llama 3 as a bare JSON object with ``parameters``, Mistral as a JSON list after
``[TOOL_CALLS]``. A text that begins like one is held back until that is certain; what turns out to be none is said.
"""

import json
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from protocol.session.schema import grammar_of
from protocol.session.schema_strings import SchemaError

HERMES, HERMES_END = "<tool_call>", "</tool_call>"
LEADS = ("[TOOL_CALLS]", "<|python_tag|>")
"""Mistral's and Llama's; most tokenisers show nothing of them."""
CALLS_MAX = 128
ID_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
_FORCED = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\S)', re.DOTALL)
_TAIL = re.compile(r"[}\s]*\Z")
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class Words:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call; its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments, as JSON text."""

    index: int
    text: str


Told = Words | CallBegun | CallArguments


class Reader(Protocol):
    """Reads an answer as it comes."""

    def take(self, text: str) -> Sequence[Told]:
        """More of it."""

    def end(self) -> Sequence[Told]:
        """There is no more."""


class WordsReader:
    """Of an answer without tools."""

    def take(self, text: str) -> Sequence[Told]:
        """More of it."""
        return [Words(text)]

    def end(self) -> Sequence[Told]:
        """There is no more."""
        return []


class ForcedReader:
    """Of an answer that a schema made one call."""

    def __init__(self) -> None:
        self._text = ""
        self._from = 0
        self._begun = False

    def take(self, text: str) -> Sequence[Told]:
        """More of it; what may be the end of the object around the arguments waits."""
        self._text += text
        told: list[Told] = []
        if not self._begun:
            found = _FORCED.match(self._text)
            if found is None:
                return told
            self._begun, self._from = True, found.end()
            told.append(CallBegun(0, new_call_id(), json.loads(found[1])))
        tail = _TAIL.search(self._text, self._from)
        return told + self._arguments(tail.start() if tail else len(self._text))

    def end(self) -> Sequence[Told]:
        """What is left, without the brace of the object around the arguments; of a text that is no call, itself."""
        if not self._begun:
            return [Words(self._text)] if self._text else []
        try:
            _, to = _decode(self._text, self._text.index("{"))
        except (ValueError, RecursionError):
            return self._arguments(len(self._text))  # cut off by max_tokens
        return self._arguments(len(self._text[: to - 1].rstrip()))

    def _arguments(self, to: int) -> list[Told]:
        if to <= self._from:
            return []
        told = CallArguments(0, self._text[self._from : to])
        self._from = to
        return [told]


class FreeReader:
    """Of an answer that may call tools."""

    def __init__(self, names: Collection[str], *, several: bool = True) -> None:
        self._names = names
        self._most = CALLS_MAX if several else 1
        self._calls = 0
        self._held = ""
        self._said = False
        """Whether there were words before: then a bare JSON object is none of a tool."""
        self._in_call = False

    def take(self, text: str) -> Sequence[Told]:
        """More of it."""
        self._held += text
        told: list[Told] = []
        while True:
            more = self._call() if self._in_call else self._words()
            if more is None:
                return told
            told += more

    def end(self) -> Sequence[Told]:
        """What was held back: a call after all, or words."""
        held, self._held = self._held, ""
        text = held.removeprefix(HERMES) if self._in_call else held
        calls = _calls_in(_without_lead(text), self._names) if self._in_call or not self._said else None
        return self._told(calls) if calls else _words(held)

    def _words(self) -> list[Told] | None:
        """Words that are certain to be words; None if there are none."""
        if not self._said and _may_be_bare(self._held):
            return None
        at = self._held.find(HERMES)
        if at < 0:
            # Space before a call is no word either.
            at = len(self._held[: len(self._held) - _overlap(self._held, HERMES)].rstrip())
            shown, self._held = self._held[:at], self._held[at:]
        else:
            shown, self._held, self._in_call = self._held[:at], self._held[at:], True
            shown = shown.rstrip()
        if not shown and not self._in_call:
            return None
        self._said = self._said or bool(shown.strip())
        return _words(shown)

    def _call(self) -> list[Told] | None:
        """A call that is whole; None as long as it is not."""
        at = self._held.find(HERMES_END)
        if at < 0:
            return None
        whole = self._held[: at + len(HERMES_END)]
        calls = _calls_in(self._held[len(HERMES) : at], self._names)
        self._held, self._in_call = self._held[len(whole) :].lstrip("\n"), False
        return self._told(calls) if calls else _words(whole)

    def _told(self, calls: Sequence[tuple[str, str]]) -> list[Told]:
        told: list[Told] = []
        for name, arguments in calls[: self._most - self._calls]:
            told += [CallBegun(self._calls, new_call_id(), name), CallArguments(self._calls, arguments)]
            self._calls += 1
        return told


def new_call_id() -> str:
    """Nine letters and digits: the templates of some models take no other id back."""
    return "call" + "".join(secrets.choice(ID_LETTERS) for _ in range(5))


def forced_schema(functions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What an answer that has to call one of these holds to. Parameters that nobody can hold to while writing are any
    object where the function is not ``strict``: then OpenAI leaves it to the application to check them, too."""
    several = len(functions) > 1
    each = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": _parameters(function, f"#/anyOf/{place}" if several else "#"),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for place, function in enumerate(functions)
    ]
    return {"anyOf": each} if several else each[0]


def _parameters(function: Mapping[str, Any], at: str) -> Any:
    """The schema of a function's arguments, as it stands within another; ``at``: where the function stands."""
    parameters = function.get("parameters") or {"type": "object"}
    if not function.get("strict"):
        try:
            grammar_of(json.dumps(parameters))
        except SchemaError:
            return {"type": "object"}
    return _moved(parameters, f"{at}/properties/arguments")


def _moved(schema: Any, to: str, *, named: bool = False) -> Any:
    """The same with all references into itself pointing to where it stands now. ``named``: by names of their own, it
    holds schemas."""
    if isinstance(schema, list):
        return [_moved(part, to) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {}
    for key, part in schema.items():
        if not named and key == "$ref" and isinstance(part, str) and part.startswith("#"):
            moved[key] = to + part.removeprefix("#")
        elif not named and key in _VALUES:
            moved[key] = part
        else:
            moved[key] = _moved(part, to, named=not named and key in _NAMED)
    return moved


_VALUES = frozenset(("const", "enum", "default", "examples"))
"""What stands under these is no schema."""
_NAMED = frozenset(("properties", "$defs", "definitions"))
"""What stands under these are schemas by their names."""


def _words(text: str) -> list[Told]:
    return [Words(text)] if text else []


def _may_be_bare(text: str) -> bool:
    """Whether an answer that begins so may be a call without a mark, or with one that stands at the beginning."""
    text = text.lstrip()
    if any(lead.startswith(text[: len(lead)]) for lead in LEADS):
        return True
    return text[:1] in ("{", "[")


def _without_lead(text: str) -> str:
    text = text.strip()
    for lead in LEADS:
        text = text.removeprefix(lead)
    return text.strip()


def _overlap(text: str, mark: str) -> int:
    """How much of the text's end may be the mark's beginning."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:n])), 0)


def _calls_in(text: str, names: Collection[str]) -> list[tuple[str, str]] | None:
    """Name and arguments of each call of a JSON text; None if it is anything else."""
    values: list[Any] = []
    text = text.strip()
    while text:
        try:
            value, to = _decode(text)
        except (ValueError, RecursionError):
            return None
        values += value if isinstance(value, list) else [value]
        text = text[to:].lstrip("; \t\r\n")
    calls = [_call_of(value, names) for value in values[:CALLS_MAX]]
    return [call for call in calls if call] if calls and all(calls) else None


def _call_of(value: Any, names: Collection[str]) -> tuple[str, str] | None:
    if not isinstance(value, dict):
        return None
    value = value["function"] if isinstance(value.get("function"), dict) else value
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters", {}))
    if name not in names:
        return None
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return name, text
