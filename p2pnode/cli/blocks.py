"""``p2pnode blocks``: the last blocks of the chain, from the oracle that runs here and from its disk."""

import argparse
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from p2pnode.cli.committee import seconds
from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import paint, print_json, print_table, shown
from p2pnode.config import NodeConfig

LAST = 20
LAST_MAX = 100_000
POLL_S = 0.2

HEADERS = ("block", "leader", "outcomes", "body", "final", "gap")
WIDTHS = (10, 42, 8, 5, 12, 7)
"""Of the columns while following: a table cannot know what is to come."""

Row = dict[str, Any]


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "blocks", description="The last blocks that became final, from the running oracle and from its disk."
    )
    parser.add_argument("--last", type=_count, default=LAST, metavar="N", help=f"how many (default {LAST})")
    parser.add_argument("--follow", action="store_true", help="go on with each that becomes final, until Ctrl-C")
    add_config_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print the blocks. Raises NoNodeRunning, ControlError, StoreError, ConfigError."""
    config = config_of(args)
    if args.follow:
        _follow(config, args.last, as_json=args.json)
        return 0
    rows = _last(config, args.last)
    if args.json:
        print_json(rows)
    elif rows:
        print_table(HEADERS, [_cells(row) for row in rows])
    else:
        print("No block is final yet.")
    return 0


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= LAST_MAX:
        raise ValueError
    return number


def _last(config: NodeConfig, count: int) -> list[Row]:
    """The newest: from the running node, as it alone knows their times, and older ones from its disk."""
    from p2pnode.control import NoNodeRunning

    folder = config.node.state_dir
    try:
        recent = _ask(folder)
    except NoNodeRunning:
        recent = []
        older = _stored(config, count)
    else:
        older = _stored(config, count) if len(recent) < count else []
    merged = {_slot(row): row for row in (*older, *recent)}
    return [merged[slot] for slot in sorted(merged)][len(merged) - min(count, len(merged)) :]


def _ask(folder: Path) -> list[Row]:
    from p2pnode.control import SOCKET, ask_control

    rows: list[Row] = ask_control(folder / SOCKET, "blocks")["blocks"]
    return rows


def _stored(config: NodeConfig, count: int) -> list[Row]:
    from p2pnode.stored_chain import stored_rows

    return stored_rows(config.node.state_dir, count)


def _follow(config: NodeConfig, count: int, *, as_json: bool) -> None:
    rows, seen = _last(config, count), (0, 0)
    if not as_json:
        print(paint(_line([header.upper() for header in HEADERS]), "bold"), flush=True)
    while True:
        for row in rows:
            if _slot(row) > seen:
                seen = _slot(row)
                print(json.dumps(row) if as_json else _line(_cells(row)), flush=True)
        time.sleep(POLL_S)
        rows = _ask(config.node.state_dir)


def _slot(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["epoch"], row["height"]


def _cells(row: Row) -> list[str]:
    final = "-"
    if row["final_ms"] is not None:
        final = datetime.fromtimestamp(row["final_ms"] / 1_000, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    gap = "-" if row["gap_ms"] is None else seconds(row["gap_ms"])
    body = "empty" if row["empty"] else "full"
    return [f"{row['epoch']}/{row['height']}", shown(row["leader"]), str(row["outcomes"]), body, final, gap]


def _line(cells: list[str]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()
