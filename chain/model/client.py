"""A client of the model's chain, as ``chain.client`` is of a real one: with a journal, at an endpoint that may fail."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from chain.api import (
    Answer,
    AnswerProof,
    DrawDue,
    InboxService,
    Question,
    Role,
    TxId,
    TxState,
    TxStatus,
)
from chain.errors import ChainUnreachable, NoFunds, NoKey, Reverted, TransactionFailed
from chain.model.blocks import FEE, Receipt, Transaction
from chain.model.calls import Revert
from chain.model.reading import ModelEndpoint, ModelReading
from protocol.core.ids import Digest, NodeId, Signature
from protocol.messages.committee import Certified, Header
from protocol.messages.results import LedgerProof
from protocol.results.evidence import Evidence

BUMP_BLOCKS = 6
"""A transaction that waits longer than this is sent again with more for whoever takes it in."""


@dataclass(slots=True)
class Entry:
    """What was sent: all its forms, of which one nonce lets one through."""

    forms: list[Transaction]
    since: int
    """The block at which the last form was sent."""
    purpose: object
    """What it is for; None where each call is a thing of its own."""
    group: str = ""
    """A later one of a group takes the place of an earlier one that is in no block yet."""
    replaced: bool = False
    done: TxStatus | None = None
    """What finally became of it."""

    @property
    def tx(self) -> TxId:
        """Its name."""
        return TxId(self.forms[0].hash)


@dataclass(slots=True)
class ModelJournal:
    """What a node sent, as it has it on disk: it outlives the client."""

    entries: list[Entry] = field(default_factory=list)


class ModelClient(ModelReading):
    """See ``chain.api.Chain``. ``passes`` lets a moment go by while somebody waits."""

    def __init__(
        self,
        endpoint: ModelEndpoint,
        key: NodeId | None = None,
        journal: ModelJournal | None = None,
        passes: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(endpoint)
        self._key = key
        self._journal = ModelJournal() if journal is None else journal
        self._passes = passes

    # Writing

    def submit_checkpoint(self, certified: Certified, members: Sequence[NodeId]) -> TxId:
        """See Writing."""
        digest = certified.certificate.header
        return self._send("checkpoints", "submit", certified, tuple(members), purpose=digest, group="checkpoint")

    def draw(self, due: DrawDue) -> TxId:
        """See Writing."""
        return self._send("registry", "draw", due.epoch, due.candidates)

    def slash(self, evidence: Evidence, reporter: NodeId) -> TxId:
        """See Writing."""
        return self._send("evidence", "judge", evidence, reporter)

    def challenge(
        self, first: Certified, second: Certified, members: Sequence[NodeId], later: Sequence[NodeId] | None = None
    ) -> TxId:
        """See Writing."""
        others = members if later is None else later
        return self._send("checkpoints", "challenge", first, tuple(members), second, tuple(others))

    def deposit(self, account: NodeId, amount: int) -> TxId:
        """See Writing."""
        return self._pay("escrow", "deposit", account, amount, units=amount)

    def withdraw(self, header: Header, proof: LedgerProof) -> TxId:
        """See Writing."""
        return self._send("escrow", "withdraw", header, proof)

    def exit(self, header: Header, next_digest: Digest, proof: LedgerProof) -> TxId:
        """See Writing."""
        return self._send("escrow", "exit", header, next_digest, proof)

    def refund(self, number: int, header: Header | None, next_digest: Digest) -> TxId:
        """See Writing."""
        return self._send("escrow", "refund", number, header, next_digest)

    def register(self, node: NodeId, roles: Role, stake: int, consent: Signature) -> TxId:
        """See Writing."""
        value = stake * self._unit()
        return self._send("registry", "register", node, int(roles), stake, consent, value=value)

    def add_stake(self, node: NodeId, stake: int) -> TxId:
        """See Writing."""
        return self._pay("registry", "add_stake", node, stake, units=stake)

    def begin_unbonding(self, node: NodeId) -> TxId:
        """See Writing."""
        return self._send("registry", "begin_unbonding", node)

    def finish_unbonding(self, node: NodeId) -> TxId:
        """See Writing."""
        return self._send("registry", "finish_unbonding", node)

    def rotate(self, old: NodeId, new: NodeId, consent: Signature) -> TxId:
        """See Writing."""
        return self._send("registry", "rotate", old, new, consent)

    def serve(self, service: InboxService) -> TxId:
        """See Writing."""
        return self._send("inbox", "serve", service)

    def ask(self, question: Question) -> TxId:
        """See Writing."""
        return self._send("inbox", "ask", question, value=question.fee, once=False)

    def answer(self, answer: Answer) -> TxId:
        """See Writing."""
        return self._send("inbox", "answer", answer)

    def prove_answer(self, shown: AnswerProof) -> TxId:
        """See Writing."""
        return self._send("inbox", "prove", shown)

    def reclaim(self, number: int) -> TxId:
        """See Writing."""
        return self._send("inbox", "reclaim", number)

    def prove_name(self, header: Header, proof: LedgerProof) -> TxId:
        """See Writing."""
        return self._send("models", "prove", header, proof)

    # Sending

    def sender(self) -> NodeId | None:
        """See Sending."""
        return self._key

    def status(self, tx: TxId) -> TxStatus:
        """See Sending."""
        for entry in self._journal.entries:
            if entry.tx == tx:
                return self._status(entry)
        raise TransactionFailed("this journal knows no such transaction")

    def wait(self, tx: TxId, timeout_s: float, *, final: bool = False) -> TxStatus:
        """See Sending."""
        for _ in range(int(timeout_s) + 1):
            status = self.status(tx)
            if status.state is TxState.FAILED:
                raise TransactionFailed(status.reason)
            if status.state is TxState.FINAL or (status.state is TxState.MINED and not final):
                return status
            self._passes()
        raise ChainUnreachable("the transaction is in no block yet")

    def maintain(self) -> int:
        """See Sending."""
        head, under_way = self.endpoint.blocks()[-1].number, 0
        for entry in self._journal.entries:
            status = self._status(entry)
            under_way += entry.done is None
            if status.state is not TxState.PENDING or entry.replaced or entry.done is not None:
                continue
            if head >= entry.since + BUMP_BLOCKS:
                last = entry.forms[-1]
                entry.forms.append(replace(last, tip=last.tip + 1))
                entry.since = head
            self._hand_in(entry.forms[-1])
        return under_way

    # How

    def _unit(self) -> int:
        return self._latest().terms.unit

    def _pay(self, contract: str, function: str, *args: Any, units: int) -> TxId:
        return self._send(contract, function, *args, value=units * self._unit(), once=False)

    def _send(
        self,
        contract: str,
        function: str,
        *args: Any,
        value: int = 0,
        purpose: object = None,
        group: str = "",
        once: bool = True,
    ) -> TxId:
        if self._key is None:
            raise NoKey("something is to be sent, and there is no key")
        wish = Transaction(self._key, 0, contract, function, args, value)
        named = None if not once else (contract, function, args, value) if purpose is None else purpose
        mine = [entry for entry in self._journal.entries if entry.done is None and not entry.replaced]
        for entry in mine:
            if named is not None and entry.purpose == named and self._status(entry).state is not TxState.FAILED:
                return entry.tx
        self._check(wish)
        pending = (entry for entry in mine if group and entry.group == group)
        earlier = next((entry for entry in pending if self._status(entry).state is TxState.PENDING), None)
        return self._sent(wish, named, group, earlier)

    def _check(self, wish: Transaction) -> None:
        """Whether it would be done now. Raises NoFunds, Reverted."""
        what = f"{wish.contract}.{wish.function}"
        if self.coin(wish.sender) < wish.value + FEE:
            raise NoFunds(f"0x{wish.sender.hex()} cannot pay for {what}")
        try:
            self.endpoint.chain.attempt(wish, self.endpoint.blocks()[-1].number)
        except Revert as revert:
            raise Reverted(what, revert.reason) from revert

    def _sent(self, wish: Transaction, purpose: object, group: str, earlier: Entry | None) -> TxId:
        if earlier is None:
            transaction = replace(wish, nonce=self._next_nonce())
        else:
            last = earlier.forms[-1]
            transaction, earlier.replaced = replace(wish, nonce=last.nonce, tip=last.tip + 1), True
        entry = Entry([transaction], self.endpoint.blocks()[-1].number, purpose, group)
        self._journal.entries.append(entry)
        self._hand_in(transaction)
        return entry.tx

    def _next_nonce(self) -> int:
        assert self._key is not None
        used = [entry.forms[0].nonce + 1 for entry in self._journal.entries]
        nonces = self.endpoint.chain.holdings(self.endpoint.blocks()[-1].number).nonces
        return max(used, default=nonces.get(self._key, 0))

    def _hand_in(self, transaction: Transaction) -> None:
        """Nothing is lost if this fails: it is in the journal."""
        if self.endpoint.down or self.endpoint.deaf or self.endpoint.loses:
            return
        try:
            self.endpoint.chain.send(transaction)
        except Revert:
            return  # it is known, or another form of its nonce came before

    def _status(self, entry: Entry) -> TxStatus:
        if entry.done is not None:
            return entry.done
        final, status = self.finalized().number, TxStatus(TxState.PENDING, entry.forms[-1].hash)
        for form in entry.forms:
            receipt = self._receipt(form)
            if receipt is not None:
                status = _of(receipt, final)
        siblings = (other for other in self._journal.entries if other.forms[0].nonce == entry.forms[0].nonce)
        if status.state is TxState.PENDING and any(_is_final(other) for other in siblings if other is not entry):
            status = TxStatus(TxState.FAILED, status.hash, reason="another transaction has used its nonce")
        if status.state in (TxState.FINAL, TxState.FAILED):
            entry.done = status
        return status

    def _receipt(self, form: Transaction) -> Receipt | None:
        receipt = self.endpoint.chain.receipt(form.hash)
        return receipt if receipt is not None and receipt.number < len(self.endpoint.blocks()) else None


def _is_final(entry: Entry) -> bool:
    return entry.done is not None and entry.done.block_number > 0


def _of(receipt: Receipt, final: int) -> TxStatus:
    is_final = receipt.number <= final
    if receipt.reason is not None and is_final:
        return TxStatus(TxState.FAILED, receipt.hash, receipt.number, 0, f"reverted: {receipt.reason}")
    return TxStatus(TxState.FINAL if is_final else TxState.MINED, receipt.hash, receipt.number)
