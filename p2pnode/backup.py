"""A node's backup: one file with what another machine needs to be this node, and nothing that must not be copied.

It is a tar with a manifest in front, which names each file with its size and SHA-256. The signer log is never in it: an
older copy does not know what was signed since, and a node that believes it is slashed. A key without its log is a lost
log, so an oracle that was restored follows, and signs again when nothing that it may have signed can matter any more.

That holds as long as the old node is stopped for good, and no file can tell. So a backup that *moves* the node seals
the key where it was, and any other one of an oracle is restored only at the operator's word.
"""

import io
import json
import os
import secrets
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from p2pnode.config import NodeConfig
from p2pnode.identity import keystore_address
from p2pnode.node_key import is_sealed, seal_path
from p2pnode.signer_file import move_aside, signer_log_path, sync_folder
from p2pnode.state_folder import BACKED_UP, KEYSTORE, TRANSACTIONS
from p2pnode.store import DATABASE, lock_folder
from protocol.core.errors import P2PNodeError
from protocol.core.ids import NodeId

FORMAT = 1
MANIFEST = "backup.json"
MANIFEST_BYTES_MAX = 1 << 16
CHUNK_BYTES = 1 << 20
SNAPSHOTS = (DATABASE, TRANSACTIONS)


class BackupError(P2PNodeError):
    """A backup that cannot be written or restored; nothing was changed."""

    code = "backup/failed"


class BackupMalformed(BackupError):
    """The file is no backup of this program, or it is damaged."""

    code = "backup/malformed"


class BackupRefused(BackupError):
    """To restore it here could make a node sign twice, or overwrite one."""

    code = "backup/refused"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself."""

    node: str
    """The key's address."""
    network_id: str
    roles: tuple[str, ...]
    made_s: int
    moved: bool
    """Whether the key was sealed where it was; if not, the node may go on there."""
    files: Mapping[str, tuple[int, str]]
    """Bytes and SHA-256 by name."""

    @property
    def signs(self) -> bool:
        """Whether the key signs in a committee."""
        return "oracle" in self.roles


# Writing


def write_backup(config: NodeConfig, target: Path, *, move: bool = False) -> Manifest:
    """Write a node's backup to a new file, mode 0600. With ``move`` the node must be stopped, and cannot start again.

    Raises BackupError, StoreLocked, ConfigError; nothing is left behind then.
    """
    if target.exists():
        raise BackupError(f"{target} exists", hint="name a new file: a backup overwrites nothing")
    keystore = config.keys.keystore
    if not keystore.exists():
        raise BackupError(f"there is no key at {keystore}", hint="name the node's folder: --state-dir FOLDER")
    if is_sealed(keystore):
        raise BackupRefused(f"{keystore} has been moved already", hint="back up the node where it runs now")
    try:
        if not move:
            return _write(config, target, moved=False)
        with lock_folder(config.node.state_dir):
            # First: whoever has the backup may run it, and from here on this key signs nothing more here.
            _put_seal(keystore, target)
            try:
                return _write(config, target, moved=True)
            except BaseException:
                if not target.exists():
                    seal_path(keystore).unlink()
                raise
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"cannot write {target}: {error}", hint="check the disk and the permissions") from error


def _write(config: NodeConfig, target: Path, *, moved: bool) -> Manifest:
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    with tempfile.TemporaryDirectory(dir=config.node.state_dir, prefix=".backup-") as folder:
        files = {name: path for name, path in _collected(config, Path(folder)) if path.exists()}
        manifest = Manifest(
            node="0x" + keystore_address(config.keys.keystore).hex(),
            network_id=config.genesis().network_id().hex(),
            roles=tuple(config.node.roles),
            made_s=int(time.time()),
            moved=moved,
            files={name: (path.stat().st_size, _digest(path)) for name, path in files.items()},
        )
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                _pack(out, manifest, files)
                out.flush()
                os.fsync(out.fileno())
            os.link(draft, target)  # unlike a rename, a link fails where a file already stands
            sync_folder(target.absolute().parent)
        finally:
            draft.unlink(missing_ok=True)
    return manifest


def _collected(config: NodeConfig, folder: Path) -> Iterator[tuple[str, Path]]:
    """Each file that is backed up, as it is now; what a running node writes into is copied as of one moment."""
    for name in BACKED_UP:
        path = config.keys.keystore if name == KEYSTORE else config.node.state_dir / name
        if name in SNAPSHOTS and path.exists():
            if not _snapshot(path, folder / name):
                continue
            path = folder / name
        elif path.exists():
            path = Path(shutil.copyfile(path, folder / name))
        yield name, path


def _snapshot(source: Path, target: Path) -> bool:
    """Copy a database whole; False if the node that runs keeps it to itself."""
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as reader,
        closing(sqlite3.connect(target)) as writer,
    ):
        try:
            reader.backup(writer)
        except sqlite3.OperationalError as error:
            if (error.sqlite_errorcode & 0xFF) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            return False
    return True


def _pack(out: BinaryIO, manifest: Manifest, files: Mapping[str, Path]) -> None:
    said = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1).encode()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, size, content in [
            (MANIFEST, len(said), io.BytesIO(said)),
            *((name, manifest.files[name][0], path.open("rb")) for name, path in files.items()),
        ]:
            with content:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.mtime = size, 0o600, manifest.made_s
                tar.addfile(entry, content)


