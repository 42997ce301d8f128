"""Random worlds in which all miners but one may be lost at any time: every answer is whole."""

import random
from collections import Counter

import pytest
import trio
import trio.testing

from p2pnode.client import LightClient, Session, connect
from p2pnode.engine.fake import FakeConfig
from tests.simulation.fast_path import Ledger, World, prepare

SEEDS = range(12)
LONG_SEEDS = range(2_000, 2_200)
SLOTS = 8
"""Of every miner: room for all clients, so that nobody is refused for want of a slot."""
TIMEOUT_MS = 120_000


class Failing(World):
    """A world whose first miner is sound; whatever else there is fails, stalls, is killed, dropped or cut off."""

    tokens_max = 80

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.segments: list[int] = []

    def config(self, *, sound: bool) -> FakeConfig:
        """An engine; unless it is sound it may stop at some token, or fail there."""
        rng = self.rng
        return FakeConfig(
            slots=SLOTS,
            first_token_s=rng.uniform(0, 0.2),
            token_s=rng.uniform(0.005, 0.1),
            stall_at=rng.randint(0, 30) if not sound and rng.random() < 0.25 else None,
            fail_at=rng.randint(0, 30) if not sound and rng.random() < 0.25 else None,
        )

    async def use_session(self, net: LightClient, rng: random.Random) -> None:
        async with net.session("fake", timeout_ms=TIMEOUT_MS) as session:
            for number in range(1, rng.randint(1, 4) + 1):
                await self.use_answer(session, number, rng)
                await trio.sleep(rng.choice((0.0, rng.uniform(0, 5))))
            self.check_record(session)

    async def use_answer(self, session: Session, number: int, rng: random.Random) -> None:
        tokens = rng.randint(1, self.tokens_max)
        async with session.ask(f"question {number}", max_tokens=tokens, timeout_ms=TIMEOUT_MS) as answer:
            await answer.read()
        self.ledger.check(answer, session.id, number)
        assert answer.finish is not None
        self.ledger.ends.append(answer.finish.reason)
        self.segments.append(len(answer.heads))

    async def run_client(self) -> None:
        rng, key = random.Random(self.rng.random()), self.key()
        assert self.address is not None
        async with self.network.open(key) as transport, connect(self.address, key=key, transport=transport) as net:
            for _ in range(rng.randint(1, 3)):
                await self.use_session(net, rng)

    async def strike(self) -> None:
        rng = random.Random(self.rng.random())
        assert self.router is not None
        router = self.router.key.node_id
        while True:
            await trio.sleep(rng.expovariate(1 / 1.5))
            if len(self.miners) < 2:
                continue
            number = rng.randrange(1, len(self.miners))
            node, what = self.miners[number].key.node_id, rng.choice(("drop", "cut", "kill"))
            self.ledger.faults += 1
            if what == "drop":
                self.network.drop(router, node)
            elif what == "kill":
                self.miners.pop(number).scope.cancel()
            else:
                self.network.cut(router, node)
                await trio.sleep(rng.uniform(0.1, 8))
                self.network.heal(router, node)

    async def run(self) -> Ledger:
        async with trio.open_nursery() as nodes:
            await nodes.start(self.run_router)
            for number in range(self.rng.randint(2, 6)):
                self.engine = self.config(sound=number == 0)
                await nodes.start(self.run_miner)
            await self.run_clients(4, patience_s=900)
            nodes.cancel_scope.cancel()
        return self.ledger


def play(seed: int, monkeypatch: pytest.MonkeyPatch) -> Failing:
    world = Failing(seed)
    prepare(world, seed, monkeypatch)
    trio.run(world.run, clock=trio.testing.MockClock(autojump_threshold=0))
    assert not set(world.ledger.ends) - {"stop", "length"}
    return world


@pytest.mark.spec("FAILOVER-NEXT.1", "CHAIN-TAKEOVER.1", "TASK-TERMINAL.1")
@pytest.mark.parametrize("seed", SEEDS)
def test_every_answer_is_whole_while_one_miner_lives(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play(seed, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("seed", LONG_SEEDS)
def test_every_answer_is_whole_in_many_more_worlds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play(seed, monkeypatch)


def test_these_worlds_do_fail_over(monkeypatch: pytest.MonkeyPatch) -> None:
    segments = Counter(count for seed in range(4) for count in play(seed, monkeypatch).segments)
    assert sum(number for count, number in segments.items() if count > 1) >= 3, segments
