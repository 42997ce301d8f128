"""Asking oracles what is settled: streams that break are opened again, and no oracle can crowd out another's claim."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing

from p2pnode.settled_watch import SettledWatch
from p2pnode.transport.memory import MemoryNetwork
from p2pnode.transport.seam import Stream, StreamClosed
from protocol.core.codec import decode, encode
from protocol.core.ids import Digest, NodeId
from protocol.messages.results import Outcome, SettledNews, Verdict, Watch
from tests.unit.protocol.keys import key
from tests.unit.protocol.light_at_hand import outcome_news

ROUTER, ORACLES = key(1).node, [key(number).node for number in (2, 3)]
SESSION, TASK = Digest(b"\x33" * 32), 1
AGAIN_S = 5.0


def news(lane: int = 0, epoch: int = 3, session: bytes = SESSION) -> SettledNews:
    """What an oracle says of a lane, by a header of an epoch."""
    outcome = Outcome(session, TASK, lane, Verdict.OK, bytes(32), 9, 1, 5)
    said = outcome_news(outcome, epoch=epoch)
    return SettledNews(said.outcome, said.proof, said.certified)


class Oracle:
    """Says what a test has it say, to whoever watches."""

    def __init__(self) -> None:
        self.says: list[bytes] = []
        self.watched: list[Watch] = []
        self.breaks = False

    async def serve(self, stream: Stream) -> None:
        try:
            while True:
                watch = decode(await stream.receive())
                assert isinstance(watch, Watch)
                self.watched.append(watch)
                if self.breaks:
                    return
                for frame in self.says:
                    await stream.send(frame)
        except StreamClosed:
            return


@asynccontextmanager
async def watching(oracles: list[NodeId]) -> AsyncIterator[tuple[SettledWatch, list[Oracle]]]:
    network, served = MemoryNetwork(), [Oracle() for _ in ORACLES]
    async with (
        network.open(ROUTER) as mine,
        network.open(ORACLES[0]) as one,
        network.open(ORACLES[1]) as other,
        trio.open_nursery() as nursery,
    ):
        for node, oracle in zip((one, other), served, strict=True):
            node.handle("results", oracle.serve)
            mine.learn(node.me, node.addresses)
        watch = SettledWatch(mine, lambda: oracles)
        nursery.start_soon(watch.run)
        yield watch, served
        nursery.cancel_scope.cancel()


async def always(_: SettledNews) -> bool:
    return True


@pytest.mark.parametrize("says_first", [True, False])
async def test_the_first_claim_that_holds_is_told(autojump_clock: object, says_first: bool) -> None:
    async with watching(list(ORACLES)) as (watch, oracles):
        lie, truth = news(epoch=4), news()
        oracles[0].says = [encode(lie)] * 40
        oracles[1].says = [encode(news(lane=1)), encode(news(session=b"\x09" * 32)), encode(truth)]
        if not says_first:
            await trio.sleep(60)
        looked: list[SettledNews] = []

        async def holds(claim: SettledNews) -> bool:
            looked.append(claim)
            return claim == truth

        with trio.fail_after(600):
            assert await watch.settled(SESSION, TASK, holds, AGAIN_S) == truth
        assert {claim.certified.certificate.epoch for claim in looked} <= {3, 4}
        assert len(looked) < len(oracles[0].says), "what comes meanwhile is looked at once"


async def test_a_claim_that_does_not_hold_yet_is_looked_at_again(autojump_clock: object) -> None:
    async with watching(ORACLES[:1]) as (watch, oracles):
        oracles[0].says = [encode(news())]
        looks = 0

        async def later(_: SettledNews) -> bool:
            nonlocal looks
            looks += 1
            return looks == 3

        started = trio.current_time()
        await watch.settled(SESSION, TASK, later, AGAIN_S)
        assert looks == 3
        assert trio.current_time() - started >= 2 * AGAIN_S


@pytest.mark.parametrize("how", ["closes", "speaks nonsense"])
async def test_a_stream_that_breaks_is_opened_again_and_told_everything(autojump_clock: object, how: str) -> None:
    async with watching(ORACLES[:1]) as (watch, oracles):
        oracles[0].breaks = how == "closes"
        oracles[0].says = [b"\xff nonsense"]

        async def mends() -> None:
            await trio.sleep(20)
            oracles[0].breaks, oracles[0].says = False, [encode(news())]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mends)
            with trio.fail_after(600):
                await watch.settled(SESSION, TASK, always, AGAIN_S)
        assert len(oracles[0].watched) > 1
        assert {watched.session for watched in oracles[0].watched} == {SESSION}


async def test_oracles_that_come_are_asked_and_those_that_leave_are_not(autojump_clock: object) -> None:
    members = ORACLES[:1]
    async with watching(members) as (watch, oracles):
        oracles[1].says = [encode(news())]

        async def changes() -> None:
            await trio.sleep(30)
            members[:] = ORACLES[1:]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(changes)
            with trio.fail_after(600):
                await watch.settled(SESSION, TASK, always, AGAIN_S)
        before = len(oracles[0].watched)
        with trio.move_on_after(60):
            await watch.settled(Digest(b"\x44" * 32), TASK, always, AGAIN_S)
        assert len(oracles[0].watched) == before
        assert msgspec.structs.asdict(oracles[1].watched[-1])["session"] == b"\x44" * 32
