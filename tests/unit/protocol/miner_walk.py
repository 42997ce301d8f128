"""A miner's walk."""

from typing import Any

from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.machine import (
    Channel,
    ChannelOpened,
    GossipReceived,
    Received,
    Send,
    Sent,
)
from protocol.core.signing import typed_digest
from protocol.messages.envelope import Envelope, envelope_digest, seal
from protocol.messages.greeting import ClientHello
from protocol.messages.sessions import (
    Announcement,
    Bid,
    LeaseGrant,
    LeaseRelease,
    LeaseRequest,
    SessionOpen,
)
from protocol.messages.tasks import (
    Ack,
    AckMessage,
    CancelTask,
    Delivery,
    EndReason,
    FrameMessage,
    LaneEnded,
)
from protocol.roles.miner import (
    Embed,
    EmbeddingFailed,
    Generate,
    Generated,
    GenerationFailed,
    MinerMachine,
    MinerSettings,
    Produced,
    Rendered,
    TextsEmbedded,
)
from protocol.roles.miner.embeds import EMBEDS_MAX
from protocol.session.transcript import segment_id
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    MINER,
    MINERS,
    MODEL,
    OFFER,
    PARAMS,
    PROMPT_TOKENS,
    ROUTER,
    Hand,
    assignment_of,
    embed_of,
    id_of,
    order_of,
    start_of,
)
from tests.unit.protocol.seeking_at_hand import term_of
from tests.unit.protocol.walk import Walk, openings, tasks


