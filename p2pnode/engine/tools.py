"""Tools and their calls, as JSON that a chat template is given: read, bounded, and made harmless.

Every text in them is its sender's: names, descriptions, argument values, and the keys of parameters. So each can be
put through the same change as a message's content, while the words that templates look at keep their meaning.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from p2pnode.engine.api import ChatMessage, ToolsRefused
from protocol.core.json_nesting import json_nesting

DEPTH_MAX = 32
CALL_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
Json = Any
Change = Callable[[str], str]

_KEYS = frozenset(
    {"type", "function", "name", "description", "parameters", "properties", "required", "items", "enum", "id"}
    | {"arguments", "strict", "anyOf", "oneOf", "allOf", "additionalProperties", "default", "format", "const"}
    | {"minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern", "title", "nullable", "return"}
)
"""Keys that templates ask for by name; every other one is the sender's text."""
_TYPES = frozenset(("function", "object", "array", "string", "integer", "number", "boolean", "null"))
PROBE = [
    {
        "type": "function",
        "function": {
            "name": "probe_for_tools",
            "description": "probe",
            "parameters": {"type": "object", "properties": {"probe": {"type": "string", "description": "probe"}}},
        },
    }
]
"""Whether a template shows it tells whether the model knows of tools."""


def read_tools(text: str) -> list[Json]:
    """The tools of a prompt. Raises ToolsRefused."""
    tools = _read_list(text, "tools")
    for tool in tools:
        described = tool.get("function", tool)
        if not isinstance(described, dict) or not isinstance(described.get("name"), str) or not described["name"]:
            raise ToolsRefused('each tool must have a name: {"type": "function", "function": {"name": …}}')
    return tools


def read_calls(text: str) -> list[Json]:
    """The calls of an assistant's turn; arguments that are JSON text of an object become that object, as templates
    expect them. Raises ToolsRefused."""
    calls = []
    for call in _read_list(text, "calls"):
        function = call.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ToolsRefused('each call must name its function: {"function": {"name": …, "arguments": …}}')
        check_call_id(call.get("id", ""))
        calls.append({**call, "type": "function", "function": {**function, "arguments": _arguments(function)}})
    return calls


def check_call_id(call_id: object) -> None:
    """Raises ToolsRefused for what no template may be shown as the id of a call."""
    if call_id != "" and not (isinstance(call_id, str) and CALL_ID.fullmatch(call_id)):
        raise ToolsRefused("the id of a call is up to 64 letters, digits and any of _ . : -")


def names_by_id(turns: Sequence[list[Json]]) -> dict[str, str]:
    """What each call of a conversation called."""
    return {call["id"]: call["function"]["name"] for calls in turns for call in calls if call.get("id")}


def changed(value: Json, change: Change) -> Json:
    """The same tools or calls with every text of the sender's changed, keys included; what templates compare stays."""
    match value:
        case str():
            return change(value)
        case list():
            return [changed(item, change) for item in value]
        case dict():
            return {
                key if key in _KEYS else change(key): item if _is_structure(key, item) else changed(item, change)
                for key, item in value.items()
            }
        case _:
            return value


def harmless_id(call_id: str) -> str:
    """An id that says nothing, as long as the one given: some templates look at its length."""
    return "0" * len(call_id)


def _is_structure(key: str, value: Json) -> bool:
    return key == "type" and isinstance(value, str) and value in _TYPES


def _arguments(function: dict[str, Json]) -> Json:
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        return arguments
    if json_nesting(arguments) > DEPTH_MAX:
        return arguments
    try:
        parsed = json.loads(arguments)
    except ValueError:
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _read_list(text: str, what: str) -> list[dict[str, Json]]:
    if json_nesting(text) > DEPTH_MAX:
        raise ToolsRefused(f"the {what} are nested deeper than {DEPTH_MAX}")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ToolsRefused(f"the {what} are no JSON: {error}") from error
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise ToolsRefused(f"the {what} must be a JSON list of objects, with at least one")
    return value


def read_turns(messages: Sequence[ChatMessage]) -> list[list[Json]]:
    """The calls of each turn, none where it made none. Raises ToolsRefused."""
    for message in messages:
        check_call_id(message.call_id)
    return [read_calls(message.calls) if message.calls else [] for message in messages]
