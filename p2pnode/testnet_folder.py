"""A testnet's folder: what its nodes are called, their keys, and the genesis that names them.

It stands beside the nodes' folders, as does the key of a client with a balance: a testnet that is started again in its
folder is the same network.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from p2pnode.identity import SCRYPT_N_TESTNET, NodeKey, create_key, read_keystore, write_keystore
from protocol.core.errors import ParameterError
from protocol.core.genesis import Genesis, parse_genesis
from protocol.core.ids import NodeId

GENESIS_FILE = "genesis.json"
KEYSTORE = "node-key.json"
CLIENT_KEYSTORE = "client.json"
"""The key of a client with a balance, beside the nodes' folders."""


@dataclass(frozen=True, slots=True)
class TestnetFolder:
    """See the module."""

    __test__ = False  # not a test, whatever pytest makes of the name
    path: Path
    password: str = ""
    """Of all keys."""

    def key(self, name: str) -> NodeKey:
        """A node's key, by what it is called; made if there is none."""
        return make_key(self.path / name, self.password)

    def node_ids(self, name: Callable[[int], str], count: int) -> tuple[NodeId, ...]:
        """Of the first so many nodes of a role."""
        return tuple(self.key(name(number)).node_id for number in range(1, count + 1))

    def client(self) -> NodeKey:
        """The client's key, made if there is none."""
        return client_key(self.path, self.password)

    def genesis(self) -> Genesis:
        """As it was written. Raises OSError, ParameterError."""
        return parse_genesis((self.path / GENESIS_FILE).read_text(encoding="utf-8"))

    def earlier(self, made: Genesis) -> Genesis | None:
        """The folder's network, if it is the same but for its miners, as those that came later have to be tested, and
        for its contracts and when they were made, which were not there yet."""
        with suppress(OSError, ParameterError, UnicodeDecodeError):
            earlier = self.genesis()
            without = replace(earlier, miners=made.miners, contracts=made.contracts)
            if replace(without, founded_s=made.founded_s) == made:
                return earlier
        return None

    def write(self, genesis: Genesis) -> str:
        """Write the genesis; gives where."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / GENESIS_FILE).write_text(genesis.to_json(), encoding="utf-8")
        return str(self.path / GENESIS_FILE)


def oracle_name(number: int) -> str:
    """Of the oracles, from 1; also the name of its folder."""
    return f"oracle-{number}"


def router_name(number: int) -> str:
    """Of the routers, from 1; also the name of its folder."""
    return "router" if number == 1 else f"router-{number}"


def miner_name(number: int) -> str:
    """Of the miners, from 1; also the name of its folder."""
    return f"miner-{number}"


def client_key(folder: Path, password: str = "") -> NodeKey:
    """The key of a testnet's client, made if there is none. It is no node's: nothing that it signs needs a log."""
    path = folder / CLIENT_KEYSTORE
    if not path.exists():
        write_keystore(path, NodeKey.generate(), password, scrypt_n=SCRYPT_N_TESTNET)
    return read_keystore(path, password)


def make_key(folder: Path, password: str = "") -> NodeKey:
    """The key of a node that is to work in a folder, made with its signer log if there is none."""
    path = folder / KEYSTORE
    return read_keystore(path, password) if path.exists() else create_key(path, password, scrypt_n=SCRYPT_N_TESTNET)
