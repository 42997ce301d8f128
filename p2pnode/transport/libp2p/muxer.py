"""Yamux for one connection: bounded memory, no write that a cancellation can tear, a peer that froze is noticed.

py-libp2p's own muxer only warns when a peer overruns its receive window, polls for credit every 10 ms, gives up on
a slow reader after 5 s, sends a credit frame per read and never asks whether a peer is still there. This one speaks
the same protocol (hashicorp/yamux) and

* counts what it buffers: a window per stream, a sum per connection; a peer that oversteps loses the connection;
* writes from one task, so that frames of many streams leave in one encrypted record and no caller's cancellation
  can cut one in half;
* returns credit once a quarter of the window was read;
* pings, and drops a peer that is silent for ``dead_after_s``.
"""

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import trio
from libp2p.abc import ConnectionType, IMuxedConn, IMuxedStream, ISecureConn
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamReset,
)
from multiaddr import Multiaddr

log = logging.getLogger(__name__)

YAMUX_PROTOCOL: Final = "/yamux/1.0.0"

_HEADER = struct.Struct("!BBHII")
_DATA, _WINDOW_UPDATE, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_GO_AWAY_NORMAL, _GO_AWAY_PROTOCOL_ERROR = 0, 1

_WINDOW_FIRST: Final = 256 * 1024
_BODY_BYTES_MAX: Final = 65_535 - 16 - _HEADER.size
"""With its header this fills exactly one noise record."""


@dataclass(frozen=True, slots=True)
class MuxerLimits:
    """Bounds of one connection, in bytes, streams and seconds."""

    window_bytes: int = 1 << 20
    """The receive window of a stream that is read steadily; it starts at yamux's 256 KiB."""
    buffered_bytes: int = 4 << 20
    """Received and not yet read, over all streams; the stream that oversteps is reset."""
    unsent_bytes: int = 128 * 1024
    """Handed over and not yet written; writers wait above it."""
    inbound_streams: int = 256
    inbound_stream_rate: float = 500.0
    """New inbound streams a second; twice as many in a burst."""
    ping_every_s: float = 2.0
    dead_after_s: float = 6.0
    drain_s: float = 1.0
    """How long a clean close waits for unsent bytes."""
    linger_s: float = 10.0
    """How long a stream that we are done with waits for the other side's end."""


class ConnectionLost(Exception):
    """Why a connection ended; for the log."""


class MuxedStream(IMuxedStream):
    """One yamux stream. At most one task writes and one reads at a time."""

    def __init__(self, conn: "Muxer", stream_id: int, *, inbound: bool) -> None:
        self.muxed_conn = conn
        self.conn = conn
        self.stream_id = stream_id
        self.inbound = inbound
        self.buffer = bytearray()
        self.ended = False  # the other side will send no more
        self.was_reset = False  # by either side, or with the connection
        self.send_closed = False
        self.abandoned = False  # nobody on our side will read
        self.send_window = _WINDOW_FIRST
        self.recv_window = _WINDOW_FIRST
        self.target_window = _WINDOW_FIRST
        self._owed = 0  # bytes read and not yet credited
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
        if size > self.send_window or size > _BODY_BYTES_MAX or self.conn.congested:
            return False
        self.send_window -= size
        self.conn.enqueue(_HEADER.pack(0, _DATA, 0, self.stream_id, size), data)
        return True

    async def write(self, data: bytes) -> None:
        """Hand over all of ``data``, waiting for window and queue as long as it takes."""
        rest = memoryview(data)
        while rest:
            await self._wait_writable()
            size = min(len(rest), self.send_window, _BODY_BYTES_MAX)
            self.send_window -= size
            self.conn.enqueue(_HEADER.pack(0, _DATA, 0, self.stream_id, size), bytes(rest[:size]))
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
            self.conn.enqueue_control(_WINDOW_UPDATE, _FIN, self.stream_id, 0)
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
            self.conn.enqueue_control(_WINDOW_UPDATE, _RST, self.stream_id, 0)
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

    def set_deadline(self, ttl: int) -> bool:
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


