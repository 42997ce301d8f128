"""The worker's end of the socket to its node."""

import select
import socket
from collections.abc import Sequence

import p2pnode.engine.wire as wire

BACKLOG_BYTES_MAX = 4 * 1_024 * 1_024
RECEIVE_BYTES = 256 * 1_024


class NodeGoneError(Exception):
    """The other end of the channel is closed."""


class Channel:
    """The worker's end of the socket: never blocks on sending."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._frames = wire.FrameBuffer()
        self._unsent = bytearray()
        self._poll = select.poll()

    @property
    def congested(self) -> bool:
        """Whether the node reads too slowly to make more for it."""
        return len(self._unsent) > BACKLOG_BYTES_MAX

    def receive(self, *, wait: bool, also: Sequence[int] = ()) -> list[wire.ToWorker]:
        """What has arrived; with ``wait``, sleeps until something has or could be sent, or one of these other
        descriptors is readable. Raises NodeGoneError."""
        self._poll.register(self._connection, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        for descriptor in also:
            self._poll.register(descriptor, select.POLLIN)
        events = self._poll.poll(None if wait else 0)
        for descriptor in also:
            self._poll.unregister(descriptor)
        if not events:
            return []
        if self._unsent:
            self._flush()
        try:
            data = self._connection.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except ConnectionError as error:
            raise NodeGoneError from error
        if not data:
            raise NodeGoneError
        return [wire.decode_to_worker(body) for body in self._frames.push(data)]

    def send(self, *messages: wire.FromWorker) -> None:
        """Send, or keep until it can be sent. Raises NodeGoneError."""
        for message in messages:
            self._unsent += wire.encode(message)
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._connection.send(self._unsent)]
        except BlockingIOError:
            pass  # the rest goes when the node has read
        except ConnectionError as error:
            raise NodeGoneError from error
