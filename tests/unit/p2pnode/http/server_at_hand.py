"""OpenAI's routes over a network whose miners say what a test tells them to, and those who ask."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import trio
from starlette.types import ASGIApp, Message

from p2pnode.http.app import make_app
from p2pnode.http.service import Service, Terms, open_service
from protocol.messages.tasks import EndReason
from tests.unit.p2pnode.http.net_at_hand import NetAtHand, Order
from tests.unit.protocol.machines import OFFER

MODEL = OFFER.manifest.name
USER = {"role": "user", "content": "Where does a bear live?"}
ANSWERED_S = 20.0
"""A request that is not answered by then waits for somebody who does not come: one who orders what was answered."""
TOOLS = [{"type": "function", "function": {"name": "place_of", "parameters": {"type": "object"}}}]


class Server:
    """The application, and the network behind it."""

    def __init__(self, net: NetAtHand, service: Service) -> None:
        self.net = net
        self.service = service
        self.app: ASGIApp = make_app(service)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

    async def post(self, path: str, answer: Callable[[Order], None] | None = None, **body: Any) -> httpx.Response:
        """A request, and what the miner of its first order does."""
        got: list[httpx.Response] = []

        async def post() -> None:
            with trio.fail_after(ANSWERED_S):
                got.append(await self.http.post(path, json=body))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(post)
            if answer is not None:
                answer(await self.net.order(len(self.net.orders)))
        return got[0]

    async def chat(self, answer: Callable[[Order], None] | None = None, **body: Any) -> httpx.Response:
        return await self.post("/v1/chat/completions", answer, **{"model": MODEL, "messages": [USER], **body})


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    """A server for as long as the block lasts."""
    net = NetAtHand()
    async with open_service(net, Terms(ping_s=15, timeout_ms=60_000)) as service:
        yield Server(net, service)


def says(*words: str, reason: EndReason = EndReason.STOP) -> Callable[[Order], None]:
    def answer(order: Order) -> None:
        order.say(*words)
        order.end(reason)

    return answer


def fails(code: str, *words: str) -> Callable[[Order], None]:
    def answer(order: Order) -> None:
        order.say(*words)
        order.fail(code, retry_after_ms=2_500)

    return answer


def events(response: httpx.Response) -> list[Any]:
    parts = [part.removeprefix("data: ") for part in response.text.split("\n\n") if part]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


class Client:
    """One that reads what is sent to it, until it leaves."""

    def __init__(self) -> None:
        self.left = trio.Event()
        self.got: list[Message] = []
        self._body: bytes | None = None

    async def post(self, app: ASGIApp, path: str, **body: Any) -> None:
        self._body = json.dumps(body).encode()
        headers = [(b"content-type", b"application/json")]
        about = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        scope = {**about, "headers": headers, "scheme": "http", "http_version": "1.1", "server": ("t", 80), "state": {}}
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.got.append(message)