class Muxer(IMuxedConn):
    """A multiplexed connection to one authenticated peer.

    ``on_start``, ``on_end`` and ``on_stream`` are called synchronously: when the connection carries streams, when
    it no longer does, and for each stream that the peer opens.
    """

    def __init__(
        self,
        secured_conn: ISecureConn,
        peer_id: ID,
        *,
        limits: MuxerLimits,
        on_start: Callable[["Muxer"], None],
        on_end: Callable[["Muxer"], None],
        on_stream: Callable[[MuxedStream], None],
    ) -> None:
        self.secured_conn = secured_conn
        self.peer_id = peer_id
        self.limits = limits
        self.streams: dict[int, MuxedStream] = {}
        self.buffered = 0
        self.unsent = 0
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self.event_shutting_down = trio.Event()
        self.on_close: Callable[[], object] | None = None  # SwarmConn puts its hook here
        self._on_start, self._on_end, self._on_stream = on_start, on_end, on_stream
        self._next_id = 1 if secured_conn.is_initiator else 2
        self._inbound = 0
        self._inbound_credit = 2 * limits.inbound_stream_rate
        self._inbound_credit_at = trio.current_time()
        self._lingering: dict[int, float] = {}
        self._out: list[bytes] = []
        self._out_ready = trio.Event()
        self._uncongested = trio.Event()
        self._drained = trio.Event()
        self._heard_at = trio.current_time()
        self._scope = trio.CancelScope()
        self._torn_down = False
        self.end_reason = ""

    # --- life

    async def start(self) -> None:
        """Run until either side ends the connection. Raises nothing: the swarm would end with it."""
        if self.event_shutting_down.is_set():
            self.event_started.set()
            return
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_loop)
                    nursery.start_soon(self._watch_loop)
                    self.event_started.set()
                    self._on_start(self)
                    await self._read_loop()
                    nursery.cancel_scope.cancel()
        except* ConnectionLost as lost:
            self.end_reason = str(lost.exceptions[0])
        except* Exception as errors:  # the transport below broke, in whatever way it likes to say so
            self.end_reason = "; ".join(f"{type(error).__name__}: {error}" for error in errors.exceptions)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(self.limits.drain_s):
                await self._tear_down()

    async def close(self, error_code: int = _GO_AWAY_NORMAL) -> None:
        """Send what is queued, for at most ``drain_s``, and end the connection."""
        if not self.event_started.is_set():
            await self._tear_down()
            return
        if not self.event_shutting_down.is_set():
            self.event_shutting_down.set()
            self.enqueue_control(_GO_AWAY, 0, 0, error_code)
            with trio.move_on_after(self.limits.drain_s):
                while self._out or self.unsent:
                    self._drained = trio.Event()
                    await self._drained.wait()
        self._scope.cancel()
        await self.event_closed.wait()

    async def _tear_down(self) -> None:
        self.event_shutting_down.set()
        if self._torn_down:
            return
        self._torn_down = True
        for stream in list(self.streams.values()):
            stream.on_reset(drop=False)
        self.streams.clear()
        self._uncongested.set()
        self._drained.set()
        started = self.event_started.is_set()
        self.event_started.set()
        if started:
            log.debug("connection to %s ended: %s", self.peer_id, self.end_reason or "closed")
            self._on_end(self)
        try:
            await self.secured_conn.close()
        except Exception as error:
            log.debug("closing the socket to %s: %r", self.peer_id, error)
        self.event_closed.set()
        if self.on_close is not None:
            result = self.on_close()
            if result is not None:
                await result  # type: ignore[misc]

    async def _watch_loop(self) -> None:
        """Ping, notice silence, and finish off streams whose other side never ends them."""
        every = self.limits.ping_every_s
        nonce = 0
        while True:
            slept_from = trio.current_time()
            await trio.sleep(every)
            now = trio.current_time()
            if now - slept_from > every + 1.0:
                self._heard_at = now  # it was us who stood still: the peer's bytes wait unread in the socket
            if now - self._heard_at > self.limits.dead_after_s:
                raise ConnectionLost(f"silent for {now - self._heard_at:.1f} s")
            if now - self._heard_at >= every / 2:
                nonce = (nonce + 1) & 0xFFFFFFFF
                self.enqueue_control(_PING, _SYN, 0, nonce)
            for stream_id in [key for key, since in self._lingering.items() if now - since > self.limits.linger_s]:
                self.streams[stream_id].abort()

    # --- writing

    @property
    def congested(self) -> bool:
        return self.unsent >= self.limits.unsent_bytes

    async def wait_uncongested(self) -> None:
        if self.congested and not self.event_shutting_down.is_set():
            await self._uncongested.wait()

    def enqueue(self, header: bytes, body: bytes) -> None:
        """Queue a frame; the write task joins what is queued into one record."""
        self._out.append(header)
        if body:
            self._out.append(body)
        self.unsent += len(header) + len(body)
        self._out_ready.set()

    def enqueue_control(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """Queue a frame that never waits. A peer that makes us queue them without reading is cut off."""
        if self.unsent > self.limits.unsent_bytes + (1 << 20):
            self.fail("does not read what it asks for")
        self.enqueue(_HEADER.pack(0, kind, flags, stream_id, value), b"")

    async def _write_loop(self) -> None:
        while True:
            if not self._out:
                self._out_ready = trio.Event()
                await self._out_ready.wait()
            batch = b"".join(self._out)
            self._out.clear()
            await self.secured_conn.write(batch)
            self.unsent -= len(batch)
            if not self.congested:
                self._uncongested.set()
                self._uncongested = trio.Event()
            if not self._out:
                self._drained.set()

    def fail(self, reason: str) -> None:
        """End the connection now, from any task."""
        self.end_reason = self.end_reason or reason
        self._scope.cancel()

    # --- reading

    async def _read_loop(self) -> None:
        pending = bytearray()
        while True:
            chunk = await self.secured_conn.read(None)
            if not chunk:
                raise ConnectionLost("closed by the peer")
            self._heard_at = trio.current_time()
            pending += chunk
            used = 0
            while len(pending) - used >= _HEADER.size:
                version, kind, flags, stream_id, value = _HEADER.unpack_from(pending, used)
                if version != 0 or kind > _GO_AWAY:
                    raise ConnectionLost(f"no yamux frame: version {version}, type {kind}")
                end = used + _HEADER.size
                if kind == _DATA:
                    if value > self._allowance(stream_id):
                        raise ConnectionLost(f"sent {value} bytes beyond the window of stream {stream_id}")
                    if len(pending) - end < value:
                        break
                    end += value
                    body = bytes(pending[end - value : end])
                    self._on_frame(kind, flags, stream_id, value, body)
                else:
                    self._on_frame(kind, flags, stream_id, value, b"")
                used = end
            del pending[:used]

    def _allowance(self, stream_id: int) -> int:
        stream = self.streams.get(stream_id)
        return stream.recv_window if stream is not None else _WINDOW_FIRST

    def _on_frame(self, kind: int, flags: int, stream_id: int, value: int, body: bytes) -> None:
        if kind == _PING:
            if flags & _SYN:
                self.enqueue_control(_PING, _ACK, 0, value)
            return
        if kind == _GO_AWAY:
            raise ConnectionLost(f"the peer went away (code {value})")
        if flags & _SYN:
            self._accept(stream_id)
        stream = self.streams.get(stream_id)
        if stream is None:
            return  # one we reset or refused: what was under way arrives and is dropped
        if body:
            self._on_data(stream, body)
        elif kind == _WINDOW_UPDATE and value:
            stream.send_window += value
            stream.wake_writer()
        if flags & _FIN:
            stream.ended = True
            stream.wake_reader()
            if stream.send_closed and (stream.abandoned or not stream.buffer):
                self.forget(stream)
        if flags & _RST:
            stream.on_reset(drop=False)
            self.forget(stream)

    def _on_data(self, stream: MuxedStream, body: bytes) -> None:
        stream.recv_window -= len(body)
        if stream.recv_window < 0:
            raise ConnectionLost(f"overran the window of stream {stream.stream_id}")
        if stream.abandoned:
            stream.abort()  # nobody reads it: say so
            return
        if stream.was_reset or stream.ended:
            return
        stream.buffer += body
        self.buffered += len(body)
        if self.buffered > self.limits.buffered_bytes:
            log.warning("stream %d of %s reset: too much unread on its connection", stream.stream_id, self.peer_id)
            stream.abort()
        else:
            stream.wake_reader()

    def _accept(self, stream_id: int) -> None:
        if stream_id in self.streams or stream_id % 2 == self._next_id % 2 or stream_id == 0:
            raise ConnectionLost(f"opened stream {stream_id}, which is not its to open")
        now = trio.current_time()
        rate = self.limits.inbound_stream_rate
        self._inbound_credit = min(2 * rate, self._inbound_credit + rate * (now - self._inbound_credit_at))
        self._inbound_credit_at = now
        if self._inbound >= self.limits.inbound_streams or self._inbound_credit < 1 or self._closing:
            self.enqueue_control(_WINDOW_UPDATE, _RST, stream_id, 0)
            return
        self._inbound_credit -= 1
        self._inbound += 1
        stream = MuxedStream(self, stream_id, inbound=True)
        self.streams[stream_id] = stream
        self.enqueue_control(_WINDOW_UPDATE, _ACK, stream_id, 0)
        self._on_stream(stream)

    # --- bookkeeping for streams

    @property
    def _closing(self) -> bool:
        return self.event_shutting_down.is_set()

    def consumed(self, stream: MuxedStream, size: int) -> None:
        """``size`` bytes were read: give the window back, a quarter at a time, and let it grow once."""
        self.buffered -= size
        if stream.ended or stream.was_reset:
            if stream.send_closed and not stream.buffer:
                self.forget(stream)
            return
        stream._owed += size
        if stream._owed * 4 < stream.target_window:
            return
        credit = stream._owed
        stream._owed = 0
        if stream.target_window < self.limits.window_bytes:
            credit += stream.target_window
            stream.target_window *= 2
        stream.recv_window += credit
        self.enqueue_control(_WINDOW_UPDATE, 0, stream.stream_id, credit)

    def drop_buffer(self, stream: MuxedStream) -> None:
        self.buffered -= len(stream.buffer)
        stream.buffer.clear()

    def linger(self, stream: MuxedStream) -> None:
        """Wait for the other side's end of an abandoned stream, but not for ever nor for too many."""
        self._lingering[stream.stream_id] = trio.current_time()
        if len(self._lingering) > self.limits.inbound_streams:
            self.streams[next(iter(self._lingering))].abort()

    def forget(self, stream: MuxedStream) -> None:
        """Drop a stream that both sides are done with."""
        self._lingering.pop(stream.stream_id, None)
        if self.streams.pop(stream.stream_id, None) is not None and stream.inbound:
            self._inbound -= 1

    # --- libp2p's interface

    async def open_stream(self) -> MuxedStream:
        """Open a stream; the peer answers when it answers. Raises MuxedConnUnavailable."""
        stream = self.open_stream_now()
        await trio.lowlevel.checkpoint()
        return stream

    def open_stream_now(self) -> MuxedStream:
        """Open a stream without a checkpoint. Raises MuxedConnUnavailable."""
        if self._closing or self._next_id >= 1 << 32:
            raise MuxedConnUnavailable("the connection is closing")
        stream = MuxedStream(self, self._next_id, inbound=False)
        self._next_id += 2
        self.streams[stream.stream_id] = stream
        self.enqueue_control(_WINDOW_UPDATE, _SYN, stream.stream_id, 0)
        return stream

    async def accept_stream(self) -> IMuxedStream:
        """Inbound streams go to ``on_stream``; libp2p's own loop only learns of the end here."""
        await self.event_closed.wait()
        raise MuxedConnUnavailable("the connection is closed")

    @property
    def is_initiator(self) -> bool:
        return self.secured_conn.is_initiator

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and not self._closing

    @property
    def is_closed(self) -> bool:
        return self.event_closed.is_set()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.secured_conn.get_remote_address()
