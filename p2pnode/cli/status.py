"""``p2pnode status``: how the running node is doing."""

import argparse
from typing import Any

from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import print_json, print_mapping


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("status", description="How the running node is doing.")
    add_config_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the node and print what it says. Raises NoNodeRunning, ControlError, ConfigError."""
    from p2pnode.control import SOCKET, ask_control

    status = ask_control(config_of(args).node.state_dir / SOCKET, "status")
    if args.json:
        print_json(status)
    else:
        print_mapping(status)
    return 0
