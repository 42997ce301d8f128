"""What was signed with one key on one chain, durable before it is sent.

A transaction is written down with its nonce before anybody else sees it, so a process that ends in between finds it
again and sends the same bytes; the same nonce is never signed for something else by mistake. One process at a time
holds a journal.
"""

import sqlite3
from pathlib import Path

import msgspec

from chain.api import TxState
from chain.errors import JournalError
from protocol.core.ids import NodeId

CLOSED_KEPT = 256
"""Of transactions whose fate is final, so many can still be asked for."""
_FORMAT = 1


class Form(msgspec.Struct, frozen=True, array_like=True):
    """A transaction as it was signed once; another fee is another form."""

    hash: bytes
    raw: bytes
    max_fee: int
    tip: int | None
    made_s: int
    cancels: bool
    """It does nothing, so that the nonce is used up."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One thing that was to be done, and what became of it."""

    id: bytes
    purpose: bytes
    """The same purpose is not begun again while it is under way."""
    group: str
    """A later one of a group takes the place of an earlier one that is in no block."""
    what: str
    """In words, for errors and the status."""
    nonce: int
    to: bytes
    data: bytes
    value: str
    """In the coin's smallest unit; 256 bits do not fit into an integer of the file."""
    gas: int
    begun_s: int
    deadline_s: int
    forms: tuple[Form, ...]
    state: TxState = TxState.PENDING
    replaced: bool = False
    """Another one has taken its nonce; it may still be this one that is mined."""
    lost_since_s: int = 0
    """Since when its nonce is used up without a trace of it; 0 if it is not."""
    hash: bytes = b""
    block_number: int = 0
    gas_used: int = 0
    reason: str = ""

    @property
    def open(self) -> bool:
        """Whether its fate is not final."""
        return self.state in (TxState.PENDING, TxState.MINED)

    @property
    def newest(self) -> Form:
        """The form that was signed last."""
        return self.forms[-1]


class Journal:
    """See the module. Its caller holds a lock around it; None as the path keeps it in memory, for tests."""

    def __init__(self, path: Path | None, chain_id: int, address: NodeId) -> None:
        self._path = path
        try:
            self._sql = self._opened(path)
            self._check_owner(chain_id, address)
            self._entries = self._read()
        except (sqlite3.Error, OSError) as error:
            raise self._named(error) from error

    def close(self) -> None:
        """Let another process have it."""
        self._sql.close()

    def __del__(self) -> None:
        if hasattr(self, "_sql"):
            self._sql.close()

    def put(self, *entries: Entry) -> None:
        """Write entries down; they are durable when this returns. Raises JournalError."""
        try:
            with self._sql:
                for entry in entries:
                    row = (entry.id, entry.nonce, entry.open, msgspec.msgpack.encode(entry))
                    self._sql.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise self._named(error) from error
        for entry in entries:
            self._entries[entry.id] = entry
        self._forget()

    def get(self, name: bytes) -> Entry | None:
        """An entry by the hash of its first form."""
        return self._entries.get(name)

    def open_entries(self) -> list[Entry]:
        """All whose fate is not final, by nonce."""
        return sorted((entry for entry in self._entries.values() if entry.open), key=lambda entry: entry.nonce)

    def closed_to(self) -> int:
        """The nonce after the highest one whose fate is final; 0 if there is none."""
        return max((entry.nonce + 1 for entry in self._entries.values() if not entry.open), default=0)

    def is_final(self, nonce: int) -> bool:
        """Whether something of ours that has this nonce is done for good."""
        return any(entry.nonce == nonce and entry.state is TxState.FINAL for entry in self._entries.values())

    def _forget(self) -> None:
        closed = sorted((entry for entry in self._entries.values() if not entry.open), key=lambda entry: entry.nonce)
        old = closed[: max(0, len(closed) - CLOSED_KEPT)]
        if not old:
            return
        with self._sql:
            self._sql.executemany("DELETE FROM entries WHERE id = ?", [(entry.id,) for entry in old])
        for entry in old:
            del self._entries[entry.id]

    def _opened(self, path: Path | None) -> sqlite3.Connection:
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sql = sqlite3.connect(path or ":memory:", timeout=0, check_same_thread=False)
        try:
            sql.execute("PRAGMA synchronous = FULL")
            sql.execute("PRAGMA locking_mode = EXCLUSIVE")  # held until it is closed
            sql.execute("BEGIN EXCLUSIVE")
            sql.execute("CREATE TABLE IF NOT EXISTS owner (format INTEGER, chain_id INTEGER, address BLOB)")
            sql.execute(
                "CREATE TABLE IF NOT EXISTS entries (id BLOB PRIMARY KEY, nonce INTEGER, open INTEGER, body BLOB)"
            )
            sql.commit()
        except BaseException:
            sql.close()
            raise
        return sql

    def _check_owner(self, chain_id: int, address: NodeId) -> None:
        row = self._sql.execute("SELECT format, chain_id, address FROM owner").fetchone()
        if row is None:
            with self._sql:
                self._sql.execute("INSERT INTO owner VALUES (?, ?, ?)", (_FORMAT, chain_id, address))
        elif row != (_FORMAT, chain_id, address):
            self._sql.close()
            raise JournalError(
                f"{self._path} is of the key 0x{bytes(row[2]).hex()} on chain {row[1]}",
                hint="each key has a journal of its own on each chain: name another folder",
            )

    def _read(self) -> dict[bytes, Entry]:
        try:
            rows = self._sql.execute("SELECT body FROM entries").fetchall()
            entries = [msgspec.msgpack.decode(body, type=Entry) for (body,) in rows]
        except msgspec.DecodeError as error:
            raise JournalError(f"{self._path} is damaged: {error}") from error
        return {entry.id: entry for entry in entries}

    def _named(self, error: sqlite3.Error | OSError) -> JournalError:
        if "locked" in str(error):
            return JournalError(
                f"{self._path} is in use by another process",
                hint="a key sends from one process at a time: stop the node that has it, or use another key",
            )
        return JournalError(f"{self._path}: {error}")
