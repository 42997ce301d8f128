"""Random worlds in which every router but one may be lost, frozen or cut off, and clients come and go: each answer is
the one that nobody disturbed."""

import random
from collections import Counter
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

from p2pnode.address import RouterAddress
from p2pnode.client import LightClient, RequestFailed, Session, connect
from p2pnode.engine.fake import FakeConfig
from p2pnode.identity import NodeKey
from p2pnode.transport.seam import Transport, TransportError
from protocol.core.machine import Machine
from tests.simulation.fast_path import Ledger, Running, World, prepare

SEEDS = range(24)
LONG_SEEDS = range(3_000, 3_300)
SLOTS = 16
"""Of every miner: room for all clients."""
TIMEOUT_MS = 120_000
CUT_S_MAX = 5.0
CALM_S = 4.0
"""After each fault: a client that was cut off from the last router alive finds it in time."""


class Freezing:
    """A router's machine that can stand still, and later hears of all that it missed."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.protocols, self.topics = machine.protocols, machine.topics
        self.missed: list[object] | None = None

    def next_deadline(self) -> int | None:
        return self.machine.next_deadline() if self.missed is None else None

    def handle(self, event: object, now_ms: int) -> list[object]:
        if self.missed is not None:
            self.missed.append(event)
            return []
        return self.machine.handle(event, now_ms)


class Routed(World):
    """A world of two or three routers, the last of which is sound, and miners of which the first is."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.addresses: list[RouterAddress] = []
        self.freezers: dict[bytes, Freezing] = {}
        self.latest: Freezing | None = None
        self.wrap_router = self.freezable
        self.clients: list[NodeKey] = []
        self.moved: Counter[str] = Counter()
        self.nursery: trio.Nursery | None = None

    def freezable(self, machine: Machine) -> Machine:
        self.latest = Freezing(machine)
        return self.latest

    async def start_router(self, *was: object) -> None:
        assert self.nursery is not None
        await self.nursery.start(self.run_router, *was)
        assert self.router is not None
        assert self.latest is not None
        self.freezers[self.router.key.node_id] = self.latest

    # Clients

    async def run_client(self) -> None:
        rng, key = random.Random(self.rng.random()), self.key()
        first = rng.randrange(len(self.addresses))
        addresses = self.addresses[first:] + self.addresses[:first]
        async with self.network.open(key) as transport:
            self.clients.append(key)
            for _ in range(rng.randint(1, 3)):
                done = False
                while not done:
                    done = await self.visit(addresses, key, transport, rng)
            self.clients.remove(key)

    async def visit(
        self, addresses: list[RouterAddress], key: NodeKey, transport: Transport, rng: random.Random
    ) -> bool:
        """Connect and use a session; False if there was nobody to connect to, which is no wish yet."""
        async with AsyncExitStack() as stack:
            try:
                greeting = connect(*addresses, key=key, transport=transport, timeout_ms=2_000)
                net = await stack.enter_async_context(greeting)
            except (TransportError, RequestFailed):
                await trio.sleep(1)
                return False
            if not net.models:
                await trio.sleep(1)  # it has only just come back
                return False
            await self.use_session(net, rng)
        return True

    async def use_session(self, net: LightClient, rng: random.Random) -> None:
        async with net.session("fake", timeout_ms=TIMEOUT_MS) as session:
            served = session.router
            for number in range(1, rng.randint(1, 5) + 1):
                await self.use_answer(session, number, rng)
                await trio.sleep(rng.choice((0.0, rng.uniform(0, 5))))
            session.look()
            self.moved["elsewhere" if session.router != served else "stayed"] += 1

    async def use_answer(self, session: Session, number: int, rng: random.Random) -> None:
        tokens = rng.randint(1, 120)
        async with session.ask(f"question {number}", max_tokens=tokens, timeout_ms=TIMEOUT_MS) as answer:
            await answer.read()
        self.ledger.check(answer, session.id, number)
        assert answer.finish is not None
        self.ledger.ends.append(answer.finish.reason)
        self.moved["segments"] += len(answer.heads) - 1

    # Faults

    async def strike(self) -> None:
        rng = random.Random(self.rng.random())
        while True:
            await trio.sleep(CALM_S + rng.expovariate(1 / 2))
            self.ledger.faults += 1
            what = rng.choice(("kill", "restart", "freeze", "freeze", "drop", "drop", "cut", "cut", "miner"))
            if what in ("drop", "cut"):
                await self.disturb_client(rng, what)
            elif what == "miner" and len(self.miners) > 1:
                self.miners.pop(rng.randrange(1, len(self.miners))).scope.cancel()
            elif len(self.routers) > 1 and what != "miner":
                # The last one to be started first is sound.
                sound = self.addresses[-1]
                others = [r for r in self.routers if r.transport.addresses[0] != sound.multiaddr]
                await self.disturb_router(rng.choice(others), what, rng)

    async def disturb_client(self, rng: random.Random, what: str) -> None:
        """A client loses its connection to a router, or the cable between them."""
        if not self.clients:
            return
        client, router = rng.choice(self.clients).node_id, rng.choice(self.routers).key.node_id
        if what == "drop":
            self.network.drop(client, router)
            return
        self.network.cut(client, router)
        await trio.sleep(rng.uniform(0.1, CUT_S_MAX))
        self.network.heal(client, router)

    async def disturb_router(self, router: Running, what: str, rng: random.Random) -> None:
        """A router is killed, for good or to come back; or it stands still, and nobody hears of it."""
        if what in ("kill", "restart"):
            self.routers.remove(router)
            port, numbers = int(router.transport.addresses[0].split("/")[2]), dict(router.machine._leasing.numbers)
            router.scope.cancel()
            if what == "restart":
                await trio.sleep(rng.uniform(0.5, 10))
                await self.start_router(router.key, port, numbers)
            return
        freezer = self.freezers[router.key.node_id]
        others = [node for node in self.network.nodes if node != router.key.node_id]
        freezer.missed = []
        for node in others:
            self.network.cut(router.key.node_id, node)
        try:
            await trio.sleep(rng.uniform(0.5, 25))
        finally:
            missed, freezer.missed = freezer.missed, None
            for event in missed:
                router.driver.dispatch(event)
            for node in others:
                self.network.heal(router.key.node_id, node)

    # A run

    async def run(self) -> Ledger:
        async with trio.open_nursery() as nodes:
            self.nursery = nodes
            for _ in range(self.rng.randint(2, 3)):
                await self.start_router()
                assert self.address is not None
                self.addresses.append(self.address)
            for _ in range(self.rng.randint(2, 4)):
                self.engine = FakeConfig(
                    slots=SLOTS, first_token_s=self.rng.uniform(0, 0.2), token_s=self.rng.uniform(0.005, 0.15)
                )
                await nodes.start(self.run_miner)
            await self.run_clients(4, patience_s=1_800)
            nodes.cancel_scope.cancel()
        return self.ledger


def play(seed: int, monkeypatch: pytest.MonkeyPatch) -> Routed:
    world = Routed(seed)
    prepare(world, seed, monkeypatch)
    trio.run(world.run, clock=trio.testing.MockClock(autojump_threshold=0))
    assert not set(world.ledger.ends) - {"stop", "length"}
    return world


@pytest.mark.spec("ROUTER-TERM.1", "RESUME-REPLAY.1", "CHAIN-TAKEOVER.1", "TASK-TERMINAL.1")
@pytest.mark.parametrize("seed", SEEDS)
def test_every_answer_is_whole_while_one_router_lives(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play(seed, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("seed", LONG_SEEDS)
def test_every_answer_is_whole_in_many_more_worlds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play(seed, monkeypatch)


def test_in_these_worlds_sessions_move_and_answers_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = sum((play(seed, monkeypatch).moved for seed in range(6)), Counter())
    assert moved["elsewhere"] >= 3, moved
    assert moved["segments"] >= 3, moved
