"""Strings and whole numbers of a JSON schema as rules of a grammar: patterns, formats, ranges of digits.

Spec: [SCHEMA-GRAMMAR.1]
"""

from dataclasses import dataclass

from protocol.core.errors import ParameterError

PATTERN_CHARACTERS_MAX = 512
PATTERN_DEPTH_MAX = 16
PATTERN_REPEAT_MAX = 256

_DATE = '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])'
_TIME = (
    '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? '
    '("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])'
)
_HEX = "[0-9a-fA-F]"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": f'{_HEX}{{8}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{12}}',
}
"""What is held to of ``format``. Days end with the 28th, so that every date exists; other formats are annotations."""


class SchemaError(ParameterError):
    """A JSON schema that cannot be held to; the message says where and why."""

    code = "schema"


def integer_rule(least: int | None, most: int | None) -> str:
    """The whole numbers from ``least`` to ``most``, of up to 16 digits, without leading zeros."""
    options = []
    if least is None or least < 0:
        # Of negative numbers the digits run the other way.
        low = 1 if most is None or most >= 0 else -most
        options += [f'"-" ({part})' for part in _digits(low, None if least is None else -least)]
    if most is None or most >= 0:
        options += _digits(max(0, least or 0), most)
    return " | ".join(options)


def number_rule(least: int | None, most: int | None) -> str:
    """The decimal numbers from ``least`` to ``most``, with up to 16 digits before and behind the point."""
    options = []
    if least is None or least < 0:
        low = 0 if most is None or most >= 0 else -most
        options.append(f'"-" ({_decimals(low, None if least is None else -least)})')
    if most is None or most >= 0:
        options.append(_decimals(max(0, least or 0), most))
    return " | ".join(options)


def _decimals(low: int, high: int | None) -> str:
    """Those between two whole numbers, neither below 0."""
    below = _digits(low, None if high is None else high - 1)
    options = [f'({" | ".join(below)}) ("." [0-9]{{1,16}})?'] if below else []
    return " | ".join([*options, *([] if high is None else [f'"{high}"'])])


def _digits(low: int, high: int | None) -> list[str]:
    """Expressions for the numbers from ``low`` to ``high``, neither below 0."""
    options = []
    if high is None:
        size = len(str(low))
        options += _digits(low, 10**size - 1)
        if size < 16:
            options.append(f"[1-9] [0-9]{{{size},15}}")
        return options
    while low <= high:
        end = min(high, 10 ** len(str(low)) - 1)
        options += _same_size(str(low), str(end))
        low = end + 1
    return options


def _same_size(low: str, high: str) -> list[str]:
    """The numbers between two of equally many digits."""
    if not low:
        return []
    rest = len(low) - 1
    if low[1:] == "0" * rest and high[1:] == "9" * rest:
        return [_digit(low[0], high[0]) + (f" [0-9]{{{rest}}}" if rest else "")]
    if low[0] == high[0]:
        return [f'"{low[0]}" ({" | ".join(_same_size(low[1:], high[1:]))})']
    options = []
    first, last = int(low[0]), int(high[0])
    if low[1:] != "0" * rest:
        options += [f'"{low[0]}" ({" | ".join(_same_size(low[1:], "9" * rest))})']
        first += 1
    if high[1:] != "9" * rest:
        last -= 1
    if first <= last:
        options.append(f"{_digit(str(first), str(last))} [0-9]{{{rest}}}")
    if high[1:] != "9" * rest:
        options += [f'"{high[0]}" ({" | ".join(_same_size("0" * rest, high[1:]))})']
    return options


def _digit(first: str, last: str) -> str:
    return f"[{first}-{last}]"


def pattern_rule(pattern: object, at: str) -> tuple[str, int]:
    """The inside of a string that a regular expression matches, and how much it repeats. Raises SchemaError.

    Known: letters, ``.``, classes, ``\\d \\w \\s`` and their opposites, groups, ``|``, ``* + ? {m,n}``, and ``^ $`` at
    the ends, without which anything may stand before or after. White space is the space; no control character is
    ever written.
    """
    if not isinstance(pattern, str):
        raise SchemaError(f"{at}: 'pattern' must be a text")
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        raise SchemaError(f"{at}: a pattern has {PATTERN_CHARACTERS_MAX} characters at most")
    reader = _Pattern(pattern, at)
    rule = reader.read()
    return rule, reader.repeats


@dataclass(slots=True)
class _Set:
    """Some letters, as ranges of code points."""

    ranges: list[tuple[int, int]]
    opposite: bool = False

    def holds(self, letter: str) -> bool:
        return any(low <= ord(letter) <= high for low, high in self.ranges) != self.opposite

    def rule(self) -> str:
        """As they are written in a string of JSON: quotation mark and backslash behind a backslash."""
        options = []
        inside = "".join(map(_range, self.ranges))
        if self.opposite:
            options.append(f'[^{inside}"\\\\\\x00-\\x1F\\x7F]')
        elif plain := [part for low, high in self.ranges for part in _without_special(low, high)]:
            options.append(f"[{''.join(map(_range, plain))}]")
        options += [f'"\\\\{code}"' for letter, code in (('"', '\\"'), ("\\", "\\\\")) if self.holds(letter)]
        if not options:
            raise ValueError("no letter is left")
        return options[0] if len(options) == 1 else f"({' | '.join(options)})"


def _without_special(low: int, high: int) -> list[tuple[int, int]]:
    """A range less control characters, quotation mark, backslash and surrogates."""
    parts = [(max(low, 0x20), high)]
    for first, last in ((0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF)):
        parts = [
            part
            for start, end in parts
            for part in ((start, min(end, first - 1)), (max(start, last + 1), end))
            if part[0] <= part[1]
        ]
    return [part for part in dict.fromkeys(parts) if part[0] <= part[1]]


