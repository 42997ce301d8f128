"""The scenario ``committee``: oracles that order batches, hand over from one committee to the next, and get in trouble.

Correct nodes run production's machine; those that a seed makes Byzantine run it behind tricks (``byzantine``). Until
the heal everything goes wrong that may; afterwards the promises of liveness fall due, and a last member is restarted.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random

from p2pnode.sim.byzantine import ByzantineProgram, Notes
from p2pnode.sim.byzantine_tricks import draw_tricks
from p2pnode.sim.committee_bounds import Bounds
from p2pnode.sim.committee_checkers import committee_checkers
from p2pnode.sim.committee_node import LOG_MADE, OracleProgram
from p2pnode.sim.committee_plan import Plan, Tuning, draw_plan, follower, promised_faulty_max
from p2pnode.sim.committee_work import Work
from p2pnode.sim.counter import CounterLedger
from p2pnode.sim.faults import Crash, CrashAtEffect, DiskFails, Fault, Loss
from p2pnode.sim.host import Host
from p2pnode.sim.scenario import Builder, Scenario, Setup
from p2pnode.sim.swarm import Menu, draw_faults
from p2pnode.sim.world import World
from protocol.core.genesis import Genesis
from protocol.core.params import Params

FAULTS_FROM_MS = 500
HEAL_MS = 20_000
QUIET_HEAL_MS = 3_000
LATE_START_MS = 600
END_MS = 3_600_000
"""Never reached: a world is over when all that is promised has happened, or should have."""


def builder(tuning: Tuning) -> Builder:
    """The scenario as a profile tunes it."""
    return partial(_build, tuning)


def _build(tuning: Tuning, setup: Setup) -> Scenario:
    rng = Random(f"committee/{setup.seed}")
    plan = draw_plan(rng, tuning)
    keys = {name: setup.keys.key(name) for name in (f"oracle-{number}" for number in range(1, plan.nodes + 1))}
    everybody = tuple(key.node_id for key in keys.values())
    genesis = Genesis(f"committee {setup.seed}", params=plan.params, committee=everybody[: plan.size])
    ledger = CounterLedger(genesis.domain(), plan.params, follower(plan.follow, everybody, plan.size))
    world = World(setup.seed, genesis, plan.profile, setup.keys, setup.lines_max)
    world.network.lossy = frozenset({"member"})
    roles = _Roles.draw(rng, plan, tuning, tuple(keys))
    keeps, notes = rng.random() < 0.5, Notes()
    for name, key in keys.items():
        tricks = roles.tricks.get(name)
        program = (
            OracleProgram(key, genesis, ledger)
            if tricks is None
            else ByzantineProgram(key, genesis, ledger, tricks, Random(f"tricks/{setup.seed}/{name}"), notes)
        )
        known = tuple(other for other in everybody if other != key.node_id) if keeps else ()
        skew_ms = rng.randint(-300, 300)
        host = Host(world, name, key, program, keeps=known, correct=tricks is None, skew_ms=skew_ms)
        host.disk.records[LOG_MADE] = b""
        program.host = host
        world.at(rng.randint(0, LATE_START_MS) * 1_000, host.start)
    bounds = Bounds(plan)
    work = Work(world, plan, Random(f"work/{setup.seed}"))
    world.watched_by(committee_checkers(world, bounds, ledger, work, roles.sound))
    heal_ms = QUIET_HEAL_MS if tuning.quiet else HEAL_MS
    work.begin(heal_ms)
    faults = _faults(Random(f"faults/{setup.seed}"), plan, tuning, roles)
    return Scenario(world, faults, heal_ms, END_MS)


def _hardly_resends(params: Params) -> Params:
    return replace(params, resend_interval_ms=120_000)


def _hasty(params: Params) -> Params:
    """Timers so short that a world which never gets on is soon found out."""
    return replace(params, delta_ms=50, resend_interval_ms=8_000, block_interval_ms_min=100, heartbeat_ms=10_000)


def _steady(params: Params) -> Params:
    """Disks are quick beside Δ: what decides is the way from node to node."""
    return replace(params, delta_ms=200, resend_interval_ms=8_000, block_interval_ms_min=20, heartbeat_ms=10_000)


class _Roles:
    """Who is correct, who plays tricks, who loses log or disk."""

    def __init__(self, names: Sequence[str], tricks: dict[str, tuple[str, ...]], weak: Sequence[str]) -> None:
        self.tricks = tricks
        self.weak = tuple(weak)
        """Correct, but they lose their log or their disk, once."""
        self.correct = [name for name in names if name not in tricks]
        self.sound = [name for name in self.correct if name not in self.weak]

    @classmethod
    def draw(cls, rng: Random, plan: Plan, tuning: Tuning, names: Sequence[str]) -> "_Roles":
        """No more than f in all."""
        most = promised_faulty_max(plan)
        faulty = rng.sample(list(names), most if tuning.lost_logs else min(plan.faulty, most))
        if tuning.byzantine is not None:
            chosen = rng.sample(list(names), len(tuning.byzantine))
            return cls(names, dict(zip(chosen, tuning.byzantine, strict=True)), ())
        weak = [name for name in faulty if (rng.random() < 0.3 if tuning.lost_logs is None else tuning.lost_logs)]
        return cls(names, {name: draw_tricks(rng) for name in faulty if name not in weak}, weak)


def _faults(rng: Random, plan: Plan, tuning: Tuning, roles: _Roles) -> tuple[Fault, ...]:
    names = tuple(roles.correct) + tuple(roles.tricks)
    faults: list[Fault] = []
    if not tuning.quiet:
        menu = Menu(names, roles.correct, FAULTS_FROM_MS, HEAL_MS, extra_ms_max=4 * plan.params.delta_ms)
        faults += draw_faults(rng, menu)
        if rng.random() < 0.1:
            faults += _rolling_restart(rng, roles.correct)
    if tuning.lossy:
        faults.append(Loss(FAULTS_FROM_MS, HEAL_MS - FAULTS_FROM_MS, rng.randint(3_000, 7_000), 0))
    if tuning.crashes:
        faults += _crashes(rng, roles.correct)
    faults += [_weakness(rng, name) for name in roles.weak]
    if tuning.lost_logs:
        faults += _wipes(rng, roles.weak)
    return tuple(faults)


def _rolling_restart(rng: Random, names: Sequence[str]) -> list[Fault]:
    """One after the other, each for a moment."""
    every_ms = (HEAL_MS - FAULTS_FROM_MS) // (len(names) + 1)
    down_ms = rng.randint(1, every_ms)
    return [
        Crash(FAULTS_FROM_MS + place * every_ms, name, down_ms, rng.random() < 0.2) for place, name in enumerate(names)
    ]


def _crashes(rng: Random, names: Sequence[str]) -> list[Fault]:
    """Short, and many."""
    return [
        Crash(rng.randint(FAULTS_FROM_MS, HEAL_MS - 1), rng.choice(list(names)), rng.randint(1, 300))
        for _ in range(8 * len(names))
    ]


def _wipes(rng: Random, names: Sequence[str]) -> list[Fault]:
    """Disks are lost again and again, and soon replaced."""
    return [
        Crash(rng.randint(FAULTS_FROM_MS, HEAL_MS - 1), name, rng.randint(1, 200), wiped=True)
        for name in names
        for _ in range(20)
    ]


def _weakness(rng: Random, name: str) -> Fault:
    at_ms, down_ms = rng.randint(FAULTS_FROM_MS, HEAL_MS - 1), rng.randint(1, 8_000)
    match rng.randrange(3):
        case 0:
            return Crash(at_ms, name, down_ms, wiped=True)
        case 1:
            return CrashAtEffect(name, 1 + int(3_000 ** rng.random()), rng.random() < 0.5, down_ms, wiped=True)
        case _:
            return DiskFails(at_ms, name, down_ms)


_EQUIVOCATOR = ("two-proposals", "says-everything")

PROFILES = {
    "committee": Tuning(),
    "committee-equivocators": Tuning(size=7, byzantine=(_EQUIVOCATOR, _EQUIVOCATOR), follow="rotate"),
    "committee-five": Tuning(size=5, byzantine=(_EQUIVOCATOR,), follow="same"),
    "committee-doubler": Tuning(size=4, byzantine=(("proposes-twice",),)),
    "committee-skipper": Tuning(size=4, byzantine=(("skips-heights", "says-everything"),)),
    "committee-whisperer": Tuning(
        size=4, byzantine=(("speaks-to-some",),), quiet=True, delay_deltas=0.5, params=_hardly_resends
    ),
    "committee-far": Tuning(size=4, byzantine=(), quiet=True, delay_deltas=8.0, params=_hasty),
    "committee-late": Tuning(size=4, byzantine=(), quiet=True, delay_deltas=2.2, even=True, params=_steady),
    "committee-crashes": Tuning(size=4, byzantine=(), crashes=True),
    "committee-lossy": Tuning(size=4, byzantine=(), quiet=True, lossy=True),
    "committee-lost-logs": Tuning(size=4, lost_logs=True),
}
"""The scenario's variants by name; all but the first serve mutations, and are green without."""
