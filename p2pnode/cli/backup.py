"""``p2pnode backup``: one file with what another machine needs to be this node."""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import bytes_shown, print_json, print_mapping

if TYPE_CHECKING:
    from p2pnode.backup import Manifest


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "backup",
        description="Write key, database and API keys to one file, while the node runs or not. Never the signer log, "
        "models or the configuration. Whoever has the file has the key: keep it as such.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a new file")
    parser.add_argument("--move", action="store_true", help="the node is to run elsewhere: it can start here no more")
    add_config_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Write it. Raises BackupError, StoreLocked, ConfigError."""
    from p2pnode.backup import write_backup

    print_manifest(write_backup(config_of(args), args.file, move=args.move), args)
    if not args.json and args.move:
        print(f"\nThe node starts here no more. On the other machine: p2pnode restore {args.file.name}")
    return 0


def print_manifest(manifest: "Manifest", args: argparse.Namespace) -> None:
    """What is in a backup."""
    if args.json:
        print_json({"file": str(args.file), **asdict(manifest)})
        return
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(manifest.made_s))
    print_mapping(
        {
            "node": manifest.node,
            "network": manifest.network_id[:16],
            "roles": ", ".join(manifest.roles),
            "made": made,
            "moved": "yes" if manifest.moved else "no",
            **{name: bytes_shown(size) for name, (size, _) in manifest.files.items()},
        }
    )
