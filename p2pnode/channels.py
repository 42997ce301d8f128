"""Framed streams as numbered channels: one task that receives for each, and one that sends what has to wait.

What a machine sends is encoded and handed to the stream at once; what the stream cannot take waits in a bounded
outbox. A peer that reads too slowly to keep it within bounds loses the stream, never the node its memory. What
arrives is decoded here: bytes that are no message end the stream. What waits is bounded for each stream, for each
peer, and for all of them together.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

import trio

from p2pnode.transport.holdings import Holdings
from p2pnode.transport.seam import Stream, StreamClosed, Transport, TransportError
from protocol.core.codec import Message, decode, encode
from protocol.core.errors import DecodeError
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Received, Sent

OUTBOX_MESSAGES_MAX = 1_024
OUTBOX_BYTES_MAX = 4 << 20
PEER_BYTES_MAX = 16 << 20
WAITING_BYTES_MAX = 32 << 20
"""Over all channels; beyond it the peer for whom most waits loses its fullest one."""
OPEN_TIMEOUT_MS = 5_000
DRAIN_S = 10.0
"""What was sent before a Close may take this long to leave; then the stream is reset."""

REPORTS_PER_SECOND = 1_000
REPORT_PAUSE_S_MAX = 0.020
"""A frame costs its whole path some 0.3 ms of CPU, however many tokens it holds. So what was sent is reported at this
rate over all channels, and at the latest after the pause: a stream alone never waits, nor does any first frame; with
many streams, tokens that are ready meanwhile leave together. Measured on two cores at 32 streams of 200 tokens a
second, together with sends that wake no task: 4 tokens a frame, CPU 0.32 -> 0.19 s per 1,000 tokens, and
4,970 -> 5,870 tokens/s carried."""

RECEIVE_BURST_MAX = 16
"""Frames of one stream that are handled before others have their turn."""

Dispatch = Callable[[object], None]


class _Outbox:
    """Frames on their way out of one channel."""

    def __init__(self, channel: Channel, peer: NodeId) -> None:
        self.channel = channel
        self.peer = peer
        self.frames: deque[tuple[bytes, bool]] = deque()
        self.bytes = 0
        self.stream: Stream | None = None
        self.closing = False
        self.dead = False
        self.wake = trio.Event()
        self.scope = trio.CancelScope()

    def put(self, frame: bytes, report: bool) -> bool:
        """Queue a frame; False when the bound is reached."""
        if len(self.frames) >= OUTBOX_MESSAGES_MAX or self.bytes + len(frame) > OUTBOX_BYTES_MAX:
            return False
        self.frames.append((frame, report))
        self.bytes += len(frame)
        self.wake.set()
        return True


class Channels:
    """All channels of one machine. ``dispatch`` hands the machine what happens on them; ``keep_up`` waits until it may
    be handed more of what peers send."""

    def __init__(
        self, transport: Transport, nursery: trio.Nursery, dispatch: Dispatch, keep_up: Callable[[], Awaitable[None]]
    ) -> None:
        self._transport = transport
        self._nursery = nursery
        self._dispatch = dispatch
        self._keep_up = keep_up
        self._outboxes: dict[Channel, _Outbox] = {}
        self._numbers = count(1)
        self._dropped = 0
        self._sent: deque[tuple[float, Channel, _Outbox]] = deque()
        self._sent_wake = trio.Event()
        self._waiting = Holdings[_Outbox](
            total_max=WAITING_BYTES_MAX, per_peer_max=PEER_BYTES_MAX, drop=self._reads_too_slowly
        )
        nursery.start_soon(self._run_reports)

    def __len__(self) -> int:
        return len(self._outboxes)

    @property
    def dropped(self) -> int:
        """Streams that ended because their peer read too slowly."""
        return self._dropped

    def open(self, channel: Channel, peer: NodeId, protocol: str) -> None:
        """Open an outbound stream; what is sent before it stands waits in the outbox."""
        outbox = self._outboxes[channel] = _Outbox(channel, peer)
        self._nursery.start_soon(self._run_outbound, channel, peer, protocol, outbox)

    def send(self, channel: Channel, message: Message, report: bool) -> None:
        """Send a message or queue it; one for a dead channel is dropped, one too many ends the channel."""
        if channel in self._outboxes:
            self._send_frame(channel, encode(message), report)

    def send_all(self, channels: Sequence[Channel], message: Message) -> None:
        """Send one message on several channels; it is encoded once."""
        frame = encode(message) if channels else b""
        for channel in channels:
            self._send_frame(channel, frame, report=False)

    def _send_frame(self, channel: Channel, frame: bytes, report: bool) -> None:
        outbox = self._outboxes.get(channel)
        if outbox is None or outbox.closing:
            return
        if outbox.stream is not None and not outbox.frames:
            # No task is woken for what need not wait.
            try:
                if outbox.stream.send_now(frame):
                    self._was_sent(channel, outbox, report)
                    return
            except TransportError as error:
                self._lost(channel, outbox, str(error))
                return
        if outbox.put(frame, report):
            self._waiting.hold(outbox.peer, outbox, outbox.bytes)
        else:
            self._reads_too_slowly(outbox)

    def close(self, channel: Channel) -> None:
        """Close after what is queued was sent."""
        outbox = self._outboxes.pop(channel, None)
        if outbox is not None:
            outbox.closing = True
            outbox.scope.deadline = trio.current_time() + DRAIN_S
            outbox.wake.set()

    async def serve(self, protocol: str, stream: Stream) -> None:
        """Run an inbound stream as a channel until either side ends it."""
        channel = Channel(next(self._numbers))
        outbox = self._outboxes[channel] = _Outbox(channel, stream.peer)
        self._dispatch(ChannelOpened(channel, stream.peer, protocol))
        await self._run(channel, stream, outbox)

    async def _run_outbound(self, channel: Channel, peer: NodeId, protocol: str, outbox: _Outbox) -> None:
        try:
            stream = await self._transport.open_stream(peer, protocol, timeout_ms=OPEN_TIMEOUT_MS)
        except TransportError as error:
            self._lost(channel, outbox, str(error))
            self._waiting.hold(peer, outbox, 0)
            return
        await self._run(channel, stream, outbox)

    async def _run(self, channel: Channel, stream: Stream, outbox: _Outbox) -> None:
        try:
            outbox.stream = stream
            with outbox.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._receive, channel, stream, outbox)
                    await self._send(channel, stream, outbox)
                    nursery.cancel_scope.cancel()
        finally:
            self._waiting.hold(outbox.peer, outbox, 0)
            with trio.CancelScope(shield=True), trio.move_on_after(2):
                await (stream.reset() if outbox.dead or outbox.frames else stream.close())

    async def _send(self, channel: Channel, stream: Stream, outbox: _Outbox) -> None:
        while True:
            while outbox.frames:
                frame, report = outbox.frames[0]
                try:
                    await stream.send(frame)
                except TransportError as error:
                    self._lost(channel, outbox, str(error))
                    return
                outbox.frames.popleft()
                outbox.bytes -= len(frame)
                self._waiting.hold(outbox.peer, outbox, outbox.bytes)
                self._was_sent(channel, outbox, report)
            if outbox.closing:
                return
            outbox.wake = trio.Event()
            await outbox.wake.wait()

    def _was_sent(self, channel: Channel, outbox: _Outbox, report: bool) -> None:
        if report and not outbox.closing:
            pause = min(len(self._sent) / REPORTS_PER_SECOND, REPORT_PAUSE_S_MAX)
            self._sent.append((trio.current_time() + pause, channel, outbox))
            self._sent_wake.set()

    async def _run_reports(self) -> None:
        """Tell the machine what was sent, each in its turn. The first frame of a stream waits for nothing."""
        while True:
            if not self._sent:
                self._sent_wake = trio.Event()
                await self._sent_wake.wait()
            due, channel, outbox = self._sent[0]
            if due > trio.current_time():
                await trio.sleep_until(due)
            else:
                await trio.lowlevel.checkpoint()
            self._sent.popleft()
            if not outbox.closing:
                self._dispatch(Sent(channel))

    async def _receive(self, channel: Channel, stream: Stream, outbox: _Outbox) -> None:
        burst = 0
        while not outbox.closing:
            try:
                # What came together is handled together, so that what follows from it leaves in one write too.
                frame = stream.receive_now() if 0 < burst < RECEIVE_BURST_MAX else None
                burst = burst + 1 if frame is not None else 1
                message = decode(frame if frame is not None else await stream.receive())
            except StreamClosed as error:
                self._lost(channel, outbox, str(error))
                return
            except (TransportError, DecodeError) as error:
                outbox.dead = True
                self._lost(channel, outbox, str(error))
                return
            await self._keep_up()
            if not outbox.closing:
                self._dispatch(Received(channel, message))

    def _reads_too_slowly(self, outbox: _Outbox) -> None:
        self._dropped += 1
        self._lost(outbox.channel, outbox, "the peer reads too slowly")

    def _lost(self, channel: Channel, outbox: _Outbox, reason: str) -> None:
        """The channel ended by itself: tell the machine once, and stop both tasks."""
        outbox.scope.cancel()
        if self._outboxes.get(channel) is outbox:
            del self._outboxes[channel]
            outbox.closing = True
            self._dispatch(ChannelClosed(channel, reason))
