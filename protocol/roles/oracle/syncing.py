"""Catching up: pages of blocks and nullifications, asked of one peer after another and merged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from protocol.committee import storage
from protocol.committee.repeats import wanted
from protocol.committee.simplex import Simplex
from protocol.core.codec import pack
from protocol.core.errors import DecodeError
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelNumbers, Close, Open, Send
from protocol.core.params import Params
from protocol.messages.committee import PAGE_BLOCKS_MAX, Block, Certificate, SyncPage, SyncRequest

PAGE_BYTES_MAX = 950_000
"""A page stays below the limit of its kind; a single block always fits."""
ANSWER_TIMEOUT_DELTAS = 4
"""A page is awaited this many Δ, then the next peer is asked, and given twice as long."""
DOUBLINGS_MAX = 6
SERVED_MAX = 64
"""Streams on which others may ask at once."""
CLAIMS_MAX = 64
FRUITLESS_MAX = 31
"""Questions without a step forward, after which claims to be ahead are forgotten."""

Load = Callable[[bytes], Mapping[bytes, bytes]]
"""This node's own durable records whose key starts so."""

Slot = tuple[int, int]


@dataclass(slots=True)
class _Asked:
    channel: Channel
    peer: NodeId
    request: SyncRequest


class Syncing:
    """One question at a time. A peer that brings nothing new is followed by the next one.

    Spec: [SYNC-MERGE.1]
    """

    def __init__(self, numbers: ChannelNumbers, params: Params) -> None:
        self._numbers = numbers
        self._params = params
        self._asked: _Asked | None = None
        self._asked_ms = 0
        self._answer_by_ms: int | None = None
        self._doublings = 0
        self._not_before_ms = 0
        self._waiting = False
        self._turn = 0
        self._fruitless = 0
        self._cursor: Slot | None = None
        """The last height that came in this round through the missing heights."""
        self._ahead: dict[NodeId, Slot] = {}
        """Where peers say they are, until it has been looked into."""
        self.served: set[Channel] = set()
        """Streams on which others ask."""

    def next_deadline(self) -> int | None:
        """When the peer asked has had its time, or the next may be asked."""
        if self._asked is not None:
            return self._answer_by_ms
        return self._not_before_ms if self._waiting else None

    def serve(self, channel: Channel) -> list[object]:
        """A peer opened a stream to ask on."""
        if len(self.served) >= SERVED_MAX:
            return [Close(channel)]
        self.served.add(channel)
        return []

    def claim(self, peer: NodeId, at: Slot) -> None:
        """A peer says, or shows, that it is at a slot."""
        if peer in self._ahead or len(self._ahead) < CLAIMS_MAX:
            self._ahead[peer] = at

    def forget(self, peer: NodeId) -> None:
        """A peer is no member any more, or gone."""
        self._ahead.pop(peer, None)

    def look(self, simplex: Simplex, me: NodeId, now_ms: int) -> list[object]:
        """Ask the next member if something is missing and nobody is asked."""
        if self._asked is not None:
            return []
        missing = self._missing(simplex)
        self._waiting = missing is not None
        if missing is None:
            self._cursor = None
            return []
        if now_ms < self._not_before_ms:
            return []
        peers = [member for member in simplex.committee.members if member != me]
        claims = [peer for peer, slot in self._ahead.items() if slot[0] > simplex.committee.epoch and peer != me]
        # The members of an epoch that is long past may all be gone: then whoever says that it is further is asked, too.
        among = [peer for peer in peers if peer in claims] or list(dict.fromkeys((*peers, *claims)))
        peer = among[self._turn % len(among)]
        epoch, (first, last) = simplex.committee.epoch, missing
        if self._cursor is not None and self._cursor[0] == epoch and first <= self._cursor[1] < last:
            first = self._cursor[1] + 1
        request = SyncRequest(epoch, first, last)
        channel = self._numbers.take()
        self._asked = _Asked(channel, peer, request)
        self._asked_ms = now_ms
        self._answer_by_ms = now_ms + self._patience_ms()
        return [Open(channel, peer, "sync"), Send(channel, request)]

    def _missing(self, simplex: Simplex) -> tuple[int, int] | None:
        base = simplex.tree.base.header.height
        at = (simplex.committee.epoch, simplex.height)
        if any(slot[0] > at[0] for slot in self._ahead.values()):
            return base + 1, base + PAGE_BLOCKS_MAX
        return wanted(simplex)

    def _patience_ms(self) -> int:
        """Grows with every page that did not come in time, so that it outgrows any delay."""
        return ANSWER_TIMEOUT_DELTAS * self._params.delta_ms << self._doublings

    def answered(self, channel: Channel, now_ms: int) -> SyncRequest | None:
        """The question that a stream's page answers, if it was asked there; the stream is done with."""
        asked = self._asked
        if asked is None or asked.channel != channel:
            return None
        self._asked = None
        if 4 * (now_ms - self._asked_ms) < self._patience_ms():
            self._doublings = max(0, self._doublings - 1)
        return asked.request

    def judge(self, request: SyncRequest, page: SyncPage, progress: bool, now_ms: int) -> None:
        """What a page has brought decides what is asked next, and whom."""
        heights = [block.header.height for block in page.blocks] + [cert.height for cert in page.nullifications]
        reached = max(heights, default=0)
        if progress:
            self._cursor, self._fruitless = None, 0
        elif request.first <= reached < request.last:
            self._cursor = (request.epoch, reached)
        else:
            self._failed(now_ms)

    def timed_out(self, now_ms: int) -> list[object]:
        """Give up the peer that was asked, if its time is over."""
        if self._asked is None or self._answer_by_ms is None or now_ms < self._answer_by_ms:
            return []
        channel = self._asked.channel
        self._doublings = min(DOUBLINGS_MAX, self._doublings + 1)
        self.lost(channel, now_ms)
        return [Close(channel)]

    def lost(self, channel: Channel, now_ms: int) -> bool:
        """The stream of a question is gone; whether it was one."""
        if self._asked is None or self._asked.channel != channel:
            return False
        self._ahead.pop(self._asked.peer, None)
        self._asked = None
        self._failed(now_ms)
        return True

    def _failed(self, now_ms: int) -> None:
        self._turn += 1
        self._fruitless += 1
        if self._fruitless >= FRUITLESS_MAX:
            # Whoever claimed to be ahead could not show it to anybody.
            self._fruitless = 0
            self._ahead.clear()
        self._cursor = None
        self._not_before_ms = now_ms + self._params.delta_ms


