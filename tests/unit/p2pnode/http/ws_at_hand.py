"""WebSockets without a network: the application is called as a server calls it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from fastapi import FastAPI

from p2pnode.http import ws
from p2pnode.http.keys import ApiKey
from p2pnode.http.limits import Caller, LimitTerms
from p2pnode.http.service import Service, open_service
from p2pnode.http.ws import WsTerms
from tests.unit.p2pnode.http.net_at_hand import NetAtHand

CLIENT = "the-name-a-client-drew"
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}


def caller_named(name: str, *, key: bool = True, limits: LimitTerms | None = None) -> Caller:
    """Whoever the guard has let in."""
    return Caller(name, ApiKey(name, name, 0) if key else None, limits or LimitTerms(0, 0, 64), trio.current_time)


class SocketAtHand:
    """The client's end."""

    def __init__(self, to_app: trio.MemorySendChannel[Any], from_app: trio.MemoryReceiveChannel[Any]) -> None:
        self.closed: int | None = None
        """With which code the server closed it."""
        self.subprotocol: str | None = None
        self._to_app = to_app
        self._from_app = from_app

    async def accepted(self) -> None:
        """The handshake."""
        await self._to_app.send({"type": "websocket.connect"})
        message = await self._from_app.receive()
        assert message["type"] == "websocket.accept"
        self.subprotocol = message["subprotocol"]

    async def text(self, text: str) -> None:
        """A message as it is."""
        await self._to_app.send({"type": "websocket.receive", "text": text})

    async def data(self, data: bytes) -> None:
        """A binary message."""
        await self._to_app.send({"type": "websocket.receive", "bytes": data})

    async def say(self, kind: str, **told: Any) -> None:
        """A message."""
        await self.text(json.dumps({"type": kind, **told}))

    async def ask(self, request_id: str, **told: Any) -> None:
        """A request."""
        await self.say("request", request_id=request_id, **{**ASK, **told})

    async def hear(self) -> dict[str, Any]:
        """The next message; none when the server has closed."""
        with trio.fail_after(1_000):
            message = await self._from_app.receive()
        if message["type"] == "websocket.close":
            self.closed = message["code"]
            return {}
        told = json.loads(message["text"])
        assert isinstance(told, dict)
        return told

    def hear_now(self) -> dict[str, Any]:
        """The next message, if there is one."""
        try:
            message = self._from_app.receive_nowait()
        except trio.WouldBlock:
            return {}
        if message["type"] == "websocket.close":
            self.closed = message["code"]
            return {}
        told = json.loads(message["text"])
        assert isinstance(told, dict)
        return told

    async def hear_to(self, *kinds: str) -> list[dict[str, Any]]:
        """Messages up to one of these kinds."""
        heard = [await self.hear()]
        while heard[-1]["type"] not in kinds:
            heard.append(await self.hear())
        return heard

    async def drop(self) -> None:
        """The connection breaks."""
        await self._to_app.send({"type": "websocket.disconnect", "code": 1006})
        self._from_app.close()


class Served:
    """The application, and what it stands on."""

    def __init__(self, app: FastAPI, service: Service, net: NetAtHand, nursery: trio.Nursery, buffered: int) -> None:
        self.net = net
        self.service = service
        self._app = app
        self._nursery = nursery
        self._buffered = buffered

    async def socket(
        self, caller: Caller | None = None, *, client: str = CLIENT, offered: tuple[str, ...] = ()
    ) -> SocketAtHand:
        """A new socket."""
        to_app, receive = trio.open_memory_channel[Any](16)
        send, from_app = trio.open_memory_channel[Any](self._buffered)
        scope = {
            "type": "websocket",
            "path": "/v1/ws",
            "raw_path": b"/v1/ws",
            "root_path": "",
            "query_string": f"client={client}".encode(),
            "headers": [],
            "subprotocols": list(offered),
            "state": {"caller": caller or caller_named("alice")},
        }

        async def told(message: Any) -> None:
            try:
                await send.send(message)
            except trio.BrokenResourceError:
                return  # as a server does once the connection is gone

        async def serve() -> None:
            await self._app(scope, receive.receive, told)

        self._nursery.start_soon(serve)
        socket = SocketAtHand(to_app, from_app)
        await socket.accepted()
        return socket


@asynccontextmanager
async def served(terms: WsTerms | None = None, *, buffered: int = 1_024) -> AsyncIterator[Served]:
    """Sockets for as long as the block lasts; ``buffered``: messages that a client has not taken yet."""
    net = NetAtHand()
    async with open_service(net) as service, trio.open_nursery() as nursery:
        app = FastAPI()
        app.include_router(ws.routes(service, terms))
        yield Served(app, service, net, nursery, buffered)
        nursery.cancel_scope.cancel()
