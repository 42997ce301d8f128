"""The engine's worker process: exact tokens, and what happens when it, its parent or its file fails."""

import os
import select
import signal
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
import trio
from numpy.typing import NDArray

import p2pnode.engine.wire as wire
import p2pnode.models
from p2pnode.engine import supervisor
from p2pnode.engine.api import (
    ChatMessage,
    Engine,
    EngineConfig,
    EngineError,
    EngineUnavailable,
    Finished,
    GenerateRequest,
    ModelLoadError,
    Token,
    Tokens,
)
from p2pnode.engine.llama import Llama
from p2pnode.engine.supervisor import SupervisedEngine, open_engine
from protocol.messages.sampling import SamplingParams
from protocol.session.sampling import lane_seed

MODEL = Path(p2pnode.models.__file__).parent / "shipped" / "tiny-q8_0.gguf"
CONFIG = EngineConfig(MODEL, slots=8, threads=1)


def pid_of(engine: Engine) -> int:
    assert isinstance(engine, SupervisedEngine)
    assert engine.worker is not None
    return engine.worker.pid


async def ask(engine: Engine, text: str, lane: int, max_tokens: int = 120) -> GenerateRequest:
    prompt = await engine.render([ChatMessage("user", text)])
    params = SamplingParams(temperature_bp=10_000)
    return GenerateRequest(tuple(prompt), params, lane_seed(bytes(32), 0, lane), max_tokens)


async def collect(engine: Engine, request: GenerateRequest) -> list[Token]:
    tokens: list[Token] = []
    async for event in engine.generate(request):
        if isinstance(event, Tokens):
            tokens += event.tokens
    return tokens


async def test_tokens_are_the_same_alone_and_among_eight_and_score_zero() -> None:
    async with open_engine(CONFIG) as engine:
        requests = [await ask(engine, f"Tell me a story about {lane} rabbits.", lane) for lane in range(9)]
        alone = [await collect(engine, request) for request in requests]
        together: dict[int, list[Token]] = {}

        async def run(lane: int) -> None:
            together[lane] = await collect(engine, requests[lane])

        async with trio.open_nursery() as nursery:
            for lane in range(9):
                nursery.start_soon(run, lane)
        assert [together[lane] for lane in range(9)] == alone
        for request, tokens in zip(requests, alone, strict=True):
            scores = await engine.score(request, [token.id for token in tokens])
            assert {score.margin for score in scores} == {0.0}


@pytest.mark.parametrize("threads", [1, 2])
def test_logits_are_the_same_bits_prefilled_generated_or_in_company(threads: int) -> None:
    """Past the length at which llama.cpp splits the attention of a lone row by thread."""
    model = Llama(MODEL, slots=4, threads=threads)
    tokens = np.random.default_rng(1).integers(300, 2_000, 290).astype(np.int32)
    positions = np.arange(290, dtype=np.int32)

    def feed(slot: int, start: int, stop: int) -> NDArray[np.float32]:
        owner = np.full(stop - start, slot, dtype=np.int32)
        rows = slice(start, stop)
        logits = model.decode(tokens[rows], positions[rows], owner, positions[rows] == stop - 1)
        return logits.copy()

    for slot in (0, 1, 2):
        for start in range(0, 256, 32):
            feed(slot, start, start + 32)
        feed(slot, 256, 280)
    prefilled = feed(0, 280, 286)
    for start in range(280, 286):
        alone = feed(1, start, start + 1)
    for start in range(280, 285):
        feed(2, start, start + 1)
    model.copy(1, 3, 285)
    model.forget(1, 285)
    row = np.full(3, 285, dtype=np.int32)
    every = np.ones(3, dtype=bool)
    company = model.decode(tokens[row], row, np.array([1, 2, 3], dtype=np.int32), every).copy()
    model.close()
    assert (alone == prefilled).all()
    assert (company == prefilled).all()


async def test_a_killed_worker_is_replaced_and_streams_go_on_from_their_next_token() -> None:
    async with open_engine(CONFIG) as engine:
        requests = [await ask(engine, f"Tell me a story about {lane} bears.", lane) for lane in range(4)]
        expected = [await collect(engine, request) for request in requests]
        results: dict[int, list[Token]] = {}
        finished: dict[int, Finished] = {}

        async def run(lane: int) -> None:
            tokens: list[Token] = []
            async for event in engine.generate(requests[lane]):
                match event:
                    case Tokens():
                        if not tokens and lane < 2:
                            os.kill(pid_of(engine), signal.SIGKILL)
                        tokens += event.tokens
                    case Finished():
                        finished[lane] = event
            results[lane] = tokens

        for lane in range(4):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, lane)
                nursery.start_soon(run, (lane + 2) % 4)
        assert [results[lane] for lane in range(4)] == expected
        for lane in range(4):
            assert finished[lane].completion_tokens == len(expected[lane])
            assert finished[lane].prompt_tokens == len(requests[lane].prompt)
        assert (await engine.stats()).worker_restarts >= 2


async def test_questions_survive_a_killed_worker_too() -> None:
    async with open_engine(CONFIG) as engine:
        expected = await engine.tokenize("Where does a bear live?")
        os.kill(pid_of(engine), signal.SIGKILL)
        assert await engine.tokenize("Where does a bear live?") == expected


