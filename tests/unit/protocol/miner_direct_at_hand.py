"""A miner driven by hand whose session's client takes its frames itself."""

from typing import Any

from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelClosed, Sent
from protocol.core.params import Params
from protocol.core.signing import typed_digest
from protocol.messages.sessions import Assignment
from protocol.messages.tasks import (
    AttachDirect,
    Delivery,
    DirectReady,
    EndReason,
    FrameMessage,
    RelayTask,
    SegmentStart,
)
from protocol.roles.miner import Generated, Produced, Rendered
from protocol.session.transcript import LaneVerifier, expect_segment, make_ack
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    MINER,
    MODEL,
    PARAMS,
    PROMPT_TOKENS,
    ROUTER,
    assignment_of,
    id_of,
    opening_of,
    order_of,
    sent,
    start_of,
)
from tests.unit.protocol.miner_at_hand import Mine


class Attached:
    """A lease, the client's own stream to it, and what the client and the router hear."""

    def __init__(self, params: Params = PARAMS, *, attach: bool = True) -> None:
        self.mine = Mine(params)
        self.opening = opening_of()
        self.channel, self.generation = self.mine.lease(self.opening)
        self.assignment = assignment_of(self.opening, generations=(self.generation,))
        self.direct = Channel(0)
        self.readers: dict[int, LaneVerifier] = {}
        self.relayed: list[Message] = []
        self.text = b""
        if attach:
            self.direct, effects = self.attach()
            assert sent(effects, self.direct) == [DirectReady(id_of(self.opening))]

    def attach(
        self, assignment: Assignment | None = None, signer: Key = ROUTER, peer: NodeId = CLIENT.node
    ) -> tuple[Channel, list[object]]:
        """A client shows an assignment."""
        channel, token = self.mine.opened(peer, "task"), assignment or self.assignment
        return channel, self.mine.receive(channel, AttachDirect(token, signer.sign(typed_digest(DOMAIN, token))))

    def start(self, task: int = 1, delivery: Delivery = Delivery.DIRECT, **fields: Any) -> list[object]:
        """The router hands an order over."""
        order = order_of(self.opening, task)
        expected = expect_segment(DOMAIN, order, 0, self.generation, MINER.node, MODEL)
        self.readers[task] = LaneVerifier(DOMAIN, expected)
        start = start_of(self.assignment, order, delivery=delivery, **fields)
        return self.read(self.mine.receive(self.channel, start))

    def name(self, task: int = 1) -> tuple[bytes, int, int]:
        return bytes(id_of(self.opening)), task, 0

    def render(self, task: int = 1) -> list[object]:
        return self.read(self.mine.tell(Rendered(self.name(task), PROMPT_TOKENS)))

    def produce(self, count: int, task: int = 1) -> list[object]:
        ids = tuple(range(count))
        return self.read(self.mine.tell(Produced(self.name(task), ids, tuple(b"%d " % i for i in ids))))

    def finish(self, task: int = 1) -> list[object]:
        return self.read(self.mine.tell(Generated(self.name(task), EndReason.STOP, 0)))

    def report(self, channel: Channel | None = None) -> list[object]:
        return self.read(self.mine.tell(Sent(channel or self.direct)))

    def read(self, effects: list[object]) -> list[object]:
        """What goes to the client directly is verified there; what goes to the router is written down."""
        for message in sent(effects, self.direct):
            self.verify(message)
        self.relayed += sent(effects, self.channel)
        return effects

    def verify(self, message: Message) -> None:
        if isinstance(message, SegmentStart):
            self.readers[message.head.task].begin(message.head)
        elif isinstance(message, FrameMessage):
            self.readers[message.task].take(message)
            self.text += b"".join(message.texts)

    def ack(self, task: int = 1, by: Channel | None = None) -> list[object]:
        message = make_ack(DOMAIN, CLIENT.sign, self.readers[task])
        return self.read(self.mine.receive(by or self.direct, message))

    def lose(self) -> list[object]:
        return self.read(self.mine.tell(ChannelClosed(self.direct, "reset")))

    def relay(self, task: int = 1, index: int | None = None, chain: bytes | None = None) -> list[object]:
        """The router asks for what the client does not have."""
        reader = self.readers[task]
        at = reader.index if index is None else index
        return self.read(
            self.mine.receive(self.channel, RelayTask(id_of(self.opening), task, at, chain or reader.chain))
        )

    def empty(self) -> None:
        """The router leaves; nothing is left of anybody."""
        self.mine.tell(ChannelClosed(self.channel, "left"))
        machine = self.mine.machine
        held = (machine._leases, machine._by_channel, machine._peers, machine._silent, machine._deadlines)
        assert [len(table) for table in (*held, machine._direct.sessions)] == [0] * 6
        assert machine.slots() == (2, 2)


def frames(messages: list[Message]) -> list[FrameMessage]:
    return [message for message in messages if isinstance(message, FrameMessage)]
