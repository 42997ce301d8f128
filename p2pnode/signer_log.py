"""What a key has signed in the committee, durable before it leaves the node.

What may be signed is decided by ``protocol.committee.signer``; this is its memory, and the second line of defence: a
record is put in once, the same one again is fine, another one under its key is refused, and so is any of an epoch in
which the key is to be silent.

The log is created once, together with the key, and is **no part of a backup**: an older copy does not know what was
signed since, and a node that believes it signs a second thing for one slot and is slashed. Back up the key alone; a key
without its log is a lost log. A lost log is no error: the node follows the committee, and signs again from the
epoch that :meth:`SignerLog.silence` is told.

Rule: once a commit has failed nothing more is written; sign nothing any more, go on following.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from p2pnode.signer_file import (
    Loss,
    Lost,
    SignerLogError,
    SignerLogFull,
    SignerLogLocked,
    SignerLogReadOnly,
    be_silent,
    checksum,
    create_signer_log,
    fold_when_long,
    move_aside,
    named,
    open_connection,
    signer_log_path,
    silence_of,
    silence_unopened,
    write_new,
)
from p2pnode.sqlite_file import Batch, GroupCommit, LockHeld, lock_as_it_is, take_lock
from protocol.committee.signer import SILENCE
from protocol.core.errors import LocalProtocolError
from protocol.core.ids import NetworkId, NodeId

__all__ = [
    "Loss",
    "Lost",
    "Record",
    "SignerConflict",
    "SignerLog",
    "SignerLogError",
    "SignerLogFull",
    "SignerLogLocked",
    "SignerLogLost",
    "SignerLogReadOnly",
    "SignerSilent",
    "create_signer_log",
    "open_signer_log",
    "signer_log_path",
]

KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 1 << 16
PRUNED_ROWS = 1_000
"""Deleted in one commit, so that nobody's signature waits long."""

_EPOCH_MAX = (1 << 63) - 1

Record = tuple[bytes, bytes]
"""What ``protocol.committee.signer`` hands out: its key is a word, a slash, the epoch in 8 bytes, and the rest. The
network is no part of it: that is the log's to add."""


class SignerLogLost(SignerLogError):
    """Nothing is signed with a lost log."""

    code = "signer/lost"


class SignerConflict(LocalProtocolError):
    """Something else was signed for this slot; to sign both is what is slashed."""

    code = "signer/conflict"
    hint = "this is a bug in p2pnode: report it; the second signature did not leave the node"


class SignerSilent(LocalProtocolError):
    """The key signs nothing in this epoch: what it signed there was lost, or forgotten."""

    code = "signer/silent"
    hint = "this is a bug in p2pnode: report it; the signature did not leave the node"


@dataclass(frozen=True, slots=True)
class _Write:
    """What becomes durable together."""

    records: Sequence[tuple[int, bytes, bytes]] = ()
    """Epoch, key and value."""
    silent_before_epoch: int = 0
    forget_before_epoch: int = 0


