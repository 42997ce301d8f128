"""How a lane's result becomes certain: commit, reveal, opening, observations, and the news of all that.

Nothing here holds text, nor a digest from which text could be guessed: every chain value follows from a head that the
prompt's nonce salts.
"""

from enum import IntEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.codec import Message, message
from protocol.core.signing import U8, U32, U64, Bytes20, Bytes24, Bytes32, SignatureBytes, TypedStruct
from protocol.messages.chain import ChainWord
from protocol.messages.committee import Certified, SignedBatch
from protocol.messages.sessions import Assignment, SessionOpen
from protocol.messages.tasks import TaskOrder

SEGMENTS_CLAIMED_MAX = 8
"""Segments of a lane that an opening names; the oldest of more are not paid."""
COMMITS_MAX = 48
NAME_BYTES_MAX = 64
PROOF_HASHES_MAX = 64
PEAKS_MAX = 64
CHANGES_MAX = 512


Name = Annotated[str, Meta(max_length=NAME_BYTES_MAX, extra={"eip712": "string"})]


class LaneResult(TypedStruct, frozen=True):
    """What a lane came to; its typed digest is the result root."""

    order: Bytes32
    """The order's typed digest."""
    prompt: Bytes32
    """The order's prompt commitment."""
    model: Bytes32
    segments: Bytes32
    """The running digest of all segments' heads: keccak(digest before ‖ head's digest), from zero."""
    chain: Bytes32
    """The chain value after the end record."""
    count: U64
    """Tokens."""


class Commit(TypedStruct, frozen=True):
    """A miner binds its result before it can have seen another lane's."""

    session: Bytes32
    task: U32
    lane: U8
    generation: Bytes24
    miner: Bytes20
    commitment: Bytes32


class Reveal(TypedStruct, frozen=True):
    """What opens a commit of the same (session, task, lane, generation) and miner."""

    session: Bytes32
    task: U32
    lane: U8
    generation: Bytes24
    miner: Bytes20
    root: Bytes32
    count: U64
    salt: Bytes32


class Withdraw(TypedStruct, frozen=True):
    """An account's word that ``total`` of what it ever had may leave the ledger; never less than before."""

    account: Bytes20
    total: U64


class SessionClose(TypedStruct, frozen=True):
    """The client gives no orders in a session after this: what is left of its reservation comes free in time."""

    session: Bytes32


class Enlist(TypedStruct, frozen=True):
    """A miner asks for a place in the node pool; the highest number counts."""

    miner: Bytes20
    owner: Bytes20
    """Who is paid."""
    model: Bytes32
    slots: U32
    tokens_per_second: U32
    """Of one stream, as it claims."""
    number: U64


class SignedCommit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A commit and its miner's signature."""

    commit: Commit
    signature: SignatureBytes


class SignedReveal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A reveal and its miner's signature."""

    reveal: Reveal
    signature: SignatureBytes


