"""The escrow of the model: numbered deposits, withdrawals by proof, and the exit when the committee is dead.

Amounts are in the ledger's units. The escrow pays an account what any usable header's ledger calls withdrawable, less
what it has paid it. Once dead it closes for ever at the last usable header: each account gets all it has there, once,
and deposits that this header's ledger had not taken in go back.
"""

from dataclasses import dataclass, field, replace

from chain.model.calls import Call, require
from chain.model.checkpoints import ModelCheckpoints
from chain.model.terms import Terms
from protocol.core.ids import NOBODY, ZERO_DIGEST, Digest, NodeId
from protocol.ledger.accounts import Account
from protocol.ledger.proofs import verify_ledger_proof
from protocol.ledger.records import Section
from protocol.messages.chain import Deposited
from protocol.messages.committee import Header, header_digest
from protocol.messages.results import LedgerProof

UNITS_MAX = 1 << 62
"""Ever paid in, together."""


@dataclass(frozen=True, slots=True)
class Paid:
    """An account was paid; ``total`` is what it was paid in all."""

    account: NodeId
    amount: int
    total: int


@dataclass(frozen=True, slots=True)
class Refunded:
    """A deposit was given back."""

    number: int
    account: NodeId
    amount: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The escrow has closed, at this header."""

    digest: Digest
    deposits: int


@dataclass(frozen=True, slots=True)
class Closing:
    """Where the escrow closed. ``header`` is None where none was ever usable."""

    digest: Digest
    header: Header | None

    @property
    def deposits(self) -> int:
        """How many deposits its ledger had taken in."""
        return 0 if self.header is None else self.header.deposits


@dataclass(slots=True)
class ModelEscrow:
    """See the module."""

    terms: Terms
    checkpoints: ModelCheckpoints
    deposits: list[tuple[NodeId, int]] = field(default_factory=list)
    """By number, from 1 on; what was given back is zero."""
    deposited: int = 0
    paid_out: int = 0
    paid: dict[NodeId, int] = field(default_factory=dict)
    exited: set[NodeId] = field(default_factory=set)
    closing: Closing | None = None

    def copy(self, checkpoints: ModelCheckpoints) -> "ModelEscrow":
        """One that changes by itself, beside checkpoints."""
        return replace(
            self,
            checkpoints=checkpoints,
            deposits=list(self.deposits),
            paid=dict(self.paid),
            exited=set(self.exited),
        )

    def deposit(self, call: Call, account: NodeId, amount: int) -> int:
        """Pay in for an account."""
        require(account != NOBODY, "account")
        require(amount > 0 and amount >= self.terms.deposit_min, "too little")
        require(amount <= UNITS_MAX - self.deposited, "too much")
        require(not self.checkpoints.dead(call), "dead")
        self.deposits.append((account, amount))
        self.deposited += amount
        call.emit("escrow", Deposited(len(self.deposits), account, amount))
        require(call.value == amount * self.terms.unit, "value")
        return len(self.deposits)

    def withdraw(self, call: Call, header: Header, proof: LedgerProof) -> None:
        """Pay an account what it may have by a usable header."""
        require(not self.checkpoints.paused(call), "paused")
        require(NodeId(proof.key) not in self.exited, "exited")
        require(self.checkpoints.usable(call, header_digest(self.terms.domain, header)), "not usable")
        account, has = _account(header, proof)
        self._pay_up_to(call, account, has.withdrawable_wei)

    def exit(self, call: Call, header: Header, following: Digest, proof: LedgerProof) -> None:
        """Pay an account all that it has where the escrow closed; ``following`` is the digest of the header that was
        accepted after that, zero if none was."""
        closing = self._close(call, header, following)
        require(NodeId(proof.key) not in self.exited, "exited")
        require(closing.header is not None, "proof")
        account, has = _account(header, proof)
        self.exited.add(account)
        self._pay_up_to(call, account, has.balance_wei + has.reserved_wei + has.withdrawable_wei)

    def refund(self, call: Call, number: int, header: Header | None, following: Digest) -> None:
        """Give back a deposit that the ledger had not taken in where the escrow closed."""
        closing = self._close(call, header, following)
        require(number > closing.deposits, "taken in")
        account, amount = self.deposit_of(number)
        require(amount > 0, "no deposit")
        self.deposits[number - 1] = (NOBODY, 0)
        self.paid_out += amount
        require(self.paid_out <= self.deposited, "more than there is")
        call.emit("escrow", Refunded(number, account, amount))
        self._out(call, account, amount)

    def deposit_of(self, number: int) -> tuple[NodeId, int]:
        """Account and amount of a deposit; zeros if there is none, or none any more."""
        return self.deposits[number - 1] if 0 < number <= len(self.deposits) else (NOBODY, 0)

    # How

    def _close(self, call: Call, header: Header | None, following: Digest) -> Closing:
        """The first exit or refund says where the escrow closes; the others name the same header."""
        digest = ZERO_DIGEST if header is None else header_digest(self.terms.domain, header)
        if self.closing is not None:
            require(digest == self.closing.digest, "not the last")
            return self.closing
        self.checkpoints.declare_dead(call.by(self.terms.addresses.escrow))
        require(self.checkpoints.last_usable(call, digest, following), "not the last")
        self.closing = Closing(digest, header)
        call.emit("escrow", Closed(digest, self.closing.deposits))
        return self.closing

    def _pay_up_to(self, call: Call, account: NodeId, total: int) -> None:
        amount = total - self.paid.get(account, 0)
        require(amount > 0, "nothing to pay")
        require(amount <= self.deposited - self.paid_out, "more than there is")
        self.paid[account] = total
        self.paid_out += amount
        call.emit("escrow", Paid(account, amount, total))
        self._out(call, account, amount)

    def _out(self, call: Call, account: NodeId, amount: int) -> None:
        call.pay(self.terms.addresses.escrow, account, amount * self.terms.unit)


def _account(header: Header, proof: LedgerProof) -> tuple[NodeId, Account]:
    """An account as a header's ledger has it."""
    value = proof.value
    require(value is not None and proof.section == Section.ACCOUNTS and verify_ledger_proof(header, proof), "proof")
    assert value is not None
    return NodeId(proof.key), Account.read(value)
