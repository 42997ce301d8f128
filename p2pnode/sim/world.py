"""One event heap under a virtual clock: everything that happens in a simulated network, in one order.

Nothing here knows what the nodes do. Time is in whole microseconds; of two things due at once the one that was put
first comes first; everything random is drawn from :meth:`World.random`, one stream for each name, so that leaving
one fault out does not change what is drawn for all the others.
"""

import heapq
from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING

from p2pnode.sim.checkers import Checker, Violation, Watch
from p2pnode.sim.crypto import Keys
from p2pnode.sim.links import Profile
from p2pnode.sim.network import Network
from p2pnode.sim.trace import LINES_MAX, Trace
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId

if TYPE_CHECKING:
    from p2pnode.sim.host import Host
    from p2pnode.sim.onchain_chain import Onchain

Action = Callable[[], object]

EVENTS_MAX = 3_000_000
"""No world is worth more: one that comes this far runs in circles."""


class World:
    """A simulated network. Hosts register themselves; ``keys`` signs for them."""

    def __init__(
        self, seed: int, genesis: Genesis, profile: Profile, keys: Keys, lines_max: int | None = LINES_MAX
    ) -> None:
        self.seed = seed
        self.genesis = genesis
        self.keys = keys
        self.now_us = 0
        self.events = 0
        """Events that machines handled."""
        self.events_max = EVENTS_MAX
        """A world that comes this far fails."""
        self.faults = 0
        """Faults that struck."""
        self.trace = Trace(lines_max)
        self.watch = Watch(())
        self.hosts: dict[str, Host] = {}
        """By name, in the order in which they were made."""
        self.by_id: dict[NodeId, Host] = {}
        self.onchain: Onchain | None = None
        """The chain that the network settles on, if it does."""
        self._heap: list[tuple[int, int, Action]] = []
        self._order = 0
        self._stopped = False
        self.network = Network(self, profile)

    def random(self, name: str) -> Random:
        """A stream of chance of its own for whatever bears the name."""
        return Random(f"{self.seed}/{name}")

    def watched_by(self, checkers: Iterable[Checker]) -> None:
        """Have the checkers told of all that happens from now on."""
        added = tuple(checkers)
        for checker in added:
            checker.world = self
        self.watch = Watch((*self.watch.checkers, *added))

    def at(self, at_us: int, action: Action) -> None:
        """Run an action at a time, now if that is past."""
        self._order += 1
        heapq.heappush(self._heap, (max(at_us, self.now_us), self._order, action))

    def after(self, delay_us: int, action: Action) -> None:
        """Run an action so much later."""
        self.at(self.now_us + delay_us, action)

    def stop(self) -> None:
        """Nothing more happens: all that was to be seen has been."""
        self._heap.clear()
        self._stopped = True

    def run_until(self, end_us: int) -> None:
        """Let everything happen that is due up to a time. Raises Violation."""
        heap = self._heap
        while heap and not self._stopped and heap[0][0] <= end_us:
            self.now_us, _, action = heapq.heappop(heap)
            action()
            if self.events > self.events_max:
                self.fail("FINITE", f"more than {self.events_max} events")
        if not self._stopped:
            self.now_us = max(self.now_us, end_us)

    def fail(self, invariant: str, what: str, node: str = "") -> None:
        """A promise that needs no checker is broken: raises Violation."""
        raise Violation(invariant, what, self.now_us // 1_000, node)

    def struck(self, who: str, what: str) -> None:
        """A fault strikes: count it and write it down."""
        self.faults += 1
        self.trace.add(self.now_us, who, "FAULT", what, what.encode())
