"""What a checker is: it watches a world from outside and says when a promise is broken.

A checker knows the protocol's promises, never the machines' insides (but for :mod:`p2pnode.sim.tables`, which counts
what they hold). It overrides the hooks it needs; each is called at the moment the thing happens, before anything
follows from it, and may call :meth:`Checker.fail`.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.gossip import Checked

if TYPE_CHECKING:
    from p2pnode.sim.disk import Batch
    from p2pnode.sim.drive import Drive
    from p2pnode.sim.host import Host
    from p2pnode.sim.world import World


class Violation(Exception):
    """A promise was broken. ``invariant`` is its name in the notes, such as S11; ``node`` the name of a host."""

    def __init__(self, invariant: str, what: str, at_ms: int, node: str = "") -> None:
        super().__init__(f"{invariant} at {at_ms / 1_000:.3f} s{f', {node}' if node else ''}: {what}")
        self.invariant = invariant
        self.what = what
        self.at_ms = at_ms
        self.node = node

    def __reduce__(self) -> tuple[Any, ...]:
        return (Violation, (self.invariant, self.what, self.at_ms, self.node))


class Checker:
    """Base of all checkers: one class an invariant, no hook mandatory."""

    invariant = ""
    world: "World"
    """Set when the checker is given to a world."""

    def fail(self, what: str, host: "Host | None" = None) -> None:
        """The promise is broken: raises Violation."""
        raise Violation(self.invariant, what, self.world.now_us // 1_000, host.name if host is not None else "")

    def started(self, host: "Host") -> None:
        """A node started, its machines stand; ``host.incarnation`` counts from 1."""

    def crashed(self, host: "Host") -> None:
        """A node is about to be gone: machines and what was not durable are still there to be looked at."""

    def handles(self, drive: "Drive", event: object, now_ms: int) -> None:
        """A machine is about to be told of an event; ``now_ms`` is what its clock says."""

    def handled(self, drive: "Drive", event: object, effects: list[object]) -> None:
        """What the machine asked for; nothing of it is executed yet, and some of it may never be."""

    def effect(self, drive: "Drive", effect: object) -> None:
        """An effect is executed now. What a client is shown is its Deliver effects."""

    def durable(self, host: "Host", records: "Batch") -> None:
        """Records would survive a crash from now on; all that do are in ``host.disk.records``."""

    def wire(self, sender: "Host", receiver: "Host", protocol: str, message: Message) -> None:
        """A message leaves on a stream. Whether it arrives is another matter."""

    def published(self, host: "Host", topic: str, message: Message) -> None:
        """A message leaves on gossip."""

    def judged(self, host: "Host", forwarder: "Host", origin: NodeId, topic: str, checked: Checked) -> None:
        """A node decided over a gossip message that ``forwarder`` handed to it."""

    def healed(self) -> None:
        """All faults but those for good are over from now on."""

    def ended(self) -> None:
        """The run is over, everything had time to come to rest."""


class Watch:
    """The checkers of a world, by hook: only those that override a hook are called for it."""

    def __init__(self, checkers: Iterable[Checker]) -> None:
        self.checkers = tuple(checkers)
        self.started = self._of("started")
        self.crashed = self._of("crashed")
        self.handles = self._of("handles")
        self.handled = self._of("handled")
        self.effect = self._of("effect")
        self.durable = self._of("durable")
        self.wire = self._of("wire")
        self.published = self._of("published")
        self.judged = self._of("judged")
        self.healed = self._of("healed")
        self.ended = self._of("ended")

    def _of(self, hook: str) -> tuple[Callable[..., None], ...]:
        return tuple(
            getattr(checker, hook)
            for checker in self.checkers
            if getattr(type(checker), hook) is not getattr(Checker, hook)
        )
