"""What the node's SQLite files have in common: group commit, a lock, and what an error of the disk means.

Group commit: callers take turns, and whoever has the turn writes the batches of all that wait in one transaction,
so a hundred machines that write at once cost two syncs. Batches become durable in the order in which they were given.

Rule: once a commit has failed nothing more is written. What the disk holds after a failed sync is unknown; only who
opens the file afresh reads it.
"""

import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Generic, TypeVar

import trio

from protocol.core.errors import P2PNodeError

T = TypeVar("T")
R = TypeVar("R")


class Trouble(Enum):
    """What is wrong with a file, as far as it decides what to do next."""

    DAMAGED = "damaged"
    FULL = "full"
    READ_ONLY = "read-only"
    LOCKED = "locked"
    OTHER = "other"


def trouble_of(error: sqlite3.Error | OSError) -> Trouble:
    """Which trouble an error of SQLite or of the system stands for."""
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return Trouble.FULL
        return Trouble.OTHER if error.errno == errno.EIO else Trouble.READ_ONLY
    reason = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the low byte is the primary code
    return _TROUBLES.get(reason, Trouble.OTHER)


_TROUBLES = {
    sqlite3.SQLITE_CORRUPT: Trouble.DAMAGED,
    sqlite3.SQLITE_NOTADB: Trouble.DAMAGED,
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_READONLY: Trouble.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Trouble.READ_ONLY,
    sqlite3.SQLITE_PERM: Trouble.READ_ONLY,
    sqlite3.SQLITE_BUSY: Trouble.LOCKED,
}


class LockHeld(Exception):
    """Another process has the lock; ``holder`` is its id, empty if it left none."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


def take_lock(path: Path) -> int:
    """Lock a file that is there for nothing else (made if missing, mode 0600) and note our process id in it.

    Returns the descriptor that holds the lock until it is closed; the kernel drops it with the process, however it
    ends. Raises LockHeld, OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def lock_as_it_is(path: Path) -> int:
    """Lock a file without writing into it. Like :func:`take_lock` otherwise."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
        raise LockHeld(holder if holder.isdigit() else "") from error


class Batch(Generic[T]):
    """Something to write. ``written`` once its fate is known, with ``error`` if it is bad."""

    __slots__ = ("error", "item", "written")

    def __init__(self, item: T) -> None:
        self.item = item
        self.written = False
        self.error: P2PNodeError | None = None


class GroupCommit(Generic[T]):
    """Whoever has the turn writes for all that wait. Used from one trio run.

    ``write`` is called in a thread, with all that wait, and returns when they are durable; it may give a single batch
    an ``error`` and leave its part out. If it raises an error of SQLite or of the system, ``named`` makes ours of it,
    and from then on that is what everybody gets.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Batch[T]]], None],
        named: Callable[[sqlite3.Error | OSError], P2PNodeError],
    ) -> None:
        self.failure: P2PNodeError | None = None
        self._write = write
        self._named = named
        self._waiting: list[Batch[T]] = []
        self._turn = trio.Lock()
        # A limiter of our own: threads that others wait in must not hold up what makes them durable.
        self._thread = trio.CapacityLimiter(1)

    async def commit(self, item: T) -> None:
        """Write the item whole; it is durable when this returns.

        If cancelled while others commit, it may or may not become durable. Raises what became of it.
        """
        batch = Batch(item)
        self._waiting.append(batch)
        try:
            async with self._turn:
                if not batch.written:
                    await self._commit_waiting()
        finally:
            if not batch.written:
                self._waiting.remove(batch)
        if batch.error is not None:
            raise batch.error

    async def between(self, work: Callable[[], R]) -> R:
        """Run ``work`` in the thread while nobody commits; it sees what is durable, and nothing else."""
        async with self._turn:
            with trio.CancelScope(shield=True):
                return await trio.to_thread.run_sync(work, limiter=self._thread)

    async def _commit_waiting(self) -> None:
        """Commit what everybody waits for. Whoever has the turn does it; cancelling it must not harm the others."""
        batches, self._waiting = self._waiting, []
        if self.failure is None:
            with trio.CancelScope(shield=True):
                try:
                    await trio.to_thread.run_sync(self._write, batches, limiter=self._thread)
                except (sqlite3.Error, OSError) as error:
                    self.failure = self._named(error)
        for batch in batches:
            batch.error = self.failure or batch.error
            batch.written = True