async def test_a_worker_that_dies_too_often_is_given_up() -> None:
    async with open_engine(EngineConfig(MODEL, threads=1, restarts_per_minute_max=1)) as engine:
        os.kill(pid_of(engine), signal.SIGKILL)
        await engine.stats()
        request = await ask(engine, "Tell me a story.", 0)
        with pytest.raises(EngineUnavailable, match="died 2 times within a minute; at last it was killed by SIGKILL"):
            async for _ in engine.generate(request):
                os.kill(pid_of(engine), signal.SIGKILL)
        with pytest.raises(EngineUnavailable):
            await engine.stats()


async def test_a_generation_that_kills_its_worker_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_engine(CONFIG) as engine:
        poison, harmless = await ask(engine, "poison", 0), await ask(engine, "Who are you?", 1)
        expected = await collect(engine, harmless)
        send = engine._send  # type: ignore[attr-defined]

        def die_of_poison(message: wire.ToWorker) -> None:
            if isinstance(message, wire.Generate) and message.request.prompt == poison.prompt:
                os.kill(pid_of(engine), signal.SIGKILL)
            send(message)

        monkeypatch.setattr(engine, "_send", die_of_poison)
        with pytest.raises(EngineError, match="killed by SIGKILL, 3 times during this generation"):
            await collect(engine, poison)
        assert await collect(engine, harmless) == expected


async def test_a_file_that_vanished_is_named_when_the_worker_cannot_come_back(tmp_path: Path) -> None:
    copy = tmp_path / "model.gguf"
    copy.write_bytes(MODEL.read_bytes())
    async with open_engine(EngineConfig(copy, threads=1)) as engine:
        copy.unlink()
        os.kill(pid_of(engine), signal.SIGKILL)
        with pytest.raises(EngineUnavailable, match=r"cannot be restarted: .*model\.gguf: No such file"):
            await engine.stats()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"", "not b'GGUF'"),
        (b"PK\x03\x04 something else", "not b'GGUF'"),
        (b"GGUF" + b"\xff" * 4_000, "cannot load it"),
        (MODEL.read_bytes()[:1_000_000], "corrupted or incomplete"),
    ],
    ids=["missing", "empty", "other", "corrupt", "truncated"],
)
async def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=message) as caught:
        async with open_engine(EngineConfig(path, threads=1)):
            pass
    assert str(path) in str(caught.value)


async def test_errors_of_the_block_pass_unwrapped_and_no_process_is_left() -> None:
    with pytest.raises(KeyError):
        async with open_engine(CONFIG) as engine:
            pid = pid_of(engine)
            raise KeyError
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(EngineUnavailable, match="closed"):
        await engine.stats()


async def test_a_worker_ignores_ctrl_c() -> None:
    async with open_engine(CONFIG) as engine:
        pid = pid_of(engine)
        os.kill(pid, signal.SIGINT)
        await engine.stats()
        assert pid_of(engine) == pid


async def test_an_engine_that_hangs_misses_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "QUERY_TIMEOUT_S", 0.1)
    async with open_engine(CONFIG) as engine:
        os.kill(pid_of(engine), signal.SIGSTOP)
        with pytest.raises(EngineUnavailable, match="did not answer"):
            await engine.stats()
        os.kill(pid_of(engine), signal.SIGCONT)


async def test_an_idle_worker_uses_no_processor_time() -> None:
    async with open_engine(CONFIG) as engine:
        await collect(engine, await ask(engine, "Hello", 0))

        def processor_ticks() -> int:
            fields = Path(f"/proc/{pid_of(engine)}/stat").read_text().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        before = processor_ticks()
        await trio.sleep(0.5)
        assert processor_ticks() - before <= 1


async def test_a_slow_reader_loses_nothing_and_holds_up_nobody() -> None:
    async with open_engine(CONFIG) as engine:
        request = await ask(engine, "Tell me a story about a rabbit.", 0)
        expected = await collect(engine, request)
        async with aclosing(engine.generate(request)) as slow:
            first = await anext(slow)
            assert isinstance(first, Tokens)
            assert await collect(engine, request) == expected
            tokens = list(first.tokens)
            async for event in slow:
                if isinstance(event, Tokens):
                    tokens += event.tokens
        assert tokens == expected


PARENT = """
import os, sys, trio
from pathlib import Path
from p2pnode.engine.api import EngineConfig
from p2pnode.engine.supervisor import open_engine

async def main():
    async with open_engine(EngineConfig(Path(sys.argv[1]), threads=1)) as engine:
        assert "llama_cpp" not in sys.modules
        print(engine.worker.pid, flush=True)
        sys.stdin.read()

trio.run(main)
"""


def test_a_worker_leaves_with_its_parent_which_never_imports_llama_cpp() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(MODEL)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(p2pnode.__file__).parents[1])},
    ) as parent:
        assert parent.stdout is not None
        worker = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    poll = select.poll()
    poll.register(worker, select.POLLIN)
    assert poll.poll(10_000), "the worker outlived its parent"
    os.close(worker)
