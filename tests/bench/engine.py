"""Tokens a second of the engine beside others: ``python -m tests.bench engine [--llama-server PATH] [--json]``.

Everyone serves the same prompts with as many parallel streams, one after the other within each repetition, so that a
busy machine hits all of them alike; figures are medians, and the ratios are what counts. Then: how often another
micro-batch than the protocol's would have drawn another token, and by which margin at most.

llama-cpp-python's own server needs ``pip install 'llama-cpp-python[server]==0.3.36'``; llama.cpp's own is built from
``vendor/llama.cpp`` of llama-cpp-python's source archive (target ``llama-server``).
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypedDict

import trio

import p2pnode.models
from p2pnode.engine.api import MICROBATCH_TOKENS, ChatMessage, Engine, EngineConfig, GenerateRequest, Tokens
from p2pnode.engine.supervisor import open_engine
from p2pnode.models.gguf_file import Shape
from p2pnode.models.random_gguf import write_random_gguf
from protocol.messages.sampling import SamplingParams
from protocol.session.sampling import lane_seed
from tests.bench.engine_rivals import HighLevel, Rival, bundled_server, llama_server

SHIPPED = Path(p2pnode.models.__file__).parent / "shipped" / "tiny-q8_0.gguf"
SHAPE_94MB = Shape(layers=12, width=768, heads=12, ff=2_048, vocabulary=2_048, context=2_048)
STREAMS = (1, 8, 16)
SLOTS = max(STREAMS)
CONTEXT = 512
OTHER_MICROBATCH = 512
TARGETS = {"llama.cpp server": 0.95, "llama-cpp-python server": 3.0}
"""At 8 streams of the 94 MB model: ours divided by theirs, at least."""


class Speed(TypedDict):
    """One contestant on one model at one number of streams."""

    model: str
    contestant: str
    streams: int
    tokens_per_second: float
    ours_divided_by_it: float


class Mismatch(TypedDict):
    """What another micro-batch would have drawn of the tokens of this one."""

    model: str
    temperature: float
    tokens: int
    margins_not_zero_same: int
    share_differing: float
    margin_max: float


class Ours:
    """This engine, through its process boundary."""

    name = "p2pnode"
    parallel = True

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def stream(self, text: str, index: int, max_tokens: int) -> int:
        """Serve one stream; returns how many tokens came."""
        request = await ask(self._engine, text, index, max_tokens, SamplingParams())
        return len(await generate(self._engine, request))


async def ask(engine: Engine, text: str, lane: int, max_tokens: int, sampling: SamplingParams) -> GenerateRequest:
    prompt = await engine.render([ChatMessage("user", text)])
    return GenerateRequest(tuple(prompt), sampling, lane_seed(bytes(32), 0, lane), max_tokens)


async def generate(engine: Engine, request: GenerateRequest) -> list[int]:
    ids: list[int] = []
    async for event in engine.generate(request):
        if isinstance(event, Tokens):
            ids += [token.id for token in event.tokens]
    return ids


def question(index: int) -> str:
    """What the shipped model answers at length."""
    animals = ("rabbit", "bear", "fox", "owl", "cat", "dog", "frog", "horse")
    return f"Tell me a story about a {animals[index % len(animals)]}."


async def measure_once(rival: Rival, streams: int, max_tokens: int) -> float:
    """Tokens a second over all streams of one round."""
    counts = [0] * streams

    async def run(index: int) -> None:
        counts[index] = await rival.stream(question(index), index, max_tokens)

    began = trio.current_time()
    if rival.parallel:
        async with trio.open_nursery() as nursery:
            for index in range(streams):
                nursery.start_soon(run, index)
    else:
        for index in range(streams):
            await run(index)
    return sum(counts) / (trio.current_time() - began)


async def measure_model(name: str, path: Path, args: argparse.Namespace) -> list[Speed]:
    async with AsyncExitStack() as stack:
        config = EngineConfig(path, slots=SLOTS, context_slot_tokens=CONTEXT, threads=args.threads)
        rivals: list[Rival] = [Ours(await stack.enter_async_context(open_engine(config)))]
        rivals.append(HighLevel(path, CONTEXT, args.threads))
        for opened in (
            bundled_server(path, CONTEXT, args.threads),
            llama_server(args.llama_server, path, CONTEXT, SLOTS, args.threads),
        ):
            server = await stack.enter_async_context(opened)
            if server is not None:
                rivals.append(server)
        figures: dict[tuple[str, int], list[float]] = {}
        for repetition in range(args.repetitions + 1):
            for streams in args.streams:
                # The order turns round each time, and the first round only warms everyone up.
                for rival in rivals if repetition % 2 else reversed(rivals):
                    figure = await measure_once(rival, streams, args.tokens)
                    if repetition:
                        figures.setdefault((rival.name, streams), []).append(figure)
    medians = {key: statistics.median(values) for key, values in figures.items()}
    return [
        Speed(
            model=name,
            contestant=rival.name,
            streams=streams,
            tokens_per_second=round(medians[rival.name, streams], 1),
            ours_divided_by_it=round(medians[Ours.name, streams] / medians[rival.name, streams], 3),
        )
        for streams in args.streams
        for rival in rivals
    ]


async def measure_mismatch(name: str, path: Path, args: argparse.Namespace) -> list[Mismatch]:
    """Generate with the protocol's micro-batch, score with the same and with another."""
    found: list[Mismatch] = []
    config = EngineConfig(path, slots=8, context_slot_tokens=CONTEXT, threads=args.threads)
    other_config = EngineConfig(
        path, slots=2, context_slot_tokens=CONTEXT, threads=args.threads, microbatch_tokens=OTHER_MICROBATCH
    )
    async with open_engine(config) as engine, open_engine(other_config) as other:
        for temperature_bp in (0, 7_000, 10_000):
            sampling = SamplingParams(temperature_bp=temperature_bp)
            same: list[float] = []
            differing: list[float] = []

            async def run(
                index: int, sampling: SamplingParams = sampling, same: list[float] = same, far: list[float] = differing
            ) -> None:
                request = await ask(engine, question(index), index, args.tokens, sampling)
                claimed = await generate(engine, request)
                same.extend(score.margin for score in await engine.score(request, claimed))
                far.extend(score.margin for score in await other.score(request, claimed))

            async with trio.open_nursery() as nursery:
                for index in range(args.prompts):
                    nursery.start_soon(run, index)
            found.append(
                Mismatch(
                    model=name,
                    temperature=temperature_bp / 10_000,
                    tokens=len(same),
                    margins_not_zero_same=sum(margin > 0 for margin in same),
                    share_differing=sum(margin > 0 for margin in differing) / len(differing),
                    margin_max=round(max(differing), 4),
                )
            )
    return found


