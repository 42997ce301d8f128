"""``p2pnode verify``: every link of a receipt, with its tick or the first that fails, and what it proves to its reader.

It needs no network, no model and no chain. Exit status: 0 verified to the level that the receipt claims, 3 nothing is
wrong but this reader cannot believe all of it, 1 a link does not hold.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.cli.options import add_json_option
from p2pnode.cli.output import ProgressLine, paint, print_json, print_table, printable
from p2pnode.config import load_config
from p2pnode.paths import home
from protocol.core.errors import P2PNodeError

if TYPE_CHECKING:
    from protocol.core.genesis import Genesis
    from protocol.light.receipt import Verdict
    from protocol.light.receipt.verdict import Checked

EXIT_VERIFIED, EXIT_INVALID, EXIT_NOT_ENOUGH_TRUST = 0, 1, 3
FLIPS_SAMPLED = 2_000
SHOWN_MAX = 10

NOT_SHOWN = (
    "that the text is what these tokens say: only whoever has the model can check that",
    "whether the answer is good, or true",
    "when it was given",
)
"""What no receipt can prove."""

_MARKS = {"holds": ("✓", "green"), "failed": ("✗", "red"), "untrusted": ("?", "yellow"), "skipped": ("-", "dim")}

Verify = Callable[[bytes], "Verdict"]


class NotRefused(P2PNodeError):
    """A changed receipt passed."""

    code = "receipt/not-refused"


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "verify",
        description="Check every link of a receipt. Offline it reaches *finalized* with a trusted committee, and "
        "*settled* where the receipt has the chain's proof; with --rpc the chain is asked. Whom it believes: --trust, "
        "--genesis, or what `p2pnode trust` and earlier answers of that network left here. Exit status: 0 verified, "
        "3 not enough trust, 1 invalid.",
    )
    parser.add_argument("receipt", type=Path, metavar="RECEIPT", help="a file of `p2pnode chat --receipt`")
    parser.add_argument(
        "--trust", action="append", metavar="STRING", help="believe this trust string (P2PNODE-TRUST:…)"
    )
    parser.add_argument("--genesis", type=Path, metavar="FILE", help="the network that is meant, by its genesis file")
    parser.add_argument("--rpc", action="append", metavar="URL", help="ask the network's chain what is settled")
    parser.add_argument(
        "--tamper",
        nargs="?",
        const="sample",
        choices=("sample", "all"),
        help="change every field, and a sample of the bits (or all), one at a time: each must be refused",
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Verify; exit status as the module says. Raises P2PNodeError."""
    from p2pnode.receipt_reading import Reading, asks_chain, genesis_in, read_file, reading_of
    from protocol.light.receipt import verify_receipt
    from protocol.light.trust import parse_trust

    data, now_ms = read_file(args.receipt), time.time_ns() // 1_000_000
    points, meant = [parse_trust(text) for text in args.trust or ()], _genesis(args.genesis)
    claimed, reading, accepted = genesis_in(data), Reading(None, None), None
    if claimed is not None:
        reading = reading_of(claimed, home(os.environ), now_ms, points=points, genesis=meant)
        accepted = asks_chain(claimed, args.rpc or ()) if reading.trust is not None else None

    def verify(changed: bytes) -> "Verdict":
        return verify_receipt(changed, reading.trust, network=reading.network, now_ms=now_ms, accepted=accepted)

    verdict = verify(data)
    tampered = None if args.tamper is None else _tamper(data, verdict, verify, args.tamper)
    if args.json:
        print_json({**verdict_json(verdict), **({} if tampered is None else {"tampered": tampered})})
    else:
        print_verdict(verdict)
        _print_tampered(tampered)
    return EXIT_INVALID if tampered is not None and tampered["not_refused"] else status_of(verdict)


def _genesis(named: Path | None) -> "Genesis | None":
    return None if named is None else load_config(overrides={"network.genesis": str(named)}).genesis()


def status_of(verdict: "Verdict") -> int:
    """The exit status of a verdict."""
    from protocol.light.receipt import Invalid, Verified

    if isinstance(verdict, Verified):
        return EXIT_VERIFIED
    return EXIT_INVALID if isinstance(verdict, Invalid) else EXIT_NOT_ENOUGH_TRUST


