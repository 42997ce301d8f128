"""The signer log on disk: how its file is made, what is in it, and what makes it a lost one.

It stands beside the key's own file (links followed) and carries the key's node id in its name. So whoever reaches the
key by another path, or from another node's folder, reaches the same log; two keys in one folder have two logs; and a
key that was copied elsewhere has none there, which is a lost one.

Of every network there are records, each put in once and never changed, with a checksum over all of it, as SQLite's
own check sees no flipped bit in a value; and the epoch before which nothing is signed, which never sinks.

Write-ahead log, and not a rollback journal: one sync a commit instead of four, and its torn end is told by checksums.
Its price is a second file for as long as a node runs, with the newest part of the log; whoever deletes that one, or
copies the first alone, has an older log that looks whole. Therefore the first file always says that there is ``more``,
and the end of the second that there is none: together, or folded into one by whatever opens them, they say none.
"""

import os
import secrets
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from pathlib import Path

from p2pnode.sqlite_file import Trouble, trouble_of
from protocol.core.errors import P2PNodeError
from protocol.core.ids import NodeId

FORMAT = 1
APPLICATION_ID = 0x70327332  # "p2s2": SQLite keeps it in the file's header
FOLDED_BYTES = 4 << 20
"""How long the second file may grow."""

BESIDE = ("-wal", "-journal")
"""What SQLite may keep beside the file; without it the file is older than it should be."""

_SCHEMA = (
    # One row. `replaced`: not the log that was made together with the key.
    "CREATE TABLE log (node BLOB NOT NULL, created_ms INTEGER NOT NULL, replaced INTEGER NOT NULL, more INTEGER NOT"
    " NULL)",
    "CREATE TABLE silence (network BLOB PRIMARY KEY, before_epoch INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE signed (network BLOB, epoch INTEGER, key BLOB, value BLOB NOT NULL, checksum BLOB NOT NULL,"
    " PRIMARY KEY (network, epoch, key)) WITHOUT ROWID",
    "CREATE TRIGGER signed_once BEFORE UPDATE ON signed BEGIN SELECT RAISE(ABORT, 'what was signed never changes');"
    " END",
    "CREATE TRIGGER signed_for_good BEFORE DELETE ON signed WHEN old.epoch >= coalesce("
    "(SELECT before_epoch FROM silence WHERE network = old.network), 0)"
    " BEGIN SELECT RAISE(ABORT, 'what may be signed again is never forgotten'); END",
)


class SignerLogError(P2PNodeError):
    """The disk did not do what was asked: sign nothing any more, go on following. Nothing acknowledged is lost."""

    code = "signer/failed"


class SignerLogFull(SignerLogError):
    """The disk, a quota or a file size limit is used up."""

    code = "signer/full"


class SignerLogReadOnly(SignerLogError):
    """The folder or the file cannot be written."""

    code = "signer/read-only"


class SignerLogLocked(SignerLogError):
    """Another process signs with this key."""

    code = "signer/locked"


class Loss(Enum):
    """Why a log is lost: the key may have signed what it does not show."""

    MISSING = "missing"
    DAMAGED = "damaged"
    INCOMPLETE = "incomplete"
    FOREIGN = "of another key"
    FORMAT = "of another format"
    ELSEWHERE = "lost in another network"
    """It was replaced while the key worked in another network, so what was signed in this one is unknown."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A log that cannot be relied on; ``what`` says it to a person."""

    loss: Loss
    what: str


def signer_log_path(keystore: Path, node: NodeId) -> Path:
    """Where the log of a key is, by the key's own file and its node id."""
    return (keystore.resolve().parent / f"signer-{node.hex()}.db").resolve()


