"""An oracle's transactions: what its machine wants settled, sent from worker threads, one thing after the other.

The machine says again what is still due, so nothing need be kept here for long: of checkpoints only the newest waits,
and whatever the contract refuses, or has already, is dropped. Raising fees and sending again is the chain client's.
"""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from chain.api import Chain, TxId, TxState
from chain.errors import ChainError, NoFunds, Reverted, TransactionFailed
from protocol.core.ids import Digest, NodeId
from protocol.settlement.duty import RecordDraw, ReportEvidence, SubmitHeader

log = logging.getLogger(__name__)

EVIDENCE_MAX = 64
"""Pieces that wait to be sent; the machine says those beyond it again."""

Keep = Callable[[Digest], Awaitable[None]]
"""Told each header that becomes, or has become, a checkpoint."""


class ChainSender:
    """See the module. Each call of :meth:`work` does what can be done now."""

    def __init__(self, chain: Chain, reporter: NodeId, keep: Keep) -> None:
        self._chain = chain
        self._reporter = reporter
        self.keep = keep
        self._header: SubmitHeader | None = None
        self._draw: RecordDraw | None = None
        self._evidence: OrderedDict[NodeId, ReportEvidence] = OrderedDict()
        self._sent: tuple[str, TxId] | None = None
        self.wake = trio.Event()
        """Set when there is something to do."""
        self.under_way = 0
        """Transactions that are sent and not final."""
        self.last = ""
        """What became of the last thing that was to be sent, for the operator."""

    def performers(self) -> Mapping[type, Callable[[object], None]]:
        """What takes the machine's effects."""
        return {SubmitHeader: self._take, RecordDraw: self._take, ReportEvidence: self._take}

    def _take(self, effect: object) -> None:
        match effect:
            case SubmitHeader():
                self._header = effect
            case RecordDraw():
                self._draw = effect
            case ReportEvidence() if effect.convicted in self._evidence or len(self._evidence) < EVIDENCE_MAX:
                self._evidence[effect.convicted] = effect
        self.wake.set()

    async def work(self) -> None:
        """Send what waits, and look after what was sent. Raises ChainError where the chain cannot be reached: then all
        of it waits on."""
        self.wake = trio.Event()
        # First, so that what was sent before makes room.
        self.under_way = await in_thread(self._chain.maintain)
        if self._header is not None:
            header = self._header
            await self.keep(Digest(header.certified.certificate.header))
            await self._sending(self._submit, header)
            # Meanwhile the machine may have asked for a newer one.
            self._header = None if self._header is header else self._header
        if self._draw is not None:
            draw = self._draw
            await self._sending(self._record_draw, draw)
            self._draw = None if self._draw is draw else self._draw
        for convicted, report in list(self._evidence.items()):
            await self._sending(self._slash, report)
            self._evidence.pop(convicted, None)
        await self._look_at_last()

    async def _sending(self, send: Callable[[Any], str | None], what: object) -> None:
        """One thing; what the contract refuses is none any more."""
        try:
            told = await in_thread(send, what)
        except (Reverted, NoFunds, TransactionFailed) as error:
            told = f"not sent: {error}"
        if told is not None:
            log.info("settling: %s", told)
            self.last = told

    def _submit(self, effect: SubmitHeader) -> str | None:
        header = effect.certified.header
        assert header is not None
        last = self._chain.latest_checkpoint()
        if last is not None and (last.epoch, last.height) >= (header.epoch, header.height):
            return None
        what = f"checkpoint {header.epoch}/{header.height}"
        self._sent = what, self._chain.submit_checkpoint(effect.certified, effect.members)
        return f"{what} sent"

    def _record_draw(self, effect: RecordDraw) -> str | None:
        due = self._chain.undrawn()
        if due is None or due.epoch != effect.epoch:
            return None
        self._sent = f"draw of epoch {due.epoch}", self._chain.draw(due)
        return f"draw of epoch {due.epoch} sent"

    def _slash(self, effect: ReportEvidence) -> str | None:
        what = f"evidence against 0x{effect.convicted.hex()}"
        self._sent = what, self._chain.slash(effect.evidence, self._reporter)
        return f"{what} sent"

    async def _look_at_last(self) -> None:
        """Say what became of what was sent last."""
        if self._sent is None:
            return
        what, tx = self._sent
        try:
            status = await in_thread(self._chain.status, tx)
        except ChainError as error:
            self._sent, self.last = None, f"{what}: {error}"
            return
        if status.state is TxState.PENDING:
            return
        if status.state is TxState.FAILED:
            self._sent, self.last = None, f"{what} failed: {status.reason}"
            log.warning("settling: %s", self.last)
        else:
            self.last = f"{what} in block {status.block_number}"
            self._sent = None if status.state is TxState.FINAL else self._sent


async def in_thread(call: Callable[..., Any], *args: Any) -> Any:
    """A call of the chain in a worker thread. Each has a deadline of its own, so one that is left behind ends."""
    return await trio.to_thread.run_sync(call, *args, abandon_on_cancel=True)  # type: ignore[call-arg]
