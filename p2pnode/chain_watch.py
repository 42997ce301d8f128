"""An oracle's eyes on the chain: events and final blocks for its machine, from worker threads.

What was read is kept nowhere but in the machine: its ledger's anchor is what a restart reads on from. An outage is
waited out, and shown; the committee goes on without the chain.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import trio

from chain.api import Chain, EventCursor, EventPage
from chain.errors import ChainError, HistoryChanged, UnprovableChain
from p2pnode.chain_sender import ChainSender, in_thread
from protocol.core.ids import Digest
from protocol.core.params import Params
from protocol.messages.chain import Accepted
from protocol.roles.oracle import AnchorsSeen, ChainLost, ChainSeen, ContractSeen, OracleMachine
from protocol.settlement.words import AnchorBlock

log = logging.getLogger(__name__)

POLL_S, POLL_S_MAX = 0.5, 6.0
"""Between two looks, while there is something new, and at most: an endpoint may count its calls."""
PAGE_EVENTS = 256
BLOCKS_SHOWN = 4
"""Of the blocks that an anchor may be, the last."""
UNPROVABLE_KEPT = 16
OUTAGE_POLL_S = 2.0


class ChainWatch:
    """See the module."""

    def __init__(
        self,
        machine: OracleMachine,
        chain: Chain,
        params: Params,
        sender: ChainSender,
        dispatch: Callable[[object], None],
    ) -> None:
        self._machine = machine
        self._chain = chain
        self._params = params
        self._sender = sender
        self._dispatch = dispatch
        self._cursor: EventCursor | None = None
        self._coin = 0
        self._pause_s = POLL_S
        self.finalized = 0
        """The last final block that was seen."""
        self.trouble = ""
        """Why the chain cannot be asked now; empty where it can."""
        self._accepted: Accepted | None = None
        self._unprovable: deque[Digest] = deque(maxlen=UNPROVABLE_KEPT)
        """Blocks whose headers do not give their hashes: they are not asked for again."""

    async def run(self) -> None:
        """Watch and settle until cancelled."""
        while True:
            before = (self.finalized, self._accepted, self._sender.under_way)
            try:
                await self._once()
                self._told("")
            except HistoryChanged as error:
                self._told(str(error))
                self._cursor = None
                self._dispatch(ChainLost())
            except ChainError as error:
                self._told(str(error))
            now = (self.finalized, self._accepted, self._sender.under_way)
            self._pause_s = POLL_S if now != before else min(2 * self._pause_s, POLL_S_MAX)
            if self.trouble:
                # What is to be sent meanwhile waits as well.
                await trio.sleep(OUTAGE_POLL_S)
                continue
            with trio.move_on_after(self._pause_s):
                await self._sender.wake.wait()

    def _told(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning("the chain: %s", trouble or "it can be asked again")
        self.trouble = trouble

    async def _once(self) -> None:
        """Read what is new, say it, and send what is due. Raises ChainError."""
        anchor = self._machine.chain.cursor
        await self._show([anchor] if anchor.number else [])
        more = True
        while more and not self._machine.chain.full:
            more = await self._read_on()
        accepted, undrawn = await in_thread(self._look)
        self._accepted = accepted
        if accepted is not None:
            await self._sender.keep(Digest(accepted.digest))
        self._dispatch(ContractSeen(accepted, undrawn))
        await self._sender.work()

    async def _read_on(self) -> bool:
        """The next page of events; whether more follow."""
        chain = self._machine.chain
        if self._cursor is None or self._cursor.number != chain.through:
            number, hash_ = chain.cursor
            self._cursor = EventCursor(number, Digest(hash_)) if number else await in_thread(self._chain.start)
            if number != chain.through:
                # The machine reads from its ledger's anchor, or not at all.
                self._dispatch(ChainLost())
        before = self._cursor
        page, blocks = await in_thread(self._page, before)
        for _, event in page.events:
            if isinstance(event, Accepted):
                await self._sender.keep(Digest(event.digest))
        await self._show(blocks)
        if page.through > before.number:
            self._dispatch(ChainSeen(chain.through, page.through, page.events, blocks))
        self._cursor = page.cursor
        return bool(page.more)

    async def _show(self, blocks: Iterable[AnchorBlock]) -> None:
        """The headers of blocks at which the ledger is, or may be, anchored, as far as the chain gives them."""
        chain = self._machine.chain
        ahead = (block.hash for block in blocks if block.number >= chain.cursor.number)
        wanted = [block for block in ahead if not chain.knows(block)]
        headers = await in_thread(self._headers, wanted) if wanted else ()
        if headers:
            self._dispatch(AnchorsSeen(headers))

    def _headers(self, wanted: Iterable[Digest]) -> tuple[bytes, ...]:
        """In a worker thread. Raises nothing: hand-overs go on without them."""
        found = []
        for block in wanted:
            try:
                found += [] if block in self._unprovable else [self._chain.block_header(block)]
            except UnprovableChain as error:
                if not self._unprovable:
                    log.warning("the chain: hand-overs will have no time of their own: %s", error)
                self._unprovable.append(block)
            except ChainError:
                break  # the next call tells what is wrong
        return tuple(found)

    def _page(self, cursor: EventCursor) -> tuple[EventPage, tuple[AnchorBlock, ...]]:
        """In a worker thread."""
        self.finalized = self._chain.finalized().number
        page = self._chain.events(cursor, PAGE_EVENTS)
        stride = self._params.anchor_stride
        last = page.through // stride * stride
        numbers = [number for number in range(last - (BLOCKS_SHOWN - 1) * stride, last + 1, stride) if number > 0]
        return page, tuple(AnchorBlock(number, self._chain.block_at(number).hash) for number in numbers)

    def _look(self) -> tuple[Accepted | None, int | None]:
        """In a worker thread: what the contracts say at the latest block."""
        last, due = self._chain.latest_checkpoint(), self._chain.undrawn()
        sender = self._chain.sender()
        self._coin = 0 if sender is None else self._chain.coin(sender)
        accepted = None if last is None else Accepted(last.epoch, last.height, last.digest)
        return accepted, None if due is None else due.epoch

    def status(self) -> dict[str, Any]:
        """For the operator."""
        chain, final = self._machine.chain, self._machine.simplex.tree.base
        anchor = chain.cursor[0]
        last = self._accepted
        sender = self._chain.sender()
        return {
            "finalized": self.finalized,
            "read": chain.through,
            "anchor": anchor,
            "lag_blocks": max(0, self.finalized - anchor),
            "checkpoint": None if last is None else {"epoch": last.epoch, "height": last.height},
            "ahead": None if last is None else _ahead(final.header.epoch, final.header.height, last),
            "transactions": self._sender.under_way,
            "last": self._sender.last,
            "account": None if sender is None else "0x" + sender.hex(),
            "coin": self._coin,
            "trouble": self.trouble,
        }


def _ahead(epoch: int, height: int, last: Accepted) -> int | None:
    """Final blocks that the contract does not know of yet; in a later epoch only the epochs are compared."""
    return height - last.height if epoch == last.epoch else None
