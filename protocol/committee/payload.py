"""What the blocks are about, as far as consensus must know: the seam behind which the ledger plugs in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from protocol.committee.members import Committee
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.messages.committee import EMPTY_BODY, Header, SignedBatch

HOMES_KEPT = 3
"""Batches enter the cuts of their home epoch and of the next two."""

NextCommittee = Callable[[Committee], tuple[NodeId, ...]]
"""Who follows a committee."""


def same_members(committee: Committee) -> tuple[NodeId, ...]:
    """Without a chain that draws another one, a committee follows itself."""
    return committee.members


class InvalidBody(RemoteProtocolError):
    """A body that does not decode, or that the ledger's rules forbid."""

    code = "remote/body"


@dataclass(frozen=True, slots=True)
class Roots:
    """What a header says of the state after its block."""

    results_root: bytes
    results_count: int
    ledger_root: bytes
    params_digest: bytes
    anchor_number: int
    anchor_hash: bytes
    deposits: int
    next_committee: bytes


class LedgerState(Protocol):
    """The state after a block; immutable."""

    @property
    def roots(self) -> Roots: ...

    @property
    def next_members(self) -> tuple[NodeId, ...]:
        """The committee of the next epoch: fixed for the whole of an epoch."""

    @property
    def homes(self) -> dict[int, tuple[NodeId, ...]]:
        """Whose batches may enter: the members by home epoch, of this epoch and the two before."""

    def included(self, home_epoch: int, oracle: bytes) -> tuple[int, Digest]:
        """Number and digest of the last batch of an oracle that is in; (0, zero) before the first."""

    def pack(self) -> bytes:
        """The state's encoding, for a snapshot."""


class Payload(Protocol):
    """The rules of the bodies. All of them are pure and deterministic."""

    def genesis(self, committee: Committee) -> Any:
        """The state before the first block."""

    def restore(self, packed: bytes) -> Any:
        """The state that was packed. Raises DecodeError."""

    def turn(self, state: Any, committee: Committee) -> Any:
        """The state in which an epoch begins, from the one in which the last was closed."""

    def propose(self, state: Any, offered: Sequence[SignedBatch]) -> bytes:
        """A leader's body: all that is offered, as far as it fits; empty if there is nothing to say."""

    def execute(self, state: Any, body: bytes) -> Any:
        """The state after a body. Raises InvalidBody."""

    def omits(self, before: Any, after: Any, body: bytes, owed: Sequence[SignedBatch]) -> SignedBatch | None:
        """The first batch which a body leaves out though it is owed and fits; None if the body is fair. ``before`` and
        ``after`` are the states around it."""


def make_header(epoch: int, height: int, parent: bytes, roots: Roots, body: bytes) -> Header:
    """The header of a block whose execution led to ``roots``; ``body`` is the digest."""
    return Header(
        epoch,
        height,
        parent,
        roots.results_root,
        roots.results_count,
        roots.ledger_root,
        roots.params_digest,
        roots.anchor_number,
        roots.anchor_hash,
        roots.deposits,
        roots.next_committee,
        body,
    )


def claimed_roots(header: Header) -> Roots:
    """What a header says of the state after its block."""
    return Roots(
        header.results_root,
        header.results_count,
        header.ledger_root,
        header.params_digest,
        header.anchor_number,
        header.anchor_hash,
        header.deposits,
        header.next_committee,
    )


def opening_header(epoch: int, roots: Roots) -> Header:
    """What the first block of an epoch follows: height 0, the state in which the epoch before was closed.

    All certificates that close an epoch agree on it, whichever closing block they finalize. Spec: [EPOCH-CLOSE.1]
    """
    return make_header(epoch, 0, ZERO_DIGEST, roots, EMPTY_BODY)
