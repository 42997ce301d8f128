"""Running ``p2pnode`` as a person does: a process of its own, its output, its exit status."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ENTRY = [sys.executable, "-m", "p2pnode.cli.entry"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without its own settings of p2pnode."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("P2PNODE_", "XDG_", "NO_COLOR"))}
    return {**kept, "P2PNODE_HOME": str(home), "HOME": str(home), **more}


def p2pnode(home: Path, *arguments: str | Path, limit: str = "", **env: str) -> Ended:
    """Run one command to its end, under a limit of the shell (``-f 500``: files of 500 KiB); the home is its world."""
    # The shell sets the limit: Python's own way, preexec_fn, is not safe beside threads.
    limited = ["bash", "-c", f'ulimit {limit} && exec "$@"', "bash"] if limit else []
    done = subprocess.run(
        [*limited, *ENTRY, *map(str, arguments)],
        env=environment(home, **env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def assert_refused(ended: Ended, said: str, *, status: int = 1) -> None:
    """A short error with a next step, a status that tells, no traceback, nothing on stdout."""
    assert ended.status == status, ended
    lines = ended.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "next"], ended.err
    assert said in lines[0]
    assert "Traceback" not in ended.err
    assert "\x1b" not in ended.err
    assert ended.out == ""
