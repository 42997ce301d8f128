"""The soak: a network under load whose miners die, and what its processes hold meanwhile."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psutil
import trio

from p2pnode.testnet import TestnetPlan
from p2pnode.testnet_child import last_line
from p2pnode.transport.unwrap import unwrapped
from tests.bench.chaos_faults import ChaosNet, open_chaos_net
from tests.bench.soak_load import Client, Ending

SLOTS = 4
SAMPLES = 200
"""Of what processes hold, over the whole time."""
BROKEN_TOLD = 20
UNCERTAIN_SHARE = 0.1
GROWN_SHARE, GROWN_MIB, GROWN_FILES = 0.10, 12.0, 8.0
"""From the second quarter of the time to the last one: a process that keeps more than this grows."""


@dataclass(frozen=True)
class SoakPlan:
    """What to run."""

    folder: Path
    seconds: float
    kill_every_s: float
    miners: int = 3
    oracles: int = 4


@dataclass(frozen=True)
class Held:
    """What a process holds, or the mean of that."""

    rss_mib: float
    files: float


@dataclass
class Samples:
    """Of one process, in the order in which they were taken."""

    taken: list[Held] = field(default_factory=list)

    def quarters(self) -> tuple[Held, Held]:
        """The second quarter's mean, when all caches are warm, and the last one's."""
        quarter = max(1, len(self.taken) // 4)
        return _mean(self.taken[quarter : 2 * quarter] or self.taken), _mean(self.taken[-quarter:])


@dataclass
class Report:
    """What came of it."""

    seconds: float
    clients: int
    kills: int = 0
    endings: dict[str, Counter[Ending]] = field(default_factory=lambda: defaultdict(Counter))
    """By kind of request."""
    held: dict[str, Samples] = field(default_factory=lambda: defaultdict(Samples))
    """By process; of those that are not killed."""
    broken: list[str] = field(default_factory=list)
    """What the first requests without an end met with."""
    ended: dict[str, str] = field(default_factory=dict)
    """Processes that were not killed, and ended all the same; what they said last."""

    def count(self, ending: Ending) -> int:
        """How many requests ended so."""
        return sum(endings[ending] for endings in self.endings.values())

    @property
    def uncertain(self) -> bool:
        """Whether the oracles do not keep up."""
        return self.count(Ending.UNCERTAIN) > UNCERTAIN_SHARE * self.count(Ending.FINAL)

    def grown(self) -> list[str]:
        """Processes that hold more and more."""
        found = []
        for name, samples in self.held.items():
            first, last = samples.quarters()
            if last.rss_mib > first.rss_mib * (1 + GROWN_SHARE) + GROWN_MIB:
                found.append(f"{name}: {first.rss_mib:.1f} to {last.rss_mib:.1f} MiB")
            if last.files > first.files + GROWN_FILES:
                found.append(f"{name}: {first.files:.0f} to {last.files:.0f} descriptors")
        return found

    def as_json(self) -> Mapping[str, Any]:
        """Plain values."""
        quarters = {name: samples.quarters() for name, samples in self.held.items()}
        return {
            "seconds": self.seconds,
            "clients": self.clients,
            "kills": self.kills,
            "endings": {kind: dict(endings) for kind, endings in self.endings.items()},
            "held": {name: [vars(part) for part in parts] for name, parts in quarters.items()},
            "broken": self.broken,
            "ended": self.ended,
            "uncertain": self.uncertain,
            "grown": self.grown(),
        }


async def soak(plan: SoakPlan, report_progress: Callable[[str], None]) -> Report:
    """Run it to its end."""
    testnet = TestnetPlan(plan.folder, miners=plan.miners, oracles=plan.oracles, slots=SLOTS, http="127.0.0.1:0")
    report = Report(plan.seconds, plan.miners * SLOTS // 2)
    async with open_chaos_net(testnet) as net:
        report_progress(f"{len(net.children)} processes are up, {net.http_urls[0]}")
        with unwrapped():
            async with trio.open_nursery() as beside:
                beside.start_soon(_sample, net, plan, report)
                beside.start_soon(_kill, net, plan, report, report_progress)
                await _load(net, plan, report)
                beside.cancel_scope.cancel()
    return report


async def _load(net: ChaosNet, plan: SoakPlan, report: Report) -> None:
    until = trio.current_time() + plan.seconds

    async def run(number: int) -> None:
        async with httpx.AsyncClient(base_url=f"{net.http_urls[0]}/v1/") as http:
            client = Client(http, net.plan.model, Random(number), certified=plan.oracles > 0)
            while trio.current_time() < until:
                kind, ending, why = await client.ask()
                report.endings[kind][ending] += 1
                if why and len(report.broken) < BROKEN_TOLD:
                    report.broken.append(why)

    async with trio.open_nursery() as nursery:
        for number in range(report.clients):
            nursery.start_soon(run, number)


async def _kill(net: ChaosNet, plan: SoakPlan, report: Report, report_progress: Callable[[str], None]) -> None:
    rng = Random(0)
    while True:
        await trio.sleep(plan.kill_every_s / 2)
        victim = rng.choice([child for child in net.children if child.name.startswith("miner")])
        victim.process.kill()
        report.kills += 1
        answered, asked = report.count(Ending.ANSWERED), sum(sum(each.values()) for each in report.endings.values())
        report_progress(f"{victim.name} killed; of {asked} requests so far {answered} were answered")
        await trio.sleep(plan.kill_every_s / 2)
        await net.revive(victim)


async def _sample(net: ChaosNet, plan: SoakPlan, report: Report) -> None:
    living = [(child, psutil.Process(child.process.pid)) for child in (net.router, *net.oracles)]
    while True:
        for child, process in living:
            if child.process.poll() is not None:
                report.ended.setdefault(child.name, last_line(child.log))
                continue
            with suppress(psutil.NoSuchProcess):
                report.held[child.name].taken.append(Held(process.memory_info().rss / 2**20, process.num_fds()))
        await trio.sleep(plan.seconds / SAMPLES)


def _mean(taken: Sequence[Held]) -> Held:
    count = max(1, len(taken))
    return Held(sum(each.rss_mib for each in taken) / count, sum(each.files for each in taken) / count)
