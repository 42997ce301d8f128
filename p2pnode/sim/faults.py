"""What can go wrong, as plain values: when it strikes, whom, and for how long.

A run's faults are a tuple of these, drawn from the seed before the run begins, so that one can be left out and the
rest run again. Each undoes itself at the latest at the heal time, but for what is drawn for good.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from protocol.core.machine import Stopping

if TYPE_CHECKING:
    from p2pnode.sim.host import Host
    from p2pnode.sim.world import World


class Fault(Protocol):
    """A plain value that repr() shows a person; equal faults of one seed do the same."""

    def plan(self, world: "World", heal_us: int) -> None:
        """Put on the heap what happens, and when it ends."""


@dataclass(frozen=True, slots=True)
class Crash:
    """A node dies and comes back. ``down_ms`` None: never."""

    at_ms: int
    node: str
    down_ms: int | None
    silent: bool = False
    """Nobody is told, as by a power cut."""
    wiped: bool = False
    """It comes back with an empty disk."""

    def plan(self, world: "World", heal_us: int) -> None:
        world.at(self.at_ms * 1_000, partial(self.strike, world, heal_us))

    def strike(self, world: "World", heal_us: int) -> None:
        """Do it now."""
        host = world.hosts[self.node]
        if not host.up:
            return
        world.struck(self.node, repr(self))
        host.crash(silent=self.silent)
        if self.wiped:
            host.disk.wipe()
        if self.down_ms is not None:
            back_us = world.now_us + self.down_ms * 1_000
            # By the heal time everybody is back; who dies at that very moment comes back a moment later.
            world.at(min(back_us, max(heal_us, world.now_us + 1_000)), host.start)


@dataclass(frozen=True, slots=True)
class Stop:
    """A node is told to stop, has so long to end what runs, dies and comes back."""

    at_ms: int
    node: str
    for_ms: int
    down_ms: int

    def plan(self, world: "World", heal_us: int) -> None:
        world.at(self.at_ms * 1_000, partial(self._strike, world, heal_us))

    def _strike(self, world: "World", heal_us: int) -> None:
        host = world.hosts[self.node]
        if not host.up:
            return
        world.struck(self.node, repr(self))
        host.tell_all(Stopping())
        over_us = min(world.now_us + self.for_ms * 1_000, heal_us)
        world.at(over_us, partial(self._die, world, heal_us, host.incarnation))

    def _die(self, world: "World", heal_us: int, life: int) -> None:
        if world.hosts[self.node].incarnation == life:
            Crash(0, self.node, self.down_ms).strike(world, heal_us)


@dataclass(frozen=True, slots=True)
class CrashAtEffect:
    """A node dies just before or after its so-manieth effect, wherever that falls; void if it comes after the heal."""

    node: str
    effect: int
    after: bool
    down_ms: int
    wiped: bool = False

    def plan(self, world: "World", heal_us: int) -> None:
        host = world.hosts[self.node]
        crash = Crash(0, self.node, self.down_ms, wiped=self.wiped)
        _arm(host, self, partial(crash.strike, world, heal_us))
        world.at(heal_us, partial(setattr, host, "planned", None))


def _arm(host: "Host", fault: CrashAtEffect, then: "partial[None]") -> None:
    from p2pnode.sim.host import PlannedCrash

    host.planned = PlannedCrash(fault.effect, fault.after, then)


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection between two nodes is reset; they may connect again at once."""

    at_ms: int
    nodes: tuple[str, str]

    def plan(self, world: "World", _heal_us: int) -> None:
        world.at(self.at_ms * 1_000, partial(self._strike, world))

    def _strike(self, world: "World") -> None:
        world.struck(self.nodes[0], repr(self))
        world.network.drop(*(world.hosts[name] for name in self.nodes))


@dataclass(frozen=True, slots=True)
class Cut:
    """Links are cut for a while: from each of ``sources`` to each of ``targets``, and back unless ``one_way``.

    A partition is a cut between its two sides.
    """

    at_ms: int
    for_ms: int
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    one_way: bool = False

    def plan(self, world: "World", heal_us: int) -> None:
        world.at(self.at_ms * 1_000, partial(self._strike, world, heal_us))

    def _strike(self, world: "World", heal_us: int) -> None:
        world.struck(self.sources[0], repr(self))
        for one, other in self._links(world):
            world.network.cut(one, other)
        world.at(min(world.now_us + self.for_ms * 1_000, heal_us), partial(self._mend, world))

    def _mend(self, world: "World") -> None:
        for one, other in self._links(world):
            world.network.mend(one, other)

    def _links(self, world: "World") -> "list[tuple[Host, Host]]":
        ways = [(one, other) for one in self.sources for other in self.targets if one != other]
        back = [] if self.one_way else [(other, one) for one, other in ways]
        return [(world.hosts[one], world.hosts[other]) for one, other in ways + back]


