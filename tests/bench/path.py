"""What a network adds to an engine: ``python -m tests.bench path [--http] [--rivals] [--real] [--json]``.

The engine is the fake (20 ms to the first token, 5 ms for each), so whatever is measured beyond that is ours.
*In process* consumes it in this process; *p2pnode* is light client → router → miner, each a process of its own, over
libp2p with everything on: noise, signed orders, signed frames checked by router and client, signed acks. Sessions are
warm. Every stream has a connection and a session of its own. *Direct* is the same session with the frames coming
straight from the miner.

``--http`` adds our own HTTP surface, of the router and of a gateway, and the same engine spoken to over HTTP.
``--rivals`` puts LiteLLM's proxy, Ray Serve and vllm-router beside it, before that engine, installed by the bench
itself (tests/bench/rivals.py). ``--real`` puts llama.cpp in the place of the fake: the shipped model, and the
94 MB one of the engine bench beside llama.cpp's own server spoken to directly (``--llama-server``).

All take turns within each repetition, in the opposite order each time, so that a busy machine hits them alike; the
first repetition is thrown away. Bytes on the wire are TCP payload at the clients' sockets, both directions.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from p2pnode.engine.fake import FakeEngine
from tests.bench import path_real
from tests.bench.fake_miner import TOKEN_S, fake_config
from tests.bench.path_contestants import Contestant, InProcess
from tests.bench.path_http import open_own_http
from tests.bench.path_rivals import NAMES, open_http_contestants
from tests.bench.path_rounds import open_network, run_rounds, weigh
from tests.bench.path_streams import Plan
from tests.bench.path_table import percentiles, show_memory, show_rows, show_verdicts, verdicts
from tests.bench.rivals import cache_folder

STREAMS = (1, 8, 32)


async def measure(plan: Plan, rivals: Sequence[str] | None, http: bool, cache: Path) -> dict[str, Any]:
    """Everything on the fake engine, as plain values."""
    most = max(plan.streams)
    async with AsyncExitStack() as stack:
        opened = open_network(plan, False, True, http=http, miner_module="tests.bench.fake_miner")
        ours, opening_s = await stack.enter_async_context(opened)
        contestants: list[Contestant] = [InProcess(FakeEngine(fake_config(most))), *ours]
        missing: dict[str, str] = {}
        if rivals is not None or http:
            beside = open_http_contestants(most, rivals or (), cache)
            client, others, missing = await stack.enter_async_context(beside)
            contestants += others
        if http:
            contestants += await stack.enter_async_context(open_own_http(ours[0].testnet, client))
        rounds = await run_rounds(contestants, plan, missing)
        return {
            "cores": os.cpu_count(),
            "load": [round(value, 2) for value in os.getloadavg()],
            "opening_ms": percentiles([1_000 * value for value in opening_s]),
            "rows": rounds.rows(),
            "missing": missing,
            "memory": await weigh(contestants),
        }


def show(figures: Mapping[str, Any]) -> None:
    """Print the figures for a person."""
    print(f"{figures['cores']} cores, load {figures['load']}; times in ms, p50/p99; added: to the same engine without")
    opening = figures["opening_ms"]
    print(f"session open (asked for -> assigned): {opening['p50']:.1f}/{opening['p99']:.1f}\n")
    show_rows(figures["rows"])
    show_memory(figures["memory"])
    for name, reason in figures["missing"].items():
        print(f"{name}: not measured: {reason}")
    print()
    show_verdicts(verdicts(figures))


def main(arguments: list[str]) -> int:
    """Measure; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench path")
    parser.add_argument("--streams", default=",".join(map(str, STREAMS)), help="numbers of streams, by commas")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--answers", type=int, default=5, help="of a stream in one repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--miners", type=int, default=1, help="processes among which the streams are shared")
    parser.add_argument(
        "--spread-ms", type=float, default=1_000 * TOKEN_S, help="over how long the streams start; default: all at once"
    )
    parser.add_argument("--rivals", nargs="*", choices=NAMES, help=f"beside ours; without a name all: {NAMES}")
    parser.add_argument("--http", action="store_true", help="our own HTTP surface as well")
    parser.add_argument("--venv", type=Path, default=cache_folder(), help="where rivals are installed")
    parser.add_argument("--real", action="store_true", help="with llama.cpp as well")
    parser.add_argument("--only-real", action="store_true", help="with llama.cpp, and not with the fake")
    parser.add_argument("--llama-server", type=Path, help="the binary of llama.cpp's own server, for --real")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    streams = tuple(int(part) for part in args.streams.split(","))
    plan = Plan(streams, args.tokens, args.answers, args.repetitions, args.miners, args.spread_ms / 1_000)
    found: dict[str, Any] = {}
    lines = []
    if not args.only_real:
        rivals = args.rivals if args.rivals is None else args.rivals or list(NAMES)
        found = trio.run(measure, plan, rivals, args.http, args.venv)
        lines += verdicts(found)
        if not args.json:
            show(found)
    if args.real or args.only_real:
        real = path_real.measure(replace(plan, miners=1), args.llama_server)
        lines += path_real.verdicts(real)
        found = {**found, "real": real}
        if not args.json:
            path_real.show(real)
            show_verdicts(path_real.verdicts(real))
    if args.json:
        print(json.dumps(found))
    return 0 if all(kept for *_, kept in lines) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