def print_verdict(verdict: "Verdict") -> None:
    """A line for each link, what failed with expected and actual, and the verdict."""
    from protocol.light.receipt import Invalid, Verified

    for checked in verdict.links:
        print(_line(checked))
    print()
    if isinstance(verdict, Verified):
        print(paint(f"verified: the answer is {verdict.level.name.lower()}", "green"))
    elif isinstance(verdict, Invalid):
        print(paint(printable(f"invalid at link {verdict.link}: {verdict.why}"), "red"))
        if verdict.expected or verdict.actual:
            print(printable(f"  expected: {verdict.expected}"))
            print(printable(f"  actual:   {verdict.actual}"))
        print("believe nothing in it: it was changed on the way, or whoever made it lied")
    else:
        print(paint(f"not enough trust: {verdict.level.name.lower()} is all that is shown to this reader", "yellow"))
        print(printable(f"  {verdict.link}: {verdict.why}"))
    print("\nwhat no receipt shows")
    for limit in NOT_SHOWN:
        print(f"- {limit}")


def _line(checked: "Checked") -> str:
    mark, style = _MARKS[checked.mark]
    return f"{paint(mark, style)} {checked.link:12}  {printable(checked.why)}"


def verdict_json(verdict: "Verdict") -> dict[str, Any]:
    """A verdict for machines."""
    from protocol.light.receipt import Invalid, Verified

    links = [{"link": checked.link, "mark": checked.mark, "why": checked.why} for checked in verdict.links]
    if isinstance(verdict, Verified):
        return {"verdict": "verified", "level": verdict.level.name.lower(), "links": links}
    told = {"link": verdict.link, "why": verdict.why}
    if isinstance(verdict, Invalid):
        compared = {"expected": verdict.expected, "actual": verdict.actual}
        return {"verdict": "invalid", **told, **compared, "links": links}
    return {"verdict": "not_enough_trust", "level": verdict.level.name.lower(), **told, "links": links}


# What a changed receipt comes to


def _tamper(data: bytes, before: "Verdict", verify: Verify, how: str) -> dict[str, Any]:
    """Change the receipt in every way there is, and count by which link each change was refused.

    Raises NotRefused for a receipt that does not hold itself.
    """
    from protocol.light.receipt import Invalid, Verified, read_receipt
    from protocol.light.receipt.altered import alterations, flips, refused

    if isinstance(before, Invalid):
        raise NotRefused("the receipt is invalid as it is", hint="verify it without --tamper")
    count = None if how == "all" else FLIPS_SAMPLED
    total = len(data) * 8 if count is None else count
    kinds: dict[str, Iterator[tuple[str, bytes]]] = {
        "fields": alterations(read_receipt(data)),
        "bits": flips(data, count),
    }
    changed: Counter[str] = Counter()
    by_link: Counter[str] = Counter()
    passed: list[str] = []
    with ProgressLine("changing one thing at a time", amount=str) as progress:
        for kind, changes in kinds.items():
            for name, other in changes:
                verdict = verify(other)
                changed[kind] += 1
                if refused(before, verdict):
                    by_link["lower level" if isinstance(verdict, Verified) else str(verdict.link)] += 1
                else:
                    passed.append(name)
                progress(changed["bits"], total)
    return {"changed": dict(changed), "refused_by": dict(by_link), "not_refused": passed}


def _print_tampered(tampered: dict[str, Any] | None) -> None:
    if tampered is None:
        return
    changed, passed = tampered["changed"], tampered["not_refused"]
    total = sum(changed.values())
    print(f"\nchanged: {changed['fields']} fields and {changed['bits']} bits, one at a time")
    print_table(["refused by", "changes"], [[link, str(count)] for link, count in tampered["refused_by"].items()])
    if not passed:
        print(paint(f"all {total} were refused", "green"))
        return
    print(paint(f"{len(passed)} of {total} were not refused", "red"))
    for name in passed[:SHOWN_MAX]:
        print(f"- {printable(name)}")
