"""``p2pnode peers``: whom the running node knows."""

import argparse
from typing import Any

from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import print_json, print_table, shown


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("peers", description="Whom the running node knows.")
    add_config_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the node and print a line per peer. Raises NoNodeRunning, ControlError, ConfigError."""
    from p2pnode.control import SOCKET, ask_control

    peers: list[dict[str, Any]] = ask_control(config_of(args).node.state_dir / SOCKET, "peers")["peers"]
    if args.json:
        print_json(peers)
    elif not peers:
        print("No peers yet. A node finds others through network.bootstrap, or when they dial it.")
    else:
        headers = list(dict.fromkeys(name for peer in peers for name in peer))
        print_table(headers, [[shown(peer.get(name, "")) for name in headers] for peer in peers])
    return 0
