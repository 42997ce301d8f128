"""Attacks at the seam: ``python -m tests.bench flood [--seconds N] [--attacks NAME …] [--json]``.

Real processes on one machine: a router that mines too, a miner, and an attacker, who sends as much as it can. Engines
are the fake: what is measured is the way to them. The honest client is in this process and opens a session for every
question, so that gossip, auction and lease are part of each first token; attacker and victims share the cores.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from p2pnode.client import LightClient, connect
from tests.runtime.adversaries.attacker import ATTACKS
from tests.runtime.adversaries.stage import PAUSE_S, Asked, Stage, attacking, open_stage

MIB = 1 << 20
PHASES = ("before", "during", "after")
WARM_UP = 10


@dataclass
class Row:
    """One attack."""

    attack: str
    asked: dict[str, Asked] = field(default_factory=lambda: {phase: Asked() for phase in PHASES})
    rss_bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    """The router's: the highest of each phase."""

    def summary(self) -> dict[str, Any]:
        """The figures of the table."""
        latencies = {f"first_ms_{name}": _percentiles(asked.first_s) for name, asked in self.asked.items()}
        return {
            "attack": self.attack,
            **latencies,
            "rss_mib": [self.rss_bytes[phase] // MIB for phase in PHASES],
            "completed": sum(len(asked.first_s) for asked in self.asked.values()),
            "failed": sum(len(asked.failed) for asked in self.asked.values()),
            "answers": len(set().union(*(asked.answers for asked in self.asked.values()))),
            "errors": sorted({error for asked in self.asked.values() for error in asked.failed}),
        }


def main(arguments: list[str]) -> int:
    """Measure; exit status 1 if an honest question was not answered, or answered otherwise than before."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench flood")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each phase: before, during, after")
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    rows = [row.summary() for row in trio.run(_measure, args.attacks, args.seconds)]
    if args.json:
        print(json.dumps(rows))
    else:
        _print(rows)
    return 0 if all(row["failed"] == 0 and row["answers"] == 1 for row in rows) else 1


def _percentiles(times_s: Sequence[float]) -> list[float]:
    """p50 and p99 in milliseconds."""
    ranked = sorted(times_s) or [float("nan")]
    return [round(1_000 * ranked[min(len(ranked) - 1, len(ranked) * part // 100)], 1) for part in (50, 99)]


def _print(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'':22} first token ms, p50 / p99{'':29}router's RSS MiB      questions")
    print(f"{'attack':22} {'before':16} {'during':16} {'after':16} before  peak  after   done  failed")
    for row in rows:
        cells = [f"{p50:6.1f} / {p99:6.1f} " for p50, p99 in (row[f"first_ms_{phase}"] for phase in PHASES)]
        before, peak, after = row["rss_mib"]
        memory, done = f"{before:6} {peak:5} {after:6}", f"{row['completed']:6} {row['failed']:7}"
        print(f"{row['attack']:22} {' '.join(cells)} {memory} {done}")
        for error in row["errors"]:
            print(f"        {error}")


async def _measure(attacks: Sequence[str], seconds: float) -> list[Row]:
    rows = []
    for attack in attacks:  # each on a network of its own: what one leaves behind is not the next one's
        with tempfile.TemporaryDirectory() as folder, open_stage(Path(folder)) as stage:
            async with connect(stage.router.address) as client:
                await Asked().times(client, WARM_UP)
                row = Row(attack)
                await _phase(stage, client, row, "before", seconds)
                async with attacking(attack, stage.router.address, stage.miner.address):
                    await _phase(stage, client, row, "during", seconds)
                await _phase(stage, client, row, "after", seconds)
                rows.append(row)
    return rows


async def _phase(stage: Stage, client: LightClient, row: Row, phase: str, seconds: float) -> None:
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        await row.asked[phase].ask(client)
        row.rss_bytes[phase] = max(row.rss_bytes[phase], stage.router.rss_bytes)
        await trio.sleep(PAUSE_S)
