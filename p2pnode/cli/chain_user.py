"""How a command comes to a network's chain with a key of its user's: the genesis, the endpoints, the journal."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.cli.options import add_config_options, add_json_option
from p2pnode.config import DEVNET, ConfigError, NodeConfig, load_config
from p2pnode.control import SOCKET, NoNodeRunning, ask_control
from p2pnode.paths import home

if TYPE_CHECKING:
    from chain.api import Chain
    from p2pnode.identity import NodeKey
    from protocol.core.genesis import Genesis

TIMEOUT_S = 600.0


def add_chain_user_options(parser: argparse.ArgumentParser) -> None:
    """The network, its chain, how long to wait."""
    parser.add_argument("--password-file", metavar="FILE", help="its first line is the key's password")
    parser.add_argument("--rpc", action="append", metavar="URL", help="an endpoint of the network's chain")
    parser.add_argument("--genesis", type=Path, metavar="FILE", help="the network's genesis file")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS", help="of each wait (600)")
    add_config_options(parser)
    add_json_option(parser)


@dataclass(frozen=True, slots=True)
class UserNetwork:
    """A network as a command's user names it."""

    genesis: "Genesis"
    urls: Sequence[str]
    ask: Callable[[str], dict[str, Any]] | None
    """The node that runs in the folder; None if none does."""
    confirmations: int

    def folder(self, name: str) -> Path:
        """Where something of this network is kept for the user, made if missing."""
        folder = home(os.environ) / name / self.genesis.network_id()[:4].hex()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def chain(self, key: "NodeKey | None") -> "Chain":
        """The chain, with the key that pays. Raises WrongChain, JournalError."""
        from p2pnode.chain_access import open_paying, open_reading

        if key is None:
            reading: Any = open_reading(self.genesis, self.urls, self.confirmations)
            chain: Chain = reading
            return chain
        journal = self.folder("wallet") / f"0x{key.node_id.hex()}.db"
        return open_paying(self.genesis, self.urls, key, journal, self.confirmations)


def network_of(args: argparse.Namespace, config: NodeConfig) -> UserNetwork:
    """By the options, the configuration, or the node that runs in the folder. Raises ConfigError, ControlError."""
    asked = _asked(config)
    genesis = _genesis(args.genesis, config, asked)
    urls = args.rpc or config.chain.urls or (asked or {}).get("urls", ())
    if genesis.contracts is None or not urls:
        raise ConfigError(
            "there is no chain: this network has no contracts" if genesis.contracts is None else "no chain is named",
            hint="--genesis FILE and --rpc URL, or the folder of a node that sees the chain: --state-dir FOLDER",
        )
    ask = None if asked is None else partial(ask_control, config.node.state_dir / SOCKET)
    return UserNetwork(genesis, urls, ask, config.chain.confirmations)


def _asked(config: NodeConfig) -> dict[str, Any] | None:
    """What the node in the folder says of its network; None if none runs there."""
    try:
        return ask_control(config.node.state_dir / SOCKET, "genesis")
    except NoNodeRunning:
        return None


def _genesis(named: Path | None, config: NodeConfig, asked: dict[str, Any] | None) -> "Genesis":
    from protocol.core.genesis import parse_genesis

    if named is not None:
        return load_config(overrides={"network.genesis": str(named)}).genesis()
    if config.network.genesis != DEVNET or asked is None:
        return config.genesis()
    return parse_genesis(asked["genesis"])
