"""What can be set of the libp2p transport; every default is safe for a public node."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from p2pnode.transport.libp2p.yamux import MuxerLimits
from protocol.core.errors import ParameterError
from protocol.core.ids import NodeId

_CONNECTIONS_MAX = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class Libp2pConfig:
    """Addresses, budgets and bounds. Times in seconds, rates in messages a second."""

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    """Each is served as TCP and as WebSocket on the one port; port 0 lets the system choose. Empty: dial only."""
    announce: tuple[str, ...] = ()
    """What to tell others instead of what was bound: behind a NAT or a TLS proxy."""
    bootstrap: tuple[str, ...] = ()
    """Peers to keep connected from the start, each ending in ``/p2p/<peer id>``."""
    book_path: Path | None = None
    """Where known addresses survive a restart."""
    mdns: bool = False
    """Find peers on the local network by multicast."""
    degree: int = 4
    """Below this many peers, known addresses are dialed."""

    topic_rates: Mapping[str, float] = field(default_factory=dict)
    """Each topic's share of the network-wide budget."""
    topic_rate_default: float = 20.0
    allow: Callable[[NodeId], bool] | None = None
    """Bonded or allow-listed origins; all others share a twentieth of each topic. None: nobody is a stranger."""
    publish_wait_s: float = 5.0
    """How far ahead our own messages may queue for their turn."""

    connections: int = 256
    """At most 800: libp2p's task manager dies of a thousand tasks with one parent."""
    connections_per_peer: int = 4
    connections_per_ip: int = 64
    """Inbound, and not for this machine's own addresses."""
    handshakes: int = 128
    """Inbound connections that have not yet said who they are."""
    handshake_s: float = 8.0
    inbound_streams: int = 4096
    inbound_streams_per_peer: int = 256
    first_frame_s: float = 10.0
    """An inbound stream that has not named its protocol, or sent its first frame, by then is reset."""
    unfinished_bytes: int = 64 << 20
    """Frames of which some has come and the rest not yet, over all inbound streams; whose most is pays for more."""
    unfinished_bytes_per_peer: int = 16 << 20
    frame_s: float = 30.0
    """A frame that was begun is whole by then, or its stream is reset."""
    idle_s: float = 900.0
    """An inbound stream without a frame for so long is reset."""
    send_s: float = 10.0
    """The longest that a frame waits for a slow reader."""
    muxer: MuxerLimits = field(default_factory=MuxerLimits)

    dial_retry_first_s: float = 0.5
    dial_retry_max_s: float = 60.0
    wanted: int = 256
    """Peers that are kept connected."""

    def __post_init__(self) -> None:
        """Raises ParameterError for a bound that cannot hold."""
        if not 1 <= self.connections <= _CONNECTIONS_MAX:
            raise ParameterError(f"connections = {self.connections} is not between 1 and {_CONNECTIONS_MAX}")
        positive = {
            "topic_rate_default": self.topic_rate_default,
            "handshake_s": self.handshake_s,
            "first_frame_s": self.first_frame_s,
            "frame_s": self.frame_s,
            "idle_s": self.idle_s,
            "send_s": self.send_s,
            "dial_retry_first_s": self.dial_retry_first_s,
            **{f"topic_rates[{topic!r}]": rate for topic, rate in self.topic_rates.items()},
        }
        for name, value in positive.items():
            if value <= 0:
                raise ParameterError(f"{name} = {value} is not positive")
