"""The streams of a miner or a router to every oracle: protocol ``results``, one an oracle, opened from this side.

A link that breaks is opened again, later each time, and its owner says again on it what must arrive: a message on a
link that is not there is dropped, and none is kept here.
"""

from collections.abc import Iterable

from protocol.core.codec import Message
from protocol.core.deadlines import Deadlines
from protocol.core.ids import NodeId
from protocol.core.machine import NO_KEY, Channel, ChannelNumbers, Close, Key, Open, Send, SendAll

PROTOCOL = "results"
RETRY_MS_MIN = 250
RETRY_MS_MAX = 8_000


class OracleLinks:
    """At most one stream an oracle. ``numbers`` are those of the machine that owns the links."""

    def __init__(self, numbers: ChannelNumbers) -> None:
        self._numbers = numbers
        self._oracles: tuple[NodeId, ...] = ()
        self._channels: dict[NodeId, Channel] = {}
        self._peers: dict[Channel, NodeId] = {}
        self._delays_ms: dict[NodeId, int] = {}
        self._retries: Deadlines[NodeId] = Deadlines()

    @property
    def oracles(self) -> tuple[NodeId, ...]:
        """To whom links are kept."""
        return self._oracles

    def aim(self, oracles: Iterable[NodeId], now_ms: int) -> list[object]:
        """Keep links to these oracles and to nobody else. New ones are opened when they fall due, which is now."""
        before, self._oracles = self._oracles, tuple(dict.fromkeys(oracles))
        effects: list[object] = [Close(self._drop(peer)) for peer in before if self._unwanted(peer)]
        for peer in set(before) - set(self._oracles):
            self._delays_ms.pop(peer, None)
            self._retries.clear(peer)
        for peer in self._oracles:
            if peer not in before:
                self._retries.set(peer, now_ms)
        return effects

    def next_deadline(self) -> int | None:
        """When a link is to be opened."""
        return self._retries.next()

    def due(self, now_ms: int) -> list[NodeId]:
        """The oracles whose links are to be opened now; each is to be given to :meth:`open`."""
        return [peer for peer in self._retries.due(now_ms) if peer in self._oracles and peer not in self._channels]

    def open(self, oracle: NodeId) -> list[object]:
        """Open the link to an oracle. What is sent after it waits until it stands, or is lost with it."""
        channel = self._numbers.take()
        self._channels[oracle] = channel
        self._peers[channel] = oracle
        return [Open(channel, oracle, PROTOCOL)]

    def hurry(self, peer: NodeId, now_ms: int) -> None:
        """A peer can be reached again: if it is an oracle whose link is down, do not wait for the next try."""
        if peer in self._oracles and peer not in self._channels:
            self._delays_ms.pop(peer, None)
            self._retries.set(peer, now_ms)

    def oracle(self, channel: Channel) -> NodeId | None:
        """Whose link a channel is; None: it is none of these."""
        return self._peers.get(channel)

    def up(self, oracle: NodeId) -> bool:
        """Whether the link to an oracle stands, or is being opened."""
        return oracle in self._channels

    def heard(self, oracle: NodeId) -> None:
        """An oracle spoke: it can be reached, so the next break is retried soon."""
        self._delays_ms.pop(oracle, None)

    def closed(self, channel: Channel, now_ms: int) -> bool:
        """A stream is gone, or could not be opened; whether it was one of these."""
        oracle = self._peers.get(channel)
        if oracle is None:
            return False
        self._drop(oracle)
        delay_ms = self._delays_ms.get(oracle, RETRY_MS_MIN)
        self._delays_ms[oracle] = min(2 * delay_ms, RETRY_MS_MAX)
        self._retries.set(oracle, now_ms + delay_ms)
        return True

    def break_off(self, oracle: NodeId, now_ms: int) -> list[object]:
        """Close the link of an oracle that broke a rule; it is opened again as late as one that breaks always."""
        channel = self._channels.get(oracle)
        if channel is None:
            return []
        self._drop(oracle)
        self._delays_ms[oracle] = RETRY_MS_MAX
        self._retries.set(oracle, now_ms + RETRY_MS_MAX)
        return [Close(channel)]

    def send(self, oracle: NodeId, message: Message, key: Key = NO_KEY) -> list[object]:
        """Send to one oracle, after what must be durable before; nothing while its link is down."""
        channel = self._channels.get(oracle)
        return [] if channel is None else [Send(channel, message, key=key)]

    def send_all(self, message: Message, key: Key = NO_KEY) -> list[object]:
        """Send to every oracle whose link is not down."""
        return self.send_to(self._oracles, message, key)

    def send_to(self, oracles: Iterable[NodeId], message: Message, key: Key = NO_KEY) -> list[object]:
        """Send to those of some oracles whose link is not down."""
        channels = tuple(self._channels[oracle] for oracle in oracles if oracle in self._channels)
        return [SendAll(channels, message, key)] if channels else []

    def _unwanted(self, peer: NodeId) -> bool:
        return peer in self._channels and peer not in self._oracles

    def _drop(self, oracle: NodeId) -> Channel:
        channel = self._channels.pop(oracle)
        del self._peers[channel]
        return channel
