"""Frames on a muxed stream: a length of four bytes, big-endian, and that many bytes.

The length is checked before anything is buffered for it; a frame of usual size costs one queue entry to send and
one slice to receive. A stream's window is given back as its bytes are read into the frame they belong to, or a frame
larger than the window could not come at all: so what is held of frames that are not whole is counted apart.
"""

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError

from p2pnode.transport.holdings import Holdings
from p2pnode.transport.libp2p.config import Libp2pConfig
from p2pnode.transport.libp2p.muxed_stream import MuxedStream
from p2pnode.transport.seam import FrameTooLarge, StreamClosed, StreamTimeout
from protocol.core.ids import NodeId

_LENGTH_BYTES = 4
_READ_BYTES = 64 * 1024


class FramedStream:
    """The seam's Stream over libp2p."""

    __slots__ = (
        "_buffer",
        "_closed",
        "_config",
        "_held",
        "_inbound",
        "_limit",
        "_muxed",
        "_received",
        "_send_turn",
        "_unfinished",
        "peer",
    )

    def __init__(
        self,
        muxed: MuxedStream,
        peer: NodeId,
        frame_bytes_max: int,
        config: Libp2pConfig,
        unfinished: Holdings[MuxedStream],
        *,
        inbound: bool,
    ) -> None:
        self.peer = peer
        self._muxed = muxed
        self._limit = frame_bytes_max
        self._config = config
        self._unfinished = unfinished
        self._inbound = inbound
        self._buffer = bytearray()
        self._held = 0
        self._received = False
        self._closed = False
        self._send_turn = trio.Lock()

    # --- sending

    def send_now(self, frame: bytes) -> bool:
        data = self._prefixed(frame)
        try:
            return not self._send_turn.locked() and self._muxed.write_now(data)
        except MuxedStreamError as error:
            raise self._gone(error) from error

    async def send(self, frame: bytes) -> None:
        try:
            if self.send_now(frame):
                await trio.lowlevel.checkpoint()
            else:
                await self._send_waiting(self._prefixed(frame))
        except MuxedStreamError as error:
            raise self._gone(error) from error
        except trio.Cancelled:
            self._muxed.abort()  # whoever gave up cannot know how much of the frame left
            raise

    def _prefixed(self, frame: bytes) -> bytes:
        if len(frame) > self._limit:
            raise FrameTooLarge(f"a frame of {len(frame)} bytes; this stream carries at most {self._limit}")
        return len(frame).to_bytes(_LENGTH_BYTES, "big") + frame

    async def _send_waiting(self, data: bytes) -> None:
        with trio.move_on_after(self._config.send_s) as scope:
            async with self._send_turn:
                await self._muxed.write(data)
        if scope.cancelled_caught:
            self._muxed.abort()
            raise StreamTimeout(f"the peer did not read for {self._config.send_s:g} s; the stream was reset")

    # --- receiving

    async def receive(self) -> bytes:
        frame = self._next()
        if frame is not None:
            await trio.lowlevel.checkpoint()
            return frame
        if not self._buffer and not self._inbound:
            await self._read()  # whoever opened a stream sets its own limits between frames
            frame = self._next()
            if frame is not None:
                return frame
        with trio.move_on_at(self._patience()) as scope:
            while frame is None:
                begun = bool(self._buffer)
                await self._read()
                frame = self._next()
                if not begun:
                    scope.deadline = min(scope.deadline, trio.current_time() + self._config.frame_s)
        if scope.cancelled_caught or frame is None:
            self._muxed.abort()
            self._hold(0)
            raise StreamClosed("the peer kept the stream waiting too long; it was reset", clean=False)
        return frame

    def receive_now(self) -> bytes | None:
        return self._next()

    async def _read(self) -> None:
        try:
            self._buffer += await self._muxed.read(_READ_BYTES)
        except MuxedStreamError as error:
            raise self._gone(error) from error

    def _next(self) -> bytes | None:
        """Cut the next whole frame off the buffer, and account for the beginning of one that is not."""
        frame = self._cut()
        self._hold(len(self._buffer) if frame is None else 0)
        return frame

    def _hold(self, size: int) -> None:
        if size != self._held:
            self._held = size
            self._unfinished.hold(self.peer, self._muxed, size)

    def _cut(self) -> bytes | None:
        if len(self._buffer) < _LENGTH_BYTES:
            return None
        size = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
        if size > self._limit:
            self._muxed.abort()
            self._buffer.clear()
            self._hold(0)
            raise FrameTooLarge(f"the peer announced a frame of {size} bytes; this stream carries {self._limit}")
        end = _LENGTH_BYTES + size
        if len(self._buffer) < end:
            return None
        frame = bytes(self._buffer[_LENGTH_BYTES:end])
        del self._buffer[:end]
        self._received = True
        return frame

    def _patience(self) -> float:
        """Until when to wait for more bytes."""
        if self._buffer:
            return trio.current_time() + self._config.frame_s
        return trio.current_time() + (self._config.idle_s if self._received else self._config.first_frame_s)

    # --- ending

    async def close(self) -> None:
        self._closed = True
        self._hold(0)
        self._muxed.abandon()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        self._closed = True
        self._hold(0)
        self._muxed.abort()
        await trio.lowlevel.checkpoint()

    def _gone(self, error: MuxedStreamError) -> StreamClosed:
        self._hold(0)
        if self._closed:
            return StreamClosed("the stream was closed on this side", clean=True)
        if isinstance(error, MuxedStreamEOF):
            if self._buffer:
                return StreamClosed("the peer ended the stream inside a frame", clean=False)
            return StreamClosed("the peer ended the stream", clean=True)
        return StreamClosed("the stream was reset, or its connection lost", clean=False)
