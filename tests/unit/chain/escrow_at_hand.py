"""The escrow at hand, before true checkpoints: deposits, books that a committee finalizes, and proofs from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chain.artifacts import load_artifact
from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.core.sparse import SparseTree
from protocol.ledger.accounts import Account
from protocol.ledger.records import Section
from protocol.ledger.state import ledger_root
from protocol.messages.committee import Header, header_digest
from tests.unit.chain.contracts_at_hand import ANYBODY, DEPLOYER, DOMAIN, Rig, Settings, certificate, fields_of
from tests.unit.chain.evm import Contract, Done, Kept

ALICE, BOB, CAROL = b"\xa1" * 20, b"\xb0" * 20, b"\xca" * 20
"""They never send anything: what they have is what they were paid."""
FRIEND = b"\xf1" * 20
"""Pays in for others."""
NO_HEADER = (0, 0, ZERO_DIGEST, ZERO_DIGEST, 0, ZERO_DIGEST, ZERO_DIGEST, 0, ZERO_DIGEST, 0, ZERO_DIGEST, ZERO_DIGEST)


@dataclass(frozen=True)
class Books:
    """A ledger's accounts in the header of a block."""

    header: Header
    accounts: SparseTree
    sections: tuple[bytes, ...]

    @property
    def digest(self) -> Digest:
        """The header's name."""
        return header_digest(DOMAIN, self.header)

    def proof(self, account: bytes, section: Section = Section.ACCOUNTS) -> list[Any]:
        """What is handed in for an account: header, account, words, siblings, sections."""
        value, siblings, _ = self.accounts.prove(account)
        assert value is not None
        return [fields_of(self.header), account, words_of(Account.read(value)), siblings, self.sections]


def words_of(account: Account) -> tuple[int, int, int, int]:
    """An account as the contract takes it."""
    return account.balance_wei, account.reserved_wei, account.withdrawable_wei, account.nonce_from


@dataclass
class Bank:
    """See the module. ``token`` is zero for the chain's own coin."""

    token: bytes = bytes(20)
    unit: int = 1
    deposit_min: int = 1
    rig: Rig = field(default_factory=lambda: Rig(Settings(window_s=600, dead_s=5_000)))

    def __post_init__(self) -> None:
        rig = self.rig
        self.evm = rig.evm
        self.escrow: Contract = rig.evm.deploy(
            load_artifact("Escrow"),
            DOMAIN.network_id,
            rig.evm.chain_id,
            rig.checkpoints.address,
            self.token,
            self.unit,
            self.deposit_min,
            sender=DEPLOYER,
        )
        self._height = 0

    # Paying in

    def deposit(self, account: bytes, amount: int, *, value: int | None = None) -> Done:
        """A friend pays in for an account, in the chain's coin."""
        value = amount * self.unit if value is None else value
        return self.escrow.send("deposit", account, amount, sender=FRIEND, value=value)

    # Books

    def books(
        self,
        accounts: Mapping[bytes, Account],
        *,
        deposits: int | None = None,
        epoch: int = 1,
        section: Section = Section.ACCOUNTS,
    ) -> Books:
        """The next block's books, not yet brought to the chain."""
        self._height += 1
        tree = SparseTree.of((address, account.packed()) for address, account in accounts.items())
        sections = tuple(tree.root if at == section else bytes([at]) * 32 for at in Section)
        taken = self.escrow.call("deposit_count") if deposits is None else deposits
        header = self.rig.header(epoch, self._height, ledger_root=ledger_root(sections), deposits=taken)
        return Books(header, tree, sections)

    def accept(self, accounts: Mapping[bytes, Account], *, usable: bool = True, **how: Any) -> Books:
        """Books that the checkpoints have accepted, the window after it past."""
        books = self.books(accounts, **how)
        self.rig.submit(books.header)
        if usable:
            self.evm.advance(seconds=self.rig.settings.window_s)
        return books

    def die(self) -> None:
        """Let so much time pass that the committee counts as dead."""
        self.evm.advance(seconds=self.rig.settings.dead_s + 1)

    def freeze(self, epoch: int = 1) -> None:
        """Show that the committee signed two headers of one slot."""
        headers = [self.rig.header(epoch, 1_000_000, body=bytes([mark]) * 32) for mark in (1, 2)]
        proofs = [tuple(certificate(header, self.rig.keys).parts()) for header in headers]
        self.rig.checkpoints.send("challenge", *proofs, sender=ANYBODY)

    # Paying out

    def withdraw(self, books: Books, account: bytes, sender: bytes = ANYBODY) -> Done:
        """Have an account paid."""
        return self.escrow.send("withdraw", *books.proof(account), sender=sender)

    def exit(self, books: Books, account: bytes, following: bytes = ZERO_DIGEST) -> Done:
        """Have an account paid all it has."""
        header, *proof = books.proof(account)
        return self.escrow.send("exit", header, following, *proof, sender=ANYBODY)

    def refund(self, number: int, books: Books | None, following: bytes = ZERO_DIGEST) -> Done:
        """Have a deposit given back."""
        header = NO_HEADER if books is None else fields_of(books.header)
        return self.escrow.send("refund", number, header, following, sender=ANYBODY)

    def has(self, account: bytes) -> int:
        """An account's coin, in units."""
        return self.evm.balance(account) // self.unit

    @property
    def held(self) -> int:
        """The escrow's coin, in units."""
        return self.has(self.escrow.address)


@dataclass(frozen=True)
class KeptBank:
    """A bank and the state that every test finds it in."""

    bank: Bank
    kept: Kept

    @staticmethod
    def new(**settings: Any) -> "KeptBank":
        """As it was deployed."""
        bank = Bank(**settings)
        return KeptBank(bank, bank.evm.keep())

    def fresh(self) -> Bank:
        """As if nothing had happened."""
        self.bank.evm.take_back(self.kept)
        self.bank._height = 0
        return self.bank
