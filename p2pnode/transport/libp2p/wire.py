"""Byte pipes under the noise layer: a TCP socket or a WebSocket, read in large pieces and handed out in small ones.

libp2p reads an encrypted record as two bytes and then the rest; without a buffer each is a system call and a trip
through the scheduler. A TCP socket is read and written directly: trio's stream asks a socket before it waits for it,
and goes through the scheduler after each write that did not have to wait.
"""

import os

import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from trio_websocket import ConnectionClosed, WebSocketConnection

READ_BYTES = 64 * 1024
WEBSOCKET_MESSAGE_BYTES_MAX = 1 << 20


class Wire(ReadWriteCloser):
    """A TCP connection; ``head`` holds bytes that were already read from it."""

    def __init__(self, stream: trio.SocketStream, head: bytes = b"") -> None:
        self.stream = stream
        self._buffer = head
        self._at = 0
        self._remote = _peer_name(stream)

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        if self._at >= len(self._buffer):
            self._buffer = await self._receive()
            self._at = 0
            if not self._buffer:
                raise ConnectionClosedError("the TCP connection ended", transport="tcp")
        end = len(self._buffer) if n is None or n < 0 else min(len(self._buffer), self._at + n)
        piece = self._buffer[self._at : end]
        self._at = end
        return piece

    async def _receive(self) -> bytes:
        socket = self.stream.socket
        try:
            while True:
                await trio.lowlevel.wait_readable(socket.fileno())
                try:
                    return os.read(socket.fileno(), READ_BYTES)
                except BlockingIOError:
                    continue
        except (OSError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("the TCP connection is gone", transport="tcp") from error

    async def write(self, data: bytes) -> None:
        """Write all of it; goes through the scheduler only where the socket makes it wait."""
        socket = self.stream.socket
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[os.write(socket.fileno(), rest) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(socket.fileno())
        except (OSError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("the TCP connection is gone", transport="tcp") from error

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._remote


class WebSocketWire(ReadWriteCloser):
    """A WebSocket whose binary messages form one byte stream."""

    def __init__(self, socket: WebSocketConnection, remote: tuple[str, int] | None) -> None:
        self._socket = socket
        self._remote = remote
        self._buffer = b""
        self._at = 0

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        while self._at >= len(self._buffer):
            try:
                message = await self._socket.get_message()
            except ConnectionClosed as error:
                raise ConnectionClosedError("the WebSocket ended", transport="websocket") from error
            if not isinstance(message, bytes):
                raise ConnectionClosedError("text on a libp2p WebSocket", transport="websocket")
            self._buffer, self._at = message, 0
        end = len(self._buffer) if n is None or n < 0 else min(len(self._buffer), self._at + n)
        piece = self._buffer[self._at : end]
        self._at = end
        return piece

    async def write(self, data: bytes) -> None:
        try:
            await self._socket.send_message(data)
        except ConnectionClosed as error:
            raise ConnectionClosedError("the WebSocket ended", transport="websocket") from error

    async def close(self) -> None:
        await self._socket.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._remote


class HeadedStream(trio.abc.Stream):
    """A stream with some already received bytes put back in front."""

    def __init__(self, stream: trio.SocketStream, head: bytes) -> None:
        self._stream = stream
        self._head = head

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head:
            await trio.lowlevel.checkpoint()
            head, self._head = self._head[:max_bytes], self._head[max_bytes:] if max_bytes is not None else b""
            return head
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(bytes(data) if isinstance(data, bytearray) else data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _peer_name(stream: trio.SocketStream) -> tuple[str, int] | None:
    try:
        name = stream.socket.getpeername()
    except OSError:
        return None
    return str(name[0]), int(name[1])