class MinerWalk(Walk):
    """A miner, its engine, and a session or two."""

    protocols = ("task",)

    def __init__(self) -> None:
        settings_ = MinerSettings(MINER.node, {MODEL: OFFER}, b"\x44" * 16)
        super().__init__(Hand(MinerMachine(settings_, DOMAIN, PARAMS, MINER.sign)))
        self.bids: list[bytes] = [bytes(32)]
        self.generations = [GENERATION]
        self.running: list[Generate] = []
        self.embeds: list[Embed] = []
        self.ended: set[tuple[bytes, int, int, bytes]] = set()

    def proper(self, data: st.DataObject) -> None:
        machine = self.hand.machine
        opening = data.draw(openings)
        lease = machine._leases.get(id_of(opening))
        if lease is None:
            self.announce(opening)
            self.inbound += 1
            channel = Channel(self.inbound)
            self.channels.append(channel)
            self.did(self.hand.tell(ChannelOpened(channel, ROUTER.node, "task")))
            self.say(channel, LeaseRequest(opening, CLIENT.sign(id_of(opening)), self.bids[-1]))
        elif not lease.running() or data.draw(st.integers(0, 5)) == 0:
            self.start(data, opening, lease)
        elif opening.lanes > 1 and data.draw(st.integers(0, 9)) == 0:
            # It is asked to take another lane over, by the bid it made.
            self.inbound += 1
            self.channels.append(Channel(self.inbound))
            self.did(self.hand.tell(ChannelOpened(Channel(self.inbound), ROUTER.node, "task")))
            bid = next((d for d, b in machine._bids.bids.items() if b.session == lease.session), self.bids[-1])
            self.say(Channel(self.inbound), LeaseRequest(opening, CLIENT.sign(id_of(opening)), bid))
        else:
            self.work(data, lease, data.draw(st.sampled_from(lease.running())))

    def start(self, data: st.DataObject, opening: SessionOpen, lease: Any) -> None:
        """The router hands over the next order, of lane 0 or of one that is streamed to nobody."""
        order, lane = order_of(opening, lease.last_task + 1), data.draw(st.integers(0, opening.lanes - 1))
        miners, generations = [MINERS[1].node] * opening.lanes, [GENERATION] * opening.lanes
        miners[lane], generations[lane] = MINER.node, lease.generation
        number = max(lease.assignment_number, lease.after) + 1
        names = {"miners": tuple(miners), "generations": tuple(generations), "number": number}
        delivery = Delivery.WITHHELD if lane else Delivery.RELAYED
        self.say(lease.channel, start_of(assignment_of(opening, **names), order, lane=lane, delivery=delivery))

    def work(self, data: st.DataObject, lease: Any, lane: Any) -> None:
        """The engine, the connection and the client do their part of a task."""
        name = lane.generation
        if lane.writer is None:
            self.did(self.hand.tell(Rendered(name, PROMPT_TOKENS)))
            return
        events: list[object] = [Produced(name, (1,) * 40, (b"a",) * 40), Generated(name, EndReason.STOP, 0)]
        events += [Sent(lease.channel)] * 4
        for index, chain in lane._boundaries.items():
            ack = Ack(
                lease.session,
                lane.order.task,
                0,
                lease.generation,
                segment_id(DOMAIN, lane.writer.head) if lane.writer else bytes(32),
                index,
                chain,
            )
            events.append(Received(lease.channel, AckMessage(ack, CLIENT.sign(typed_digest(DOMAIN, ack)))))
        self.did(self.hand.tell(data.draw(st.sampled_from(events))))

    def announce(self, opening: SessionOpen) -> None:
        """A router asks for bids."""
        announcement = Announcement(id_of(opening), ROUTER.node, (), MODEL, 1, 1_000, 1, 0, self.hand.now_ms)
        envelope = seal(DOMAIN, ROUTER.sign, announcement)
        self.did(self.hand.tell(GossipReceived("sessions", ROUTER.node, announcement, envelope)))

    def likely(self, data: st.DataObject) -> st.SearchStrategy[Message]:
        opening, task = data.draw(openings), data.draw(tasks)
        generation = data.draw(st.sampled_from(self.generations[-3:]))
        assignment = assignment_of(opening, generations=(generation,))
        bid = data.draw(st.sampled_from(self.bids[-3:]))
        term = term_of(opening, ROUTER, data.draw(st.integers(1, 3)) * 1_024)
        return st.sampled_from(
            [
                LeaseRequest(opening, CLIENT.sign(id_of(opening)), bid),
                LeaseRequest(opening, CLIENT.sign(id_of(opening)), bid),
                LeaseRequest(opening, CLIENT.sign(id_of(opening)), bid, term),
                start_of(assignment, order_of(opening, task)),
                start_of(assignment, order_of(opening, task)),
                CancelTask(id_of(opening), task),
                embed_of(opening, task),
                embed_of(opening, task),
                LeaseRelease(id_of(opening)),
                ClientHello(),
            ]
        )

    def local(self, data: st.DataObject) -> None:
        self.announce(data.draw(openings))
        events: list[object] = []
        if self.running:
            generate = data.draw(st.sampled_from(self.running))
            name = generate.generation
            rendered = [event for event in self.hand.machine._leases.values() if name[0] == event.session]
            lane = rendered[0].lanes.get((name[1], name[2])) if rendered else None
            if lane is None or lane.writer is None:
                events += [Rendered(name, PROMPT_TOKENS), GenerationFailed(name, "engine_failed", "no")]
            else:
                events += [Produced(name, (1, 2), (b"a", b"b")), Generated(name, EndReason.STOP, 0)]
        if self.embeds:
            name = data.draw(st.sampled_from(self.embeds)).name
            events += [TextsEmbedded(name, (bytes(8),), 2), EmbeddingFailed(name, "engine_failed", "no")]
        events += [Sent(channel) for channel in self.channels]
        if events:
            self.did(self.hand.tell(data.draw(st.sampled_from(events))))

    def did(self, effects: list[object]) -> None:
        super().did(effects)
        for effect in effects:
            match effect:
                case Send(message=Envelope() as envelope):
                    self.bids.append(envelope_digest(DOMAIN, envelope, Bid))
                case Send(message=LeaseGrant() as grant):
                    self.generations.append(grant.generation)
                case Generate():
                    self.running.append(effect)
                case Embed():
                    self.embeds.append(effect)
                case Send(message=FrameMessage() as frame):
                    assert frame.lane == 0, "other lanes are streamed to nobody"
                case Send(message=LaneEnded() as ended):
                    name = ended.head.session, ended.head.task, ended.head.lane, ended.head.generation
                    assert name not in self.ended, "a lane ends once"
                    self.ended.add(name)

    def finish(self) -> None:
        self.hand.wait(4_000_000)
        machine = self.hand.machine
        assert machine.slots() == (2, 2)
        held = (machine._leases, machine._by_channel, machine._peers, machine._silent, machine._deadlines)
        assert [len(table) for table in held] == [0] * 5
        assert machine.next_deadline() is None

    def bounded(self) -> None:
        machine = self.hand.machine
        free, total = machine.slots()
        assert 0 <= free <= total == 2
        assert len(machine._by_channel) <= PARAMS.sessions_per_miner_max
        assert sum(max(1, len(lease.running())) for lease in machine._leases.values()) == total - free
        assert all(len(lease.embeds) <= EMBEDS_MAX for lease in machine._leases.values())
