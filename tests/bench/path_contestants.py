"""Ways from a client to an engine, all measured alike: in this process, and through router and libp2p."""

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
import trio

from p2pnode.engine.api import ChatMessage, Engine, GenerateRequest, Tokens
from p2pnode.testnet import Testnet
from protocol.messages.sampling import SamplingParams
from tests.bench.http_sse import MODEL
from tests.bench.path_streams import Carried, Plan, StreamResult

STREAMS_PER_CLIENT_PROCESS = 16
ROLES = ("between", "engine", "client")
"""Who spends CPU on a token: routers and proxies, what the model is in, and who asks."""


class ContestantFailed(Exception):
    """A contestant did not do what it was told to; the message is what it said."""


class Contestant(Protocol):
    """One way to an engine."""

    name: str
    floor: str
    """Whose times are subtracted from its own: the same engine without what is in between."""

    def processes(self) -> Mapping[str, Sequence[psutil.Process]]:
        """By role, the roots of process trees."""

    async def stream(self, streams: int, plan: Plan) -> Carried:
        """Run so many streams. Raises ContestantFailed."""

    async def wake(self) -> None:
        """Its turn comes."""

    def rest(self) -> None:
        """Its turn is over: what it does beside being asked must not cost the others."""


class AlwaysAwake:
    """For those who do nothing unless asked."""

    async def wake(self) -> None:
        """Nothing to do."""

    def rest(self) -> None:
        """Nothing to do."""


