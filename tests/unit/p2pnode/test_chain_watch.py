"""An oracle's eyes on the chain: all events, from where its machine is, through outages and changed histories."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from chain.api import AcceptedHeader, DrawDue, EventCursor, EventPage, EvmBlock, TxId, TxStatus
from chain.errors import ChainUnreachable, HistoryChanged, UnprovableChain
from p2pnode import chain_sender
from p2pnode.chain_sender import ChainSender
from p2pnode.chain_watch import OUTAGE_POLL_S, POLL_S, POLL_S_MAX, ChainWatch
from protocol.core.ids import Digest, NodeId
from protocol.core.params import Params
from protocol.core.signing import keccak
from protocol.messages.chain import Accepted, Deposited
from protocol.roles.oracle import AnchorsSeen, ChainLost, ChainSeen, ContractSeen
from protocol.settlement.duty import RecordDraw
from protocol.settlement.words import AnchorBlock

ME = NodeId(b"\x07" * 20)
STRIDE = 4
PARAMS = Params(anchor_stride=STRIDE)
START = 2
"""The block before the contracts."""


def hash_of(number: int, history: int = 0) -> Digest:
    return Digest(keccak(bytes([history]) + number.to_bytes(8, "big")))


def header_of(block: Digest) -> bytes:
    return b"header of " + block


@dataclass
class Scripted:
    """A chain whose blocks a test makes: a deposit in each after the first."""

    head: int = 10
    page: int = 3
    """Blocks that are told at once."""
    history: int = 0
    down: bool = False
    last: AcceptedHeader | None = None
    due: DrawDue | None = None
    unprovable: bool = False
    headers_asked: int = 0
    calls: int = 0
    drawn: list[DrawDue] = field(default_factory=list)

    def _asked(self) -> None:
        self.calls += 1
        if self.down:
            raise ChainUnreachable("no endpoint answers")

    def start(self) -> EventCursor:
        self._asked()
        return EventCursor(START, hash_of(START, self.history))

    def finalized(self) -> EvmBlock:
        self._asked()
        return self.block_at(self.head)

    def block_at(self, number: int) -> EvmBlock:
        return EvmBlock(number, hash_of(number, self.history), number)

    def events(self, after: EventCursor, limit: int) -> EventPage:
        self._asked()
        if after.hash != hash_of(after.number, self.history):
            raise HistoryChanged(f"block {after.number} is not what it was")
        through = min(self.head, after.number + self.page)
        numbers = range(after.number + 1, through + 1)
        events = tuple((number, deposit(number)) for number in numbers)
        return EventPage(events, EventCursor(through, hash_of(through, self.history)), through < self.head)

    def block_header(self, block: Digest) -> bytes:
        self._asked()
        self.headers_asked += 1
        if self.unprovable:
            raise UnprovableChain("headers of another form")
        return header_of(block)

    def latest_checkpoint(self) -> AcceptedHeader | None:
        self._asked()
        return self.last

    def undrawn(self) -> DrawDue | None:
        self._asked()
        return self.due

    def draw(self, due: DrawDue) -> TxId:
        self.drawn.append(due)
        return TxId(bytes(32))

    def status(self, tx: TxId) -> TxStatus:
        raise ChainUnreachable("not now")

    def sender(self) -> NodeId:
        return ME

    def coin(self, address: NodeId) -> int:
        return 5

    def maintain(self) -> int:
        self._asked()
        return 0


def deposit(number: int) -> Deposited:
    return Deposited(number - START, ME, 7)


class Sights:
    """What the machine holds of the chain: as much as it was told, or as its ledger is anchored."""

    def __init__(self) -> None:
        self.cursor = AnchorBlock(0, Digest(bytes(32)))
        self.through = 0
        self.full = False
        self.anchors: list[bytes] = []

    def knows(self, block: Digest) -> bool:
        return header_of(block) in self.anchors


class Machine:
    """An oracle's machine that takes down what it is told."""

    def __init__(self) -> None:
        self.chain = Sights()
        header = SimpleNamespace(epoch=1, height=50)
        self.simplex = SimpleNamespace(tree=SimpleNamespace(base=SimpleNamespace(header=header)))
        self.told: list[object] = []

    def dispatch(self, event: object) -> None:
        self.told.append(event)
        match event:
            case ChainSeen() if event.after == self.chain.through:
                self.chain.through = event.through
            case ChainLost():
                self.chain.through = self.chain.cursor.number
            case AnchorsSeen():
                self.chain.anchors += event.headers

    @property
    def events(self) -> list[tuple[int, object]]:
        return [item for event in self.told if isinstance(event, ChainSeen) for item in event.events]

    def anchored(self, number: int) -> None:
        """The ledger is anchored at a block."""
        self.chain.cursor = AnchorBlock(number, hash_of(number))
        self.chain.through = max(self.chain.through, number)


@dataclass
class Watched:
    chain: Scripted
    machine: Machine
    sender: ChainSender
    watch: ChainWatch


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    async def call(what: Any, *args: Any, **_: object) -> Any:
        await trio.lowlevel.checkpoint()
        return what(*args)

    # Worker threads know no virtual time.
    monkeypatch.setattr(chain_sender.trio.to_thread, "run_sync", call)


@asynccontextmanager
async def watching(chain: Scripted, machine: Machine | None = None) -> AsyncIterator[Watched]:
    async def keep(_: Digest) -> None:
        await trio.lowlevel.checkpoint()

    machine, seam = machine or Machine(), chain
    sender = ChainSender(seam, ME, keep)  # type: ignore[arg-type]
    watch = ChainWatch(machine, seam, PARAMS, sender, machine.dispatch)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        yield Watched(chain, machine, sender, watch)
        nursery.cancel_scope.cancel()


