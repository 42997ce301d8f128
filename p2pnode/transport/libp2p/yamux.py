"""Yamux on the wire: its frames, and the bounds under which we speak it."""

import struct
from dataclasses import dataclass
from typing import Final

YAMUX_PROTOCOL: Final = "/yamux/1.0.0"

HEADER: Final = struct.Struct("!BBHII")
"""Version, type, flags, stream id, and a length or a value."""

DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

GO_AWAY_NORMAL: Final = 0

WINDOW_FIRST_BYTES: Final = 256 * 1024
"""What either side may send on a new stream before it is told of more."""

BODY_BYTES_MAX: Final = 65_535 - 16 - HEADER.size
"""The largest body we send: with its header it fills exactly one noise record."""


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
