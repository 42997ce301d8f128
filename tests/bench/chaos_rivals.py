"""The chaos bench's faults for sglang-router and vllm-router: three engines over HTTP, one of them struck.

The engines are the fake of the path bench (tests/bench/fake_http.py), a process each; whichever serves the stream names
itself in every event. The routers are given health checks each second and retries, and are started anew for every
fault, so that none pays for the one before. A stream that says nothing for ``LOST_ANSWER_S`` is given up, as is any of
the twelve requests after it. Those are made when the struck stream is over, but at the latest ``AFTER_LATEST_S`` after
the strike: other users do not wait until one has given up.
Strikes are at the middle of a stream: where makes no difference to a router that does not count tokens.
"""

import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from p2pnode.transport.unwrap import unwrapped
from tests.bench.chaos_faults import Fault, Proxy
from tests.bench.chaos_rows import LOST_ANSWER_S, Row, Stream, compare
from tests.bench.http_stream import StreamBroken, chat
from tests.bench.path_contestants import LineProcess
from tests.bench.rivals import free_port, open_rival

NAMES = ("sglang-router", "vllm-router")
ENGINES = 3
TOKENS = 256
PROMPT = "Tell me a story about a rabbit."
WARM_UP = 6
AFTER, AFTER_AT_ONCE, AFTER_TOKENS = 12, 4, 16
AFTER_LATEST_S = 1.0


@dataclass
class HttpEngine:
    """One engine's process."""

    name: str
    port: int
    process: trio.Process


class HttpEngines:
    """Three engines, behind cables that can be cut where that is the fault."""

    def __init__(self, nursery: trio.Nursery, *, cables: bool) -> None:
        self.engines: dict[str, HttpEngine] = {}
        self.proxies: dict[str, Proxy] = {}
        self._nursery = nursery
        self._cables = cables

    async def start(self) -> list[str]:
        """Start all; returns what a router is told of them."""
        for number in range(1, ENGINES + 1):
            engine = await self._start(f"engine-{number}", free_port())
            if self._cables:
                proxy = self.proxies[engine.name] = Proxy(engine.port)
                await proxy.serve(self._nursery)
        ports = [self.proxies[name].port if self._cables else engine.port for name, engine in self.engines.items()]
        return [f"http://127.0.0.1:{port}" for port in ports]

    async def _start(self, name: str, port: int) -> HttpEngine:
        command = [sys.executable, "-m", "tests.bench.fake_http", name, "--port", str(port)]
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        engine = self.engines[name] = HttpEngine(name, port, process)
        await LineProcess(process).answer()
        return engine

    async def revive(self, dead: HttpEngine) -> None:
        """Start a killed engine again, where it was."""
        await self._start(dead.name, dead.port)

    async def stop(self) -> None:
        """Kill all."""
        for engine in self.engines.values():
            with suppress(ProcessLookupError):
                engine.process.kill()
            await engine.process.wait()


@asynccontextmanager
async def open_engines(*, cables: bool) -> AsyncIterator[tuple[HttpEngines, list[str]]]:
    """Three engines and their URLs."""
    with unwrapped():
        async with trio.open_nursery() as nursery:
            engines = HttpEngines(nursery, cables=cables)
            try:
                yield engines, await engines.start()
            finally:
                with trio.CancelScope(shield=True):
                    await engines.stop()
                nursery.cancel_scope.cancel()


async def measure(name: str, faults: Sequence[str], repeats: int, cache: Path) -> list[Row]:
    """One router under every fault. Raises RivalMissing."""
    rows = []
    for kind in faults:
        row = Row(kind, "middle", name)
        for number in range(repeats):
            print(f"{name}: {kind} {number + 1} of {repeats}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="p2pb-", ignore_cleanup_errors=True) as scratch:
                async with (
                    open_engines(cables=kind == "cut") as (engines, urls),
                    open_rival(name, urls, cache, Path(scratch)) as rival,
                ):
                    for _ in range(WARM_UP):
                        await _request(rival.port, AFTER_TOKENS)
                    strike = Strike(engines, rival.port, kind, await _request(rival.port, TOKENS))
                    row.streams.append(await strike.run())
                    row.requests_after += AFTER
                    row.errors_after += len(strike.errors)
        rows.append(row)
    return rows


class Strike:
    """One stream, the fault that strikes its engine, and twelve requests while the fault lasts."""

    def __init__(self, engines: HttpEngines, port: int, kind: str, undisturbed: Sequence[str]) -> None:
        self.errors: list[str] = []
        self._engines, self._port, self._kind, self._undisturbed = engines, port, kind, undisturbed
        self._fault: Fault[HttpEngine] | None = None
        self._struck, self._over = trio.Event(), trio.Event()

    async def run(self) -> Stream:
        """From the first token to the healed engine."""
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as requests:
                requests.start_soon(self._requests_after)
                stream = await self._stream(nursery)
                self._struck.set()
                self._over.set()
            if self._fault is not None:
                await self._fault.heal()
        stream.error = "; ".join(filter(None, [stream.error, *sorted(set(self.errors))]))
        return stream

    async def _stream(self, nursery: trio.Nursery) -> Stream:
        last_s, gap_s, error, shown, servers = 0.0, 0.0, "", list[str](), set[str]()
        try:
            async with aclosing(chat(self._port, PROMPT, TOKENS)) as answer:
                while True:
                    with trio.fail_after(LOST_ANSWER_S):
                        said = await anext(answer)
                    now = trio.current_time()
                    servers.add(said.server)
                    shown = said.words
                    if self._fault is not None:
                        gap_s, last_s = max(gap_s, now - last_s), now
                    elif len(shown) >= len(self._undisturbed) // 2:
                        last_s = now
                        self._strike(said.server, nursery)
        except StopAsyncIteration:
            pass
        except trio.TooSlowError:
            error = f"nothing for {LOST_ANSWER_S:g} s, given up"
        except (StreamBroken, OSError) as broken:
            error = str(broken)
        gap_s = max(gap_s, trio.current_time() - last_s)
        differences = compare(shown, self._undisturbed)
        return Stream(completed=not error, **differences, segments=len(servers), gap_ms=gap_s * 1_000, error=error)

    def _strike(self, server: str, nursery: trio.Nursery) -> None:
        self._fault = Fault(self._kind, self._engines, self._engines.engines[server])
        self._fault.strike(nursery)
        self._struck.set()

    async def _requests_after(self) -> None:
        await self._struck.wait()
        with trio.move_on_after(AFTER_LATEST_S):
            await self._over.wait()
        limit = trio.CapacityLimiter(AFTER_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for _ in range(AFTER):
                nursery.start_soon(self._try_request, limit)

    async def _try_request(self, limit: trio.CapacityLimiter) -> None:
        async with limit:
            try:
                with trio.fail_after(LOST_ANSWER_S):
                    await _request(self._port, AFTER_TOKENS)
            except trio.TooSlowError:
                self.errors.append(f"after: nothing whole within {LOST_ANSWER_S:g} s")
            except (StreamBroken, OSError) as broken:
                self.errors.append(f"after: {broken}")


async def _request(port: int, tokens: int) -> list[str]:
    """A whole answer. Raises StreamBroken, OSError."""
    words: list[str] = []
    async with aclosing(chat(port, PROMPT, tokens)) as answer:
        async for said in answer:
            words = said.words
    if len(words) != tokens:
        raise StreamBroken(f"{len(words)} of {tokens} tokens")
    return words
