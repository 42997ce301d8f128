"""The slots a miner has given away. A miner alone decides over them."""

from dataclasses import dataclass, field

from protocol.core.ids import Generation, ModelDigest, NodeId, SessionId
from protocol.core.machine import Channel
from protocol.core.signing import Domain, typed_digest
from protocol.messages.sessions import SessionOpen
from protocol.messages.tasks import Delivery, SegmentHead
from protocol.roles.miner.lane import Lane
from protocol.session.transcript import prompt_tokens_digest


@dataclass(slots=True)
class Lease:
    """One slot held for one session."""

    session: SessionId
    opening: SessionOpen
    router: NodeId
    channel: Channel
    generation: Generation
    after: int = 0
    """Assignments of this router carry greater numbers: what its term says, 0 for the session's first router."""
    last_task: int = 0
    """Orders of a session come with rising numbers; none is run twice."""
    assignment_number: int = 0
    lanes: dict[tuple[int, int], Lane] = field(default_factory=dict)
    """Running and not yet fully acknowledged, by (task, lane)."""
    direct: Channel | None = None
    """The stream on which the session's client takes lane 0 itself."""
    in_flight: Channel | None = None
    """Where a frame was given to the stream and not yet reported as sent: one at a time, the first at once."""

    @property
    def model(self) -> ModelDigest:
        """What the session runs."""
        return ModelDigest(self.opening.model)

    def stream_of(self, lane: Lane) -> Channel | None:
        """Where a lane's frames go now; None: nowhere, the client's own stream is not there."""
        return self.direct if lane.delivery is Delivery.DIRECT else self.channel

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
            prompt_tokens=prompt_tokens_digest(prompt_tokens),
            prompt_token_count=len(prompt_tokens),
            model=self.model,
            sampling=order.sampling,
            start_index=lane.start_index,
            previous_head=lane.previous,
        )

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
