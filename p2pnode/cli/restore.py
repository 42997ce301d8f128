"""``p2pnode restore``: a node from its backup, into a folder where there is none."""

import argparse
from pathlib import Path
from typing import Any

from p2pnode.cli.backup import print_manifest
from p2pnode.cli.options import add_config_options, add_json_option, config_of


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "restore",
        description="Put the node of a backup into the state folder, which must have none. The network's genesis file "
        "and the configuration come from you.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what `p2pnode backup` wrote")
    parser.add_argument(
        "--replaces",
        action="store_true",
        help="of an oracle's backup that is no move: the old node is stopped for good; two of them would be slashed",
    )
    add_config_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Restore it. Raises BackupError, StoreLocked, ConfigError."""
    from p2pnode.backup import restore_backup

    config = config_of(args)
    manifest = restore_backup(config, args.file, replaces=args.replaces)
    print_manifest(manifest, args)
    if not args.json:
        print(f"\nThe node is in {config.node.state_dir}; start it with `p2pnode run`.")
        if manifest.signs:
            print("Its signer log is in no backup: it follows the committee, and signs again two epochs later.")
    return 0
