"""Light clients of the path bench, in a process of their own: ``python -m tests.bench.path_client ROUTER COUNT``.

Each stream is a client of its own: key, connection, session. Reads one order a line from standard input and answers
with one line of JSON, so that several such processes start their streams together.
"""

import gc
import json
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

import trio

from p2pnode.client import LightClient, Session, connect
from tests.bench.path_streams import StreamResult
from tests.bench.wire import tcp_bytes

OPENING_PAUSE_S = 0.1
"""Between sessions opened one after the other: far below gossip's budget."""


async def ask_repeatedly(session: Session, index: int, order: dict[str, Any]) -> StreamResult:
    """The load of one stream."""
    result = StreamResult()
    began = time.perf_counter()
    for number in range(order["answers"]):
        asked, arrivals = time.perf_counter(), []
        question = order["questions"][index].format(number=number)
        async with session.ask(question, max_tokens=order["tokens"]) as answer:
            async for _ in answer:
                arrivals.append(time.perf_counter())
            tokens = len(answer.token_ids)
            assert answer.finish is not None, "an answer broke off"
            assert tokens == order["tokens"] or not order["exact"], "tokens were lost"
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


async def _streams(sessions: list[Session], order: dict[str, Any]) -> dict[str, Any]:
    results: list[dict[str, Any]] = []

    async def run(index: int) -> None:
        await trio.sleep(order["spread_s"] * index / order["streams"])
        results.append(asdict(await ask_repeatedly(sessions[index], index, order)))

    bytes_before = tcp_bytes()
    async with trio.open_nursery() as nursery:
        for index in range(order["streams"]):
            nursery.start_soon(run, index)
    return {"rows": results, "wire_bytes": tcp_bytes() - bytes_before}


async def _main(router: str, count: int) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(router)) for _ in range(count)]
        sessions: dict[bool, list[Session]] = {}
        _say({"ready": True})
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            order = json.loads(line)
            if order["do"] == "open":
                _say(await _opening_times(clients[0], order["times"]))
            elif order["do"] == "hold":
                direct = order["direct"]
                sessions[direct] = [await stack.enter_async_context(one.session(direct=direct)) for one in clients]
                gc.collect()
                gc.freeze()
                _say(True)
            else:
                _say(await _streams(sessions[order["direct"]], order))


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], int(sys.argv[2]))
