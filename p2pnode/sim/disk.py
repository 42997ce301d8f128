"""A node's disk: records that become durable after a while, in the order in which they were given, batch by batch.

What is on its way when the node dies is lost, as a rule: of batches that were being written some may have reached
the platter though nobody was told, and then all before them have too. Where a node keeps its records in several
files a batch is written file by file, and a crash may come in between. The store in production promises no less and
no more.
"""

from collections import deque
from collections.abc import Callable, Sequence
from random import Random

Batch = Sequence[tuple[bytes, bytes | None]]
"""Keys and values that become durable together; None deletes."""

Later = Callable[[int, Callable[[], None]], None]
"""Run an action so many microseconds from now."""

Then = Callable[[], None]

SURVIVES_BP = 2_500
"""How often a crash leaves some of what was being written behind."""


def one_file(_name: bytes) -> int:
    """The files of a node that has only one."""
    return 0


class Disk:
    """The records of one node. ``records`` is what a restart would find."""

    def __init__(self, rng: Random, later: Later, latency_us: tuple[int, int]) -> None:
        self.records: dict[bytes, bytes] = {}
        self.latency_us = latency_us
        """The fastest and the slowest sync."""
        self.slowness = 1
        """A disk that has trouble takes so many times as long."""
        self.file_of: Callable[[bytes], int] = one_file
        """Which file a record goes to; the lowest is written first."""
        self.fails = False
        """While it is set, nothing becomes durable any more, and whoever writes is told so."""
        self._rng = rng
        self._later = later
        self._pending: deque[Batch] = deque()
        self._life = 0
        self._busy_us = 0

    def write(self, records: Batch, now_us: int, durable: Then, failed: Then) -> None:
        """Start to write; ``durable`` is called once all would survive, nothing is if the node dies first."""
        files = sorted({self.file_of(name) for name, _ in records})
        parts = [[record for record in records if self.file_of(record[0]) == file] for file in files]
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            self._write_part(part, now_us, *((durable, failed) if last else (None, None)))

    def _write_part(self, part: Batch, now_us: int, durable: Then | None, failed: Then | None) -> None:
        self._pending.append(part)
        took_us = self._rng.randint(*self.latency_us) * self.slowness
        # Batches become durable in order: a quick sync waits for a slow one before it.
        self._busy_us = max(self._busy_us, now_us + took_us)
        life = self._life

        def synced() -> None:
            if self._life != life:
                return
            self._pending.popleft()
            if not self.fails:
                self._apply(part)
            then = failed if self.fails else durable
            if then is not None:
                then()

        self._later(self._busy_us - now_us, synced)

    def crash(self) -> None:
        """The node is gone; so is what was on its way, or all but the first parts of it."""
        self._life += 1
        self._busy_us = 0
        if self._pending and not self.fails and self._rng.randrange(10_000) < SURVIVES_BP:
            for _ in range(self._rng.randint(1, len(self._pending))):
                self._apply(self._pending.popleft())
        self._pending.clear()

    def wipe(self, lost: Callable[[bytes], bool] | None = None) -> None:
        """The folder is lost, or was never copied to the new machine; or only the records of such names are."""
        self.records = {name: value for name, value in self.records.items() if lost is not None and not lost(name)}

    def _apply(self, batch: Batch) -> None:
        for name, value in batch:
            if value is None:
                self.records.pop(name, None)
            else:
                self.records[name] = value
