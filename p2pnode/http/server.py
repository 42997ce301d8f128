"""HTTP on trio: Hypercorn's protocol on connections that nobody can hold for ever.

Hypercorn reads and writes HTTP/1.1 and WebSocket; the listeners and the life of a connection are here. A client that
does not take what is sent to it is cut off, one that sends its request slowly too, whoever is over the number of
connections is told so, and what goes wrong on one connection is logged and ends that connection alone.
"""

import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import parse_socket_addr, wrap_app
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p2pnode.http.ws_bounds import BoundedWebSockets
from p2pnode.recursion import bound_recursion
from p2pnode.setting import host_and_port
from p2pnode.transport.unwrap import unwrapped
from protocol.core.errors import P2PNodeError

log = logging.getLogger(__name__)

SEND_BYTES = 1 << 16
"""So much is handed to the system at once; the time for it is limited."""
LINGER_S = 5.0
"""What a request may take to end after its connection is gone."""
STOP_S = 1.0
"""What open connections have to end when the server does and nobody waited for them."""
HEADER_BYTES_MAX = 32 << 10
WEBSOCKET_BYTES_MAX = 4 << 20
WEBSOCKET_PING_S = 20.0

_FULL_BODY = b'{"error":{"message":"too many connections","type":"server_error","param":null,"code":"overloaded"}}'
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_FULL_BODY), _FULL_BODY)
)


class ListenError(P2PNodeError):
    """An address that HTTP cannot be served on."""

    code = "http/listen"
    hint = "name a free port of this machine, or port 0 for any: [http] listen, or --http HOST:PORT"


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What connections may take."""

    connections: int = 512
    idle_s: float = 30.0
    """Between two requests, and for the headers of one."""
    send_s: float = 30.0
    """For a client to take 64 KiB."""


class HttpServer:
    """A running server. Made by :func:`open_server`."""

    def __init__(self, app: ASGIApp, limits: ServerLimits) -> None:
        self.connections = 0
        """Open ones."""
        self.urls: tuple[str, ...] = ()
        """Where it is reached, such as ``http://127.0.0.1:8080``."""
        self._app = wrap_app(cast("Any", _finishing(app)), 0, "asgi")
        self._limits = limits
        self._config = _hypercorn_config(limits)
        self._context = WorkerContext(None)
        self._accepting = trio.CancelScope()
        self._all_gone = trio.Event()

    @property
    def draining(self) -> bool:
        """Whether it takes no new connections any more."""
        return self._accepting.cancel_called

    async def drain(self, timeout_s: float = math.inf) -> bool:
        """Take no new connections, and wait for the requests that run; whether all have ended."""
        self._accepting.cancel()
        await self._context.terminated.set()  # idle connections end, the others after their request
        if not self.connections:
            return True
        with trio.move_on_after(timeout_s):
            await self._all_gone.wait()
        return not self.connections

    async def listen(self, addresses: Sequence[str], nursery: trio.Nursery) -> None:
        """Listen at each of ``HOST:PORT``. Raises ListenError."""
        listeners: list[trio.SocketListener] = []
        try:
            for address in addresses:
                host, port = host_and_port(address)
                listeners += await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            for listener in listeners:
                await listener.aclose()
            raise ListenError(f"cannot serve HTTP at {address}: {error.strerror or error}") from error
        self.urls = tuple(_url(listener) for listener in listeners)
        if listeners:
            nursery.start_soon(self._accept, listeners, nursery)

    async def _accept(self, listeners: list[trio.SocketListener], nursery: trio.Nursery) -> None:
        try:
            with self._accepting:
                await trio.serve_listeners(self._connection, listeners, handler_nursery=nursery)
        finally:
            for listener in listeners:
                await trio.aclose_forcefully(listener)

    async def _connection(self, stream: trio.SocketStream) -> None:
        if self.connections >= self._limits.connections:
            await _refuse(stream)
            return
        self.connections += 1
        try:
            await self._serve(_Connection(stream, self._limits.send_s))
        except* Exception as group:
            log.exception("a connection ended by a bug", exc_info=group)
        finally:
            self.connections -= 1
            if not self.connections and self.draining:
                self._all_gone.set()

    async def _serve(self, connection: "_Connection") -> None:
        with connection.scope:
            server = _Exchange(self._app, self._config, self._context, {}, connection)  # type: ignore[arg-type]
            await server.run()