def _range(ends: tuple[int, int]) -> str:
    return _code(ends[0]) if ends[0] == ends[1] else f"{_code(ends[0])}-{_code(ends[1])}"


def _code(point: int) -> str:
    return f"\\U{point:08X}"


_DIGITS = [(0x30, 0x39)]
_WORDS = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_KINDS = {"d": _DIGITS, "w": _WORDS, "s": [(0x20, 0x20)]}
_SPECIAL = ".^$*+?()[]{}|\\"


class _Pattern:
    """Reads one pattern, letter by letter."""

    def __init__(self, text: str, at: str) -> None:
        self._text = text
        self._at = at
        self._place = 0
        self.repeats = 0

    def read(self) -> str:
        starts, ends = self._text.startswith("^"), self._text.endswith("$") and not self._text.endswith("\\$")
        if (starts or ends) and "|" in self._outer():
            raise self._error("'|' beside '^' or '$' needs a group: '^(a|b)$'")
        self._text = self._text[starts : len(self._text) - ends]
        inner = self._choices(0)
        if self._place < len(self._text):
            raise self._error("a ')' too many")
        return f"{'' if starts else 'char* '}({inner}){'' if ends else ' char*'}"

    def _outer(self) -> str:
        """What stands outside of groups and classes."""
        depth, outside, skip = 0, "", False
        for letter in self._text:
            if not skip:
                depth += (letter in "([") - (letter in ")]")
                outside += letter if depth == 0 else ""
            skip = letter == "\\" and not skip
        return outside

    def _choices(self, depth: int) -> str:
        if depth > PATTERN_DEPTH_MAX:
            raise self._error(f"groups are nested deeper than {PATTERN_DEPTH_MAX}")
        options = [self._sequence(depth)]
        while self._peek() == "|":
            self._place += 1
            options.append(self._sequence(depth))
        return " | ".join(options)

    def _sequence(self, depth: int) -> str:
        parts = []
        while (letter := self._peek()) and letter not in "|)":
            part = self._atom(depth)
            times = self._times()
            parts.append(part + times)
        return " ".join(parts) or '""'

    def _atom(self, depth: int) -> str:
        letter = self._take()
        if letter == "(":
            if self._text.startswith("?:", self._place):
                self._place += 2
            if self._peek() == "?":
                raise self._error("groups that look around or have names are not known")
            inner = self._choices(depth + 1)
            if self._take() != ")":
                raise self._error("a group is not closed")
            return f"({inner})"
        try:
            return self._letters(letter).rule()
        except ValueError as error:
            raise self._error(str(error)) from None

    def _letters(self, letter: str) -> _Set:
        if letter == "[":
            return self._class()
        if letter == ".":
            return _Set([], opposite=True)
        if letter == "\\":
            return self._escaped()
        if letter in _SPECIAL:
            raise self._error(f"{letter!r} stands where it cannot")
        return _Set([(ord(letter), ord(letter))])

    def _escaped(self) -> _Set:
        letter = self._take()
        if letter.lower() in _KINDS and letter:
            return _Set(_KINDS[letter.lower()], opposite=letter.isupper())
        if not letter or letter.isalnum():
            raise self._error(f"'\\{letter}' is not known")
        return _Set([(ord(letter), ord(letter))])

    def _class(self) -> _Set:
        opposite = self._peek() == "^"
        self._place += opposite
        ranges: list[tuple[int, int]] = []
        while (letter := self._take()) != "]" or not letter:
            if not letter:
                raise self._error("a class is not closed")
            found = self._escaped() if letter == "\\" else _Set([(ord(letter), ord(letter))])
            if found.opposite:
                raise self._error("the opposite of a class within a class is not known")
            if self._peek() == "-" and self._text[self._place + 1 : self._place + 2] not in ("]", ""):
                self._place += 1
                last = self._take()
                end = self._escaped().ranges if last == "\\" else [(ord(last), ord(last))]
                if len(found.ranges) + len(end) > 2 or found.ranges[0][0] > end[0][0]:
                    raise self._error("a range of letters must rise")
                found = _Set([(found.ranges[0][0], end[0][1])])
            ranges += found.ranges
        if not ranges:
            raise self._error("a class is empty")
        return _Set(ranges, opposite)

    def _times(self) -> str:
        letter = self._peek()
        if letter and letter in "*+?":
            self._place += 1
            times = letter
        elif letter == "{":
            end = self._text.find("}", self._place)
            low, comma, high = self._text[self._place + 1 : end].partition(",")
            if end < 0 or not low.isdecimal() or not (high.isdecimal() or not high):
                raise self._error("a count is '{2}', '{2,}' or '{2,5}'")
            least, most = int(low[:9]), int((high or low)[:9])
            if most > PATTERN_REPEAT_MAX or least > most:
                raise self._error(f"counts rise, to {PATTERN_REPEAT_MAX} at most")
            self._place = end + 1
            self.repeats += most
            times = f"{{{least}{comma}{most if high else ''}}}"
        else:
            return ""
        if (after := self._peek()) and after in "*+?{":
            raise self._error("a count of a count is not known")
        return times

    def _peek(self) -> str:
        return self._text[self._place : self._place + 1]

    def _take(self) -> str:
        letter = self._peek()
        self._place += len(letter)
        return letter

    def _error(self, why: str) -> SchemaError:
        return SchemaError(f"{self._at}: the pattern cannot be held to: {why}")
