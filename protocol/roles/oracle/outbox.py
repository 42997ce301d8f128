"""What is to go into this oracle's batches: values of lanes, and what others have signed for the ledger.

A value is signed once, in a batch of its lane's home epoch. Everything else may ride in any batch, needs to be in one
block once, and is deduplicated by the ledger: f+1 oracles include an item at once, so one of them is correct, and the
others only if it is not in the ledger a while later.
"""

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field

from protocol.core.codec import pack
from protocol.core.deadlines import Deadlines
from protocol.core.ids import NOBODY, NodeId
from protocol.core.params import Params
from protocol.core.signing import keccak
from protocol.ledger.words import follows
from protocol.messages.chain import ChainWord
from protocol.messages.results import (
    Content,
    Observation,
    Opening,
    SignedClose,
    SignedEnlist,
    SignedEntry,
    SignedSession,
    SignedWithdraw,
    TestReport,
)
from protocol.results.observing import Desk
from protocol.results.papers import Lane
from protocol.roles.oracle.ledger_view import Item, LedgerView

ITEMS_MAX = 4_096
OF_PEER_MAX = 256
"""Items of one peer that wait."""
REPORTS_MAX = 1_024
WORDS_MAX = 8
TRIES_MAX = 4
"""Batches of this oracle in which an item goes out before it is given up."""
OVERHEAD_BYTES = 40
"""More than a content takes beside its items."""

_FIELDS: dict[type, str] = {
    Opening: "openings",
    SignedSession: "sessions",
    SignedClose: "closes",
    SignedWithdraw: "withdrawals",
    SignedEnlist: "enlistments",
    SignedEntry: "entries",
}


@dataclass(slots=True)
class _Waiting:
    item: Item
    peer: NodeId
    bytes: int
    tries: int = 0


@dataclass(slots=True)
class Draft:
    """What the next batch is to hold."""

    home_epoch: int
    values: list[tuple[Lane, Observation]] = field(default_factory=list)
    items: list[bytes] = field(default_factory=list)
    """Of those that wait, their names."""
    reports: list[TestReport] = field(default_factory=list)
    words: list[ChainWord] = field(default_factory=list)
    content: bytes = b""


