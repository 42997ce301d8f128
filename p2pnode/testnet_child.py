"""One process of a testnet, as its parent sees it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from p2pnode.control import SOCKET, ask_control


class Child:
    """One node's process."""

    def __init__(self, name: str, folder: Path, process: trio.Process) -> None:
        self.name = name
        self.folder = folder
        self.process = process
        self.ready: dict[str, Any] = {}

    @property
    def log(self) -> Path:
        """Where its log is."""
        return self.folder / "log.txt"

    @property
    def addresses(self) -> Sequence[str]:
        """Where it is reached."""
        return list(self.ready.get("addresses", ()))

    def ask(self, what: str) -> dict[str, Any]:
        """Ask its control socket. Raises ControlError."""
        return ask_control(self.folder / SOCKET, what)


async def drain(child: Child) -> None:
    """Read what the node prints: the first line tells that it is ready."""
    assert child.process.stdout is not None
    buffer = b""
    try:
        async for chunk in child.process.stdout:
            if not child.ready:
                buffer += chunk
                if b"\n" in buffer:
                    child.ready = json.loads(buffer.partition(b"\n")[0])
    except (trio.ClosedResourceError, trio.BrokenResourceError):
        return


async def bury(child: Child) -> None:
    """Wait for the end of a node that was told to end, or killed, and let go of its pipes."""
    await child.process.wait()
    for pipe in (child.process.stdin, child.process.stdout):
        if pipe is not None:
            await pipe.aclose()


def last_line(log: Path) -> str:
    """What a log ends with; its last error if it has one."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no output"])[-1]
