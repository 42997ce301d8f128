"""Grammars for fakes: what ``protocol.session.schema`` writes, read, and the shortest text that it permits."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_TOKEN = re.compile(
    r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<set>\[(?:[^\]\\]|\\.)*\])|(?P<name>\w+)|(?P<count>\{\d+,?\d*\}|[*+?])'
    r"|(?P<sign>[()|]))\s*"
)
_ESCAPE = re.compile(r"\\(?:x(..)|U(.{8})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_CONTROL = 0x20


@dataclass(frozen=True, slots=True)
class Text:
    """These letters."""

    text: str


@dataclass(frozen=True, slots=True)
class Letter:
    """One letter of some ranges, or one of none of them."""

    ranges: tuple[tuple[int, int], ...]
    opposite: bool

    def holds(self, letter: str) -> bool:
        """Whether it is one of them."""
        return any(low <= ord(letter) <= high for low, high in self.ranges) != self.opposite


@dataclass(frozen=True, slots=True)
class Named:
    """What another rule says."""

    name: str


@dataclass(frozen=True, slots=True)
class Row:
    """One after the other."""

    parts: "tuple[Part, ...]"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of them."""

    parts: "tuple[Part, ...]"


@dataclass(frozen=True, slots=True)
class Repeat:
    """Several times over."""

    part: "Part"
    least: int
    most: int | None


Part = Text | Letter | Named | Row | Choice | Repeat


def read_grammar(grammar: str) -> dict[str, Part]:
    """The rules by name; ``root`` is where a text begins."""
    rules = (line.split(" ::= ", 1) for line in grammar.split("\n") if line)
    return {name: _Reader(body).choices() for name, body in rules}


def shortest(rules: Mapping[str, Part]) -> str | None:
    """The shortest text of the root, the first of equals; None where every text would be endless."""
    known: dict[str, str] = {}
    for _ in rules:
        before = dict(known)
        for name, part in rules.items():
            found = _shortest(part, known)
            if found is not None and (name not in known or len(found) < len(known[name])):
                known[name] = found
        if known == before:
            break
    return known.get("root")


def _shortest(part: Part, known: Mapping[str, str]) -> str | None:
    match part:
        case Text(text):
            return text
        case Letter():
            first = next((chr(low) for low, _ in part.ranges if part.holds(chr(low))), "x")
            return next(letter for letter in ("x", first, *map(chr, range(_CONTROL, 0x110))) if part.holds(letter))
        case Named(name):
            return known.get(name)
        case Row(parts):
            found = [_shortest(each, known) for each in parts]
            return None if None in found else "".join(filter(None, found))
        case Choice(parts):
            options = [each for each in (_shortest(each, known) for each in parts) if each is not None]
            return min(options, key=len, default=None)
        case Repeat(each, least, _):
            once = _shortest(each, known) if least else ""
            return None if once is None else once * least


class _Reader:
    def __init__(self, body: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(body):
            found = _TOKEN.match(body, at)
            if found is None:
                raise ValueError(f"no grammar of ours: {body[at : at + 40]!r}")
            at = found.end()
            self._tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
        self._at = 0

    def choices(self) -> Part:
        parts = [self._row()]
        while self._at < len(self._tokens) and self._tokens[self._at][1] == "|":
            self._at += 1
            parts.append(self._row())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _row(self) -> Part:
        parts: list[Part] = []
        while self._at < len(self._tokens) and self._tokens[self._at] not in (("sign", "|"), ("sign", ")")):
            kind, text = self._tokens[self._at]
            self._at += 1
            if kind == "count":
                parts[-1] = _repeated(parts[-1], text)
            elif kind == "text":
                parts.append(Text(_unescaped(text[1:-1])))
            elif kind == "set":
                parts.append(_letter(text[1:-1]))
            elif kind == "name":
                parts.append(Named(text))
            else:
                parts.append(self.choices())
                self._at += 1
        return parts[0] if len(parts) == 1 else Row(tuple(parts))


def _repeated(part: Part, count: str) -> Repeat:
    if count in "*+?":
        return Repeat(part, int(count == "+"), 1 if count == "?" else None)
    low, comma, high = count[1:-1].partition(",")
    return Repeat(part, int(low), (int(high) if high else None) if comma else int(low))


def _letter(inside: str) -> Letter:
    opposite = inside.startswith("^")
    letters = [(found[0], _unescaped(found[0])) for found in re.finditer(r"\\x..|\\U.{8}|\\?.", inside[opposite:])]
    ranges: list[tuple[int, int]] = []
    at = 0
    while at < len(letters):
        low = high = ord(letters[at][1])
        if at + 2 < len(letters) and letters[at + 1][0] == "-":
            high = ord(letters[at + 2][1])
            at += 2
        ranges.append((low, high))
        at += 1
    return Letter(tuple(ranges), opposite)


def _unescaped(text: str) -> str:
    def of(found: re.Match[str]) -> str:
        code = found[1] or found[2]
        return chr(int(code, 16)) if code else _ESCAPED.get(found[3], found[3])

    return _ESCAPE.sub(of, text)
