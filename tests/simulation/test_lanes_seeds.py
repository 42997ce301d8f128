"""Random worlds in which sessions have some lanes and late orders are started twice, while miners are lost, freeze
or are slow: lane 0 is whole, other lanes sign what is theirs, and second starts stay within their share."""

import random
from collections import Counter

import pytest
import trio
import trio.testing

from p2pnode.client import LightClient, RequestFailed, Session, connect
from p2pnode.engine.fake import FakeConfig
from protocol.core.machine import Machine, Send
from protocol.messages.tasks import Delivery, StartTask
from protocol.roles.router.hedging import CREDIT_BP_MAX, ORDER_BP
from tests.simulation.fast_path import GENESIS, Ledger, World, prepare

SEEDS = range(36)
LONG_SEEDS = range(4_000, 4_400)
LANES_MAX = 3
SLOTS = 12
TIMEOUT_MS = 120_000
SHARE_BP = 500


class Starts:
    """A router's machine, with what it hands to miners counted."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.protocols, self.topics = machine.protocols, machine.topics
        self.next_deadline = machine.next_deadline
        self.orders = 0
        self.withheld = 0
        self.second: list[int] = []
        """Orders that were handed over before each second start."""
        self.numbers: dict[bytes, set[int]] = {}
        self.won = 0

    def handle(self, event: object, now_ms: int) -> list[object]:
        before = {session.id: session.hedge for session in self.machine._sessions.values()}  # type: ignore[attr-defined]
        effects = self.machine.handle(event, now_ms)
        sessions = self.machine._sessions  # type: ignore[attr-defined]
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, StartTask):
                self.count(effect, effect.message, sessions[effect.message.order.session])
        for name, hedge in before.items():
            session = sessions.get(name)
            if hedge is not None and session is not None and session.hedge is None and session.lease is hedge.lease:
                self.won += 1
        return effects

    def count(self, effect: Send, start: StartTask, session: object) -> None:
        """An order is handed over."""
        hedge = session.hedge  # type: ignore[attr-defined]
        if start.lane > 0:
            assert start.delivery is Delivery.WITHHELD
            assert start.resume is None
            self.withheld += 1
        elif hedge is not None and hedge.lease.channel == effect.channel:
            assert start.resume is None, "only before the first token"
            self.second.append(self.orders)
        else:
            self.orders += 1

    def check(self) -> None:
        """At most a share of all orders, and five more in a row. Spec: [HEDGE-BUDGET.1]"""
        for first in range(len(self.second)):
            for last in range(first, len(self.second)):
                orders = self.second[last] - self.second[first]
                assert (last - first + 1) * ORDER_BP <= CREDIT_BP_MAX + orders * SHARE_BP


class Lanes(World):
    """A world whose first miner is sound and whose next two are never killed; the others may freeze, fail or die."""

    def __init__(self, seed: int, *, faulty: bool = True) -> None:
        super().__init__(seed, faulty=faulty)
        self.starts: Starts | None = None
        self.wrap_router = self.watch
        self.orders: Counter[str] = Counter()
        self.due = 0
        """Ends of other lanes that there would be if nothing were ever lost or cancelled."""

    def watch(self, machine: Machine) -> Machine:
        self.starts = Starts(machine)
        return self.starts

    def config(self, number: int) -> FakeConfig:
        """An engine: sound, slow, or one that stops or fails at some token."""
        rng, sound = self.rng, number == 0 or not self.faulty
        return FakeConfig(
            slots=SLOTS,
            first_token_s=rng.uniform(1.5, 4.5) if not sound and rng.random() < 0.4 else rng.uniform(0, 0.2),
            token_s=rng.uniform(0.005, 0.1),
            stall_at=rng.choice((0, rng.randint(0, 30))) if not sound and rng.random() < 0.3 else None,
            fail_at=rng.randint(0, 30) if not sound and rng.random() < 0.15 else None,
        )

    async def run_client(self) -> None:
        rng, key = random.Random(self.rng.random()), self.key()
        assert self.address is not None
        async with self.network.open(key) as transport, connect(self.address, key=key, transport=transport) as net:
            for _ in range(rng.randint(1, 3)):
                await self.use_session(net, rng)

    async def use_session(self, net: LightClient, rng: random.Random) -> None:
        lanes = rng.randint(1, LANES_MAX)
        async with net.session("fake", timeout_ms=TIMEOUT_MS, lanes=lanes) as session:
            for number in range(1, rng.randint(1, 5) + 1):
                await self.use_answer(session, number, rng)
                # Now and then so long that the leases run out.
                await trio.sleep(rng.choice((0.0, rng.uniform(0, 5), rng.uniform(10, 40))))
                self.due += lanes - 1
            if not self.faulty:
                await trio.sleep(20)
            self.ledger.check_lanes(session, GENESIS.domain())

    async def use_answer(self, session: Session, number: int, rng: random.Random) -> None:
        tokens, stop_at = rng.randint(1, 80), rng.randint(0, 40) if self.faulty and rng.random() < 0.15 else None
        async with session.ask(f"question {number}", max_tokens=tokens, timeout_ms=TIMEOUT_MS) as answer:
            try:
                async for _ in answer:
                    if stop_at is not None and len(answer.token_ids) > stop_at:
                        answer.cancel()
                assert answer.finish is not None
                end = str(answer.finish.reason)
            except RequestFailed as failed:
                end = failed.code  # its miner was lost before it could sign an end
        self.ledger.check(answer, session.id, number)
        assert stop_at is not None or end != "cancelled"
        self.ledger.ends.append(end)

    async def strike(self) -> None:
        rng = random.Random(self.rng.random())
        assert self.router is not None
        router = self.router.key.node_id
        while True:
            await trio.sleep(rng.expovariate(1 / 1.5))
            number = rng.randrange(1, len(self.miners))
            node, what = self.miners[number].key.node_id, rng.choice(("drop", "cut", "slow", "kill"))
            self.ledger.faults += 1
            if what == "drop":
                self.network.drop(router, node)
            elif what == "slow":
                self.network.link(router, node).latency_s = rng.uniform(0.001, 0.08)
            elif what == "cut":
                self.network.cut(router, node)
                await trio.sleep(rng.uniform(0.1, 8))
                self.network.heal(router, node)
            elif number >= LANES_MAX:
                self.miners.pop(number).scope.cancel()

    async def run(self) -> Ledger:
        async with trio.open_nursery() as nodes:
            await nodes.start(self.run_router)
            for number in range(self.rng.randint(LANES_MAX, 7)):
                self.engine = self.config(number)
                await nodes.start(self.run_miner)
            await self.run_clients(4, patience_s=1_800)
            nodes.cancel_scope.cancel()
        return self.ledger


def play(seed: int, monkeypatch: pytest.MonkeyPatch, *, faulty: bool = True) -> Lanes:
    world = Lanes(seed, faulty=faulty)
    prepare(world, seed, monkeypatch)
    trio.run(world.run, clock=trio.testing.MockClock(autojump_threshold=0))
    assert world.starts is not None
    world.starts.check()
    assert not set(world.ledger.ends) - {"stop", "length", "cancelled"}
    return world


@pytest.mark.spec("LANES-FILL.1", "LANE-WITHHELD.1", "FAILOVER-NEXT.1", "HEDGE-START.1", "HEDGE-BUDGET.1")
@pytest.mark.parametrize("seed", SEEDS)
def test_lane_0_is_whole_and_every_lane_its_own_while_one_miner_lives(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(seed, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("seed", LONG_SEEDS)
def test_lanes_in_many_more_worlds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play(seed, monkeypatch)


@pytest.mark.spec("LANE-WITHHELD.1", "LEASE-RENEWAL.1")
@pytest.mark.parametrize("seed", range(4))
def test_without_faults_every_lane_of_every_order_ends(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = play(seed, monkeypatch, faulty=False)
    assert world.ledger.lanes_ended == world.due


def test_in_these_worlds_lanes_end_and_second_starts_win_and_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = [play(seed, monkeypatch) for seed in range(4, 16)]
    starts = [world.starts for world in worlds if world.starts is not None]
    second, won = sum(len(start.second) for start in starts), sum(start.won for start in starts)
    assert sum(world.ledger.lanes_ended for world in worlds) > 20
    assert second > won > 0
