"""WebSockets of a real server: what is too large is not kept, and compression is not spoken."""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from fastapi import FastAPI
from hypercorn.protocol.ws_stream import FrameTooLargeError
from starlette.websockets import WebSocket, WebSocketDisconnect
from wsproto.events import TextMessage

from p2pnode.http import server as server_module
from p2pnode.http.server import WEBSOCKET_BYTES_MAX, open_server
from p2pnode.http.ws_bounds import BoundedBuffer

HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
PART = 1 << 20
TEXT, MORE = 1, 0


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[trio.SocketStream, list[str]]]:
    """A socket, bytes for bytes, and what the application heard from it."""
    app, heard = FastAPI(), list[str]()

    @app.websocket("/v1/ws")
    async def websocket(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                heard.append(await websocket.receive_text())
        except WebSocketDisconnect:
            heard.append("gone")

    async with open_server(app, ["127.0.0.1:0"]) as server:
        port = int(server.urls[0].rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(HANDSHAKE)
            yield stream, heard


def frame(kind: int, data: bytes, *, last: bool) -> bytes:
    """As a client sends it: masked, here by zeros."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0x80 | 127]) + struct.pack(">Q", len(data))
    return bytes([0x80 * last + kind]) + size + bytes(4) + data


async def read_to(stream: trio.SocketStream, wanted: bytes) -> bytes:
    read = b""
    while wanted not in read:
        part = await stream.receive_some()
        assert part, read
        read += bytes(part)
    return read


async def test_compression_is_not_spoken_and_a_large_message_is_taken() -> None:
    async with opened() as (stream, heard):
        head = await read_to(stream, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        assert b"extensions" not in head.lower()
        await stream.send_all(frame(TEXT, b"x" * (WEBSOCKET_BYTES_MAX - 1), last=False))
        await stream.send_all(frame(MORE, b"y", last=True))
        with trio.fail_after(30):
            while not heard:
                await trio.lowlevel.checkpoint()
        assert len(heard[0]) == WEBSOCKET_BYTES_MAX


async def test_a_message_without_an_end_is_cut_off() -> None:
    async with opened() as (stream, heard):
        await read_to(stream, b"\r\n\r\n")
        sent = 0
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(30):
            while True:
                await stream.send_all(frame(MORE if sent else TEXT, bytes(PART), last=False))
                sent += PART
        with trio.fail_after(30):
            while heard != ["gone"]:
                await trio.lowlevel.checkpoint()


def test_nothing_is_kept_of_a_message_that_is_too_large() -> None:
    buffer = BoundedBuffer(10)
    buffer.extend(TextMessage("12345", frame_finished=True, message_finished=False))
    for text in ("678901", "1", ""):
        with pytest.raises(FrameTooLargeError):
            buffer.extend(TextMessage(text, frame_finished=True, message_finished=True))
        assert (buffer.length, buffer.value) == (0, None)


async def test_a_socket_that_is_closed_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    # Neither the next ping nor patience ends it.
    monkeypatch.setattr(server_module, "WEBSOCKET_PING_S", 3_600.0)
    monkeypatch.setattr(server_module, "LINGER_S", 3_600.0)
    app = FastAPI()

    @app.websocket("/v1/ws")
    async def websocket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    async with open_server(app, ["127.0.0.1:0"]) as server:
        port = int(server.urls[0].rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(HANDSHAKE)
            await read_to(stream, b"\x88")
        with trio.fail_after(60):
            while server.connections:
                await trio.lowlevel.checkpoint()
