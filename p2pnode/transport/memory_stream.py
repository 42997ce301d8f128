"""Framed streams between two nodes of a MemoryNetwork."""

from collections import deque
from collections.abc import Callable

import trio

from p2pnode.transport.seam import FrameTooLarge, StreamClosed, StreamTimeout
from protocol.core.ids import NodeId

WINDOW_BYTES = 1 << 20
"""Sent and not yet received, before a sender waits."""

_END = None


class MemoryStream:
    """One end of a stream. ``carry(size, arrival)`` runs ``arrival`` on the other side when the link delivers."""

    def __init__(
        self,
        me: NodeId,
        peer: NodeId,
        frame_bytes_max: int,
        send_s: float,
        carry: Callable[[NodeId, int, Callable[[], None]], None],
    ) -> None:
        self.peer = peer
        self.frame_bytes_max = frame_bytes_max
        self.twin: MemoryStream = self
        self.me = me
        self._send_s = send_s
        self.carry = carry
        self._inbox: deque[bytes | None] = deque()
        self._under_way = 0  # bytes sent and not yet taken by the twin's reader
        self._send_turn = trio.Lock()
        self._closed = False
        self._lost = False
        self._readable = trio.Event()
        self._writable = trio.Event()

    def send_now(self, frame: bytes) -> bool:
        self._check_size(frame)
        if self._is_dead():
            raise self._gone()
        if self._send_turn.locked() or self._is_full(frame):
            return False
        self._under_way += len(frame)
        self.carry(self.me, len(frame), lambda: self.twin._arrive(frame))
        return True

    async def send(self, frame: bytes) -> None:
        self._check_size(frame)
        try:
            with trio.move_on_after(self._send_s) as scope:
                async with self._send_turn:
                    while self._is_full(frame) and not self._is_dead():
                        self._writable = trio.Event()
                        await self._writable.wait()
        except trio.Cancelled:
            self.fail()
            raise
        if scope.cancelled_caught:
            self.fail()
            raise StreamTimeout(f"the peer did not read for {self._send_s:g} s; the stream was reset")
        if self._is_dead():
            raise self._gone()
        self._under_way += len(frame)
        self.carry(self.me, len(frame), lambda: self.twin._arrive(frame))

    async def receive(self) -> bytes:
        while not self._inbox:
            if self._closed or self._lost:
                raise self._gone()
            self._readable = trio.Event()
            await self._readable.wait()
        await trio.lowlevel.checkpoint()
        frame = self.receive_now()
        if frame is None:
            raise StreamClosed("the peer ended the stream", clean=True)
        return frame

    def receive_now(self) -> bytes | None:
        frame = self._inbox[0] if self._inbox else None
        if frame is None:
            return None
        if len(frame) > self.frame_bytes_max:
            self.fail()
            raise FrameTooLarge(f"the peer sent a frame of {len(frame)} bytes; at most {self.frame_bytes_max}")
        self._inbox.popleft()
        self.twin._under_way -= len(frame)
        self.twin._writable.set()
        return frame

    async def close(self) -> None:
        if not self._closed and not self._lost:
            self._closed = True
            self._inbox.clear()
            self.carry(self.me, 0, self.twin._arrive_end)
            self._wake()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        self.fail()
        self._closed = True
        await trio.lowlevel.checkpoint()

    def fail(self) -> None:
        """Break both ends at once: a reset, or the loss of the connection."""
        for end in (self, self.twin):
            end._lost = True
            if not end._inbox or end._inbox[-1] is not _END:
                end._inbox.clear()
            end._wake()

    def _arrive(self, frame: bytes) -> None:
        if self._closed:
            self.fail()  # nobody reads here any more
        elif not self._lost:
            self._inbox.append(frame)
            self._readable.set()

    def _arrive_end(self) -> None:
        if not self._lost:
            self._inbox.append(_END)
            self._wake()

    def _check_size(self, frame: bytes) -> None:
        if len(frame) > self.frame_bytes_max:
            raise FrameTooLarge(f"a frame of {len(frame)} bytes; this stream carries at most {self.frame_bytes_max}")

    def _is_full(self, frame: bytes) -> bool:
        return self._under_way > 0 and self._under_way + len(frame) > WINDOW_BYTES

    def _is_dead(self) -> bool:
        return self._closed or self._lost

    def _gone(self) -> StreamClosed:
        if self._closed:
            return StreamClosed("the stream was closed on this side", clean=True)
        return StreamClosed("the stream was reset, or its connection lost", clean=False)

    def _wake(self) -> None:
        self._readable.set()
        self._writable.set()
