"""Light clients of the path bench, in a process of their own: ``python -m tests.bench.path_client ROUTER COUNT``.

Each stream is a client of its own: key, connection, session. Reads one order a line from standard input and answers
with one line of JSON, so that several such processes start their streams together.
"""

import gc
import json
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import trio

from p2pnode.client import LightClient, Session, connect

OPENING_PAUSE_S = 0.1
"""Between sessions opened one after the other: far below gossip's budget."""


@dataclass
class StreamResult:
    """One stream that asked for some answers, one after the other. Times in seconds."""

    first_s: list[float] = field(default_factory=list)
    """Of each answer: from the question to the first token."""
    token_s: list[float] = field(default_factory=list)
    """Of each answer: the mean time from one token to the next."""
    gap_s: list[float] = field(default_factory=list)
    """Of each answer: the longest time without a token after the first."""
    tokens: int = 0
    frames: int = 0
    elapsed_s: float = 0.0

    def add(self, asked: float, arrivals: list[float], tokens: int, frames: int) -> None:
        """Note one answer by when each of its pieces came."""
        self.first_s.append(arrivals[0] - asked)
        self.token_s.append((arrivals[-1] - arrivals[0]) / max(tokens - 1, 1))
        self.gap_s.append(max((b - a for a, b in pairwise(arrivals)), default=0.0))
        self.tokens += tokens
        self.frames += frames


async def ask_repeatedly(session: Session, index: int, answers: int, tokens: int) -> StreamResult:
    """The load of one stream."""
    result = StreamResult()
    began = time.perf_counter()
    for number in range(answers):
        asked, arrivals = time.perf_counter(), []
        async with session.ask(f"Stream {index}, question {number}.", max_tokens=tokens) as answer:
            async for _ in answer:
                arrivals.append(time.perf_counter())
            assert answer.finish is not None and len(answer.token_ids) == tokens, "tokens were lost"
            result.add(asked, arrivals, tokens, answer.finish.frames)
    result.elapsed_s = time.perf_counter() - began
    return result


async def _opening_times(client: LightClient, count: int) -> list[float]:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        async with client.session():
            times.append(time.perf_counter() - began)
        await trio.sleep(OPENING_PAUSE_S)
    return times


async def _streams(sessions: list[Session], order: dict[str, Any]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []

    async def run(index: int) -> None:
        await trio.sleep(order["spread_s"] * index / order["streams"])
        results.append(asdict(await ask_repeatedly(sessions[index], index, order["answers"], order["tokens"])))

    async with trio.open_nursery() as nursery:
        for index in range(order["streams"]):
            nursery.start_soon(run, index)
    return results


async def _main(router: str, count: int) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(router)) for _ in range(count)]
        sessions: list[Session] = []
        _say({"ready": True})
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            order = json.loads(line)
            if order["do"] == "open":
                _say(await _opening_times(clients[0], order["times"]))
            elif order["do"] == "hold":
                sessions = [await stack.enter_async_context(client.session()) for client in clients]
                gc.collect()
                gc.freeze()
                _say(True)
            else:
                _say(await _streams(sessions, order))


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], int(sys.argv[2]))
