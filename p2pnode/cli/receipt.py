"""``p2pnode receipt``: look at a receipt, fetch one, raise it to a higher level, take prompt and text out of it.

Whether it holds is for ``p2pnode verify`` to say.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.address import RouterAddress, parse_router_address
from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import paint, print_json, print_table, printable
from p2pnode.config import ConfigError, NodeConfig
from protocol.core.errors import P2PNodeError

if TYPE_CHECKING:
    from p2pnode.identity import NodeKey
    from p2pnode.refreshing import Refreshing
    from protocol.messages.receipts import Receipt


class NothingTold(P2PNodeError):
    """No node that was asked has anything to say of an answer."""

    code = "receipt/nothing-told"


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "receipt", description="Look at a receipt, raise it to a higher level, or take prompt and text out of it."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    show = actions.add_parser("show", help="what a receipt says; `p2pnode verify` tells whether that holds")
    show.add_argument("receipt", type=Path, metavar="RECEIPT")
    add_json_option(show)
    redact = actions.add_parser("redact", help="the same receipt without prompt and text: it proves as much")
    redact.add_argument("receipt", type=Path, metavar="RECEIPT")
    redact.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    refresh = actions.add_parser("refresh", help="ask nodes, and the chain, for what proves more of the answer")
    refresh.add_argument("receipt", type=Path, metavar="RECEIPT")
    refresh.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: in place")
    _add_nodes(refresh)
    refresh.add_argument("--rpc", action="append", metavar="URL", help="an endpoint of the network's chain")
    add_json_option(refresh)
    fetch = actions.add_parser("fetch", help="get the receipt of an order from a node that keeps it, for an hour")
    fetch.add_argument("session", metavar="SESSION", help="the session's id, all 64 digits")
    fetch.add_argument("task", type=int, nargs="?", default=1, metavar="ORDER", help="of the session (default 1)")
    fetch.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    _add_nodes(fetch)
    fetch.add_argument("--key", type=Path, metavar="FILE", help="the client's: without it prompt and text are left out")
    fetch.add_argument("--password-file", metavar="FILE", help="its first line is the key's password")


def _add_nodes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--router", action="append", metavar="ADDRESS", help="a router, or any other node, to be asked")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Do it. Raises P2PNodeError."""
    return {"show": _show, "redact": _redact, "refresh": _refresh, "fetch": _fetch}[args.action](args)


# A file


def _show(args: argparse.Namespace) -> int:
    from p2pnode.receipts import load_receipt
    from protocol.light.receipt.view import view

    receipt = load_receipt(args.receipt)
    if args.json:
        print_json(view(receipt))
        return 0
    print_table(["what", "it says"], [[name, printable(said)] for name, said in _rows(receipt)])
    print(paint("\nnothing of it was checked: p2pnode verify does that", "dim"))
    return 0


def _rows(receipt: "Receipt") -> list[tuple[str, str]]:
    from protocol.core.codec import pack
    from protocol.core.genesis import parse_genesis
    from protocol.light.receipt.verify import claimed_level
    from protocol.light.receipt.view import text_of

    genesis, order, end = parse_genesis(receipt.genesis), receipt.order, receipt.end
    miners = [f"0x{record.head.miner.hex()} from token {record.head.start_index}" for record in receipt.segments]
    usage = f"{end.prompt_tokens} of the prompt, {end.completion_tokens} of the answer, {end.reason.name.lower()}"
    rows = [
        ("level", f"{claimed_level(receipt).name.lower()}, as far as it claims"),
        ("network", f"{genesis.name}, {genesis.network_id().hex()[:16]}"),
        ("session", f"{order.session.hex()}, order {order.task}"),
        ("client", f"0x{receipt.session.opening.client.hex()}"),
        ("model", receipt.session.opening.model.hex()),
        *(("miner", miner) for miner in miners),
        ("tokens", usage),
        ("bytes", str(len(pack(receipt)))),
    ]
    if receipt.final is not None:
        header = receipt.final.certified.header
        if header is not None:
            rows.append(("final", f"epoch {header.epoch}, height {header.height}"))
    if receipt.prompt is None or receipt.tokens is None:
        return [*rows, ("form", "redacted: neither prompt nor text")]
    turns = [(turn.role, turn.content) for turn in receipt.prompt.messages]
    return [*rows, *turns, ("answer", text_of(receipt.tokens))]


def _redact(args: argparse.Namespace) -> int:
    from p2pnode.receipts import load_receipt, save_receipt
    from protocol.light.receipt.redact import redact

    save_receipt(args.output, redact(load_receipt(args.receipt)))
    print(f"{args.output}: neither prompt nor text is in it, and it proves the same answer")
    return 0


