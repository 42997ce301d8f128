"""``p2pnode run``: run a node until it is stopped."""

import argparse
import json
import logging
import signal
import sys
from typing import Any

from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import paint
from p2pnode.cli.standing import keep_what_is_loaded, take_open_files
from p2pnode.config import NodeConfig
from p2pnode.telemetry.logs import set_up_logs

log = logging.getLogger(__name__)


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run", description="Run a node: router and miner in one with the shipped model, unless told otherwise."
    )
    add_config_options(parser)
    add_json_option(parser)
    parser.add_argument("--role", action="append", metavar="ROLE", help="router, miner or oracle; may be repeated")
    parser.add_argument("--genesis", metavar="FILE", help="the network's genesis file (default: the built-in devnet)")
    parser.add_argument("--listen", action="append", metavar="ADDRESS", help="where to listen; may be given twice")
    parser.add_argument("--bootstrap", action="append", metavar="ADDRESS", help="a node to join the network by")
    parser.add_argument("--model", metavar="MODEL", help="name, digest or path of the model a miner serves")
    parser.add_argument("--slots", type=int, metavar="N", help="answers a miner generates at the same time")
    parser.add_argument("--http", action="append", metavar="HOST:PORT", help="where a router serves the OpenAI API")
    # A testnet's child ends with its parent: when its standard input closes.
    parser.add_argument("--as-child", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run until SIGINT or SIGTERM. Raises what :func:`p2pnode.node.open_node` raises."""
    overrides = {
        "node.roles": args.role,
        "network.genesis": args.genesis,
        "network.listen": args.listen,
        "network.bootstrap": args.bootstrap,
        "miner.model": args.model,
        "miner.slots": args.slots,
        "http.listen": args.http,
    }
    config = config_of(args, overrides)
    config.require_runnable()
    set_up_logs(config.node.log_level, config.telemetry.log_format, name=config.node.name)
    take_open_files()
    import trio

    trio.run(_serve, config, args.json, args.as_child)
    return 0


async def _serve(config: NodeConfig, as_json: bool, as_child: bool) -> None:
    import trio

    from p2pnode.node import open_node

    def progress(what: str) -> None:
        if sys.stderr.isatty():
            print(paint(f"{what} …", "dim", sys.stderr), file=sys.stderr)

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            stop, started, asked = nursery.cancel_scope, trio.Event(), trio.Event()
            nursery.start_soon(_heed_signals, signals, started, asked, stop)
            if as_child:
                nursery.start_soon(_stop_on_end_of_input, stop)
            async with open_node(config, progress=progress) as node:
                keep_what_is_loaded()
                _announce(node.status(), as_json)
                started.set()
                await asked.wait()
                log.info("stopping; what runs has %d s", config.node.stop_s)
                progress(f"finishing what runs, {config.node.stop_s} s at most; once more stops at once")
                left = await node.ending.finish(config.node.stop_s)
                if left:
                    log.warning(
                        "stopped with %d sessions or results unfinished: others, or the next start, go on", left
                    )
            stop.cancel()


async def _heed_signals(signals: Any, started: Any, asked: Any, stop: Any) -> None:
    """The first asks for an orderly end, any other ends at once; so does the first of a node that is only starting."""
    async for _ in signals:
        if asked.is_set() or not started.is_set():
            stop.cancel()
        asked.set()


async def _stop_on_end_of_input(stop: Any) -> None:
    import trio

    async with trio.lowlevel.FdStream(0) as standard_input:
        async for _ in standard_input:
            pass
    stop.cancel()


def _announce(status: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(status), flush=True)
        return
    roles = " and ".join(status["roles"])
    print(f"{paint('ready', 'green')}: {roles} {status['node']} on network {status['network']}")
    if "oracle" in status:
        oracle = status["oracle"]
        print(f"  oracle   epoch {oracle['epoch']}, height {oracle['height']}, signing: {oracle['signing']}")
    for model in status["models"]:
        print(f"  model    {model['name']} ({model['slots']} slots)")
    for address in status["addresses"]:
        print(f"  address  {address}")
    for url in status.get("http", {}).get("urls", ()):
        print(f"  http     {url}/v1")
    if "router" in status["roles"]:
        print(f"\nask it:  p2pnode chat --router '{status['addresses'][0]}'\nstop it: Ctrl-C", flush=True)
