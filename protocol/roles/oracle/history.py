"""What an operator wants to see of the last blocks: who led, what came in, how long it took."""

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
