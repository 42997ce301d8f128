"""Miners that lie in their bids, on virtual time: real machines, drivers and SDK; only what one miner does is made up.

It claims more than any honest one could and then keeps nothing of it: no answer suffers, and it is asked ever less.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from p2pnode.client import LightClient, connect
from p2pnode.engine.fake import FakeConfig
from protocol.core.machine import Close, Received, Send
from protocol.messages.envelope import Envelope, envelope_digest, seal, unseal
from protocol.messages.sessions import Bid, LeaseRequest
from protocol.messages.tasks import FrameMessage, SegmentStart, StartTask
from tests.simulation.fast_path import GENESIS, Overheard, World, prepare

ANSWER_TOKENS = 12
ENGINE = FakeConfig(slots=8, first_token_s=0.05, token_s=0.02, answer_tokens=ANSWER_TOKENS)
LIARS_ENGINE = FakeConfig(slots=8, first_token_s=2.0, token_s=0.5, answer_tokens=ANSWER_TOKENS)
SESSIONS, WARM_UP = 40, 12
SEASONED = 3
TIMEOUT_MS = 120_000

Effects = list[object]
Spoil = Callable[["Liar", object, Effects], Effects]


class Liar:
    """A miner's machine that bids what no miner could keep, and whose deeds pass through ``spoil``."""

    def __init__(self, inner: Overheard, spoil: Spoil) -> None:
        self.inner, self.machine, self.spoil = inner, inner.machine, spoil
        self.protocols, self.topics = inner.protocols, inner.topics
        self.next_deadline = inner.next_deadline
        self.asked = 0
        """Leases that it was asked for."""

    def handle(self, event: object, now_ms: int) -> Effects:
        self.asked += isinstance(event, Received) and isinstance(event.message, LeaseRequest)
        return self.spoil(self, event, [self._boast(effect) for effect in self.inner.handle(event, now_ms)])

    def _boast(self, effect: object) -> object:
        """The best of all bids in place of the honest one."""
        if not isinstance(effect, Send) or not isinstance(effect.message, Envelope):
            return effect
        domain, desk, sign = GENESIS.domain(), self.machine._bids, self.machine._bids._sign
        bid, _ = unseal(domain, effect.message, Bid)
        boast = msgspec.structs.replace(
            bid, price_wei=0, slots_free=1_000, slots_total=1_000, tokens_per_second=2**32 - 1, first_token_ms=1
        )
        envelope = seal(domain, sign, boast)
        honest, digest = (envelope_digest(domain, e, Bid) for e in (effect.message, envelope))
        desk.bids[digest] = desk.bids.pop(honest)
        session, router, *_ = desk._open[effect.channel]
        desk._open[effect.channel] = (session, router, digest, envelope)
        return replace(effect, message=envelope)


def never_grants(liar: Liar, event: object, effects: Effects) -> Effects:
    """It bids, and says nothing when it is asked for a lease."""
    return [] if isinstance(event, Received) and isinstance(event.message, LeaseRequest) else effects


def never_streams(liar: Liar, event: object, effects: Effects) -> Effects:
    """It grants, and nothing follows."""
    return [e for e in effects if not (isinstance(e, Send) and isinstance(e.message, SegmentStart | FrameMessage))]


def hangs_up(liar: Liar, event: object, effects: Effects) -> Effects:
    """It grants, and ends the stream when work comes."""
    if isinstance(event, Received) and isinstance(event.message, StartTask):
        return [Close(event.channel), *liar.machine._slots.drop(event.channel)]
    return effects


def serves_slowly(liar: Liar, event: object, effects: Effects) -> Effects:
    """It serves, at a small part of the speed that it claims; its engine sees to it."""
    return effects


class Lied(World):
    """A world without faults but for one miner, who joins when honest ones have served for a while."""

    def __init__(self, seed: int, spoil: Spoil, unproven: int) -> None:
        super().__init__(seed, faulty=False)
        self.spoil, self.unproven = spoil, unproven
        self.liar: Liar | None = None
        self.asked: list[int] = []
        """How often the liar was asked for a lease, by session since it came."""

    async def run_liar(self, task_status: Any) -> None:
        """Its machine is put in the place of the honest one as soon as that stands."""
        async with trio.open_nursery() as nursery:
            self.engine = LIARS_ENGINE if self.spoil is serves_slowly else ENGINE
            await nursery.start(self.run_miner)
            driver = self.miners[-1].driver
            assert isinstance(driver.machine, Overheard)
            driver.machine = self.liar = Liar(driver.machine, self.spoil)
            task_status.started()

    async def play(self) -> None:
        """One honest client asks in one session after the other; every miner bids for each."""
        self.engine = ENGINE
        async with trio.open_nursery() as nodes:
            await nodes.start(self.run_router)
            for _ in range(SEASONED):
                await nodes.start(self.run_miner)
            await trio.sleep(3)
            assert self.address is not None
            key = self.key()
            async with self.network.open(key) as transport, connect(self.address, key=key, transport=transport) as net:
                for _ in range(WARM_UP):
                    await self.one(net)
                for _ in range(self.unproven):
                    await nodes.start(self.run_miner)
                await nodes.start(self.run_liar)
                await trio.sleep(3)
                for _ in range(SESSIONS):
                    await self.one(net)
            nodes.cancel_scope.cancel()

    async def one(self, net: LightClient) -> None:
        """One session with one answer; whether the liar was asked for a lease before it was whole."""
        asked = self.liar.asked if self.liar is not None else 0
        async with net.session("fake", timeout_ms=TIMEOUT_MS) as session:
            async with session.ask("question", max_tokens=ANSWER_TOKENS, timeout_ms=TIMEOUT_MS) as answer:
                await answer.read()
            self.ledger.check(answer, session.id, 1)
            assert answer.finish is not None
        if self.liar is not None:
            self.asked.append(self.liar.asked - asked)


def lie(monkeypatch: pytest.MonkeyPatch, spoil: Spoil, *, unproven: int = 0) -> Lied:
    world = Lied(11, spoil, unproven)
    prepare(world, 11, monkeypatch)
    trio.run(world.play, clock=trio.testing.MockClock(autojump_threshold=0))
    return world


LIES = (never_grants, never_streams, hangs_up, serves_slowly)


@pytest.mark.parametrize("spoil", LIES, ids=lambda spoil: spoil.__name__)
def test_every_answer_is_whole_whatever_a_miner_promised(spoil: Spoil, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(lie(monkeypatch, spoil).asked) > 0


@pytest.mark.parametrize("unproven", [0, 2])
@pytest.mark.parametrize("spoil", LIES[:3], ids=lambda spoil: spoil.__name__)
def test_a_liar_loses_selection(spoil: Spoil, unproven: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it claims, and also beside honest miners of whom nothing is known yet."""
    asked = lie(monkeypatch, spoil, unproven=unproven).asked
    assert sum(asked) <= 8 and sum(asked[SESSIONS // 2 :]) <= 2, asked
