"""S13: every table of a machine stays within its bound under flood, and is empty again when everything has ended.

Machines are walked from their attributes down: every dict, list, set, deque and clock in them is a table, named by the
attributes that lead to it. A table has a bound of its own below, from the parameters, or it falls under the general
rule: never more entries than the general bound while the world runs, and none at all when it has come to rest. So a
table that somebody adds is watched from its first day, and one that is to be kept has to be named here with a bound.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass

import msgspec

from p2pnode.sim.checkers import Checker
from p2pnode.sim.drive import Drive
from p2pnode.sim.host import Host
from protocol.core.deadlines import Deadlines
from protocol.core.params import Params

EVERY_EVENTS = 400
"""A machine is counted after so many events, and at the end."""

Bound = Callable[[Params], int]


def _nothing(_params: Params) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Table:
    """The most entries that a table may have while the world runs, and when everything has ended."""

    under_way: Bound
    at_rest: Bound = _nothing


OURS = ("protocol.", "p2pnode.")
SNAPSHOTS = ("recent._finals",)
"""Tables of what was looked at while it was the present."""


def tables_of(machine: object) -> Iterator[tuple[str, int]]:
    """Every table in a machine: the shortest way to it and how many entries it has; of many alike each is told."""
    seen: set[int] = {id(machine)}
    waiting = deque((f"{type(machine).__name__}.{name}", value) for name, value in _fields(machine))
    while waiting:
        path, value = waiting.popleft()
        if id(value) in seen or isinstance(value, str | int | bytes | float | None):
            continue
        if isinstance(value, dict | list | set | deque):
            seen.add(id(value))
            yield path, len(value)
            inner = value.values() if isinstance(value, dict) else value
            if not path.endswith(SNAPSHOTS):
                waiting.extend((f"{path}[]", item) for item in inner)
        elif isinstance(value, Deadlines):
            seen.add(id(value))
            yield path, len(value)
        elif type(value).__module__.startswith(OURS) and _is_state(value):
            seen.add(id(value))
            waiting.extend((f"{path}.{name}", item) for name, item in _fields(value))


def _fields(owner: object) -> Iterator[tuple[str, object]]:
    yield from getattr(owner, "__dict__", {}).items()
    for cls in type(owner).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(owner, name):
                yield name, getattr(owner, name)


def _is_state(value: object) -> bool:
    """Whether a value may grow: messages and settings never do."""
    if isinstance(value, msgspec.Struct | Params) or callable(value):
        return False
    frozen = is_dataclass(value) and type(value).__dataclass_params__.frozen  # type: ignore[union-attr]
    return not frozen or any(not isinstance(item, str | int | bytes | tuple) for _, item in _fields(value))


class TablesAreBounded(Checker):
    """S13. ``tables`` have bounds of their own, by the end of the way to each; ``general`` is for all others."""

    invariant = "S13"

    def __init__(self, general: Bound, tables: Mapping[str, Table]) -> None:
        self.largest: dict[str, int] = {}
        """The most entries that each table was seen with."""
        self._other = Table(general)
        self._tables = tables
        self._known: dict[str, Table] = {}

    def handled(self, drive: Drive, event: object, effects: list[object]) -> None:
        """Count now and then."""
        if drive.handled % EVERY_EVENTS == 0 and drive.host.correct:
            self._count(drive, at_rest=False)

    def crashed(self, host: Host) -> None:
        """Count what is lost, too."""
        for drive in host.drives if host.correct else ():
            self._count(drive, at_rest=False)

    def ended(self) -> None:
        """Everything has ended: what is left was forgotten."""
        for host in self.world.hosts.values():
            for drive in host.drives if host.correct else ():
                self._count(drive, at_rest=True)

    def _count(self, drive: Drive, *, at_rest: bool) -> None:
        params, name = self.world.genesis.params, type(drive.machine).__name__
        beside = ((f"{name}.streams", len(drive.channels)), (f"{name}.effects held", len(drive.held)))
        for path, size in (*tables_of(drive.machine), *beside):
            if not size:
                continue
            table = self._of(path)
            most = table.at_rest(params) if at_rest else table.under_way(params)
            self.largest[path] = max(size, self.largest.get(path, 0))
            if size > most:
                when = "at rest" if at_rest else "under way"
                self.fail(f"{path} has {size} entries {when}, its bound is {most}", drive.host)

    def _of(self, path: str) -> Table:
        known = self._known.get(path)
        if known is None:
            named = (table for end, table in self._tables.items() if path.endswith(end))
            known = self._known[path] = next(named, self._other)
        return known
