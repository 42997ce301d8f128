"""What an operator may set, where it comes from, and every check on it before a node starts.

A value comes from the command line, else from ``P2PNODE_<SECTION>_<KEY>`` in the environment, else from the file,
else it is the default. Unknown keys and bad values are refused with their place and the nearest valid key, so a
typing error never silently means the default. What all nodes of a network must agree on is no configuration: it is in
the genesis file.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from p2pnode.address import MalformedAddress, RouterAddress, parse_router_address
from p2pnode.located_toml import ConfigError, LocatedToml, read_toml
from p2pnode.paths import home
from p2pnode.setting import (
    UNSET,
    account,
    announced_address,
    each,
    each_as,
    flag,
    listen_address,
    name_or_path,
    nearest,
    number,
    number_of,
    one_of,
    path,
    setting,
    text,
)
from protocol.core.errors import ParameterError
from protocol.core.ids import NodeId

if TYPE_CHECKING:
    # Only a node needs it, and its imports cost as much as everything else here.
    from protocol.core.genesis import Genesis

__all__ = ["DEVNET", "ConfigError", "NodeConfig", "load_config"]

DEVNET = "devnet"
"""The name of the built-in network: default parameters, no chain."""

ROLES = ("router", "miner", "oracle")
LOG_LEVELS = ("debug", "info", "warning", "error")

S = TypeVar("S")


_GENESIS = name_or_path(is_path=lambda name: name != DEVNET)
_MODEL = name_or_path(is_path=lambda name: name.startswith((".", "/", "~")) or name.endswith(".gguf"))


@dataclass(frozen=True, slots=True)
class NodeSection:
    """``[node]``: what this process is."""

    roles: tuple[str, ...] = field(
        default=("router", "miner"),
        metadata=setting(
            each(one_of(ROLES), "roles"), "What the node does: router, miner, oracle. An empty list is a light client."
        ),
    )
    state_dir: Path = field(
        default=UNSET,
        metadata=setting(path, "The node's own folder: key, database, control socket. Empty: node/ in $P2PNODE_HOME."),
    )
    models_dir: Path = field(
        default=UNSET,
        metadata=setting(path, "Model files, shared by all nodes of a user. Empty: models/ in $P2PNODE_HOME."),
    )
    name: str = field(
        default="p2pnode",
        metadata=setting(text(64), "What the node is called in its own logs and tables; never sent anywhere."),
    )
    log_level: str = field(default="info", metadata=setting(one_of(LOG_LEVELS), "debug, info, warning or error."))


@dataclass(frozen=True, slots=True)
class NetworkSection:
    """``[network]``: which network, and how it is reached."""

    genesis: str = field(
        default=DEVNET,
        metadata=setting(_GENESIS, "The network's genesis file, or devnet, the built-in one for trying out."),
    )
    listen: tuple[str, ...] = field(
        default=("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"),
        metadata=setting(
            each(listen_address, "addresses"),
            "Addresses to listen on. Port 0 takes a free one; 0.0.0.0 lets other machines in; /ws is for browsers.",
        ),
    )
    announce: tuple[str, ...] = field(
        default=(),
        metadata=setting(
            each(announced_address, "addresses"),
            "Addresses to tell others instead, when they reach this node by another way.",
        ),
    )
    bootstrap: tuple[RouterAddress, ...] = field(
        default=(),
        metadata=setting(
            each(parse_router_address, "addresses"),
            "Addresses of nodes to join the network by. Empty: this node is the first.",
        ),
    )
    mdns: bool = field(
        default=False,
        metadata=setting(flag, "Find nodes on the local network without bootstrap; needs pip install 'p2pnode[mdns]'."),
    )
    connections_max: int = field(
        default=128, metadata=setting(number(4, 800), "Connections held at most; three file descriptors each.")
    )


@dataclass(frozen=True, slots=True)
class KeysSection:
    """``[keys]``: the node key."""

    keystore: Path = field(
        default=UNSET,
        metadata=setting(path, "The node key's file (Web3 keystore v3). Empty: node-key.json in state_dir."),
    )
    password_file: Path | None = field(
        default=None,
        metadata=setting(
            path, "A file whose first line is the keystore's password. Empty: $P2PNODE_PASSWORD, else no password."
        ),
    )


@dataclass(frozen=True, slots=True)
class MinerSection:
    """``[miner]``: what is served and on what terms."""

    model: str = field(
        default="tiny",
        metadata=setting(_MODEL, "Name, digest or path of the model served; `p2pnode model list` shows them."),
    )
    slots: int = field(
        default=4,
        metadata=setting(
            number(1, 256),
            "Answers generated at the same time; where there are oracles one more is kept for their tests.",
        ),
    )
    threads: int = field(
        default=0, metadata=setting(number(0, 1024), "CPU threads of the engine. 0: half of the cores, at least one.")
    )
    context_tokens: int = field(
        default=0,
        metadata=setting(
            number(0, 1 << 20),
            "Prompt and answer of one slot together, at most. 0: what the model was trained for, up to 4096.",
        ),
    )
    price_wei: int = field(
        default=0,
        metadata=setting(number(0, 2**63 - 1), "Asked per token of an answer; 0 is 1 on a testnet with oracles."),
    )
    gpu_layers: int = field(
        default=0, metadata=setting(number(0, 1024), "Layers of the model kept on the GPU; 0: none.")
    )
    owner: NodeId | None = field(
        default=None,
        metadata=setting(account, "The account that is paid for answers, as 0x.... Empty: this node's own."),
    )
    tokens_per_second: int = field(
        default=0,
        metadata=setting(
            number(0, 1_000_000), "Claimed for one stream; who is tested much slower is not let in. 0: nothing."
        ),
    )


@dataclass(frozen=True, slots=True)
class RouterSection:
    """``[router]``: how much this machine takes on; never more than the network's parameters allow."""

    sessions_max: int = field(
        default=0, metadata=setting(number(0, 65_536), "Sessions held at once. 0: as many as the network allows.")
    )
    queue_requests_max: int = field(
        default=0, metadata=setting(number(0, 65_536), "Requests that wait at once. 0: as many as the network allows.")
    )


