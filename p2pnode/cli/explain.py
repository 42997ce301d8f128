"""``p2pnode explain``: who might bid in a session, who was picked and why, recomputed from the signed papers."""

import argparse
import os
from itertools import groupby
from pathlib import Path
from typing import Any

from p2pnode.cli.options import add_json_option
from p2pnode.cli.output import paint, print_json, print_table
from p2pnode.paths import home
from p2pnode.session_records import NoBids, load_bids, load_record
from protocol.core.errors import P2PNodeError, RemoteProtocolError
from protocol.session.lottery import DRAW_RANGE
from protocol.session.record import (
    BidFate,
    ExplainedAssignment,
    ExplainedBid,
    ExplainedSegment,
    Explanation,
    JudgedBid,
    explain,
    judge_bid,
)

NOT_KNOWN = (
    "how many miners there were, and who else won the lottery: the pool is the router's word, and who it did not hear "
    "or did not countersign is nowhere",
    "whether those ranked above the picked miner were busy, silent or lost, as the router says",
    "whether what the router measured is honest: it is published, and weighs at most 30 % of a score",
    "whether what miners state of their speed and load is true",
    "prompt and text: the record has neither, nor the frames; their signatures were checked when the text was shown",
)
"""What rests on somebody's word, or is in no record."""


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "explain", description="Check a session's papers again and tell who was picked, and why."
    )
    parser.add_argument("session", nargs="?", default="last", help="first digits of a session id, a file, or last")
    parser.add_argument(
        "--bid", type=Path, metavar="FILE", help="a miner's countersigned bids (`p2pnode bids`): was one left out?"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Explain; exit status 1 if a router left out a bid. Raises UnknownSession, NoBids, RemoteProtocolError."""
    record = load_record(home(os.environ) / "sessions", args.session)
    bids = load_bids(args.bid).bids if args.bid is not None else ()
    try:
        explanation = explain(record)
    except P2PNodeError as error:
        hint = "trust nothing in it: it was changed on the way, or whoever made it lied"
        raise RemoteProtocolError(f"the record does not hold: {error}", hint=hint) from error
    try:
        judged = [judge_bid(record, signed) for signed in bids]
    except RemoteProtocolError as error:
        raise NoBids(f"{args.bid} proves nothing: {error}", hint="bids and record are of one session") from error
    if args.json:
        print_json({**_as_json(explanation), "bids": [_judged_json(item) for item in judged]})
    else:
        _print(explanation)
        for item in judged:
            print("\n" + paint(_told(item), "red" if item.fate is BidFate.LEFT_OUT else "green"))
    return 1 if any(item.fate is BidFate.LEFT_OUT for item in judged) else 0


def _print(explanation: Explanation) -> None:
    print(f"session {explanation.session.hex()} on network {explanation.genesis.name}; every signature holds")
    for explained in explanation.assignments:
        assignment = explained.assignment
        print(f"\nassignment {assignment.number} by router 0x{assignment.router.hex()}")
        print(_eligible(explained))
        print_table(
            [
                "rank",
                "miner",
                "draw",
                "position",
                "price",
                "free",
                "tokens/s",
                "first ms",
                "public",
                "measured",
                "score",
            ],
            [_row(bid) for bid in explained.bids],
        )
        print(f"picked: 0x{assignment.miners[0].hex()}, {_place(explained)}; lease {assignment.generations[0].hex()}")
    _print_segments(explanation)
    print("\nwhat these papers cannot show")
    for limit in NOT_KNOWN:
        print(f"- {limit}")


def _eligible(explained: ExplainedAssignment) -> str:
    announcement = explained.announcement
    who = "everyone" if explained.threshold == DRAW_RANGE else f"whoever drew below {_share(explained.threshold)}"
    return f"eligible: {who}; announced to a pool of {announcement.pool}, widened {announcement.widening} times"


def _share(draw: int) -> str:
    """A draw as a part of all possible ones; rounded down, so that what is below a threshold never looks above it."""
    parts = draw * 1_000_000 // DRAW_RANGE
    return f"{parts // 10_000}.{parts % 10_000:04d} %"


def _row(row: ExplainedBid) -> list[str]:
    bid = row.bid
    figures = (bid.price_wei, f"{bid.slots_free}/{bid.slots_total}", bid.tokens_per_second, bid.first_token_ms)
    scores = (row.public_bp, row.measured_bp, row.score_bp)
    start = [str(row.rank + 1), bid.miner.hex()[:12], _share(row.draw), str(row.position)]
    return [*start, *map(str, figures), *map(str, scores)]


def _place(explained: ExplainedAssignment) -> str:
    if explained.rank == 0:
        return "the better of the two drawn by the session id"
    return f"rank {explained.rank + 1}: those above were busy, silent or lost"


def _print_segments(explanation: Explanation) -> None:
    if not explanation.segments:
        print("\nno segment was verified: the session answered nothing")
        return
    print("\nsegments, each written under the lease of the assignment named")
    rows = []
    by_lane = sorted(explanation.segments, key=_lane)
    for (task, lane), segments in groupby(by_lane, key=_lane):
        following = list(segments)
        for segment, after in zip(following, [*following[1:], None], strict=True):
            rows.append([str(task), str(lane), _span(segment, after), *_writer(segment)])
    print_table(["task", "lane", "tokens", "assignment", "miner"], rows)


def _lane(segment: ExplainedSegment) -> tuple[int, int]:
    return segment.head.task, segment.head.lane


def _span(segment: ExplainedSegment, after: ExplainedSegment | None) -> str:
    first = segment.head.start_index
    if after is None:
        return f"{first} to the end"
    return f"{first} to {after.head.start_index - 1}" if after.head.start_index > first else "none"


def _writer(segment: ExplainedSegment) -> tuple[str, str]:
    return str(segment.assignment), "0x" + segment.head.miner.hex()


def _told(item: JudgedBid) -> str:
    miner, router = item.bid.miner.hex(), item.router.hex()
    what = f"the bid of 0x{miner}, which router 0x{router} countersigned at position {item.receipt.position},"
    return f"{what} {item.fate.value}"


def _judged_json(item: JudgedBid) -> dict[str, Any]:
    return {
        "miner": "0x" + item.bid.miner.hex(),
        "router": "0x" + item.router.hex(),
        "position": item.receipt.position,
        "fate": item.fate.name.lower(),
    }


def _as_json(explanation: Explanation) -> dict[str, Any]:
    return {
        "session": explanation.session.hex(),
        "network": explanation.genesis.network_id().hex(),
        "assignments": [_assignment_json(item) for item in explanation.assignments],
        "segments": [
            {
                "task": item.head.task,
                "lane": item.head.lane,
                "start_index": item.head.start_index,
                "miner": "0x" + item.head.miner.hex(),
                "assignment": item.assignment,
                "lease": item.head.generation.hex(),
            }
            for item in explanation.segments
        ],
        "not_known": list(NOT_KNOWN),
    }


def _assignment_json(item: ExplainedAssignment) -> dict[str, Any]:
    """One assignment; draws and threshold in hex, since they are larger than what many JSON readers hold."""
    return {
        "number": item.assignment.number,
        "router": "0x" + item.assignment.router.hex(),
        "miner": "0x" + item.assignment.miners[0].hex(),
        "lease": item.assignment.generations[0].hex(),
        "rank": item.rank,
        "pool": item.announcement.pool,
        "widening": item.announcement.widening,
        "announced_ms": item.announcement.issued_ms,
        "threshold": hex(item.threshold),
        "bids": [_bid_json(row) for row in item.bids],
    }


def _bid_json(row: ExplainedBid) -> dict[str, Any]:
    bid, seen = row.bid, row.measurement
    return {
        "miner": "0x" + bid.miner.hex(),
        "draw": hex(row.draw),
        "position": row.position,
        "price_wei": bid.price_wei,
        "slots_free": bid.slots_free,
        "slots_total": bid.slots_total,
        "tokens_per_second": bid.tokens_per_second,
        "first_token_ms": bid.first_token_ms,
        "measured": None
        if seen is None
        else {
            "tasks": seen.tasks,
            "tokens_per_second": seen.tokens_per_second,
            "first_token_ms": seen.first_token_ms,
            "success_bp": seen.success_bp,
        },
        "public_bp": row.public_bp,
        "measured_bp": row.measured_bp,
        "score_bp": row.score_bp,
        "rank": row.rank,
    }
