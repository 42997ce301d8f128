"""What a network adds to an engine: ``python -m tests.bench path [--streams 1,8,32] [--json]``.

The engine is the fake (20 ms to the first token, 5 ms for each), so whatever is measured beyond that is ours.
*Direct* consumes it in this process; *relayed* is light client → router → miner, each a process of its own, over
libp2p with everything on: noise, signed orders, signed frames checked by router and client, signed acks. Sessions are
warm. Both take turns within each repetition, so that a busy machine hits them alike; the first repetition is thrown
away. Every stream has a connection and a session of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import trio

from p2pnode.engine.api import ChatMessage, GenerateRequest, Tokens
from p2pnode.engine.fake import FakeEngine
from p2pnode.testnet import Testnet, TestnetPlan, open_testnet
from protocol.messages.sampling import SamplingParams
from tests.bench.fake_miner import TOKEN_S, fake_config
from tests.bench.path_client import StreamResult

STREAMS = (1, 8, 32)
STREAMS_PER_CLIENT_PROCESS = 16
OPENINGS = 20
FIRST_TARGET_MS = {1: 3.0, 8: 6.0, 32: 15.0}
TOKEN_TARGET_MS = {1: 0.3}
CARRIED_TARGET = {32: 6_000.0}
OPENING_TARGET_MS = 100.0


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    streams: tuple[int, ...]
    tokens: int
    answers: int
    repetitions: int
    miners: int
    spread_s: float
    """Over how long the streams start: one token's time is the worst case, an order from all of them at once."""


class Clients:
    """The processes that light clients run in."""

    def __init__(self, processes: list[trio.Process]) -> None:
        self.processes = processes
        self._unread = [b""] * len(processes)

    async def order(self, index: int, order: dict[str, Any]) -> Any:
        """Send one process an order and wait for its answer."""
        process = self.processes[index]
        assert process.stdin is not None
        await process.stdin.send_all(json.dumps(order).encode() + b"\n")
        return await self.answer(index)

    async def answer(self, index: int) -> Any:
        stdout = self.processes[index].stdout
        assert stdout is not None
        while b"\n" not in self._unread[index]:
            piece = await stdout.receive_some()
            if not piece:
                raise RuntimeError("a client's process ended; what it said is above")
            self._unread[index] += piece
        line, _, self._unread[index] = self._unread[index].partition(b"\n")
        return json.loads(line)

    async def stream(self, streams: int, plan: Plan) -> list[StreamResult]:
        """Run so many streams over as few processes as hold them."""
        results: list[StreamResult] = []

        async def run(index: int, share: int) -> None:
            order = {"do": "stream", "streams": share, "answers": plan.answers, "tokens": plan.tokens}
            rows = await self.order(index, order | {"spread_s": plan.spread_s})
            results.extend(StreamResult(**row) for row in rows)

        async with trio.open_nursery() as nursery:
            for index, first in enumerate(range(0, streams, STREAMS_PER_CLIENT_PROCESS)):
                nursery.start_soon(run, index, min(STREAMS_PER_CLIENT_PROCESS, streams - first))
        return results


