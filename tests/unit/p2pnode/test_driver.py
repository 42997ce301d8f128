"""The driver keeps a machine's contract: order within a key, durability before what follows, one timer."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from p2pnode.backlog import BACKLOG_MAX
from p2pnode.clock import open_clock
from p2pnode.driver import HELD_EFFECTS_MAX, Driver, open_driver
from p2pnode.transport.memory import MemoryNetwork
from p2pnode.transport.memory_node import MemoryTransport
from p2pnode.transport.seam import Stream, StreamClosed, Verdict
from protocol import gossip
from protocol.core.codec import Message, decode, encode
from protocol.core.errors import P2PNodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    Close,
    DeadlineReached,
    GossipReceived,
    Key,
    Open,
    PeerConnected,
    PeerLost,
    Persist,
    PersistFailed,
    Publish,
    Received,
    Send,
)
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.messages.adverts import Advert
from protocol.messages.envelope import seal
from protocol.messages.greeting import RouterHello
from protocol.messages.sessions import CloseSession
from tests.unit.protocol.keys import key

GENESIS = Genesis("driver")
ALICE, BOB = key(1), key(2)
OUT = Channel(-1)


def words(number: int) -> Message:
    """A message that is easy to tell from others."""
    return CloseSession(number.to_bytes(32, "big"))


def number_of(message: Message) -> int:
    assert isinstance(message, CloseSession)
    return int.from_bytes(message.session, "big")


class Script:
    """A machine that does what the test says: an event that is a list is a list of effects."""

    protocols: tuple[str, ...] = ("task",)
    topics: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.events: list[object] = []
        self.at_ms: list[int] = []
        self.deadline: int | None = None
        self.react: Callable[[object], list[object]] = lambda _event: []

    def handle(self, event: object, now_ms: int) -> list[object]:
        if isinstance(event, list):
            return event
        self.events.append(event)
        self.at_ms.append(now_ms)
        if isinstance(event, DeadlineReached):
            self.deadline = None
        return self.react(event)

    def next_deadline(self) -> int | None:
        return self.deadline


@dataclass
class Disk:
    """Records that become durable when the test says so."""

    open: bool = False
    durable: list[bytes] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    _turn: trio.Event = field(default_factory=trio.Event)

    async def persist(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        names = [name for name, _ in records]
        self.asked += names
        if not self.open:
            await self._turn.wait()
        self.durable += names

    def flush(self) -> None:
        """What was asked for so far is durable."""
        self._turn.set()
        self._turn = trio.Event()


@dataclass
class Ear:
    """Bob, who hears what Alice sends."""

    node: MemoryTransport
    heard: list[int] = field(default_factory=list)
    ended: bool = False

    async def serve(self, stream: Stream) -> None:
        try:
            while True:
                self.heard.append(number_of(decode(await stream.receive())))
        except StreamClosed:
            self.ended = True


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[MemoryTransport, Ear]]:
    """Alice's node, connected to Bob's ear."""
    network = MemoryNetwork()
    async with network.open(ALICE.node) as alice, network.open(BOB.node) as bob:
        ear = Ear(bob)
        bob.handle("task", ear.serve)
        await alice.connect(bob.addresses[0])
        yield alice, ear


@asynccontextmanager
async def running(disk: Disk | None = None) -> AsyncIterator[tuple[Driver, Script, Ear]]:
    """A driver with a stream to Bob."""
    script = Script()
    async with (
        pair() as (alice, ear),
        open_driver(script, alice, open_clock(0), records=disk, genesis=GENESIS) as driver,
    ):
        driver.dispatch([Open(OUT, BOB.node, "task")])
        yield driver, script, ear


async def settle() -> None:
    """Let everything happen that can; a second of virtual time."""
    await trio.sleep(1)


def persist(of: Key, name: bytes) -> Persist:
    return Persist(of, ((name, b"x"),))


@pytest.mark.spec("MACHINE-PERSIST.1")
async def test_nothing_of_a_key_overtakes_its_persist_and_other_keys_go_on(autojump_clock: trio.abc.Clock) -> None:
    disk = Disk()
    async with running(disk) as (driver, _, ear):
        driver.dispatch([Send(OUT, words(1), key=b"a"), persist(b"a", b"a1"), Send(OUT, words(2), key=b"a")])
        driver.dispatch([Send(OUT, words(3), key=b"b"), Send(OUT, words(4)), Send(OUT, words(5), key=b"a")])
        await settle()
        assert ear.heard == [1, 3, 4]
        disk.flush()
        await settle()
        assert ear.heard == [1, 3, 4, 2, 5]
        driver.dispatch([Send(OUT, words(6), key=b"a")])
        await settle()
        assert ear.heard[-1] == 6, "and nothing waits any more"


@pytest.mark.spec("MACHINE-PERSIST.1")
async def test_persists_of_a_key_come_in_order_what_waits_together_and_two_keys_apart(
    autojump_clock: trio.abc.Clock,
) -> None:
    disk = Disk()
    async with running(disk) as (driver, _, ear):
        driver.dispatch([persist(b"a", b"a1"), Send(OUT, words(1), key=b"a")])
        driver.dispatch([persist(b"b", b"b1"), Send(OUT, words(2), key=b"b")])
        await settle()
        driver.dispatch([persist(b"a", b"a2"), Send(OUT, words(3), key=b"a"), persist(b"a", b"a3")])
        await settle()
        assert sorted(disk.asked) == [b"a1", b"b1"]
        disk.flush()
        await settle()
        assert (disk.asked[2:], sorted(ear.heard)) == ([b"a2", b"a3"], [1, 2])
        disk.flush()
        await settle()
        assert (disk.durable[2:], ear.heard[2:]) == ([b"a2", b"a3"], [3])


@pytest.mark.spec("MACHINE-PERSIST.1")
@pytest.mark.parametrize("flushes", range(4))
async def test_a_crash_between_any_two_effects_leaves_nothing_said_that_is_not_durable(
    flushes: int, autojump_clock: trio.abc.Clock
) -> None:
    disk = Disk()
    async with pair() as (alice, ear):
        async with open_driver(Script(), alice, open_clock(0), records=disk) as driver:
            driver.dispatch([Open(OUT, BOB.node, "task")])
            for number in range(4):
                driver.dispatch([persist(b"a", b"%d" % number), Send(OUT, words(number), key=b"a")])
                await settle()
                if 0 < number <= flushes:
                    disk.flush()
                    await settle()
        disk.flush()
        await settle()
        assert ear.heard == ([], [0], [0, 1], [0, 1, 2])[flushes]
        assert [b"%d" % number for number in ear.heard] == disk.durable


@pytest.mark.spec("MACHINE-PERSIST.1")
async def test_a_close_and_what_the_machine_says_meanwhile_keep_their_turn(autojump_clock: trio.abc.Clock) -> None:
    disk = Disk()
    async with running(disk) as (driver, _, ear):
        driver.dispatch([persist(b"a", b"a1"), Send(OUT, words(1), key=b"a"), Close(OUT, key=b"a")])
        await settle()
        assert (ear.heard, ear.ended) == ([], False)
        disk.flush()
        await settle()
        assert (ear.heard, ear.ended) == ([1], True)
        driver.dispatch([Send(OUT, words(2)), Close(OUT)])
        await settle()
        assert ear.heard == [1], "a closed channel's number is dead"


async def test_a_disk_that_fails_or_hangs_ends_the_node(autojump_clock: trio.abc.Clock) -> None:
    class Full(Disk):
        async def persist(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        async with running(Full()) as (driver, _, _):
            driver.dispatch([persist(b"a", b"a1")])
            await settle()
    with pytest.raises(RuntimeError, match="disk does not keep up"):
        async with running(Disk()) as (driver, _, _):
            driver.dispatch([persist(b"a", b"a1")])
            driver.dispatch([Send(OUT, words(1), key=b"a")] * (HELD_EFFECTS_MAX + 1))


@pytest.mark.spec("MACHINE-BACKLOG.1")
@pytest.mark.parametrize("fails", [False, True])
async def test_a_node_whose_disk_is_behind_takes_nothing_from_peers_until_it_is_not(
    autojump_clock: trio.abc.Clock, fails: bool
) -> None:
    class Slow(Disk):
        async def persist(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
            await super().persist(records)
            if fails:
                raise P2PNodeError("the disk is full")

    disk = Slow()
    async with running(disk) as (driver, script, ear):
        stream = await ear.node.open_stream(ALICE.node, "task", timeout_ms=1_000)
        driver.dispatch([Persist(b"a", ((b"a1", b""),), vital=False)])
        await settle()
        driver.dispatch([Send(OUT, words(1), key=b"a")] * BACKLOG_MAX)
        await stream.send(encode(words(7)))
        await settle()
        assert not any(isinstance(event, Received) for event in script.events)
        driver.dispatch([Send(OUT, words(2))])
        await settle()
        assert ear.heard == [2], "what needs no disk goes on"
        disk.flush()
        await settle()
        assert [number_of(event.message) for event in script.events if isinstance(event, Received)] == [7]
        assert len(ear.heard) == (1 if fails else 1 + BACKLOG_MAX)


@pytest.mark.spec("MACHINE-PERSIST.1")
async def test_where_a_persist_that_is_not_vital_fails_what_waits_is_dropped_and_the_machine_hears(
    autojump_clock: trio.abc.Clock,
) -> None:
    class Failing(Disk):
        async def persist(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
            await super().persist(records)
            if records[0][0].startswith(b"bad"):
                raise P2PNodeError("no space left")

    disk = Failing()
    async with running(disk) as (driver, script, ear):
        bad = Persist(b"a", ((b"bad", b"x"),), vital=False)
        driver.dispatch([Send(OUT, words(1), key=b"a"), bad, Send(OUT, words(2), key=b"a"), Send(OUT, words(3))])
        await settle()
        driver.dispatch([persist(b"a", b"a1"), Send(OUT, words(4), key=b"a"), persist(b"b", b"b1")])
        script.react = lambda event: [Send(OUT, words(5), key=b"a")] if isinstance(event, PersistFailed) else []
        disk.open = True
        disk.flush()
        await settle()
        assert ear.heard == [1, 3, 5]
        assert script.events[-1] == PersistFailed(b"a", "no space left")
        assert sorted(disk.asked) == [b"b1", b"bad"]
        driver.dispatch([persist(b"a", b"a2"), Send(OUT, words(6), key=b"a")])
        await settle()
        assert (ear.heard[-1], disk.durable[-1]) == (6, b"a2"), "the key goes on"
    with pytest.raises(P2PNodeError, match="no space left"):
        async with running(disk) as (driver, _, _):
            driver.dispatch([persist(b"a", b"bad, and vital")])
            await settle()


async def test_what_happens_while_effects_are_executed_waits_for_its_turn(autojump_clock: trio.abc.Clock) -> None:
    flood = RouterHello(BOB.node, "x" * 60_000, ())
    async with running() as (driver, script, _):
        await settle()
        order: list[str] = []

        def react(event: object) -> list[object]:
            order.append(type(event).__name__)
            return [Open(Channel(-2), BOB.node, "task"), Send(Channel(-2), words(2))]

        script.react = react
        done = Send(Channel(-3), words(1))
        driver.performers = {Send: _spied(driver, order)}
        driver.dispatch([*(Send(OUT, flood) for _ in range(100)), done])
        assert order == ["the last effect", "ChannelClosed"]
        driver.performers = {}
        await settle()
        assert script.events == [PeerConnected(BOB.node), ChannelClosed(OUT, "the peer reads too slowly")]


def _spied(driver: Driver, order: list[str]) -> Callable[[object], None]:
    """Perform a Send as ever, and note the one on channel -3."""

    def perform(effect: object) -> None:
        assert isinstance(effect, Send)
        if effect.channel == -3:
            order.append("the last effect")
        driver._perform_common(effect)

    return perform


async def test_deadlines_come_when_they_are_due_and_not_before(autojump_clock: trio.abc.Clock) -> None:
    async with running() as (driver, script, _):
        script.deadline = 5_000
        driver.dispatch([])
        await trio.sleep(2)
        script.deadline = 3_000
        driver.dispatch([])
        await trio.sleep(10)
        reached = [at for at, event in zip(script.at_ms, script.events, strict=True) if event == DeadlineReached()]
        assert len(reached) == 1
        assert 3_000 <= reached[0] <= 3_002
        script.deadline = 7_000
        driver.dispatch([])
        await trio.sleep(0.1)
        assert script.events.count(DeadlineReached()) == 2, "one that has passed is due at once"


async def test_a_later_deadline_does_not_fire_early(autojump_clock: trio.abc.Clock) -> None:
    async with running() as (driver, script, _):
        script.deadline = 1_000
        driver.dispatch([])
        await trio.sleep(0.5)
        script.deadline = 9_000
        driver.dispatch([])
        await trio.sleep(5)
        assert DeadlineReached() not in script.events
        await trio.sleep(5)
        assert script.events.count(DeadlineReached()) == 1


async def test_peers_and_gossip_reach_the_machine(autojump_clock: trio.abc.Clock) -> None:
    network = MemoryNetwork()
    async with network.open(ALICE.node) as alice, network.open(BOB.node) as bob:
        script, other = Script(), Script()
        script.topics = other.topics = ("nodes",)
        async with (
            open_driver(script, alice, open_clock(0), genesis=GENESIS),
            open_driver(other, bob, open_clock(0), genesis=GENESIS) as driver,
        ):
            await alice.connect(bob.addresses[0])
            await settle()
            advert = Advert(BOB.node, 7, ("miner",), (), (), "")
            envelope = seal(GENESIS.domain(), BOB.sign, advert)
            forged = seal(GENESIS.domain(), ALICE.sign, advert)
            driver.dispatch([Publish("nodes", forged), Publish("nodes", envelope)])
            await settle()
            await bob.disconnect(NodeId(ALICE.node))
            await trio.sleep(0.1)
        met, gossip, lost = script.events[:3]
        assert (met, lost) == (PeerConnected(BOB.node), PeerLost(BOB.node))
        assert gossip == GossipReceived("nodes", BOB.node, advert, envelope)


async def test_a_gossip_message_is_checked_once(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transport asks before it forwards; the delivery does not ask for the signature again."""
    checked: Counter[bytes] = Counter()
    check = gossip.check

    def counting(domain: Domain, params: Params, topic: str, origin: NodeId, data: bytes) -> gossip.Checked:
        checked[data] += 1
        return check(domain, params, topic, origin, data)

    monkeypatch.setattr(gossip, "check", counting)
    network = MemoryNetwork()
    async with network.open(ALICE.node) as alice, network.open(BOB.node) as bob:
        script = Script()
        script.topics = ("nodes",)
        async with open_driver(script, alice, open_clock(0), genesis=GENESIS):
            await alice.connect(bob.addresses[0])
            await bob.subscribe(GENESIS.topic("nodes"), lambda *_: Verdict.ACCEPT)
            await settle()
            for number in range(3):
                advert = Advert(BOB.node, number, ("miner",), (), (), "")
                await bob.publish(GENESIS.topic("nodes"), encode(seal(GENESIS.domain(), BOB.sign, advert)))
            await settle()
    assert sum(isinstance(event, GossipReceived) for event in script.events) == 3
    assert list(checked.values()) == [1, 1, 1]


async def test_a_roles_own_effects_go_to_its_performers_in_their_turn(autojump_clock: trio.abc.Clock) -> None:
    @dataclass(frozen=True)
    class Work:
        name: str
        key: Key = b""

    done: list[str] = []
    disk = Disk()
    async with pair() as (alice, _):
        make = lambda _dispatch: {Work: lambda effect: done.append(effect.name)}  # noqa: E731
        async with open_driver(Script(), alice, open_clock(0), records=disk, performers=make) as driver:
            driver.dispatch([persist(b"a", b"a1"), Work("held", b"a"), Work("free")])
            await settle()
            assert done == ["free"]
            disk.flush()
            await settle()
            assert done == ["free", "held"]


async def test_a_bug_in_a_machine_ends_the_block(autojump_clock: trio.abc.Clock) -> None:
    def broken(_event: object) -> list[object]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with running() as (driver, script, _):
            script.react = broken
            script.deadline = 10
            driver.dispatch([])
            await settle()
