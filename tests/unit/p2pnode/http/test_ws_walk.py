"""A client that does anything at any time: what it was told fits together all the same, and nothing is left behind."""

import random
from collections import defaultdict
from typing import Any

import pytest
import trio
import trio.testing

from p2pnode.http.ws import WsTerms
from p2pnode.http.ws_journal import KeepTerms
from protocol.light.levels import Level
from protocol.messages.tasks import EndReason
from tests.unit.p2pnode.http.net_at_hand import Order
from tests.unit.p2pnode.http.ws_at_hand import Served, SocketAtHand, caller_named, served

SEEDS = 10
STEPS = 120
NAMES = "abcd"
TERMINAL = ("done", "error")


class Walk:
    """One client, its sockets one after the other, and the miners that answer it."""

    def __init__(self, app: Served, seed: int) -> None:
        self.app = app
        self.dice = random.Random(seed)
        self.caller = caller_named("alice")
        self.told: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        """What was said of each request, by its id and number."""
        self.pongs = 0
        self.pings = 0
        self.socket: SocketAtHand | None = None

    async def run(self) -> None:
        """So many steps, and then a look at all that is kept."""
        for _ in range(STEPS):
            await self.step()
            await trio.testing.wait_all_tasks_blocked()
            self.listen()
        self.finish_orders()
        await trio.sleep(1)
        await self.look_at_all()

    async def step(self) -> None:
        """Any of what may happen."""
        if self.socket is None:
            self.socket = await self.app.socket(self.caller)
        name, dice = self.dice.choice(NAMES), self.dice
        match dice.randrange(10):
            case 0 | 1:
                await self.socket.ask(name, n=dice.choice((1, 1, 2)))
            case 2:
                await self.socket.say("cancel", request_id=name)
            case 3:
                await self.socket.say("resume", request_id=name, from_seq=dice.randrange(6))
            case 4:
                self.pings += 1
                await self.socket.say("ping")
            case 5:
                await self.socket.drop()
                self.socket, self.pings, self.pongs = None, 0, 0
            case 6:
                await self.socket.text(dice.choice(("", "{}", "[]", '{"type":"request","request_id":"a"}')))
            case 7:
                await trio.sleep(dice.choice((0.1, 5, 20)))
            case _:
                self.answer()

    def answer(self) -> None:
        """Some miner goes on."""
        running = [order for order in self.app.net.orders if order.answer.finish is None and not order.left]
        if not running:
            return
        order = self.dice.choice(running)
        match self.dice.randrange(6):
            case 0:
                order.end(EndReason.LENGTH)
            case 1:
                order.fail(self.dice.choice(("miner_lost", "deadline_exceeded", "transcript_broken")))
            case _:
                if order.said < 60:
                    order.say("word ", "and ")
        for over in self.app.net.orders:
            if over.answer.finish is not None and self.dice.random() < 0.3:
                over.rise(self.dice.choice((Level.COMMITTED, Level.CERTIFIED, Level.FINALIZED)), 5)

    def finish_orders(self) -> None:
        """Nothing runs any more."""
        for order in self.app.net.orders:
            if not order.left:
                _end(order)

    def listen(self) -> None:
        """Take in all that was said by now."""
        while self.socket is not None and (message := self.socket.hear_now()):
            self.take_in(message)

    def take_in(self, message: dict[str, Any]) -> None:
        """A message fits to those before it."""
        if message["type"] == "pong":
            self.pongs += 1
            return
        if "seq" not in message:
            assert message["type"] == "error"
            return
        told = self.told[message["request_id"]]
        if message["type"] == "accepted":
            # Another request of that name, or the same one told again from its beginning.
            if told and told[0]["id"] != message["id"]:
                told.clear()
            assert message["seq"] == 0
        before = told.get(message["seq"])
        assert before is None or before == message, "a number says the same whenever it is told"
        told[message["seq"]] = message

    async def look_at_all(self) -> None:
        """Each request that is kept is whole: without a gap, with one end, and nothing but levels after it."""
        self.socket = await self.app.socket(self.caller)
        for name in NAMES:
            self.told[name].clear()
            await self.socket.say("resume", request_id=name, from_seq=0)
        await trio.testing.wait_all_tasks_blocked()
        self.listen()
        for told in self.told.values():
            kinds = [told[number]["type"] for number in range(len(told))]
            if not kinds:
                continue
            assert kinds[0] == "accepted"
            assert sum(kind in TERMINAL for kind in kinds) == 1
            end = next(place for place, kind in enumerate(kinds) if kind in TERMINAL)
            assert set(kinds[end + 1 :]) <= {"level"}
        assert self.caller.running == 0


def _end(order: Order) -> None:
    try:
        order.end()
    except (trio.WouldBlock, trio.BrokenResourceError):
        assert order.left


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_a_client_does(autojump_clock: trio.testing.MockClock, seed: int) -> None:
    terms = WsTerms(keep=KeepTerms(kept_s=30, of_owner=3))
    async with served(terms) as app:
        walk = Walk(app, seed)
        await walk.run()
        assert walk.pongs <= walk.pings
        assert walk.socket is not None
        await walk.socket.drop()
        await trio.sleep(100)
        assert all(order.left for order in app.net.orders)
        assert walk.caller.running == 0