@asynccontextmanager
async def open_clients(router: str, streams: int) -> AsyncIterator[Clients]:
    """Start the processes, each connected once for every stream it will run."""
    processes = []
    for first in range(0, streams, STREAMS_PER_CLIENT_PROCESS):
        share = min(STREAMS_PER_CLIENT_PROCESS, streams - first)
        command = [sys.executable, "-m", "tests.bench.path_client", router, str(share)]
        processes.append(await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    clients = Clients(processes)
    try:
        for index in range(len(processes)):
            await clients.answer(index)
        yield clients
    finally:
        for process in processes:
            process.kill()


async def stream_direct(streams: int, plan: Plan) -> list[StreamResult]:
    """The floor: the same engine, consumed where it runs."""
    engine = FakeEngine(fake_config(streams))
    results: list[StreamResult] = []

    async def run(index: int) -> None:
        await trio.sleep(plan.spread_s * index / streams)
        result = StreamResult()
        began = time.perf_counter()
        for number in range(plan.answers):
            asked, arrivals, tokens = time.perf_counter(), [], 0
            prompt = await engine.render([ChatMessage("user", f"Stream {index}, question {number}.")])
            request = GenerateRequest(tuple(prompt), SamplingParams(), bytes(32), plan.tokens)
            async for event in engine.generate(request):
                if isinstance(event, Tokens):
                    arrivals.append(time.perf_counter())
                    tokens += len(event.tokens)
            result.add(asked, arrivals, tokens, len(arrivals))
        result.elapsed_s = time.perf_counter() - began
        results.append(result)

    async with trio.open_nursery() as nursery:
        for index in range(streams):
            nursery.start_soon(run, index)
    return results


class Meter:
    """CPU and memory of the processes on the path."""

    def __init__(self, testnet: Testnet, clients: Clients) -> None:
        self._processes = [(child.name, psutil.Process(child.process.pid)) for child in testnet.children]
        self._processes += [
            (f"clients-{number}", psutil.Process(process.pid)) for number, process in enumerate(clients.processes, 1)
        ]

    def cpu_s(self) -> dict[str, float]:
        spent = {name: process.cpu_times() for name, process in self._processes}
        return {name: float(times.user + times.system) for name, times in spent.items()}

    def rss_mib(self) -> dict[str, float]:
        return {name: process.memory_info().rss / 2**20 for name, process in self._processes}


@dataclass
class Round:
    """One number of streams in one repetition."""

    streams: int
    direct: list[StreamResult]
    relayed: list[StreamResult]
    cpu_s: dict[str, float]


async def measure(plan: Plan) -> dict[str, Any]:
    """Everything, as plain values."""
    most = max(plan.streams)
    with tempfile.TemporaryDirectory() as folder:
        testnet_plan = TestnetPlan(
            Path(folder),
            miners=plan.miners,
            slots=-(-most // plan.miners) + 1,
            miner_module="tests.bench.fake_miner",
        )
        async with open_testnet(testnet_plan) as testnet, open_clients(testnet.address, most) as clients:
            opening_s = await clients.order(0, {"do": "open", "times": OPENINGS})
            for index in range(len(clients.processes)):
                await clients.order(index, {"do": "hold"})
            meter = Meter(testnet, clients)
            rounds: list[Round] = []
            for repetition in range(plan.repetitions + 1):
                for streams in plan.streams:
                    one = await _round(streams, plan, clients, meter, direct_first=repetition % 2 == 0)
                    if repetition > 0:
                        rounds.append(one)
            return {
                "cores": os.cpu_count(),
                "load": [round(value, 2) for value in os.getloadavg()],
                "opening_ms": _percentiles([1_000 * value for value in opening_s]),
                "rows": [_row(streams, [one for one in rounds if one.streams == streams]) for streams in plan.streams],
                "rss_mib": meter.rss_mib(),
            }


async def _round(streams: int, plan: Plan, clients: Clients, meter: Meter, *, direct_first: bool) -> Round:
    direct = await stream_direct(streams, plan) if direct_first else []
    before = meter.cpu_s()
    relayed = await clients.stream(streams, plan)
    after = meter.cpu_s()
    if not direct_first:
        direct = await stream_direct(streams, plan)
    return Round(streams, direct, relayed, {name: after[name] - before[name] for name in after})


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50": statistics.median(ordered), "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]}


def _row(streams: int, rounds: list[Round]) -> dict[str, Any]:
    """The figures of one number of streams over all repetitions; times in milliseconds."""

    def pooled(which: str, figure: str) -> dict[str, float]:
        return _percentiles(
            [1_000 * value for one in rounds for stream in getattr(one, which) for value in getattr(stream, figure)]
        )

    def rate(which: str) -> float:
        """Tokens a second: each stream's own, added up; the median over repetitions."""
        results = [one.direct if which == "direct" else one.relayed for one in rounds]
        return statistics.median(sum(stream.tokens / stream.elapsed_s for stream in result) for result in results)

    first, first_direct = pooled("relayed", "first_s"), pooled("direct", "first_s")
    token, token_direct = pooled("relayed", "token_s"), pooled("direct", "token_s")
    tokens = sum(stream.tokens for one in rounds for stream in one.relayed)
    frames = sum(stream.frames for one in rounds for stream in one.relayed)
    cpu = {name: sum(one.cpu_s[name] for one in rounds) * 1_000 / tokens for name in rounds[0].cpu_s}
    return {
        "streams": streams,
        "first_ms": first,
        "first_direct_ms": first_direct,
        "first_added_ms": {name: first[name] - first_direct[name] for name in first},
        "token_added_ms": token["p50"] - token_direct["p50"],
        "longest_gap_ms": pooled("relayed", "gap_s"),
        "carried": rate("relayed"),
        "carried_direct": rate("direct"),
        "tokens_per_frame": tokens / frames,
        "cpu_s_per_1000_tokens": cpu,
    }


