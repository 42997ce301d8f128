"""The key of a node's folder, as its configuration names it."""

import trio

from p2pnode.config import NodeConfig
from p2pnode.identity import SCRYPT_N_TESTNET, NodeKey, create_key, read_keystore


async def load_key(config: NodeConfig) -> NodeKey:
    """The node key, made with its signer log at the first start. Raises KeystoreError, SignerLogError."""
    path, password = config.keys.keystore, config.password()
    if not path.exists():
        return await trio.to_thread.run_sync(lambda: create_key(path, password, scrypt_n=SCRYPT_N_TESTNET))
    return await trio.to_thread.run_sync(read_keystore, path, password)