def show(speeds: Sequence[Speed], mismatches: Sequence[Mismatch]) -> None:
    print(f"{'model':8} {'contestant':26} {'streams':>7} {'tokens/s':>9} {'ours / it':>10}")
    for row in speeds:
        print(
            f"{row['model']:8} {row['contestant']:26} {row['streams']:7} {row['tokens_per_second']:9.1f} "
            f"{row['ours_divided_by_it']:10.2f}"
        )
    print(f"\nmicro-batch {MICROBATCH_TOKENS} generated, same and {OTHER_MICROBATCH} scored")
    print(
        f"{'model':8} {'T':>4} {'tokens':>7} {'same: margin > 0':>17} {'other: differing':>17} {'largest margin':>15}"
    )
    for found in mismatches:
        print(
            f"{found['model']:8} {found['temperature']:4.1f} {found['tokens']:7} {found['margins_not_zero_same']:17} "
            f"{found['share_differing']:16.3%} {found['margin_max']:15.4f}"
        )


def missed_targets(speeds: Sequence[Speed]) -> list[str]:
    return [
        f"{row['contestant']}: {row['ours_divided_by_it']:.2f}, target {TARGETS[row['contestant']]}"
        for row in speeds
        if row["model"] == "94 MB"
        and row["streams"] == 8
        and row["ours_divided_by_it"] < TARGETS.get(row["contestant"], 0.0)
    ]


def main(arguments: list[str]) -> int:
    """Measure; exit status 1 if a target is missed or an honest margin is not 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench engine")
    parser.add_argument("--llama-server", type=Path, help="the binary of llama.cpp's own server")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="per stream (default 128)")
    parser.add_argument("--prompts", type=int, default=24, help="for the mismatch rate (default 24)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--streams", type=int, nargs="+", default=list(STREAMS), choices=STREAMS)
    parser.add_argument("--only", choices=("shipped", "94 MB"), help="one of the two models")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    speeds: list[Speed] = []
    mismatches: list[Mismatch] = []
    with tempfile.TemporaryDirectory() as folder:
        models = {"shipped": SHIPPED, "94 MB": Path(folder) / "random.gguf"}
        for name, path in models.items():
            if args.only in (None, name):
                if not path.exists():
                    write_random_gguf(path, SHAPE_94MB)
                speeds += trio.run(measure_model, name, path, args)
                mismatches += trio.run(measure_mismatch, name, path, args)
    missed = missed_targets(speeds)
    unequal = sum(found["margins_not_zero_same"] for found in mismatches)
    if args.json:
        print(json.dumps({"speeds": speeds, "mismatches": mismatches, "missed_targets": missed}))
    else:
        show(speeds, mismatches)
        for line in missed:
            print(f"missed: {line}")
    if unequal:
        print(f"{unequal} honest tokens did not score 0 at the protocol's own micro-batch", file=sys.stderr)
    return 1 if missed or unequal else 0
