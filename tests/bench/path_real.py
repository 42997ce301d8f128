"""The path bench with llama.cpp in it: ``python -m tests.bench path --real [--llama-server PATH]``.

The shipped model and the 94 MB one of the engine bench, one thread each; the engine in this process's worker, the same
engine through router and libp2p, and llama.cpp's own server spoken to directly, by the lean HTTP client, with as many
slots. The figure with a target is tokens a second of 8 streams on the 94 MB model: ours through the network divided by
llama.cpp's server without one.
"""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import trio

from p2pnode.engine.api import EngineConfig
from p2pnode.engine.supervisor import open_engine
from p2pnode.models.random_gguf import write_random_gguf
from tests.bench.engine import CONTEXT, SHAPE_94MB, SHIPPED, question
from tests.bench.engine_rivals import as_prompt, llama_server
from tests.bench.path_contestants import Contestant, HttpServer, InProcess, open_line_process
from tests.bench.path_rounds import open_network, run_rounds
from tests.bench.path_streams import Plan
from tests.bench.path_table import OURS, Verdict, show_rows

STREAMS = (1, 8)
TARGET_STREAMS = 8
TARGET_RATIO = 0.9
MODEL_94MB = "94 MB"
SERVER = "llama.cpp server"
THREADS = 1
SAMPLING = {"temperature": 0.7, "top_k": 64, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}


def measure(plan: Plan, binary: Path | None) -> dict[str, Any]:
    """Both models, as plain values."""
    questions = tuple(question(index) + " ({number})" for index in range(max(STREAMS)))
    plan = replace(plan, streams=STREAMS, questions=questions, exact=False)
    with tempfile.TemporaryDirectory() as folder:
        random = Path(folder) / "random.gguf"
        write_random_gguf(random, SHAPE_94MB)
        models = {"shipped": SHIPPED, MODEL_94MB: random}
        config = Path(folder) / "config.toml"
        config.write_text(f"[miner]\ncontext_tokens = {CONTEXT}\n", encoding="utf-8")
        return {name: trio.run(_measure_model, plan, path, config, binary) for name, path in models.items()}


async def _measure_model(plan: Plan, path: Path, node_config: Path, binary: Path | None) -> dict[str, Any]:
    config = EngineConfig(path, slots=max(plan.streams) + 1, context_slot_tokens=CONTEXT, threads=THREADS)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(open_engine(config))
        contestants: list[Contestant] = [InProcess(engine, psutil.Process().children())]
        ours, _ = await stack.enter_async_context(open_network(plan, False, model=str(path), config=node_config))
        contestants += ours
        if binary is not None:
            contestants.append(await stack.enter_async_context(_open_server(binary, path, config.slots)))
        missing: dict[str, str] = {} if binary is not None else {SERVER: "no --llama-server PATH given"}
        rounds = await run_rounds(contestants, plan, missing)
        return {"rows": rounds.rows(), "missing": missing}


@asynccontextmanager
async def _open_server(binary: Path, path: Path, slots: int) -> AsyncIterator[HttpServer]:
    async with (
        open_line_process("tests.bench.http_client") as client,
        llama_server(binary, path, CONTEXT, slots, THREADS) as server,
    ):
        assert server is not None
        await client.answer()
        found = [child for child in psutil.Process().children() if child.cmdline()[:1] == [str(binary)]]
        contestant = HttpServer(client, server.port, SERVER, InProcess.name, {"engine": found})
        # It closes the connection after each streamed answer.
        contestant.order["reconnect"] = True
        contestant.order |= {"style": "completion", "options": SAMPLING, "template": as_prompt("{}")}
        yield contestant


def verdicts(figures: Mapping[str, Any]) -> list[Verdict]:
    """The one with a target; none where llama.cpp's server was not there."""
    rates = {
        row["contestant"]: row["carried"] for row in figures[MODEL_94MB]["rows"] if row["streams"] == TARGET_STREAMS
    }
    if SERVER not in rates:
        return []
    ratio = rates[OURS] / rates[SERVER]
    what = f"94 MB model at {TARGET_STREAMS}, tokens/s / {SERVER}'s"
    return [(what, ratio, f">= {TARGET_RATIO:g}", ratio >= TARGET_RATIO)]


def show(figures: Mapping[str, Any]) -> None:
    """Print the figures for a person."""
    for model, found in figures.items():
        print(f"\n{model} model, llama.cpp, one thread")
        show_rows(found["rows"])
        for name, reason in found["missing"].items():
            print(f"{name}: not measured: {reason}")
