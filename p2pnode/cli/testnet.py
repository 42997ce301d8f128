"""``p2pnode testnet up``: a network on this machine until Ctrl-C."""

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from p2pnode.cli.options import add_chain_option, add_json_option
from p2pnode.cli.output import paint, print_json, print_table
from p2pnode.config import DEVNET, NodeConfig, load_config

if TYPE_CHECKING:
    from chain.localchain import Kind
    from p2pnode.testnet import Testnet
    from p2pnode.testnet_chain import ChainPlan

LINE_EVERY_S = 0.5
HTTP = "127.0.0.1:0"


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("testnet", description="A network on this machine.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    up = actions.add_parser("up", help="start routers, miners and oracles, each a process, until Ctrl-C")
    up.add_argument("--config", type=Path, metavar="FILE", help="settings of all nodes, such as configs/testnet.toml")
    up.add_argument("--miners", type=int, metavar="N", help="how many miners (default 3)")
    up.add_argument("--routers", type=int, metavar="N", help="how many routers (default 1)")
    up.add_argument("--oracles", type=int, metavar="N", help="how many oracles: 0, 4, 7, 10 or 13 (default 4)")
    up.add_argument("--model", metavar="MODEL", help="what the miners serve (default tiny)")
    up.add_argument("--slots", type=int, metavar="N", help="slots of each miner (default 4)")
    up.add_argument(
        "--http", metavar="HOST:PORT", help=f"where the first router serves HTTP (default {HTTP}: any port)"
    )
    add_chain_option(up)
    up.add_argument("--folder", type=Path, metavar="FOLDER", help="where the nodes live (default: a new temporary one)")
    add_json_option(up)


def run(args: argparse.Namespace) -> int:
    """Run the testnet until SIGINT or SIGTERM. Raises TestnetError, ConfigError."""
    given = {
        "testnet.miners": args.miners,
        "testnet.routers": args.routers,
        "testnet.oracles": args.oracles,
        "miner.model": args.model,
        "miner.slots": args.slots,
        "testnet.chain": args.chain,
        "http.listen": args.http and [args.http],
    }
    config = load_config(args.config, overrides={key: value for key, value in given.items() if value is not None})
    if args.folder is None and args.config is not None:
        args.folder = config.node.state_dir
    folder = args.folder or Path(tempfile.mkdtemp(prefix="p2pnode-testnet-"))
    import trio

    trio.run(_up, args, config, folder.absolute())
    return 0


def chain_plan(kind: str, oracles: int) -> "ChainPlan | None":
    """The chain that a testnet is started with; none where nobody would settle."""
    if kind == "none" or not oracles:
        return None
    from p2pnode.testnet_chain import ChainPlan

    return ChainPlan(cast("Kind", kind))  # the configuration has checked it


async def _up(args: argparse.Namespace, config: NodeConfig, folder: Path) -> None:
    import trio

    from p2pnode.testnet import TestnetPlan, open_testnet

    plan = TestnetPlan(
        folder,
        config.testnet.miners,
        config.miner.model,
        config.miner.slots,
        args.config,
        config.testnet.routers,
        oracles=config.testnet.oracles,
        genesis=None if config.network.genesis == DEVNET else config.genesis(),
        password=config.password(),
        price_wei=config.miner.price_wei or 1,
        chain=chain_plan(config.testnet.chain, config.testnet.oracles),
        inbox=config.router.inbox,
        http=(config.http.listen or (HTTP,))[0],
    )
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, signals, nursery.cancel_scope)
            nodes = f"{plan.routers} router(s), {plan.miners} miners and {plan.oracles} oracles"
            starting = f"starting {nodes} in {folder} …"
            print(paint(starting, "dim", sys.stderr), file=sys.stderr)
            async with open_testnet(plan) as testnet:
                statuses = testnet.statuses()
                if args.json:
                    rows: dict[str, Any] = {child.name: {**status, "log": str(child.log)} for child, status in statuses}
                    print_json({**rows, **_chain_row(testnet)})
                else:
                    _print(testnet, statuses)
                sys.stdout.flush()
                with _HeightLine(testnet) as line:
                    nursery.start_soon(line.run)
                    await testnet.watch(line.report)
    print(paint("the testnet is down; its logs stay in " + str(folder), "dim", sys.stderr), file=sys.stderr)


class _HeightLine:
    """One line on a terminal that says how far the committee is; elsewhere nothing."""

    def __init__(self, testnet: Any) -> None:
        self._testnet = testnet
        self._shows = bool(testnet.plan.oracles) and sys.stderr.isatty()

    def __enter__(self) -> "_HeightLine":
        return self

    def __exit__(self, *_: object) -> None:
        self._draw("")

    async def run(self) -> None:
        """Draw it anew until cancelled."""
        import trio

        while self._shows:
            committee = await trio.to_thread.run_sync(self._testnet.committee)
            if committee is not None:
                final, leader = committee["final"], self._testnet.name_of(committee["leader"])
                up = sum(member["link"] != "down" for member in committee["members"])
                at = f"epoch {committee['epoch']}, height {final['height']} final"
                self._draw(f"{at}, {leader} leads the next; {up} of {len(committee['members'])} oracles there")
            await trio.sleep(LINE_EVERY_S)

    def report(self, text: str) -> None:
        """Print something that stays, above the line."""
        self._draw("")
        print(text, file=sys.stderr, flush=True)

    def _draw(self, text: str) -> None:
        if self._shows:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


async def _stop_on_signal(signals: Any, stop: Any) -> None:
    async for _ in signals:
        stop.cancel()
        return


def _chain_row(testnet: "Testnet") -> dict[str, Any]:
    chain = testnet.chain
    return {} if chain is None else {"chain": {"kind": chain.kind, "url": chain.url, "chain_id": chain.chain_id}}


def _print(testnet: "Testnet", statuses: Any) -> None:
    client, chain, rows = testnet.client_keystore, testnet.chain, []
    for child, status in statuses:
        slots = str(status.get("miner", {}).get("slots", "-"))
        height = str(status.get("oracle", {}).get("height", "-"))
        peers = str(status.get("peers", "?"))
        rows.append([child.name, status.get("node", "?")[:12], peers, slots, height, str(child.log)])
    print_table(["node", "id", "peers", "slots", "height", "log"], rows)
    print()
    for address in testnet.addresses:
        print(f"router:  {address}")
    for url in testnet.http_urls:
        print(f"http:    {url}/v1   (the OpenAI API; no key is needed on this machine)")
    if chain is not None:
        print(f"chain:   {chain.kind} at {chain.url}, chain id {chain.chain_id}")
    paying = [] if client is None else [f"--key {client}"]
    paying += [] if chain is None else [f"--rpc {chain.url}"]
    print(" ".join(["ask it:  p2pnode chat", *(f"--router '{address}'" for address in testnet.addresses), *paying]))
    oracle = next((child for child, status in statuses if "oracle" in status), None)
    if oracle is not None:
        print(f"watch:   p2pnode committee --state-dir {oracle.folder}   (or: p2pnode blocks --follow)")
        print(f"money:   p2pnode ledger account {client} --state-dir {oracle.folder}")
    print("stop it: Ctrl-C")
