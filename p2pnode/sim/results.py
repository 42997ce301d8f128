"""The scenario ``results``: routers, miners, clients and a committee in one world, with money.

Correct nodes run production's machines over the real ledger; some of every kind are Byzantine (``results_plan``). Until
the heal everything goes wrong that may. Afterwards what waited gets to its end, and a last client asks its questions,
whose answers have to become final and be paid for (``results_ending``).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from p2pnode.sim.byzantine import Notes
from p2pnode.sim.client_script import PRICE_CAP_WEI, ClientProgram, Habits, Visit, Wish
from p2pnode.sim.committee_node import LOG_MADE
from p2pnode.sim.committee_plan import follower
from p2pnode.sim.crypto import Key
from p2pnode.sim.fast_path import MODEL
from p2pnode.sim.host import Host, Part, Program
from p2pnode.sim.results_bad_clients import BAD_CLIENTS, Petitioner
from p2pnode.sim.results_bad_miners import BAD_MINERS
from p2pnode.sim.results_bad_routers import BAD_ROUTERS
from p2pnode.sim.results_byzantine import CrookedProgram, Den, Ruses
from p2pnode.sim.results_checkers import results_checkers
from p2pnode.sim.results_ending import Last
from p2pnode.sim.results_node import BadOracle, FollowingRouter, LedgerOracle, ProvingMiner
from p2pnode.sim.results_plan import ALLOCATION_WEI, ResultsPlan, Tuning, draw_plan
from p2pnode.sim.scenario import Builder, Scenario, Setup
from p2pnode.sim.swarm import KINDS, Menu, draw_faults
from p2pnode.sim.toy_engine import Pace
from p2pnode.sim.world import World
from protocol.committee.payload import NextCommittee
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.params import Params

FAULTS_FROM_MS = 2_000
HEAL_MS = 20_000
QUIET_HEAL_MS = 8_000
END_MS = 3_600_000
"""Never reached: a world is over when all that is promised has happened, or should have."""
LAST = "last"
LINGERS_MS = 30_000
"""The last client keeps its sessions for so long, to hear of levels; the very last one it never closes."""


def builder(tuning: Tuning) -> Builder:
    """The scenario as a profile tunes it."""
    return partial(_build, tuning)


def _build(tuning: Tuning, setup: Setup) -> Scenario:
    rng = Random(f"results/{setup.seed}")
    plan = draw_plan(rng, tuning)
    names = (*plan.cast.names, LAST)
    keys = {name: setup.keys.key(name) for name in names}
    genesis = _genesis(setup.seed, plan, keys)
    world = World(setup.seed, genesis, plan.committee.profile, setup.keys, setup.lines_max)
    world.network.lossy = frozenset({"member"})
    heal_ms = QUIET_HEAL_MS if tuning.quiet else HEAL_MS
    everybody = tuple(keys[name].node_id for name in plan.cast.oracles)
    follow = follower(plan.committee.follow, everybody, plan.committee.size)
    cast = Casting(world, plan, keys, rng, heal_ms, follow)
    for name in plan.cast.names:
        cast.put(name)
    world.watched_by(results_checkers(world, plan, cast.den, cast.last(), follow))
    menu = Menu(
        nodes=plan.cast.names,
        crashing=[name for name in plan.cast.names if name not in plan.cast.ruses],
        from_ms=FAULTS_FROM_MS,
        heal_ms=heal_ms,
        extra_ms_max=2 * plan.params.delta_ms,
        kinds=KINDS,
        hubs=(*plan.cast.routers, *plan.cast.oracles),
    )
    faults = () if tuning.quiet else draw_faults(Random(f"faults/{setup.seed}"), menu)
    return Scenario(world, faults, heal_ms, END_MS)


def _genesis(seed: int, plan: ResultsPlan, keys: Mapping[str, Key]) -> Genesis:
    clients = sorted(keys[name].node_id for name in (*plan.cast.clients, LAST))
    return Genesis(
        f"results {seed}",
        params=plan.params,
        committee=tuple(keys[name].node_id for name in plan.cast.oracles[: plan.committee.size]),
        allocation=tuple((client, ALLOCATION_WEI) for client in clients),
        miners=tuple(sorted(keys[name].node_id for name in plan.cast.miners)),
    )


class Casting:
    """Puts the nodes of a plan into a world."""

    def __init__(
        self,
        world: World,
        plan: ResultsPlan,
        keys: Mapping[str, Key],
        rng: Random,
        heal_ms: int,
        follow: NextCommittee,
    ) -> None:
        self.den = Den()
        self._follow = follow
        self._world = world
        self._plan = plan
        self._keys = keys
        self._rng = rng
        self._notes: Notes = {}
        self._routers = tuple(keys[name].node_id for name in plan.cast.routers)
        self._oracles = tuple(keys[name].node_id for name in plan.cast.oracles)
        self._habits = Habits(
            routers=self._routers,
            model=MODEL,
            visits_max=rng.randint(2, 5),
            wishes_max=3,
            tokens_max=rng.choice((20, 60, 100)),
            lanes_max=plan.lanes_max,
            stop_ms=heal_ms,
            caps_wei=plan.caps_wei,
            lanes=plan.lanes,
        )

    def put(self, name: str) -> Host:
        """A node of the plan, that starts at a time of its own."""
        kind, rng = name.split("-")[0], self._rng
        put: Mapping[str, Callable[[str], Host]] = {
            "oracle": self._oracle,
            "router": self._router,
            "miner": self._miner,
            "client": self._client,
        }
        host = put[kind](name)
        begins_ms = rng.randint(1_500, 4_000) if kind == "client" else rng.randint(0, 500)
        self._world.at(begins_ms * 1_000, host.start)
        return host

    def _host(self, name: str, program: Program, *, dialable: bool = True) -> Host:
        key, world = self._keys[name], self._world
        known = self._oracles if name.startswith("oracle") else self._routers
        keeps = tuple(other for other in known if other != key.node_id) if dialable else ()
        skew_ms = self._rng.randint(-300, 300)
        correct = name not in self._plan.cast.ruses
        return Host(world, name, key, program, keeps=keeps, correct=correct, dialable=dialable, skew_ms=skew_ms)

    def _oracle(self, name: str) -> Host:
        key, genesis, ruses = self._keys[name], self._world.genesis, self._plan.cast.ruses.get(name)
        program = (
            LedgerOracle(key, genesis, self._follow)
            if ruses is None
            else BadOracle(key, genesis, ruses, self._random(name), self._notes, self.den, self._follow)
        )
        host = self._host(name, program)
        host.disk.records[LOG_MADE] = b""
        program.host = host
        return host

    def _router(self, name: str) -> Host:
        program = FollowingRouter(self._keys[name], self._world.genesis, "router", f"/memory/{name}", 4)
        return self._host(name, self._crooked(name, program, BAD_ROUTERS))

    def _miner(self, name: str) -> Host:
        rng = self._rng
        sound = name not in self._plan.cast.ruses
        pace = Pace(
            slots=24 if sound else rng.randint(2, 6),
            first_token_us=rng.choice((0, rng.randint(1_000, 200_000))),
            token_us=rng.choice((0, 5_000, 20_000)),
        )
        price_wei = rng.randint(0, 50)
        program = ProvingMiner(self._keys[name], self._world.genesis, "miner", f"/memory/{name}", pace, price_wei)
        return self._host(name, self._crooked(name, program, BAD_MINERS))

    def _client(self, name: str) -> Host:
        program = ClientProgram(self._keys[name], self._world.genesis, self._habits)
        return self._host(name, self._crooked(name, program, BAD_CLIENTS), dialable=False)

    def _crooked(self, name: str, program: Program, known: Ruses) -> Program:
        names = self._plan.cast.ruses.get(name)
        if names is None:
            return program
        key, genesis, rng = self._keys[name], self._world.genesis, self._random(name)
        beside: Callable[[Any], list[Part]] | None = None
        if name.startswith("client"):
            beside = lambda _boot: [Part(Petitioner(key, genesis, MODEL, self._routers, rng, self.den))]  # noqa: E731
        return CrookedProgram(program, key, genesis, tuple(known[one] for one in names), rng, self.den, beside)

    def _random(self, name: str) -> Random:
        return Random(f"ruses/{self._world.seed}/{name}")

    # The last client

    def last(self) -> Last:
        """It asks at sound routers, each question in its turn."""
        rng, keys = Random(f"last/{self._world.seed}"), self._keys
        sound = tuple(keys[name].node_id for name in self._plan.cast.routers if name not in self._plan.cast.ruses)
        visits = tuple(self._visit(rng, sound, lanes) for lanes in dict.fromkeys((self._plan.lanes_max, 1)))
        answers = sum(len(visit.wishes) for visit in visits)
        habits = Habits(sound, MODEL, 1, 1, 60, 1, END_MS)
        program = ClientProgram(keys[LAST], self._world.genesis, habits, visits)
        host = self._host(LAST, program, dialable=False)
        return Last(host, host.start, answers)

    def _visit(self, rng: Random, routers: tuple[NodeId, ...], lanes: int) -> Visit:
        liars = any(name in self._plan.cast.ruses for name in self._plan.cast.miners)
        wishes = tuple(
            Wish(rng.randint(0, 300), f"last question {number}", 30, 20_000, None, False)
            for number in range(rng.randint(1, 2))
        )
        cap_wei = len(wishes) * 30 * PRICE_CAP_WEI
        # Whom a miner lies to in person has to give up on it alone: no router takes over.
        direct, last = not liars and rng.random() < 0.3, lanes == 1
        return Visit(0, routers, 20_000, 3_600_000, lanes, direct, wishes, last, cap_wei, LINGERS_MS)


def _hasty(params: Params) -> Params:
    """Epochs are over before answers are."""
    return replace(params, epoch_blocks=4, block_interval_ms_min=20, heartbeat_ms=500)


def _brief(params: Params) -> Params:
    """Epochs follow one another while answers are decided, each with another committee."""
    return replace(params, epoch_blocks=3 + params.epoch_blocks % 6, heartbeat_ms=min(params.heartbeat_ms, 2_000))


def _fleeting(params: Params) -> Params:
    """Hardly an answer is decided in the epoch in which it was asked for."""
    return replace(params, epoch_blocks=3, heartbeat_ms=1_000, commit_window_ms=1_000)


def _thrifty(params: Params) -> Params:
    """Hardly any credit."""
    return replace(params, unreserved_credit_wei=500)


PROFILES = {
    "results": Tuning(),
    "results-lanes": Tuning(lanes=(2, 3), miners=(("copies-results",), ("copies-commits",))),
    "results-liars": Tuning(lanes=(1, 2), oracles=(("observes-falsely", "makes-up"),), miners=(("reveals-nothing",),)),
    "results-pickers": Tuning(oracles=(("picks", "withholds"),), quiet=True),
    "results-thieves": Tuning(oracles=(("writes-garbage",),), clients=(("confides",), ("confides",))),
    "results-short-epochs": Tuning(params=_hasty),
    "results-silent-clients": Tuning(
        lanes=(1, 2), clients=(("confides", "never-acks"), ("confides", "acks-some")), caps_wei=(400_000,)
    ),
    "results-poor-clients": Tuning(caps_wei=(0, 2 * ALLOCATION_WEI), params=_thrifty),
    "results-early": Tuning(lanes=(2, 3), miners=(("reveals-early",), ("reveals-early",))),
    "results-forgers": Tuning(lanes=(1,), routers=(("makes-news-up",), ("makes-news-up",))),
    "results-turns": Tuning(params=_brief, follow=("rotate", "rotate", "elect"), spare=(1, 2, 3, 4)),
    "results-turns-liars": Tuning(params=_fleeting, follow=("rotate",), spare=(1,), oracles=(("makes-up",),)),
}
"""The scenario's variants by name; all but the first serve mutations, and are green without."""