def _put_seal(keystore: Path, target: Path) -> None:
    path, said = seal_path(keystore), {"backup": str(target.absolute()), "moved_s": int(time.time())}
    with path.open("x", encoding="utf-8") as file:
        json.dump(said, file)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


# Restoring


def read_manifest(source: Path) -> Manifest:
    """What a backup says of itself. Raises BackupError."""
    with _opened(source) as tar:
        return _manifest(tar)


def restore_backup(config: NodeConfig, source: Path, *, replaces: bool = False) -> Manifest:
    """Put a node into a folder where there is none.

    Args:
        replaces: The operator's word that the node of this key runs nowhere else, and never will.

    Raises BackupError, StoreLocked, ConfigError; the folder is as it was then.
    """
    folder, keystore = config.node.state_dir, config.keys.keystore
    try:
        with lock_folder(folder), _opened(source) as tar:
            manifest = _manifest(tar)
            _check_place(config, manifest, replaces=replaces)
            node = NodeId(bytes.fromhex(manifest.node.removeprefix("0x")))
            with tempfile.TemporaryDirectory(dir=folder, prefix=".restore-") as drafts:
                for name in manifest.files:
                    _unpack(tar, manifest, name, Path(drafts) / name)
                if keystore_address(Path(drafts) / KEYSTORE) != node:
                    raise BackupMalformed(f"{source} holds the key of another node", hint="use another backup")
                keystore.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                log = signer_log_path(keystore, node)
                if log.exists():
                    # It may be of an earlier life here, and not know what was signed elsewhere since.
                    move_aside(log)
                # The key comes last: cut short before, there is no node here.
                for name in sorted(manifest.files, key=lambda name: name == KEYSTORE):
                    _put(Path(drafts) / name, keystore if name == KEYSTORE else folder / name)
            return manifest
    except OSError as error:
        raise BackupError(f"cannot restore {source}: {error}", hint="check the path, disk and permissions") from error


def _check_place(config: NodeConfig, manifest: Manifest, *, replaces: bool) -> None:
    """Refuse what would overwrite a node, or may make one sign twice. Raises BackupRefused."""
    folder, keystore = config.node.state_dir, config.keys.keystore
    places = (keystore, seal_path(keystore), *(folder / name for name in BACKED_UP if name != KEYSTORE))
    here = [path for path in places if path.exists()]
    if here:
        raise BackupRefused(
            f"{here[0]} exists, and a restore overwrites nothing",
            hint="give it a folder of its own: --state-dir FOLDER",
        )
    network = config.genesis().network_id().hex()
    if network != manifest.network_id:
        raise BackupRefused(
            f"the backup is of network {manifest.network_id[:16]}, the configured one is {network[:16]}",
            hint="set network.genesis to that network's file",
        )
    if manifest.signs and not manifest.moved and not replaces:
        raise BackupRefused(
            "the backup is of an oracle that may still run; two nodes with one key sign twice and are slashed",
            hint="stop the other one for good, then say so: --replaces",
        )


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with source.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except FileNotFoundError as error:
        raise BackupError(f"there is no {source}", hint="check the path") from error
    except (tarfile.TarError, EOFError) as error:
        raise BackupMalformed(f"{source} is no backup, or damaged: {error}", hint="use another backup") from error


def _manifest(tar: tarfile.TarFile) -> Manifest:
    entry = tar.next()
    if entry is None or entry.name != MANIFEST or not entry.isreg() or entry.size > MANIFEST_BYTES_MAX:
        raise BackupMalformed("it does not begin with a manifest", hint="use a file that `p2pnode backup` wrote")
    content = tar.extractfile(entry)
    assert content is not None
    try:
        said = json.loads(content.read(MANIFEST_BYTES_MAX))
        if said.pop("format") != FORMAT:
            raise ValueError("another format")
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in said.pop("files").items()}
        bytes.fromhex(said["node"].removeprefix("0x"))
        roles, made_s, moved = tuple(map(str, said["roles"])), int(said["made_s"]), said["moved"] is True
        manifest = Manifest(said["node"], str(said["network_id"]), roles, made_s, moved, files)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackupMalformed(f"its manifest is not understood: {error}", hint="use another backup") from error
    unknown = [name for name in manifest.files if name not in BACKED_UP]
    if unknown or KEYSTORE not in manifest.files:
        what = f"it holds {unknown[0]!r:.60}" if unknown else "it holds no key"
        raise BackupMalformed(f"{what}, which no backup does", hint="use a file that `p2pnode backup` wrote")
    return manifest


def _unpack(tar: tarfile.TarFile, manifest: Manifest, name: str, target: Path) -> None:
    size, digest = manifest.files[name]
    try:
        entry = tar.getmember(name)
    except KeyError as error:
        raise BackupMalformed(f"{name} is missing in it", hint="use another backup") from error
    if not entry.isreg() or entry.size != size:
        raise BackupMalformed(f"{name} is not what its manifest says", hint="use another backup")
    content = tar.extractfile(entry)
    assert content is not None
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        shutil.copyfileobj(content, out, CHUNK_BYTES)
        out.flush()
        os.fsync(out.fileno())
    if _digest(target) != digest:
        raise BackupMalformed(f"{name} is damaged: its SHA-256 does not fit", hint="use another backup")


def _put(draft: Path, place: Path) -> None:
    """Move a file to where nothing stands, across file systems too."""
    near = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    shutil.copyfile(draft, near)
    near.chmod(0o600)
    with near.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(near, place)
    finally:
        near.unlink()
    sync_folder(place.parent)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
