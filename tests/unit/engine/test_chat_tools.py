"""Tools, calls and plain texts on their way into a prompt: shown by the template, and never control tokens."""

import json
from typing import Any

import pytest
from hypothesis import given

from p2pnode.engine.api import ChatMessage, EngineError, ToolsRefused
from p2pnode.engine.chat import ChatRenderer
from tests.unit.engine.test_chat import CONTROL, LetterVocabulary, contents, control_in, user

TOOLS = (
    "{% if tools %}<|user|>{% for t in tools %}{{ t | tojson }}({{ t.function.name }}){% endfor %}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.id }}:{{ c.function.name }}{{ c.function.arguments | tojson }}"
    "{% endfor %}{% if m.role == 'tool' %}{{ m.name }}={{ m.tool_call_id }}{% endif %}<|end|>{% endfor %}"
    "<|assistant|>"
)


def renderer_of(template: str = TOOLS) -> ChatRenderer:
    return ChatRenderer(LetterVocabulary(template))


def tool(name: str, text: str = "", key: str = "x") -> str:
    parameters = {"type": "object", "properties": {key: {"type": "string", "description": text, "enum": [text]}}}
    function = {"name": name, "description": text, "parameters": parameters}
    return json.dumps([{"type": "function", "function": function}])


def called(name: str, arguments: Any, call_id: str = "call_1") -> str:
    return json.dumps([{"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}])


def said(ids: list[int]) -> str:
    """The letters of some tokens; control tokens as they are written."""
    return "".join(
        CONTROL[token] if token in CONTROL else chr((token - 10) % 0x110000) * ((token - 10) // 0x110000)
        for token in ids
    )


def test_a_template_is_given_tools_calls_and_whose_answer_a_turn_is() -> None:
    renderer = renderer_of()
    assert renderer.takes_tools
    turns = [
        user("Hi"),
        ChatMessage("assistant", "", called("look", '{"a": "ä", "n": 1}')),
        ChatMessage("tool", "sunny", call_id="call_1"),
    ]
    tools = tool("look", "Looks up <b> 'ä'")
    shown = json.dumps(json.loads(tools)[0], ensure_ascii=False)
    assert said(renderer.render(turns, tools)) == (
        f'<s><|user|>{shown}(look)<|end|><|user|>Hi<|end|><|assistant|>call_1:look{{"a": "ä", "n": 1}}<|end|>'
        "<|tool|>sunnylook=call_1<|end|><|assistant|>"
    )


@given(contents, contents, contents, contents, contents, contents)
def test_tools_and_calls_never_bring_in_control_tokens(
    name: str, text: str, key: str, argument: str, called_key: str, content: str
) -> None:
    arguments = {called_key: [argument], "id": argument, "type": argument}
    turns = [
        user(content),
        ChatMessage("assistant", content, called(name, arguments)),
        ChatMessage("tool", content, call_id="call_1"),
    ]
    ids = renderer_of().render(turns, tool(name or "x", text, key))
    assert control_in(ids) == [0, 2, 4, 2, 4, 3, 4, 4, 3]
    assert argument.replace("\ue0f1", "") in said(ids)


def test_a_name_that_a_template_would_make_a_control_token_of_is_none() -> None:
    renderer = renderer_of(TOOLS.replace("({{ t.function.name }})", "<{{ t.function.name }}>"))
    assert control_in(renderer.render([user("x")], tool("f"))) == [0, 2, 4, 2, 4, 3]
    assert control_in(renderer.render([user("x")], tool("/s"))) == [0, 2, 4, 2, 4, 3]
    assert "</s>" in said(renderer.render([user("x")], tool("/s")))


@pytest.mark.parametrize(
    ("tools", "calls", "call_id", "why"),
    [
        ("{", "", "", "no JSON"),
        ("{}", "", "", "list of objects"),
        ("[]", "", "", "at least one"),
        ("[1]", "", "", "list of objects"),
        ('[{"type": "function"}]', "", "", "must have a name"),
        ("[" * 50_000, "", "", "nested deeper"),
        ('[{"a": ' + "[" * 40 + "]" * 40 + "}]", "", "", "nested deeper"),
        ("", "[{}]", "", "name its function"),
        ("", called("f", {}, "a b"), "", "id of a call"),
        ("", "", "<|end|>", "id of a call"),
    ],
)
def test_what_are_no_tools_is_refused(tools: str, calls: str, call_id: str, why: str) -> None:
    with pytest.raises(ToolsRefused, match=why):
        renderer_of().render([ChatMessage("assistant", "a", calls, call_id)], tools)


def test_a_template_without_tools_refuses_them() -> None:
    renderer = ChatRenderer(LetterVocabulary())
    assert not renderer.takes_tools
    assert not ChatRenderer(LetterVocabulary(None)).takes_tools
    with pytest.raises(ToolsRefused, match="knows nothing of tools"):
        renderer.render([user("a")], tool("f"))
    with pytest.raises(ToolsRefused, match="knows nothing of tools"):
        renderer.render([ChatMessage("assistant", "", called("f", {}))])


def test_a_plain_text_goes_through_no_template() -> None:
    vocabulary = LetterVocabulary(None)
    text = vocabulary.tokenize("one <|end|> two", add_special=False, parse_special=False)
    renderer = ChatRenderer(vocabulary)
    assert renderer.render([ChatMessage("plain", "one <|end|> two")]) == [0, *text]
    assert renderer.render([ChatMessage("plain", "")]) == [0]
    without = ChatRenderer(LetterVocabulary(None, bos=None))
    assert without.render([ChatMessage("plain", "one <|end|> two")]) == text
    with pytest.raises(EngineError, match="nothing to go on with"):
        without.render([ChatMessage("plain", "")])
    with pytest.raises(EngineError, match="stands alone"):
        renderer.render([ChatMessage("plain", "a"), user("b")])
    with pytest.raises(EngineError, match="stands alone"):
        renderer.render([ChatMessage("plain", "a")], tool("f"))
