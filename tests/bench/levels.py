"""How soon an answer is certain: ``python -m tests.bench levels [--answers N] [--lanes N] [--json]``.

A real testnet, each node its own process on this machine: a router, three miners with the shipped model, four oracles.
Times are a client's, from the signed end of its answer until it has verified the proof of the level.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import trio

from p2pnode.client import connect
from p2pnode.testnet import TestnetPlan, client_key, open_testnet

LEVELS = ("committed", "certified", "finalized")
TARGETS_MS = {"certified": 1_000, "finalized": 2_000}
WAIT_MS = 30_000
QUESTIONS = ("Where does a bear live?", "Tell me a story about a rabbit.", "Name three animals.")


def main(arguments: list[str]) -> int:
    """Measure; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench levels")
    parser.add_argument("--answers", type=int, default=60)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    times = trio.run(_measure, args.answers, args.lanes)
    rows = [{"level": level, "answers": len(times[level]), **_percentiles(times[level])} for level in LEVELS]
    if args.json:
        print(json.dumps(rows))
    else:
        print(f"{'level':10} {'answers':>8} {'p50 ms':>8} {'p99 ms':>8} {'target p50':>11}")
        for row in rows:
            target = TARGETS_MS.get(row["level"], "")
            print(f"{row['level']:10} {row['answers']:8} {row['p50_ms']:8} {row['p99_ms']:8} {target:>11}")
    kept = all(row["answers"] == args.answers for row in rows)
    return 0 if kept and all(row["p50_ms"] <= TARGETS_MS.get(row["level"], WAIT_MS) for row in rows) else 1


async def _measure(answers: int, lanes: int) -> dict[str, list[int]]:
    times: dict[str, list[int]] = {level: [] for level in LEVELS}
    with tempfile.TemporaryDirectory() as folder:
        plan = TestnetPlan(Path(folder), miners=3, oracles=4)
        async with (
            open_testnet(plan) as net,
            connect(net.address, key=client_key(plan.folder)) as client,
            client.session(lanes=lanes, tokens=1 << 16) as session,
        ):
            for number in range(answers):
                async with session.ask(QUESTIONS[number % len(QUESTIONS)], max_tokens=128) as answer:
                    await answer.read()
                await answer.wait_for("finalized", timeout_ms=WAIT_MS)
                for reached in answer.levels:
                    if reached.level in times:
                        times[reached.level].append(reached.after_ms)
    return times


def _percentiles(values: list[int]) -> dict[str, Any]:
    ordered = sorted(values) or [WAIT_MS]
    return {f"p{share}_ms": ordered[(len(ordered) - 1) * share // 100] for share in (50, 99)}
