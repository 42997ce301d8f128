"""A walk of a machine among strangers: mostly what should happen, now and then what should not."""

from collections.abc import Sequence

from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelOpened,
    Close,
    Open,
    Received,
)
from tests.unit.protocol import strategies
from tests.unit.protocol.machines import (
    CLIENT,
    MALLORY,
    MINERS,
    ROUTER,
    Hand,
    opening_of,
    order_of,
    stream_of,
)

OPENINGS = [opening_of(number=number, lanes=lanes) for number, lanes in enumerate((1, 2, 1))]
PEERS: list[NodeId] = [CLIENT.node, ROUTER.node, MALLORY.node, *(miner.node for miner in MINERS[:3])]
ANYTHING = st.one_of([strategies.build(kind) for kind in strategies.every_message()])
STREAMS = {
    (number, task): stream_of(order_of(opening, task)) for number, opening in enumerate(OPENINGS) for task in (1, 2)
}

openings = st.sampled_from(OPENINGS)
tasks = st.integers(1, 3)


class Walk:
    """A machine, its open channels, and all effects so far."""

    protocols: Sequence[str] = ()

    def __init__(self, hand: Hand) -> None:
        self.hand = hand
        self.channels: list[Channel] = []
        self.inbound = 1_000
        self.dead: set[Channel] = set()

    def did(self, effects: list[object]) -> None:
        """Look at the effects of one event."""
        for effect in effects:
            match effect:
                case Open():
                    assert effect.channel not in self.channels
                    self.channels.append(effect.channel)
                case Close():
                    self.dead.add(effect.channel)

    def step(self, data: st.DataObject) -> None:
        """Let something happen: mostly what should, so that walks get far, and now and then what should not."""
        what = data.draw(st.sampled_from(("open", "close", "wait", "likely", "anything", "local", *["proper"] * 14)))
        if what == "proper":
            self.proper(data)
        elif what == "open" and self.protocols:
            self.inbound += 1
            self.channels.append(Channel(self.inbound))
            protocol = data.draw(st.sampled_from(self.protocols))
            self.did(self.hand.tell(ChannelOpened(Channel(self.inbound), data.draw(st.sampled_from(PEERS)), protocol)))
        elif what == "wait":
            self.did(self.hand.wait(data.draw(st.sampled_from((0, 1, 100, 400, 1_000, 20_000)))))
        elif what == "local":
            self.local(data)
        elif (alive := [channel for channel in self.channels if channel not in self.dead]) and what != "open":
            channel = data.draw(st.sampled_from(alive))
            if what == "close":
                self.dead.add(channel)
                self.did(self.hand.tell(ChannelClosed(channel, "gone")))
            else:
                message = data.draw(self.likely(data) if what == "likely" else ANYTHING)
                self.say(channel, message)

    def say(self, channel: Channel, message: Message) -> None:
        """A message arrives."""
        self.received(channel, message)
        self.did(self.hand.tell(Received(channel, message)))

    def proper(self, data: st.DataObject) -> None:
        """What an honest other side would do now."""
        raise NotImplementedError

    def likely(self, data: st.DataObject) -> st.SearchStrategy[Message]:
        """Messages that make sense some time or other."""
        raise NotImplementedError

    def local(self, data: st.DataObject) -> None:
        """Something of the node's own."""

    def received(self, channel: Channel, message: Message) -> None:
        """About to hand over a message."""
