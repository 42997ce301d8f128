"""What is signed of lane 0 of one order while it streams: all that its receipt holds beside prompt and tokens.

Whoever reads the lane keeps it: client and router as frames pass, the miner as it writes them. Nothing is checked here;
a lane's verifier or writer has done that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from protocol.core.ids import Digest
from protocol.core.signing import Domain
from protocol.messages.envelope import Envelope
from protocol.messages.receipts import RECEIPT_FORMAT, Receipt, SegmentRecord, SignedAssignment, Tokens
from protocol.messages.results import AckWord, SignedSession
from protocol.messages.sessions import Assignment
from protocol.messages.tasks import SEGMENTS_MAX, AckMessage, EndRecord, FrameMessage, Prompt, SegmentHead, TaskOrder
from protocol.session.transcript import segment_id

BEGUN_MAX = 2 * SEGMENTS_MAX
"""Leases of one order; of more, it has no receipt."""


@dataclass(frozen=True, slots=True)
class Lent:
    """The assignment that named a lease for lane 0, and the bid set that it names."""

    signed: SignedAssignment
    bid_set: Envelope


def lent(assignment: Assignment, signature: bytes, bid_set: Envelope) -> Lent:
    """An assignment as its router signed it."""
    return Lent(SignedAssignment(assignment, signature), bid_set)


@dataclass(frozen=True, slots=True)
class Ordered:
    """What a lane is about: the session, the order and its prompt, as the client signed them."""

    session: SignedSession
    order: TaskOrder
    signature: bytes
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class LastFrame:
    """What the last frame of a segment signs."""

    index: int
    chain: Digest
    signature: bytes


@dataclass(slots=True)
class LanePapers:
    """See the module. Everything is by the generation of its segment."""

    lent: dict[bytes, Lent] = field(default_factory=dict)
    last: dict[bytes, LastFrame] = field(default_factory=dict)
    acks: dict[bytes, AckWord] = field(default_factory=dict)

    def begin(self, generation: bytes, found: Lent | None) -> None:
        """A segment begins under a lease; without its assignment the lane has no receipt."""
        if found is not None and len(self.lent) < BEGUN_MAX:
            self.lent.setdefault(generation, found)

    def took(self, generation: bytes, message: FrameMessage, index: int, chain: Digest) -> None:
        """A frame that holds; ``chain`` is the value after its last token."""
        signed = chain if message.end is None else message.end.close(chain)
        if generation in self.lent:
            self.last[generation] = LastFrame(index, signed, message.signature)

    def acked(self, message: AckMessage) -> None:
        """The client's ack, which is later than those before."""
        ack = message.ack
        if ack.generation in self.lent:
            self.acks[ack.generation] = AckWord(ack.index, ack.chain, message.signature)

    def receipt(
        self,
        genesis: str,
        ordered: Ordered,
        heads: Sequence[SegmentHead],
        tokens: Tokens,
        chain: Digest,
        end: EndRecord,
    ) -> Receipt | None:
        """The receipt of the lane that ended so, on the level *streamed*; None if something of it was never here.

        Args:
            heads: Of the segments that hold tokens, and of the last one.
            chain: After the last token.
        """
        if len(heads) > SEGMENTS_MAX or any(head.generation not in self.last for head in heads):
            return None
        found = [self.lent[head.generation] for head in heads]
        return Receipt(
            format=RECEIPT_FORMAT,
            genesis=genesis,
            session=ordered.session,
            order=ordered.order,
            order_signature=ordered.signature,
            prompt=ordered.prompt,
            bid_sets=_each_once(found),
            assignments=tuple({each.signed.assignment.number: each.signed for each in found}.values()),
            segments=tuple(self._record(head) for head in heads),
            tokens=tokens,
            chain=chain,
            end=end,
        )

    def _record(self, head: SegmentHead) -> SegmentRecord:
        last, ack = self.last[head.generation], self.acks.get(head.generation)
        # One of no token says nothing.
        word = ack if ack is not None and head.start_index < ack.index else None
        return SegmentRecord(head, last.index, last.chain, last.signature, word)


def _each_once(found: Sequence[Lent]) -> tuple[Envelope, ...]:
    sets = {each.signed.assignment.bid_set: each.bid_set for each in found}
    return tuple(sets.values())


def with_acks(domain: Domain, receipt: Receipt, acks: Mapping[bytes, AckMessage]) -> Receipt:
    """The receipt with acks, by segment, that came after its end. Those that name no segment's last token are left
    out: what they say cannot be checked without the text."""
    segments = []
    for place, record in enumerate(receipt.segments):
        # The last frame signs the chain after the end record, an ack the one before.
        chain = receipt.chain if place == len(receipt.segments) - 1 else record.chain
        message = acks.get(segment_id(domain, record.head))
        if message is not None and (message.ack.index, message.ack.chain) == (record.index, chain):
            word = AckWord(record.index, chain, message.signature)
            record = record if record.index == record.head.start_index else replace(record, ack=word)
        segments.append(record)
    return replace(receipt, segments=tuple(segments))
