"""What a node must not forget: durable key-value records in SQLite, and the lock on the folder that holds them.

A batch is whole or not there at all, and batches become durable in the order in which they were given
(``p2pnode.sqlite_file`` says how). After a failed commit the node ends and reads the disk afresh.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from p2pnode.sqlite_file import Batch, GroupCommit, LockHeld, Trouble, take_lock, trouble_of
from protocol.core.errors import P2PNodeError

T = TypeVar("T")

DATABASE = "node.db"
LOCK = "lock"
KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 16 << 20

_ROWS_AT_ONCE = 500
"""In one statement. After each this thread waits for the interpreter, up to 5 ms where the node has much to do: row by
row, what waits for a busy node's disk would take seconds, and more would wait the next time."""
_FORMAT = 1
_APPLICATION_ID = 0x70327031  # "p2p1": SQLite keeps it in the file's header, so that `file` and we know what it is

Record = tuple[bytes, bytes | None]
"""A key and its value; None deletes the key."""


class StoreError(P2PNodeError):
    """The disk did not do what was asked; nothing acknowledged before is lost."""

    code = "store/failed"


class StoreLocked(StoreError):
    """Another process works in this folder."""

    code = "store/locked"


class StoreCorrupt(StoreError):
    """The database is damaged, or no database of this program."""

    code = "store/corrupt"


class StoreFull(StoreError):
    """The disk, a quota or a file size limit is used up."""

    code = "store/full"


class StoreMissing(StoreError):
    """There is no database in the folder."""

    code = "store/missing"


class StoreReadOnly(StoreError):
    """The folder or the database cannot be written."""

    code = "store/read-only"


class NodeStore:
    """An open store. Made by :func:`open_store`; used from one trio run."""

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._commits: GroupCommit[Sequence[Record]] = GroupCommit(self._write, lambda error: _named(error, path))

    async def persist(self, records: Sequence[Record]) -> None:
        """Write all records or none; they are durable when this returns.

        If cancelled while others commit, the records may or may not become durable. Raises StoreError.
        """
        for key, value in records:
            if not 0 < len(key) <= KEY_BYTES_MAX or (value is not None and len(value) > VALUE_BYTES_MAX):
                raise ValueError(f"a key has 1 to {KEY_BYTES_MAX} bytes, a value at most {VALUE_BYTES_MAX}")
        await self._commits.commit(records)

    def load(self, prefix: bytes) -> dict[bytes, bytes]:
        """The durable records whose key starts with ``prefix``, in the order of keys. Raises StoreError."""
        try:
            return _load(self._reader, prefix)
        except sqlite3.Error as error:
            raise _named(error, self._path) from error

    def _write(self, batches: Sequence[Batch[Sequence[Record]]]) -> None:
        latest = {key: value for batch in batches for key, value in batch.item}
        gone = [key for key, value in latest.items() if value is None]
        kept = [(key, value) for key, value in latest.items() if value is not None]
        with self._writer:  # commits, or rolls back on an exception
            self._writer.execute("BEGIN IMMEDIATE")
            for keys in _chunks(gone):
                self._writer.execute(f"DELETE FROM records WHERE key IN ({','.join('?' * len(keys))})", keys)
            for rows in _chunks(kept):
                values = [part for row in rows for part in row]
                self._writer.execute(f"INSERT OR REPLACE INTO records VALUES {','.join(['(?,?)'] * len(rows))}", values)


@contextmanager
def open_store(folder: Path) -> Iterator[NodeStore]:
    """Lock a node's folder (made if missing, mode 0700) and open the store in it until the block ends.

    Raises StoreLocked, StoreCorrupt, StoreReadOnly, StoreFull, StoreError.
    """
    path = folder / DATABASE
    with lock_folder(folder), _connections(path) as (writer, reader):
        yield NodeStore(path, writer, reader)


