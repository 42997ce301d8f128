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
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable

from p2pnode.transport.libp2p.muxed_stream import MuxedStream
from p2pnode.transport.libp2p.records import Records
from p2pnode.transport.libp2p.yamux import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    GO_AWAY_NORMAL,
    HEADER,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    MuxerLimits,
)

log = logging.getLogger(__name__)


class ConnectionLost(Exception):
    """Why a connection ended; for the log."""


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
        self.records = Records(secured_conn)
        self.peer_id = peer_id
        self.limits = limits
        self.streams: dict[int, MuxedStream] = {}
        self.buffered = 0
        self.unsent = 0
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self.event_shutting_down = trio.Event()
        self.on_close: Callable[[], Awaitable[None]] | None = None  # SwarmConn puts its hook here
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
        self.heard_at = trio.current_time()
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

    async def close(self, error_code: int = GO_AWAY_NORMAL) -> None:
        """Send what is queued, for at most ``drain_s``, and end the connection."""
        if not self.event_started.is_set():
            await self._tear_down()
            return
        if not self.event_shutting_down.is_set():
            self.event_shutting_down.set()
            self.enqueue_control(GO_AWAY, 0, 0, error_code)
            with trio.move_on_after(self.limits.drain_s):
                while self.unsent and not self._torn_down:
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
            await self.on_close()

    async def _watch_loop(self) -> None:
        """Ping, notice silence, and finish off streams whose other side never ends them."""
        every = self.limits.ping_every_s
        nonce = 0
        while True:
            slept_from = trio.current_time()
            await trio.sleep(every)
            now = trio.current_time()
            if now - slept_from > every + 1.0:
                self.heard_at = now  # it was us who stood still: the peer's bytes wait unread in the socket
            if now - self.heard_at > self.limits.dead_after_s:
                raise ConnectionLost(f"silent for {now - self.heard_at:.1f} s")
            if now - self.heard_at >= every / 2:
                nonce = (nonce + 1) & 0xFFFFFFFF
                self.enqueue_control(PING, SYN, 0, nonce)
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
        if self._torn_down:
            return
        self._out.append(header)
        if body:
            self._out.append(body)
        self.unsent += len(header) + len(body)
        self._out_ready.set()

    def enqueue_control(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """Queue a frame that never waits. A peer that makes us queue them without reading is cut off."""
        if self.unsent > self.limits.unsent_bytes + (1 << 20):
            self.fail("does not read what it asks for")
        self.enqueue(HEADER.pack(0, kind, flags, stream_id, value), b"")

    async def _write_loop(self) -> None:
        while True:
            if not self._out:
                self._out_ready = trio.Event()
                await self._out_ready.wait()
            batch = b"".join(self._out)
            self._out.clear()
            await self.records.write(batch)
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
            chunk = await self.records.read()
            if not chunk:
                raise ConnectionLost("closed by the peer")
            self.heard_at = trio.current_time()
            pending += chunk
            used = 0
            while len(pending) - used >= HEADER.size:
                version, kind, flags, stream_id, value = HEADER.unpack_from(pending, used)
                if version != 0 or kind > GO_AWAY:
                    raise ConnectionLost(f"no yamux frame: version {version}, type {kind}")
                end = used + HEADER.size
                if kind == DATA:
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
        return stream.recv_window if stream is not None else self.limits.window_bytes

    def _on_frame(self, kind: int, flags: int, stream_id: int, value: int, body: bytes) -> None:
        if kind == PING:
            if flags & SYN:
                self.enqueue_control(PING, ACK, 0, value)
            return
        if kind == GO_AWAY:
            raise ConnectionLost(f"the peer went away (code {value})")
        if flags & SYN:
            self._accept(stream_id)
        stream = self.streams.get(stream_id)
        if stream is None:
            return  # one we reset or refused: what was under way arrives and is dropped
        if body:
            self._on_data(stream, body)
        elif kind == WINDOW_UPDATE and value:
            stream.send_window += value
            stream.wake_writer()
        if flags & FIN:
            stream.ended = True
            stream.wake_reader()
            if stream.send_closed and (stream.abandoned or not stream.buffer):
                self.forget(stream)
        if flags & RST:
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
            log.debug("stream %d of %s reset: too much unread on its connection", stream.stream_id, self.peer_id)
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
            self.enqueue_control(WINDOW_UPDATE, RST, stream_id, 0)
            return
        self._inbound_credit -= 1
        self._inbound += 1
        stream = MuxedStream(self, stream_id, inbound=True)
        self.streams[stream_id] = stream
        self.enqueue_control(WINDOW_UPDATE, ACK, stream_id, 0)
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
        stream.owed += size
        if stream.owed * 4 < stream.target_window:
            return
        credit = stream.owed
        stream.owed = 0
        if stream.target_window < self.limits.window_bytes:
            credit += stream.target_window
            stream.target_window *= 2
        stream.recv_window += credit
        self.enqueue_control(WINDOW_UPDATE, 0, stream.stream_id, credit)

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
        self.enqueue_control(WINDOW_UPDATE, SYN, stream.stream_id, 0)
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

    def get_transport_addresses(self) -> list[Any]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.secured_conn.get_remote_address()
