"""The slots a miner has given away. A miner alone decides over them."""

from dataclasses import dataclass, field

from protocol.core.ids import Generation, ModelDigest, NodeId, SessionId
from protocol.core.machine import Channel, Close, Send
from protocol.core.signing import Domain, typed_digest
from protocol.light.lane_papers import Lent
from protocol.messages.embeddings import EmbedOrder
from protocol.messages.sessions import LeaseBusy, SessionOpen, SignedTerm
from protocol.messages.tasks import Delivery, SegmentHead
from protocol.roles.miner.lane import Lane
from protocol.session.transcript import prompt_tokens_digest

SERVED_BY_ANOTHER = "another router serves the session"


@dataclass(slots=True)
class Lease:
    """One slot held for one session."""

    session: SessionId
    opening: SessionOpen
    signature: bytes
    """The client's, of the opening."""
    router: NodeId
    channel: Channel
    generation: Generation
    price_wei: int
    """Of a token, as it was bid."""
    term: SignedTerm | None = None
    """By which the router serves the session; the first one needs none."""
    last_task: int = 0
    """The highest number of an order that was begun."""
    begun: set[int] = field(default_factory=set)
    """Orders that were begun: none is run twice."""
    assignment_number: int = 0
    lanes: dict[tuple[int, int], Lane] = field(default_factory=dict)
    """Running and not yet fully acknowledged, by (task, lane)."""
    embeds: dict[int, EmbedOrder] = field(default_factory=dict)
    """Requests for vectors that the engine works on, by number."""
    lent: Lent | None = None
    """Why the lease was given to this miner, once its router has shown it."""
    direct: Channel | None = None
    """The stream on which the session's client takes lane 0 itself."""
    direct_from: int = 0
    """The first order that goes there: those before began on another stream, and stay where they are."""
    in_flight: Channel | None = None
    """Where a frame was given to the stream and not yet reported as sent: one at a time, the first at once."""

    @property
    def after(self) -> int:
        """Assignments of this router carry greater numbers."""
        return self.term.term.after if self.term is not None else 0

    def yields_to(self, router: NodeId, after: int) -> bool:
        """Whether a router may have the session's lease in place of this one. Spec: [ROUTER-TERM.1]"""
        return after > self.after or (after == self.after and router == self.router)

    def hand_on(self, router: NodeId, term: SignedTerm | None) -> list[object]:
        """End this lease for the router's next one, or for another router's: the one that loses it is shown why."""
        busy = LeaseBusy(self.session, 0, SERVED_BY_ANOTHER, term)
        return [*([Send(self.channel, busy)] if router != self.router else []), Close(self.channel)]

    @property
    def model(self) -> ModelDigest:
        """What the session runs."""
        return ModelDigest(self.opening.model)

    def stream_of(self, lane: Lane) -> Channel | None:
        """Where a lane's frames go now; None: nowhere, the client's own stream is not there."""
        if lane.delivery is not Delivery.DIRECT:
            return self.channel
        return self.direct if lane.order.task >= self.direct_from else None

    def head_of(self, lane: Lane, domain: Domain, miner: NodeId, prompt_tokens: tuple[int, ...]) -> SegmentHead:
        """What the segment of a lane binds."""
        order = lane.order
        return SegmentHead(
            session=self.session,
            task=order.task,
            lane=lane.generation[2],
            generation=self.generation,
            miner=miner,
            order=typed_digest(domain, order),
            prompt=order.prompt,
            router=self.router,
            price_wei=self.price_wei,
            prompt_tokens=prompt_tokens_digest(lane.nonce, prompt_tokens),
            prompt_token_count=len(prompt_tokens),
            model=self.model,
            sampling=order.sampling,
            start_index=lane.start_index,
            previous_head=lane.previous,
        )

    def last_in_turn(self, lane: Lane) -> None:
        """A lane had its frame: others that run beside it come before it next time."""
        name = lane.order.task, lane.generation[2]
        self.lanes[name] = self.lanes.pop(name)

    def running(self) -> list[Lane]:
        """Lanes whose end is not yet written and that nobody cancelled."""
        return [lane for lane in self.lanes.values() if not lane.written and not lane.cancelling]


class Generations:
    """16 bytes drawn at process start and a counter: no two leases of any two lives of a node are alike.

    Spec: [LEASE-GENERATION.1]
    """

    def __init__(self, boot: bytes) -> None:
        assert len(boot) == 16
        self._boot = boot
        self._count = 0

    def take(self) -> Generation:
        """A generation never given before."""
        self._count += 1
        return Generation(self._boot + self._count.to_bytes(8, "big"))
