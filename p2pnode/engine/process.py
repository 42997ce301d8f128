"""One worker process and the channel to it, as trio sees them."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

import p2pnode
import p2pnode.engine.wire as wire

RECEIVE_BYTES = 256 * 1_024
STDERR_BYTES_MAX = 4_096
EXIT_GRACE_S = 2.0


class WorkerProcess:
    """A running worker. ``pid`` is there for tests and for people with a debugger."""

    def __init__(self, process: trio.Process, stream: trio.SocketStream) -> None:
        self._process = process
        self._stream = stream
        self._frames = wire.FrameBuffer()
        self._stderr = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    async def send(self, data: bytes) -> None:
        """Send encoded messages. Raises trio.BrokenResourceError when the worker is gone."""
        await self._stream.send_all(data)

    async def receive(self) -> list[wire.FromWorker]:
        """What arrived, at least one message; an empty list when the worker is gone."""
        while True:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError:
                return []
            if not data:
                return []
            bodies = self._frames.push(data)
            if bodies:
                return [wire.decode_from_worker(body) for body in bodies]

    async def keep_stderr(self) -> None:
        """Read what the worker complains of, so that it never blocks on it; the end of it is kept."""
        stderr = self._process.stderr
        if stderr is not None:
            async for data in stderr:
                self._stderr = (self._stderr + bytes(data))[-STDERR_BYTES_MAX:]

    async def fate(self) -> str:
        """How the process ended, for people; waits until it has."""
        code = await self._process.wait()
        lines = self._stderr.decode(errors="replace").strip().splitlines()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        return f"{how} ({lines[-1]})" if lines else how

    async def close(self) -> None:
        """Close the channel, which ends the worker, and see the process out: nothing of it remains."""
        with trio.CancelScope(shield=True):
            await self._stream.aclose()
            with trio.move_on_after(EXIT_GRACE_S):
                await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            with trio.move_on_after(EXIT_GRACE_S):
                await self.keep_stderr()
            if self._process.stderr is not None:
                await self._process.stderr.aclose()


@asynccontextmanager
async def start_worker(*, debug: bool) -> AsyncIterator[WorkerProcess]:
    """A worker that waits for what to load; it is gone when the block is left."""
    ours, theirs = socket.socketpair()
    with theirs:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        # Spawning takes a thread and milliseconds; a cancellation in between would leave the process to nobody.
        with trio.CancelScope(shield=True):
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "p2pnode.engine.worker", "--channel", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=None if debug else subprocess.DEVNULL,
                stderr=None if debug else subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                env=_environment(),
            )
    worker = WorkerProcess(process, stream)
    try:
        yield worker
    finally:
        await worker.close()


def _environment() -> dict[str, str]:
    """Ours, with this very code first on the import path."""
    root = str(Path(p2pnode.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
