"""``p2pnode gateway``: the OpenAI API on this machine, over a light client that verifies every frame."""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.address import RouterAddress, parse_router_address
from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import paint
from p2pnode.cli.standing import keep_what_is_loaded, take_open_files
from p2pnode.config import ConfigError, NodeConfig
from p2pnode.telemetry.logs import set_up_logs

if TYPE_CHECKING:
    from p2pnode.gateway import Gateway, GatewayPlan
    from p2pnode.identity import NodeKey

LINE_EVERY_S = 0.5


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "gateway", description="Serve the OpenAI API on this machine; every answer is verified before it is passed on."
    )
    parser.add_argument(
        "--router",
        action="append",
        metavar="ADDRESS",
        help="as `p2pnode run` or `testnet up` prints it; up to four, each takes over from a lost one",
    )
    parser.add_argument(
        "--listen",
        action="append",
        metavar="HOST:PORT",
        help="where to serve (default 127.0.0.1:8080); may be repeated",
    )
    add_config_options(parser)
    parser.add_argument("--key", type=Path, metavar="FILE", help="the key whose balance pays (default: a new one)")
    parser.add_argument("--password-file", metavar="FILE", help="its first line is the key's password")
    parser.add_argument(
        "--rpc", action="append", metavar="URL", help="an endpoint of the network's chain: see there what is settled"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Raises MalformedAddress, TransportError, RequestFailed, ListenError."""
    config = config_of(args, {"keys.password_file": args.password_file, "http.listen": args.listen})
    routers = [parse_router_address(text) for text in args.router or ()] or list(config.network.bootstrap)
    if not routers:
        raise ConfigError(
            "no router is named",
            hint="--router ADDRESS, as `p2pnode run` prints it, or network.bootstrap in a --config",
        )
    # On a terminal a line there says what goes on: only what is wrong comes between.
    level = "warning" if sys.stderr.isatty() else config.node.log_level
    set_up_logs(level, config.telemetry.log_format, name="gateway")
    take_open_files()
    import trio

    trio.run(_serve, args, config, routers)
    return 0


async def _serve(args: argparse.Namespace, config: NodeConfig, routers: list[RouterAddress]) -> None:
    import trio

    from p2pnode.gateway import GatewayPlan, open_gateway
    from p2pnode.trust_store import own_trust

    key = await trio.to_thread.run_sync(_key, args, config)
    rpc = args.rpc or config.chain.urls
    plan = GatewayPlan(routers, config.http, config.node.state_dir, key, rpc, own_trust(), config.telemetry)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            asked = trio.Event()
            nursery.start_soon(_heed_signals, signals, asked, nursery.cancel_scope)
            with _Line() as line:
                line.draw(f"connecting to {_named(routers)} …")
                async with open_gateway(plan) as gateway:
                    line.draw("")
                    keep_what_is_loaded()
                    _announce(gateway, plan, args.json)
                    nursery.start_soon(line.follow, gateway)
                    await asked.wait()
                    line.report(f"finishing what runs, {config.node.stop_s} s at most; once more stops at once")
                    await gateway.drain(config.node.stop_s)
            nursery.cancel_scope.cancel()


async def _heed_signals(signals: Any, asked: Any, stop: Any) -> None:
    """The first asks for an orderly end, any other ends at once."""
    async for _ in signals:
        if asked.is_set():
            stop.cancel()
        asked.set()


def _key(args: argparse.Namespace, config: NodeConfig) -> "NodeKey | None":
    from p2pnode.identity import read_keystore

    return None if args.key is None else read_keystore(args.key, config.password())


def _named(routers: list[RouterAddress]) -> str:
    return "the router" if len(routers) == 1 else f"{len(routers)} routers"


def _announce(gateway: "Gateway", plan: "GatewayPlan", as_json: bool) -> None:
    if as_json:
        print(json.dumps(gateway.status()), flush=True)
        return
    from p2pnode.http_role import keys_needed

    urls = gateway.server.urls
    print(f"{paint('ready', 'green')}: the OpenAI API of network {gateway.net.genesis.name}, verified here")
    for url in urls:
        print(f"  base url {url}/v1")
    print(f"  models   {', '.join(gateway.status()['models']) or 'none yet'}")
    print(f"  {gateway.net.level_note}")
    key = "KEY  # made by: p2pnode api-key add NAME" if keys_needed(plan.section, plan.listen) else "none"
    print(f"\nuse it:  OPENAI_BASE_URL={urls[0]}/v1 OPENAI_API_KEY={key}\nstop it: Ctrl-C", flush=True)


class _Line:
    """One line on a terminal's stderr that says what goes on; elsewhere nothing."""

    def __init__(self) -> None:
        self._shows = sys.stderr.isatty()

    def __enter__(self) -> "_Line":
        return self

    def __exit__(self, *_: object) -> None:
        self.draw("")

    async def follow(self, gateway: "Gateway") -> None:
        """Draw it anew until cancelled."""
        import trio

        while self._shows:
            states = ", ".join(f"{router.state} {router.head}".strip() for router in gateway.net.routers)
            pool = gateway.service.pool
            busy = sum(held.busy for held in pool.open)
            self.draw(f"{busy} answers run, {pool.waiting} wait, {len(pool.open)} sessions open; routers: {states}")
            await trio.sleep(LINE_EVERY_S)

    def report(self, text: str) -> None:
        """Say something that stays, above the line; elsewhere nothing."""
        self.draw("")
        if self._shows:
            print(paint(text, "dim", sys.stderr), file=sys.stderr, flush=True)

    def draw(self, text: str) -> None:
        """Show this in place of what was there."""
        if self._shows:
            sys.stderr.write(f"\r\x1b[K{paint(text, 'dim', sys.stderr)}" if text else "\r\x1b[K")
            sys.stderr.flush()
