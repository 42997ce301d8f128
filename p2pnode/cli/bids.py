"""``p2pnode bids``: what this miner bid on, each bid with the router's receipt, for a proof if one was left out.

They are read from the node's store, so it makes no difference whether the node runs.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import print_json, print_table
from p2pnode.records import stored_bids
from p2pnode.session_records import NoBids
from p2pnode.store import read_store
from protocol.core.codec import pack
from protocol.core.errors import RemoteProtocolError
from protocol.core.signing import Domain
from protocol.messages.sessions import Bid, BidReceipt, CountersignedBid
from protocol.roles.miner.bidding import BID_RECORDS
from protocol.session.record import KeptBids, open_countersigned


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bids", description="What this miner bid on, with the routers' receipts; the newest last."
    )
    parser.add_argument("session", nargs="?", default="", metavar="SESSION", help="first digits of a session id")
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="write one session's bids, for `p2pnode explain SESSION --bid FILE`"
    )
    add_config_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """List or export. Raises StoreError, NoBids, ConfigError."""
    config = config_of(args)
    folder = config.node.state_dir
    kept, _ = stored_bids(read_store(folder, BID_RECORDS))
    opened = list(_opened(config.genesis().domain(), kept.values()))
    if len(opened) < len(kept):
        print(f"{len(kept) - len(opened)} more are of another network: --config names its genesis", file=sys.stderr)
    found = [row for row in opened if row[1].session.hex().startswith(args.session.lower().removeprefix("0x"))]
    if args.session and not found:
        raise NoBids(
            f"no countersigned bid on session {args.session[:64]!r} is kept in {folder}",
            hint="`p2pnode bids` lists those that are; the newest 512 are kept",
        )
    if args.export is not None:
        _export(args.export, [signed for signed, *_ in found], {bid.session for _, bid, *_ in found})
    rows = [_row(bid, receipt, router) for _, bid, receipt, router in found]
    if args.json:
        print_json(rows)
    elif args.export is not None:
        session = found[0][1].session.hex()
        print(f"{len(found)} countersigned on session {session}: {args.export}")
        print(f"whoever holds the session's record: p2pnode explain {session[:12]} --bid {args.export}")
    elif not rows:
        print("No router has countersigned a bid of this node yet.")
    else:
        print_table(list(rows[0]), [[_short(name, value) for name, value in row.items()] for row in rows])
    return 0


def _opened(
    domain: Domain, kept: Iterable[CountersignedBid]
) -> Iterator[tuple[CountersignedBid, Bid, BidReceipt, bytes]]:
    """Those of the domain's network: what was signed in another is signed by nobody here."""
    for signed in kept:
        with suppress(RemoteProtocolError):
            yield signed, *open_countersigned(domain, signed)


def _export(path: Path, bids: list[CountersignedBid], sessions: set[bytes]) -> None:
    if len(sessions) != 1:
        raise NoBids(
            f"one session's bids go into a file; these are of {len(sessions)}", hint="name the session: bids SESSION"
        )
    path.write_bytes(pack(KeptBids(tuple(bids))))


def _row(bid: Bid, receipt: BidReceipt, router: bytes) -> dict[str, Any]:
    when = datetime.fromtimestamp(bid.issued_ms / 1_000, UTC)
    return {
        "session": bid.session.hex(),
        "router": "0x" + router.hex(),
        "position": receipt.position,
        "price_wei": bid.price_wei,
        "when": when.isoformat(timespec="seconds"),
    }


def _short(name: str, value: object) -> str:
    return str(value)[:16] if name == "session" else str(value)
