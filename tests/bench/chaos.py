"""Miners that fail in the middle of answers: ``python -m tests.bench chaos [--repeats N] [--json]``.

Real processes: one router, three miners with the shipped model, one light client. A fault strikes the miner that
streams, at the first, the middle or the last frame; what the client was shown is held against the undisturbed answer
with the same seed. While the fault lasts, twelve more requests are made.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from p2pnode.client import LightClient, RequestFailed, connect
from p2pnode.testnet import TestnetPlan
from tests.bench.chaos_faults import KINDS, ChaosNet, Fault, open_chaos_net

PLACES = ("first", "middle", "last")
TOKENS = 256
LAST_TOKENS = 8
"""The last frame is struck with so many tokens to come."""
PROMPT = "Tell me a story about a rabbit."
SEED = b"\x07" * 32
ANSWER_TIMEOUT_MS = 30_000
AFTER, AFTER_AT_ONCE, AFTER_TOKENS = 12, 4, 16
WARM_UP = 8
SETTLE_S = 0.3
"""Lets what a fault left behind (a miner's old lease) come to its end before the next."""


@dataclass
class Stream:
    """One answer under a fault."""

    completed: bool
    lost: int
    repeated: int
    differing: int
    segments: int
    gap_ms: float
    """The longest the client waited for a token after the fault struck."""
    error: str = ""


@dataclass
class Row:
    """All answers under one fault at one place."""

    kind: str
    place: str
    streams: list[Stream] = field(default_factory=list)
    errors_after: int = 0
    requests_after: int = 0

    def summary(self) -> dict[str, Any]:
        """The figures of the table."""
        gaps = sorted(stream.gap_ms for stream in self.streams)
        return {
            "fault": self.kind,
            "at": self.place,
            "streams": len(self.streams),
            "completed_percent": 100 * sum(s.completed for s in self.streams) / len(self.streams),
            "tokens_lost": sum(s.lost for s in self.streams),
            "tokens_repeated": sum(s.repeated for s in self.streams),
            "tokens_differing": sum(s.differing for s in self.streams),
            "failed_over": sum(s.segments > 1 for s in self.streams),
            "gap_p50_ms": round(gaps[len(gaps) // 2], 1),
            "gap_p99_ms": round(gaps[min(len(gaps) - 1, len(gaps) * 99 // 100)], 1),
            "requests_after": self.requests_after,
            "errors_after": self.errors_after,
            "errors": sorted({s.error for s in self.streams if s.error}),
        }


def main(arguments: list[str]) -> int:
    """Measure; exit status 1 if a stream did not complete, or a token was lost, repeated or another one."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench chaos")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--faults", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    rows = [row.summary() for kind in args.faults for row in trio.run(_measure, kind, args.repeats)]
    if args.json:
        print(json.dumps(rows))
    else:
        _print(rows)
    harmed = ("tokens_lost", "tokens_repeated", "tokens_differing")
    kept = all(row["completed_percent"] == 100 and not any(row[name] for name in harmed) for row in rows)
    return 0 if kept else 1


def _print(rows: Sequence[dict[str, Any]]) -> None:
    print(
        "fault   at      streams  complete %  lost  repeated  other  failed over  gap p50 ms  gap p99 ms  errors after"
    )
    for row in rows:
        print(
            f"{row['fault']:7} {row['at']:7} {row['streams']:7} {row['completed_percent']:11.0f} "
            f"{row['tokens_lost']:5} {row['tokens_repeated']:9} {row['tokens_differing']:6} {row['failed_over']:12} "
            f"{row['gap_p50_ms']:11.1f} {row['gap_p99_ms']:11.1f} {row['errors_after']:9}/{row['requests_after']}"
        )
        for error in row["errors"]:
            print(f"        {error}")


async def _measure(kind: str, repeats: int) -> list[Row]:
    rows = [Row(kind, place) for place in PLACES]
    with tempfile.TemporaryDirectory() as folder:
        async with open_chaos_net(TestnetPlan(Path(folder), miners=3)) as net, connect(net.address) as client:
            await _warm_up(client)
            undisturbed = await _undisturbed(client)
            for _ in range(repeats):
                for row in rows:
                    await _strike(net, client, row, undisturbed)
    return rows


async def _warm_up(client: LightClient) -> None:
    """Let the router learn every miner's pace: one that was never seen is waited for much longer."""
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for _ in range(WARM_UP):
                nursery.start_soon(_request, client, TOKENS // 4)


async def _undisturbed(client: LightClient) -> list[int]:
    async with client.session() as session, session.ask(PROMPT, seed=SEED, max_tokens=TOKENS) as answer:
        await answer.read()
    return answer.token_ids


async def _strike(net: ChaosNet, client: LightClient, row: Row, undisturbed: list[int]) -> None:
    async with trio.open_nursery() as nursery:
        async with client.session() as session:
            fault = Fault(row.kind, net, net.miner(session.miner))
            row.streams.append(await _stream(session, fault, nursery, row.place, undisturbed))
        errors: list[str] = []
        limit = trio.CapacityLimiter(AFTER_AT_ONCE)
        async with trio.open_nursery() as requests:
            for _ in range(AFTER):
                requests.start_soon(_request, client, AFTER_TOKENS, limit, errors)
        row.requests_after += AFTER
        row.errors_after += len(errors)
        row.streams[-1].error = "; ".join(filter(None, [row.streams[-1].error, *sorted(set(errors))]))
        await fault.heal()
        await trio.sleep(SETTLE_S)


async def _stream(session: Any, fault: Fault, nursery: trio.Nursery, place: str, undisturbed: list[int]) -> Stream:
    strike_at = {"first": 1, "middle": len(undisturbed) // 2, "last": len(undisturbed) - LAST_TOKENS}[place]
    struck, last_s, gap_s, error = False, 0.0, 0.0, ""
    async with session.ask(PROMPT, seed=SEED, max_tokens=TOKENS, timeout_ms=ANSWER_TIMEOUT_MS) as answer:
        try:
            async for _ in answer:
                now = trio.current_time()
                if struck:
                    gap_s, last_s = max(gap_s, now - last_s), now
                elif len(answer.token_ids) >= strike_at:
                    struck, last_s = True, now
                    fault.strike(nursery)
        except RequestFailed as failed:
            error = f"{failed.code}: {failed}"
        gap_s = max(gap_s, trio.current_time() - last_s)
    shown = answer.token_ids
    return Stream(
        completed=answer.finish is not None,
        lost=max(0, len(undisturbed) - len(shown)),
        repeated=max(0, len(shown) - len(undisturbed)),
        differing=sum(one != other for one, other in zip(shown, undisturbed, strict=False)),
        segments=len(answer.heads),
        gap_ms=gap_s * 1_000,
        error=error,
    )


async def _request(
    client: LightClient, tokens: int, limit: trio.CapacityLimiter | None = None, errors: list[str] | None = None
) -> None:
    async with limit or trio.CapacityLimiter(1):
        try:
            async with client.session() as session, session.ask(PROMPT, max_tokens=tokens) as answer:
                await answer.read()
        except RequestFailed as failed:
            if errors is not None:
                errors.append(f"after: {failed.code}: {failed}")
