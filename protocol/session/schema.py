"""JSON schema to grammar: which texts an answer may be that is asked to hold to a schema.

The grammar is in llama.cpp's notation (GBNF). It describes texts that the schema accepts, not always all of them:
members come in the order in which the schema names them, what need not be said beside them is not said, and white
space is bounded. A keyword that would be broken silently is refused by name; annotations are passed over.

Spec: [SCHEMA-GRAMMAR.1]
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

from protocol.core.json_nesting import json_nesting
from protocol.session.schema_strings import FORMATS, SchemaError, integer_rule, number_rule, pattern_rule

DEPTH_MAX = 64
NESTING_MAX = 4 * DEPTH_MAX
"""Brackets within brackets of its text: a schema takes up to three for one more schema in it."""
PARTS_MAX = 2_000
"""Schemas visited in all: references to one are visited once, what is merged by ``allOf`` counts each time."""
REPEAT_MAX = 1_000
REPEATS_MAX = 4_000
"""Of all repetitions together."""
Json = Any

_ANY = "value"
_BASE = {
    "space": r'| " " | "\n" [ \t]{0,20}',
    "value": "object | array | string | number | boolean | null",
    "object": r'"{" space (string ":" space value ("," space string ":" space value)* space)? "}"',
    "array": r'"[" space (value ("," space value)* space)? "]"',
    "string": r'"\"" char* "\""',
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" code)',
    "code": "[0-9a-cA-Ce-fE-F] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}",
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": '"-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
}
_REFUSED = (
    *("not", "if", "then", "else", "contains", "multipleOf", "patternProperties", "propertyNames"),
    *("minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "dependencies"),
    *("$dynamicRef", "$recursiveRef"),
)
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_TYPE_OF = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern"),
    "number": _BOUNDS,
}
"""What says of a schema without a type which one is meant."""


def grammar_of(schema: str) -> str:
    """The grammar of the texts to be written under a schema, given as JSON text. Raises SchemaError."""
    if json_nesting(schema) > NESTING_MAX:
        raise SchemaError("the schema is nested too deep")
    try:
        read = json.loads(schema, parse_constant=_no_number)
        _check(read)
        return _Converter(read).convert()
    except RecursionError:
        raise SchemaError("the schema refers to itself too deep") from None
    except ValueError as error:
        raise error if isinstance(error, SchemaError) else SchemaError(f"the schema is no JSON: {error}") from error


def literal(text: str) -> str:
    """A text as GBNF writes it, letter for letter."""
    escaped = "".join(
        {"\\": "\\\\", '"': '\\"'}.get(letter) or (letter if letter >= " " else f"\\x{ord(letter):02X}")
        for letter in text
    )
    return f'"{escaped}"'


class _Converter:
    def __init__(self, root: Json) -> None:
        self._root = root
        self._rules: dict[str, str] = {}
        self._named: dict[str, str] = {}
        """Rules of what references point at."""
        self._open: set[str] = set()
        """Rules being made in which no letter has been written yet: a reference to one would never end."""
        self._parts = 0
        self._repeats = 0

    def convert(self) -> str:
        self._rules["root"] = self._visit(self._root, "the schema", 0)
        rules = {**self._rules, **_BASE}
        return "\n".join(f"{name} ::= {rule}" for name, rule in rules.items()) + "\n"

    def _visit(self, schema: Json, at: str, depth: int) -> str:
        """What stands for a schema in a rule: a name, or an expression in brackets."""
        self._parts += 1
        if self._parts > PARTS_MAX or depth > DEPTH_MAX:
            raise SchemaError(f"{at}: more than {PARTS_MAX} parts, or nested deeper than {DEPTH_MAX}")
        if schema is True or schema == {}:
            return _ANY
        if not isinstance(schema, dict):
            raise SchemaError(f"{at}: {schema!r} is no schema that anything holds to")
        for keyword in _REFUSED:
            if keyword in schema:
                raise SchemaError(f"{at}: {keyword!r} cannot be held to while writing: leave it out, check it later")
        if schema.get("uniqueItems") is True:
            raise SchemaError(f"{at}: 'uniqueItems' cannot be held to while writing: leave it out")
        if "$ref" in schema:
            return self._refer(schema, at, depth)
        if "allOf" in schema:
            return self._visit(self._merged(schema, at, depth), at, depth + 1)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._choices(schema, keyword, at, depth)
        if "const" in schema or "enum" in schema:
            return self._constants(schema, at)
        return self._typed(schema, at, depth)

    def _refer(self, schema: dict[str, Json], at: str, depth: int) -> str:
        pointer = schema["$ref"]
        rest = {key: value for key, value in schema.items() if key in _ASSERTIONS and key != "$ref"}
        if rest:
            return self._visit(self._merged({"allOf": [{"$ref": pointer}], **rest}, at, depth), at, depth + 1)
        target = self._target(pointer, at)
        name = self._named.get(pointer)
        if name is None:
            name = self._named[pointer] = f"def{len(self._named)}"
            self._open.add(name)
            self._rules[name] = self._visit(target, f"{at} → {pointer}", depth + 1)
            self._open.discard(name)
        elif name in self._open:
            raise SchemaError(f"{at}: {pointer!r} refers to itself without anything in between")
        return name

    def _target(self, pointer: Json, at: str) -> Json:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise SchemaError(f"{at}: the reference {pointer!r} must point into the schema itself: '#/…'")
        found = self._root
        for part in pointer.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                raise SchemaError(f"{at}: the reference {pointer!r} points at nothing")
        return found

    def _merged(self, schema: dict[str, Json], at: str, depth: int) -> dict[str, Json]:
        """One schema that says what all parts of ``allOf`` and their neighbours say."""
        self._parts += 1
        if self._parts > PARTS_MAX or depth > DEPTH_MAX:
            raise SchemaError(f"{at}: more than {PARTS_MAX} parts, or nested deeper than {DEPTH_MAX}")
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in _schemas(schema["allOf"], "allOf", at):
            while isinstance(part, dict) and "$ref" in part:
                self._parts += 1
                if self._parts > PARTS_MAX:
                    raise SchemaError(f"{at}: {part['$ref']!r} refers to itself without anything in between")
                part = _join(
                    {key: value for key, value in part.items() if key != "$ref"}, self._target(part["$ref"], at), at
                )
            if isinstance(part, dict) and "allOf" in part:
                part = self._merged(part, at, depth + 1)
            merged = _join(merged, part, at)
        return merged

    def _choices(self, schema: dict[str, Json], keyword: str, at: str, depth: int) -> str:
        rest = {key: value for key, value in schema.items() if key in _ASSERTIONS and key != keyword}
        options = [
            self._visit(_join(rest, option, at) if rest else option, f"{at}.{keyword}[{number}]", depth + 1)
            for number, option in enumerate(_schemas(schema[keyword], keyword, at))
        ]
        return f"({' | '.join(options)})"

    def _constants(self, schema: dict[str, Json], at: str) -> str:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if not isinstance(values, list):
            raise SchemaError(f"{at}: 'enum' must be a list")
        types = _listed(schema["type"]) if "type" in schema else None
        fitting = [value for value in values if types is None or any(_is_of(value, each) for each in types)]
        if not fitting:
            raise SchemaError(f"{at}: no value is left that it accepts")
        return f"({' | '.join(literal(json.dumps(value, ensure_ascii=False)) for value in fitting)})"

    def _typed(self, schema: dict[str, Json], at: str, depth: int) -> str:
        given = schema.get("type")
        if given is None:
            given = next((kind for kind, words in _TYPE_OF.items() if any(word in schema for word in words)), None)
            if given is None:
                return _ANY
        options = []
        for kind in _listed(given):
            match kind:
                case "object":
                    options.append(self._object(schema, at, depth))
                case "array":
                    options.append(self._array(schema, at, depth))
                case "string":
                    options.append(self._string(schema, at))
                case "integer" | "number":
                    options.append(self._number(schema, kind, at))
                case "boolean" | "null":
                    options.append(kind)
                case _:
                    raise SchemaError(f"{at}: there is no type {kind!r}")
        if not options:
            raise SchemaError(f"{at}: no type is left that it accepts")
        return options[0] if len(options) == 1 else f"({' | '.join(options)})"

    def _object(self, schema: dict[str, Json], at: str, depth: int) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        others = schema.get("additionalProperties", True)
        if not isinstance(properties, dict):
            raise SchemaError(f"{at}: 'properties' must be an object")
        if not (isinstance(required, list) and all(isinstance(name, str) for name in required)):
            raise SchemaError(f"{at}: 'required' must be a list of names")
        unnamed = [name for name in dict.fromkeys(required) if name not in properties]
        if unnamed and others is False:
            raise SchemaError(f"{at}: {unnamed[0]!r} is required, and not allowed")
        known = self._begin()
        named = [
            (name, self._visit(part, f"{at}.{name}", depth + 1), name in required) for name, part in properties.items()
        ] + [(name, self._visit(others, f"{at}.{name}", depth + 1), True) for name in unnamed]
        if not named:
            inner = "" if others is False or "properties" in schema else self._map(others, at, depth)
        else:
            inner = self._members(named)
        self._open = known
        return self._rule(f'"{{" space {inner}"}}"')

    def _map(self, others: Json, at: str, depth: int) -> str:
        member = f'string ":" space {self._visit(others, f"{at}.additionalProperties", depth + 1)}'
        return f'({member} ("," space {member})* space)? '

    def _members(self, named: Sequence[tuple[str, str, bool]]) -> str:
        """Members in their order, those that are not required left out or not: two rules for each, from the last."""
        first, tail = "", ""
        first_is_empty = True
        for name, value, required in reversed(named):
            member = f'{literal(json.dumps(name, ensure_ascii=False))} ":" space {value}'
            begins = f"{member} {tail}".rstrip()
            if required:
                first, first_is_empty = begins, False
            elif first:
                first = f"{begins} | {first}"
            else:
                first = begins
            first = self._rule(first)
            follows = f'"," space {member}'
            tail = self._rule(f"{follows} {tail}".rstrip() if required else f"({follows})? {tail}".rstrip())
        return f"({first} space)? " if first_is_empty else f"{first} space "

    def _array(self, schema: dict[str, Json], at: str, depth: int) -> str:
        items, head = schema.get("items"), schema.get("prefixItems", [])
        if isinstance(items, list):
            head, items = items, schema.get("additionalItems")
        if not isinstance(head, list):
            raise SchemaError(f"{at}: 'prefixItems' must be a list")
        least, most = self._range(schema, "minItems", "maxItems", at)
        if items is None:
            # What need not be written behind the first items is not.
            items = not head or least > len(head)
        if most is not None and most <= len(head):
            head, items = head[:most], False
        known = self._begin()
        parts = [self._visit(part, f"{at}[{number}]", depth + 1) for number, part in enumerate(head)]
        inner = ' "," space '.join(parts)
        least, most = max(0, least - len(head)), None if most is None else most - len(head)
        if items is False:
            if least:
                raise SchemaError(f"{at}: fewer items are allowed than 'minItems' asks for")
        else:
            item = self._visit(items, f"{at}[]", depth + 1)
            more = f'("," space {item})'
            if head:
                inner += f" {_repeated(more, least, most)}"
            else:
                several = f"{item} {_repeated(more, max(0, least - 1), None if most is None else most - 1)}"
                inner = several if least else f"({several} space)?"
        self._open = known
        space = "" if inner.endswith("space)?") or not inner else " space"
        return self._rule(f'"[" space {inner}{space} "]"')

    def _string(self, schema: dict[str, Json], at: str) -> str:
        least, most = self._range(schema, "minLength", "maxLength", at)
        if "pattern" in schema:
            if least or most is not None:
                raise SchemaError(f"{at}: 'pattern' and a length cannot both be held to: put the length in the pattern")
            inner, repeats = pattern_rule(schema["pattern"], at)
            self._count(repeats, at)
            return self._rule(rf'"\"" {inner} "\""')
        form = schema.get("format")
        if isinstance(form, str) and form in FORMATS:
            return self._rule(rf'"\"" {FORMATS[form]} "\""')
        if not least and most is None:
            return "string"
        return self._rule(rf'"\"" {_repeated("char", least, most)} "\""')

    def _number(self, schema: dict[str, Json], kind: str, at: str) -> str:
        bounds = {key: schema[key] for key in _BOUNDS if key in schema}
        if not bounds:
            return kind
        if any(isinstance(bound, bool) or not isinstance(bound, int) for bound in bounds.values()):
            raise SchemaError(f"{at}: bounds can be held to where they are whole numbers")
        lower = [bounds[key] + extra for key, extra in (("minimum", 0), ("exclusiveMinimum", 1)) if key in bounds]
        upper = [bounds[key] - extra for key, extra in (("maximum", 0), ("exclusiveMaximum", 1)) if key in bounds]
        least, most = max(lower, default=None), min(upper, default=None)
        if any(bound is not None and abs(bound) >= 10**15 for bound in (least, most)):
            raise SchemaError(f"{at}: bounds of a number can have 15 digits at most")
        if least is not None and most is not None and least > most:
            raise SchemaError(f"{at}: no number is left that it accepts")
        return self._rule(integer_rule(least, most) if kind == "integer" else number_rule(least, most))

    def _range(self, schema: dict[str, Json], low: str, high: str, at: str) -> tuple[int, int | None]:
        least, most = schema.get(low, 0), schema.get(high)
        for word, value in ((low, least), (high, most)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise SchemaError(f"{at}: {word!r} must be a whole number, not {value!r}")
            if value is not None and value > REPEAT_MAX:
                raise SchemaError(f"{at}: {word!r} is more than the {REPEAT_MAX} that can be held to")
        if most is not None and least > most:
            raise SchemaError(f"{at}: {low!r} is more than {high!r}")
        self._count(least if most is None else most, at)
        return least, most

    def _count(self, repeats: int, at: str) -> None:
        self._repeats += repeats
        if self._repeats > REPEATS_MAX:
            raise SchemaError(f"{at}: all counts of the schema together are more than {REPEATS_MAX}")

    def _begin(self) -> set[str]:
        """A letter is written: what was open may be referred to from here on."""
        known, self._open = self._open, set()
        return known

    def _rule(self, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name


_ASSERTIONS = frozenset(
    {"$ref", "allOf", "anyOf", "oneOf", "const", "enum", "type", "format", "uniqueItems", "additionalItems"}.union(
        _REFUSED, *_TYPE_OF.values()
    )
)
"""Keywords that say which values are accepted; all others are annotations."""


def _join(one: dict[str, Json], other: Json, at: str) -> dict[str, Json]:
    """A schema that says what both say. Raises SchemaError where one word would have to say two things."""
    if other is True:
        return one
    if not isinstance(other, dict):
        raise SchemaError(f"{at}: {other!r} is no schema that anything holds to")
    joined = dict(one)
    for key, value in other.items():
        if key not in joined or key not in _ASSERTIONS or joined[key] == value:
            joined[key] = value
        elif key == "required" and isinstance(value, list) and isinstance(joined[key], list):
            joined[key] = [*joined[key], *value]
        elif key == "properties" and isinstance(value, dict) and isinstance(joined[key], dict):
            joined[key] = {
                **joined[key],
                **{
                    name: part if name not in joined[key] else {"allOf": [joined[key][name], part]}
                    for name, part in value.items()
                },
            }
        elif key == "type":
            joined[key] = [kind for kind in _listed(joined[key]) if kind in _listed(value)]
        else:
            raise SchemaError(f"{at}: {key!r} is said twice, of one value")
    return joined


def _schemas(value: Json, keyword: str, at: str) -> list[Json]:
    if not isinstance(value, list) or not value:
        raise SchemaError(f"{at}: {keyword!r} must be a list of schemas, with at least one")
    return value


def _listed(types: Json) -> list[Json]:
    return types if isinstance(types, list) else [types]


def _is_of(value: Json, kind: Json) -> bool:
    match kind:
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case _:
            return kind == "object" and isinstance(value, dict)


def _repeated(part: str, least: int, most: int | None) -> str:
    return '""' if most == 0 else f"{part}{{{least},{'' if most is None else most}}}"


def _no_number(text: str) -> Json:
    raise SchemaError(f"{text} is no number of JSON")


def _check(schema: Json) -> None:
    """Raises SchemaError for half a surrogate pair: it cannot be written."""
    waiting: list[Json] = [schema]
    while waiting:
        match waiting.pop():
            case str() as text:
                if not text.isascii():
                    _encodable(text)
            case list() as items:
                waiting += items
            case dict() as members:
                waiting += _both(members)


def _both(members: dict[str, Json]) -> Iterable[Json]:
    yield from members
    yield from members.values()


def _encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SchemaError(f"{text!r} holds half a letter") from None