class SignedSession(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A session and the client's signature: what is reserved."""

    opening: SessionOpen
    signature: SignatureBytes


class SignedClose(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A close and the client's signature."""

    close: SessionClose
    signature: SignatureBytes


class SignedWithdraw(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A withdrawal and its account's signature."""

    withdraw: Withdraw
    signature: SignatureBytes


class SignedEnlist(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An enlistment and its miner's signature."""

    enlist: Enlist
    signature: SignatureBytes


class AckWord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an ack says beside what its segment says."""

    index: U64
    chain: Bytes32
    signature: SignatureBytes


class Segment(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a segment's head says beside what its order says, and the client's last ack of it (lane 0)."""

    generation: Bytes24
    miner: Bytes20
    router: Bytes20
    price_wei: U64
    prompt_tokens: Bytes32
    prompt_token_count: U32
    start_index: U64
    previous_head: Bytes32
    ack: AckWord | None = None


class Opening(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What becomes public of a lane: enough to compute its result root, and to pay it."""

    order: TaskOrder
    signature: SignatureBytes
    lane: U8
    model: Bytes32
    segments: Annotated[tuple[Segment, ...], Meta(min_length=1, max_length=SEGMENTS_CLAIMED_MAX)]
    """The lane's last segments, in order."""
    earlier: Bytes32
    """The running digest of the heads before them (``results.commitment``); zero if these are all."""
    chain: Bytes32
    """After the end record."""
    count: U64


class Papers(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Why a lane is its miner's: what the client and its router signed."""

    session: SignedSession
    order: TaskOrder
    order_signature: SignatureBytes
    assignment: Assignment
    assignment_signature: SignatureBytes


class Verdict(IntEnum):
    """What an oracle says of a lane, and what becomes of it."""

    OK = 1
    """The commit came in time and its opening is valid."""
    LATE = 2
    """No commit in time."""
    UNREVEALED = 3
    """A commit in time, and no opening of it in time."""
    MISMATCH = 4
    """A signed reveal that does not open the commit."""
    UNDECIDED = 5
    """Only of outcomes: the oracles do not agree. Unpaid, and nobody's fault."""


class Observation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One oracle's one value of a lane; never revised."""

    session: Bytes32
    task: U32
    lane: U8
    verdict: Verdict
    root: Bytes32
    """Zero unless OK."""
    count: U64
    """Zero unless OK."""


class Outcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The verdict on a lane: a leaf of the results tree."""

    session: Bytes32
    task: U32
    lane: U8
    verdict: Verdict
    root: Bytes32
    count: U64
    home_epoch: U64
    paid_wei: U64
    """When it was decided; more may follow for lane 0 as later acks come in."""


class TestReport(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One oracle's word on a miner's test. ``test`` numbers a miner's tests as the ledger calls for them."""

    __test__ = False  # no test of pytest's

    miner: Bytes20
    test: U64
    passed: bool
    tokens_per_second: U32
    first_token_ms: U32


class RegistryEntry(TypedStruct, frozen=True):
    """An entry of a model's append-only log, signed by the name's owner; the first one makes the name its own."""

    owner: Bytes20
    name: Name
    number: U64
    """From 1."""
    previous: Bytes32
    """The digest of the entry before; zero in the first."""
    model: Bytes32
    """The manifest's digest."""
    alias: Name
    """`stable`, `canary` or empty: what else the name's version is called from now on."""


class SignedEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A registry entry and its owner's signature."""

    entry: RegistryEntry
    signature: SignatureBytes


class Content(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a batch holds. Content that is none of this counts as empty, and so does each item that does not hold."""

    observations: tuple[Observation, ...] = ()
    openings: tuple[Opening, ...] = ()
    sessions: tuple[SignedSession, ...] = ()
    closes: tuple[SignedClose, ...] = ()
    withdrawals: tuple[SignedWithdraw, ...] = ()
    enlistments: tuple[SignedEnlist, ...] = ()
    reports: tuple[TestReport, ...] = ()
    entries: tuple[SignedEntry, ...] = ()
    words: tuple[ChainWord, ...] = ()


# Proofs


class ResultProof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """That an outcome is leaf ``index`` of the results tree of ``count`` leaves (a Merkle mountain range)."""

    index: U64
    count: U64
    path: Annotated[tuple[Bytes32, ...], Meta(max_length=PROOF_HASHES_MAX)]
    """Siblings up to the peak of the leaf's mountain."""
    peaks: Annotated[tuple[Bytes32, ...], Meta(max_length=PEAKS_MAX)]
    """The other mountains' peaks, in order."""


class Neighbour(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A leaf by the hashes of its key and its value."""

    key: Bytes32
    value: Bytes32


class Change(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A key of a section and its new value; none where it was deleted."""

    key: Annotated[bytes, Meta(max_length=128)]
    value: Annotated[bytes, Meta(max_length=4_096)] | None


class LedgerProof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """That a key of a section of the ledger has a value, or none."""

    section: U8
    key: Annotated[bytes, Meta(max_length=128)]
    value: Annotated[bytes, Meta(max_length=4_096)] | None
    siblings: Annotated[tuple[Bytes32, ...], Meta(max_length=256)]
    """From the root down."""
    neighbour: Neighbour | None
    """Where the key is absent: the leaf that stands in its place, if one does."""
    sections: Annotated[tuple[Bytes32, ...], Meta(max_length=16)]
    """The roots of all sections, in order."""


# Between miners, routers or clients and oracles, protocol ``results``


@message(kind=60, limit_bytes=8_192)
class CommitMessage(Message, frozen=True):
    """A miner's commit with its papers; with its opening as well where there is one lane."""

    signed: SignedCommit
    papers: Papers
    reveal: SignedReveal | None = None
    opening: Opening | None = None


@message(kind=61, limit_bytes=8_192)
class RevealMessage(Message, frozen=True):
    """A miner opens its commit."""

    signed: SignedReveal
    opening: Opening


@message(kind=62, limit_bytes=128)
class RevealAsked(Message, frozen=True):
    """An oracle takes no more commits of a task: its lanes may be opened."""

    session: Bytes32
    task: U32


@message(kind=63, limit_bytes=16_384)
class Submit(Message, frozen=True):
    """What a node has for the ledger, beside commits: each is signed by whom it concerns."""

    sessions: Annotated[tuple[SignedSession, ...], Meta(max_length=16)] = ()
    closes: Annotated[tuple[SignedClose, ...], Meta(max_length=16)] = ()
    withdrawals: Annotated[tuple[SignedWithdraw, ...], Meta(max_length=16)] = ()
    enlistments: Annotated[tuple[SignedEnlist, ...], Meta(max_length=4)] = ()
    entries: Annotated[tuple[SignedEntry, ...], Meta(max_length=4)] = ()


@message(kind=64, limit_bytes=64)
class Follow(Message, frozen=True):
    """The asker wants every finalized header from now on, and with ``pool`` the node pool and its changes."""

    pool: bool


@message(kind=65, limit_bytes=128)
class Watch(Message, frozen=True):
    """The asker wants what is said of a session: observations, outcomes, its place in the ledger."""

    session: Bytes32


@message(kind=66, limit_bytes=65_536)
class LedgerNews(Message, frozen=True):
    """A finalized header, and how the node pool changed since the last one that was sent (all of it in the first)."""

    certified: Certified
    sections: Annotated[tuple[Bytes32, ...], Meta(max_length=16)]
    """The roots of the ledger's sections."""
    changes: Annotated[tuple[Change, ...], Meta(max_length=CHANGES_MAX)] = ()
    """Of the pool's section; only where the pool is followed."""
    more: bool = False
    """More changes of the same header follow."""


@message(kind=67, limit_bytes=16_384 + 1_024)
class ObservedNews(Message, frozen=True):
    """A batch that speaks of a lane of a watched session."""

    session: Bytes32
    signed: SignedBatch


@message(kind=68, limit_bytes=16_384)
class OutcomeNews(Message, frozen=True):
    """A finalized outcome, its place in the results tree, and the certified header whose root holds it."""

    outcome: Outcome
    proof: ResultProof
    certified: Certified


@message(kind=90, limit_bytes=16_384)
class SettledNews(Message, frozen=True):
    """The same by a header that the contract has accepted: an oracle's word, which whoever asks the chain checks."""

    outcome: Outcome
    proof: ResultProof
    certified: Certified


@message(kind=69, limit_bytes=32_768)
class SessionNews(Message, frozen=True):
    """A session's place in the finalized ledger: reserved, spent, closed."""

    session: Bytes32
    proof: LedgerProof
    certified: Certified


@message(kind=70, limit_bytes=2_048)
class CommittedNews(Message, frozen=True):
    """A lane's miner has committed (it tells the router, the router its client); opened too where there is one lane."""

    signed: SignedCommit
    reveal: SignedReveal | None = None


# On topic ``results``


@message(kind=71, limit_bytes=16_384)
class Commits(Message, frozen=True):
    """Commits of one miner, where it has many at once; their papers come with their openings."""

    miner: Bytes20
    issued_ms: U64
    commits: Annotated[tuple[SignedCommit, ...], Meta(min_length=1, max_length=COMMITS_MAX)]
