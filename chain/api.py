"""The seam between a node and its chain: what the contracts are asked and told, in the words of the protocol.

:class:`Chain` has a real side (``chain.client``) and a model in plain Python (``chain.model``); one conformance suite
holds both. All calls block and are made from worker threads; each may raise :class:`~chain.errors.ChainError`.

Amounts are in the ledger's units, but for ``coin`` (the coin that pays fees), which is in its smallest unit.
What decides something is read at a final block; what only says whether it is worth sending is read at the latest one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import NewType, Protocol

from protocol.core.ids import Digest, NodeId, Signature
from protocol.core.signing import Domain
from protocol.messages.chain import ChainEvent
from protocol.messages.committee import Certified, Header
from protocol.messages.receipts import EvmProof
from protocol.messages.results import LaneResult, LedgerProof, Outcome, ResultProof
from protocol.messages.tasks import TaskOrder
from protocol.results.evidence import Evidence

TxId = NewType("TxId", bytes)
"""32 bytes: the hash of a transaction's first form. It stays its name when a higher fee gives it another hash."""

QUESTION_BYTES_MAX = 8_192
ANSWER_BYTES_MAX = 16_384
"""What the inbox holds of a sealed question and of a sealed answer."""


class Role(IntFlag):
    """What a registered node does."""

    ROUTER = 1
    MINER = 2
    ORACLE = 4


@dataclass(frozen=True, slots=True)
class EvmBlock:
    """A block of the EVM chain."""

    number: int
    hash: Digest
    time_s: int


@dataclass(frozen=True, slots=True)
class NamedCommittee:
    """A committee as the contract names it."""

    epoch: int
    root: Digest
    time_s: int
    """Of the final block in which it does."""


@dataclass(frozen=True, slots=True)
class EventCursor:
    """Up to where events were read: all of this block and of those before it. Kept with what was made of them."""

    number: int
    hash: Digest

    def packed(self) -> bytes:
        """40 bytes for a file."""
        return self.number.to_bytes(8, "big") + self.hash

    @staticmethod
    def read(data: bytes) -> "EventCursor":
        """What :meth:`packed` wrote. Raises ValueError."""
        if len(data) != 40:
            raise ValueError(f"a cursor has 40 bytes, not {len(data)}")
        return EventCursor(int.from_bytes(data[:8], "big"), Digest(data[8:]))


@dataclass(frozen=True, slots=True)
class EventPage:
    """What the contracts said in some consecutive final blocks: all of it, in order, each event with its block."""

    events: tuple[tuple[int, ChainEvent], ...]
    cursor: EventCursor
    """For the next call: nothing up to here is left out, and nothing after it is in this page."""
    more: bool
    """Whether final blocks follow that were not looked at yet."""

    @property
    def through(self) -> int:
        """The last block whose events are all taken in with this page."""
        return self.cursor.number


@dataclass(frozen=True, slots=True)
class AcceptedHeader:
    """A header that the contract accepted."""

    digest: Digest
    epoch: int
    height: int
    time_s: int
    """Of the EVM block that accepted it."""
    sequence: int
    """From 1: how many were accepted up to it."""


@dataclass(frozen=True, slots=True)
class DrawDue:
    """A frozen epoch whose seed block is past and whose committee nobody has recorded."""

    epoch: int
    candidates: tuple[NodeId, ...]
    """Rising, as the contract wants them."""


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """A node key's record in the registry."""

    node: NodeId
    owner: NodeId
    roles: Role
    stake: int
    jailed: bool
    unbonding_from_s: int
    """When its owner began to unbond it; 0 if it did not."""


@dataclass(frozen=True, slots=True)
class InboxService:
    """On what terms a router takes questions."""

    key: bytes
    """32 bytes: the X25519 key that they are sealed to."""
    fee_min: int
    """In the coin's smallest unit."""


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody asked through the inbox."""

    number: int
    asker: NodeId
    router: NodeId
    prompt: Digest
    """The commitment of the prompt that is sealed: who proves an answer shows an order of this one."""
    model: Digest
    """Whose answer it has to be; zero: any."""
    reply_key: bytes
    """32 bytes: the X25519 key that the answer is sealed to."""
    deadline_s: int
    fee: int
    """In the coin's smallest unit."""
    sealed: bytes
    answered: bool = False
    """Whether its router has answered; the proof is still to come."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A router's sealed answer to a question, and the lane of the network that made it."""

    number: int
    session: Digest
    task: int
    lane: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class AnswerProved:
    """An answer's lane was proved: the fee went to its router."""

    number: int
    router: NodeId
    fee: int
    root: Digest
    """What the network decided that the lane came to: an answer that leads to another root was altered."""


