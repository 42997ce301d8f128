"""What an operator wants to see: who led the last blocks and how long they took, and who of the members speaks."""

from collections import deque
from dataclasses import dataclass

from protocol.committee.effects import Settled
from protocol.committee.simplex import Simplex
from protocol.core.ids import NodeId
from protocol.messages.committee import EMPTY_BODY

BLOCKS_KEPT = 256


@dataclass(frozen=True, slots=True)
class Seen:
    """A block that became final here."""

    epoch: int
    height: int
    leader: NodeId
    count: int
    """Outcomes since genesis."""
    empty: bool
    final_ms: int
    """When it was final and executed at this node."""
    gap_ms: int
    """Since the block before it; 0 for the first that this process saw."""


class History:
    """The last blocks, the newest last."""

    def __init__(self) -> None:
        self.blocks: deque[Seen] = deque(maxlen=BLOCKS_KEPT)

    def settled(self, effect: Settled, simplex: Simplex, now_ms: int) -> None:
        """Blocks are final."""
        committee = simplex.committee
        for header in effect.headers:
            gap_ms = now_ms - self.blocks[-1].final_ms if self.blocks else 0
            leader = committee.members[committee.leader(header.height)]
            empty = header.body == EMPTY_BODY
            self.blocks.append(Seen(header.epoch, header.height, leader, header.results_count, empty, now_ms, gap_ms))


@dataclass(frozen=True, slots=True)
class Heard:
    """The last that a member said on its link."""

    epoch: int
    height: int
    """The highest it spoke of in this epoch."""
    at_ms: int


class Presence:
    """When the members were heard last, and where they were."""

    def __init__(self) -> None:
        self._heard: dict[NodeId, Heard] = {}

    def heard(self, member: NodeId, epoch: int, height: int, now_ms: int) -> None:
        """A member spoke of a height."""
        before = self._heard.get(member)
        if before is not None and (before.epoch, before.height) > (epoch, height):
            epoch, height = before.epoch, before.height
        self._heard[member] = Heard(epoch, height, now_ms)

    def of(self, member: NodeId) -> Heard | None:
        """None if it was never heard."""
        return self._heard.get(member)

    def keep(self, members: tuple[NodeId, ...]) -> None:
        """Forget all others."""
        self._heard = {member: heard for member, heard in self._heard.items() if member in members}
