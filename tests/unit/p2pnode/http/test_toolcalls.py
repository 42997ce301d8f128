"""Words and calls in what a model wrote, however it is cut into pieces."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.http.toolcalls import (
    CallArguments,
    CallBegun,
    ForcedReader,
    FreeReader,
    Reader,
    Told,
    Words,
    WordsReader,
    forced_schema,
)
from protocol.session.schema import grammar_of
from protocol.session.schema_strings import SchemaError

NAMES = ("place_of", "weather")
BEAR = '{"animal": "bear", "of": [1, {"b": "}"}]}'


def read(reader: Reader, pieces: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """The words, and name and arguments of each call."""
    told: list[Told] = []
    for piece in pieces:
        told += reader.take(piece)
    told += reader.end()
    words, calls = "", list[list[str]]()
    for each in told:
        match each:
            case Words():
                words += each.text
            case CallBegun():
                assert each.index == len(calls)
                assert len(each.id) == 9
                assert each.id.isalnum()
                calls.append([each.name, ""])
            case CallArguments():
                calls[each.index][1] += each.text
    return words, [(name, arguments) for name, arguments in calls]


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places})
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


FREE = [
    ("A bear lives in a wood.", "A bear lives in a wood.", []),
    ("1 < 2, and <tool> is no mark", "1 < 2, and <tool> is no mark", []),
    (f'<tool_call>\n{{"name": "place_of", "arguments": {BEAR}}}\n</tool_call>', "", [("place_of", BEAR)]),
    (
        'Let me look.\n<tool_call>{"name": "weather", "arguments": {}}</tool_call>\n'
        f'<tool_call>{{"name": "place_of", "arguments": {BEAR}}}</tool_call>',
        "Let me look.",
        [("weather", "{}"), ("place_of", BEAR)],
    ),
    (f'{{"name": "place_of", "parameters": {BEAR}}}', "", [("place_of", BEAR)]),
    (f'<|python_tag|>{{"name": "place_of", "parameters": {BEAR}}}', "", [("place_of", BEAR)]),
    (f'[TOOL_CALLS] [{{"name": "place_of", "arguments": {BEAR}}}]', "", [("place_of", BEAR)]),
    (
        f'[{{"name": "place_of", "arguments": {BEAR}}}, {{"name": "weather"}}]',
        "",
        [("place_of", BEAR), ("weather", "{}")],
    ),
    (f'<tool_call>{{"name": "place_of", "arguments": {BEAR}}}', "", [("place_of", BEAR)]),
    ('{"name": "bear", "age": 3}', '{"name": "bear", "age": 3}', []),
    ("[1, 2, 3] are numbers", "[1, 2, 3] are numbers", []),
    ("<tool_call>not JSON</tool_call> and on", "<tool_call>not JSON</tool_call> and on", []),
    ('<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', None, []),
    ("", "", []),
    ("[TOOL_CA", "[TOOL_CA", []),
    ("so <tool_c", "so <tool_c", []),
]


@pytest.mark.parametrize(("text", "words", "calls"), FREE)
@settings(max_examples=25)
@given(places=st.lists(st.integers(0, 200), max_size=8))
def test_a_free_answer_is_read_the_same_however_it_is_cut(
    text: str, words: str | None, calls: list[tuple[str, str]], places: list[int]
) -> None:
    found, made = read(FreeReader(NAMES), cut(text, places))
    assert found == (text if words is None else words)
    assert [(name, json.loads(arguments)) for name, arguments in made] == [
        (name, json.loads(arguments)) for name, arguments in calls
    ]


def test_words_are_shown_as_soon_as_they_can_be_nothing_else() -> None:
    reader = FreeReader(NAMES)
    assert reader.take("A bear ") == [Words("A bear")]
    assert reader.take("lives <") == [Words(" lives")]
    assert reader.take("3 miles away") == [Words(" <3 miles away")]


def test_only_one_call_where_several_are_not_wanted() -> None:
    text = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>' * 3
    assert read(FreeReader(NAMES, several=False), [text]) == ("", [("weather", "{}")])
    assert len(read(FreeReader(NAMES), [text])[1]) == 3


@settings(max_examples=25)
@given(places=st.lists(st.integers(0, 200), max_size=8), gap=st.sampled_from(["", " ", "\n  "]))
def test_arguments_of_a_forced_call_are_passed_on_as_they_come(places: list[int], gap: str) -> None:
    text = f'{{{gap}"name":{gap}"place_of"{gap},{gap}"arguments":{gap}{BEAR}{gap}}}{gap}'
    words, calls = read(ForcedReader(), cut(text, places))
    assert (words, calls) == ("", [("place_of", BEAR)])


def test_a_forced_call_that_is_cut_off_keeps_what_is_there() -> None:
    assert read(ForcedReader(), ['{"name":"place_of","arguments":{"animal":"be']) == (
        "",
        [("place_of", '{"animal":"be')],
    )
    assert read(ForcedReader(), ['{"name":"pla']) == ('{"name":"pla', [])


def test_arguments_are_not_held_back() -> None:
    reader = ForcedReader()
    begun, arguments = reader.take('{"name":"weather","arguments":{"day":"mon')
    assert isinstance(begun, CallBegun)
    assert arguments == CallArguments(0, '{"day":"mon')
    assert reader.take('day"}') == [CallArguments(0, 'day"')]
    assert reader.take("}") == []
    assert reader.end() == [CallArguments(0, "}")]


def test_without_tools_everything_is_words() -> None:
    text = '<tool_call>{"name": "weather"}</tool_call>'
    assert read(WordsReader(), [text]) == (text, [])


def test_the_schema_of_a_call_names_each_function_and_its_parameters() -> None:
    place = {"name": "place_of", "parameters": {"type": "object", "properties": {"animal": {"type": "string"}}}}
    one = forced_schema([place])
    assert one["properties"] == {"name": {"const": "place_of"}, "arguments": place["parameters"]}
    assert (one["required"], one["additionalProperties"]) == (["name", "arguments"], False)
    several = forced_schema([place, {"name": "weather"}])
    assert [each["properties"]["name"]["const"] for each in several["anyOf"]] == ["place_of", "weather"]
    assert several["anyOf"][1]["properties"]["arguments"] == {"type": "object"}


PLACE = {
    "$defs": {
        "Place": {"type": "object", "properties": {"default": {"$ref": "#/$defs/Name"}}},
        "Name": {"enum": ["wood"]},
    },
    "type": "object",
    "properties": {"at": {"$ref": "#/$defs/Place"}, "$ref": {"const": {"$ref": "#"}}},
    "required": ["at", "$ref"],
}
"""As a library writes the parameters of a function whose arguments have types of their own."""


@pytest.mark.parametrize("functions", [1, 2])
def test_references_of_parameters_hold_within_the_schema_of_the_call(functions: int) -> None:
    made = forced_schema([{"name": f"f{number}", "parameters": PLACE, "strict": True} for number in range(functions)])
    grammar = grammar_of(json.dumps(made))
    assert grammar.count(r'"\"wood\""') == functions
    last = (made["anyOf"][1] if functions == 2 else made)["properties"]["arguments"]
    assert last["properties"]["$ref"] == {"const": {"$ref": "#"}}, "a value is left as it is"


def test_parameters_that_cannot_be_held_to_are_any_object_unless_they_are_strict() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 2}}}
    loose = forced_schema([{"name": "a", "parameters": parameters}])
    assert loose["properties"]["arguments"] == {"type": "object"}
    strict = forced_schema([{"name": "a", "parameters": parameters, "strict": True}])
    with pytest.raises(SchemaError, match="multipleOf"):
        grammar_of(json.dumps(strict))


@given(st.text(alphabet='{}[]"<>tool_call/ \n:,name', max_size=80), st.lists(st.integers(0, 80), max_size=6))
def test_nothing_a_model_writes_is_lost(text: str, places: list[int]) -> None:
    words, calls = read(FreeReader(()), cut(text, places))
    assert calls == []
    assert words == text or "".join(words.split()) == "".join(text.split())