def all_up_to(number: int) -> list[tuple[int, object]]:
    return [(each, deposit(each)) for each in range(START + 1, number + 1)]


async def test_all_events_are_told_in_order_with_the_blocks_an_anchor_may_be(
    autojump_clock: trio.testing.MockClock,
) -> None:
    chain = Scripted(head=30)
    async with watching(chain) as at:
        await trio.sleep(0.1)
        assert at.machine.events == all_up_to(30)
        seen = [event for event in at.machine.told if isinstance(event, ChainSeen)]
        assert [event.after for event in seen] == [0, *(event.through for event in seen[:-1])]
        assert seen[-1].blocks == tuple(AnchorBlock(number, hash_of(number)) for number in (16, 20, 24, 28))
        chain.head = 33
        await trio.sleep(POLL_S_MAX)
        assert at.machine.events == all_up_to(33)
        assert at.watch.status()["finalized"] == at.watch.status()["read"] == 33


@pytest.mark.spec("ANCHOR-HEADERS.1")
async def test_the_headers_of_blocks_an_anchor_may_be_are_shown_once(autojump_clock: trio.testing.MockClock) -> None:
    machine, chain = Machine(), Scripted(head=30)
    machine.anchored(8)
    async with watching(chain, machine) as at:
        await trio.sleep(0.1)
        shown = [header_of(hash_of(number)) for number in range(8, 29, STRIDE)]
        assert at.machine.chain.anchors[0] == shown[0]
        assert sorted(at.machine.chain.anchors) == sorted(shown)
        chain.head = 33
        await trio.sleep(POLL_S_MAX)
        assert at.machine.chain.anchors[-1] == header_of(hash_of(32))
        assert chain.headers_asked == len(shown) + 1


@pytest.mark.spec("ANCHOR-HEADERS.1")
async def test_a_chain_without_provable_headers_is_read_all_the_same(autojump_clock: trio.testing.MockClock) -> None:
    chain = Scripted(head=30, unprovable=True)
    async with watching(chain) as at:
        await trio.sleep(0.1)
        assert at.machine.events == all_up_to(30)
        assert at.watch.trouble == ""
        asked = chain.headers_asked
        await trio.sleep(3 * POLL_S_MAX)
        assert chain.headers_asked == asked
        assert at.machine.chain.anchors == []


async def test_a_restart_reads_on_from_the_ledgers_anchor(autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine()
    machine.anchored(8)
    async with watching(Scripted(head=12), machine) as at:
        await trio.sleep(0.1)
        assert at.machine.events == all_up_to(12)[6:]
        assert at.watch.status()["lag_blocks"] == 4


async def test_while_the_machine_is_full_nothing_is_read(autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine()
    machine.chain.full = True
    async with watching(Scripted(head=12), machine) as at:
        await trio.sleep(30)
        assert at.machine.events == []
        assert ContractSeen(None, None) in at.machine.told
        machine.chain.full = False
        await trio.sleep(POLL_S_MAX)
        assert at.machine.events == all_up_to(12)


async def test_an_outage_is_waited_out_calmly_and_nothing_is_skipped(autojump_clock: trio.testing.MockClock) -> None:
    chain = Scripted(head=6, due=DrawDue(3, (ME,)))
    async with watching(chain) as at:
        await trio.sleep(0.1)
        chain.down, chain.head = True, 20
        at.sender.performers()[RecordDraw](RecordDraw(3))
        calls = chain.calls
        await trio.sleep(10 * OUTAGE_POLL_S)
        assert chain.calls - calls < 15
        assert at.watch.status()["trouble"] == "no endpoint answers"
        chain.down = False
        await trio.sleep(2 * OUTAGE_POLL_S)
        assert at.machine.events == all_up_to(20)
        assert chain.drawn == [DrawDue(3, (ME,))]
        assert at.watch.status()["trouble"] == ""


async def test_a_changed_history_is_told_and_read_again_from_the_anchor(autojump_clock: trio.testing.MockClock) -> None:
    chain = Scripted(head=12)
    async with watching(chain) as at:
        await trio.sleep(0.1)
        chain.history, chain.head = 1, 14
        await trio.sleep(20)
        assert ChainLost() in at.machine.told
        assert at.machine.events == [*all_up_to(12), *all_up_to(14)]
        at.machine.anchored(8)
        chain.history = 2
        await trio.sleep(30)
        assert at.watch.status()["trouble"] == "block 8 is not what it was", "the ledger stands on another chain"


async def test_what_the_contracts_say_is_told_and_what_is_to_be_sent_wakes_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    digest = Digest(b"\x05" * 32)
    chain = Scripted(last=AcceptedHeader(digest, 1, 40, 0, 1), due=DrawDue(3, ()))
    async with watching(chain) as at:
        await trio.sleep(60)
        assert ContractSeen(Accepted(1, 40, digest), 3) in at.machine.told
        before = trio.current_time()
        at.sender.performers()[RecordDraw](RecordDraw(3))
        await trio.sleep(0.01)
        assert chain.drawn == [DrawDue(3, ())]
        assert trio.current_time() - before < POLL_S
        status = at.watch.status()
        assert (status["checkpoint"], status["ahead"]) == ({"epoch": 1, "height": 40}, 10)
