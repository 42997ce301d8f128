"""The scenario ``fast-path``: routers, miners and clients, sessions and failover, with no committee.

Everything runs production's machines. At the end, when faults are over, a client of its own opens a session, and the
miner that streams to it is killed: whatever happened before, the answer goes on in time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from p2pnode.records import stored_bids, stored_numbers
from p2pnode.sim.client_script import ClientProgram, Habits, Visit, Wish
from p2pnode.sim.crypto import Key
from p2pnode.sim.endings import EndsOnce
from p2pnode.sim.fast_path_tables import fast_path_tables
from p2pnode.sim.faults import Crash, Fault, Stop
from p2pnode.sim.host import Boot, Dispatch, Host, Part, Perform, Program
from p2pnode.sim.links import Profile
from p2pnode.sim.relaying import NobodyIsBlamed
from p2pnode.sim.scenario import Scenario, Setup
from p2pnode.sim.shown_text import ShownIsSigned
from p2pnode.sim.swarm import ALL_KINDS, Menu, draw_faults
from p2pnode.sim.takeover import TakesOver, takeover_bound_ms
from p2pnode.sim.toy_engine import Pace, ToyEngine
from p2pnode.sim.world import World
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.messages.adverts import ModelManifest, ModelOffer, Role
from protocol.roles.client import Item, TaskHead, TaskText
from protocol.roles.miner import MinerMachine, MinerSettings
from protocol.roles.miner.bidding import BID_RECORDS
from protocol.roles.peer import PeerMachine, PeerSettings
from protocol.roles.router import ASSIGNMENT_RECORDS, RouterMachine, RouterSettings
from protocol.session.adverts import AdvertBook

MANIFEST = ModelManifest("toy", bytes(32), 1, "toy", "none", 4_096)
MODEL = MANIFEST.digest()

FAULTS_FROM_MS = 5_000
HEAL_MS = 32_000
QUIET_MS = 14_000
"""After the heal, before the last client comes: connections that died unheard are noticed within it."""
END_MS = 110_000


@dataclass(frozen=True, slots=True)
class NodeProgram:
    """What a node says of itself, and its key."""

    key: Key
    genesis: Genesis
    role: Role
    address: str

    def peer(self, book: AdvertBook, offers: tuple[ModelOffer, ...] = ()) -> Part:
        """The machine that every router and miner runs beside its own."""
        settings = PeerSettings(self.key.node_id, (self.role,), (self.address,), offers, "")
        return Part(PeerMachine(settings, self.genesis.domain(), self.genesis.params, self.key.sign, book))

    def book(self, boot: Boot) -> AdvertBook:
        """An empty one."""
        return AdvertBook(self.genesis.params, boot.random.randbytes(16))


@dataclass(frozen=True, slots=True)
class RouterProgram(NodeProgram):
    """A router."""

    rounds_max: int = 4

    def start(self, boot: Boot) -> Sequence[Part]:
        """See Program."""
        records = {name: value for name, value in boot.records.items() if name.startswith(ASSIGNMENT_RECORDS)}
        numbers, _ = stored_numbers(records, boot.now_ms)
        settings = RouterSettings(
            self.key.node_id, (self.address,), self.genesis.to_json(), numbers, rounds_max=self.rounds_max
        )
        domain, params, book = self.genesis.domain(), self.genesis.params, self.book(boot)
        return [Part(RouterMachine(settings, domain, params, self.key.sign, book)), self.peer(book)]


@dataclass(frozen=True, slots=True)
class MinerProgram(NodeProgram):
    """A miner with its toy engine."""

    pace: Pace = field(default_factory=lambda: Pace(1, 0, 0))
    price_wei: int = 0

    def start(self, boot: Boot) -> Sequence[Part]:
        """See Program."""
        kept, _ = stored_bids({name: at for name, at in boot.records.items() if name.startswith(BID_RECORDS)})
        offer = ModelOffer(MANIFEST, self.pace.slots, self.pace.context_tokens, self.price_wei)
        settings = MinerSettings(self.key.node_id, {MODEL: offer}, boot.random.randbytes(16), kept)
        machine = MinerMachine(settings, self.genesis.domain(), self.genesis.params, self.key.sign)

        def performers(dispatch: Dispatch) -> Mapping[type, Perform]:
            return ToyEngine(self.pace, boot, dispatch).performers()

        return [Part(machine, performers), self.peer(self.book(boot), (offer,))]


def draw_params(rng: Random) -> Params:
    """Parameters small enough that a world runs into them."""
    ack_every = rng.choice((4, 16, 64))
    return replace(
        Params(),
        bids_good=rng.randint(1, 4),
        bid_window_ms=rng.choice((200, 400)),
        first_frame_timeout_ms=5_000,
        frame_gap_timeout_ms=4_000,
        lease_idle_ms=rng.choice((3_000, 20_000)),
        sessions_per_miner_max=32,
        sessions_per_router_max=rng.randint(3, 24),
        sessions_per_client_max=rng.randint(1, 4),
        queue_requests_max=rng.randint(2, 16),
        tasks_pending_per_session_max=rng.randint(1, 4),
        ack_every_tokens=ack_every,
        unacked_tokens_max=2 * ack_every,
        frame_tokens_max=2 * ack_every,
        adverts_max=64,
    ).validate()


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many nodes of each kind a world has."""

    routers: int
    miners: int
    clients: int

    @classmethod
    def draw(cls, rng: Random) -> "Sizes":
        """From 4 to 30 nodes, mostly few."""
        routers = rng.choice((1, 2, 2, 2, 3))
        miners = 2 + int(14 * rng.random() ** 3)
        return cls(routers, miners, 1 + int(10 * rng.random() ** 2))


