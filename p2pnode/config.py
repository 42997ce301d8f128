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

from p2pnode.address import MalformedAddress
from p2pnode.located_toml import ConfigError, LocatedToml, read_toml
from p2pnode.paths import home
from p2pnode.sections import (
    DEVNET,
    ChainSection,
    HttpSection,
    KeysSection,
    MinerSection,
    NetworkSection,
    NodeSection,
    OracleSection,
    RouterSection,
    TelemetrySection,
    TestnetSection,
)
from p2pnode.setting import UNSET, nearest
from protocol.core.errors import ParameterError

if TYPE_CHECKING:
    # Only a node needs it, and its imports cost as much as everything else here.
    from protocol.core.genesis import Genesis

__all__ = ["DEVNET", "ConfigError", "NodeConfig", "load_config"]

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The checked configuration of one process. Made by :func:`load_config`; every path is absolute."""

    node: NodeSection = field(default_factory=NodeSection)
    network: NetworkSection = field(default_factory=NetworkSection)
    keys: KeysSection = field(default_factory=KeysSection)
    miner: MinerSection = field(default_factory=MinerSection)
    router: RouterSection = field(default_factory=RouterSection)
    http: HttpSection = field(default_factory=HttpSection)
    telemetry: TelemetrySection = field(default_factory=TelemetrySection)
    oracle: OracleSection = field(default_factory=OracleSection)
    chain: ChainSection = field(default_factory=ChainSection)
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
        return "" if self.keys.password_file is None else _first_line(self.keys.password_file, "keys.password_file")

    def chain_password(self, env: Mapping[str, str] = os.environ) -> str:
        """The password of the keystore that pays for transactions. Raises ConfigError for an unreadable file."""
        if self.chain.key is None or self.chain.key_password_file is None:
            return self.password(env)
        return _first_line(self.chain.key_password_file, "chain.key_password_file")

    def require_runnable(self) -> None:
        """Refuse roles that this network has no use for. Raises ConfigError."""
        if "oracle" in self.node.roles and not self.genesis().committee:
            raise ConfigError(
                f"role oracle needs a network with a committee, and the genesis {self.network.genesis} names none",
                code="config/no-committee",
                hint="set network.genesis to the file of a network with oracles; `p2pnode testnet up` makes one",
            )
        if "router" in self.node.roles and self.router.inbox and not self._sees_chain():
            raise ConfigError(
                "router.inbox needs a network with contracts, and a chain to look at",
                code="config/no-chain",
                hint="set network.genesis to the file of such a network, and [chain] urls",
            )

    def _sees_chain(self) -> bool:
        return self.genesis().contracts is not None and bool(self.chain.urls) and self.chain.enabled


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


def _first_line(path: Path, key: str) -> str:
    """Of a file that holds a password. Raises ConfigError."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(4096).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the password file {path}: {error}", hint=f"correct {key}, or set P2PNODE_PASSWORD"
        ) from error


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
