"""What can go wrong between nodes and their chain, and with the chain itself: all of it is over at the heal."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from p2pnode.sim.faults import Fault

if TYPE_CHECKING:
    from p2pnode.sim.onchain_chain import Onchain
    from p2pnode.sim.world import World

DEPTH_MAX = 12
"""Of a reorganisation."""


@dataclass(frozen=True, slots=True)
class RpcFails:
    """A node's endpoint answers nothing, or is behind, forgets what it is given, or lies, for a while."""

    at_ms: int
    for_ms: int
    nodes: tuple[str, ...]
    down: bool = False
    behind: int = 0
    loses: bool = False
    lies: bool = False

    def plan(self, world: "World", heal_us: int) -> None:
        world.at(self.at_ms * 1_000, partial(self._strike, world))
        world.at(min((self.at_ms + self.for_ms) * 1_000, heal_us), partial(self._mend, world))

    def _strike(self, world: "World") -> None:
        world.struck(self.nodes[0], repr(self))
        for name in self.nodes:
            endpoint = _chain(world).endpoint(name)
            endpoint.down, endpoint.behind = self.down, self.behind
            endpoint.loses, endpoint.lies = self.loses, self.lies

    def _mend(self, world: "World") -> None:
        for name in self.nodes:
            endpoint = _chain(world).endpoint(name)
            endpoint.down, endpoint.behind, endpoint.loses, endpoint.lies = False, 0, False, False


@dataclass(frozen=True, slots=True)
class Reorg:
    """The last blocks are replaced."""

    at_ms: int
    depth: int
    lost_share: float
    """Of the transactions in them, for good unless somebody sends them again."""

    def plan(self, world: "World", _heal_us: int) -> None:
        world.at(self.at_ms * 1_000, partial(self._strike, world))

    def _strike(self, world: "World") -> None:
        world.struck("chain", repr(self))
        _chain(world).reorganise(self.depth, world.random(repr(self)), self.lost_share)


@dataclass(frozen=True, slots=True)
class Forgets:
    """All that waits for a block is forgotten."""

    at_ms: int

    def plan(self, world: "World", _heal_us: int) -> None:
        world.at(self.at_ms * 1_000, partial(self._strike, world))

    def _strike(self, world: "World") -> None:
        world.struck("chain", repr(self))
        _chain(world).chain.waiting.clear()


@dataclass(frozen=True, slots=True)
class ChainStands:
    """No blocks come for a while."""

    at_ms: int
    for_ms: int

    def plan(self, world: "World", heal_us: int) -> None:
        world.at(self.at_ms * 1_000, partial(self._set, world, True))
        world.at(min((self.at_ms + self.for_ms) * 1_000, heal_us), partial(self._set, world, False))

    def _set(self, world: "World", stands: bool) -> None:
        if stands:
            world.struck("chain", repr(self))
        _chain(world).stands = stands


@dataclass(frozen=True, slots=True)
class Deaf:
    """A node never sees anything of the chain: its endpoint is of no use, and stays so."""

    node: str

    def plan(self, world: "World", _heal_us: int) -> None:
        world.struck(self.node, repr(self))
        _chain(world).deafen(self.node)


def _chain(world: "World") -> "Onchain":
    assert world.onchain is not None, "only worlds with a chain have faults of one"
    return world.onchain


def draw_chain_faults(rng: Random, nodes: Sequence[str], from_ms: int, heal_ms: int) -> tuple[Fault, ...]:
    """Each kind is there or not; how often it strikes is drawn too."""
    faults: list[Fault] = []

    def times(every_ms: int) -> list[int]:
        if rng.random() < 0.4:
            return []
        count = 1 + int(rng.expovariate(every_ms / (heal_ms - from_ms)))
        return sorted(rng.randrange(from_ms, heal_ms) for _ in range(min(count, 12)))

    def some() -> tuple[str, ...]:
        everybody = rng.random() < 0.3
        return tuple(nodes) if everybody else tuple(rng.sample(list(nodes), rng.randint(1, len(nodes))))

    faults += [RpcFails(at_ms, rng.randint(200, 12_000), some(), down=True) for at_ms in times(5_000)]
    faults += [RpcFails(at_ms, rng.randint(200, 8_000), some(), behind=rng.randint(1, 30)) for at_ms in times(5_000)]
    faults += [RpcFails(at_ms, rng.randint(200, 8_000), some(), loses=True) for at_ms in times(5_000)]
    faults += [Reorg(at_ms, rng.randint(1, DEPTH_MAX), rng.choice((0.0, 0.3, 1.0))) for at_ms in times(3_000)]
    faults += [Forgets(at_ms) for at_ms in times(3_000)]
    faults += [ChainStands(at_ms, rng.randint(500, 10_000)) for at_ms in times(10_000)]
    return tuple(faults)


def draw_weakness(rng: Random, name: str, from_ms: int, heal_ms: int) -> tuple[Fault, ...]:
    """What is as bad as an oracle that lies: an endpoint that does."""
    times = sorted(rng.randrange(from_ms, heal_ms) for _ in range(rng.randint(1, 3)))
    return tuple(RpcFails(at_ms, rng.randint(1_000, 8_000), (name,), lies=True) for at_ms in times)


def draw_losses(from_ms: int, heal_ms: int) -> tuple[Fault, ...]:
    """One reorganisation after the other, as deep as they go; whatever was sent is lost again and again."""
    reorgs = [Reorg(at_ms, DEPTH_MAX, 1.0) for at_ms in range(from_ms, heal_ms, 1_500)]
    return (*reorgs, *(Forgets(at_ms) for at_ms in range(from_ms, heal_ms, 700)))
