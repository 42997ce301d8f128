"""Every check of the repository, cheap ones first: ``python -m tests``, with ``--long`` for what takes minutes.

    python -m tests [--long] [static|unit|scenarios|simulation|runtime ...]

Stops at the first stage that fails. Needs ``pip install -e '.[dev]'``.

The tests of a stage are shared by as many processes as there are processors, at most four, file by file.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent

PROCESSES = min(4, os.cpu_count() or 1)
PYTEST = [sys.executable, "-m", "pytest", "-q", "-n", str(PROCESSES), "--dist", "loadfile"]

STAGES: Mapping[str, Sequence[Sequence[str]]] = {
    "static": (
        [sys.executable, "-m", "ruff", "check", "."],
        [sys.executable, "-m", "ruff", "format", "--check", "-q", "."],
        [sys.executable, "-m", "mypy"],
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        [sys.executable, "-m", "tests.spec"],
    ),
    "unit": ([*PYTEST, "tests/unit"],),
    "scenarios": ([*PYTEST, "tests/scenarios"],),
    "simulation": ([*PYTEST, "tests/simulation"],),
    "runtime": ([*PYTEST, "tests/runtime"],),
}


def main() -> int:
    """Run the stages asked for; returns the exit status of the first that fails."""
    parser = argparse.ArgumentParser(prog="python -m tests", description="Run the checks of this repository.")
    parser.add_argument("--long", action="store_true", help="also run the tests that take minutes")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)} (default: all)")
    args = parser.parse_args()
    unknown = [stage for stage in args.stages if stage not in STAGES]
    if unknown:
        parser.error(f"no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    took = []
    for stage in args.stages or STAGES:
        started = time.monotonic()
        for command in STAGES[stage]:
            long = ["--long"] if args.long and "pytest" in command else []
            print(f"--- {stage}: {' '.join(command[1:] if command[0] == sys.executable else command)}", flush=True)
            status = subprocess.run([*command, *long], cwd=ROOT, check=False).returncode
            if status:
                print(f"--- {stage} failed with status {status}", flush=True)
                return status
        took.append(f"{stage} {time.monotonic() - started:.0f} s")
    print(f"--- all passed: {', '.join(took)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
