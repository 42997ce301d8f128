"""How a ``committee`` world ends, and L5: when what waited is final and all links stand, some batches come one by one;
then a member is killed and has to come back in time; then everybody has to have all that is final. Then it is over.
"""

from collections.abc import Sequence
from random import Random

from p2pnode.sim.checkers import Checker
from p2pnode.sim.committee_bounds import Bounds
from p2pnode.sim.committee_chain import SameState, Slot
from p2pnode.sim.committee_promises import Promises
from p2pnode.sim.committee_work import Work
from p2pnode.sim.faults import Crash
from p2pnode.sim.host import Host
from protocol.core.codec import Message
from protocol.messages.committee import State

LOOK_EVERY_MS = 200
BATCHES = 6


class ComesBack(Checker):
    """L5: a member that was restarted signs again in time, and every sound node comes as far as the others."""

    invariant = "L5"

    def __init__(
        self, bounds: Bounds, states: SameState, promises: Promises, work: Work, rng: Random, sound: Sequence[str]
    ) -> None:
        self._bounds = bounds
        self._states = states
        self._promises = promises
        self._work = work
        self._rng = rng
        self._sound = tuple(sound)
        self._steps = [self._settles, *[self._speaks] * BATCHES, self._dies, self._returns, self._speaks, self._arrive]
        self._not_before_ms = 0
        self._by_ms = 0
        self._killed: Host | None = None
        self._signed: Slot = (0, 0)
        """The latest slot of which the killed node signed anything."""
        self._before: Slot = (0, 0)
        self._goal: Slot = (0, 0)

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """Whether the member that was killed speaks again."""
        if sender is self._killed and isinstance(message, State):
            self._signed = max(self._signed, (message.statement.epoch, message.statement.height))

    def healed(self) -> None:
        """The end begins."""
        self._not_before_ms = self._now_ms() + self._bounds.links_ms
        self._look()

    def _look(self) -> None:
        self._promises.look()
        if self._steps[0]():
            self._steps.pop(0)
        if self._steps:
            self.world.after(LOOK_EVERY_MS * 1_000, self._look)
        else:
            self.world.stop()

    def _settles(self) -> bool:
        if self._promises.owed or self._now_ms() < self._not_before_ms:
            return False
        self._promises.calm = True
        return True

    def _speaks(self) -> bool:
        """A batch, after the last one is final."""
        members = self._members()
        if members and not self._promises.owed:
            self._work.include(self._rng.choice(members))
            return True
        return not members

    def _dies(self) -> bool:
        members = self._members()
        if members:
            self._killed = self._rng.choice(members)
            down_ms = self._rng.randint(1, 3_000)
            self._before = self._states.best
            Crash(self._now_ms(), self._killed.name, down_ms).strike(self.world, self.world.now_us)
        return True

    def _returns(self) -> bool:
        """Others speak meanwhile, so that there is something to sign."""
        host = self._killed
        if host is None or host not in self._members():
            return True
        if not host.up:
            return False
        if not self._by_ms:
            behind = self._states.best[0] - self._states.at.get(host.name, (1, 0))[0]
            self._by_ms = self._now_ms() + self._bounds.restart_ms(behind + 1)
            self._before = max(self._before, self._states.best, self._signed)
        if self._signed > self._before:
            return True
        if self._now_ms() > self._by_ms:
            self.fail("came back and has signed nothing since", host)
        others = [member for member in self._members() if member is not host]
        if others and not self._promises.owed:
            self._work.include(self._rng.choice(others))
        return False

    def _arrive(self) -> bool:
        """All sound nodes come as far as the committee was at the beginning of this step."""
        if self._goal == (0, 0):
            self._goal, self._by_ms = self._states.best, self._now_ms() + self._bounds.told_ms
        behind = [name for name in self._sound if self._states.at.get(name, (1, 0)) < self._goal]
        if behind and self._now_ms() > self._by_ms:
            host = self.world.hosts[behind[0]]
            self.fail(f"is at {self._states.at.get(host.name)}, the committee was at {self._goal} long ago", host)
        return not behind and not self._promises.owed

    def _members(self) -> list[Host]:
        epoch = self._states.best[0]
        hosts = [self.world.by_id[node] for node in self._states.reading.committees[epoch].members]
        return [host for host in hosts if host.name in self._sound]

    def _now_ms(self) -> int:
        return self.world.now_us // 1_000
