"""Small worlds for the simulator's own tests: machines that do what a test tells them, and note what they are told."""

from collections.abc import Callable, Sequence
from typing import Any

from p2pnode.sim.crypto import KeyedHashes
from p2pnode.sim.host import Boot, Host, Part
from p2pnode.sim.links import Profile
from p2pnode.sim.world import World
from protocol.core.genesis import Genesis
from protocol.core.machine import DeadlineReached, Received
from protocol.messages.greeting import ClientHello

NEAR = Profile(distance_us=(1_000, 1_000), jitter_bp=0, late_bp=0)
FAR = Profile(distance_us=(1_000, 50_000), jitter_bp=5_000, late_bp=500)

Say = Callable[[object], list[object]]


class Told:
    """Asks for what ``answer`` says, an empty list by default, and remembers every event with its time."""

    topics: tuple[str, ...] = ()

    def __init__(self, answer: Say | None = None, protocols: Sequence[str] = ("talk",)) -> None:
        self.protocols = tuple(protocols)
        self.answer: Say = answer or (lambda event: [])
        self.heard: list[object] = []
        self.times: list[int] = []
        self.deadline: int | None = None

    def next_deadline(self) -> int | None:
        return self.deadline

    def handle(self, event: object, now_ms: int) -> list[object]:
        if isinstance(event, DeadlineReached):
            self.deadline = None
        self.heard.append(event)
        self.times.append(now_ms)
        return self.answer(event)

    def of(self, kind: type) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.heard if isinstance(event, kind)]

    def numbers(self) -> list[int]:
        """Of the messages received."""
        return [event.message.version for event in self.of(Received)]


class Runs:
    """A program that runs the machine that ``make`` gives for each life."""

    def __init__(self, make: Callable[[Boot], Told]) -> None:
        self.make = make
        self.boots: list[Boot] = []
        self.lives: list[Told] = []

    def start(self, boot: Boot) -> Sequence[Part]:
        self.boots.append(boot)
        self.lives.append(self.make(boot))
        return [Part(self.lives[-1])]  # type: ignore[arg-type]


def world_of(seed: int = 1, profile: Profile = NEAR) -> World:
    """An empty world."""
    return World(seed, Genesis("test"), profile, KeyedHashes(seed), None)


def host_of(world: World, name: str, machine: Told | None = None, **settings: Any) -> Host:
    """A node that is up, with one machine; the same one in each of its lives."""
    told = machine or Told()
    host = Host(world, name, world.keys.key(name), Runs(lambda boot: told), **settings)
    host.start()
    return host


def told(host: Host) -> Told:
    """The machine of a node."""
    machine = host.drives[0].machine
    assert isinstance(machine, Told)
    return machine


def number(value: int) -> ClientHello:
    """A message that carries a number."""
    return ClientHello(version=value)


def run_ms(world: World, ms: float) -> None:
    """Let so much time pass."""
    world.run_until(world.now_us + int(ms * 1_000))
