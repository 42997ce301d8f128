"""Who goes away from an HTTP request frees the miner's slot; what HTTP adds to the first token is told, and small."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from p2pnode.client import connect
from p2pnode.config import load_config
from p2pnode.engine.api import Engine, EngineConfig
from p2pnode.engine.fake import FakeConfig, open_fake_engine
from p2pnode.http.app import make_app
from p2pnode.http.server import open_server
from p2pnode.http.service import open_service
from p2pnode.node import open_node
from tests.runtime.transports import eventually

ENDLESS = 30_000
"""Tokens that take ten minutes."""
TOKEN_S = 0.02
BODY = {"messages": [{"role": "user", "content": "tell"}], "max_tokens": ENDLESS}


class Served:
    """A router and a miner in one process, and HTTP over a light client of theirs."""

    def __init__(self, engine: Engine, http: httpx.AsyncClient, model: str) -> None:
        self.engine = engine
        self.http = http
        self.model = model

    async def until_busy(self, slots: int) -> None:
        """Wait until so many slots are taken."""
        with trio.fail_after(20):
            while (await self.engine.stats()).slots_busy != slots:  # noqa: ASYNC110 - an engine tells nobody
                await trio.sleep(0.02)

    async def leave_at_first_token(self, body: dict[str, Any]) -> None:
        """Ask, and close the connection as soon as a token is there."""
        stream = await trio.open_tcp_stream(self.http.base_url.host, self.http.base_url.port or 0)
        packed = json.dumps({**body, "model": self.model}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(packed)}\r\n"
        async with stream:
            await stream.send_all(f"{head}content-type: application/json\r\n\r\n".encode() + packed)
            got = b""
            while b'"content":" ' not in got:
                more = await stream.receive_some()
                assert more, got
                got += more


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    engines: list[Engine] = []

    @asynccontextmanager
    async def open_engine(config: EngineConfig) -> AsyncIterator[Engine]:
        fake = FakeConfig(slots=config.slots, token_s=TOKEN_S, answer_tokens=1 << 30, context_slot_tokens=2 * ENDLESS)
        async with open_fake_engine(fake) as engine:
            engines.append(engine)
            yield engine

    settings = {"node.roles": ["router", "miner"], "node.state_dir": str(tmp_path / "node"), "miner.slots": 2}
    overrides = {**settings, "network.listen": ["/ip4/127.0.0.1/tcp/0"]}
    config = load_config(None, overrides=overrides, env={"P2PNODE_HOME": str(tmp_path)})
    async with open_node(config, engine=open_engine) as node:
        await eventually(lambda: bool(node.book.models()))
        async with (
            connect(str(node.addresses[0])) as net,
            open_service(net) as service,
            open_server(make_app(service), ["127.0.0.1:0"]) as server,
            httpx.AsyncClient(base_url=server.urls[0], timeout=30) as http,
        ):
            model = (await http.get("/v1/models")).json()["data"][0]["id"]
            yield Served(engines[0], http, model)


async def test_a_stream_that_is_left_frees_the_slots(served: Served) -> None:
    await served.leave_at_first_token({**BODY, "stream": True, "n": 2})
    await served.until_busy(0)


async def test_a_request_that_is_left_before_its_answer_frees_the_slot(served: Served) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: served.http.post("/v1/chat/completions", json={**BODY, "model": served.model}))
        await served.until_busy(1)
        nursery.cancel_scope.cancel()
    await served.until_busy(0)


async def test_a_warm_session_needs_no_auction_and_what_http_adds_is_told(served: Served) -> None:
    body = {**BODY, "model": served.model, "max_tokens": 3}
    answers = [await served.http.post("/v1/chat/completions", json=body) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len({answer.headers["x-session-id"] for answer in answers}) == 1
    warm = [float(answer.headers["x-overhead-ms"]) for answer in answers[1:]]
    assert min(warm) < TOKEN_S * 1_000, f"less than a token: {warm}"