@dataclass(frozen=True, slots=True)
class AnswerProof:
    """That the committee found the lane of an answer to be what its miner committed, for the prompt that was asked."""

    number: int
    header: Header
    outcome: Outcome
    proof: ResultProof
    order: TaskOrder
    result: LaneResult


@dataclass(frozen=True, slots=True)
class InboxPage:
    """What was asked, answered and proved in some consecutive final blocks, in order."""

    items: tuple[Question | Answer | AnswerProved, ...]
    cursor: EventCursor
    more: bool


class TxState(Enum):
    """How far a transaction is."""

    PENDING = "pending"
    MINED = "mined"
    """In a block, which may still be reorganised away."""
    FINAL = "final"
    FAILED = "failed"
    """Its revert is final, it was given up at its deadline, or its nonce went to another one."""


@dataclass(frozen=True, slots=True)
class TxStatus:
    """What became of a transaction."""

    state: TxState
    hash: Digest
    """Of the form that is in a block, else of the one sent last."""
    block_number: int = 0
    gas_used: int = 0
    reason: str = ""
    """Why it failed."""


class Reading(Protocol):
    """What can be asked without a key."""

    def finalized(self) -> EvmBlock:
        """The newest block that is final."""

    def block_at(self, number: int) -> EvmBlock:
        """A final block by its number."""

    def block_header(self, block: Digest) -> bytes:
        """The header in RLP of a block, by its hash, which is the header's keccak. Raises UnprovableChain where the
        chain's headers are none that give their hashes."""

    def start(self) -> EventCursor:
        """The cursor before all events: the block that the contracts are younger than."""

    def events(self, after: EventCursor, limit: int) -> EventPage:
        """The events of final blocks after a cursor, whole blocks, until there are ``limit`` of them or a few more.
        Raises HistoryChanged where the cursor's block is in the chain no more."""

    def latest_checkpoint(self) -> AcceptedHeader | None:
        """The header that was accepted last, at the latest block; None before the first."""

    def accepted(self, digest: Digest) -> AcceptedHeader | None:
        """A header as the contract accepted it in a final block; None if it did not."""

    def committee(self) -> NamedCommittee:
        """The latest committee that the contract names in a final block."""

    def usable(self, digest: Digest) -> bool:
        """Whether withdrawals can stand on a header: it is older than the challenge window."""

    def dead(self) -> bool:
        """Whether no header was accepted for so long that the exit is open."""

    def undrawn(self) -> DrawDue | None:
        """What to draw, if anything is to be drawn."""

    def node(self, node: NodeId) -> RegisteredNode | None:
        """A node's record, at the latest block."""

    def slashed(self, evidence_id: Digest) -> bool:
        """Whether this evidence has been used."""

    def paid(self, account: NodeId) -> int:
        """How much the escrow has paid to an account, at the latest block."""

    def exited(self, account: NodeId) -> bool:
        """Whether an account has taken its exit."""

    def deposited(self, number: int) -> tuple[NodeId, int] | None:
        """Account and amount of a deposit that was not given back."""

    def deposits(self) -> int:
        """How many deposits there are, at the latest block."""

    def coin(self, address: NodeId) -> int:
        """An address's coin in its smallest unit: what it pays fees from."""

    def inbox(self, after: EventCursor, limit: int, router: NodeId | None = None) -> InboxPage:
        """What was asked (of one router, if named) and answered after a cursor; like :meth:`events`."""

    def question(self, number: int) -> Question | None:
        """A question whose fee nobody has at the latest block; its ``sealed`` and ``reply_key`` are empty: those stand
        in the events."""

    def service(self, router: NodeId) -> InboxService | None:
        """On what terms a router takes questions, at the latest block; None if it takes none."""

    def name_head(self, name: str) -> tuple[int, Digest] | None:
        """Number and digest of a model log's entry that was proved last."""

    def name_alias(self, name: str, alias: str) -> Digest | None:
        """The model that an alias of a name was proved to stand for."""


