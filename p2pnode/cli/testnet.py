"""``p2pnode testnet up``: a network on this machine until Ctrl-C."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from p2pnode.cli.options import add_json_option
from p2pnode.cli.output import paint, print_json, print_table
from p2pnode.config import NodeConfig, load_config


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("testnet", description="A network on this machine.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    up = actions.add_parser("up", help="start routers and miners, each a process of its own, until Ctrl-C")
    up.add_argument("--config", type=Path, metavar="FILE", help="settings of all nodes, such as configs/testnet.toml")
    up.add_argument("--miners", type=int, metavar="N", help="how many miners (default 3)")
    up.add_argument("--routers", type=int, metavar="N", help="how many routers (default 1)")
    up.add_argument("--model", metavar="MODEL", help="what the miners serve (default tiny)")
    up.add_argument("--slots", type=int, metavar="N", help="slots of each miner (default 4)")
    up.add_argument("--folder", type=Path, metavar="FOLDER", help="where the nodes live (default: a new temporary one)")
    add_json_option(up)


def run(args: argparse.Namespace) -> int:
    """Run the testnet until SIGINT or SIGTERM. Raises TestnetError, ConfigError."""
    given = {
        "testnet.miners": args.miners,
        "testnet.routers": args.routers,
        "miner.model": args.model,
        "miner.slots": args.slots,
    }
    config = load_config(args.config, overrides={key: value for key, value in given.items() if value is not None})
    if args.folder is None and args.config is not None:
        args.folder = config.node.state_dir
    folder = args.folder or Path(tempfile.mkdtemp(prefix="p2pnode-testnet-"))
    import trio

    trio.run(_up, args, config, folder.absolute())
    return 0


async def _up(args: argparse.Namespace, config: NodeConfig, folder: Path) -> None:
    import trio

    from p2pnode.testnet import TestnetPlan, open_testnet

    miners, routers = config.testnet.miners, config.testnet.routers
    plan = TestnetPlan(folder, miners, config.miner.model, config.miner.slots, args.config, routers)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, signals, nursery.cancel_scope)
            starting = f"starting {plan.routers} router(s) and {plan.miners} miners in {folder} …"
            print(paint(starting, "dim", sys.stderr), file=sys.stderr)
            async with open_testnet(plan) as testnet:
                statuses = testnet.statuses()
                if args.json:
                    print_json({child.name: {**status, "log": str(child.log)} for child, status in statuses})
                else:
                    _print(testnet.addresses, statuses)
                sys.stdout.flush()
                await testnet.watch(partial(print, file=sys.stderr, flush=True))
    print(paint("the testnet is down; its logs stay in " + str(folder), "dim", sys.stderr), file=sys.stderr)


async def _stop_on_signal(signals: Any, stop: Any) -> None:
    async for _ in signals:
        stop.cancel()
        return


def _print(addresses: Sequence[str], statuses: Any) -> None:
    rows = []
    for child, status in statuses:
        slots = str(status.get("miner", {}).get("slots", "-"))
        rows.append([child.name, status.get("node", "?")[:12], str(status.get("peers", "?")), slots, str(child.log)])
    print_table(["node", "id", "peers", "slots", "log"], rows)
    print()
    for address in addresses:
        print(f"router:  {address}")
    print("ask it:  p2pnode chat " + " ".join(f"--router '{address}'" for address in addresses))
    print("stop it: Ctrl-C")