def verdicts(figures: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    """Each figure that has a target: what it is, its value, the target in words, and whether it is kept."""
    found = [
        ("session open p50 ms", figures["opening_ms"]["p50"], f"<= {OPENING_TARGET_MS:g}", OPENING_TARGET_MS),
    ]
    lines = [(what, value, target, value <= limit) for what, value, target, limit in found]
    for row in figures["rows"]:
        streams = row["streams"]
        if streams in FIRST_TARGET_MS:
            value, limit = row["first_added_ms"]["p50"], FIRST_TARGET_MS[streams]
            lines.append((f"first token added at {streams}, ms", value, f"<= {limit:g}", value <= limit))
        if streams in TOKEN_TARGET_MS:
            value, limit = row["token_added_ms"], TOKEN_TARGET_MS[streams]
            lines.append((f"per token added at {streams}, ms", value, f"<= {limit:g}", value <= limit))
        if streams in CARRIED_TARGET:
            value, limit = row["carried"], CARRIED_TARGET[streams]
            lines.append((f"tokens/s carried at {streams}", value, f">= {limit:g}", value >= limit))
    return lines


def show(figures: dict[str, Any]) -> None:
    """Print the figures for a person."""
    print(f"{figures['cores']} cores, load {figures['load']}; times in ms, p50/p99")
    opening = figures["opening_ms"]
    print(f"session open (asked for -> assigned): {opening['p50']:.1f}/{opening['p99']:.1f}\n")
    print(
        f"{'streams':>7} {'first direct':>14} {'first relayed':>14} {'added':>12} {'added/token':>11}"
        f" {'longest gap':>12} {'tokens/s':>8} {'direct':>7} {'ratio':>5} {'tokens/frame':>12}"
    )
    for row in figures["rows"]:
        pairs = [
            f"{row[name]['p50']:.1f}/{row[name]['p99']:.1f}"
            for name in ("first_direct_ms", "first_ms", "first_added_ms", "longest_gap_ms")
        ]
        print(
            f"{row['streams']:7} {pairs[0]:>14} {pairs[1]:>14} {pairs[2]:>12} {row['token_added_ms']:11.3f}"
            f" {pairs[3]:>12} {row['carried']:8.0f} {row['carried_direct']:7.0f}"
            f" {row['carried'] / row['carried_direct']:5.2f} {row['tokens_per_frame']:12.2f}"
        )
    names = list(figures["rss_mib"])
    print(f"\n{'CPU s per 1,000 tokens':24}" + "".join(f"{name:>12}" for name in [*names, "together"]))
    for row in figures["rows"]:
        cpu = row["cpu_s_per_1000_tokens"]
        cells = [*(cpu[name] for name in names), sum(cpu.values())]
        print(f"{'at ' + str(row['streams']):24}" + "".join(f"{value:12.3f}" for value in cells))
    print(f"{'RSS MiB':24}" + "".join(f"{figures['rss_mib'][name]:12.0f}" for name in names) + "\n")
    for what, value, target, kept in verdicts(figures):
        print(f"{what:32} {value:9.2f}   target {target:8} {'ok' if kept else 'missed'}")


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
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    streams = tuple(int(part) for part in args.streams.split(","))
    plan = Plan(streams, args.tokens, args.answers, args.repetitions, args.miners, args.spread_ms / 1_000)
    figures = trio.run(measure, plan)
    if args.json:
        print(json.dumps(figures))
    else:
        show(figures)
    return 0 if all(kept for *_, kept in verdicts(figures)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
