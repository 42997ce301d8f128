"""What the rest of the program sees of the network: gossip, framed streams, and who is there.

Two implementations stand behind it and pass one conformance suite: ``libp2p`` (TCP and WebSocket, noise,
yamux, gossipsub) and ``memory`` (the same on virtual time). Peers are named by node id; libp2p's peer ids,
multiaddrs and exceptions never come through here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import trio

from protocol.core.errors import P2PNodeError
from protocol.core.ids import NodeId

FRAME_BYTES_MAX = 1 << 20
"""The largest frame a stream carries; a protocol may set a lower limit when it registers a handler."""

GOSSIP_BYTES_MAX = 16 * 1024
"""The largest gossip message (DESIGN §4)."""


class TransportError(P2PNodeError):
    """The network did not do what was asked; the message says what and what to try."""

    code = "transport/failed"


class PeerUnreachable(TransportError):
    """No connection to the peer could be made within the time given."""

    code = "transport/unreachable"


class WrongPeer(TransportError):
    """The address answered, but with another key than the one it names."""

    code = "transport/wrong-peer"


class StreamClosed(TransportError):
    """The stream ended: cleanly by the other side, by a reset, or with the connection."""

    code = "transport/stream-closed"

    def __init__(self, message: str, *, clean: bool) -> None:
        super().__init__(message)
        self.clean = clean


class StreamTimeout(TransportError):
    """A frame could not be sent or the stream not be opened by its deadline."""

    code = "transport/timeout"


class FrameTooLarge(TransportError):
    """A frame above its limit; an inbound one resets the stream before a byte of it is buffered."""

    code = "transport/frame-too-large"


class PublishRefused(TransportError):
    """Our own messages on a topic exceed our share of it for longer than may be waited."""

    code = "transport/publish-refused"


class Verdict(Enum):
    """What a topic's check says of a gossip message; never an exception, never "not yet"."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Gossip:
    """One accepted gossip message: ``origin`` wrote it, ``forwarder`` handed it to us."""

    topic: str
    origin: NodeId
    forwarder: NodeId
    data: bytes


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A connection to the peer stands (the first one of possibly several)."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class PeerDown:
    """The last connection to the peer is gone or the peer stopped answering pings."""

    peer: NodeId


PeerEvent = PeerUp | PeerDown


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a node's network has now, and what it turned away and dropped since it was opened; for its operator."""

    connections: int = 0
    streams: int = 0
    """Inbound ones."""
    held_bytes: int = 0
    """Of frames that have not arrived whole."""
    connections_refused: int = 0
    streams_refused: int = 0
    streams_dropped: int = 0
    """Reset because they made this node hold too much."""
    gossip_unsent: int = 0
    """Messages that a peer was too slow to take."""
    gossip: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By topic: what came of messages, by outcome."""


Check = Callable[[NodeId, NodeId, bytes], Verdict]
"""``check(forwarder, origin, data)``: pure, synchronous, cheap; runs before a message is forwarded."""


class Stream(Protocol):
    """A bidirectional stream of length-prefixed frames to one peer.

    One task may send while another receives. ``send`` returns once the frame was handed to the connection;
    a slow reader makes it wait, up to the stream's send deadline.
    """

    @property
    def peer(self) -> NodeId: ...

    async def send(self, frame: bytes) -> None:
        """Send one frame. Raises StreamClosed, StreamTimeout, FrameTooLarge. Cancellation resets the stream."""

    def send_now(self, frame: bytes) -> bool:
        """Send one frame without a checkpoint; False, and nothing is sent, if it would have to wait.

        Raises StreamClosed, FrameTooLarge.
        """

    async def receive(self) -> bytes:
        """The next frame. Raises StreamClosed (``clean`` tells how), FrameTooLarge. Safe to cancel between frames."""

    def receive_now(self) -> bytes | None:
        """The next frame if it has arrived whole, without a checkpoint. Raises FrameTooLarge."""

    async def close(self) -> None:
        """Close both directions; what was sent still arrives. Never raises for a stream already gone."""

    async def reset(self) -> None:
        """Abort both directions at once. Never raises."""


StreamHandler = Callable[[Stream], Awaitable[None]]
"""Serves one inbound stream; the transport closes the stream after it and survives whatever it raises."""


class Transport(Protocol):
    """A started node of the mesh. Made by ``open_libp2p`` or ``MemoryNetwork.open``, used inside ``async with``."""

    @property
    def me(self) -> NodeId: ...

    @property
    def addresses(self) -> Sequence[str]:
        """The multiaddrs to reach this node, each ending in ``/p2p/<peer id>``."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Publish to a topic, paced to the topic's share of the budget.

        Raises FrameTooLarge, and PublishRefused once what waits for its turn would wait too long.
        """

    async def subscribe(self, topic: str, check: Check) -> trio.MemoryReceiveChannel[Gossip]:
        """Join a topic, once. Messages of others that ``check`` accepts arrive on the channel; it is bounded, and
        when its reader is slow the oldest are dropped and counted. A check that raises rejects.

        Raises TransportError if the topic is joined already.
        """

    def handle(self, protocol: str, handler: StreamHandler, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        """Serve inbound streams of ``/p2pnode/<protocol>/1``; a second handler takes the place of the first.

        Who opened the stream speaks first. A handler that waits for its first frame, or, later, for any frame, longer
        than the transport's patience (10 s, 15 min) finds the stream reset.
        """

    async def open_stream(
        self, peer: NodeId, protocol: str, *, timeout_ms: int = 5_000, frame_bytes_max: int = FRAME_BYTES_MAX
    ) -> Stream:
        """Open a stream, dialing the peer first if it has a known address and no connection.

        Raises PeerUnreachable, StreamTimeout.
        """

    async def connect(self, address: str, *, timeout_ms: int = 10_000) -> NodeId:
        """Dial a multiaddr ending in ``/p2p/<peer id>`` and keep the peer connected (re-dialed with back-off).

        Raises PeerUnreachable, WrongPeer, TransportError (malformed address).
        """

    async def disconnect(self, peer: NodeId) -> None:
        """Drop the peer's connections and stop re-dialing it."""

    def learn(self, peer: NodeId, addresses: Sequence[str]) -> None:
        """Remember where a peer can be dialed; replaces what was known of it. Bounded; malformed ones are dropped."""

    def peers(self) -> frozenset[NodeId]:
        """The peers that are connected now."""

    def events(self) -> AsyncIterator[PeerEvent]:
        """Peers coming and going from now on, starting with a PeerUp for each that is connected.

        A slow reader misses visits that are over before it looks, and nothing else.
        """

    def traffic(self) -> Traffic:
        """Figures of this node's network, as of now."""
