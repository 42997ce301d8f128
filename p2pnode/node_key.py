"""The key of a node's folder, as its configuration names it."""

from pathlib import Path

import trio

from p2pnode.config import NodeConfig
from p2pnode.identity import SCRYPT_N_TESTNET, KeystoreError, NodeKey, create_key, read_keystore


class KeyMoved(KeystoreError):
    """The key was moved to another machine: two nodes that run with one key sign twice."""

    code = "identity/moved"


async def load_key(config: NodeConfig) -> NodeKey:
    """The node key, made with its signer log at the first start. Raises KeystoreError, SignerLogError."""
    path, password = config.keys.keystore, config.password()
    if is_sealed(path):
        raise KeyMoved(
            f"the key {path} was moved to another machine",
            hint=f"run it there, or move it back in the same way; if that backup is nowhere restored, delete "
            f"{seal_path(path)}",
        )
    if not path.exists():
        return await trio.to_thread.run_sync(lambda: create_key(path, password, scrypt_n=SCRYPT_N_TESTNET))
    return await trio.to_thread.run_sync(read_keystore, path, password)


def seal_path(keystore: Path) -> Path:
    """The file that says of a key that it was moved."""
    return keystore.with_name(f"{keystore.name}.moved")


def is_sealed(keystore: Path) -> bool:
    """Whether a key was moved to another machine, by ``p2pnode backup --move``."""
    return seal_path(keystore).exists()