@dataclass(frozen=True, slots=True)
class OracleSection:
    """``[oracle]``: what miners are tested with."""

    models: tuple[str, ...] = field(
        default=(),
        metadata=setting(
            each_as(_MODEL, "models"),
            "Models whose miners this oracle tests, each loaded only while it does; of others it says nothing.",
        ),
    )
    threads: int = field(
        default=1, metadata=setting(number(0, 1024), "CPU threads of a test's engine. 0: half of the cores.")
    )
    gpu_layers: int = field(
        default=0, metadata=setting(number(0, 1024), "Layers of a tested model kept on the GPU; 0: none.")
    )


@dataclass(frozen=True, slots=True)
class TestnetSection:
    """``[testnet]``: what `p2pnode testnet up` starts."""

    routers: int = field(default=1, metadata=setting(number(1, 4), "Routers, each a process of its own."))
    miners: int = field(default=3, metadata=setting(number(1, 16), "Miners, each a process of its own."))
    oracles: int = field(
        default=4,
        metadata=setting(
            number_of((0, 4, 7, 10, 13)), "Oracles, each a process of its own: 0, 4, 7, 10 or 13. 0: no committee."
        ),
    )


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The checked configuration of one process. Made by :func:`load_config`; every path is absolute."""

    node: NodeSection = field(default_factory=NodeSection)
    network: NetworkSection = field(default_factory=NetworkSection)
    keys: KeysSection = field(default_factory=KeysSection)
    miner: MinerSection = field(default_factory=MinerSection)
    router: RouterSection = field(default_factory=RouterSection)
    oracle: OracleSection = field(default_factory=OracleSection)
    testnet: TestnetSection = field(default_factory=TestnetSection)

    def genesis(self) -> "Genesis":
        """The network's genesis. Raises ConfigError if its file cannot be read."""
        from protocol.core.genesis import GENESIS_BYTES_MAX, Genesis, parse_genesis

        if self.network.genesis == DEVNET:
            return Genesis(DEVNET)
        try:
            with Path(self.network.genesis).open(encoding="utf-8") as file:
                return parse_genesis(file.read(GENESIS_BYTES_MAX + 1))
        except (OSError, UnicodeDecodeError, ParameterError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(
                f"cannot use the genesis {self.network.genesis}: {what}",
                hint=f'ask whoever runs the network for its genesis file, or use genesis = "{DEVNET}"',
            ) from error

    def password(self, env: Mapping[str, str] = os.environ) -> str:
        """The keystore's password; empty if none is set. Raises ConfigError for a file that cannot be read."""
        if "P2PNODE_PASSWORD" in env:
            return env["P2PNODE_PASSWORD"]
        if self.keys.password_file is None:
            return ""
        try:
            with self.keys.password_file.open(encoding="utf-8") as file:
                return file.readline(4096).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"cannot read the password file {self.keys.password_file}: {error}",
                hint="correct keys.password_file, or set P2PNODE_PASSWORD",
            ) from error

    def require_runnable(self) -> None:
        """Refuse roles that this network has no use for. Raises ConfigError."""
        if "oracle" in self.node.roles and not self.genesis().committee:
            raise ConfigError(
                f"role oracle needs a network with a committee, and the genesis {self.network.genesis} names none",
                code="config/no-committee",
                hint="set network.genesis to the file of a network with oracles; `p2pnode testnet up` makes one",
            )


