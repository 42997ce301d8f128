"""Memory and CPU of a testnet that has nothing to do: ``python -m tests.bench idle [--seconds N] [--json]``.

A node's own process and its engine's worker are counted apart: the node's is what a miner costs without its model.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import psutil
import trio

from p2pnode.testnet import Child, TestnetPlan, open_testnet
from protocol.core.genesis import Genesis

MEMORY_MIB_MAX = 200
CPU_PERCENT_MAX = 1.0
SETTLE_S = 15.0
"""After the start: adverts, probes and the first heartbeats are over."""


def main(arguments: list[str]) -> int:
    """Measure; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench idle")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    rows = trio.run(_measure, args.seconds)
    if args.json:
        print(json.dumps(rows))
    else:
        print(f"{'process':22} {'MiB':>7} {'CPU %':>7}")
        for row in rows:
            print(f"{row['process']:22} {row['mib']:7.1f} {row['cpu_percent']:7.2f}")
        print(f"targets: a node without its model <= {MEMORY_MIB_MAX} MiB, each process <= {CPU_PERCENT_MAX} % CPU")
    nodes = [row for row in rows if not row["process"].endswith("worker")]
    kept = all(row["mib"] <= MEMORY_MIB_MAX for row in nodes) and all(
        row["cpu_percent"] <= CPU_PERCENT_MAX for row in rows
    )
    return 0 if kept else 1


async def _measure(seconds: float) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        # The network's own parameters: a testnet's short heartbeat is for those who watch it.
        plan = TestnetPlan(Path(folder), miners=3, oracles=4, genesis=Genesis("idle"))
        async with open_testnet(plan) as testnet:
            await trio.sleep(SETTLE_S)
            processes = [found for child in testnet.children for found in _processes(child)]
            before = [_cpu_s(process) for _, process in processes]
            await trio.sleep(seconds)
            return [
                {
                    "process": name,
                    "mib": process.memory_info().rss / 2**20,
                    "cpu_percent": 100 * (_cpu_s(process) - spent) / seconds,
                }
                for (name, process), spent in zip(processes, before, strict=True)
            ]


def _processes(child: Child) -> list[tuple[str, psutil.Process]]:
    node = psutil.Process(child.process.pid)
    return [(child.name, node), *((f"{child.name} worker", worker) for worker in node.children(recursive=True))]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
