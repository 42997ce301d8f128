"""Sending transactions so that each thing is done once, whatever ends in between.

A transaction has a nonce, and a nonce is used up once: whatever happens, of all forms signed for one nonce a chain
mines one. So a form is durable before it is sent; if it is not mined it is sent again, then with a higher fee, and at
its deadline its nonce is used up by doing nothing. What became of it is known when the block is final, and until then
it is looked after: a reorganisation that drops it only means that it is sent again.

Rule: a nonce is signed for something else only in the place of a form in no block, and only one of the two can be done.

Spec: [CHAIN-NONCE.1]
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from chain.api import EvmBlock, TxId, TxState, TxStatus
from chain.binding import reason_of
from chain.endpoint import Refused
from chain.errors import ChainError, ChainUnreachable, NoFunds, Reverted, RpcNonsense, TransactionFailed
from chain.journal import Entry, Form, Journal
from chain.replies import Block, Receipt, octets, quantity
from chain.rpc import Rpc, block_call
from chain.signed import Payer, Transaction, hash_of
from protocol.core.ids import Digest

OPEN_MAX = 64
FORMS_MAX = 24
DEADLINE_S = 3_600
BUMP_AFTER_S = 24
"""Two slots of Ethereum."""
LOST_S = 60
"""So long a nonce is used up without a trace of our transaction before it is believed."""
FEE_MAX = 2_000 * 10**9
"""Per gas; more is never offered."""
TIP_DEFAULT = 10**9
POLL_S = 0.2
_BUMP = 9, 8
"""Nodes take another form of a nonce from a tenth more on."""

_KNOWN = ("already known", "known transaction", "already imported", "already in mempool", "alreadyknown")
_UNDERPRICED = ("underpriced", "too low to replace", "replacement fee", "max fee per gas less than block base fee")
_USED = ("nonce too low", "nonce is too low", "oldnonce")
_FUNDS = ("insufficient funds", "insufficient balance", "gas required exceeds allowance")


class Final(Protocol):
    """As much of :class:`chain.finality.Finality` as this needs."""

    def finalized(self) -> EvmBlock:
        """The newest final block."""

    def block_at(self, number: int) -> EvmBlock:
        """A final block."""


@dataclass(frozen=True, slots=True)
class Order:
    """Something to be done on the chain."""

    purpose: bytes
    what: str
    to: bytes
    data: bytes
    value: int = 0
    group: str = ""
    """A later order of a group takes the place of an earlier one that is in no block yet."""
    within_s: int = DEADLINE_S
    gas: int = 0
    """0: as much as the chain estimates, and a quarter."""


class Sender:
    """See the module. Used from any thread: one at a time sends."""

    def __init__(
        self,
        rpc: Rpc,
        finality: Final,
        payer: Payer,
        journal: Journal,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address = payer.node_id
        self._rpc = rpc
        self._finality = finality
        self._payer = payer
        self._journal = journal
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.RLock()

    def send(self, order: Order) -> TxId:
        """See to it that something is done. Names the transaction that is under way for this purpose, if one is.

        Once this has returned, it is durable that it is to be done. Raises Reverted where the chain would refuse it
        now, NoFunds, JournalError; ChainUnreachable if nobody could be asked, and then nothing is to be done.
        """
        with self._lock:
            mine = self._journal.open_entries()
            under_way = next((entry for entry in mine if entry.purpose == order.purpose and not entry.replaced), None)
            if under_way is not None:
                return TxId(under_way.id)
            if len(mine) >= OPEN_MAX:
                raise TransactionFailed(f"{len(mine)} transactions are under way", hint="wait until some are final")
            gas = order.gas or self._estimate(order)
            earlier = self._replaceable(mine, order)
            nonce = self._nonce(mine) if earlier is None else earlier.nonce
            entry = self._signed(order, nonce, gas, earlier)
            self._check_funds(entry)
            replaced = () if earlier is None else (replace(earlier, replaced=True),)
            self._journal.put(entry, *replaced)
            self._push(entry, strict=True)
            return TxId(entry.id)

    def maintain(self) -> int:
        """Look at everything that is under way, and do what is due. Returns how much still is. Raises ChainError."""
        with self._lock:
            entries = self._journal.open_entries()
            if not entries:
                return 0
            final = self._finality.finalized()
            for entry in entries:
                self._observe(entry, final)
            for entry in self._journal.open_entries():
                if entry.state is TxState.PENDING and not entry.replaced and not entry.lost_since_s:
                    self._push(self._renewed(entry), strict=False)
            return len(self._journal.open_entries())

    def status(self, tx: TxId) -> TxStatus:
        """What is known of a transaction, as of the last look. Raises TransactionFailed for one that is not ours."""
        with self._lock:
            entry = self._journal.get(tx)
        if entry is None:
            raise TransactionFailed(f"the journal holds no transaction 0x{tx.hex()}")
        hashed = entry.hash or entry.newest.hash
        return TxStatus(entry.state, Digest(hashed), entry.block_number, entry.gas_used, entry.reason)

    def wait(self, tx: TxId, timeout_s: float, *, final: bool = False) -> TxStatus:
        """Wait until it is in a block, or a final one. Raises TransactionFailed, ChainUnreachable after the time."""
        deadline = time.monotonic() + timeout_s
        trouble: ChainError | None = None
        while True:
            try:
                self.maintain()
            except ChainError as error:
                # An endpoint that was started anew may not have an older block's state for a moment.
                if not error.retry and not isinstance(error, Refused):
                    raise
                trouble = error
            status = self.status(tx)
            if status.state is TxState.FAILED:
                entry = self._journal.get(tx)
                raise TransactionFailed(f"{'' if entry is None else entry.what}: {status.reason}")
            if status.state is TxState.FINAL or (status.state is TxState.MINED and not final):
                return status
            if time.monotonic() >= deadline:
                raise trouble or ChainUnreachable(f"0x{tx.hex()} is not in a block after {timeout_s:.0f} s")
            self._sleep(POLL_S)

    def close(self) -> None:
        """Let another process have the journal."""
        with self._lock:
            self._journal.close()

    # Making a form

    def _estimate(self, order: Order) -> int:
        call = {"from": f"0x{self.address.hex()}", "data": f"0x{order.data.hex()}", "value": hex(order.value)}
        if order.to:
            call["to"] = f"0x{order.to.hex()}"
        try:
            needed = self._rpc.number("eth_estimateGas", [call])
        except Refused as error:
            raise self._refusal(order.what, error) from error
        return needed * 5 // 4

    def _refusal(self, what: str, error: Refused) -> ChainError:
        if any(word in error.said.lower() for word in _FUNDS):
            return NoFunds(f"{what}: 0x{self.address.hex()} has too little coin ({error.said})")
        return Reverted(what, reason_of(error.data) or error.said) if error.reverts else error

    def _check_funds(self, entry: Entry) -> None:
        needed = entry.gas * entry.newest.max_fee + int(entry.value)
        held = self._rpc.number("eth_getBalance", [f"0x{self.address.hex()}", "latest"])
        if held < needed:
            raise NoFunds(f"{entry.what}: 0x{self.address.hex()} has {held} of the coin's smallest unit, not {needed}")

    def _nonce(self, mine: list[Entry]) -> int:
        """The lowest nonce that nothing of ours has, and that the chain has not used up."""
        floor = max(self._count("latest"), self._journal.closed_to())
        if not mine and not self._journal.closed_to():
            floor = max(floor, self._count("pending"))  # of a journal that was lost
        taken = {entry.nonce for entry in mine}
        while floor in taken:
            floor += 1
        return floor

    def _count(self, at: str) -> int:
        return self._rpc.number("eth_getTransactionCount", [f"0x{self.address.hex()}", at])

    def _replaceable(self, mine: list[Entry], order: Order) -> Entry | None:
        if not order.group:
            return None
        found = (entry for entry in mine if entry.group == order.group and not entry.replaced)
        return next((entry for entry in found if entry.state is TxState.PENDING and not entry.lost_since_s), None)

    def _signed(self, order: Order, nonce: int, gas: int, earlier: Entry | None) -> Entry:
        now = int(self._clock())
        fee, tip = self._fee(None if earlier is None else earlier.newest)
        plain = Transaction(self._rpc.chain_id, nonce, order.to, order.data, order.value, gas, fee, tip)
        form = self._form(plain, cancels=False)
        return Entry(
            form.hash,
            order.purpose,
            order.group,
            order.what,
            nonce,
            order.to,
            order.data,
            str(order.value),
            gas,
            now,
            now + order.within_s,
            (form,),
        )

    def _form(self, plain: Transaction, *, cancels: bool) -> Form:
        raw = plain.signed(self._payer)
        return Form(hash_of(raw), raw, plain.max_fee, plain.tip, int(self._clock()), cancels)

    def _fee(self, before: Form | None) -> tuple[int, int | None]:
        """What to offer per gas, and the tip in it; more than before, by as much as nodes want."""
        block = self._rpc.call(*block_call("latest"), Block)
        if block.base_fee_per_gas is None:
            fee, tip = self._rpc.number("eth_gasPrice", []), None
        else:
            tip = self._tip()
            fee = 2 * quantity(block.base_fee_per_gas) + tip
        if before is not None:
            fee = max(fee, before.max_fee * _BUMP[0] // _BUMP[1] + 1)
            tip = None if tip is None else max(tip, (before.tip or 0) * _BUMP[0] // _BUMP[1] + 1)
        fee = min(fee, FEE_MAX)
        return fee, None if tip is None else min(tip, fee)

    def _tip(self) -> int:
        try:
            return self._rpc.number("eth_maxPriorityFeePerGas", [])
        except Refused:
            return TIP_DEFAULT

    # Looking after it

    def _renewed(self, entry: Entry) -> Entry:
        """The entry with another form, if one is due: with a higher fee, or doing nothing."""
        now = int(self._clock())
        late = now >= entry.deadline_s and not entry.newest.cancels
        if not late and now - entry.newest.made_s < BUMP_AFTER_S:
            return entry
        return self._bumped(entry, cancels=late or entry.newest.cancels)

    def _bumped(self, entry: Entry, *, cancels: bool) -> Entry:
        fee, tip = self._fee(entry.newest)
        same = cancels == entry.newest.cancels
        if len(entry.forms) >= FORMS_MAX or (same and fee <= entry.newest.max_fee):
            return entry
        plain = Transaction(
            self._rpc.chain_id, entry.nonce, entry.to, entry.data, int(entry.value), entry.gas, fee, tip
        )
        if cancels:
            plain = Transaction(self._rpc.chain_id, entry.nonce, self.address, b"", 0, 21_000, fee, tip)
        entry = replace(entry, forms=(*entry.forms, self._form(plain, cancels=cancels)))
        self._journal.put(entry)
        return entry

    def _push(self, entry: Entry, *, strict: bool) -> None:
        """Send the newest form. What an endpoint has against it shows in what becomes of it, so it is only noted."""
        try:
            refusals = self._rpc.send(entry.newest.raw)
        except ChainError:
            if not strict:
                raise
            return  # it is in the journal: it is sent as soon as somebody can be reached
        said = [refusal.said.lower() for refusal in refusals if not _is(refusal, _KNOWN)]
        if not said or any(_is(refusal, _USED) for refusal in refusals):
            return
        if any(_is(refusal, _UNDERPRICED) for refusal in refusals):
            bumped = self._bumped(entry, cancels=entry.newest.cancels)
            if bumped is not entry and len(bumped.forms) % 4:  # a few at once, the rest next time
                self._push(bumped, strict=strict)
            return
        self._journal.put(replace(entry, reason=said[0]))

    def _observe(self, entry: Entry, final: EvmBlock) -> None:
        """See whether a form is in a block, and whether that is final."""
        found = self._mined(entry)
        if found is None:
            self._observe_absent(entry, final)
            return
        form, receipt = found
        number = quantity(receipt.block_number)
        seen = replace(
            entry,
            state=TxState.MINED,
            hash=form.hash,
            block_number=number,
            gas_used=quantity(receipt.gas_used),
            lost_since_s=0,
            reason="",
        )
        if number <= final.number:
            if self._finality.block_at(number).hash != octets(receipt.block_hash, 32):
                raise RpcNonsense(f"a receipt names another block {number} than the one that is final")
            seen = self._closed(seen, form, receipt)
        if seen != entry:
            self._journal.put(seen)

    def _mined(self, entry: Entry) -> tuple[Form, Receipt] | None:
        for form in reversed(entry.forms):
            receipt = self._rpc.found("eth_getTransactionReceipt", [f"0x{form.hash.hex()}"], Receipt)
            if receipt is not None:
                if octets(receipt.transaction_hash, 32) != form.hash:
                    raise RpcNonsense("an endpoint answered the receipt of another transaction")
                return form, receipt
        return None

    def _closed(self, entry: Entry, form: Form, receipt: Receipt) -> Entry:
        if form.cancels:
            return replace(entry, state=TxState.FAILED, reason="given up at its deadline")
        if quantity(receipt.status) != 1:
            return replace(entry, state=TxState.FAILED, reason=self._why(entry))
        return replace(entry, state=TxState.FINAL)

    def _why(self, entry: Entry) -> str:
        """Why it reverted: what the call would say now is the best that most endpoints can tell."""
        call = {
            "from": f"0x{self.address.hex()}",
            "to": f"0x{entry.to.hex()}",
            "data": f"0x{entry.data.hex()}",
            "value": hex(int(entry.value)),
        }
        try:
            self._rpc.call("eth_call", [call, hex(entry.block_number)], str)
        except Refused as error:
            return f"reverted: {reason_of(error.data) or error.said}"
        except ChainError:
            return "reverted"
        return "reverted"

    def _observe_absent(self, entry: Entry, final: EvmBlock) -> None:
        """No form is in a block: it waits, a block of it was reorganised away, or its nonce went to something else."""
        used = self._count(hex(final.number)) > entry.nonce
        now = int(self._clock())
        seen = replace(entry, state=TxState.PENDING, hash=b"", block_number=0, gas_used=0)
        if not used:
            seen = replace(seen, lost_since_s=0)
        elif not entry.lost_since_s:
            seen = replace(seen, lost_since_s=now)
        elif now - entry.lost_since_s >= LOST_S or self._sibling_is_final(entry):
            # An endpoint that does not know its own receipts yet must not make us do a thing twice.
            seen = replace(seen, state=TxState.FAILED, reason="another transaction has used its nonce")
        if seen != entry:
            self._journal.put(seen)

    def _sibling_is_final(self, entry: Entry) -> bool:
        return self._journal.is_final(entry.nonce)


def _is(refusal: Refused, words: tuple[str, ...]) -> bool:
    return any(word in refusal.said.lower() for word in words)