def load_config(
    source: Path | None = None, *, overrides: Mapping[str, object] | None = None, env: Mapping[str, str] = os.environ
) -> NodeConfig:
    """The configuration from a file (None: none), the environment and ``overrides`` (``"section.key"`` → TOML value).

    Raises ConfigError naming the place of the first value that cannot be used.
    """
    given: dict[tuple[str, str], tuple[object, Path, Callable[[], str]]] = {}
    here = Path.cwd()
    if source is not None:
        file = read_toml(source)
        for section, key, value in _checked_keys(file):
            given[section, key] = (value, source.parent.absolute(), partial(file.place, section, key))
    for (section, key), (value, name) in _from_environment(env).items():
        given[section, key] = (value, here, partial(str, f"environment variable {name}"))
    for dotted, value in (overrides or {}).items():
        section, _, key = dotted.partition(".")
        given[section, key] = (value, here, partial(str, "command line"))

    def read(section: str, cls: type[S]) -> S:
        values = {}
        for item in fields(cls):  # type: ignore[arg-type]
            if (section, item.name) not in given:
                continue
            value, folder, place = given[section, item.name]
            try:
                values[item.name] = item.metadata["check"](value, folder)
            except (ValueError, MalformedAddress) as error:
                raise ConfigError(
                    f"{place()}: {section}.{item.name} = {_shown(value)}: {error}",
                    hint=getattr(error, "hint", None) or item.metadata["doc"],
                ) from error
        return cls(**{name: value for name, value in values.items() if value is not None})

    config = NodeConfig(**{name: read(name, cls) for name, cls in _sections().items()})
    config = _resolved(config, home(env))
    for address in config.network.bootstrap:
        if address.network is not None and address.network != config.genesis().network_id():
            raise ConfigError(
                f"network.bootstrap: {address} belongs to another network than the genesis {config.network.genesis}",
                hint="use the genesis file of that network, or an address of this one",
            )
    return config


def _sections() -> dict[str, Any]:
    return {item.name: item.default_factory for item in fields(NodeConfig)}


def _resolved(config: NodeConfig, root: Path) -> NodeConfig:
    """Fill in the paths that follow from others."""
    node = config.node
    state_dir = root / "node" if node.state_dir == UNSET else node.state_dir
    models_dir = root / "models" if node.models_dir == UNSET else node.models_dir
    keystore = state_dir / "node-key.json" if config.keys.keystore == UNSET else config.keys.keystore
    return replace(
        config,
        node=replace(node, state_dir=state_dir, models_dir=models_dir),
        keys=replace(config.keys, keystore=keystore),
    )


def _checked_keys(file: LocatedToml) -> list[tuple[str, str, object]]:
    """Every value of a file; unknown sections and keys are refused."""
    sections, found = _sections(), []
    for section, entries in file.sections.items():
        if section not in sections:
            place, near = file.place(section), nearest(section, tuple(sections))
            raise ConfigError(f"{place}: unknown section [{section}]{near}", hint=f"sections are {', '.join(sections)}")
        known = tuple(item.name for item in fields(sections[section]))
        for key, value in entries.items():
            if key not in known:
                elsewhere = [name for name, cls in sections.items() if key in {item.name for item in fields(cls)}]
                near = f"; it belongs into [{elsewhere[0]}]" if elsewhere else nearest(key, known)
                place = file.place(section, key)
                raise ConfigError(
                    f"{place}: unknown key {key} in [{section}]{near}", hint=f"keys are {', '.join(known)}"
                )
            found.append((section, key, value))
    return found


def _from_environment(env: Mapping[str, str]) -> dict[tuple[str, str], tuple[object, str]]:
    """``P2PNODE_<SECTION>_<KEY>``, read by the type of the default; lists are separated by commas."""
    found: dict[tuple[str, str], tuple[object, str]] = {}
    for section, cls in _sections().items():
        prefix = f"P2PNODE_{section.upper()}_"
        known = {prefix + item.name.upper(): item for item in fields(cls)}
        for name in sorted(name for name in env if name.startswith(prefix)):
            if name not in known:
                raise ConfigError(
                    f"unknown environment variable {name}{nearest(name, tuple(known))}",
                    hint=f"known are {', '.join(known)}",
                )
            found[section, known[name].name] = (_typed(env[name], known[name].default), name)
    return found


def _typed(raw: str, default: object) -> object:
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(raw.lower(), raw)
    if isinstance(default, int):
        return int(raw) if raw.isdecimal() and len(raw) < 20 else raw
    if isinstance(default, tuple):
        return [item.strip() for item in raw.split(",") if item.strip()]
    return raw


def _shown(value: object) -> str:
    return f"{value!r:.60}"
