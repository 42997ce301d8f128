"""What happened in a world: a running hash over all of it, and the last of it in words for a person.

The hash takes in every event, effect, message and fault with its time, so two runs that differ anywhere differ in it.
The words are made only when somebody wants to read them.
"""

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum

import msgspec

LINES_MAX = 4_000
TEXT_MAX = 220
_DEPTH_MAX = 3
_ITEMS_MAX = 4


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened: when, to whom, what, and the object it was about."""

    at_us: int
    who: str
    what: str
    about: object


class Trace:
    """The record of one run. ``names`` says what a person calls a node id."""

    def __init__(self, lines_max: int | None = LINES_MAX) -> None:
        self.names: dict[bytes, str] = {}
        self._hash = hashlib.sha256()
        self._kept: deque[Happening] = deque(maxlen=lines_max)
        self._buffer: list[bytes] = []

    def add(self, at_us: int, who: str, what: str, about: object = None, data: bytes = b"") -> None:
        """Take something in. ``data`` says for the hash what it was, where time, node and kind do not."""
        self._buffer.append(b"%d|%s|%s|%s\n" % (at_us, who.encode(), what.encode(), data))
        if len(self._buffer) >= 512:
            self._flush()
        self._kept.append(Happening(at_us, who, what, about))

    def _flush(self) -> None:
        self._hash.update(b"".join(self._buffer))
        self._buffer.clear()

    def digest(self) -> str:
        """The hash over everything so far."""
        self._flush()
        return self._hash.hexdigest()

    def lines(self) -> list[str]:
        """The last of what happened, oldest first."""
        width = max((len(kept.who) for kept in self._kept), default=0)
        return [self._line(kept, width) for kept in self._kept]

    def _line(self, kept: Happening, width: int) -> str:
        about = "" if kept.about is None else " " + shown(kept.about, self.names)
        text = f"{kept.at_us / 1_000_000:11.6f} s  {kept.who.ljust(width)}  {kept.what}{about}"
        return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


def shown(value: object, names: Mapping[bytes, str], depth: int = 0) -> str:
    """A message, event or effect as a person reads it: node ids by name, digests by their first bytes."""
    if isinstance(value, bytes):
        return names.get(value) or (value.hex()[:8] if value else "-")
    if isinstance(value, str):
        return value if depth == 0 else repr(value[:60])
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        items = [shown(item, names, depth + 1) for item in value[:_ITEMS_MAX]]
        more = [f"… {len(value)} in all"] if len(value) > _ITEMS_MAX else []
        return f"[{', '.join(items + more)}]"
    content = _fields(value)
    if content is None:
        return str(value) if isinstance(value, int | float | None) else type(value).__name__
    if depth >= _DEPTH_MAX:
        return type(value).__name__
    parts = [f"{name}={shown(item, names, depth + 1)}" for name, item in content if item not in (None, b"", ())]
    return f"{type(value).__name__}({' '.join(parts)})"


def _fields(value: object) -> list[tuple[str, object]] | None:
    if isinstance(value, msgspec.Struct):
        return [(name, getattr(value, name)) for name in value.__struct_fields__]
    if is_dataclass(value):
        return [(item.name, getattr(value, item.name)) for item in fields(value)]
    return None
