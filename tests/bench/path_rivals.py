"""Rivals of the path bench: LiteLLM's proxy, Ray Serve and vllm-router, each before the same fake engine over HTTP.

They are measured as a difference too: from the same client speaking to the same HTTP engine directly. They do less than
ours: nothing is encrypted, signed or checked, and the engine is a server of its own.
"""

import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import trio

from tests.bench.path_contestants import HttpServer, LineProcess, open_line_process, signal_family
from tests.bench.rivals import open_rivals

FLOOR = "engine over HTTP"
NAMES = ("LiteLLM proxy", "Ray Serve", "Ray Serve, HAProxy", "vllm-router")


WAKE_S = 1.0
"""From the thaw to the first question: timers that ran out meanwhile have been dealt with."""


class RivalServer(HttpServer):
    """A rival, stopped while it is others' turn: Ray alone spends a tenth of a core on having nothing to do."""

    async def wake(self) -> None:
        """Let its processes go on."""
        signal_family(self.processes()["between"], signal.SIGCONT)
        await trio.sleep(WAKE_S)

    def rest(self) -> None:
        """Stop its processes."""
        signal_family(self.processes()["between"], signal.SIGSTOP)


@asynccontextmanager
async def open_http_contestants(
    streams: int, names: Sequence[str], cache: Path
) -> AsyncIterator[tuple[LineProcess, list[HttpServer], dict[str, str]]]:
    """The client that measures, the engine behind HTTP spoken to directly, the rivals that run, and why the others do
    not."""
    with tempfile.TemporaryDirectory(prefix="p2pb-", ignore_cleanup_errors=True) as scratch:
        async with (
            open_line_process("tests.bench.fake_http", "engine", "--slots", str(streams + 1)) as engine,
            open_line_process("tests.bench.http_client") as client,
        ):
            port = (await engine.answer())["port"]
            await client.answer()
            engine_processes = {"engine": [psutil.Process(engine.process.pid)]}
            contestants = [HttpServer(client, port, FLOOR, FLOOR, engine_processes)]
            async with open_rivals(names, [f"http://127.0.0.1:{port}"], cache, Path(scratch)) as (running, missing):
                for rival in running:
                    processes = {"between": [rival.process], **engine_processes}
                    contestants.append(RivalServer(client, rival.port, rival.name, FLOOR, processes))
                for one in contestants:
                    one.rest()
                yield client, contestants, missing
