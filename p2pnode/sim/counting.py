"""The counting mode: networks of 10 to 10,000 nodes with no faults, to see what grows with their size.

Routers, miners, clients and oracles run production's machines on the world's heap; every miner hears every
announcement and draws its lottery. Two things are not as in a node, so that ten thousand fit in one process: gossip is
carried by the model of ``counting_mesh``, and miners share one book of adverts that stands still (a miner reads none).
Only routers keep books of their own, and fill them from adverts on gossip, as everywhere. All miners are in the node
pool from the start, and no test falls due meanwhile.

A network warms up for one advert interval, in which each node comes up at a time of its own and is advertised once.
Then a session is opened every ``EVERY_MS``, by a client of its own, with one order in it. What the network carried
meanwhile is counted, by topic and by protocol.
"""

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from p2pnode.sim.counting_client import Errand, ErrandProgram
from p2pnode.sim.counting_mesh import GossipCounts, Mesh
from p2pnode.sim.counting_nodes import CountingMiner, CountingOracle, CountingRouter, StandingLedger, standing_book
from p2pnode.sim.counting_tally import CountingKeys, StreamCounts, Tally, percentile
from p2pnode.sim.crypto import Key, KeyedHashes
from p2pnode.sim.fast_path import MANIFEST, MODEL
from p2pnode.sim.host import Host, Program
from p2pnode.sim.links import Profile
from p2pnode.sim.toy_engine import Pace
from p2pnode.sim.world import World
from protocol.core import signing
from protocol.core.genesis import Genesis
from protocol.core.params import Params
from protocol.messages.adverts import Advert, ModelOffer, Role
from protocol.roles.miner import MinerMachine
from protocol.roles.oracle import OracleMachine
from protocol.roles.router import RouterMachine

ROLES: tuple[Role, ...] = ("oracle", "router", "miner")
PARAMS = Params()
NODES_MIN = 10
ORACLES = 4
NODES_PER_ROUTER = 500
EVERY_MS = 250
SETTLE_MS = 10_000
"""After the last node came up, before the first session is opened."""
PATIENCE_MS = 60_000
"""After the last session was opened: whatever is not over then is counted as it stands."""
EVENTS_MAX = 1 << 40
TOKENS = 48
PRICE_WEI = 10
CAP_WEI = 2 * PRICE_WEI * TOKENS
LINKS = Profile(distance_us=(5_000, 50_000), late_bp=0)
PACE = Pace(slots=4, first_token_us=50_000, token_us=10_000)


