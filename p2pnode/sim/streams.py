"""Framed streams between two machines: opened, acknowledged, reliable and in order until they end or are reset.

As in production a stream stands once the other side has answered; what is sent before waits. Protocols that a world
declares lossy are carried harsher than any connection would: single messages are lost, come twice or overtake each
other. The machines that speak them promise to live with that.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from protocol.core.codec import Message, decode
from protocol.core.errors import DecodeError
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Received, Sent

if TYPE_CHECKING:
    from p2pnode.sim.drive import Drive
    from p2pnode.sim.host import Host
    from p2pnode.sim.network import Connection, Network

OPEN_TIMEOUT_US = 5_000_000
WAITING_MAX = 1_024
"""Frames that wait in one direction, behind a cut or before the stream stands; one more ends the stream."""
REPORT_US_MAX = 2_000
"""A frame that was handed over is reported within this."""
LAG_US_MAX = 400_000
"""A message that is overtaken on a lossy stream comes up to so much later."""

OPENER, ACCEPTOR = 0, 1

decoded = lru_cache(4_096)(decode)
"""Messages never change, so receivers of the same bytes may share one."""


class End:
    """One machine's end of a stream."""

    __slots__ = ("channel", "closed", "drive", "live", "side", "stream")

    def __init__(self, stream: "Stream", side: int, drive: "Drive", channel: Channel) -> None:
        self.stream = stream
        self.side = side
        self.drive = drive
        self.channel = channel
        self.live = True
        """Whether what is sent goes anywhere."""
        self.closed = False
        """Whether the machine has closed it, or knows that it is gone: it is told no more."""

    def tell(self, event: object) -> None:
        """Let the machine know, unless it closes the channel first."""
        self.drive.dispatch(event, self)

    def lose(self, reason: str) -> None:
        """The stream ended by itself."""
        if self.live:
            self.live = False
            self.tell(ChannelClosed(self.channel, reason))


