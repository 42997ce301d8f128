"""What a scenario is made of: a world with its nodes and checkers, and the faults that its seed drew for it."""

from collections.abc import Callable
from dataclasses import dataclass

from p2pnode.sim.crypto import Keys
from p2pnode.sim.faults import Fault
from p2pnode.sim.world import World


@dataclass(frozen=True, slots=True)
class Setup:
    """What a scenario is built from."""

    seed: int
    keys: Keys
    lines_max: int | None
    """Of the trace; None: all."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world that is ready to run."""

    world: World
    faults: tuple[Fault, ...]
    """Not planned yet: the runner may leave some out."""
    heal_ms: int
    """All faults but those for good are over."""
    end_ms: int


Builder = Callable[[Setup], Scenario]
