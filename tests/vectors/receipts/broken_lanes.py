"""Receipts of lanes that did not run so: segments, tokens, frames, the end and the acks."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from msgspec import structs

from protocol.core.codec import pack
from protocol.core.ids import Digest
from protocol.core.signing import typed_digest
from protocol.messages.receipts import SegmentRecord
from protocol.messages.results import AckWord
from protocol.messages.tasks import Ack, EndReason, EndRecord, Frame, TaskOrder
from protocol.session.transcript import segment_id
from tests.receipts_made import CLIENT, MINERS, PROMPT_TOKENS, ROUTER, Maker
from tests.unit.protocol.keys import Key
from tests.vectors.receipts.broken import RECEIPT, Named, other, with_
from tests.vectors.receipts.whole import EVERYTHING

_DOMAIN = EVERYTHING.domain
_FIRST, _LAST = RECEIPT.segments


def _head(place: int, **changed: Any) -> bytes:
    head = structs.replace(RECEIPT.segments[place].head, **changed)
    return with_(f"segments.{place}.head", head)


def broken_segments() -> Named:
    """No miner was to run this."""
    yield "a head of another task", _head(0, task=2)
    yield "a head of another lane", _head(0, lane=1)
    yield "a head at another price", _head(0, price_wei=_FIRST.head.price_wei + 1)
    yield "a head of another miner", _head(0, miner=MINERS[1].node)
    yield "a head of another lease", _head(0, generation=EVERYTHING.generation(9))
    yield "a head of another model", _head(0, model=b"\x55" * 32)
    yield "a head of another order", _head(1, order=b"\x55" * 32)
    yield "a first segment that starts later", _head(0, start_index=1)
    yield "a segment that leaves out a token", _head(1, start_index=_FIRST.index + 1)
    yield "a segment that repeats a token", _head(1, start_index=_FIRST.index - 1)
    yield "a segment that follows on another chain", _head(1, previous_head=b"\x55" * 32)
    yield "a segment without tokens that is not the last", with_("segments.0.index", 0)
    yield "a segment that ends before it starts", with_("segments.1.index", _FIRST.index - 1)
    yield "an assignment without a segment", with_("segments", (_FIRST,))
    yield "a segment without an assignment", with_("assignments", RECEIPT.assignments[:1])


def broken_tokens() -> Named:
    """This is not what the miner wrote."""
    shown = EVERYTHING.shown
    texts = shown.texts
    moved = (texts[0] + texts[1][:1], texts[1][1:], *texts[2:])
    yield "another text", with_("tokens.texts.3", b"city")
    yield "another token", with_("tokens.ids.3", 99)
    yield "the same text, cut otherwise", with_("tokens.texts", moved)
    yield "two tokens changed round", with_("tokens", _turned(shown))
    yield "a token left out", with_("tokens", structs.replace(shown, ids=shown.ids[:-1], texts=texts[:-1]))
    yield "a text left out", with_("tokens.texts", texts[:-1])
    yield "another chain before the end", with_("chain", b"\x55" * 32)
    yield "another chain of the first segment", _chained()


def _turned(shown: Any) -> Any:
    ids, texts = shown.ids, shown.texts
    return structs.replace(shown, ids=(ids[1], ids[0], *ids[2:]), texts=(texts[1], texts[0], *texts[2:]))


def _chained() -> bytes:
    """The second segment follows on it."""
    receipt = other(RECEIPT, "segments.0.chain", b"\x55" * 32)
    return pack(other(receipt, "segments.1.head.previous_head", b"\x55" * 32))


def _frame(place: int, signer: Key, **changed: Any) -> bytes:
    record: SegmentRecord = RECEIPT.segments[place]
    frame = Frame(segment_id(_DOMAIN, record.head), record.index, record.chain, place == 1)
    signature = signer.sign(typed_digest(_DOMAIN, structs.replace(frame, **changed)))
    return with_(f"segments.{place}.signature", signature)


def broken_frames() -> Named:
    """No miner signed this."""
    yield "signed by the next miner", _frame(0, MINERS[1])
    yield "signed by the router", _frame(1, ROUTER)
    yield "signed as an end where the lane went on", _frame(0, MINERS[0], end=True)
    yield "signed as no end", _frame(1, MINERS[1], end=False)
    yield "signed of another segment", _frame(1, MINERS[1], segment=b"\x55" * 32)
    yield "signed up to another token", _frame(1, MINERS[1], index=_LAST.index - 1)


@dataclass(frozen=True)
class _Ended(Maker):
    """All of it is signed with another end record, or another limit."""

    ended: EndRecord | None = None
    limit: int = 16

    @cached_property
    def end(self) -> EndRecord:
        """See Maker."""
        return self.ended or EndRecord(EndReason.STOP, len(PROMPT_TOKENS), self.tokens, 1)

    @cached_property
    def order(self) -> TaskOrder:
        """See Maker."""
        ordered: TaskOrder = structs.replace(EVERYTHING.order, max_tokens=self.limit)
        return ordered


def _ended(ended: EndRecord | None = None, limit: int = 16) -> bytes:
    """With the words of the answer alone: what follows is not looked at any more."""
    fields = {name: getattr(EVERYTHING, name) for name in EVERYTHING.__dataclass_fields__}
    made = _Ended(**fields, ended=ended, limit=limit).receipt()
    proofs = ("commit", "reveal", "batches", "final", "settled", "hand_overs", "committees")
    return pack(structs.replace(made, **{name: getattr(RECEIPT, name) for name in proofs}))


def broken_ends() -> Named:
    """It did not end so."""
    stop, prompt, tokens = EndReason.STOP, len(PROMPT_TOKENS), EVERYTHING.tokens
    yield "another reason", with_("end.reason", EndReason.LENGTH)
    yield "more tokens than the lane has", _ended(EndRecord(stop, prompt, tokens + 1, 1))
    yield "fewer tokens than the lane has", _ended(EndRecord(stop, prompt, tokens - 1, 1))
    yield "more prompt tokens than the head names", _ended(EndRecord(stop, prompt + 1, tokens, 1))
    yield "more cached tokens than the prompt has", _ended(EndRecord(stop, prompt, tokens, prompt + 1))
    yield "more tokens than were ordered", _ended(limit=tokens - 1)


def _acked(place: int = 1, signer: Key = CLIENT, **changed: Any) -> bytes:
    record = RECEIPT.segments[place]
    chain = Digest(RECEIPT.chain) if place else Digest(record.chain)
    ack = Ack(EVERYTHING.session, 1, 0, record.head.generation, segment_id(_DOMAIN, record.head), record.index, chain)
    ack = structs.replace(ack, **changed)
    word = AckWord(ack.index, ack.chain, signer.sign(typed_digest(_DOMAIN, ack)))
    return with_(f"segments.{place}.ack", word)


def broken_acks() -> Named:
    """The client has not seen this."""
    yield "signed by the miner", _acked(signer=MINERS[1])
    yield "signed of another segment", _acked(segment=b"\x55" * 32)
    yield "signed of another lane", _acked(lane=1)
    yield "of a token that comes later", _acked(index=_LAST.index + 1)
    yield "of a token of the segment before", _acked(index=_FIRST.index - 1)
    yield "of another chain at the end", _acked(chain=b"\x55" * 32)
    yield "of another chain in the middle", _acked(index=_LAST.index - 2, chain=b"\x55" * 32)
    yield "of another chain at the head", _acked(index=_FIRST.index, chain=b"\x55" * 32)
    yield "of the chain after the end record", _acked(chain=_LAST.chain)
