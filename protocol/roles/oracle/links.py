"""The streams to the other members: one that this node opens to each, and one that each opens to it."""

from collections.abc import Iterable

from protocol.committee.effects import COMMITTEE
from protocol.core.codec import Message
from protocol.core.deadlines import Deadlines
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelNumbers, Close, Open, Send, SendAll

RETRY_MS_MIN = 250
RETRY_MS_MAX = 8_000


class Links:
    """At most one stream a member and direction. A link that breaks is opened again, later each time."""

    def __init__(self, numbers: ChannelNumbers) -> None:
        self._numbers = numbers
        self._members: tuple[NodeId, ...] = ()
        self._guests: frozenset[NodeId] = frozenset()
        self._out: dict[NodeId, Channel] = {}
        self._peers: dict[Channel, NodeId] = {}
        self._in: dict[NodeId, Channel] = {}
        self._delays_ms: dict[NodeId, int] = {}
        self._retries: Deadlines[NodeId] = Deadlines()

    def next_deadline(self) -> int | None:
        """When a broken link is to be opened again."""
        return self._retries.next()

    def aim(self, members: Iterable[NodeId], guests: Iterable[NodeId], now_ms: int) -> list[object]:
        """Keep links to these members, and to nobody else; these and ``guests`` may open one to this node."""
        before, self._members = self._members, tuple(members)
        self._guests = frozenset(guests)
        self._delays_ms = {peer: delay for peer, delay in self._delays_ms.items() if peer in self._members}
        effects: list[object] = []
        for peer in [peer for peer in self._out if peer not in self._members]:
            effects.append(Close(self._drop_out(peer), COMMITTEE))
        for peer in [peer for peer in self._in if not self._welcome(peer)]:
            channel = self._in.pop(peer)
            del self._peers[channel]
            effects.append(Close(channel, COMMITTEE))
        for peer in self._members:
            if peer not in self._out and peer not in before:
                self._retries.set(peer, now_ms)
        return effects

    def due(self, now_ms: int) -> list[NodeId]:
        """The members whose links are to be opened now."""
        return [peer for peer in self._retries.due(now_ms) if peer in self._members and peer not in self._out]

    def open(self, peer: NodeId) -> list[object]:
        """Open the link to a member."""
        channel = self._numbers.take()
        self._out[peer] = channel
        self._peers[channel] = peer
        return [Open(channel, peer, "member", COMMITTEE)]

    def hurry(self, peer: NodeId, now_ms: int) -> None:
        """A member can be reached again: do not wait for the next try, nor long if the one under way fails.

        A node is connected before it serves streams, so a try at that moment may fail.
        """
        self._delays_ms.pop(peer, None)
        if peer in self._members and peer not in self._out:
            self._retries.set(peer, now_ms)

    def accept(self, channel: Channel, peer: NodeId) -> list[object]:
        """A member or guest opened a stream to us; it takes the place of its last one. Others are turned away."""
        if not self._welcome(peer):
            return [Close(channel)]
        effects: list[object] = []
        if peer in self._in:
            old = self._in[peer]
            del self._peers[old]
            effects.append(Close(old))
        self._in[peer] = channel
        self._peers[channel] = peer
        return effects

    def closed(self, channel: Channel, now_ms: int) -> bool:
        """A stream is gone; whether it was one of these."""
        peer = self._peers.get(channel)
        if peer is None:
            return False
        if self._out.get(peer) == channel:
            self._drop_out(peer)
            delay_ms = self._delays_ms.get(peer, RETRY_MS_MIN)
            self._delays_ms[peer] = min(2 * delay_ms, RETRY_MS_MAX)
            self._retries.set(peer, now_ms + delay_ms)
        else:
            del self._peers[channel]
            self._in.pop(peer, None)
        return True

    def from_member(self, channel: Channel) -> NodeId | None:
        """Who sends on a stream that was opened to us."""
        peer = self._peers.get(channel)
        return peer if peer is not None and self._in.get(peer) == channel else None

    def heard(self, peer: NodeId) -> None:
        """A member spoke: it can be reached, so the next break is retried soon."""
        self._delays_ms.pop(peer, None)

    def break_off(self, peer: NodeId) -> list[object]:
        """Close the stream on which a member broke a rule; what it sends on a new one is looked at again."""
        channel = self._in.pop(peer)
        del self._peers[channel]
        return [Close(channel)]

    def reach(self, peer: NodeId) -> list[object]:
        """Open a link to a guest that asked for something, if there is none; it lasts until the next aim."""
        return [] if peer in self._out else self.open(peer)

    def send(self, peer: NodeId, message: Message) -> list[object]:
        """Send to one member, after what must be durable before; nothing while its link is broken."""
        channel = self._out.get(peer)
        return [] if channel is None else [Send(channel, message, key=COMMITTEE)]

    def bring(self, peer: NodeId, message: Message) -> list[object]:
        """Send to one member, or to a guest: a link is opened for it if there is none, until the next aim."""
        opened = self.reach(peer) if peer in self._guests and peer not in self._members else []
        return [*opened, *self.send(peer, message)]

    def send_all(self, message: Message) -> list[object]:
        """Send to every member whose link stands."""
        channels = tuple(self._out.values())
        return [SendAll(channels, message, COMMITTEE)] if channels else []

    def up(self, peer: NodeId) -> bool:
        """Whether both directions stand."""
        return peer in self._out and peer in self._in

    def broken(self) -> bool:
        """Whether any link is down."""
        return any(not self.up(peer) for peer in self._members)

    def _welcome(self, peer: NodeId) -> bool:
        return peer in self._members or peer in self._guests

    def _drop_out(self, peer: NodeId) -> Channel:
        channel = self._out.pop(peer)
        del self._peers[channel]
        return channel