def family(roots: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Some processes and all their descendants; of the bench's own process, only itself."""
    found = {}
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            descendants = root.children(recursive=True) if root.pid != os.getpid() else []
            found.update({process.pid: process for process in (root, *descendants)})
    return list(found.values())


def signal_family(roots: Sequence[psutil.Process], number: int) -> None:
    """Send all of them a signal."""
    for process in family(roots):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def cpu_s(roots: Sequence[psutil.Process]) -> float:
    """CPU time that they and their descendants have spent."""
    total = 0.0
    for process in family(roots):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += float(times.user + times.system)
    return total


def memory_mib(roots: Sequence[psutil.Process]) -> tuple[float, float]:
    """RSS added up, and the same with every shared page counted once (PSS): of many processes only that is fair."""
    rss = pss = 0.0
    for process in family(roots):
        with suppress(psutil.NoSuchProcess):
            full = process.memory_full_info()
            rss, pss = rss + full.rss / 2**20, pss + full.pss / 2**20
    return rss, pss


class LineProcess:
    """A process that takes an order a line and answers each with a line of JSON."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._unread = b""

    async def order(self, order: Mapping[str, Any]) -> Any:
        """Send an order and wait for its answer. Raises ContestantFailed."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps(order).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> Any:
        """Wait for a line. Raises ContestantFailed."""
        stdout = self.process.stdout
        assert stdout is not None
        while b"\n" not in self._unread:
            piece = await stdout.receive_some()
            if not piece:
                raise ContestantFailed("a process of the bench ended; what it said is above")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        value = json.loads(line)
        if isinstance(value, dict) and "error" in value:
            raise ContestantFailed(value["error"])
        return value


@asynccontextmanager
async def open_line_process(module: str, *arguments: str) -> AsyncIterator[LineProcess]:
    """Start ``python -m MODULE`` and kill it with the block."""
    command = [sys.executable, "-m", module, *arguments]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield LineProcess(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


class InProcess(AlwaysAwake):
    """The floor: an engine consumed in the bench's own process; where a worker generates, that is counted too."""

    name = floor = "engine in process"

    def __init__(self, engine: Engine, workers: Sequence[psutil.Process] = ()) -> None:
        self._engine = engine
        self._workers = workers

    def processes(self) -> Mapping[str, Sequence[psutil.Process]]:
        return {"engine": [psutil.Process(), *self._workers]}

    async def stream(self, streams: int, plan: Plan) -> Carried:
        results: list[StreamResult] = []

        async def run(index: int) -> None:
            await trio.sleep(plan.spread_s * index / streams)
            result = StreamResult()
            began = time.perf_counter()
            for number in range(plan.answers):
                await self._answer(plan.question(index).format(number=number), plan, result)
            result.elapsed_s = time.perf_counter() - began
            results.append(result)

        async with trio.open_nursery() as nursery:
            for index in range(streams):
                nursery.start_soon(run, index)
        return Carried(results)

    async def _answer(self, question: str, plan: Plan, result: StreamResult) -> None:
        asked, arrivals, tokens = time.perf_counter(), [], 0
        prompt = await self._engine.render([ChatMessage("user", question)])
        async for event in self._engine.generate(
            GenerateRequest(tuple(prompt), SamplingParams(), bytes(32), plan.tokens)
        ):
            if isinstance(event, Tokens):
                arrivals.append(time.perf_counter())
                tokens += len(event.tokens)
        result.add(asked, arrivals, tokens, len(arrivals))


class Network(AlwaysAwake):
    """Light clients → router → miner; or, on the same sessions, frames straight from the miner to the client."""

    floor = InProcess.name

    def __init__(self, testnet: Testnet, clients: Sequence[LineProcess], *, direct: bool = False) -> None:
        self.name = "p2pnode, direct" if direct else "p2pnode"
        self.direct = direct
        self.testnet = testnet
        self.clients = clients

    def processes(self) -> Mapping[str, Sequence[psutil.Process]]:
        router, *miners = (psutil.Process(child.process.pid) for child in self.testnet.children)
        return {
            "between": [router],
            "engine": miners,
            "client": [psutil.Process(client.process.pid) for client in self.clients],
        }

    async def stream(self, streams: int, plan: Plan) -> Carried:
        """Over as few processes as hold the streams."""
        carried = Carried([])

        async def run(client: LineProcess, first: int, share: int) -> None:
            answer = await client.order(plan.order(share, first) | {"direct": self.direct})
            carried.results.extend(StreamResult(**row) for row in answer["rows"])
            carried.wire_bytes += answer["wire_bytes"]

        async with trio.open_nursery() as nursery:
            for client, first in zip(self.clients, range(0, streams, STREAMS_PER_CLIENT_PROCESS), strict=False):
                nursery.start_soon(run, client, first, min(STREAMS_PER_CLIENT_PROCESS, streams - first))
        return carried


@asynccontextmanager
async def open_clients(router: str, streams: int) -> AsyncIterator[list[LineProcess]]:
    """Start the light clients' processes, each connected once for every stream it will run."""
    async with AsyncExitStack() as stack:
        clients = []
        for first in range(0, streams, STREAMS_PER_CLIENT_PROCESS):
            share = min(STREAMS_PER_CLIENT_PROCESS, streams - first)
            clients.append(
                await stack.enter_async_context(open_line_process("tests.bench.path_client", router, str(share)))
            )
        for client in clients:
            await client.answer()
        yield clients


class HttpServer(AlwaysAwake):
    """An HTTP server, measured by the lean client."""

    def __init__(
        self, client: LineProcess, port: int, name: str, floor: str, processes: Mapping[str, Sequence[psutil.Process]]
    ) -> None:
        self.name, self.floor = name, floor
        self.order: dict[str, Any] = {"port": port, "style": "chat", "model": MODEL, "reconnect": False}
        """What the client is told beyond the plan."""
        self._client = client
        self._processes = processes

    def processes(self) -> Mapping[str, Sequence[psutil.Process]]:
        return {**self._processes, "client": [psutil.Process(self._client.process.pid)]}

    async def stream(self, streams: int, plan: Plan) -> Carried:
        answer = await self._client.order(plan.order(streams) | self.order)
        return Carried([StreamResult(**row) for row in answer["rows"]], answer["wire_bytes"])


def log_tail(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no output")
