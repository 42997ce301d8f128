"""A router driven by hand, and one order on its way through it."""

from collections.abc import Sequence
from typing import Any

from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, Open, Publish
from protocol.core.params import Params
from protocol.messages.sessions import (
    LeaseGrant,
    LeaseRequest,
    OpenSession,
    SessionEnded,
    SessionOpen,
    SessionReady,
)
from protocol.messages.tasks import (
    FrameMessage,
    TaskFailed,
)
from protocol.roles.router import RouterMachine, RouterSettings
from protocol.session.adverts import AdvertBook
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    GENESIS,
    MALLORY,
    MINER,
    MINERS,
    NOW_MS,
    PARAMS,
    ROUTER,
    Hand,
    advert_of,
    bid_of,
    id_of,
    of,
    opening_of,
    order_of,
    sent,
    stream_of,
    submit_of,
)

TIMEOUT_MS = 30_000


class Route(Hand):
    """A router that knows some miners, and its clients."""

    def __init__(self, miners: int = 3, params: Params = PARAMS, **settings: Any) -> None:
        book = AdvertBook(params, bytes(16))
        for miner in MINERS[:miners]:
            book.add(*advert_of(miner), NOW_MS)
        made = RouterSettings(ROUTER.node, ("/memory/1",), GENESIS.to_json(), **settings)
        super().__init__(RouterMachine(made, DOMAIN, params, ROUTER.sign, book))

    def client(self, client: Key = CLIENT) -> Channel:
        """A client connects."""
        return self.opened(client.node, "client")

    def open(self, channel: Channel, opening: SessionOpen, **fields: Any) -> list[object]:
        """A client opens a session."""
        owner = next(key for key in (CLIENT, MALLORY, *MINERS) if key.node == opening.client)
        signature = fields.pop("signer", owner).sign(id_of(opening))
        wish = OpenSession(opening, signature, fields.get("timeout_ms", TIMEOUT_MS), fields.get("tokens", 100))
        return self.receive(channel, wish)

    def bid(self, opening: SessionOpen, signer: Key = MINER, **fields: Any) -> list[object]:
        """A miner bids, on a stream of its own."""
        channel = self.opened(fields.pop("peer", signer.node), "bid")
        self.bidder = channel
        return self.receive(channel, bid_of(opening, signer, **{"issued_ms": self.now_ms, **fields}))

    def asked(self, effects: list[object]) -> tuple[Channel, NodeId]:
        """Whom the effects ask for a lease."""
        (stream,) = of(effects, Open)
        (request,) = sent(effects, stream.channel)
        assert isinstance(request, LeaseRequest)
        assert stream.protocol == "task"
        return stream.channel, stream.peer

    def leased(self, opening: SessionOpen, client: Channel) -> tuple[Channel, SessionReady]:
        """A session that MINER alone bids on and grants; returns its stream."""
        effects = self.open(client, opening)
        if not of(effects, Publish):
            effects = self.wait(1_000)
        channel, miner = self.asked(self.bid(opening) + self.wait(PARAMS.bid_window_ms))
        assert miner == MINER.node
        (ready,) = sent(self.receive(channel, LeaseGrant(id_of(opening), GENERATION, 1_000)), client)
        assert isinstance(ready, SessionReady)
        return channel, ready

    def empty(self) -> None:
        """Nothing is held for anybody, but what is kept on purpose."""
        machine = self.machine
        held = (
            machine._sessions,
            machine._rounds_open,
            machine._peers,
            machine._clients.channels,
            machine._leasing.miners,
            machine._bidders,
            machine._round_deadlines,
            machine._task_deadlines,
            machine._session_deadlines,
            machine._lease_deadlines,
            machine._clients.away,
            machine._embeds.under_way,
            machine._queue,
        )
        assert [len(table) for table in held] == [0] * len(held)


class Task:
    """One session with one order on its way."""

    def __init__(self, route: Route | None = None, task: int = 1, opening: SessionOpen | None = None) -> None:
        self.route = route or Route()
        self.opening = opening or opening_of()
        self.client = self.route.client()
        self.miner, _ = self.route.leased(self.opening, self.client)
        self.order = order_of(self.opening, task)
        self.begun = self.submit(task)

    def submit(self, task: int, **fields: Any) -> list[object]:
        return self.route.receive(self.client, submit_of(self.opening, task, **fields))

    def stream(self, task: int = 1) -> list[Message]:
        return stream_of(order_of(self.opening, task))

    def send(self, messages: Sequence[Message]) -> list[object]:
        return [effect for message in messages for effect in self.route.receive(self.miner, message)]

    def ended(self, effects: list[object]) -> list[Message]:
        """What the client is told for the last time about tasks and session."""
        terminal = (TaskFailed, SessionEnded)
        return [
            m for m in sent(effects, self.client) if isinstance(m, terminal) or (isinstance(m, FrameMessage) and m.end)
        ]
