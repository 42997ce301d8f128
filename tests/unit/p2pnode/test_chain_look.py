"""A client's look at the chain: asked until it is there, through outages, and bounded."""

import pytest
import trio
import trio.testing

from chain.api import AcceptedHeader, Reading
from chain.errors import ChainUnreachable
from p2pnode import chain_look
from p2pnode.chain_look import DELAY_S_MAX, GIVE_UP_S, WANTED_MAX, ChainLook
from protocol.core.ids import Digest

ONE, TWO = Digest(b"\x01" * 32), Digest(b"\x02" * 32)


class Contract:
    """What the contract has accepted; ``down`` as long as no endpoint answers."""

    def __init__(self) -> None:
        self.has: set[Digest] = set()
        self.down = False
        self.asked: list[Digest] = []

    def latest_checkpoint(self) -> AcceptedHeader | None:
        if self.down:
            raise ChainUnreachable("no endpoint answers")
        return AcceptedHeader(ONE, 2, 9, 0, 1) if ONE in self.has else None

    def accepted(self, digest: Digest) -> AcceptedHeader | None:
        self.asked.append(digest)
        if self.down:
            raise ChainUnreachable("no endpoint answers")
        return AcceptedHeader(digest, 1, 7, 0, 1) if digest in self.has else None


@pytest.fixture
def contract(monkeypatch: pytest.MonkeyPatch) -> Contract:
    async def here(call: object, *args: object, **_: object) -> object:
        await trio.lowlevel.checkpoint()
        return call(*args)  # type: ignore[operator]

    # Worker threads know no virtual time.
    monkeypatch.setattr(chain_look.trio.to_thread, "run_sync", here)
    return Contract()


async def started(contract: object, nursery: trio.Nursery, told: list[Digest]) -> ChainLook:
    assert isinstance(contract, Contract)
    look = ChainLook(reading(contract), told.append)
    nursery.start_soon(look.run)
    return look


def reading(contract: Contract) -> Reading:
    return contract  # type: ignore[return-value]


@pytest.mark.spec("LEVEL-SETTLED.1")
async def test_a_header_is_told_once_when_the_contract_has_it(
    contract: Contract, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[Digest] = []
    async with trio.open_nursery() as nursery:
        look = await started(contract, nursery, told)
        look.look_for(ONE)
        look.look_for(ONE)
        await trio.sleep(20)
        assert told == []
        contract.has = {ONE, TWO}
        await trio.sleep(DELAY_S_MAX)
        assert told == [ONE]
        look.look_for(TWO)
        await trio.sleep(0.01)
        assert told == [ONE, TWO]
        asked = len(contract.asked)
        await trio.sleep(600)
        assert len(contract.asked) == asked
        nursery.cancel_scope.cancel()


async def test_an_outage_is_waited_out_and_told(contract: Contract, autojump_clock: trio.testing.MockClock) -> None:
    told: list[Digest] = []
    async with trio.open_nursery() as nursery:
        look = await started(contract, nursery, told)
        contract.down, contract.has = True, {ONE}
        look.look_for(ONE)
        await trio.sleep(60)
        assert (told, look.trouble) == ([], "no endpoint answers")
        contract.down = False
        await trio.sleep(DELAY_S_MAX)
        assert (told, look.trouble) == ([ONE], "")
        nursery.cancel_scope.cancel()


@pytest.mark.spec("LIGHT-WATCH.2")
async def test_the_newest_header_is_told_each_time_somebody_wants_to_know(
    contract: Contract, autojump_clock: trio.testing.MockClock
) -> None:
    newest: list[AcceptedHeader] = []
    look = ChainLook(reading(contract), lambda _digest: None, newest.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look.run)
        look.look_for_newest()
        await trio.sleep(1)
        assert newest == [], "none was accepted"
        contract.has = {ONE}
        look.look_for_newest()
        await trio.sleep(1)
        contract.down = True
        look.look_for_newest()
        await trio.sleep(1)
        assert [(each.epoch, each.height) for each in newest] == [(2, 9)]
        assert look.trouble == "no endpoint answers"
        nursery.cancel_scope.cancel()


async def test_what_never_comes_is_given_up_and_many_are_bounded(
    contract: Contract, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[Digest] = []
    async with trio.open_nursery() as nursery:
        look = await started(contract, nursery, told)
        look.look_for(ONE)
        await trio.sleep(GIVE_UP_S + DELAY_S_MAX + 1)
        asked = len(contract.asked)
        await trio.sleep(600)
        assert len(contract.asked) == asked
        nursery.cancel_scope.cancel()
    for number in range(WANTED_MAX + 5):
        look.look_for(Digest(number.to_bytes(32, "big")))
    assert len(look._wanted) == WANTED_MAX
