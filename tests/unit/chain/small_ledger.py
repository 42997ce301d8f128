"""A ledger small enough for tests of contracts: accounts, names and outcomes, with headers over them and proofs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from msgspec.structs import replace as changed

from protocol.committee.election import committee_root
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.signing import Domain, keccak, typed_digest
from protocol.core.sparse import EMPTY_TREE, SparseTree
from protocol.ledger.accounts import Account
from protocol.ledger.names import Alias, Name
from protocol.ledger.records import Section
from protocol.ledger.state import ledger_root
from protocol.messages.committee import (
    Certificate,
    CertificateKind,
    Certified,
    Finalize,
    Header,
    MemberSignature,
    header_digest,
)
from protocol.messages.results import LedgerProof, Neighbour, Outcome, ResultProof
from protocol.results.mountain import NO_OUTCOMES, Mountain, Place, outcome_leaf, prove
from tests.unit.protocol.keys import Key

BODY = keccak(b"body")


@dataclass(frozen=True)
class Book:
    """What a ledger holds after some block. Changed by making another one."""

    accounts: SparseTree = EMPTY_TREE
    names: SparseTree = EMPTY_TREE
    mountain: Mountain = NO_OUTCOMES
    outcomes: tuple[Outcome, ...] = ()
    deposits: int = 0
    """Taken in."""
    nodes: dict[Place, Digest] = field(default_factory=dict, compare=False)
    """Of the tree of outcomes; all books of one history share it."""

    @property
    def sections(self) -> tuple[Digest, ...]:
        """The roots of all sections."""
        roots = [ZERO_DIGEST] * len(Section)
        roots[Section.ACCOUNTS], roots[Section.NAMES] = self.accounts.root, self.names.root
        roots[Section.COURSE] = Digest(keccak(b"course"))
        return tuple(roots)

    def account(self, address: bytes) -> Account:
        """What an address has."""
        data = self.accounts.get(address)
        return Account() if data is None else Account.read(data)

    def credited(self, address: bytes, balance: int = 0, reserved: int = 0, withdrawable: int = 0) -> "Book":
        """An account has more of something, or less."""
        has = self.account(address)
        after = changed(
            has,
            balance_wei=has.balance_wei + balance,
            reserved_wei=has.reserved_wei + reserved,
            withdrawable_wei=has.withdrawable_wei + withdrawable,
        )
        return replace(self, accounts=self.accounts.set(address, after.packed()))

    def counting(self, deposits: int) -> "Book":
        """So many deposits are taken in."""
        return replace(self, deposits=deposits)

    def named(self, name: str, owner: bytes, number: int, alias: str) -> "Book":
        """A name's log goes on."""
        model = keccak(name.encode() + bytes([number]))
        aliases = (Alias(alias, number, model),) if alias else ()
        record = Name(owner, number, keccak(model), model, aliases)
        return replace(self, names=self.names.set(name.encode(), record.packed()))

    def decided(self, outcome: Outcome) -> "Book":
        """A lane has its outcome."""
        mountain, nodes = self.mountain.append(outcome_leaf(outcome))
        self.nodes.update(nodes)
        return replace(self, mountain=mountain, outcomes=(*self.outcomes, outcome))

    def header(self, epoch: int, height: int, next_root: Digest, parent: bytes = bytes(32)) -> Header:
        """A header over it."""
        roots = (self.mountain.root, self.mountain.count, ledger_root(self.sections), keccak(b"params"))
        return Header(epoch, height, parent, *roots, 8 * height, keccak(b"anchor"), self.deposits, next_root, BODY)

    def prove(self, section: Section, key: bytes) -> LedgerProof:
        """That a key of accounts or names has its value, or none."""
        tree = self.accounts if section is Section.ACCOUNTS else self.names
        value, siblings, beside = tree.prove(key)
        return LedgerProof(section, key, value, siblings, beside and Neighbour(*beside), self.sections)

    def prove_outcome(self, index: int) -> ResultProof:
        """That an outcome is in its tree."""
        return prove(index, self.mountain.count, lambda place: self.nodes[place])


def finalized(
    domain: Domain, header: Header, keys: Sequence[Key], places: Sequence[int] | None = None
) -> tuple[Certified, tuple[NodeId, ...]]:
    """A header that the first 2f+1 of a committee, or those at these places, finalized; and the committee."""
    digest = header_digest(domain, header)
    to_sign = typed_digest(domain, Finalize(header.epoch, header.height, digest))
    chosen = range(len(keys) - len(keys) // 3) if places is None else places
    signed = tuple(MemberSignature(place, keys[place].sign(to_sign)) for place in chosen)
    certificate = Certificate(CertificateKind.FINALIZATION, header.epoch, header.height, digest, signed)
    return Certified(certificate, header), tuple(each.node for each in keys)


def root_of(keys: Sequence[Key]) -> Digest:
    """What a committee is named by."""
    return committee_root([each.node for each in keys])
