"""What an answer comes to, as its asker hears of it after the stream has ended."""

from typing import Any, cast

import pytest
import trio
import trio.testing

from p2pnode.answer import Answer
from p2pnode.http.receipts import Levels
from p2pnode.http.service import Kept, Service
from p2pnode.http.sse import Stream
from protocol.light.levels import Final, Level
from protocol.roles.client import Item, TaskLevel


class Net:
    """What the network can certify."""

    def __init__(self, certifies: bool, settles: bool) -> None:
        self.certifies, self.settles = certifies, settles


class Heard:
    """A stream's events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.over = False

    async def event(self, *values: dict[str, Any]) -> None:
        self.events += values

    async def done(self, *values: dict[str, Any]) -> None:
        self.events += values
        self.over = True

    @property
    def levels(self) -> list[str]:
        return [event["level"] for event in self.events if "last" not in event]


class Following:
    """Somebody who follows the levels of one answer."""

    def __init__(self, nursery: trio.Nursery, *, certifies: bool = True, settles: bool = False) -> None:
        self.answer, self.heard = Answer(lambda: None, trio.open_memory_channel[Item](1)[1]), Heard()
        service = cast(Service, type("AService", (), {"net": Net(certifies, settles)})())
        kept = Kept(self.answer, "anna", bytes(32), 1, "tiny", bytes(20), 0)
        nursery.start_soon(Levels(service, kept, "the-receipt").stream, cast(Stream, self.heard))

    async def rise(self, *proved: Level, against: str = "") -> None:
        final = Final(1, 2, 3, 4) if Level.FINALIZED in proved else None
        self.answer.rise(TaskLevel(max(proved), proved, 17, 4, 4, final, against, 0))
        await trio.testing.wait_all_tasks_blocked()


async def test_each_level_is_told_once_as_it_comes_and_the_last_ends_it() -> None:
    async with trio.open_nursery() as nursery:
        following = Following(nursery)
        await trio.testing.wait_all_tasks_blocked()
        assert following.heard.levels == ["streamed"]
        await following.rise(Level.COMMITTED)
        await following.rise(Level.COMMITTED, Level.CERTIFIED)
        assert following.heard.levels == ["streamed", "committed", "certified"]
        assert following.heard.events[-1]["detail"] == "4 of 4"
        assert not following.heard.over
        await following.rise(Level.COMMITTED, Level.CERTIFIED, Level.FINALIZED)
        assert following.heard.over
        assert following.heard.events[-1] == {
            "receipt": "the-receipt",
            "level": "finalized",
            "last": True,
            "against": "",
        }


async def test_a_proof_that_comes_early_does_not_hide_the_one_below_it() -> None:
    async with trio.open_nursery() as nursery:
        following = Following(nursery, settles=True)
        await trio.testing.wait_all_tasks_blocked()
        await following.rise(Level.FINALIZED)
        await following.rise(Level.CERTIFIED, Level.FINALIZED)
        assert following.heard.levels == ["streamed", "finalized", "certified"]
        assert not following.heard.over
        await following.rise(Level.CERTIFIED, Level.FINALIZED, Level.SETTLED)
        assert following.heard.over


@pytest.mark.parametrize("how", ["against", "closed", "uncertified"])
async def test_it_ends_where_nothing_more_can_come(how: str) -> None:
    async with trio.open_nursery() as nursery:
        following = Following(nursery, certifies=how != "uncertified")
        await trio.testing.wait_all_tasks_blocked()
        if how == "against":
            await following.rise(Level.COMMITTED, against="late")
        if how == "closed":
            following.answer.settle()
        await trio.testing.wait_all_tasks_blocked()
        assert following.heard.over
        assert following.heard.events[-1]["against"] == ("late" if how == "against" else "")
