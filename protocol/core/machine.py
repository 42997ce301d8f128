"""The contract of a machine: events in, effects out, and one deadline.

A machine is synchronous and total on remote input: ``handle`` never blocks and never raises for anything a
peer sent. The driver calls it with the time, executes the effects and comes back with what happened.

The driver's duties, in order:

1. Effects of one ``key`` run in the order they were returned, across calls; ``Persist`` is durable before the
   next effect of its key starts. Effects of other keys, and those without a key, do not wait. Where a Persist that
   is not vital fails, what waits behind it is dropped and the machine hears PersistFailed.
2. After ``Close`` or ``ChannelClosed`` a channel's number is dead; sends to it are dropped silently.
3. ``DeadlineReached`` is delivered no earlier than ``next_deadline()``.

Channels are framed streams: inbound ones are numbered by the driver (positive, from 1), outbound ones by the
machine that opens them (negative), so numbers never collide.
"""

from dataclasses import dataclass
from itertools import count
from typing import NewType, Protocol

from protocol.core.codec import Message
from protocol.core.ids import NodeId

Channel = NewType("Channel", int)
Key = bytes
"""What an effect belongs to, as a rule a session id; empty for effects that wait for nothing."""

NO_KEY: Key = b""


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    """A peer opened a stream of one of the machine's protocols."""

    channel: Channel
    peer: NodeId
    protocol: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message arrived on a channel; it decoded, nothing else is known of it (untrusted)."""

    channel: Channel
    message: Message


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """A channel is gone: closed or reset by the peer, could not be opened, or carried bytes that do not decode."""

    channel: Channel
    reason: str


@dataclass(frozen=True, slots=True)
class Sent:
    """A ``Send`` with ``report`` was handed to the connection."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class GossipReceived:
    """A message of a topic, its signature checked against its origin by ``protocol.gossip``."""

    topic: str
    origin: NodeId
    message: Message
    envelope: Message


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A connection to the peer stands."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The last connection to the peer is gone, or it stopped answering."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    """``next_deadline()`` has come."""


@dataclass(frozen=True, slots=True)
class PersistFailed:
    """A Persist that was not ``vital`` failed; the effects of its key that waited behind it are gone."""

    key: Key
    reason: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """The node is about to stop: take on nothing new, end what runs, hand over what others can go on with."""


@dataclass(frozen=True, slots=True)
class Open:
    """Open a stream to a peer; failure comes back as ChannelClosed."""

    channel: Channel
    peer: NodeId
    protocol: str
    key: Key = NO_KEY


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message on a channel; with ``report`` a Sent follows when it was handed over."""

    channel: Channel
    message: Message
    report: bool = False
    key: Key = NO_KEY


@dataclass(frozen=True, slots=True)
class SendAll:
    """Send one message on several channels: one effect, however many there are."""

    channels: tuple[Channel, ...]
    message: Message
    key: Key = NO_KEY


@dataclass(frozen=True, slots=True)
class Close:
    """Close a channel after what was sent on it; no ChannelClosed follows."""

    channel: Channel
    key: Key = NO_KEY


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish a message on a gossip topic."""

    topic: str
    message: Message
    key: Key = NO_KEY


@dataclass(frozen=True, slots=True)
class Learn:
    """Remember where a peer can be dialed."""

    peer: NodeId
    addresses: tuple[str, ...]
    key: Key = NO_KEY


@dataclass(frozen=True, slots=True)
class Persist:
    """Make records durable before the next effect of this key; a value of None deletes."""

    key: Key
    records: tuple[tuple[bytes, bytes | None], ...]
    vital: bool = True
    """The node ends if it fails. If not vital, a PersistFailed comes back instead."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something an operator may want to see: ``what`` is a stable dotted name, ``fields`` say of what."""

    what: str
    fields: tuple[tuple[str, str | int], ...] = ()
    key: Key = NO_KEY


CommonEvent = (
    ChannelOpened
    | Received
    | ChannelClosed
    | Sent
    | GossipReceived
    | PeerConnected
    | PeerLost
    | DeadlineReached
    | PersistFailed
    | Stopping
)
CommonEffect = Open | Send | SendAll | Close | Publish | Learn | Persist | Note


class Machine(Protocol):
    """What the driver runs."""

    @property
    def protocols(self) -> tuple[str, ...]:
        """The stream protocols it serves."""

    @property
    def topics(self) -> tuple[str, ...]:
        """The gossip topics it follows."""

    def handle(self, event: object, now_ms: int) -> list[object]:
        """Take one event at a time ``now_ms`` (Unix time in ms, never going back); returns effects in order."""

    def next_deadline(self) -> int | None:
        """When the machine wants a DeadlineReached next, or None."""


class ChannelNumbers:
    """Numbers for the channels that one machine opens."""

    def __init__(self) -> None:
        self._next = count(1)

    def take(self) -> Channel:
        """A number never given before."""
        return Channel(-next(self._next))
