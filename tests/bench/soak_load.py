"""What a client of the soak asks over HTTP, and how that ended."""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from enum import StrEnum
from random import Random
from typing import Any

import httpx
import trio

from tests.bench.http_stream import StreamBroken, StreamRefused, chat

QUESTIONS = ("Where does a bear live?", "Tell me a story about a rabbit.", "Tell me a story.", "What does a cow eat?")
TIMEOUT_S = 120.0
"""Of one read. Requests have their own deadline at the router, which comes before."""
FINAL_S = 120.0
"""For an answer to be in a block: a miner that is killed in between comes back within half a minute."""


class Ending(StrEnum):
    """How a request ended, as its client saw it."""

    ANSWERED = "answered"
    FAILED = "failed after it began"
    """By an error event."""
    REFUSED = "refused"
    """By a status and an error's body."""
    LEFT = "left"
    """By the client itself."""
    FINAL = "answered and final"
    """In a block of the oracles."""
    UNCERTAIN = "answered, not final in time"
    BROKEN = "broken"
    """In no way that a client can tell from any other, or in two."""


class Client:
    """One client, which asks one thing after the other."""

    def __init__(self, http: httpx.AsyncClient, model: str, rng: Random, *, certified: bool) -> None:
        self._http, self._model, self._rng = http, model, rng
        self._kinds: Mapping[str, Callable[[], Awaitable[Ending]]] = {
            "stream": self._stream,
            "whole": self._whole,
            "choices": self._choices,
            "completion": self._completion,
            "embedding": self._embedding,
            "nonsense": self._nonsense,
            "leaving": self._leaving,
            "certain": self._certain,
        }
        self._weights = (8, 3, 1, 1, 1, 1, 2, int(certified))

    async def ask(self) -> tuple[str, Ending, str]:
        """Something of some kind, streams most of the time: what, how it ended, and why if in no good way."""
        kind = self._rng.choices(tuple(self._kinds), weights=self._weights)[0]
        try:
            return kind, await self._kinds[kind](), ""
        except (httpx.HTTPError, json.JSONDecodeError, KeyError, OSError) as error:
            return kind, Ending.BROKEN, f"{kind}: {type(error).__name__}: {error}"

    async def _stream(self) -> Ending:
        return await self._read_stream("chat/completions", self._chat() | {"stream": True})

    async def _leaving(self) -> Ending:
        """Without httpx, which leaves a response that is not read to its end to the collector."""
        heard, enough = 0, self._rng.randint(1, 8)
        port, question = self._http.base_url.port, self._rng.choice(QUESTIONS)
        assert port is not None
        try:
            async with aclosing(chat(port, question, 96, self._model)) as said:
                async for _ in said:
                    heard += 1
                    if heard == enough:
                        return Ending.LEFT
        except StreamRefused:
            return Ending.FAILED if heard else Ending.REFUSED
        except StreamBroken:
            return Ending.BROKEN
        return Ending.ANSWERED

    async def _whole(self) -> Ending:
        return await self._read_whole("chat/completions", self._chat(), "choices")

    async def _choices(self) -> Ending:
        return await self._read_whole("chat/completions", self._chat() | {"n": 2}, "choices")

    async def _completion(self) -> Ending:
        body = {"model": self._model, "prompt": "Once upon a time", "max_tokens": 24}
        return await self._read_whole("completions", body, "choices")

    async def _embedding(self) -> Ending:
        body = {"model": self._model, "input": [self._rng.choice(QUESTIONS) for _ in range(self._rng.randint(1, 4))]}
        return await self._read_whole("embeddings", body, "data")

    async def _nonsense(self) -> Ending:
        bodies = (
            {"model": "none-such", "messages": [{"role": "user", "content": "?"}]},
            {"model": self._model, "messages": []},
            self._chat() | {"max_tokens": -1},
            self._chat() | {"max_tokens": 1_000_000},
            {"model": self._model},
        )
        ending = await self._read_whole("chat/completions", self._rng.choice(bodies), "choices")
        return Ending.BROKEN if ending is Ending.ANSWERED else ending

    async def _certain(self) -> Ending:
        """An answer, followed until the oracles have it in a block."""
        response = await self._http.post("chat/completions", json=self._chat(), timeout=TIMEOUT_S)
        told = response.json()
        if response.status_code != 200:
            return Ending.REFUSED if told["error"]["message"] else Ending.BROKEN
        with trio.move_on_after(FINAL_S):
            path = f"receipts/{told['p2pnode']['receipt']}/levels"
            async with self._http.stream("GET", path, timeout=TIMEOUT_S) as levels:
                async for line in levels.aiter_lines():
                    if line.startswith("data: {") and json.loads(line.removeprefix("data: "))["level"] == "finalized":
                        return Ending.FINAL
        return Ending.UNCERTAIN

    def _chat(self) -> dict[str, Any]:
        question = self._rng.choice(QUESTIONS)
        tokens = self._rng.choice((8, 32, 96))
        return {"model": self._model, "messages": [{"role": "user", "content": question}], "max_tokens": tokens}

    async def _read_whole(self, path: str, body: Mapping[str, Any], wanted: str) -> Ending:
        response = await self._http.post(path, json=body, timeout=TIMEOUT_S)
        told = response.json()
        if response.status_code == 200:
            return Ending.ANSWERED if told[wanted] else Ending.BROKEN
        return Ending.REFUSED if told["error"]["message"] else Ending.BROKEN

    async def _read_stream(self, path: str, body: Mapping[str, Any]) -> Ending:
        async with self._http.stream("POST", path, json=body, timeout=TIMEOUT_S) as response:
            if response.status_code != 200:
                await response.aread()
                return Ending.REFUSED if response.json()["error"]["message"] else Ending.BROKEN
            ends = list[Ending]()
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    ends.append(Ending.ANSWERED)
                elif "error" in json.loads(data):
                    ends.append(Ending.FAILED)
            return ends[0] if len(ends) == 1 else Ending.BROKEN