@dataclass(frozen=True, slots=True)
class Shape:
    """How many nodes of each role a network of a size has; clients come on top."""

    routers: int
    miners: int
    oracles: int

    @classmethod
    def of(cls, nodes: int) -> "Shape":
        """A router for every 500 nodes, four oracles, all others miners."""
        routers = 1 + nodes // NODES_PER_ROUTER
        return cls(routers, nodes - routers - ORACLES, ORACLES)


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted of one network."""

    nodes: int
    shape: Shape
    sessions: int
    ends: Mapping[str, int]
    """Of tasks and sessions, by code."""
    bids: tuple[int, ...]
    """Of each session that was announced."""
    gossip: Mapping[str, GossipCounts]
    """By topic, while sessions were opened."""
    adverts: GossipCounts
    """Of the warm-up."""
    warm_s: float
    """How long that was."""
    streams: Mapping[str, StreamCounts]
    """By protocol, while sessions were opened."""
    connections: Mapping[str, int]
    """Held at the end by the node of each role that holds most: nobody closes one that is idle."""
    signed: int
    checked: int
    waits_us: Mapping[str, tuple[int, ...]]
    measured_ms: int
    """For how long it was counted, in simulated time."""
    events: int
    hash: str

    def wait_ms(self, what: str, percent: int) -> float | None:
        """A percentile of what clients waited for."""
        wait_us = percentile(list(self.waits_us.get(what, ())), percent)
        return None if wait_us is None else wait_us / 1_000


class Network:
    """A world of so many nodes, ready to run."""

    def __init__(self, nodes: int, sessions: int, seed: int) -> None:
        assert nodes >= NODES_MIN
        self.shape = Shape.of(nodes)
        self.sessions = sessions
        self.keys = CountingKeys(KeyedHashes(seed))
        self.tally = Tally()
        self._rng = Random(f"counting/{seed}/{nodes}")
        self._of = {
            role: {f"{role}-{number}": self.keys.key(f"{role}-{number}") for number in range(1, count + 1)}
            for role, count in (
                ("oracle", self.shape.oracles),
                ("router", self.shape.routers),
                ("miner", self.shape.miners),
                ("client", sessions),
            )
        }
        self._genesis = Genesis(
            f"counting {seed}",
            params=PARAMS,
            committee=tuple(key.node_id for key in self._of["oracle"].values()),
            allocation=tuple(sorted((key.node_id, 10 * CAP_WEI) for key in self._of["client"].values())),
        )
        self.world = World(seed, self._genesis, LINKS, self.keys, lines_max=0)
        self.world.events_max = EVENTS_MAX
        self.warm_ms = self._genesis.params.advert_interval_ms
        self.mesh = self.world.network.spreading = self._nodes()
        self._clients()
        self.world.watched_by((self.tally,))

    def _nodes(self) -> Mesh:
        """Makes all but the clients; returns what their gossip goes over."""
        offer = ModelOffer(MANIFEST, PACE.slots, PACE.context_tokens, PRICE_WEI)
        adverts = [
            (key, Advert(key.node_id, 1, (role,), (f"/memory/{name}",), (offer,) if role == "miner" else (), ""))
            for role in ROLES
            for name, key in self._of[role].items()
        ]
        book = standing_book(self._genesis, adverts)
        ledger = StandingLedger(self._genesis, [key.node_id for key in self._of["miner"].values()])
        oracles, routers, miners = [], [], []
        for name, key in self._of["oracle"].items():
            program = CountingOracle(key, self._genesis, ledger, f"/memory/{name}", book)
            program.host = self._host(name, key, program)
            oracles.append(program.host)
        for name, key in self._of["router"].items():
            routers.append(self._host(name, key, CountingRouter(key, self._genesis, "router", f"/memory/{name}")))
        for name, key in self._of["miner"].items():
            miner = CountingMiner(key, self._genesis, "miner", f"/memory/{name}", PACE, PRICE_WEI, book)
            miners.append(self._host(name, key, miner))
        for host in oracles + routers:
            self.world.at(0, host.start)
        for host in miners:
            self.world.at(self._rng.randrange(self.warm_ms * 1_000), host.start)
        roles = ((oracles, OracleMachine), (routers, RouterMachine), (miners, MinerMachine))
        followers: dict[str, list[Host]] = {"nodes": oracles + routers + miners}
        for hosts, machine in roles:
            for topic in machine.topics:
                followers.setdefault(topic, []).extend(hosts)
        return Mesh(self.world, followers, {"nodes": routers})

    def _host(self, name: str, key: Key, program: Program, *, dialable: bool = True) -> Host:
        return Host(self.world, name, key, program, dialable=dialable)

    def _clients(self) -> None:
        routers = [key.node_id for key in self._of["router"].values()]
        for number, (name, key) in enumerate(self._of["client"].items()):
            errand = Errand(
                self._rng.choice(routers), MODEL, tokens=TOKENS, price_cap_wei=2 * PRICE_WEI, cap_wei=CAP_WEI
            )
            host = self._host(name, key, ErrandProgram(key, self._genesis, errand), dialable=False)
            self.world.at((self.warm_ms + SETTLE_MS + number * EVERY_MS) * 1_000, host.start)

    def warm_up(self) -> None:
        """Let every node come up."""
        self.world.run_until((self.warm_ms + SETTLE_MS) * 1_000)

    def serve(self) -> None:
        """Let all sessions happen."""
        last_us = (self.warm_ms + SETTLE_MS + self.sessions * EVERY_MS + PATIENCE_MS) * 1_000
        while self.world.now_us < last_us and not self._over():
            self.world.run_until(self.world.now_us + 1_000_000)

    def connections(self) -> dict[str, int]:
        """Connections of the node of each role that holds most."""
        hosts = self.world.hosts
        return {role: max((len(hosts[name].peers) for name in keys), default=0) for role, keys in self._of.items()}

    def _over(self) -> bool:
        return sum(many for how, many in self.tally.ends.items() if how.startswith("session")) >= self.sessions


def count(nodes: int, sessions: int, seed: int = 1) -> Counted:
    """Run a network of ``nodes`` for so many sessions."""
    collecting = gc.isenabled()
    gc.disable()  # as in runner: there is little to be collected before the world as a whole is
    network = Network(nodes, sessions, seed)
    try:
        with signing.scheme(network.keys):
            return _counted(network, nodes, sessions)
    finally:
        if collecting:
            gc.enable()


def _counted(network: Network, nodes: int, sessions: int) -> Counted:
    world, tally, mesh, keys = network.world, network.tally, network.mesh, network.keys
    network.warm_up()
    adverts, started_us = mesh.counts("nodes"), world.now_us
    gossip = {topic: mesh.counts(topic) for topic in mesh.meshes}
    streams = tally.streams_now()
    signed, checked = keys.signed, keys.checked + mesh.checks
    network.serve()
    nothing = StreamCounts()
    return Counted(
        nodes=nodes,
        shape=network.shape,
        sessions=sessions,
        ends=dict(sorted(tally.ends.items())),
        bids=tuple(tally.bids.values()),
        gossip={topic: mesh.counts(topic).since(before) for topic, before in gossip.items()},
        adverts=adverts,
        warm_s=started_us / 1_000_000,
        streams={
            name: counts.since(streams.get(name, nothing)) for name, counts in sorted(tally.streams_now().items())
        },
        connections=network.connections(),
        signed=keys.signed - signed,
        checked=keys.checked + mesh.checks - checked,
        waits_us={what: tuple(waits) for what, waits in tally.waits_us.items()},
        measured_ms=(world.now_us - started_us) // 1_000,
        events=world.events,
        hash=world.trace.digest(),
    )