class SignerLog:
    """One key's log in one network. Made by :func:`open_signer_log`; used from one trio run."""

    def __init__(self, path: Path, node: NodeId, network: NetworkId, found: sqlite3.Connection | Lost) -> None:
        self.path = path
        self.silent_before_epoch = 0
        """Nothing of an epoch before this one is signed; durable, and it never sinks."""
        self._node = node
        self._network = bytes(network)
        self._commits: GroupCommit[_Write] = GroupCommit(self._write, lambda error: named(error, path))
        self._found = found
        self._read_silence()

    @property
    def lost(self) -> Lost | None:
        """Why the log cannot be relied on; None if it is whole."""
        return self._found if isinstance(self._found, Lost) else None

    async def append(self, records: Sequence[Record]) -> None:
        """Write all records or none; they are durable, and what they hold may leave, when this returns.

        One of a silence is :meth:`silence`. If cancelled they may or may not become durable: nothing of them may
        leave. Raises SignerConflict or SignerSilent, after which other records can still be written, and
        SignerLogError, after which none can.
        """
        dated = [(_epoch_of(key, value), key, value) for key, value in records]
        silent_before_epoch = max((epoch for epoch, key, _ in dated if key.startswith(SILENCE)), default=0)
        if silent_before_epoch:
            await self._replace_lost(silent_before_epoch)
        self._connection()
        signed = [record for record in dated if not record[1].startswith(SILENCE)]
        await self._commits.commit(_Write(signed, silent_before_epoch))

    async def load(self, from_epoch: int = 0) -> dict[bytes, bytes]:
        """The durable records of this epoch and later ones, in the order of epochs and keys, and that of the silence.

        Raises SignerLogError.
        """
        query = "SELECT key, value FROM signed WHERE network = ? AND epoch >= ? ORDER BY epoch, key"
        records = dict(await self._read(query, from_epoch))
        if self.silent_before_epoch:
            records[SILENCE + self.silent_before_epoch.to_bytes(8, "big")] = b""
        return records

    async def silence(self, before_epoch: int) -> None:
        """Sign nothing before this epoch; durable when this returns. What ends a lost log of either kind.

        A file that is lost is moved aside, never deleted, and a new one begun. One that is whole, but lacks a
        signature that somebody else shows, only becomes silent. Raises SignerLogError.
        """
        await self.append([(SILENCE + _check_epoch(before_epoch).to_bytes(8, "big"), b"")])

    async def prune(self, before_epoch: int) -> None:
        """Forget whole epochs of which nothing will be asked again, and be silent in them. Raises SignerLogError."""
        await self.silence(before_epoch)
        query = "SELECT 1 FROM signed WHERE network = ? AND epoch < ? LIMIT 1"
        while await self._read(query, before_epoch):
            await self._commits.commit(_Write(forget_before_epoch=before_epoch))

    def close(self) -> None:
        """Let go of the file; :func:`open_signer_log` does. What was written is durable already."""
        if not isinstance(self._found, Lost):
            self._found.close()

    def _connection(self) -> sqlite3.Connection:
        if isinstance(self._found, Lost):
            raise SignerLogLost(
                f"the signer log is lost: {self._found.what}",
                hint="the node follows the committee and signs again after the next epoch; never put back a copy",
            )
        return self._found

    async def _read(self, query: str, epoch: int) -> list[tuple[bytes, bytes]]:
        def read() -> list[tuple[bytes, bytes]]:
            try:
                return self._connection().execute(query, (self._network, epoch)).fetchall()
            except sqlite3.Error as error:
                raise named(error, self.path) from error

        return await self._commits.between(read)

    def _write(self, batches: Sequence[Batch[_Write]]) -> None:
        connection = self._connection()
        with connection:  # commits, or rolls back on an exception
            connection.execute("BEGIN IMMEDIATE")
            for batch in batches:
                connection.execute("SAVEPOINT batch")
                try:
                    self._put(connection, batch.item)
                except LocalProtocolError as error:
                    connection.execute("ROLLBACK TO batch")
                    batch.error = error
                connection.execute("RELEASE batch")
        self._read_silence()
        fold_when_long(connection, self.path)

    def _put(self, connection: sqlite3.Connection, write: _Write) -> None:
        if write.silent_before_epoch:
            be_silent(connection, self._network, write.silent_before_epoch)
        if write.forget_before_epoch:
            connection.execute(
                "DELETE FROM signed WHERE network = ?1 AND (epoch, key) IN"
                " (SELECT epoch, key FROM signed WHERE network = ?1 AND epoch < ?2 LIMIT ?3)",
                (self._network, write.forget_before_epoch, PRUNED_ROWS),
            )
        silent_before_epoch = silence_of(connection, self._network)
        for epoch, key, value in write.records:
            self._insert(connection, epoch, key, value, silent=epoch < silent_before_epoch)

    def _insert(self, connection: sqlite3.Connection, epoch: int, key: bytes, value: bytes, *, silent: bool) -> None:
        slot = (self._network, epoch, key)
        known = connection.execute(
            "SELECT value FROM signed WHERE network = ? AND epoch = ? AND key = ?", slot
        ).fetchone()
        if known == (value,):
            return
        if known is not None:
            raise SignerConflict(f"{_shown(key)} of epoch {epoch} was signed before, and differently")
        if silent:
            raise SignerSilent(f"{_shown(key)}: nothing of epoch {epoch} is signed with this key")
        noted = checksum(self._network, epoch, key, value)
        connection.execute("INSERT INTO signed VALUES (?, ?, ?, ?, ?)", (*slot, value, noted))

    async def _replace_lost(self, before_epoch: int) -> None:
        if self.lost is not None:
            await self._commits.between(lambda: self._begin_anew(before_epoch))

    def _begin_anew(self, before_epoch: int) -> None:
        """Put a log that is silent from its first byte on in the place of a lost one."""
        if isinstance(self._found, Lost):  # nobody else did it while this one waited for its turn
            if self._found.loss is Loss.ELSEWHERE:
                silence_unopened(self.path, self._network, before_epoch)
            else:
                move_aside(self.path)
                write_new(self.path, self._node, (self._network, before_epoch))
            self._found = open_connection(self.path, self._node, self._network)
            self._connection()
            self._read_silence()

    def _read_silence(self) -> None:
        if not isinstance(self._found, Lost):
            self.silent_before_epoch = silence_of(self._found, self._network)


@contextmanager
def open_signer_log(keystore: Path, node: NodeId, network: NetworkId) -> Iterator[SignerLog]:
    """The log of the key in ``keystore``, whole or lost, held against every other process until the block ends.

    Three locks, as each alone has a gap: on a file beside the log, which also holds while there is no log; SQLite's,
    on the log itself by whatever path; and on the key's file, for a key that two nodes share by a mount of this file
    alone. What no lock on one machine can tell is a copy of the key on another one: never run two.

    Raises SignerLogLocked, SignerLogReadOnly, SignerLogFull, SignerLogError.
    """
    path = signer_log_path(keystore, node)
    with ExitStack() as stack:
        try:
            stack.callback(os.close, take_lock(Path(f"{path}.lock")))
            with suppress(FileNotFoundError):
                stack.callback(os.close, lock_as_it_is(keystore))
        except LockHeld as error:
            raise SignerLogLocked(
                f"another node signs with the key 0x{node.hex()}"
                + (f", process {error.holder}" if error.holder else ""),
                hint="stop that node; two that sign with one key are slashed",
            ) from error
        except OSError as error:
            raise named(error, path) from error
        log = SignerLog(path, node, network, open_connection(path, node, network))
        stack.callback(log.close)
        yield log


def _epoch_of(key: bytes, value: bytes) -> int:
    """The epoch in a record's key. Raises ValueError for what is no record of a signer log."""
    epoch = key.partition(b"/")[2][:8]
    if len(epoch) != 8 or len(key) > KEY_BYTES_MAX or len(value) > VALUE_BYTES_MAX:
        raise ValueError(f"{_shown(key)}, {len(value)} bytes: no record of a signer log")
    return _check_epoch(int.from_bytes(epoch, "big"))


def _check_epoch(epoch: int) -> int:
    if not 0 <= epoch <= _EPOCH_MAX:
        raise ValueError(f"no epoch: {epoch}")
    return epoch


def _shown(key: bytes) -> str:
    word, _, rest = key.partition(b"/")
    return f"{word.decode('ascii', 'replace')}/{rest[:64].hex()}"
