"""What ``p2pnode doctor --fix`` mends by itself: what cannot harm, and nothing that a node that runs stands on."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from p2pnode.config import NodeConfig
from p2pnode.state_folder import BACKED_UP
from p2pnode.store import DATABASE, StoreCorrupt, StoreMissing, lock_folder, read_store

Repair = Callable[[NodeConfig], str]
"""Mends and says what it did. Raises P2PNodeError or OSError if it cannot."""

LEFTOVERS = (".signer-*.db.*", ".backup-*", ".restore-*", *(f".{name}.*" for name in BACKED_UP))
"""What a command that was killed in the middle leaves."""


def leftovers(config: NodeConfig) -> list[Path]:
    """Drafts of files that were never finished."""
    key = config.keys.keystore
    forms = (*LEFTOVERS, f".{key.name}.*", f"{key.name}.*.new")  # some of these hold the key
    return sorted(
        {path for folder in (config.node.state_dir, key.parent) for form in forms for path in folder.glob(form)}
    )


def damage(config: NodeConfig) -> str | None:
    """What is wrong with the node's database; None if nothing is, or there is none yet."""
    path = config.node.state_dir / DATABASE
    try:
        read_store(config.node.state_dir, b"", last=1)
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as reader:
            verdict = str(reader.execute("PRAGMA quick_check(1)").fetchone()[0])
    except StoreMissing:
        return None
    except StoreCorrupt as error:
        return str(error)
    except sqlite3.DatabaseError as error:
        return f"{path} is damaged: {error}"
    return None if verdict == "ok" else f"{path} is damaged: {verdict}"


def _make_folder(config: NodeConfig) -> str:
    folder = config.node.state_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return f"{folder} is there, and for its owner alone"


def _close_key(config: NodeConfig) -> str:
    config.keys.keystore.chmod(0o600)
    return f"{config.keys.keystore} can be read by its owner alone"


def _begin_anew(config: NodeConfig) -> str:
    """Put a damaged database aside. What was in it is known to others, or lost; the key is not in it."""
    folder = config.node.state_dir
    with lock_folder(folder):
        number = next(n for n in range(1, 1_000) if not (folder / f"{DATABASE}.damaged-{n}").exists())
        for suffix in ("-wal", "-shm", ""):
            path = folder / f"{DATABASE}{suffix}"
            if path.exists():
                os.rename(path, folder / f"{DATABASE}.damaged-{number}{suffix}")
    return f"it is kept as {DATABASE}.damaged-{number}; the node begins with an empty one"


def _clear(config: NodeConfig) -> str:
    with lock_folder(config.node.state_dir):
        removed = list(_removed(leftovers(config)))
    return f"removed {', '.join(removed)}"


def _removed(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        for inner in path.iterdir() if path.is_dir() else ():
            inner.unlink()
        path.rmdir() if path.is_dir() else path.unlink()
        yield path.name


REPAIRS: Mapping[str, Repair] = {
    "state folder": _make_folder,
    "key": _close_key,
    "database": _begin_anew,
    "leftovers": _clear,
}
"""By the check that it answers to."""