# Other nodes


def _nodes(args: argparse.Namespace, config: NodeConfig, *, needed: bool) -> Sequence[RouterAddress]:
    if args.router:
        return [parse_router_address(text) for text in args.router]
    if not config.network.bootstrap and needed:
        hint = "--router ADDRESS, as `p2pnode run` prints it, or network.bootstrap in a --config"
        raise ConfigError("no node is named that could be asked", hint=hint)
    return config.network.bootstrap


def _refresh(args: argparse.Namespace) -> int:
    import trio

    from p2pnode.receipts import load_receipt, save_receipt
    from p2pnode.refreshing import Refreshing
    from p2pnode.trust_store import own_trust
    from protocol.core.genesis import parse_genesis

    config, receipt = config_of(args), load_receipt(args.receipt)
    nodes = _nodes(args, config, needed=not args.rpc)
    store, genesis = own_trust(), parse_genesis(receipt.genesis)
    book = store.book(genesis, time.time_ns() // 1_000_000)
    told: list[str] = []
    refreshing = Refreshing(receipt, book, told.append)
    before = refreshing.level
    if before is None:
        hint = "p2pnode verify shows which link does not hold"
        raise NothingTold("the receipt is invalid, so nothing can raise it", hint=hint)
    trio.run(_ask, refreshing, nodes, args.rpc or config.chain.urls)
    if book.moved and store.load(genesis.network_id()) is not None:
        store.save(book.kept())  # of a network that only the receipt names nothing is kept
    after, output = refreshing.level, args.output or args.receipt
    if refreshing.receipt != receipt or args.output is not None:
        save_receipt(output, refreshing.receipt)
    if args.json:
        levels = {"before": before.name.lower(), "level": None if after is None else after.name.lower()}
        print_json({**levels, "answered": refreshing.answered, "told": told, "file": str(output)})
        return 0
    for line in told:
        print(paint(printable(line), "dim", sys.stderr), file=sys.stderr)
    if nodes and not refreshing.answered and refreshing.receipt == receipt:
        raise NothingTold("no node that was asked has anything to say of this answer", hint="name another --router")
    shown = before.name.lower() if after is None else after.name.lower()
    print(f"{output}: {shown}" + (f", was {before.name.lower()}" if after != before else ", as before"))
    return 0


async def _ask(refreshing: "Refreshing", nodes: Sequence[RouterAddress], rpc: Sequence[str]) -> None:
    from p2pnode.identity import NodeKey
    from p2pnode.transport.libp2p import Libp2pConfig, open_libp2p

    if nodes:
        async with open_libp2p(NodeKey.generate(), Libp2pConfig(listen=())) as transport:
            for address in nodes:
                await refreshing.ask(transport, address)
    if rpc:
        await refreshing.ask_chain(rpc)


def _fetch(args: argparse.Namespace) -> int:
    import trio

    from p2pnode.receipts import save_receipt

    config = config_of(args, {"keys.password_file": args.password_file})
    try:
        session = bytes.fromhex(args.session.removeprefix("0x"))
    except ValueError:
        session = b""
    if len(session) != 32 or not 0 <= args.task < 1 << 32:
        raise ConfigError("a session is named by 64 hexadecimal digits, an order by its number")
    nodes = _nodes(args, config, needed=True)
    receipt = trio.run(_fetched, nodes, session, args.task, _key(args, config))
    save_receipt(args.output, receipt)
    form = "without prompt and text" if receipt.tokens is None else "whole"
    print(f"{args.output}: the receipt, {form}; nothing of it was checked: p2pnode verify does that")
    return 0


def _key(args: argparse.Namespace, config: NodeConfig) -> "NodeKey":
    from p2pnode.identity import NodeKey, read_keystore

    return NodeKey.generate() if args.key is None else read_keystore(args.key, config.password())


async def _fetched(nodes: Sequence[RouterAddress], session: bytes, task: int, key: "NodeKey") -> "Receipt":
    from p2pnode.light_asker import NotTold, asking
    from p2pnode.refreshing import reached
    from p2pnode.transport.libp2p import Libp2pConfig, open_libp2p
    from p2pnode.transport.seam import TransportError

    failed: list[str] = []
    async with open_libp2p(key, Libp2pConfig(listen=())) as transport:
        for address in nodes:
            try:
                async with asking(transport, await reached(transport, address)) as asker:
                    return await asker.receipt(session, task)
            except (NotTold, TransportError) as error:
                failed.append(f"{address.multiaddr}: {error}")
    raise NothingTold(
        "; ".join(failed), hint="receipts are kept for an hour, by the router and the miner of the answer"
    )
