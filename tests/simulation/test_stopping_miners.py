"""A miner that stops at every token in turn, in every way: the answer goes on from the next one with another miner."""

from dataclasses import replace

import pytest
import trio
import trio.testing

from p2pnode.client import LightClient, connect
from p2pnode.engine.fake import FakeConfig
from tests.simulation.fast_path import World, prepare

ANSWER_TOKENS = 12
ENGINE = FakeConfig(slots=8, first_token_s=0.05, token_s=0.02, answer_tokens=ANSWER_TOKENS)
TIMEOUT_MS = 120_000


class Stopping(World):
    """Two miners, of whom one stops at a token; the other is sound."""

    def __init__(self, seed: int, at: int, how: str) -> None:
        super().__init__(seed, faulty=False)
        self.at, self.how = at, how

    async def play(self) -> None:
        async with trio.open_nursery() as nodes:
            await nodes.start(self.run_router)
            stop = {"stalls": "stall_at", "fails": "fail_at"}.get(self.how)
            self.engine = replace(ENGINE, **{stop: self.at}) if stop is not None else ENGINE
            await nodes.start(self.run_miner)
            self.engine = ENGINE
            await nodes.start(self.run_miner)
            await trio.sleep(3)
            key = self.key()
            assert self.address is not None
            async with self.network.open(key) as transport, connect(self.address, key=key, transport=transport) as net:
                while not await self.stopped(net):
                    pass  # the other was chosen
            nodes.cancel_scope.cancel()

    async def stopped(self, net: LightClient) -> bool:
        """One session; whether its miner was the one that stops."""
        stopper, (_, sound) = self.miners[0], self.miners
        async with net.session("fake", timeout_ms=TIMEOUT_MS) as session:
            if session.miner != stopper.key.node_id:
                return False
            async with session.ask("question", max_tokens=ANSWER_TOKENS, timeout_ms=TIMEOUT_MS) as answer:
                if self.how == "is killed" and self.at == 0:
                    stopper.scope.cancel()
                async for _ in answer:
                    if self.how == "is killed" and len(answer.token_ids) == self.at:
                        stopper.scope.cancel()
            self.ledger.check(answer, session.id, 1)
            assert answer.finish is not None and len(answer.token_ids) == ANSWER_TOKENS
            last, taken_over = answer.heads[-1], answer.heads[-1].miner == sound.key.node_id
            if self.how == "is killed":  # what it had sent before still comes
                assert taken_over or self.at > ANSWER_TOKENS // 3
                assert not taken_over or last.start_index >= self.at
            else:
                assert taken_over == (self.at < ANSWER_TOKENS)
                assert not taken_over or last.start_index == self.at
            return True


@pytest.mark.spec("FAILOVER-NEXT.1", "CHAIN-TAKEOVER.1")
@pytest.mark.parametrize("how", ["stalls", "fails", "is killed"])
@pytest.mark.parametrize("at", range(ANSWER_TOKENS + 1))
def test_an_answer_is_whole_at_whichever_token_its_miner_stops(
    at: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Stopping(5, at, how)
    prepare(world, 5, monkeypatch)
    trio.run(world.play, clock=trio.testing.MockClock(autojump_threshold=0))
