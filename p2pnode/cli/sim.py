"""``p2pnode sim``: plays whole networks, faults included, each from one seed, and says whether every promise held."""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from statistics import median_low
from typing import Any

from p2pnode.cli.options import add_json_option
from p2pnode.cli.output import ProgressLine, paint, print_error, print_json
from p2pnode.cli.scale import add_options, run_scale
from p2pnode.sim.mutations import MUTATIONS
from p2pnode.sim.runner import Result, run_many, run_whole
from p2pnode.sim.scenarios import MAIN, SCENARIOS
from p2pnode.sim.shrink import shrink

SEEDS_DEFAULT = 100
TAIL_LINES = 40
"""Of a violated run's trace, where not all of it was asked for."""


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "sim",
        description="Simulate whole networks of production's state machines, with faults, on a virtual clock, and "
        "check what is promised. A seed is the whole input: the same one gives the same run. Exit status 1 if one "
        "of them is broken.",
    )
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", type=_count, metavar="N", help=f"how many seeds (default: {SEEDS_DEFAULT})")
    seeds.add_argument("--seed", type=_number, metavar="S", help="only this one")
    parser.add_argument("--from", dest="first", type=_number, default=0, metavar="S", help="the first of the seeds")
    parser.add_argument(
        "--scenario", choices=(*SCENARIOS, "all"), default="all", help=f"what to play (default: {' and '.join(MAIN)})"
    )
    parser.add_argument(
        "--shrink", action="store_true", help="of a violated run, leave out all faults it does not need"
    )
    parser.add_argument(
        "--trace", action="store_true", help="print all that happened, with --seed or of a violated run"
    )
    parser.add_argument("--mutation", choices=tuple(MUTATIONS), metavar="NAME", help=_mutations())
    parser.add_argument("--jobs", type=_count, metavar="N", help="processes (default: one for each core)")
    add_options(parser)
    add_json_option(parser)


def _mutations() -> str:
    return f"make a deliberate mistake that the checkers have to find: {', '.join(MUTATIONS)}"


def _count(text: str) -> int:
    number = _number(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or more")
    return number


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number from 0 on")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Play the seeds; 1 if one violates something."""
    if args.scale is not None:
        return run_scale(args)
    started = time.monotonic()
    results = list(_play(args))
    violated = [result for result in results if result.violation is not None]
    if violated and args.shrink:
        violated[0] = _shrunk(violated[0])
    if args.json:
        print_json(_as_json(results, violated))
        return 1 if violated else 0
    if args.trace and args.seed is not None and not violated:
        for result in results:
            print("\n".join(result.trace))
    for scenario in dict.fromkeys(result.scenario for result in results):
        _print_totals(scenario, [result for result in results if result.scenario == scenario], started)
    for number, result in enumerate(violated):
        replay = result.command() + (" --shrink" if args.shrink and number == 0 else "")
        _print_violation(result, replay, whole=args.trace, details=number == 0)
    return 1 if violated else 0


def _play(args: argparse.Namespace) -> Iterator[Result]:
    scenarios = _scenarios(args)
    if args.seed is not None:
        for scenario in scenarios:
            yield run_whole(args.seed, scenario, mutation=args.mutation, trace=args.trace)
        return
    count = args.seeds if args.seeds is not None else SEEDS_DEFAULT
    jobs = args.jobs or os.cpu_count() or 1
    runs = run_many(range(args.first, args.first + count), scenarios, mutation=args.mutation, processes=jobs)
    with ProgressLine("simulating", amount=lambda runs: f"{runs:,} runs") as progress:
        for done, result in enumerate(runs, 1):
            progress(done, count * len(scenarios))
            yield result


def _scenarios(args: argparse.Namespace) -> Sequence[str]:
    if args.mutation is not None:
        return (MUTATIONS[args.mutation].scenario,)
    return MAIN if args.scenario == "all" else (args.scenario,)


def _shrunk(result: Result) -> Result:
    with ProgressLine("shrinking", amount=lambda faults: f"{faults} faults") as progress:
        total = len(result.faults)
        return shrink(result, lambda left, _runs: progress(total - left, total))


def _print_totals(scenario: str, results: Sequence[Result], started: float) -> None:
    violated = sum(result.violation is not None for result in results)
    verdict = paint("violated", "red") if violated else paint("ok", "green")
    one = results[0]
    what = f"seed {one.seed}" if len(results) == 1 else f"{len(results):,} seeds from {one.seed} on"
    print(f"{paint(scenario, 'bold')}: {what}, {verdict}{f' by {violated}' if violated and len(results) > 1 else ''}")
    for name in ("nodes", "events", "faults"):
        values = [getattr(result.counts, name) for result in results]
        figures = f"{min(values):,} / {median_low(values):,} / {max(values):,}"
        print(f"  {name:<8} {figures if len(values) > 1 else f'{values[0]:,}'}" + _legend(name, values))
    simulated_s = sum(result.counts.simulated_ms for result in results) / 1_000
    print(f"  time     {_duration(simulated_s)} simulated in {_duration(time.monotonic() - started)}")
    if len(results) == 1:
        print(f"  hash     {one.hash}")


def _legend(name: str, values: Sequence[int]) -> str:
    return f"  ({name} in one run: min / median / max; {sum(values):,} in all)" if len(values) > 1 else ""


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 120 else f"{minutes} min"


def _print_violation(result: Result, replay: str, *, whole: bool, details: bool) -> None:
    assert result.violation is not None
    sys.stdout.flush()
    print_error(f"{result.scenario}, seed {result.seed}: {str(result.violation).splitlines()[0]}", replay)
    if not details:
        return
    lines = result.trace if whole else result.trace[-TAIL_LINES:]
    print("\n".join(lines))
    for line in str(result.violation).splitlines()[1:]:
        print(line)
    struck = "\n".join(f"  {fault!r}" for fault in result.faults)
    print(f"{paint('faults planned:', 'bold')}\n{struck}" if struck else paint("no faults planned", "bold"))
    print(paint(str(result.violation).splitlines()[0], "red"))


def _as_json(results: Sequence[Result], violated: Sequence[Result]) -> dict[str, Any]:
    return {
        "runs": [
            {
                "seed": result.seed,
                "scenario": result.scenario,
                "hash": result.hash,
                "nodes": result.counts.nodes,
                "events": result.counts.events,
                "faults": result.counts.faults,
                "simulated_ms": result.counts.simulated_ms,
                "violated": result.violation.invariant if result.violation is not None else None,
            }
            for result in results
        ],
        "violations": [
            {
                "seed": result.seed,
                "scenario": result.scenario,
                "mutation": result.mutation,
                "invariant": result.violation.invariant,
                "what": result.violation.what,
                "at_ms": result.violation.at_ms,
                "node": result.violation.node,
                "command": result.command(),
                "faults": [repr(fault) for fault in result.faults],
            }
            for result in violated
            if result.violation is not None
        ],
    }
