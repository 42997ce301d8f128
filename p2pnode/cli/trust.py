"""``p2pnode trust``: whose word about a network's committees this user takes.

A trust string names one committee, and fits into a QR code. Whoever runs a node, or has followed the network, shows
one; whoever comes anew, or was away for too long, adds it, and follows the committees from there on by itself.
"""

import argparse
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import paint, print_json, print_mapping, print_table
from p2pnode.config import ConfigError, load_config
from protocol.core.errors import P2PNodeError

if TYPE_CHECKING:
    from p2pnode.trust_store import TrustStore
    from protocol.core.genesis import Genesis
    from protocol.light.trust import TrustPoint
    from protocol.light.trust_book import KeptTrust, LightBook

CLOCK_AHEAD_S = 3_600
"""So far ahead another clock may be."""


class TrustError(P2PNodeError):
    """Nothing is known that could be shown, or a string that cannot be believed."""

    code = "trust/failed"


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "trust", description="Whose word about a network's committees this user takes."
    )
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="show a trust string, for others to add")
    show.add_argument("network", nargs="?", metavar="NETWORK", help="its first digits, where several are known")
    show.add_argument("--genesis", type=Path, metavar="FILE", help="the first committee, as this genesis file names it")
    add_config_options(show)
    add = actions.add_parser("add", help="believe a trust string, or a genesis file")
    add.add_argument("string", nargs="?", metavar="STRING", help="as `p2pnode trust show` shows it")
    add.add_argument("--genesis", type=Path, metavar="FILE", help="the network's genesis file")
    add.add_argument(
        "--rpc", action="append", metavar="URL", help="the committee that the contract names, by the chain's endpoints"
    )
    add.add_argument("--replace", action="store_true", help="forget what was known of its network")
    listed = actions.add_parser("list", help="the networks that are known, and how far")
    for action in (show, add, listed):
        add_json_option(action)
    show.epilog = "With --config or --state-dir: of the node that runs there. Else what this user knows."


def run(args: argparse.Namespace) -> int:
    """Do it. Raises TrustError, MalformedTrust, TrustContradicted, TrustUnreadable, ChainError, ControlError,
    ConfigError."""
    from p2pnode.trust_store import own_trust

    return {"show": _show, "add": _add, "list": _list}[args.action](args, own_trust())


# Show


def _show(args: argparse.Namespace, store: "TrustStore") -> int:
    from protocol.light.trust import show_trust

    if args.genesis is not None:
        genesis = _genesis(args.genesis)
        point = store.book(genesis, None).trust.point(1)
    elif args.config is not None or args.state_dir is not None:
        genesis, point = _of_node(args)
    else:
        genesis, book = _of_store(args.network, store)
        point = book.trust.point()
    if point is None:
        raise TrustError("no committee is known that could be shown", hint="a network without oracles has none")
    shown = {"string": show_trust(point), **_described(genesis, point)}
    if args.json:
        print_json(shown)
        return 0
    print(shown.pop("string"))
    print_mapping(shown)
    return 0


def _of_node(args: argparse.Namespace) -> "tuple[Genesis, TrustPoint | None]":
    from p2pnode.control import SOCKET, ask_control
    from p2pnode.hand_over_answers import present_point
    from protocol.core.genesis import parse_genesis

    ask = partial(ask_control, config_of(args).node.state_dir / SOCKET)
    genesis = parse_genesis(ask("genesis")["genesis"])
    return genesis, present_point(genesis, ask, _now_ms())


def _of_store(wanted: str | None, store: "TrustStore") -> "tuple[Genesis, LightBook]":
    from p2pnode.trust_store import genesis_of

    found = [kept for kept in store.networks() if kept.network_id.hex().startswith((wanted or "").lower())]
    if len(found) != 1:
        known = ", ".join(kept.network_id.hex()[:16] for kept in found) or "none"
        raise TrustError(
            f"name one network; known here and fitting: {known}",
            hint="p2pnode trust show NETWORK, or --genesis FILE, or --state-dir of a node that runs here",
        )
    genesis = genesis_of(found[0])
    if genesis is None:
        raise TrustError("of this network only a trust string is known yet", hint=f"it is: {found[0].points[-1]}")
    return genesis, store.book(genesis, _now_ms())