class Stream:
    """One stream; the opener is side 0."""

    def __init__(self, network: "Network", drive: "Drive", channel: Channel, peer: NodeId, protocol: str) -> None:
        self.network = network
        self.number = network.next_stream()
        self.protocol = protocol
        self.connection: Connection | None = None
        self._hosts: tuple[Host, Host] = (drive.host, drive.host)
        self.ends: list[End | None] = [End(self, OPENER, drive, channel), None]
        self._peer = peer
        self._lossy = protocol in network.lossy
        self._outbox: list[tuple[Message | None, bool]] | None = []
        """What waits for the stream to stand; None once it does. None in it is the end."""
        self._stalled: tuple[list[Callable[[], None]], list[Callable[[], None]]] = ([], [])
        self._arrives_us = [0, 0]

    def open(self) -> None:
        """Reach the peer and ask it for a stream."""
        self.network.world.after(OPEN_TIMEOUT_US, self._give_up)
        opener = self._opener()
        self.network.reach(opener.drive.host, self._peer, self._reached)

    def _opener(self) -> End:
        opener = self.ends[OPENER]
        assert opener is not None
        return opener

    def _give_up(self) -> None:
        if self._outbox is not None:
            self._outbox = None
            self.fail(OPENER, "no stream in time")

    def _reached(self, connection: "Connection | None") -> None:
        opener = self._opener()
        if self._outbox is None or (not opener.live and not self._outbox):
            return
        if connection is None:
            opener.lose("the peer cannot be reached")
            return
        self.connection = connection
        self._hosts = (opener.drive.host, connection.other(opener.drive.host))
        connection.streams[self.number] = self
        self._put(OPENER, self._asked)

    def _asked(self) -> None:
        target = self._hosts[ACCEPTOR]
        drive = target.serving(self.protocol)
        if drive is None:
            self._put(ACCEPTOR, partial(self._refused, "the peer does not speak the protocol"))
            return
        end = self.ends[ACCEPTOR] = End(self, ACCEPTOR, drive, drive.next_inbound())
        drive.channels[end.channel] = end
        end.tell(ChannelOpened(end.channel, self._hosts[OPENER].node, self.protocol))
        self._put(ACCEPTOR, self._stands)

    def _refused(self, why: str) -> None:
        self._opener().lose(why)

    def _stands(self) -> None:
        waiting, self._outbox = self._outbox or [], None
        for message, report in waiting:
            if message is None:
                self._put(OPENER, partial(self._end_arrives, ACCEPTOR))
            else:
                self._send_now(OPENER, message, report)

    # What the machines do

    def send(self, side: int, message: Message, report: bool) -> None:
        """Send a message, or have it wait for the stream to stand."""
        if side == OPENER and self._outbox is not None:
            if len(self._outbox) >= WAITING_MAX:
                self.fail(OPENER, "the peer reads too slowly")
            else:
                self._outbox.append((message, report))
        else:
            self._send_now(side, message, report)

    def _send_now(self, side: int, message: Message, report: bool) -> None:
        data = self.network.encoded(message)
        end, world = self.ends[side], self.network.world
        sender, receiver = self._hosts[side], self._hosts[1 - side]
        for hook in world.watch.wire:
            hook(sender, receiver, self.protocol, message)
        world.trace.add(world.now_us, sender.name, f"-> {receiver.name} {self.protocol}", message, data)
        if report and end is not None:
            world.after(self.network.rng.randrange(REPORT_US_MAX), partial(self._report, end))
        arrive = partial(self._arrives, 1 - side, data)
        if not self._lossy:
            self._put(side, arrive)
            return
        link = self.network.link(sender, receiver)
        if link.loses():
            return
        for _ in range(1 + link.repeats()):
            self._put(side, arrive, overtaken=link.loss_bp > 0 and link.rng.random() < 0.25)

    @staticmethod
    def _report(end: End) -> None:
        if end.live:
            end.tell(Sent(end.channel))

    def close(self, side: int) -> None:
        """The machine of a side closes it, after what it sent."""
        if side == OPENER and self._outbox is not None:
            self._outbox.append((None, False))
        else:
            self._put(side, partial(self._end_arrives, 1 - side))

    # What arrives

    def _arrives(self, side: int, data: bytes) -> None:
        end = self.ends[side]
        if end is None:
            return
        if not end.live:
            if self.network.abrupt and end.closed:
                # Nobody reads here any more: the other side is told so at once, and what it was sent may be lost.
                self.fail(side, "the peer reset the stream")
            return
        try:
            end.tell(Received(end.channel, decoded(data)))
        except DecodeError as error:
            self.fail(side, str(error))

    def _end_arrives(self, side: int, reason: str = "the peer ended the stream") -> None:
        end = self.ends[side]
        if end is not None:
            end.lose(reason)
        if self.connection is not None:
            self.connection.streams.pop(self.number, None)

    def fail(self, side: int, reason: str) -> None:
        """A side resets the stream; the other hears of it as soon as the link lets it."""
        end = self.ends[side]
        if end is not None:
            end.lose(reason)
        self._stalled[side].clear()
        self._put(side, partial(self._end_arrives, 1 - side, "the peer reset the stream"))

    def lose(self, host: "Host", reason: str) -> None:
        """A host has lost the connection."""
        for end in self.ends:
            if end is not None and end.drive.host is host:
                end.lose(reason)

    # The way there

    def _put(self, side: int, action: Callable[[], None], *, overtaken: bool = False) -> None:
        """Have an action happen on the other side once the link brings it there, after all before it."""
        connection = self.connection
        if connection is None:
            return
        source, target = self._hosts[side], self._hosts[1 - side]
        arrival = partial(self._crosses, target, action)
        link = self.network.link(source, target)
        if link.cuts:
            stalled = self._stalled[side]
            if len(stalled) >= WAITING_MAX:
                self.fail(side, "the peer reads too slowly")
            else:
                stalled.append(arrival)
            return
        world = self.network.world
        at_us = world.now_us + link.delay_us()
        if overtaken:
            world.at(at_us + link.rng.randrange(LAG_US_MAX), arrival)
            return
        self._arrives_us[side] = at_us = max(at_us, self._arrives_us[side])
        world.at(at_us, arrival)

    def _crosses(self, target: "Host", action: Callable[[], None]) -> None:
        connection = self.connection
        assert connection is not None
        if connection.stands_at(target):
            action()
        elif target.up:
            # A new life of the node knows nothing of this connection, and says so.
            self.network.disown(connection, target)

    def mended(self, source: "Host") -> None:
        """The link from a host carries again: what was held up leaves now."""
        side = OPENER if source is self._hosts[OPENER] else ACCEPTOR
        waiting = list(self._stalled[side])
        self._stalled[side].clear()
        link, world = self.network.link(source, self._hosts[1 - side]), self.network.world
        for arrival in waiting:
            self._arrives_us[side] = at_us = max(world.now_us + link.delay_us(), self._arrives_us[side])
            world.at(at_us, arrival)