def make_page(load: Load, simplex: Simplex, request: SyncRequest) -> SyncPage:
    """As many of the blocks asked for as fit into a page, from disk and from what is not final yet."""
    tree, mine = simplex.tree, simplex.committee.epoch
    last = min(request.last, request.first + PAGE_BLOCKS_MAX - 1)
    blocks: list[Block] = []
    nullifications: list[Certificate] = []
    size = 0
    for height in range(request.first, last + 1):
        found = _stored(load, request.epoch, height) if request.epoch <= mine else None
        if found is None and request.epoch == mine:
            found = _open(simplex, height)
        size += len(pack(found)) if found is not None else 0
        if size > PAGE_BYTES_MAX and blocks:
            break
        if found is not None:
            blocks.append(found)
        if request.epoch == mine and height in tree.nullifications:
            nullifications.append(tree.nullifications[height])
            size += len(pack(nullifications[-1]))
    return SyncPage(request.epoch, tuple(blocks), tuple(nullifications), mine, tree.final_height)


def _stored(load: Load, epoch: int, height: int) -> Block | None:
    key = storage.chain_key(epoch, height)
    data = load(key).get(key)
    try:
        return None if data is None else storage.unpack_block(data)
    except DecodeError:
        return None  # another member has it


def _open(simplex: Simplex, height: int) -> Block | None:
    """A block that is not final here: certified, or proposed for the height that is being decided."""
    tree = simplex.tree
    certificate = tree.finalizations.get(height) or tree.notarizations.get(height)
    digest = certificate.header if certificate is not None else simplex.proposed(height)
    if digest is None or digest not in tree.bodies:
        return None
    return Block(tree.headers[digest], tree.bodies[digest], certificate)