def _described(genesis: "Genesis", point: "TrustPoint") -> dict[str, Any]:
    ages = genesis.contracts is not None and point.time_s
    until_s = point.time_s + genesis.params.trust_period_ms // 1_000
    return {
        "network": f"{point.network_id.hex()} ({genesis.name})",
        "epoch": point.epoch,
        "as_of": _date(point.time_s),
        "believed_until": _date(until_s) if ages else "for good",
    }


# Add


def _add(args: argparse.Namespace, store: "TrustStore") -> int:
    from protocol.light.trust import parse_trust

    if args.string is None and args.genesis is None and not args.rpc:
        raise TrustError("there is nothing to add", hint="p2pnode trust add STRING, or --genesis FILE, or --rpc URL")
    genesis = _genesis(args.genesis) if args.genesis is not None else None
    if args.string is None and not args.rpc:
        assert genesis is not None
        kept = store.add_genesis(genesis, replace=args.replace)
    else:
        if args.string is not None:
            point = parse_trust(args.string)
        else:
            genesis = genesis or _of_store(None, store)[0]
            point = _of_chain(genesis, args.rpc)
        if point.time_s > time.time() + CLOCK_AHEAD_S:
            raise TrustError(
                f"the trust string is of a time to come: {_date(point.time_s)}",
                hint="set this machine's clock, or ask whoever showed it to set theirs",
            )
        kept = store.add(point, genesis, replace=args.replace)
    row = _row(kept, store)
    if args.json:
        print_json(row)
    else:
        print_mapping(row)
    return 0


def _of_chain(genesis: "Genesis", urls: list[str]) -> "TrustPoint":
    from p2pnode.chain_access import open_reading
    from protocol.light.trust import TrustPoint

    if genesis.contracts is None:
        raise TrustError("this network settles on no chain", hint="ask somebody whom you believe for a trust string")
    named = open_reading(genesis, urls).committee()
    return TrustPoint(genesis.network_id(), genesis.chain_id, named.epoch, named.root, named.time_s)


def _genesis(path: Path) -> "Genesis":
    if not path.is_file():
        raise ConfigError(f"there is no genesis file {path}", hint="name the file that the network's nodes run with")
    return load_config(overrides={"network.genesis": str(path)}).genesis()


# List


def _list(args: argparse.Namespace, store: "TrustStore") -> int:
    rows = [_row(kept, store) for kept in store.networks()]
    if args.json:
        print_json(rows)
    elif not rows:
        print("No network is known. `p2pnode chat` keeps what it learns; `p2pnode trust add` adds a trust string.")
    else:
        print_table(list(rows[0]), [[_cell(name, row[name]) for name in row] for row in rows])
    return 0


def _row(kept: "KeptTrust", store: "TrustStore") -> dict[str, Any]:
    from p2pnode.trust_store import genesis_of
    from protocol.light.trust import parse_trust

    genesis = genesis_of(kept)
    network = kept.network_id.hex()
    if genesis is None:
        point = parse_trust(kept.points[-1])
        named, state = _date(point.time_s), "its members are not known yet"
        return {"network": network, "name": "?", "epoch": point.epoch, "named": named, "until": "?", "state": state}
    trust = store.book(genesis, _now_ms()).trust
    epoch = max(trust.epoch, trust.wanted + 1) if trust.wanted != trust.epoch else trust.epoch
    until_s = trust.until_s(epoch)
    return {
        "network": network,
        "name": genesis.name,
        "epoch": epoch,
        "named": _date(trust.since_s(epoch)),
        "until": "for good" if until_s is None else _date(until_s),
        "state": "too old: add a fresh trust string" if trust.expired(epoch) else "believed",
    }


def _cell(name: str, value: Any) -> str:
    if name == "network":
        return str(value)[:16]
    return paint(str(value), "red") if str(value).startswith("too old") else str(value)


def _date(time_s: int) -> str:
    if not time_s:
        return "unknown"
    try:
        return datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{time_s} s"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
