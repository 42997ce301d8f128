"""What commands print: tables, one progress line, errors with a next step, JSON for machines.

Colours and the progress line are for terminals only; ``NO_COLOR`` (no-color.org) turns colours off there too. Text
that came from elsewhere is printed without its control characters, so it cannot rewrite the terminal.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}

PROGRESS_AFTER_S = 0.5
"""Work that is done sooner shows no progress."""
PROGRESS_EVERY_S = 0.1
WAITING_AFTER_S = 1.0
"""A wait that is shorter is not shown."""


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """The text in a style (bold, dim, red, green, yellow, cyan) if the stream (stdout) is a terminal that likes it."""
    stream = stream or sys.stdout
    wanted = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if wanted else text


def print_error(message: str, hint: str | None = None) -> None:
    """One short line on stderr, and one with the next step."""
    print(f"{paint('error:', 'red', sys.stderr)} {printable(message)}", file=sys.stderr)
    if hint:
        print(f"{paint('next:', 'cyan', sys.stderr)}  {printable(hint)}", file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=1))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their content; the last one is not padded."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in [list(headers), *cells]) for at in range(len(headers))]
    for number, row in enumerate([[header.upper() for header in headers], *cells]):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(paint(line, "bold") if number == 0 else line)


def print_mapping(value: Mapping[str, Any]) -> None:
    """A mapping as lines ``name: value``; a list of mappings in it as a table below its name."""
    width = max((len(key) for key in value), default=0)
    for key, item in value.items():
        if isinstance(item, list) and item and all(isinstance(row, Mapping) for row in item):
            headers = list(dict.fromkeys(name for row in item for name in row))
            print(f"{key}:")
            print_table(headers, [[shown(row.get(name, "")) for name in headers] for row in item])
        else:
            print(f"{paint(f'{key}:'.ljust(width + 1), 'bold')} {printable(shown(item))}")


def shown(value: Any) -> str:
    """A value of JSON as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(item)}" for key, item in value.items()) or "-"
    return "-" if value is None or value == "" else str(value)


def bytes_shown(count: int) -> str:
    """A size in bytes as a person reads it: 3.1 MiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


class ProgressLine:
    """One line on a terminal's stderr that says how far something is; elsewhere nothing.

    Used in a ``with``; the line is gone at the end. Call it with what is done and the total.
    """

    def __init__(
        self,
        label: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        amount: Callable[[int], str] = bytes_shown,
    ) -> None:
        self._label = label
        self._amount = amount
        self._stream = stream or sys.stderr
        self._clock = clock
        self._next = clock() + PROGRESS_AFTER_S
        self._drawn = False

    def __enter__(self) -> "ProgressLine":
        return self

    def __call__(self, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` is done."""
        now = self._clock()
        if now < self._next or not self._stream.isatty():
            return
        self._next = now + PROGRESS_EVERY_S
        self._drawn = True
        share = 100 * done // total if total else 100
        self._stream.write(f"\r\x1b[K{self._label} {share:3d} %  {self._amount(done)} of {self._amount(total)}")
        self._stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


class WaitLine:
    """One line on a terminal's stderr that says what is waited for, and since when; elsewhere nothing."""

    def __init__(self) -> None:
        self._what = ""
        self._since = time.monotonic()
        self._drawn = False

    def __enter__(self) -> "WaitLine":
        return self

    def __call__(self, what: str) -> None:
        """Something is waited for."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._since = what, now
        if sys.stderr.isatty() and now - self._since >= WAITING_AFTER_S:
            self._drawn = True
            sys.stderr.write(f"\r\x1b[K{paint(f'{what} … {now - self._since:.0f} s', 'dim', sys.stderr)}")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
