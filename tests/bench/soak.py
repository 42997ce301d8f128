"""Hours of mixed load with miners that die: ``python -m tests.bench soak [--minutes 120] [--kill-every 60] [--json]``.

Real processes: a router that serves HTTP, three miners with the shipped model, four oracles that certify what they
answer. Half as many clients as the miners have slots ask without a pause: streamed and whole answers, several choices,
plain completions, embeddings, requests that make no sense, clients that leave in the middle, and some that wait until
the oracles have their answer in a block. Every so often a miner is killed, and started again half of that time later.

Each request must end in exactly one way that a client can tell: [DONE], an error event, or a status with an error's
body. The memory and the descriptors of all processes that nobody kills must not grow with time, and none may end. At
most a tenth of the answers that were followed may take more than two minutes to be final.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import trio

from tests.bench.soak_load import Ending
from tests.bench.soak_run import Report, SoakPlan, soak


def show(report: Report) -> None:
    """For a person."""
    print(f"{report.seconds:.0f} s, {report.clients} clients at once, {report.kills} miners killed and started again")
    print(f"{'request':<12}{'number':>8}  how they ended")
    for kind, endings in sorted(report.endings.items()):
        ways = ", ".join(f"{way} {count}" for way, count in endings.most_common())
        print(f"{kind:<12}{sum(endings.values()):>8}  {ways}")
    for name, held in report.held.items():
        first, last = held.quarters()
        memory = f"{first.rss_mib:>8.1f} -> {last.rss_mib:.1f} MiB"
        print(f"{name:<12}{memory}, {first.files:.0f} -> {last.files:.0f} descriptors")
    print(f"without an end that a client can tell: {report.count(Ending.BROKEN)}")
    for line in report.broken:
        print(f"  {line}")
    for line in report.grown():
        print(f"grown: {line}")
    for name, line in report.ended.items():
        print(f"ended: {name}: {line}")


def main(arguments: list[str]) -> int:
    """Run it; exit status 1 if a request had no end, or something grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench soak")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--kill-every", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--miners", type=int, default=3)
    parser.add_argument("--oracles", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="p2ps-") as folder:
        plan = SoakPlan(Path(folder), args.minutes * 60, args.kill_every, args.miners, args.oracles)
        report = trio.run(soak, plan, lambda said: print(said, file=sys.stderr, flush=True))
    if args.json:
        print(json.dumps(report.as_json()))
    else:
        show(report)
    return 1 if report.count(Ending.BROKEN) or report.uncertain or report.grown() or report.ended else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