class Proving(Reading, Protocol):
    """What can be asked of a chain of Ethereum's kind, to be shown to others."""

    def settled_proof(self, domain: Domain, header: Header, anchored: Certified) -> EvmProof | None:
        """The proof that ``Checkpoints`` had accepted a header by the block that another final header anchors; None if
        it is shown that it had not. Raises StateGone, UnprovableChain."""


class Writing(Protocol):
    """What is sent. Each call is safe to repeat: as long as a transaction for the same is under way, it is that one
    that is named; nothing is sent twice. Raises Reverted where the contract would refuse it now, NoKey, NoFunds."""

    def submit_checkpoint(self, certified: Certified, members: Sequence[NodeId]) -> TxId:
        """A finalized header with its certificate and the committee whose it is."""

    def draw(self, due: DrawDue) -> TxId:
        """Record the committee that the seed draws."""

    def slash(self, evidence: Evidence, reporter: NodeId) -> TxId:
        """Convict whom evidence convicts; the reporter gets a share."""

    def challenge(
        self, first: Certified, second: Certified, members: Sequence[NodeId], later: Sequence[NodeId] | None = None
    ) -> TxId:
        """Freeze the checkpoints by two certified headers that cannot both be, the lower one first, with the members
        of the first one's epoch, and those of the second one's where it is another epoch."""

    def deposit(self, account: NodeId, amount: int) -> TxId:
        """Pay in for an account of the ledger. Not safe to repeat: each call is a payment of its own."""

    def withdraw(self, header: Header, proof: LedgerProof) -> TxId:
        """Have an account paid what a usable header's ledger says is withdrawable."""

    def exit(self, header: Header, next_digest: Digest, proof: LedgerProof) -> TxId:
        """Once dead: have an account paid all it has at the last usable header."""

    def refund(self, number: int, header: Header | None, next_digest: Digest) -> TxId:
        """Once dead: give back a deposit that the last usable header's ledger had not taken in."""

    def register(self, node: NodeId, roles: Role, stake: int, consent: Signature) -> TxId:
        """Register a node key with stake; the sender is its owner."""

    def add_stake(self, node: NodeId, stake: int) -> TxId:
        """More stake on a node. Not safe to repeat."""

    def begin_unbonding(self, node: NodeId) -> TxId:
        """Ask for a node's stake back; it takes part in nothing from now on."""

    def finish_unbonding(self, node: NodeId) -> TxId:
        """Take a node's stake back once that is allowed."""

    def rotate(self, old: NodeId, new: NodeId, consent: Signature) -> TxId:
        """Give a node another key; the old one stays slashable until unbonding would end."""

    def serve(self, service: InboxService) -> TxId:
        """The sender takes questions on these terms."""

    def ask(self, question: Question) -> TxId:
        """Ask a router through the inbox; number and asker follow from the transaction. Not safe to repeat."""

    def answer(self, answer: Answer) -> TxId:
        """Answer a question; the sender is its router."""

    def prove_answer(self, shown: AnswerProof) -> TxId:
        """Prove by a usable header what the lane of an answer came to, and that it is of the question's prompt; the fee
        goes to the router."""

    def reclaim(self, number: int) -> TxId:
        """Take back the fee of a question that nobody proved an answer to in time."""

    def prove_name(self, header: Header, proof: LedgerProof) -> TxId:
        """Bring the head of a model's log to the chain."""


class Sending(Protocol):
    """What becomes of what was sent."""

    def sender(self) -> NodeId | None:
        """The address that signs and pays; None where there is no key."""

    def status(self, tx: TxId) -> TxStatus:
        """How far a transaction is. Raises TransactionFailed for one that this journal does not know."""

    def wait(self, tx: TxId, timeout_s: float, *, final: bool = False) -> TxStatus:
        """Wait until a transaction is in a block (a final one). Raises TransactionFailed, ChainUnreachable."""

    def maintain(self) -> int:
        """Look after what is under way: send it again, raise its fee, give it up. Returns how much still is."""


class Chain(Reading, Writing, Sending, Protocol):
    """All of it."""