def create_signer_log(keystore: Path, node: NodeId) -> None:
    """Make the empty log of a key that has never signed, durable when this returns; call it before the key is written.

    In this order a crash between the two leaves a log without a key, which does no harm; the other way round it would
    leave a key without a log, which signs nothing for an epoch. A log that is there already stays as it is: what it
    says of the key is worth more. Never to be called for a key that may have signed: that is
    ``SignerLog.silence``. Raises SignerLogError.
    """
    with suppress(FileExistsError):
        write_new(signer_log_path(keystore, node), node)


def write_new(path: Path, node: NodeId, silence: tuple[bytes, int] | None = None) -> None:
    """Write a new log whole or not at all; with the silence that begins it if it replaces one.

    Raises SignerLogError, and FileExistsError rather than touching what is there.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _fill(draft, node, silence)
            os.fsync(descriptor)
            os.link(draft, path)  # unlike a rename, a link fails where a file already stands
        finally:
            os.close(descriptor)
            os.unlink(draft)
        sync_folder(path.parent)
    except FileExistsError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise named(error, path) from error


def _fill(draft: Path, node: NodeId, silence: tuple[bytes, int] | None) -> None:
    with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        # Nothing to roll back to, and it is synced as a whole.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        for statement in _SCHEMA:
            connection.execute(statement)
        created_ms = time.time_ns() // 1_000_000
        connection.execute("INSERT INTO log VALUES (?, ?, ?, 0)", (node, created_ms, silence is not None))
        if silence is not None:
            connection.execute("INSERT INTO silence VALUES (?, ?)", silence)


def move_aside(path: Path) -> None:
    """Keep a lost log and what SQLite has beside it under another name, ``….lost-<n>``. Raises SignerLogError."""
    try:
        number = 1
        while any(os.path.lexists(f"{path}.lost-{number}{suffix}") for suffix in ("", *BESIDE)):
            number += 1
        # The file itself goes last: cut short in between, the log is lost all the more.
        for suffix in (*BESIDE, ""):
            with suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{path}.lost-{number}{suffix}")
        sync_folder(path.parent)
    except OSError as error:
        raise named(error, path) from error


def open_connection(path: Path, node: NodeId, network: bytes) -> sqlite3.Connection | Lost:
    """The log's only connection, ready to write, or why the log is lost; nothing is written into a lost one.

    SQLite's own lock is held until it is closed, on the file itself, by whatever path it is reached. Raises
    SignerLogError.
    """
    if not path.exists():
        return Lost(Loss.MISSING, f"there is no {path}")
    has_second = Path(f"{path}-wal").exists()
    connection: sqlite3.Connection | None = None
    try:
        if (lost := _no_signer_log(path)) is not None:
            return lost
        # The thread that writes changes, but only one does at a time.
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=0
        )
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        lost = _lost(connection, path, node, network, has_second=has_second)
        if lost is None:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            fold(connection)
            return connection
    except (sqlite3.Error, OSError) as error:
        if connection is not None:
            connection.close()
        if trouble_of(error) is not Trouble.DAMAGED:
            raise named(error, path) from error
        return Lost(Loss.DAMAGED, f"{path} is damaged: {error}")
    connection.close()
    return lost


def be_silent(connection: sqlite3.Connection, network: bytes, before_epoch: int) -> None:
    """Raise the epoch before which nothing is signed in a network."""
    connection.execute(
        "INSERT INTO silence VALUES (?, ?) ON CONFLICT (network)"
        " DO UPDATE SET before_epoch = max(before_epoch, excluded.before_epoch)",
        (network, before_epoch),
    )


def silence_of(connection: sqlite3.Connection, network: bytes) -> int:
    """The epoch before which nothing is signed in a network."""
    row = connection.execute("SELECT before_epoch FROM silence WHERE network = ?", (network,)).fetchone()
    return 0 if row is None else int(row[0])


def silence_unopened(path: Path, network: bytes, before_epoch: int) -> None:
    """Be silent in a network of which a log knows nothing; durable when this returns. Raises SignerLogError."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            be_silent(connection, network, before_epoch)
    except sqlite3.Error as error:
        raise named(error, path) from error


