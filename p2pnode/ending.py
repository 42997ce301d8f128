"""How a node ends in order: it takes on nothing new, lets what runs come to its end, and hands on what others can take.

What is not done within the bound is done without: sessions go on at other routers and miners as if this node had died,
and a miner's results are durable, so that its next start goes on with them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from protocol.core.machine import Stopping

LOOK_S = 0.05
"""How often it looks whether all is done."""
LAST_WORD_S = 0.1
"""What was said last gets so long to leave."""


@dataclass(slots=True)
class Ending:
    """What has to be told of a node's end, and what it waits for. Filled by the parts of the node as they start."""

    begun: trio.Event = field(default_factory=trio.Event)
    """Set when the node begins to end: who takes requests in takes none from then on."""
    tell: list[Callable[[object], None]] = field(default_factory=list)
    """The dispatch of each machine."""
    unfinished: list[Callable[[], int]] = field(default_factory=list)
    """Each counts what one part of the node has still to do."""

    def left(self) -> int:
        """How much is still to be done."""
        return sum(count() for count in self.unfinished)

    async def finish(self, within_s: float) -> int:
        """End in order, in so many seconds at most; returns how much was left undone."""
        self.begun.set()
        for tell in self.tell:
            tell(Stopping())
        with trio.move_on_after(within_s):
            while self.left():  # noqa: ASYNC110  (what counts is the state of many machines)
                await trio.sleep(LOOK_S)
            await trio.sleep(LAST_WORD_S)
        return self.left()
