"""The options that commands share: the configuration, and JSON output."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from p2pnode.config import NodeConfig, load_config
from p2pnode.sections import LOCAL_CHAINS


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """``--config`` and ``--state-dir``."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="a configuration, such as configs/standalone.toml")
    parser.add_argument("--state-dir", metavar="FOLDER", help="the node's own folder (default: node/ in $P2PNODE_HOME)")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def add_chain_option(parser: argparse.ArgumentParser) -> None:
    """``--chain``: what a testnet settles on."""
    parser.add_argument(
        "--chain",
        choices=LOCAL_CHAINS,
        help="the chain that it settles on: anvil, embedded, none; auto: anvil where installed (default auto)",
    )


def config_of(args: argparse.Namespace, overrides: Mapping[str, object] | None = None) -> NodeConfig:
    """The configuration that the options and the environment give. Raises ConfigError.

    ``overrides`` are a command's own options: ``"section.key"`` to a TOML value; None is not given.
    """
    given = {"node.state_dir": args.state_dir, **(overrides or {})}
    return load_config(args.config, overrides={key: value for key, value in given.items() if value is not None})
