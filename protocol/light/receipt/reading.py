"""A receipt while it is read: what each link found, for those after it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from protocol.core.errors import SignatureError
from protocol.core.genesis import Genesis
from protocol.core.ids import ZERO_DIGEST, Digest, SessionId
from protocol.core.signing import Domain, recover, typed_digest
from protocol.light.levels import Level
from protocol.light.receipt.reader import Claimed, Reader
from protocol.light.receipt.verdict import LinkBroken, LinkUntrusted, shown
from protocol.messages.receipts import Receipt
from protocol.messages.sessions import session_id
from protocol.results.commitment import chain_heads, result_root
from protocol.session.auction import RecomputedAuction
from protocol.session.transcript import segment_id

Accepted = Callable[[Digest], bool]
"""Asks the chain whether the contract has accepted a header, as of a final block."""


@dataclass
class Reading:
    """Made after the links ``format`` and ``network`` hold; the others each add what they found."""

    receipt: Receipt
    genesis: Genesis
    domain: Domain
    reader: Reader
    claimed: Claimed
    accepted: Accepted | None = None
    auctions: dict[Digest, tuple[bytes, RecomputedAuction]] = field(default_factory=dict)
    """By the digest of the bid set: its router, and what follows from it."""
    chains: dict[int, Digest] = field(default_factory=dict)
    """The chain value after each token; empty in the redacted form."""
    believed: set[Level] = field(default_factory=set)
    """The levels of which the reader believes the header."""
    reached: dict[Level, None] = field(default_factory=dict)
    """The levels that hold."""

    @cached_property
    def session(self) -> SessionId:
        """The session's id."""
        return session_id(self.domain, self.receipt.session.opening)

    @cached_property
    def order(self) -> Digest:
        """The order's digest."""
        return typed_digest(self.domain, self.receipt.order)

    @cached_property
    def segments(self) -> tuple[Digest, ...]:
        """The segments' ids."""
        return tuple(segment_id(self.domain, segment.head) for segment in self.receipt.segments)

    @cached_property
    def root(self) -> Digest:
        """The result root. Spec: [RESULT-ROOT.1]"""
        receipt = self.receipt
        heads = chain_heads(ZERO_DIGEST, self.segments)
        model, chain = receipt.session.opening.model, receipt.end.close(receipt.chain)
        return result_root(self.domain, receipt.order, model, heads, chain, self.count)

    @property
    def count(self) -> int:
        """The answer's tokens."""
        return self.receipt.end.completion_tokens

    @property
    def sole(self) -> bool:
        """Whether the session has one lane: then a commit comes with its opening."""
        return self.receipt.session.opening.lanes == 1

    def signed(self, digest: Digest, signature: bytes, signer: bytes, what: str) -> None:
        """Raises LinkBroken unless ``signer`` signed."""
        try:
            found = recover(digest, signature)
        except SignatureError as error:
            raise LinkBroken(f"{what}: {error}", signer, f"signature {shown(signature)}") from error
        if found != signer:
            raise LinkBroken(f"{what} is signed by another", signer, found)

    def believe(self, epoch: int, level: Level) -> None:
        """Raises LinkUntrusted unless the reader believes the committee of an epoch. That it is the one that the
        receipt claims was checked when it was named."""
        if doubt := self.reader.doubt(epoch):
            raise LinkUntrusted(doubt, level)