def build(setup: Setup) -> Scenario:
    """The world of a seed."""
    rng = Random(f"fast-path/{setup.seed}")
    params, sizes = draw_params(rng), Sizes.draw(rng)
    near = rng.choice((200, 1_000, 5_000))
    profile = Profile(distance_us=(near, near * rng.randint(2, 20)), late_bp=rng.choice((0, 50, 300)))
    genesis = Genesis(f"fast path {setup.seed}", params=params)
    world = World(setup.seed, genesis, profile, setup.keys, setup.lines_max)
    keys = {name: setup.keys.key(name) for name in _names(sizes)}
    routers = [name for name in keys if name.startswith("router")]
    miners = [name for name in keys if name.startswith("miner")]
    clients = [name for name in keys if name.startswith("client")]
    paces = {name: _pace(rng, sound=number < 2) for number, name in enumerate(miners)}
    habits = _habits(rng, tuple(keys[name].node_id for name in routers))
    for name, key in keys.items():
        skew_ms = rng.randint(-300, 300)
        program: Program
        if name in paces:
            address = f"/memory/{name}"
            program = MinerProgram(key, genesis, "miner", address, paces[name], rng.randint(0, 50))
        elif name in routers:
            program = RouterProgram(key, genesis, "router", f"/memory/{name}", rng.randint(1, 4))
        else:
            program = ClientProgram(key, genesis, habits)
        keeps = () if name in clients else tuple(keys[other].node_id for other in routers if other != name)
        host = Host(world, name, key, program, keeps=keeps, dialable=name not in clients, skew_ms=skew_ms)
        begins_ms = rng.randint(3_500, 6_000) if name in clients else rng.randint(0, 500)
        world.at(begins_ms * 1_000, host.start)
    slowest_ms = max(pace.first_token_us for pace in paces.values()) // 1_000
    takeover = TakesOver(takeover_bound_ms(params, profile.delay_us_max() // 1_000, slowest_ms))
    checkers = (ShownIsSigned(), EndsOnce(), NobodyIsBlamed(), takeover, fast_path_tables())
    world.watched_by(checkers)
    probe = _Probe(world, setup.keys.key("prober"), genesis, habits.routers, Random(f"probe/{setup.seed}"))
    world.at((HEAL_MS + QUIET_MS) * 1_000, probe.begin)
    menu = Menu(
        nodes=tuple(keys),
        crashing=tuple(keys),
        from_ms=FAULTS_FROM_MS,
        heal_ms=HEAL_MS,
        wiped_bp=500,
        kinds=ALL_KINDS,
        hubs=routers,
    )
    # Whoever is stopped in order spares others the harder ways: so in a third of the worlds only.
    stops = _stops(Random(f"stops/{setup.seed}"), (*routers, *miners)) if setup.seed % 3 == 1 else ()
    faults = (*draw_faults(Random(f"faults/{setup.seed}"), menu), *_deaths(rng, miners[2:]), *stops)
    return Scenario(world, faults, HEAL_MS, END_MS)


def _names(sizes: Sizes) -> list[str]:
    kinds = (("router", sizes.routers), ("miner", sizes.miners), ("client", sizes.clients))
    return [f"{kind}-{number}" for kind, size in kinds for number in range(1, size + 1)]


def _pace(rng: Random, *, sound: bool) -> Pace:
    troubled = not sound and rng.random() < 0.3
    return Pace(
        # Two are sound, with room for everybody: so whoever is waited for at the end is not waited for in vain.
        slots=24 if sound else rng.randint(1, 3),
        first_token_us=rng.choice((0, rng.randint(1_000, 300_000))),
        token_us=rng.choice((0, 10_000, 40_000, 100_000)),
        stall_at=rng.randint(0, 20) if troubled and rng.random() < 0.5 else None,
        fail_at=rng.randint(0, 20) if troubled and rng.random() < 0.5 else None,
        mended_ms=HEAL_MS,
    )


def _habits(rng: Random, routers: tuple[NodeId, ...]) -> Habits:
    return Habits(
        routers=routers,
        model=MODEL,
        visits_max=6,
        wishes_max=4,
        tokens_max=rng.choice((20, 60, 100)),
        lanes_max=rng.choice((1, 1, 2, 3)),
        stop_ms=HEAL_MS + 10_000,
    )


def _deaths(rng: Random, mortal: Sequence[str]) -> list[Fault]:
    """Some miners die for good."""
    dying = rng.sample(list(mortal), rng.randint(0, len(mortal)))
    return [Crash(rng.randint(FAULTS_FROM_MS, HEAL_MS - 1), name, None, rng.random() < 0.3) for name in dying]


def _stops(rng: Random, nodes: Sequence[str]) -> list[Fault]:
    """Some nodes are stopped in order, and come back; the last one is back at the heal time."""
    count = rng.randint(1, 4)
    longest_ms = HEAL_MS - FAULTS_FROM_MS
    return [
        Stop(rng.randint(FAULTS_FROM_MS, HEAL_MS - 1), node, rng.randint(0, longest_ms // 2), rng.randint(0, 3_000))
        for node in rng.sample(list(nodes), min(count, len(nodes)))
    ]


class _Probe:
    """The last client: the miner that streams to it is killed under way, and L6 says what has to follow."""

    def __init__(self, world: World, key: Key, genesis: Genesis, routers: tuple[NodeId, ...], rng: Random) -> None:
        self._world = world
        self._kill_at = rng.randint(1, 6)
        self._silent = rng.random() < 0.5
        self._miner = b""
        self._shown = 0
        wish = Wish(0, "a last question", 400, 60_000, None, False)
        visit = Visit(0, routers, 20_000, 3_600_000, 1, rng.random() < 0.3, (wish,), False)
        habits = Habits(routers, MODEL, 1, 1, 400, 1, END_MS)
        program = ClientProgram(key, genesis, habits, (visit,), self._heard)
        self._host = Host(world, "prober", key, program, dialable=False)

    def begin(self) -> None:
        """Come, now that all is quiet."""
        self._host.start()

    def _heard(self, item: Item) -> None:
        if isinstance(item, TaskHead):
            self._miner = item.head.miner
        elif isinstance(item, TaskText):
            before, self._shown = self._shown, self._shown + len(item.ids)
            if before < self._kill_at <= self._shown:
                self._world.after(0, self._kill)

    def _kill(self) -> None:
        world = self._world
        name = world.by_id[NodeId(self._miner)].name
        Crash(world.now_us // 1_000, name, None, self._silent).strike(world, world.now_us)
