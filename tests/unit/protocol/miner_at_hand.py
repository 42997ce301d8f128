"""A miner driven by hand, and one order under way as router and client know it."""

from typing import Any

from protocol.core.ids import Generation, NodeId
from protocol.core.machine import Channel, ChannelClosed, GossipReceived, Open, Send, Sent
from protocol.core.params import Params
from protocol.core.signing import typed_digest
from protocol.messages.adverts import ModelOffer
from protocol.messages.envelope import Envelope, envelope_digest, seal
from protocol.messages.sessions import (
    Bid,
    LeaseGrant,
    LeaseRequest,
    SessionOpen,
)
from protocol.messages.tasks import (
    Ack,
    AckMessage,
    CancelTask,
    Continuation,
    EndReason,
    FrameMessage,
    SegmentStart,
    TaskFailed,
)
from protocol.roles.miner import (
    Generated,
    MinerMachine,
    MinerSettings,
    Produced,
    Rendered,
)
from protocol.session.transcript import LaneVerifier, expect_segment, make_ack
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
    announcement_of,
    assignment_of,
    id_of,
    of,
    order_of,
    sent,
    start_of,
)

BOOT = b"\x44" * 16
UNACKED = PARAMS.unacked_tokens_max


class Mine(Hand):
    """A miner of one model with two slots, and its router."""

    def __init__(self, params: Params = PARAMS, offers: tuple[ModelOffer, ...] = (OFFER,)) -> None:
        served = {offer.manifest.digest(): offer for offer in offers}
        super().__init__(MinerMachine(MinerSettings(MINER.node, served, BOOT), DOMAIN, params, MINER.sign))

    def announce(self, opening: SessionOpen, origin: NodeId = ROUTER.node, **fields: Any) -> list[object]:
        announcement = announcement_of(opening, **fields)
        return self.tell(GossipReceived("sessions", origin, announcement, seal(DOMAIN, ROUTER.sign, announcement)))

    def bid(self, opening: SessionOpen) -> Envelope:
        """The bid for a session; its stream is closed again."""
        effects = self.announce(opening)
        (envelope,) = sent(effects)
        assert isinstance(envelope, Envelope)
        self.tell(ChannelClosed(of(effects, Open)[0].channel, "closed"))
        return envelope

    def request(self, opening: SessionOpen, router: NodeId = ROUTER.node) -> tuple[Channel, list[object]]:
        """Ask for a lease on the strength of a bid."""
        digest = envelope_digest(DOMAIN, self.bid(opening), Bid)
        channel = self.opened(router, "task")
        signature = CLIENT.sign(id_of(opening))
        return channel, self.receive(channel, LeaseRequest(opening, signature, digest))

    def lease(self, opening: SessionOpen) -> tuple[Channel, Generation]:
        """A lease, granted."""
        channel, effects = self.request(opening)
        (grant,) = sent(effects, channel)
        assert isinstance(grant, LeaseGrant)
        return channel, Generation(grant.generation)


class Run:
    """One order under way: what the router and the client would know of it."""

    def __init__(
        self,
        mine: Mine,
        opening: SessionOpen,
        task: int = 1,
        leased: tuple[Any, Any] | None = None,
        resume: Continuation | None = None,
        **order: Any,
    ) -> None:
        self.mine, self.opening = mine, opening
        self.channel, self.generation = leased or mine.lease(opening)
        self.order = order_of(opening, task, **order)
        self.name = (bytes(id_of(opening)), task, 0)
        others = opening.lanes - 1
        miners = (MINER.node, *(MINERS[1].node,) * others)
        assignment = assignment_of(opening, miners=miners, generations=(self.generation, *(GENERATION,) * others))
        self.begun = mine.receive(self.channel, start_of(assignment, self.order, resume=resume))
        expected = expect_segment(DOMAIN, self.order, 0, self.generation, MINER.node, MODEL)
        self.verifier = LaneVerifier(DOMAIN, expected)
        self.text = b""

    def render(self) -> list[object]:
        return self.read(self.mine.tell(Rendered(self.name, PROMPT_TOKENS)))

    def produce(self, count: int) -> list[object]:
        ids = tuple(range(count))
        return self.read(self.mine.tell(Produced(self.name, ids, tuple(b"%d " % i for i in ids))))

    def finish(self) -> list[object]:
        return self.read(self.mine.tell(Generated(self.name, EndReason.STOP, 0)))

    def report(self) -> list[object]:
        return self.read(self.mine.tell(Sent(self.channel)))

    def ack(self, index: int | None = None, chain: bytes | None = None) -> list[object]:
        message = make_ack(DOMAIN, CLIENT.sign, self.verifier)
        if index is not None or chain is not None:
            ack = message.ack
            ack = Ack(*self.order_names(), ack.segment, ack.index if index is None else index, chain or ack.chain)
            message = AckMessage(ack, CLIENT.sign(typed_digest(DOMAIN, ack)))
        return self.read(self.mine.receive(self.channel, message))

    def order_names(self) -> tuple[bytes, int, int, bytes]:
        return self.order.session, self.order.task, 0, self.generation

    def read(self, effects: list[object]) -> list[object]:
        """Verify what was sent, as a client does."""
        frames = [effect for effect in of(effects, Send) if isinstance(effect.message, FrameMessage)]
        assert len(frames) <= 1, "one frame in flight"
        assert all(frame.report for frame in frames)
        for message in sent(effects, self.channel):
            if isinstance(message, SegmentStart):
                self.verifier.begin(message.head)
            elif isinstance(message, FrameMessage):
                self.verifier.take(message)
                self.text += b"".join(message.texts)
        return effects

    def cancel(self) -> list[object]:
        return self.read(self.mine.receive(self.channel, CancelTask(self.order.session, self.order.task)))

    def failed(self, effects: list[object]) -> TaskFailed:
        (message,) = sent(effects, self.channel)
        assert isinstance(message, TaskFailed)
        assert (message.session, message.task) == (self.order.session, self.order.task)
        return message