def fold(connection: sqlite3.Connection) -> None:
    """Put all of the log into the first file and begin the second one afresh."""
    connection.execute("UPDATE log SET more = 1")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # Killed right here it says `more`, with an empty second file beside it: then too it is whole.
    connection.execute("UPDATE log SET more = 0")


def fold_when_long(connection: sqlite3.Connection, path: Path) -> None:
    """Keep the second file short. Raises OSError if somebody took it away."""
    if os.path.getsize(f"{path}-wal") > FOLDED_BYTES:
        fold(connection)


def checksum(network: bytes, epoch: int, key: bytes, value: bytes) -> bytes:
    """Of one record."""
    digest = blake2b(b"%d %d %d " % (len(network), epoch, len(key)), digest_size=8)
    digest.update(network + key + value)
    return digest.digest()


def _no_signer_log(path: Path) -> Lost | None:
    """What the header says, read before SQLite sees the file: beside one that is none it would delete the second."""
    with path.open("rb") as file:
        header = file.read(72)
    magic, version, application = header[:16], header[60:64], header[68:72]
    if magic != b"SQLite format 3\0":
        return Lost(Loss.DAMAGED, f"{path} is damaged: it is no database")
    if application != APPLICATION_ID.to_bytes(4, "big"):
        return Lost(Loss.FORMAT, f"{path} is no signer log")
    if version != FORMAT.to_bytes(4, "big"):
        return Lost(Loss.FORMAT, f"{path} has format {int.from_bytes(version, 'big')}, this build reads {FORMAT}")
    return None


def _lost(connection: sqlite3.Connection, path: Path, node: NodeId, network: bytes, *, has_second: bool) -> Lost | None:
    """What is wrong with the file. Only reads."""
    verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        return Lost(Loss.DAMAGED, f"{path} is damaged: {verdict}")
    made_of = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master")}
    if made_of != set(_SCHEMA):
        return Lost(Loss.DAMAGED, f"{path} is damaged: its tables are not those of a signer log")
    rows = connection.execute("SELECT node, replaced, more FROM log").fetchall()
    if len(rows) != 1:
        return Lost(Loss.DAMAGED, f"{path} is damaged: it does not say whose it is")
    ((owner, replaced, more),) = rows
    if owner != node:
        return Lost(Loss.FOREIGN, f"{path} is the log of 0x{owner.hex()}, not of 0x{node.hex()}")
    if more and not has_second:
        return Lost(Loss.INCOMPLETE, f"the newest part of {path}, {path.name}-wal, is missing")
    for *record, noted in connection.execute("SELECT network, epoch, key, value, checksum FROM signed"):
        if checksum(*record) != noted:
            return Lost(Loss.DAMAGED, f"{path} is damaged: a record's checksum does not fit")
    if replaced and not connection.execute("SELECT 1 FROM silence WHERE network = ?", (network,)).fetchone():
        return Lost(Loss.ELSEWHERE, f"{path} was begun anew while this key worked in another network")
    return None


def sync_folder(folder: Path) -> None:
    """Make new and changed names in a folder survive a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def named(error: sqlite3.Error | OSError, path: Path) -> SignerLogError:
    """An error of SQLite or of the system as ours."""
    what = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    match trouble_of(error):
        case Trouble.FULL:
            return SignerLogFull(
                f"cannot write {path}: no space left",
                hint="free some space, then start the node again; nothing is lost",
            )
        case Trouble.READ_ONLY:
            return SignerLogReadOnly(
                f"cannot write {path}: {what}",
                hint="the signer log stands beside the key: let the node write in the folder of keys.keystore",
            )
        case Trouble.LOCKED:
            return SignerLogLocked(
                f"{path} is locked by another program", hint="close whatever has it open; one node signs with a key"
            )
        case _:
            return SignerLogError(
                f"cannot write {path}: {what}",
                hint="check the disk's health and the file size limit (ulimit -f), then start the node again; "
                "never put back a copy of the signer log",
            )