class Outbox:
    """See the module. Spec: [BATCH-CONTENT.1] [BATCH-SHARED.1]"""

    def __init__(self, params: Params, desk: Desk, bytes_max: int) -> None:
        self._desk = desk
        self._wait_ms = 2 * params.resend_interval_ms
        self._room = bytes_max - OVERHEAD_BYTES
        self._stride = params.anchor_stride
        self._values: dict[int, dict[Lane, None]] = {}
        self._items: dict[bytes, _Waiting] = {}
        self._due: Deadlines[bytes] = Deadlines()
        self._ready: dict[bytes, None] = {}
        """Items that were due, and are in no batch since."""
        self._of_peer: Counter[NodeId] = Counter()
        self._reports: dict[tuple[bytes, int], TestReport] = {}
        self._reported: dict[tuple[bytes, int], None] = {}
        self._words: dict[ChainWord, None] = {}

    @property
    def owes(self) -> bool:
        """Whether anything waits for a batch, a lane's value or what others have signed."""
        return bool(self._values or self._items)

    @property
    def openings(self) -> int:
        """How many openings wait."""
        return sum(isinstance(waiting.item, Opening) for waiting in self._items.values())

    @property
    def items(self) -> int:
        """How many items wait, openings among them."""
        return len(self._items)

    # What comes in

    def value(self, home_epoch: int, lane: Lane) -> None:
        """The desk has fixed the value of a lane."""
        self._values.setdefault(home_epoch, {})[lane] = None

    def add(self, item: Item, peer: NodeId, place: int | None, size: int, now_ms: int) -> bool:
        """Something for the ledger; whether it waits now, and did not before. ``place`` is this oracle's in the present
        committee of so many."""
        packed = pack(item)
        name = keccak(packed)
        if name in self._items or len(packed) > self._room or place is None:
            return False
        if len(self._items) >= ITEMS_MAX or self._of_peer[peer] >= OF_PEER_MAX:
            return False
        self._items[name] = _Waiting(item, peer, len(packed))
        self._due.set(name, now_ms if includes_at_once(name, place, size) else now_ms + self._wait_ms)
        if peer != NOBODY:
            self._of_peer[peer] += 1
        return True

    def report(self, report: TestReport) -> None:
        """What a test of this oracle's has come to; one word a test."""
        test = (report.miner, report.test)
        if test not in self._reported and len(self._reports) < REPORTS_MAX:
            self._reported[test] = None
            self._reports[test] = report
            if len(self._reported) > 4 * REPORTS_MAX:
                del self._reported[next(iter(self._reported))]

    def word(self, word: ChainWord) -> None:
        """What this member has to say of the chain."""
        if len(self._words) < WORDS_MAX:
            self._words[word] = None

    def reserved(self, sessions: Container[bytes]) -> None:
        """Sessions have something in the ledger that they had not: their openings are of use now."""
        for name, waiting in self._items.items():
            if isinstance(waiting.item, Opening) and waiting.item.order.session in sessions:
                self._due.clear(name)
                self._ready[name] = None

    def settled(self, lanes: Iterable[Lane]) -> None:
        """The ledger has decided lanes: nobody needs to be told their values any more."""
        for lane in lanes:
            for home_epoch in list(self._values):
                self._values[home_epoch].pop(lane, None)
                if not self._values[home_epoch]:
                    del self._values[home_epoch]

    def keep(self, homes: Mapping[int, Collection[NodeId]]) -> None:
        """An epoch has begun: values and openings of lanes of no home are of no use, and who is in no home any more has
        no batch for anything."""
        mine = [epoch for epoch, members in homes.items() if self._desk.me in members]
        self._values = {epoch: lanes for epoch, lanes in self._values.items() if epoch in mine}
        for name, waiting in list(self._items.items()):
            item = waiting.item
            if not mine or (isinstance(item, Opening) and item.order.home_epoch not in homes):
                self._drop(name)
        if not mine:
            self._reports.clear()

    # What goes out

    def next_deadline(self) -> int | None:
        """When something is due for a batch; values, reports and words always are."""
        return 0 if self._values or self._reports or self._words or self._ready else self._due.next()

    def draft(self, view: LedgerView, epoch: int, may_sign: Callable[[int], bool], now_ms: int) -> Draft | None:
        """The next batch, the oldest home epoch first; None if nothing is to be signed now."""
        self._ready.update(dict.fromkeys(self._due.due(now_ms)))
        for home_epoch in filter(may_sign, sorted({*self._values, epoch})):
            made = Draft(home_epoch)
            room = self._fill_values(made, view, self._room)
            if home_epoch == epoch:
                room = self._fill_words(made, view, room)
                room = self._fill_reports(made, room)
                self._fill_items(made, view, room, now_ms)
            if made.values or made.items or made.reports or made.words:
                made.content = pack(self._content(made))
                return made
        return None

    def signed(self, draft: Draft, now_ms: int) -> None:
        """A draft is in a batch."""
        for lane, _ in draft.values:
            self._values.get(draft.home_epoch, {}).pop(lane, None)
        for report in draft.reports:
            self._reports.pop((report.miner, report.test), None)
        for word in draft.words:
            self._words.pop(word, None)
        for name in draft.items:
            self._items[name].tries += 1
            self._later(name, now_ms + 2 * self._wait_ms)
            if self._items[name].tries >= TRIES_MAX:
                self._drop(name)

    def _fill_values(self, made: Draft, view: LedgerView, room: int) -> int:
        lanes = self._values.get(made.home_epoch, {})
        for lane in list(lanes):
            value = self._desk.unsigned(lane, view)
            if value is None:
                del lanes[lane]
                continue
            size = len(pack(value))
            if size > room:
                break
            room -= size
            made.values.append((lane, value))
        if not lanes:
            self._values.pop(made.home_epoch, None)
        return room

    def _fill_words(self, made: Draft, view: LedgerView, room: int) -> int:
        """Those that still follow from where the ledger stands, if this oracle is of the present committee."""
        chain = None if view.state is None else view.state.chain
        for word in list(self._words):
            if chain is None or not view.is_member(self._desk.me) or not follows(chain, word, self._stride):
                del self._words[word]
            elif (size := len(pack(word))) <= room:
                room -= size
                made.words.append(word)
        return room

    def _fill_reports(self, made: Draft, room: int) -> int:
        for report in self._reports.values():
            size = len(pack(report))
            if size > room:
                break
            room -= size
            made.reports.append(report)
        return room

    def _fill_items(self, made: Draft, view: LedgerView, room: int, now_ms: int) -> None:
        for name in list(self._ready):
            waiting = self._items[name]
            if waiting.bytes <= room and self._is_of_use(name, waiting, view, now_ms):
                room -= waiting.bytes
                made.items.append(name)

    def _is_of_use(self, name: bytes, waiting: _Waiting, view: LedgerView, now_ms: int) -> bool:
        """Whether an item that is due goes out now. What the ledger would not take is dropped; an opening waits for its
        session's reservation, and goes out with its oracle's value of the lane, before the ledger can know the lane."""
        item = waiting.item
        if not isinstance(item, Opening):
            if not view.takes(item):
                self._drop(name)
                return False
            return True
        if not view.reserved(item.order.session):
            self._later(name, now_ms + self._wait_ms)
            return False
        if waiting.tries == 0 and not view.decided((item.order.session, item.order.task, item.lane)):
            return True
        if not view.takes(item):
            self._drop(name)
            return False
        return True

    def _content(self, draft: Draft) -> Content:
        fields: dict[str, list[object]] = {}
        for name in draft.items:
            item = self._items[name].item
            fields.setdefault(_FIELDS[type(item)], []).append(item)
        values = tuple(value for _, value in draft.values)
        packed = {name: tuple(items) for name, items in fields.items()}
        other = {"reports": tuple(draft.reports), "words": tuple(draft.words)}
        return Content(observations=values, **other, **packed)  # type: ignore[arg-type]

    def _later(self, name: bytes, at_ms: int) -> None:
        self._ready.pop(name, None)
        self._due.set(name, at_ms)

    def _drop(self, name: bytes) -> None:
        self._ready.pop(name, None)
        self._due.clear(name)
        peer = self._items.pop(name).peer
        self._of_peer[peer] -= 1
        if self._of_peer[peer] <= 0:
            del self._of_peer[peer]


def includes_at_once(name: bytes, place: int, size: int) -> bool:
    """Whether the oracle at a place in a committee is one of the f+1 that include an item at once.

    Spec: [BATCH-SHARED.1]
    """
    faulty_max = (size - 1) // 3
    return (int.from_bytes(name[:8], "big") + place) % size <= faulty_max
