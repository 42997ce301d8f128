"""The scenario ``chain``: a ``results`` world that settles on a chain.

Money comes from deposits, committees are drawn by the registry, whoever equivocates loses stake there. Between nodes
and chain everything goes wrong that may, and the chain itself is reorganised; a raider sends the contracts whatever
they should refuse. In the end the contract has caught up, everybody is paid, and, once the committee is dead,
everything is given back (``onchain_ending``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import TypeVar

from chain.deploy import Terms as DeployTerms
from chain.model.blocks import Transaction
from chain.model.terms import Terms
from chain.signed import created_by
from p2pnode.sim.checkers import Checker
from p2pnode.sim.committee_word import OnlyTheGuilty
from p2pnode.sim.crypto import Key
from p2pnode.sim.faults import Crash, Fault
from p2pnode.sim.host import Host
from p2pnode.sim.onchain_chain import RICH, Onchain
from p2pnode.sim.onchain_checkers import ConservedOnchain, OnchainHolds, PaidOnchain
from p2pnode.sim.onchain_ending import Estate, OnchainEnds
from p2pnode.sim.onchain_faults import Deaf, draw_chain_faults, draw_losses, draw_weakness
from p2pnode.sim.onchain_lies import WORD_LIES
from p2pnode.sim.onchain_purse import Book, Purse, PurseProgram
from p2pnode.sim.onchain_raider import Raider
from p2pnode.sim.onchain_settling import SettlingProgram
from p2pnode.sim.results import END_MS, FAULTS_FROM_MS, HEAL_MS, LAST, QUIET_HEAL_MS, Casting
from p2pnode.sim.results_bad_clients import DEPOSIT_WEI
from p2pnode.sim.results_checkers import results_checkers
from p2pnode.sim.results_plan import ResultsPlan, Tuning, draw_plan
from p2pnode.sim.results_replay import OneLedger
from p2pnode.sim.results_tables import ResultsTables
from p2pnode.sim.scenario import Builder, Scenario, Setup
from p2pnode.sim.swarm import KINDS, Menu, draw_faults
from p2pnode.sim.world import World
from protocol.committee.payload import same_members
from protocol.core.genesis import CONTRACTS, Contracts, Genesis
from protocol.core.ids import NodeId
from protocol.core.signing import keccak, typed_digest
from protocol.messages.chain import Consent

CHAIN_ID = 31_337
STAKE = 1_000
PURSES = ("purse-1", "purse-2")
RAIDER = ("raider-1", "raider-2", "raider-3", "raider-4")
ROLES = {"router": 1, "miner": 2, "oracle": 4}
GONE = "gone"
"""In place of ruses: one that dies at some time, and never comes back."""
DEAD_S = 100_000
"""No world lives so long by itself."""

T = TypeVar("T", bound=Checker)


@dataclass(frozen=True, slots=True)
class ChainTuning:
    """What a profile of the scenario fixes."""

    results: Tuning = field(default_factory=lambda: Tuning(spare=(0, 0, 1, 2, 4)))
    depth: int | None = None
    """Blocks until one is final."""
    faults: str = "all"
    """Of chain and endpoints: all, ``none``, or ``losses`` alone."""
    lies: tuple[str, ...] | None = None
    """Of each Byzantine oracle, about the chain."""
    deaf: bool | None = None
    """Whether one of the oracles never sees anything of the chain."""


def builder(tuning: ChainTuning) -> Builder:
    """The scenario as a profile tunes it."""
    return partial(_build, tuning)


def _build(tuning: ChainTuning, setup: Setup) -> Scenario:
    rng = Random(f"chain/{setup.seed}")
    plan = _plan(rng, tuning)
    keys = {name: setup.keys.key(name) for name in (*plan.cast.names, LAST, *PURSES, *RAIDER)}
    genesis = _genesis(setup.seed, plan, keys)
    world = World(setup.seed, genesis, plan.committee.profile, setup.keys, setup.lines_max)
    world.network.lossy = frozenset({"member"})
    heal_ms = QUIET_HEAL_MS if tuning.results.quiet else HEAL_MS
    onchain = _chain(world, rng, tuning)
    cast = ChainCasting(world, plan, keys, rng, heal_ms, same_members)
    for name in plan.cast.names:
        cast.put(name)
    estate = _Estate(world, onchain, plan, keys, rng, heal_ms)
    estate.watched(cast)
    estate.begins()
    return Scenario(world, _faults(setup.seed, plan, tuning, heal_ms), heal_ms, END_MS)


def _faults(seed: int, plan: ResultsPlan, tuning: ChainTuning, heal_ms: int) -> tuple[Fault, ...]:
    rng = Random(f"chain faults/{seed}")
    faults: tuple[Fault, ...] = ()
    if not tuning.results.quiet:
        faults = draw_faults(Random(f"faults/{seed}"), _menu(plan, heal_ms))
    if tuning.faults == "all":
        faults += draw_chain_faults(rng, plan.cast.oracles, FAULTS_FROM_MS, heal_ms)
    elif tuning.faults == "losses":
        faults += draw_losses(FAULTS_FROM_MS, heal_ms)
    if rng.random() < 0.2 if tuning.deaf is None else tuning.deaf:
        faults += (Deaf(rng.choice(plan.cast.oracles)),)
    return faults + _weakness(rng, plan, heal_ms)


def _weakness(rng: Random, plan: ResultsPlan, heal_ms: int) -> tuple[Fault, ...]:
    """Where no oracle is Byzantine, one may be gone for good, or have a lying endpoint."""
    gone = tuple(Crash(rng.randint(0, heal_ms), name, None) for name in plan.cast.oracles if GONE in _ruses(plan, name))
    sound = all(name not in plan.cast.ruses for name in plan.cast.oracles)
    if sound and rng.random() < 0.3:
        return draw_weakness(rng, rng.choice(plan.cast.oracles), FAULTS_FROM_MS, heal_ms)
    return gone


def _ruses(plan: ResultsPlan, name: str) -> tuple[str, ...]:
    return plan.cast.ruses.get(name, ())


def _plan(rng: Random, tuning: ChainTuning) -> ResultsPlan:
    plan = draw_plan(rng, tuning.results)
    if tuning.results.oracles is None and not any(name in plan.cast.ruses for name in plan.cast.oracles):
        # Nothing is promised of one that never comes back: it counts as a faulty one.
        plan.cast.ruses.update({rng.choice(plan.cast.oracles): (GONE,)} if rng.random() < 0.3 else {})
    for name in plan.cast.oracles:
        if name in plan.cast.ruses and GONE not in plan.cast.ruses[name]:
            drawn = (rng.choice(sorted(WORD_LIES)),) if rng.random() < 0.6 else ()
            plan.cast.ruses[name] += drawn if tuning.lies is None else tuning.lies
    params = replace(
        plan.params,
        # An epoch is longer than its hand-over takes, and a draw.
        epoch_blocks=rng.randint(20, 60),
        anchor_stride=rng.choice((8, 16)),
        checkpoint_blocks=rng.choice((4, 16, 64)),
        checkpoint_ms=rng.choice((1_000, 3_000)),
        checkpoint_idle_ms=10_000,
        turn_ms=rng.choice((500, 1_500)),
        committee_size_max=plan.committee.size,
        committee_terms_max=1_000,
        registered_max=64,
    ).validate()
    return replace(plan, committee=replace(plan.committee, params=params))


def _genesis(seed: int, plan: ResultsPlan, keys: Mapping[str, Key]) -> Genesis:
    deployer = keys[LAST].node_id
    return Genesis(
        f"chain {seed}",
        CHAIN_ID,
        plan.params,
        tuple(keys[name].node_id for name in plan.cast.oracles[: plan.committee.size]),
        miners=tuple(sorted(keys[name].node_id for name in plan.cast.miners)),
        contracts=Contracts(0, *(created_by(deployer, nonce) for nonce in range(len(CONTRACTS)))),
    )


def _chain(world: World, rng: Random, tuning: ChainTuning) -> Onchain:
    depth = rng.choice((0, 2, 6, 12))
    given = DeployTerms(unit=rng.choice((1, 10**9)), window_s=rng.randint(5, 60), dead_s=DEAD_S, stake_min=100)
    terms = Terms.of(world.genesis, given)
    world.onchain = Onchain(world, terms, depth if tuning.depth is None else tuning.depth, rng.choice((200, 400)))
    return world.onchain


def _menu(plan: ResultsPlan, heal_ms: int) -> Menu:
    return Menu(
        nodes=plan.cast.names,
        crashing=[name for name in plan.cast.names if name not in plan.cast.ruses],
        from_ms=FAULTS_FROM_MS,
        heal_ms=heal_ms,
        extra_ms_max=2 * plan.params.delta_ms,
        kinds=KINDS,
        hubs=(*plan.cast.routers, *plan.cast.oracles),
    )


class ChainCasting(Casting):
    """Oracles have eyes on the chain."""

    def _oracle(self, name: str) -> Host:
        host, world, key = super()._oracle(name), self._world, self._keys[name]
        assert world.onchain is not None
        client, rng = world.onchain.client(name, key.node_id), world.random(f"settling/{name}")
        host.program = SettlingProgram(host.program, client, world.genesis.params, key.node_id, rng)
        return host


class _Estate:
    """Who has to do with the chain beside the oracles."""

    def __init__(
        self,
        world: World,
        onchain: Onchain,
        plan: ResultsPlan,
        keys: Mapping[str, Key],
        rng: Random,
        heal_ms: int,
    ) -> None:
        self._world = world
        self._onchain = onchain
        self._plan = plan
        self._keys = keys
        self._rng = rng
        self._book = Book()
        self._purses = tuple(self._purse(name, heal_ms) for name in PURSES)
        raiders = tuple(keys[name] for name in RAIDER)
        self._raider = Raider(onchain, raiders, world.random("raider"), self._purses)

    def _purse(self, name: str, heal_ms: int) -> Purse:
        world, key, rng = self._world, self._keys[name], self._world.random(f"purse/{name}")
        oracles = tuple(self._keys[oracle].node_id for oracle in self._plan.cast.oracles)
        program = PurseProgram(key, world.genesis.domain(), oracles, rng, self._book)
        host = Host(world, name, key, program, dialable=False)
        world.at(0, host.start)
        return Purse(self._onchain, self._onchain.client(name, key.node_id), program, rng, self._book, heal_ms)

    def watched(self, cast: Casting) -> None:
        """Everybody's promises, and those of the chain."""
        classes = {"conserved": ConservedOnchain, "paid": PaidOnchain, "ending": OnchainEnds}
        checkers = results_checkers(self._world, self._plan, cast.den, cast.last(), same_members, **classes)
        ledger = _one(checkers, OneLedger)
        self._book.ledger = self._raider.ledger = ledger
        ends = _one(checkers, OnchainEnds)
        undertaker = self._onchain.client("undertaker", NodeId(keccak(b"undertaker")[:20]))
        guilty, tables = _one(checkers, OnlyTheGuilty), _one(checkers, ResultsTables)
        ends.estate = Estate(self._onchain, self._purses, guilty, tables, self._raider, undertaker)
        self._world.watched_by((*checkers, OnchainHolds(self._onchain, ledger), self._raider))

    def begins(self) -> None:
        """Nodes are registered and clients have deposited; some blocks have followed."""
        domain, unit = self._world.genesis.domain(), self._onchain.terms.unit
        for name in self._plan.cast.names:
            key, kind = self._keys[name], name.split("-")[0]
            if kind in ROLES:
                owner = self._owner(name)
                consent = key.sign(typed_digest(domain, Consent(key.node_id, owner)))
                stake = STAKE + len(name)
                args = (key.node_id, ROLES[kind], stake, consent)
                self._send(owner, "registry", "register", *args, value=stake * unit)
        payer = NodeId(keccak(b"payer")[:20])
        for name in (*self._plan.cast.clients, LAST, *PURSES):
            account = self._keys[name].node_id
            self._send(payer, "escrow", "deposit", account, DEPOSIT_WEI, value=DEPOSIT_WEI * unit)
        self._onchain.begin(2 * self._onchain.chain.depth + 2 * self._world.genesis.params.anchor_stride)

    def _owner(self, name: str) -> NodeId:
        """Purses own the first miners; everybody else belongs to somebody cold."""
        purse = name.replace("miner", "purse")
        return self._keys[purse].node_id if purse in PURSES else NodeId(keccak(f"owner of {name}".encode())[:20])

    def _send(self, sender: NodeId, contract: str, function: str, *args: object, value: int) -> None:
        chain = self._onchain.chain
        chain.fund(sender, RICH)
        nonce = sum(waiting.sender == sender for waiting in chain.waiting)
        chain.send(Transaction(sender, nonce, contract, function, args, value))


def _one(checkers: tuple[Checker, ...], kind: type[T]) -> T:
    return next(checker for checker in checkers if isinstance(checker, kind))


_QUIET = Tuning(lanes=(1,), oracles=(), miners=(), routers=(), clients=(), quiet=True)


def _liars(*ruses: tuple[str, ...]) -> Tuning:
    return replace(_QUIET, oracles=ruses)


PROFILES = {
    "chain": ChainTuning(),
    "chain-quiet": ChainTuning(_QUIET, faults="none", deaf=False),
    "chain-losses": ChainTuning(_QUIET, depth=12, faults="losses", deaf=False),
    "chain-liars": ChainTuning(_liars(()), faults="none", lies=("gives-itself-money",), deaf=False),
    "chain-equivocators": ChainTuning(_liars(("two-tongues",)), faults="none", lies=(), deaf=False),
    "chain-deaf": ChainTuning(_QUIET, faults="none", deaf=True),
}
"""The scenario's variants by name; all but the first serve mutations, and are green without."""
