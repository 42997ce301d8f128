"""``p2pnode explain``: who was picked in a session and why, recomputed from the signed bids."""

import argparse
import os
from pathlib import Path
from typing import Any

from p2pnode.cli.options import add_json_option
from p2pnode.cli.output import paint, print_json, print_table
from p2pnode.paths import home
from p2pnode.records import load_record
from protocol.core.codec import unpack
from protocol.messages.sessions import CountersignedBid
from protocol.session.record import ExplainedAssignment, ExplainedBid, Explanation, explain, find_omission

BID_BYTES_MAX = 16_384


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "explain", description="Check a session's papers again and tell who was picked, and why."
    )
    parser.add_argument("session", nargs="?", default="last", help="first digits of a session id, a file, or last")
    parser.add_argument("--bid", type=Path, metavar="FILE", help="a countersigned bid: was it left out?")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Explain; exit status 1 if the router left out the bid. Raises UnknownSession, RemoteProtocolError."""
    record = load_record(home(os.environ) / "sessions", args.session)
    explanation = explain(record)
    omission = None
    if args.bid is not None:
        bid = unpack(CountersignedBid, args.bid.read_bytes()[: BID_BYTES_MAX + 1], limit_bytes=BID_BYTES_MAX)
        omission = find_omission(record, bid)
    if args.json:
        print_json({**_as_json(explanation), "omission": omission})
    else:
        _print(explanation)
        if args.bid is not None:
            print(paint(omission, "red") if omission else "the bid is in the bid set, where its receipt says")
    return 1 if omission else 0


def _print(explanation: Explanation) -> None:
    print(f"session {explanation.session.hex()} on network {explanation.genesis.name}; every signature holds")
    for explained in explanation.assignments:
        assignment = explained.assignment
        print(f"\nassignment {assignment.number} by router 0x{assignment.router.hex()}")
        print_table(
            ["rank", "miner", "position", "price", "free", "tokens/s", "first ms", "public", "measured", "score"],
            [_row(bid) for bid in explained.bids],
        )
        print(f"picked: 0x{assignment.miners[0].hex()}, {_place(explained)}; lease {assignment.generations[0].hex()}")
    if explanation.heads:
        print("\nsegments verified")
        rows = [[str(h.task), str(h.lane), str(h.start_index), "0x" + h.miner.hex()] for h in explanation.heads]
        print_table(["task", "lane", "from token", "miner"], rows)


def _row(row: ExplainedBid) -> list[str]:
    bid = row.bid
    figures = (bid.price_wei, f"{bid.slots_free}/{bid.slots_total}", bid.tokens_per_second, bid.first_token_ms)
    scores = (row.public_bp, row.measured_bp, row.score_bp)
    return [str(row.rank + 1), bid.miner.hex()[:12], str(row.position), *map(str, figures), *map(str, scores)]


def _place(explained: ExplainedAssignment) -> str:
    if explained.rank == 0:
        return "the better of the two drawn by the session id"
    return f"rank {explained.rank + 1}: those above were busy, silent or lost"


def _as_json(explanation: Explanation) -> dict[str, Any]:
    return {
        "session": explanation.session.hex(),
        "network": explanation.genesis.network_id().hex(),
        "assignments": [
            {
                "number": item.assignment.number,
                "router": "0x" + item.assignment.router.hex(),
                "miner": "0x" + item.assignment.miners[0].hex(),
                "rank": item.rank,
                "bids": [
                    {
                        "miner": "0x" + row.bid.miner.hex(),
                        "position": row.position,
                        "public_bp": row.public_bp,
                        "measured_bp": row.measured_bp,
                        "score_bp": row.score_bp,
                        "rank": row.rank,
                    }
                    for row in item.bids
                ],
            }
            for item in explanation.assignments
        ],
        "segments": [
            {"task": head.task, "lane": head.lane, "start_index": head.start_index, "miner": "0x" + head.miner.hex()}
            for head in explanation.heads
        ],
    }
