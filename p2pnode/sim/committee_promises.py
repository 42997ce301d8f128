"""L1, L2 and L8: what waits becomes final, soon, and every epoch comes to its end; see ``committee_bounds`` for how
soon that is.

Owed is every batch that a sound node has durably signed: it may have left. What waited at the heal has to be final
when links stand again, whoever was behind has caught up, and timers that had backed off as far as they go have run
out; what is signed later, in calm, within L1's bound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from p2pnode.sim.checkers import Checker, Violation
from p2pnode.sim.committee_bounds import Bounds
from p2pnode.sim.committee_chain import Slot
from p2pnode.sim.committee_reading import Reading
from p2pnode.sim.disk import Batch
from p2pnode.sim.host import Host
from protocol.committee.payload import HOMES_KEPT, LedgerState
from protocol.committee.signer import BATCH
from protocol.core.codec import Message
from protocol.messages.committee import State


@dataclass(slots=True)
class Owed:
    """A batch that has to become final."""

    home_epoch: int
    number: int
    host: Host
    by_ms: int | None
    held_ms: int | None = None
    """When all correct members have had it for 2Δ, so that a leader may not leave it out; None: not looked at."""
    after: Slot | None = None
    """The furthest slot that any correct member had come to by then: n further heights must suffice."""


class Course(Protocol):
    """What a checker knows of the final chain: ``committee_chain.SameState``, or one for another ledger."""

    @property
    def best(self) -> Slot:
        """As far as any correct node has come."""

    @property
    def at(self) -> Mapping[str, Slot]:
        """How far each correct node has come."""

    @property
    def states(self) -> Mapping[Slot, LedgerState]:
        """By slot."""

    @property
    def reading(self) -> Reading:
        """Who the committees are."""


class Promises(Checker):
    """L1, L2 and L8. ``owed`` is what still waits."""

    invariant = "L1"

    def __init__(self, bounds: Bounds, states: Course, sound: Sequence[str]) -> None:
        self.owed: list[Owed] = []
        self.calm = False
        """Set when what waited at the heal is final and all links stand."""
        self.final = 0
        self._bounds = bounds
        self._states = states
        self._sound = frozenset(sound)
        self._reached: Slot = (1, 0)
        self._closing: dict[int, int] = {}

    def durable(self, host: Host, records: Batch) -> None:
        """A batch is signed and about to leave."""
        if host.name in self._sound:
            for name, value in records:
                if name.startswith(BATCH) and value is not None:
                    self._owe(host, int.from_bytes(name[-16:-8], "big"), int.from_bytes(name[-8:], "big"))

    def _owe(self, host: Host, home_epoch: int, number: int) -> None:
        owed = Owed(home_epoch, number, host, None)
        if self.calm:
            owed.by_ms = self._now_ms() + self._bounds.item_ms
            alone = all(other.host is not host for other in self.owed)
            if alone and self._bounds.in_time:
                owed.held_ms = self._now_ms() + self._bounds.hop_ms + 2 * self._bounds.delta_ms
        self.owed.append(owed)

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """How far members are."""
        if sender.correct and isinstance(message, State):
            slot = (message.statement.epoch, message.statement.height)
            if slot > self._reached:
                self._reached = slot
                if slot[1] > self.world.genesis.params.epoch_blocks and slot[0] not in self._closing:
                    self._closing[slot[0]] = self._now_ms()

    def healed(self) -> None:
        """From here on what waits has a deadline."""
        furthest = self._states.best[0]
        behind = furthest - min((self._states.at.get(name, (1, 0))[0] for name in self._sound), default=furthest)
        for owed in self.owed:
            owed.by_ms = self._now_ms() + self._bounds.healed_ms(behind)

    def look(self) -> None:
        """What is final, and what should be."""
        best, now_ms = self._states.best, self._now_ms()
        before = len(self.owed)
        self.owed = [owed for owed in self.owed if not self._included(owed)]
        self.final += before - len(self.owed)
        for owed in self.owed:
            what = f"batch {owed.number} of home epoch {owed.home_epoch}"
            if owed.by_ms is not None and now_ms > owed.by_ms:
                self.fail(f"{what} is not final in time", owed.host)
            if owed.held_ms is not None and now_ms >= owed.held_ms:
                owed.after, owed.held_ms = self._reached, None
            size = len(self._states.reading.committees[best[0]].members)
            if owed.after is not None and self._further(owed.after, best) > size:
                self._broken("L2", f"{what} is not in a block {size} heights after {owed.after}", owed.host)
        if self.calm:
            self._look_at_closing(best, now_ms)

    def _look_at_closing(self, best: Slot, now_ms: int) -> None:
        for epoch, since_ms in list(self._closing.items()):
            if epoch < best[0]:
                del self._closing[epoch]
            elif now_ms > since_ms + self._bounds.backed_off_ms + self._bounds.hop_ms:
                self._broken("L8", f"epoch {epoch} is not closed in time", None)

    def _included(self, owed: Owed) -> bool:
        best = self._states.best
        if owed.home_epoch <= best[0] - HOMES_KEPT:
            return True  # too old to enter any more
        return self._states.states[best].included(owed.home_epoch, owed.host.node)[0] >= owed.number

    def _further(self, after: Slot, best: Slot) -> int:
        """How many heights that may hold batches lie between two slots."""
        last = self.world.genesis.params.epoch_blocks
        if after[0] == best[0]:
            return min(best[1], last) - min(after[1], last)
        return last - min(after[1], last) + (best[0] - after[0] - 1) * last + min(best[1], last)

    def _now_ms(self) -> int:
        return self.world.now_us // 1_000

    def _broken(self, invariant: str, what: str, host: Host | None) -> None:
        raise Violation(invariant, what, self._now_ms(), host.name if host else "")
