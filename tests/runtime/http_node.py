"""A node that serves HTTP, as a process of its own: router and miner in one, with the shipped model."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.runtime.cli import ENTRY, environment

MODEL = "tiny"


@dataclass(frozen=True, slots=True)
class HttpNode:
    """A process that serves HTTP, and what it said when it was ready."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    errors: Path

    @property
    def url(self) -> str:
        """Without /v1."""
        url: str = self.ready["http"]["urls"][0]
        return url

    @property
    def memory_bytes(self) -> int:
        """What it holds, without its engine's process."""
        held: int = psutil.Process(self.process.pid).memory_info().rss
        return held

    @property
    def descriptors(self) -> int:
        """Files and sockets that it has open."""
        count: int = psutil.Process(self.process.pid).num_fds()
        return count

    def stop(self, signal_: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(signal_)
        return self.process.wait(60)


@contextmanager
def http_process(home: Path, *arguments: str, **env: str) -> Iterator[HttpNode]:
    """One that prints a document when it is ready; it is gone after the block."""
    errors = home / f"errors-{len(list(home.iterdir()))}.txt"
    with errors.open("w") as log:
        process = subprocess.Popen(
            [*ENTRY, *arguments, "--json"],
            env=environment(home, **env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield HttpNode(process, _document(process, errors), errors)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _document(process: subprocess.Popen[str], errors: Path) -> dict[str, Any]:
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        try:
            document: dict[str, Any] = json.loads(text)
        except ValueError:
            continue
        return document
    raise AssertionError(f"it ended before it was ready: {errors.read_text()}")


def http_node(home: Path, **env: str) -> Any:
    """``p2pnode run`` on a free port, without a limit of requests unless it is set."""
    settings = {"P2PNODE_HTTP_REQUESTS_MINUTE": "0", "P2PNODE_NODE_STOP_S": "20", **env}
    os.makedirs(home, exist_ok=True)
    return http_process(home, "run", "--http", "127.0.0.1:0", **settings)
