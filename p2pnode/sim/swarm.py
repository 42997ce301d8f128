"""Draws the faults of a run, swarm style: a seed switches each kind on or off, then draws how much of each.

Worlds with every kind at once hide more than they show: what one fault would bring to light another covers up. So
most seeds are without most kinds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from p2pnode.sim.faults import ClockJump, Crash, CrashAtEffect, Cut, DiskFails, Drop, Fault, Loss, Slow, SlowNode

KINDS = ("crash", "effect", "drop", "cut", "partition", "slow", "loss", "clock", "lag")
"""What any node lives through."""
ALL_KINDS = (*KINDS, "disk")
"""With what ends a promise in some roles: an oracle whose disk failed signs nothing for a while."""


@dataclass(frozen=True, slots=True)
class Menu:
    """What may be drawn in a world, between ``from_ms`` and ``heal_ms``."""

    nodes: Sequence[str]
    """All of them, in a fixed order."""
    crashing: Sequence[str]
    """Those that may die; they come back before the heal time."""
    from_ms: int
    heal_ms: int
    every_ms: int = 4_000
    """About how far apart faults of one kind are."""
    effects_max: int = 3_000
    """A planned crash falls on one of so many first effects of its node."""
    extra_ms_max: int = 400
    clock_ms_max: int = 500
    lag_ms_max: int = 150
    down_ms_max: int = 15_000
    cut_ms_max: int = 12_000
    wiped_bp: int = 0
    """Of crashes: the disk is lost too."""
    kinds: Sequence[str] = KINDS
    hubs: Sequence[str] = ()
    """Whom most links lead to: a fault of a link strikes one of theirs every other time."""


def draw_faults(rng: Random, menu: Menu) -> tuple[Fault, ...]:
    """The faults of a run, by the time at which they strike."""
    if rng.random() < 0.05:
        return ()  # a quiet world
    drawn: list[Fault] = []
    for kind in ALL_KINDS:
        wanted, chance = kind in menu.kinds and rng.random() < 0.4, Random(rng.random())
        if wanted:
            drawn += _DRAWS[kind](chance, menu)
    return tuple(sorted(drawn, key=lambda fault: (getattr(fault, "at_ms", 0), repr(fault))))


def _times(rng: Random, menu: Menu, factor: float = 1.0) -> list[int]:
    """When a kind strikes: at random, more often in some worlds than in others."""
    pause_ms, at_ms, times = menu.every_ms * factor * rng.uniform(0.5, 3.0), float(menu.from_ms), []
    while (at_ms := at_ms + rng.expovariate(1 / pause_ms)) < menu.heal_ms - 1:
        times.append(int(at_ms))
    return times


def _crashes(rng: Random, menu: Menu) -> list[Fault]:
    if not menu.crashing:
        return []
    return [
        Crash(
            at_ms=at_ms,
            node=rng.choice(menu.crashing),
            down_ms=int(menu.down_ms_max * rng.random() ** 2) + 1,
            silent=rng.random() < 0.3,
            wiped=rng.randrange(10_000) < menu.wiped_bp,
        )
        for at_ms in _times(rng, menu)
    ]


def _effects(rng: Random, menu: Menu) -> list[Fault]:
    if not menu.crashing:
        return []
    # A node dies once this way: the plan holds one crash. Small numbers are as likely as large ones are together.
    struck = rng.sample(list(menu.crashing), rng.randint(1, min(4, len(menu.crashing))))
    return [
        CrashAtEffect(
            node=node,
            effect=1 + int(menu.effects_max ** rng.random()),
            after=rng.random() < 0.5,
            down_ms=int(menu.down_ms_max * rng.random() ** 3) + 1,
            wiped=rng.randrange(10_000) < menu.wiped_bp,
        )
        for node in struck
    ]


def _drops(rng: Random, menu: Menu) -> list[Fault]:
    return [Drop(at_ms, _pair(rng, menu)) for at_ms in _times(rng, menu, 0.5)]


def _cuts(rng: Random, menu: Menu) -> list[Fault]:
    cuts: list[Fault] = []
    for at_ms in _times(rng, menu):
        one, other = _pair(rng, menu)
        cuts.append(Cut(at_ms, _cut_ms(rng, menu), (one,), (other,), one_way=rng.random() < 0.4))
    return cuts


def _partitions(rng: Random, menu: Menu) -> list[Fault]:
    cuts: list[Fault] = []
    for at_ms in _times(rng, menu, 2.5):
        nodes = list(menu.nodes)
        rng.shuffle(nodes)
        size = rng.randint(1, len(nodes) - 1)
        one, other = tuple(nodes[:size]), tuple(nodes[size:])
        cuts.append(Cut(at_ms, _cut_ms(rng, menu), one, other, one_way=rng.random() < 0.3))
    return cuts


def _slows(rng: Random, menu: Menu) -> list[Fault]:
    slows: list[Fault] = []
    for at_ms in _times(rng, menu, 2.0):
        nodes = tuple(rng.sample(list(menu.nodes), rng.randint(1, max(1, len(menu.nodes) // 3))))
        slows.append(Slow(at_ms, rng.randint(500, 15_000), nodes, 1 + int(menu.extra_ms_max * rng.random() ** 2)))
    return slows


def _losses(rng: Random, menu: Menu) -> list[Fault]:
    length_ms = menu.heal_ms - menu.from_ms
    return [
        Loss(at_ms, rng.randint(1_000, max(1_001, length_ms // 2)), rng.randint(10, 3_000), rng.randint(0, 2_000))
        for at_ms in _times(rng, menu, 3.0)[:3]
    ]


def _jumps(rng: Random, menu: Menu) -> list[Fault]:
    jumps: list[Fault] = []
    for at_ms in _times(rng, menu, 2.0):
        by_ms = rng.randint(-menu.clock_ms_max, menu.clock_ms_max) or 1
        for_ms = rng.choice((None, rng.randint(100, 10_000)))
        jumps.append(ClockJump(at_ms, rng.choice(menu.nodes), by_ms, for_ms))
    return jumps


def _lags(rng: Random, menu: Menu) -> list[Fault]:
    return [
        SlowNode(
            at_ms=at_ms,
            for_ms=rng.randint(500, 15_000),
            node=rng.choice(menu.nodes),
            lag_ms=1 + int(menu.lag_ms_max * rng.random() ** 2),
            slowness=rng.choice((1, 1, 5, 30)),
        )
        for at_ms in _times(rng, menu, 2.0)
    ]


def _disks(rng: Random, menu: Menu) -> list[Fault]:
    if not menu.crashing:
        return []
    times = _times(rng, menu, 4.0)
    return [DiskFails(at_ms, rng.choice(menu.crashing), rng.randint(100, menu.down_ms_max)) for at_ms in times]


def _pair(rng: Random, menu: Menu) -> tuple[str, str]:
    one, other = rng.sample(list(menu.nodes), 2)
    if menu.hubs and rng.random() < 0.5:
        hub = rng.choice(menu.hubs)
        return (hub, one) if hub != one else (hub, other)
    return one, other


def _cut_ms(rng: Random, menu: Menu) -> int:
    return 50 + int(menu.cut_ms_max * rng.random() ** 2)


_DRAWS: dict[str, Callable[[Random, Menu], list[Fault]]] = {
    "crash": _crashes,
    "effect": _effects,
    "drop": _drops,
    "cut": _cuts,
    "partition": _partitions,
    "slow": _slows,
    "loss": _losses,
    "clock": _jumps,
    "lag": _lags,
    "disk": _disks,
}