def read_store(folder: Path, prefix: bytes, *, last: int | None = None) -> dict[bytes, bytes]:
    """The durable records of a node, whether it runs or not: nothing is locked or written.

    With ``last`` only so many, those with the highest keys. Raises StoreError.
    """
    path = folder / DATABASE
    if not path.exists():
        raise StoreMissing(f"no node has worked in {folder}", hint="name the node's folder: --state-dir FOLDER")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as reader:
            _check_format(reader, path)
            return _load(reader, prefix, last)
    except sqlite3.Error as error:
        raise _named(error, path) from error


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a node's folder (made if missing, mode 0700) against every other process until the block ends.

    The kernel drops the lock with the process, however it ends. Raises StoreLocked, StoreReadOnly, StoreError.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = take_lock(folder / LOCK)
    except LockHeld as error:
        raise StoreLocked(
            f"{folder} is in use by another node" + (f", process {error.holder}" if error.holder else ""),
            hint="stop that node, or give this one a folder of its own: --state-dir FOLDER",
        ) from error
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _connections(path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """A connection for writing and one for reading; the reader sees only what is committed."""
    opened: list[sqlite3.Connection] = []
    try:
        try:
            for _ in range(2):
                # The thread that writes changes, but only one does at a time.
                opened.append(sqlite3.connect(path, isolation_level=None, check_same_thread=False))
                _prepare(opened[-1], path)
        except sqlite3.Error as error:
            raise _named(error, path) from error
        yield opened[0], opened[1]
    finally:
        # SQLite folds the log into the database with the last connection; a failure there loses nothing, the
        # log is read at the next start.
        for connection in reversed(opened):
            connection.close()


def _chunks(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    return (rows[at : at + _ROWS_AT_ONCE] for at in range(0, len(rows), _ROWS_AT_ONCE))


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    empty = not connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    if empty and connection.execute("PRAGMA application_id").fetchone()[0] == 0:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_FORMAT}")
        return
    _check_format(connection, path)
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _damaged(path, str(verdict))


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    if application != _APPLICATION_ID:
        raise StoreCorrupt(
            f"{path} belongs to another program", hint="give the node a folder of its own: --state-dir FOLDER"
        )
    if version != _FORMAT:
        raise StoreCorrupt(
            f"{path} has format {version}, this build reads {_FORMAT}", hint="use the version of p2pnode that wrote it"
        )


def _load(connection: sqlite3.Connection, prefix: bytes, last: int | None = None) -> dict[bytes, bytes]:
    end = _after(prefix)
    query = "SELECT key, value FROM records WHERE key >= ?" + (" AND key < ?" if end else "")
    query += " ORDER BY key DESC LIMIT ?"
    rows = connection.execute(query, (prefix, *([end] if end else []), -1 if last is None else last))
    return dict(reversed(rows.fetchall()))


def _after(prefix: bytes) -> bytes:
    """The first key after all keys with this prefix; empty if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


def _damaged(path: Path, what: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"{path} is damaged: {what}",
        hint=f"check the disk, move {path.name}* away and start again: the node forgets its sessions, not its key",
    )


def _named(error: sqlite3.Error | OSError, path: Path) -> StoreError:
    """An error of SQLite or of the system as ours."""
    match trouble_of(error):
        case Trouble.DAMAGED:
            return _damaged(path, str(error))
        case Trouble.FULL:
            return _full(path.parent)
        case Trouble.READ_ONLY:
            return _read_only(path.parent, str(error))
        case Trouble.LOCKED:
            return StoreLocked(f"{path} is locked by another program", hint="close whatever has the database open")
    return StoreError(
        f"cannot write {path}: {error}", hint="check free space, the file size limit (ulimit -f) and the disk's health"
    )


def _unusable(folder: Path, error: OSError) -> StoreError:
    if trouble_of(error) is Trouble.FULL:
        return _full(folder)
    return _read_only(folder, error.strerror or str(error))


def _full(folder: Path) -> StoreFull:
    return StoreFull(
        f"no space left to write in {folder}", hint="free some space, then start the node again; nothing is lost"
    )


def _read_only(folder: Path, what: str) -> StoreReadOnly:
    return StoreReadOnly(
        f"cannot write in {folder}: {what}",
        hint="correct its owner and permissions, or give another: --state-dir FOLDER",
    )
