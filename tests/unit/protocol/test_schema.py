"""JSON schema to grammar: what the grammar permits the schema accepts, and what cannot be held to is refused."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.session.schema import DEPTH_MAX, PARTS_MAX, REPEAT_MAX, REPEATS_MAX, grammar_of
from protocol.session.schema_strings import SchemaError
from tests.unit.protocol.gbnf import Grammar

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "nick": {"type": ["string", "null"]},
        "tags": {"type": "array", "items": {"enum": ["a", "b c", 'q"\\ä🙂']}, "maxItems": 2},
    },
    "required": ["name", "tags"],
}


def permits(schema: Any, text: str) -> bool:
    return Grammar(grammar_of(json.dumps(schema))).permits(text)


def refusal(schema: Any) -> str:
    with pytest.raises(SchemaError) as refused:
        grammar_of(schema if isinstance(schema, str) else json.dumps(schema))
    return str(refused.value)


TREE = {"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"v": True, "n": {"$ref": "#/$defs/n"}}, "required": ["v"]}}}
ACCEPTED: list[tuple[Any, list[Any], list[Any]]] = [
    ({}, [1, "x", None, [{}], {"a": [1.5e3]}], []),
    ({"type": "object"}, [{}, {"a": {"b": [1, "x"]}}], [1, [], "x"]),
    (PERSON, [{"name": "B", "tags": []}, {"name": "B", "age": 120, "nick": None, "tags": ["b c", 'q"\\ä🙂']}], []),
    (PERSON, [], [{"name": "", "tags": []}, {"name": "B"}, {"name": "B", "age": 121, "tags": []}, {"tags": []}]),
    (PERSON, [], [{"name": "B", "tags": ["a", "a", "a"]}, {"name": "B", "tags": ["c"]}, {"name": "B", "x": 1}]),
    ({"properties": {"a": True, "b": True}}, [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2}], [{"c": 1}]),
    ({"properties": {"a": True}, "required": ["z"]}, [{"z": 1}, {"a": 1, "z": 2}], [{"a": 1}]),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"x": 1, "y": 2}], [{"x": "1"}]),
    ({"type": "object", "additionalProperties": False}, [{}], [{"x": 1}]),
    ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, [None, True, False], [0]),
    ({"type": "object", "properties": {"a": True, "b": True}, "oneOf": [{"required": ["a"]}]}, [{"a": 1}], [{}]),
    ({"allOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["a"]}]}, [{"a": 1}], [{}, {"a": ""}]),
    ({"type": ["string", "null"], "enum": ["x", None, 5]}, ["x", None], [5, "y"]),
    ({"const": "\n\t/"}, ["\n\t/"], ["\n"]),
    ({"type": "array", "minItems": 2, "maxItems": 3}, [[1, 2], [1, 2, 3]], [[], [1], [1, 2, 3, 4]]),
    ({"type": "array", "items": {"type": "null"}}, [[], [None], [None, None]], [[1]]),
    ({"prefixItems": [{"type": "string"}, {"type": "null"}]}, [["x", None]], [["x"], ["x", None, 1], [None, "x"]]),
    ({"prefixItems": [{"const": 1}], "minItems": 3, "items": {"const": 2}}, [[1, 2, 2]], [[1, 2], [2, 2, 2]]),
    ({"items": [{"const": 1}], "additionalItems": {"const": 2}}, [[1], [1, 2]], [[1, 3]]),
    (TREE, [{"v": 1}, {"v": 1, "n": {"v": 2, "n": {"v": 3}}}], [{"n": {"v": 1}}, {"v": 1, "n": {}}]),
    ({"properties": {"a": {"$ref": "#"}}}, [{}, {"a": {"a": {}}}], [{"a": 1}]),
    ({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"const": 7}}}, [7], [8]),
    ({"type": "string", "maxLength": 0}, [""], ["x"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "äöü", '"\\'], ["a", "abcd"]),
    ({"format": "date", "type": "string"}, ["2026-02-28"], ["2026-13-01", "2026-02-30", "26-02-01"]),
    ({"format": "uuid", "type": "string"}, ["01234567-89ab-cdef-0123-456789ABCDEF"], ["0123"]),
    ({"format": "email", "type": "string"}, ["anything"], [1]),
    ({"type": "integer"}, [0, -17, 123456], [1.5]),
    ({"type": "number"}, [0, -1.5, 1e20], [True]),
    ({"type": "number", "minimum": 0}, [0, 99, 1.5], [-1, -0.5, 1e30]),
    ({"type": "number", "minimum": 0, "maximum": 1}, [0, 0.25, 1], [-0.5, 1.5, 2]),
    ({"type": "number", "minimum": -2, "exclusiveMaximum": 12}, [-2, -1.75, -0.5, 0, 11, 10.5], [-2.5, 11.5, 12]),
    ({"type": "number", "maximum": -3}, [-3, -3.5, -20], [-2.9, 0, 3]),
    ({"title": "x", "description": "y", "default": 3, "type": "null"}, [None], [3]),
]


@pytest.mark.spec("SCHEMA-GRAMMAR.1")
@pytest.mark.parametrize(("schema", "yes", "no"), ACCEPTED, ids=lambda value: json.dumps(value)[:40])
def test_what_a_schema_permits(schema: Any, yes: list[Any], no: list[Any]) -> None:
    for value in yes:
        for text in (json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, indent=2)):
            assert permits(schema, text), text
    for value in no:
        assert not permits(schema, json.dumps(value, ensure_ascii=False)), value


def test_a_text_is_json_to_its_last_letter() -> None:
    for text in ('"\n"', '"\\x"', '"\\ud800"', "01", "1.", "{} ", " {}", "[1,]", '{"a":1,}', "nul", ""):
        assert not permits({}, text), text
    assert permits({}, '"\\u00e4\\n"')


@settings(deadline=None, max_examples=60)
@given(st.integers(-2_000, 2_000), st.integers(0, 3_000), st.data())
def test_whole_numbers_within_bounds(least: int, width: int, data: st.DataObject) -> None:
    grammar = Grammar(grammar_of(json.dumps({"type": "integer", "minimum": least, "maximum": least + width})))
    for _ in range(20):
        number = data.draw(st.integers(least - 1_000, least + width + 1_000))
        assert grammar.permits(str(number)) == (least <= number <= least + width)
    assert not grammar.permits("-0")
    assert not grammar.permits("00")


@settings(deadline=None, max_examples=40)
@given(st.integers(-2_000, 2_000), st.integers(-5_000, 5_000))
def test_whole_numbers_with_one_bound(bound: int, number: int) -> None:
    above = Grammar(grammar_of(json.dumps({"type": "integer", "minimum": bound})))
    below = Grammar(grammar_of(json.dumps({"type": "integer", "exclusiveMaximum": bound})))
    assert above.permits(str(number)) == (number >= bound)
    assert below.permits(str(number)) == (number < bound)


PATTERNS = [
    "^a+b?$",
    "^(ab|c)*$",
    r"^\d{2,3}-[A-Z]$",
    r'^[^x"]\\"$',
    r"b",
    "^a",
    r"^.\.[\w-]$",
    "a|b",
    "^(?:a{2}){1,2}$",
    "^$",
    r"\S\D",
    "^(a|b|)c$",
]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(PATTERNS), st.text('abcx12-A".\\ ', max_size=6))
def test_patterns_mean_what_they_mean_elsewhere(pattern: str, text: str) -> None:
    matched = re.search(pattern.replace("$", r"\Z"), text) is not None
    assert permits({"type": "string", "pattern": pattern}, json.dumps(text, ensure_ascii=False)) == matched


@pytest.mark.spec("SCHEMA-GRAMMAR.1")
@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("{", "no JSON"),
        ('{"minimum": NaN}', "NaN"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "no schema"),
        (False, "no schema"),
        ({"type": "strnig"}, "no type 'strnig'"),
        ({"not": {}}, "'not' cannot be held to"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"properties": {"a": {"multipleOf": 2}}}, "the schema.a: 'multipleOf'"),
        ({"$ref": "https://example.com/x"}, "must point into the schema itself"),
        ({"$ref": "#/$defs/x"}, "points at nothing"),
        ({"$ref": "#"}, "refers to itself"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "refers to itself"),
        ({"allOf": [{"$ref": "#"}]}, "refers to itself|more than"),
        ({"anyOf": []}, "at least one"),
        ({"enum": []}, "no value is left"),
        ({"type": "integer", "enum": ["a"]}, "no value is left"),
        ({"minItems": 3, "maxItems": 2}, "more than 'maxItems'"),
        ({"prefixItems": [True], "items": False, "minItems": 2}, "fewer items"),
        ({"minLength": -1}, "must be a whole number"),
        ({"maxLength": REPEAT_MAX + 1}, f"more than the {REPEAT_MAX}"),
        ({"prefixItems": [{"maxLength": REPEAT_MAX}] * 5}, f"more than {REPEATS_MAX}"),
        ({"minimum": 1, "maximum": 0}, "no number is left"),
        ({"minimum": 0.5}, "whole numbers"),
        ({"maximum": 10**15}, "15 digits"),
        ({"additionalProperties": False, "required": ["a"]}, "required, and not allowed"),
        ({"allOf": [{"minLength": 1}, {"minLength": 2}]}, "said twice"),
        ({"pattern": "^a$", "maxLength": 3}, "cannot both be held to"),
        ({"pattern": "(?=a)"}, "look around"),
        ({"pattern": "(a"}, "not closed"),
        ({"pattern": "a)"}, "too many"),
        ({"pattern": "[b-a]"}, "must rise"),
        ({"pattern": r"\b"}, "not known"),
        ({"pattern": "a**"}, "count of a count"),
        ({"pattern": "a{9999}"}, "counts rise"),
        ({"pattern": "^a|b$"}, "needs a group"),
        ({"pattern": "(" * 20 + ")" * 20}, "nested deeper"),
        ({"pattern": "a" * 600}, "512 characters"),
        ({"enum": ["\ud800"]}, "half a letter"),
        (json.dumps({"prefixItems": [{}] * 2}).replace("{}", '{"type": "x"}'), "no type 'x'"),
    ],
)
def test_what_cannot_be_held_to_is_refused_with_where_and_why(schema: Any, why: str) -> None:
    assert re.search(why, refusal(schema))


def test_a_schema_is_bounded_whatever_it_is_made_of() -> None:
    deep: Any = True
    for _ in range(DEPTH_MAX + 2):
        deep = {"items": deep}
    assert "nested deeper" in refusal(deep)
    assert f"more than {PARTS_MAX}" in refusal({"anyOf": [{"type": "null"}] * (PARTS_MAX + 1)})
    doubling = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    assert "parts" in refusal({"$ref": "#/$defs/d0", "$defs": {**doubling, "d40": {"type": "object"}}})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-50, 50) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYWORDS = [
    "type",
    "items",
    "properties",
    "required",
    "anyOf",
    "allOf",
    "enum",
    "$ref",
    "minItems",
    "pattern",
    "format",
]
schemas = st.recursive(
    st.sampled_from([True, {}, {"type": "string"}, {"type": ["null", "integer"]}, {"enum": ["ä", 1]}, {"$ref": "#"}]),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(KEYWORDS), inner | json_values, max_size=4),
        st.fixed_dictionaries({"items": inner, "minItems": st.integers(0, 3)}),
        st.fixed_dictionaries({"properties": st.dictionaries(st.text(max_size=3), inner, max_size=3)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(schemas)
def test_any_schema_gives_a_grammar_with_json_texts_or_is_refused(schema: Any) -> None:
    try:
        grammar = Grammar(grammar_of(json.dumps(schema)))
    except SchemaError:
        return
    text = grammar.shortest()
    if text is not None:
        json.loads(text)
        assert grammar.permits(text)
