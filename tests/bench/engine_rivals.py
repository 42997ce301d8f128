"""What the engine's bench compares with: llama-cpp-python's high-level API, its server, and llama.cpp's own server."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import trio

from p2pnode.models.vocabulary import CHAT_TEMPLATE

STARTUP_S = 60.0
SERVER_MODULES = ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings")


class Rival(Protocol):
    """Someone who serves streams."""

    name: str
    parallel: bool
    """False: it has one stream at a time, so streams are served one after the other."""

    async def stream(self, text: str, index: int, max_tokens: int) -> int: ...


def as_prompt(text: str) -> str:
    """The conversation as the shipped model's template renders it; BOS is added by whoever tokenises."""
    assert "<|{{ message['role'] }}|>" in CHAT_TEMPLATE
    return f"<|user|>{text}<|end|><|assistant|>"


class HighLevel:
    """``llama_cpp.Llama`` in this process: one stream at a time."""

    name = "llama-cpp-python, serial"
    parallel = False

    def __init__(self, path: Path, context: int, threads: int) -> None:
        # Only here: the node's own process never imports it, and neither does what only imports this module.
        from llama_cpp import Llama

        self._model = Llama(str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False)

    async def stream(self, text: str, index: int, max_tokens: int) -> int:
        def run() -> int:
            parts = self._model.create_completion(
                as_prompt(text), max_tokens=max_tokens, temperature=0.7, top_k=64, top_p=1.0, min_p=0.0, seed=index,
                repeat_penalty=1.0, stream=True,
            )  # fmt: skip
            return sum(1 for _ in parts)

        return await trio.to_thread.run_sync(run)


class Server:
    """An HTTP server that streams events, one connection a request."""

    parallel = True

    def __init__(self, name: str, port: int, path: str, options: dict[str, object]) -> None:
        self.name = name
        self.port = port
        self._path = path
        self._options = options

    async def stream(self, text: str, index: int, max_tokens: int) -> int:
        body = json.dumps(
            {
                "prompt": as_prompt(text), "max_tokens": max_tokens, "n_predict": max_tokens, "seed": index,
                "temperature": 0.7, "top_k": 64, "top_p": 1.0, "min_p": 0.0, "stream": True, **self._options,
            }
        ).encode()  # fmt: skip
        connection = await trio.open_tcp_stream("127.0.0.1", self.port)
        connection.setsockopt(6, 1, 1)
        async with connection:
            head = f"POST {self._path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
            await connection.send_all(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = b"".join([chunk async for chunk in connection])
        # The last event closes the stream and carries no token.
        return max(answer.count(b"data: {") - 1, 0)


async def _answers(port: int, path: str) -> bool:
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as connection:
            await connection.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in (await connection.receive_some(4_096))[:20]
    except OSError:
        return False


@asynccontextmanager
async def _serving(command: list[str], server: Server, health: str) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await trio.run_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            raise RuntimeError(f"{server.name} has stopped: {' '.join(command)}")

        nursery.start_soon(run)
        with trio.fail_after(STARTUP_S):
            while not await _answers(server.port, health):  # noqa: ASYNC110 - another program is waited for
                await trio.sleep(0.1)
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def bundled_server(path: Path, context: int, threads: int) -> AsyncIterator[Server | None]:
    """``python -m llama_cpp.server``, or None where its dependencies are missing."""
    missing = [name for name in SERVER_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"llama-cpp-python server: skipped, {', '.join(missing)} missing (pip install 'llama-cpp-python[server]')"
        )
        yield None
        return
    options = {
        "model": path, "port": 18_765, "n_ctx": context, "n_threads": threads, "n_threads_batch": threads,
        "interrupt_requests": "False", "verbose": "False",
    }  # fmt: skip
    command = [sys.executable, "-m", "llama_cpp.server"]
    command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    server = Server("llama-cpp-python server", 18_765, "/v1/completions", {"repeat_penalty": 1.0})
    async with _serving(command, server, "/v1/models"):
        yield server


@asynccontextmanager
async def llama_server(
    binary: Path | None, path: Path, context: int, slots: int, threads: int
) -> AsyncIterator[Server | None]:
    """llama.cpp's own server, or None where no binary is named."""
    if binary is None:
        print("llama.cpp server: skipped, no --llama-server PATH given")
        yield None
        return
    options = {
        "-m": path, "--port": 18_766, "-c": context * slots, "-np": slots, "-t": threads, "-tb": threads,
        "--threads-http": slots + 1,
    }  # fmt: skip
    command = [str(binary), *(str(part) for option in options.items() for part in option)]
    server = Server("llama.cpp server", 18_766, "/completion", {"cache_prompt": True, "repeat_penalty": 1.0})
    async with _serving(command, server, "/health"):
        yield server
