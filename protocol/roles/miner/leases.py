"""The slots a miner has given away. A miner alone decides over them."""

from dataclasses import dataclass, field

from protocol.core.ids import Generation, ModelDigest, NodeId, SessionId
from protocol.core.machine import Channel
from protocol.messages.sessions import SessionOpen
from protocol.roles.miner.lane import Lane


@dataclass(slots=True)
class Lease:
    """One slot held for one session."""

    session: SessionId
    opening: SessionOpen
    router: NodeId
    channel: Channel
    generation: Generation
    last_task: int = 0
    """Orders of a session come with rising numbers; none is run twice."""
    assignment_number: int = 0
    lanes: dict[tuple[int, int], Lane] = field(default_factory=dict)
    """Running and not yet fully acknowledged, by (task, lane)."""
    in_flight: Lane | None = None
    """Whose frame was given to the stream and not yet reported as sent: one at a time, the first at once."""

    @property
    def model(self) -> ModelDigest:
        """What the session runs."""
        return ModelDigest(self.opening.model)

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
