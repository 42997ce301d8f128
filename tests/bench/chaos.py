"""Miners that fail in the middle of answers: ``python -m tests.bench chaos [--repeats N] [--rivals] [--json]``.

Real processes: one router, three miners with the shipped model, one light client. A fault strikes the miner that
streams, at the first, the middle or the last frame; what the client was shown is held against the undisturbed answer
with the same seed. While the fault lasts, twelve more requests are made. ``--rivals`` does the same to sglang-router
and vllm-router before three engines over HTTP (tests/bench/chaos_rivals.py).
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import trio

from p2pnode.client import LightClient, RequestFailed, connect
from p2pnode.testnet import Child, TestnetPlan
from tests.bench import chaos_rivals
from tests.bench.chaos_faults import KINDS, ChaosNet, Fault, open_chaos_net
from tests.bench.chaos_rows import Row, Stream, compare, show
from tests.bench.rivals import RivalMissing, cache_folder

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


def main(arguments: list[str]) -> int:
    """Measure; exit status 1 if a stream did not complete, or a token was lost, repeated or another one."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench chaos")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--faults", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rivals", nargs="*", choices=chaos_rivals.NAMES, help="beside ours; without a name all")
    parser.add_argument("--venv", type=Path, default=cache_folder(), help="where rivals are installed")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    rows = [row.summary() for kind in args.faults for row in trio.run(_measure, kind, args.repeats)]
    harmed = ("tokens_lost", "tokens_repeated", "tokens_differing")
    kept = all(row["completed_percent"] == 100 and not any(row[name] for name in harmed) for row in rows)
    missing: dict[str, str] = {}
    for name in chaos_rivals.NAMES if args.rivals == [] else args.rivals or ():
        try:
            found = trio.run(chaos_rivals.measure, name, args.faults, args.repeats, args.venv)
            rows += [row.summary() for row in found]
        except RivalMissing as reason:
            missing[name] = str(reason)
    if args.json:
        print(json.dumps({"rows": rows, "missing": missing}))
    else:
        show(rows)
        for name, why in missing.items():
            print(f"{name}: not measured: {why}")
    return 0 if kept else 1


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


async def _stream(
    session: Any, fault: Fault[Child], nursery: trio.Nursery, place: str, undisturbed: list[int]
) -> Stream:
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
        **compare(shown, undisturbed),
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
