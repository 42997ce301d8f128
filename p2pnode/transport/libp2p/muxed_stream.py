"""One stream of a multiplexed connection: what is received and unread, and what may be sent."""

from types import TracebackType
from typing import Protocol, cast

import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamClosed, MuxedStreamEOF, MuxedStreamReset

from p2pnode.transport.libp2p.yamux import BODY_BYTES_MAX, DATA, FIN, HEADER, RST, WINDOW_FIRST_BYTES, WINDOW_UPDATE


class MuxedConnection(Protocol):
    """What a stream needs of its connection."""

    peer_id: ID
    buffered: int

    @property
    def congested(self) -> bool: ...
    async def wait_uncongested(self) -> None: ...
    def enqueue(self, header: bytes, body: bytes) -> None: ...
    def enqueue_control(self, kind: int, flags: int, stream_id: int, value: int) -> None: ...
    def consumed(self, stream: "MuxedStream", size: int) -> None: ...
    def drop_buffer(self, stream: "MuxedStream") -> None: ...
    def linger(self, stream: "MuxedStream") -> None: ...
    def forget(self, stream: "MuxedStream") -> None: ...
    def get_remote_address(self) -> tuple[str, int] | None: ...


class MuxedStream(IMuxedStream):
    """One yamux stream. At most one task writes and one reads at a time."""

    def __init__(self, conn: "MuxedConnection", stream_id: int, *, inbound: bool) -> None:
        self.muxed_conn = cast(IMuxedConn, conn)
        self.conn = conn
        self.stream_id = stream_id
        self.inbound = inbound
        self.buffer = bytearray()
        self.ended = False  # the other side will send no more
        self.was_reset = False  # by either side, or with the connection
        self.send_closed = False
        self.abandoned = False  # nobody on our side will read
        self.send_window = WINDOW_FIRST_BYTES
        self.recv_window = WINDOW_FIRST_BYTES
        self.target_window = WINDOW_FIRST_BYTES
        self.owed = 0  # bytes read and not yet credited
        self._readable = trio.Event()
        self._writable = trio.Event()

    # --- reading

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes, at least one. Raises MuxedStreamEOF or MuxedStreamReset."""
        if not self.buffer:
            await self._wait_readable()
        else:
            await trio.lowlevel.checkpoint()
        return self.take(n)

    def take(self, n: int | None = None) -> bytes:
        """What is buffered, up to ``n`` bytes; the window is credited for it."""
        if n is None or n < 0 or n >= len(self.buffer):
            data = bytes(self.buffer)
            self.buffer.clear()
        else:
            data = bytes(self.buffer[:n])
            del self.buffer[:n]
        self.conn.consumed(self, len(data))
        return data

    def unread(self, data: bytes) -> None:
        """Put back what was read too much of; it stays credited."""
        if data:
            self.buffer[:0] = data
            self.conn.buffered += len(data)

    async def _wait_readable(self) -> None:
        while not self.buffer:
            if self.was_reset:
                raise MuxedStreamReset("the stream was reset")
            if self.ended:
                raise MuxedStreamEOF("the stream ended")
            self._readable = trio.Event()
            await self._readable.wait()

    # --- writing

    def write_now(self, data: bytes) -> bool:
        """Hand over ``data`` whole if neither window nor queue make it wait; False if they do."""
        if self.send_closed or self.was_reset:
            raise MuxedStreamClosed("the stream is closed for writing")
        size = len(data)
        if size > self.send_window or size > BODY_BYTES_MAX or self.conn.congested:
            return False
        self.send_window -= size
        self.conn.enqueue(HEADER.pack(0, DATA, 0, self.stream_id, size), data)
        return True

    async def write(self, data: bytes) -> None:
        """Hand over all of ``data``, waiting for window and queue as long as it takes."""
        rest = memoryview(data)
        while rest:
            await self._wait_writable()
            size = min(len(rest), self.send_window, BODY_BYTES_MAX)
            self.send_window -= size
            self.conn.enqueue(HEADER.pack(0, DATA, 0, self.stream_id, size), bytes(rest[:size]))
            rest = rest[size:]
        await trio.lowlevel.checkpoint()

    async def _wait_writable(self) -> None:
        while True:
            if self.send_closed or self.was_reset:
                raise MuxedStreamClosed("the stream is closed for writing")
            if self.send_window <= 0:
                self._writable = trio.Event()
                await self._writable.wait()
            elif self.conn.congested:
                await self.conn.wait_uncongested()
            else:
                return

    # --- ending

    def end_writing(self) -> None:
        """Say that we write no more; the other side may go on."""
        if not self.send_closed and not self.was_reset:
            self.send_closed = True
            self.conn.enqueue_control(WINDOW_UPDATE, FIN, self.stream_id, 0)
        self._writable.set()
        if self.ended:
            self.conn.forget(self)

    def abandon(self) -> None:
        """End both directions without losing what was written: no more reading, no more writing."""
        self.end_writing()
        self.abandoned = True
        self.conn.drop_buffer(self)
        if self.ended or self.was_reset:
            self.conn.forget(self)
        else:
            self.conn.linger(self)
        self._readable.set()

    def abort(self) -> None:
        """Reset both directions at once."""
        if not self.was_reset and not (self.send_closed and self.ended):
            self.conn.enqueue_control(WINDOW_UPDATE, RST, self.stream_id, 0)
        self.on_reset(drop=True)
        self.conn.forget(self)

    def on_reset(self, *, drop: bool) -> None:
        """The stream is dead. What came before a clean end may still be read unless ``drop``."""
        self.was_reset = self.was_reset or drop or not self.ended
        self.send_closed = True
        if self.was_reset:
            self.conn.drop_buffer(self)
        self.wake()

    def wake(self) -> None:
        """Let readers and writers look again."""
        self._readable.set()
        self._writable.set()

    def wake_writer(self) -> None:
        self._writable.set()

    def wake_reader(self) -> None:
        self._readable.set()

    # --- libp2p's interface

    async def close(self) -> None:
        self.end_writing()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        self.abort()
        await trio.lowlevel.checkpoint()

    def set_deadline(self, ttl: int) -> None:
        raise NotImplementedError("deadlines are cancel scopes here")

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.conn.get_remote_address()

    @property
    def is_closed(self) -> bool:
        return self.was_reset or (self.send_closed and self.ended)

    async def __aenter__(self) -> "MuxedStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()
