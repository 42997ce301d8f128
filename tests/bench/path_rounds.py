"""Rounds of the path bench: contestants take turns, and are weighed at the end."""

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import trio

from p2pnode.testnet import TestnetPlan, open_testnet
from p2pnode.transport.unwrap import unwrapped
from tests.bench.path_contestants import Contestant, ContestantFailed, Network, cpu_s, family, memory_mib, open_clients
from tests.bench.path_streams import Plan
from tests.bench.path_table import OURS, Round, Rounds

OPENINGS = 20
IDLE_S = 3.0
WARM_UP_TOKENS = 4
SETTLE_S = 0.5
"""What an answer leaves to do is done by then."""


@asynccontextmanager
async def open_network(
    plan: Plan, *ways: bool, http: bool = False, **testnet: Any
) -> AsyncIterator[tuple[list[Network], list[float]]]:
    """A testnet with clients that hold a session each and way, relayed (False) or direct (True).

    Also: how long sessions took to open. With ``http`` its router serves HTTP, and there are slots for twice as many.
    """
    most = max(plan.streams)
    with tempfile.TemporaryDirectory() as folder:
        slots = -(-most * (len(ways) + 2 * http) // plan.miners) + 1
        listen = "127.0.0.1:0" if http else ""
        testnet_plan = TestnetPlan(Path(folder), miners=plan.miners, slots=slots, http=listen, **testnet)
        async with open_testnet(testnet_plan) as net, open_clients(net.address, most) as clients:
            opening_s = await clients[0].order({"do": "open", "times": OPENINGS})
            for client in clients:
                for direct in ways:
                    await client.order({"do": "hold", "direct": direct})
            yield [Network(net, clients, direct=direct) for direct in ways], opening_s


async def run_rounds(contestants: Sequence[Contestant], plan: Plan, missing: dict[str, str]) -> Rounds:
    """Let all take turns; a rival that fails is left out from then on, and the reason noted."""
    rounds = Rounds({one.name: one.floor for one in contestants})
    for repetition in range(plan.repetitions + 1):
        for streams in plan.streams:
            for one in contestants if repetition % 2 else reversed(contestants):
                if one.name in missing:
                    continue
                try:
                    with unwrapped():
                        found = await _round(one, streams, plan)
                except ContestantFailed as reason:
                    if one.name == OURS:
                        raise
                    missing[one.name] = f"at {streams} streams: {reason}"
                    continue
                if repetition > 0:
                    rounds.add(streams, one.name, found)
        print(f"repetition {repetition} of {plan.repetitions} done", file=sys.stderr, flush=True)
    return rounds


async def _round(one: Contestant, streams: int, plan: Plan) -> Round:
    await one.wake()
    try:
        # Not timed, on every connection there is: sessions keep their leases, and proxies their connections.
        await one.stream(max(plan.streams), replace(plan, answers=1, tokens=WARM_UP_TOKENS))
        await trio.sleep(SETTLE_S)
        before = {role: cpu_s(roots) for role, roots in one.processes().items()}
        carried = await one.stream(streams, plan)
    finally:
        one.rest()
    after = {role: cpu_s(roots) for role, roots in one.processes().items()}
    return Round(carried, {role: after[role] - before[role] for role in after})


async def weigh(contestants: Sequence[Contestant]) -> dict[str, dict[str, dict[str, float]]]:
    """What everyone's processes hold, and what they spend on having nothing to do."""
    trees = {(one.name, role): roots for one in contestants for role, roots in one.processes().items()}
    own = psutil.Process(os.getpid())
    async with trio.open_nursery() as nursery:
        for one in contestants:
            nursery.start_soon(one.wake)
    trees = {key: roots for key, roots in trees.items() if own not in roots}
    before = {key: cpu_s(roots) for key, roots in trees.items()}
    await trio.sleep(IDLE_S)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (name, role), roots in trees.items():
        idle = 100 * (cpu_s(roots) - before[name, role]) / IDLE_S
        rss, pss = memory_mib(roots)
        held = {"rss": rss, "pss": pss, "processes": float(len(family(roots))), "idle_cpu_percent": idle}
        found.setdefault(name, {})[role] = held
    return found
