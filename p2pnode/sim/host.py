"""One node of a world: its machines, its disk and its clock, and the ways in which it dies and comes back.

What the node runs is a :class:`Program`: at each start it is given what the disk holds and builds the machines anew,
as the production node does. Nothing else survives a crash.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Protocol

from p2pnode.sim.crypto import Key
from p2pnode.sim.disk import Disk
from p2pnode.sim.drive import Drive
from p2pnode.sim.local_clock import LocalClock
from protocol.core.ids import NodeId
from protocol.core.machine import Machine

if TYPE_CHECKING:
    from p2pnode.sim.network import Connection, Then
    from p2pnode.sim.world import World

SYNC_US = (500, 30_000)
"""How long a sync takes on a sound disk."""

Dispatch = Callable[[object], None]
"""Hands a machine an event of its role."""

Perform = Callable[[object], None]
"""Executes a role's own effect."""

Performers = Callable[[Dispatch], Mapping[type, Perform]]
"""Given the machine's dispatch, what executes its role's own effects, by their type."""


@dataclass(frozen=True, slots=True)
class Part:
    """A machine and what executes the effects that only its role has."""

    machine: Machine
    performers: Performers | None = None


@dataclass(frozen=True, slots=True)
class Boot:
    """What a program is given at each start."""

    records: Mapping[bytes, bytes]
    """What the disk holds."""
    incarnation: int
    """1 at the first start."""
    now_ms: int
    """By the node's own clock."""
    random: Random
    """For whatever production draws from the operating system; another one for each life."""
    later: Callable[[int, Callable[[], None]], None]
    """Run an action so many microseconds from now, unless the node dies before."""
    elapsed_ms: Callable[[], int]
    """The world's own time, for scripts; no machine may know it."""


class Program(Protocol):
    """What a node runs."""

    def start(self, boot: Boot) -> Sequence[Part]:
        """The node's machines, from what the disk holds."""


@dataclass(frozen=True, slots=True)
class PlannedCrash:
    """Die just before or just after the effect of this number, counted over all lives."""

    effect: int
    after: bool
    then: Callable[[], None]
    """Called in place of the crash itself, so that whoever planned it decides how."""


class Host:
    """A node. It is down until :meth:`start`."""

    def __init__(
        self,
        world: "World",
        name: str,
        key: Key,
        program: Program,
        *,
        keeps: Sequence[NodeId] = (),
        correct: bool = True,
        dialable: bool = True,
        skew_ms: int = 0,
    ) -> None:
        self.world = world
        self.name = name
        self.node = key.node_id
        self.program = program
        self.keeps = tuple(keeps)
        """Peers that it dials until they answer, and again when they are lost."""
        self.correct = correct
        """Whether it runs production's machines: nothing is promised to others, or of them."""
        self.dialable = dialable
        """Whether others reach it when it has not dialed them, unlike a client behind a router of its own."""
        self.clock = LocalClock(lambda: world.now_us, skew_ms)
        self.disk = Disk(world.random(f"disk/{name}"), world.after, SYNC_US)
        self.up = False
        self.silent = False
        """Whether its last death was one that nobody is told of, as when the power fails."""
        self.incarnation = 0
        self.effects = 0
        """Executed so far, over all lives."""
        self.planned: PlannedCrash | None = None
        self.lag_us = 0
        """How late everything is handled here, at most."""
        self.drives: list[Drive] = []
        self.topics: frozenset[str] = frozenset()
        self.peers: dict[NodeId, Connection] = {}
        """Whom it believes itself connected to."""
        self.dialing: dict[NodeId, list[Then]] = {}
        self.lag_rng = world.random(f"lag/{name}")
        assert name not in world.hosts and key.node_id not in world.by_id
        world.hosts[name] = self
        world.by_id[key.node_id] = self
        world.trace.names[key.node_id] = name

    # Life and death

    def start(self) -> None:
        """Build the machines and run them; nothing if it runs."""
        if self.up:
            return
        world = self.world
        self.incarnation += 1
        self.up = True
        self.clock.restart()
        world.trace.add(world.now_us, self.name, f"starts, life {self.incarnation}")
        rng = world.random(f"node/{self.name}/{self.incarnation}")
        boot = Boot(
            dict(self.disk.records),
            self.incarnation,
            self.clock.now_ms(),
            rng,
            self._later,
            lambda: world.now_us // 1_000,
        )
        self.drives = [Drive(self, part, number) for number, part in enumerate(self.program.start(boot))]
        self.topics = frozenset(topic for drive in self.drives for topic in drive.machine.topics)
        for hook in world.watch.started:
            hook(self)
        for drive in self.drives:
            drive.arm()
        for peer in self.keeps:
            world.network.keep(self, peer)

    def crash(self, *, silent: bool = False) -> None:
        """Die at once: machines and un-synced writes are gone. ``silent``: nobody is told, as by a power cut."""
        if not self.up:
            return
        world = self.world
        world.trace.add(world.now_us, self.name, "dies silently" if silent else "dies")
        for hook in world.watch.crashed:
            hook(self)
        self.up, self.silent = False, silent
        for drive in self.drives:
            drive.stop()
        self.drives = []
        self.disk.crash()
        world.network.host_died(self)

    def _later(self, delay_us: int, action: Callable[[], None]) -> None:
        life = self.incarnation

        def act() -> None:
            if self.up and self.incarnation == life:
                action()

        self.world.after(delay_us, act)

    def jump_clock(self, by_ms: int) -> None:
        """Set the clock forward or back; what is due by then is due."""
        self.clock.jump(by_ms)
        for drive in self.drives:
            drive.rearm()

    # Events

    def tell_all(self, event: object) -> None:
        """Tell every machine of the node."""
        for drive in list(self.drives):
            drive.dispatch(event)

    def serving(self, protocol: str) -> Drive | None:
        """The machine that serves a protocol."""
        return next((drive for drive in self.drives if protocol in drive.machine.protocols), None)

    # Effects

    def before_effect(self) -> None:
        """An effect is about to be executed: a planned crash may come first."""
        planned = self.planned
        self.effects += 1
        if planned is not None and not planned.after and self.effects >= planned.effect:
            self.planned = None
            planned.then()

    def after_effect(self) -> None:
        """An effect was executed."""
        planned = self.planned
        if planned is not None and planned.after and self.effects >= planned.effect:
            self.planned = None
            planned.then()
