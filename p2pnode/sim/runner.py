"""Runs seeds: one, or many over some processes, and says what became of each."""

import gc
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from p2pnode.sim.checkers import Violation
from p2pnode.sim.crypto import keys_of
from p2pnode.sim.faults import Fault
from p2pnode.sim.mutations import MUTATIONS
from p2pnode.sim.scenario import Scenario, Setup
from p2pnode.sim.scenarios import SCENARIOS
from p2pnode.sim.trace import LINES_MAX
from protocol.core import signing
from protocol.core.errors import LocalProtocolError


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run was made of, so that a thousand of them mean something."""

    nodes: int
    events: int
    faults: int
    simulated_ms: int


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one seed."""

    seed: int
    scenario: str
    mutation: str | None
    hash: str
    """Of everything that happened."""
    counts: Counts
    faults: tuple[Fault, ...]
    """That were planned; some may never have struck."""
    violation: Violation | None
    trace: tuple[str, ...]
    """The last of what happened, if it was asked for or something was violated."""

    def command(self) -> str:
        """What replays it."""
        mutation = f" --mutation {self.mutation}" if self.mutation is not None else ""
        return f"p2pnode sim --scenario {self.scenario} --seed {self.seed}{mutation} --trace"


def run(
    seed: int,
    scenario: str,
    *,
    mutation: str | None = None,
    faults: Sequence[Fault] | None = None,
    trace: bool = False,
    lines_max: int | None = LINES_MAX,
) -> Result:
    """Run a seed to its end or to the first violation.

    Args:
        mutation: A deliberate mistake to make in production's code meanwhile, by name.
        faults: In place of those that the seed draws.
        trace: Whether the trace is wanted of a run in which nothing was violated.
    """
    keys = keys_of(seed)
    with ExitStack() as stack:
        stack.enter_context(signing.scheme(keys))
        if mutation is not None:
            stack.enter_context(MUTATIONS[mutation].made())
        built = SCENARIOS[scenario](Setup(seed, keys, lines_max))
        planned = built.faults if faults is None else tuple(faults)
        violation = _play(built, planned)
    world = built.world
    counts = Counts(len(world.hosts), world.events, world.faults, world.now_us // 1_000)
    lines = tuple(world.trace.lines()) if trace or violation is not None else ()
    return Result(seed, scenario, mutation, world.trace.digest(), counts, planned, violation, lines)


def run_whole(seed: int, scenario: str, *, mutation: str | None = None, trace: bool = True) -> Result:
    """Run a seed and keep all of its trace."""
    return run(seed, scenario, mutation=mutation, trace=trace, lines_max=None)


def _play(built: Scenario, faults: Sequence[Fault]) -> Violation | None:
    world, heal_us = built.world, built.heal_ms * 1_000
    for fault in faults:
        fault.plan(world, heal_us)

    def heal() -> None:
        world.trace.add(world.now_us, "network", "HEAL")
        for hook in world.watch.healed:
            hook()

    world.at(heal_us, heal)
    # Worlds are full of cycles and short-lived: the collector would spend its time on what is still in use.
    collecting = gc.isenabled()
    gc.disable()
    try:
        world.run_until(built.end_ms * 1_000)
        for hook in world.watch.ended:
            hook()
    except Violation as violation:
        return violation
    except LocalProtocolError as error:
        return Violation("TOTAL", f"a correct node broke a rule itself: {error}", world.now_us // 1_000)
    finally:
        if collecting:
            gc.enable()
    return None


def run_many(
    seeds: Iterable[int], scenarios: Sequence[str], *, mutation: str | None = None, processes: int = 1
) -> Iterator[Result]:
    """Run each seed in each scenario; results come in order, however many processes work."""
    jobs = [(seed, scenario) for seed in seeds for scenario in scenarios]
    if processes <= 1 or len(jobs) < 2:
        for job in jobs:
            yield _run_job(mutation, job)
        return
    # Spawned, not forked: a worker's state is that of a fresh process, whatever the caller has done before.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(_run_job, mutation), jobs, chunksize=4)


def _run_job(mutation: str | None, job: tuple[int, str]) -> Result:
    seed, scenario = job
    return run(seed, scenario, mutation=mutation)
