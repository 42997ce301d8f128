"""Bounds of WebSockets that Hypercorn's have not: a message that is too large is not kept, none unfolds to one, and
a socket that is closed leaves nothing behind."""

from typing import Any, cast

import h11
import trio
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from wsproto.events import Message

EXTENSIONS = b"sec-websocket-extensions"


class BoundedBuffer(WebsocketBuffer):
    """A message that is being received. Once one is too large, nothing more is."""

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length)
        self.over = False

    def extend(self, event: Message[Any]) -> None:
        """Raises FrameTooLargeError."""
        if self.over or self.length + len(event.data) > self.max_length:
            self.over = True
            self.clear()
            raise FrameTooLargeError
        super().extend(event)


class _WakingContext:
    """What a connection knows of its server. Who sleeps between two pings is woken at the socket's end."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._over = trio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def sleep(self, seconds: float) -> None:
        """Until then, or until the socket is closed."""
        with trio.move_on_after(seconds):
            await self._over.wait()

    def wake(self) -> None:
        """The socket is closed; there may be another one on the same connection."""
        self._over.set()
        self._over = trio.Event()


class BoundedWebSockets(H11Protocol):
    """HTTP/1.1 with such WebSockets."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._waking = _WakingContext(self.context)
        self.context = cast("Any", self._waking)

    async def _close_stream(self) -> None:
        await super()._close_stream()
        self._waking.wake()

    async def _create_stream(self, request: h11.Request) -> None:
        # Of compression there is one kind, by which half a megabyte unfolds to half a gigabyte.
        headers = [(name, value) for name, value in request.headers.raw_items() if name.lower() != EXTENSIONS]
        method, target, version = request.method, request.target, request.http_version
        await super()._create_stream(h11.Request(method=method, target=target, headers=headers, http_version=version))
        if isinstance(self.stream, WSStream):
            self.stream.buffer = BoundedBuffer(self.config.websocket_max_message_size)

    async def _handle_events(self) -> None:
        await super()._handle_events()
        buffer = self.stream.buffer if isinstance(self.stream, WSStream) else None
        if isinstance(buffer, BoundedBuffer) and buffer.over:
            await self.stream_send(StreamClosed(stream_id=STREAM_ID))
