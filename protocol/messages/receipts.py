"""A receipt: all that is needed to verify one answer, in one file; and how light clients ask for it and its upgrades.

A receipt holds what was signed, in the order of the answer's life. Whoever reads it computes everything else.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocol.core.codec import Message, message
from protocol.core.signing import U32, U64, Bytes20, Bytes32, SignatureBytes
from protocol.messages.committee import MEMBERS_MAX, Certified, SignedBatch
from protocol.messages.envelope import Envelope
from protocol.messages.handover import EVM_HEADER_BYTES_MAX, HandOver
from protocol.messages.results import AckWord, Outcome, ResultProof, SignedCommit, SignedReveal, SignedSession
from protocol.messages.sessions import Assignment
from protocol.messages.tasks import (
    SEGMENTS_MAX,
    TASK_TOKENS_MAX,
    TOKEN_BYTES_MAX,
    EndRecord,
    Prompt,
    SegmentHead,
    TaskOrder,
)

RECEIPT_FORMAT = 1
RECEIPT_BYTES_MAX = (1 << 20) - 1_024
"""Of a file, and of a message's worth: so long an answer may be that has a receipt."""
HAND_OVERS_CARRIED_MAX = 64
COMMITTEES_CARRIED_MAX = 8
TRIE_NODES_MAX = 64
TRIE_NODE_BYTES_MAX = 1_024

TrieNode = Annotated[bytes, Meta(max_length=TRIE_NODE_BYTES_MAX)]


class SignedAssignment(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Which miner ran the lane, under which lease, and its router's signature."""

    assignment: Assignment
    signature: SignatureBytes


class SegmentRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One miner's part of the lane: what it bound before its first token, and what it signed last."""

    head: SegmentHead
    index: U64
    """Tokens of the lane up to its last signed frame."""
    chain: Bytes32
    """The chain value that this frame signs; in the last segment the one after the end record."""
    signature: SignatureBytes
    """Of that Frame, by the miner."""
    ack: AckWord | None = None
    """The client's last ack of the segment."""


class Tokens(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The lane's tokens; each one's text is its share of the visible text."""

    ids: Annotated[tuple[U32, ...], Meta(max_length=TASK_TOKENS_MAX)]
    texts: Annotated[tuple[Annotated[bytes, Meta(max_length=TOKEN_BYTES_MAX)], ...], Meta(max_length=TASK_TOKENS_MAX)]


class EpochMembers(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The members of an epoch's committee, for whoever knows only its root."""

    epoch: U64
    members: Annotated[tuple[Bytes20, ...], Meta(min_length=4, max_length=MEMBERS_MAX)]


class Finality(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The lane's outcome, its place in the results tree, and the final header whose root holds it."""

    outcome: Outcome
    proof: ResultProof
    certified: Certified


class EvmProof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """That the contract holds a word, without asking its chain: a path from a block of the chain that the committee
    anchored down to the contract's storage (EIP-1186)."""

    anchored: Certified
    """A final header whose anchor is the block."""
    block: Annotated[bytes, Meta(max_length=EVM_HEADER_BYTES_MAX)]
    """The EVM block's header in RLP, whose keccak is the anchor's hash."""
    account: Annotated[tuple[TrieNode, ...], Meta(max_length=TRIE_NODES_MAX)]
    """From the block's state root to the contract's account."""
    storage: Annotated[tuple[TrieNode, ...], Meta(max_length=TRIE_NODES_MAX)]
    """From the account's storage root to the word."""


class Settlement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The same outcome by a header that the contract has accepted."""

    proof: ResultProof
    certified: Certified
    evm: EvmProof | None = None
    """None: whoever verifies asks the chain."""


class Receipt(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All that is needed to verify one answer: lane 0 of one order. Spec: [RECEIPT-FORM.1]"""

    format: U32
    genesis: Annotated[str, Meta(max_length=65_536)]
    """The genesis file; its hash is the network's id."""
    session: SignedSession
    order: TaskOrder
    order_signature: SignatureBytes
    prompt: Prompt | None
    """None in the redacted form, and then so are the tokens."""
    bid_sets: Annotated[tuple[Envelope, ...], Meta(max_length=SEGMENTS_MAX)]
    """Each that an assignment names, once, in their order."""
    assignments: Annotated[tuple[SignedAssignment, ...], Meta(min_length=1, max_length=SEGMENTS_MAX)]
    """One for each segment, which names its lease, by rising number."""
    segments: Annotated[tuple[SegmentRecord, ...], Meta(min_length=1, max_length=SEGMENTS_MAX)]
    """Those that hold tokens, and the last one."""
    tokens: Tokens | None
    chain: Bytes32
    """The chain value after the last token, before the end record."""
    end: EndRecord
    commit: SignedCommit | None = None
    reveal: SignedReveal | None = None
    batches: Annotated[tuple[SignedBatch, ...], Meta(max_length=MEMBERS_MAX)] = ()
    """What exactly 2f+1 oracles of the home epoch said of the lane, by the oracle's place; none where there are fewer,
    and they may be left out once it is final."""
    final: Finality | None = None
    settled: Settlement | None = None
    hand_overs: Annotated[tuple[HandOver, ...], Meta(max_length=HAND_OVERS_CARRIED_MAX)] = ()
    """From the genesis's committee, or one of ``committees``, to those that signed something here, by rising epoch. One
    of an epoch whose committee is named nowhere (it skips) holds the signatures of f+1 members of the latest committee
    before it that is named, and no others, by their places in that one."""
    committees: Annotated[tuple[EpochMembers, ...], Meta(max_length=COMMITTEES_CARRIED_MAX)] = ()
    """Of epochs whose root the reader may know, by rising epoch; none that the genesis or a hand-over names."""


# Between light clients and routers or miners, protocol ``light``


@message(kind=91, limit_bytes=128)
class ReceiptAsked(Message, frozen=True):
    """The asker wants the receipt of an order; whole if it is the session's client, redacted otherwise."""

    session: Bytes32
    task: U32


@message(kind=92, limit_bytes=1 << 20)
class ReceiptFound(Message, frozen=True):
    """What the answerer has of it, at the highest level that it knows."""

    receipt: Receipt


@message(kind=93, limit_bytes=128)
class OutcomeAsked(Message, frozen=True):
    """The asker wants the outcome of lane 0 of an order, proved by the newest header: OutcomeNews, SettledNews or both
    answer, or LightRefused."""

    session: Bytes32
    task: U32


@message(kind=94, limit_bytes=64)
class HeadAsked(Message, frozen=True):
    """The asker wants the newest final header that the answerer knows: Certified answers, or LightRefused. A pair of
    both also shows that the answerer is alive; ``nonce`` may be anything."""

    nonce: U64


@message(kind=95, limit_bytes=512)
class LightRefused(Message, frozen=True):
    """It is not here: ``not_held`` for good, ``not_final`` or ``busy`` is a matter of time."""

    code: Literal["not_held", "not_final", "busy", "malformed"]
    detail: Annotated[str, Meta(max_length=256)]