@dataclass(frozen=True, slots=True)
class Slow:
    """Everything that some nodes send takes longer, for a while or (``for_ms`` None) for good."""

    at_ms: int
    for_ms: int | None
    nodes: tuple[str, ...]
    extra_ms: int

    def plan(self, world: "World", heal_us: int) -> None:
        world.at(self.at_ms * 1_000, partial(self._add, world, 1))
        if self.for_ms is not None:
            world.at(min((self.at_ms + self.for_ms) * 1_000, heal_us), partial(self._add, world, -1))

    def _add(self, world: "World", sign: int) -> None:
        if sign > 0:
            world.struck(self.nodes[0], repr(self))
        for name in self.nodes:
            for other in world.hosts.values():
                world.network.link(world.hosts[name], other).extra_us += sign * self.extra_ms * 1_000


@dataclass(frozen=True, slots=True)
class Loss:
    """What is not on a reliable stream is lost or comes twice, on all links, for a while."""

    at_ms: int
    for_ms: int
    loss_bp: int
    duplicate_bp: int

    def plan(self, world: "World", heal_us: int) -> None:
        world.at(self.at_ms * 1_000, partial(self._add, world, 1))
        world.at(min((self.at_ms + self.for_ms) * 1_000, heal_us), partial(self._add, world, -1))

    def _add(self, world: "World", sign: int) -> None:
        if sign > 0:
            world.struck("network", repr(self))
        for one in world.hosts.values():
            for other in world.hosts.values():
                link = world.network.link(one, other)
                link.loss_bp += sign * self.loss_bp
                link.duplicate_bp += sign * self.duplicate_bp


@dataclass(frozen=True, slots=True)
class ClockJump:
    """A node's clock is set forward or back, and (``for_ms``) set right again later; None: it stays wrong."""

    at_ms: int
    node: str
    by_ms: int
    for_ms: int | None = None

    def plan(self, world: "World", heal_us: int) -> None:
        host = world.hosts[self.node]
        world.at(self.at_ms * 1_000, partial(self._strike, world, host))
        if self.for_ms is not None:
            world.at(min((self.at_ms + self.for_ms) * 1_000, heal_us), partial(host.jump_clock, -self.by_ms))

    def _strike(self, world: "World", host: "Host") -> None:
        world.struck(self.node, repr(self))
        host.jump_clock(self.by_ms)


@dataclass(frozen=True, slots=True)
class DiskFails:
    """Nothing that a node writes from now on becomes durable, until it is killed and comes back on a sound disk, with
    what was durable before."""

    at_ms: int
    node: str
    for_ms: int

    def plan(self, world: "World", heal_us: int) -> None:
        world.at(self.at_ms * 1_000, partial(self._strike, world))
        world.at(min((self.at_ms + self.for_ms) * 1_000, heal_us), partial(self._repair, world))

    def _strike(self, world: "World") -> None:
        world.struck(self.node, repr(self))
        world.hosts[self.node].disk.fails = True

    def _repair(self, world: "World") -> None:
        host = world.hosts[self.node]
        host.crash()
        host.disk.fails = False
        host.start()


@dataclass(frozen=True, slots=True)
class SlowNode:
    """A node handles everything late, by up to ``lag_ms``, and its disk takes ``slowness`` times as long."""

    at_ms: int
    for_ms: int
    node: str
    lag_ms: int
    slowness: int = 1

    def plan(self, world: "World", heal_us: int) -> None:
        host = world.hosts[self.node]
        world.at(self.at_ms * 1_000, partial(self._set, world, host, self.lag_ms * 1_000, self.slowness))
        world.at(min((self.at_ms + self.for_ms) * 1_000, heal_us), partial(self._set, world, host, 0, 1))

    def _set(self, world: "World", host: "Host", lag_us: int, slowness: int) -> None:
        if lag_us:
            world.struck(self.node, repr(self))
        host.lag_us, host.disk.slowness = lag_us, slowness
