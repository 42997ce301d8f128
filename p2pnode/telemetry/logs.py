"""How a process logs: one way for all of it. A person at a terminal reads lines; anything else is given JSON, one
object a line, with the session and the task that it is about.

Peers choose some of what is logged, so a line never holds a character that a terminal would act on.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from p2pnode.telemetry.log_record import FIELDS

VALUE_CHARACTERS_MAX = 70_000
_RESERVED = frozenset(("time", "level", "logger", "message", "name", "error"))
_LETTERS = {"debug": "D", "info": "I", "warning": "W", "error": "E", "critical": "E"}


class HumanLines(logging.Formatter):
    """``2026-01-02 03:04:05.678 I p2pnode.driver router.fail-over miner=1a2b why=stalled``"""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")[:23]
        values = " ".join(f"{name}={_plain(value)}" for name, value in _fields(record).items() if value != "")
        letter = _LETTERS.get(record.levelname.lower(), "?")
        line = " ".join(filter(None, (when, letter, record.name, _plain(record.getMessage()), values)))
        return f"{line}\n{self._failure(record)}" if record.exc_info else line

    def _failure(self, record: logging.LogRecord) -> str:
        assert record.exc_info is not None
        return "\n".join(map(_plain, self.formatException(record.exc_info).splitlines()))


class JsonLines(logging.Formatter):
    """One JSON object a line; ``name`` is the node's own."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._name:
            line["name"] = self._name
        for name, value in _fields(record).items():
            line[f"{name}_" if name in _RESERVED else name] = value
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up_logs(level: str, wanted: str = "auto", *, name: str = "", stream: TextIO | None = None) -> None:
    """Log to ``stream`` (None: standard error) from now on, and nowhere else."""
    stream = stream or sys.stderr
    human = wanted == "human" or (wanted == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(HumanLines() if human else JsonLines(name))
    root = logging.getLogger()
    for earlier in list(root.handlers):
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(level.upper())


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    found = getattr(record, FIELDS, None)
    return found if isinstance(found, Mapping) else {}


def _plain(value: object) -> str:
    """A value without anything that a terminal acts on, quoted where it would be taken for several."""
    text = str(value)[:VALUE_CHARACTERS_MAX]
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