def _finishing(app: ASGIApp) -> ASGIApp:
    """An application whose last word is always said whole.

    With it Hypercorn tells the application that the request is over, and only then closes the connection or begins to
    count its idle time. An application that ends itself at that news would leave the connection as it is, for ever.
    """

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        async def finish(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            with trio.CancelScope(shield=last):  # a client that takes nothing ends it all the same
                await send(message)

        await app(scope, receive, finish)

    return called


class _Connection:
    """A connection, as Hypercorn takes one."""

    def __init__(self, stream: trio.SocketStream, send_s: float) -> None:
        self.socket = stream.socket
        self.scope = trio.CancelScope()
        """All that is done for it."""
        self._stream = stream
        self._send_s = send_s
        self._sending = trio.Lock()
        """A socket's ping may come when it is being closed."""

    async def send_all(self, data: bytes) -> None:
        """Send, as long as the other end takes it. Raises BrokenResourceError."""
        for start in range(0, len(data), SEND_BYTES):
            with trio.move_on_after(self._send_s) as waiting:
                async with self._sending:
                    await self._stream.send_all(data[start : start + SEND_BYTES])
            if waiting.cancelled_caught:
                await self.aclose()
                raise trio.BrokenResourceError("the client takes nothing")

    async def receive_some(self, max_bytes: int) -> bytes:
        """What the client sent next; nothing at its end."""
        data = bytes(await self._stream.receive_some(max_bytes))
        if not data:
            self._linger()
        return data

    async def send_eof(self) -> None:
        """Nothing more is sent."""
        async with self._sending:
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """The connection is over."""
        self._linger()
        await trio.aclose_forcefully(self._stream)

    def _linger(self) -> None:
        # Once the client is gone nobody reads what a handler says: it has a little time to notice.
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + LINGER_S)


class _Exchange(TCPServer):
    """The requests of one connection, one after the other: HTTP/1.1 and nothing newer.

    Hypercorn gives a connection no time limit once it has turned to HTTP/2, so a few bytes would hold one for ever.
    """

    async def run(self) -> None:
        """Until the connection is over."""
        socket = self.stream.socket  # type: ignore[attr-defined]
        client = parse_socket_addr(socket.family, socket.getpeername())
        server = parse_socket_addr(socket.family, socket.getsockname())
        try:
            async with TaskGroup() as self._task_group:
                make: Any = _Http1
                parts: Any = (self.app, self.config, self.context, self._task_group, {}, False, client, server)
                self.protocol = make(*parts, self.protocol_send)
                await self.idle_task.restart(self._task_group, self._idle_timeout)
                await self._read_data()
        finally:
            await self._close()


class _Http1(BoundedWebSockets):
    """HTTP/1.1, whatever else a client would like better: it may go on with this."""

    async def _check_protocol(self, event: h11.Request) -> None:
        return


async def _refuse(stream: trio.SocketStream) -> None:
    with trio.move_on_after(STOP_S):
        with suppress(trio.BrokenResourceError):
            await stream.send_all(_FULL)
    await trio.aclose_forcefully(stream)


def _hypercorn_config(limits: ServerLimits) -> Config:
    config: Any = Config()
    config.errorlog = log
    config.accesslog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = HEADER_BYTES_MAX
    config.keep_alive_timeout = limits.idle_s
    config.websocket_max_message_size = WEBSOCKET_BYTES_MAX
    config.websocket_ping_interval = WEBSOCKET_PING_S
    checked: Config = config
    return checked


def _url(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def open_server(
    app: ASGIApp, addresses: Sequence[str], limits: ServerLimits | None = None
) -> AsyncIterator[HttpServer]:
    """Serve an application at each of ``HOST:PORT`` for as long as the block lasts. Raises ListenError.

    At its end connections that are open have a second; who wants answers to end in peace calls ``drain`` before.
    """
    bound_recursion()
    server = HttpServer(app, limits or ServerLimits())
    with unwrapped():
        async with trio.open_nursery() as nursery:
            await server.listen(addresses, nursery)
            try:
                yield server
            finally:
                with trio.CancelScope(shield=True):
                    await server.drain(STOP_S)
                nursery.cancel_scope.cancel()
