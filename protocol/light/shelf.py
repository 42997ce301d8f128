"""The receipts of answers that a router relayed or a miner gave: kept for a while, and raised as more is proved.

One node has one shelf. Its machines fill it, and what answers light clients reads it.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from msgspec.structs import replace

from protocol.committee.certificates import CommitteeError
from protocol.committee.storage import FIRST_EPOCH
from protocol.core.codec import pack, unpack
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest, Generation, NodeId, SessionId
from protocol.core.params import Params
from protocol.core.signing import Domain, typed_digest
from protocol.light.handovers import HandOverBook
from protocol.light.lane_papers import with_acks
from protocol.light.levels import LaneLevels, Result, check_batch
from protocol.light.proofs import with_committees
from protocol.messages.receipts import RECEIPT_BYTES_MAX, Receipt
from protocol.messages.results import CommittedNews, ObservedNews, OutcomeNews, SettledNews
from protocol.messages.tasks import AckMessage
from protocol.results.commitment import chain_heads, result_root
from protocol.session.transcript import segment_id

RECEIPTS_KEPT_MS = 3_600_000
"""After the answer's end."""
SHELF_BYTES_MAX = 32 << 20
PROOFS_BYTES = 8_192
"""What the proofs of one receipt take beside batches, about."""
EARLY_MAX = 64
"""News of answers that have not ended here: an oracle may be faster than the last frame."""

Place = tuple[bytes, int]
"""Session and number of an order."""
News = CommittedNews | ObservedNews | OutcomeNews | SettledNews


@dataclass(slots=True)
class _Kept:
    """One receipt."""

    client: NodeId
    packed: bytes
    """As it was when the answer ended."""
    ends_ms: int
    result: Result
    segments: frozenset[bytes]
    """The ids of its segments."""
    levels: LaneLevels | None = None
    """How far it has come; None as long as no committee is known that could certify it."""
    acks: dict[bytes, AckMessage] = field(default_factory=dict)
    """By segment: those that came after the end."""

    @property
    def size(self) -> int:
        """What it takes to keep it."""
        return len(self.packed) + PROOFS_BYTES + (self.levels.size if self.levels is not None else 0)


class ReceiptShelf:
    """Each receipt is kept for ``RECEIPTS_KEPT_MS``, all of them within ``SHELF_BYTES_MAX``: of more, the oldest goes.

    Spec: [RECEIPT-KEPT.1]
    """

    def __init__(self, domain: Domain, params: Params, book: HandOverBook, bytes_max: int = SHELF_BYTES_MAX) -> None:
        self._domain = domain
        self._params = params
        self._book = book
        self._bytes_max = bytes_max
        self._kept: OrderedDict[Place, _Kept] = OrderedDict()
        self._rising: dict[bytes, dict[int, None]] = {}
        """By session: the orders whose receipts are kept, and not final."""
        self._early: deque[News] = deque(maxlen=EARLY_MAX)
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, receipt: Receipt | None, now_ms: int) -> None:
        """An answer has ended. None stands for one whose receipt is not known here."""
        self._expire(now_ms)
        packed = b"" if receipt is None else pack(receipt)
        if receipt is None or len(packed) + PROOFS_BYTES > min(RECEIPT_BYTES_MAX, self._bytes_max):
            return
        place, client = (receipt.order.session, receipt.order.task), NodeId(receipt.session.opening.client)
        self._drop(place)
        segments = frozenset(segment_id(self._domain, record.head) for record in receipt.segments)
        kept = _Kept(client, packed, now_ms + RECEIPTS_KEPT_MS, result_of(self._domain, receipt), segments)
        self._kept[place] = kept
        self._rising.setdefault(place[0], {})[place[1]] = None
        for news in self._early:
            if place in self._places(news):
                self._take({place: kept}, news)
        self.bytes += kept.size
        self._shrink()

    def acked(self, message: AckMessage) -> None:
        """An ack that its client signed, of an answer that may have ended."""
        kept = self._kept.get((message.ack.session, message.ack.task))
        if kept is not None and message.ack.segment in kept.segments:
            kept.acks[message.ack.segment] = message

    def news(self, news: News) -> None:
        """What is said of answers; nothing of it is believed unchecked. Spec: [LEVEL-PROVED.1]"""
        found = {place: self._kept[place] for place in self._places(news) if place in self._kept}
        self.bytes -= sum(kept.size for kept in found.values())
        self._take(found, news)
        self.bytes += sum(kept.size for kept in found.values())
        if not found or isinstance(news, ObservedNews):
            self._early.append(news)  # a batch speaks of many answers, and some of them may not have ended here
        self._shrink()

    def _take(self, found: Mapping[Place, _Kept], news: News) -> None:
        rising = [levels for kept in found.values() if (levels := self._levels(kept)) is not None]
        try:
            match news:
                case CommittedNews():
                    for levels in rising:
                        levels.committed(news)
                case OutcomeNews() | SettledNews():
                    for levels in rising:
                        levels.outcome(news)
                case ObservedNews() if rising:
                    batch = check_batch(self._domain, self._params, self._book.trust, news.signed)
                    for levels in rising:
                        levels.observed(batch)
        except RemoteProtocolError:
            return  # a lie, or of a committee that is not known here: it says nothing of these answers
        for place, kept in found.items():
            if kept.levels is not None and kept.levels.final is not None:
                self._rises_no_more(place)

    def _levels(self, kept: _Kept) -> LaneLevels | None:
        """How far it has come; None as long as its home epoch's committee is not known."""
        if kept.levels is None:
            with suppress(CommitteeError):
                kept.levels = LaneLevels(self._domain, self._book.trust, kept.result)
        return kept.levels

    def _rises_no_more(self, place: Place) -> None:
        session, task = place
        of_session = self._rising.get(session, {})
        of_session.pop(task, None)
        if not of_session:
            self._rising.pop(session, None)

    def get(self, session: bytes, task: int, asker: NodeId, now_ms: int) -> Receipt | None:
        """The receipt of an order, on the highest level that is known here: whole for the session's client, for
        everybody else without its prompt and its text. Spec: [RECEIPT-ASKED.1]"""
        self._expire(now_ms)
        kept = self._kept.get((session, task))
        if kept is None:
            return None
        receipt = with_acks(self._domain, unpack(Receipt, kept.packed, limit_bytes=RECEIPT_BYTES_MAX), kept.acks)
        if kept.levels is not None:
            receipt = with_committees(self._domain, kept.levels.raised(receipt), self._book)
        if asker != kept.client:
            receipt = replace(receipt, prompt=None, tokens=None)
        return receipt if len(pack(receipt)) <= RECEIPT_BYTES_MAX else None

    def outcome(self, session: bytes, task: int, now_ms: int) -> list[OutcomeNews | SettledNews] | None:
        """Where the outcome of an order's lane 0 stands, and by which header an oracle says that it is settled; empty
        if it is not final yet, None if the order is not known here. Spec: [OUTCOME-ASKED.1]"""
        self._expire(now_ms)
        kept = self._kept.get((session, task))
        if kept is None or kept.result.home_epoch < FIRST_EPOCH:
            return None
        if kept.levels is None:
            return []
        final, claims = kept.levels.proofs.final, list(kept.levels.proofs.claims.values())
        if final is None:
            return []
        settled = (SettledNews(final.outcome, claim.proof, claim.certified) for claim in claims[-1:])
        return [OutcomeNews(final.outcome, final.proof, final.certified), *settled]

    def _expire(self, now_ms: int) -> None:
        # All are kept equally long, so the oldest ends first.
        while self._kept:
            place, kept = next(iter(self._kept.items()))
            if kept.ends_ms > now_ms:
                return
            self._drop(place)

    def _shrink(self) -> None:
        while self.bytes > self._bytes_max and self._kept:
            self._drop(next(iter(self._kept)))

    def _drop(self, place: Place) -> None:
        kept = self._kept.pop(place, None)
        if kept is not None:
            self.bytes -= kept.size
            self._rises_no_more(place)

    def _places(self, news: News) -> list[Place]:
        """The orders that news may be about."""
        match news:
            case CommittedNews():
                return [(news.signed.commit.session, news.signed.commit.task)]
            case OutcomeNews() | SettledNews():
                return [(news.outcome.session, news.outcome.task)]
        return [(news.session, task) for task in self._rising.get(news.session, ())]


def result_of(domain: Domain, receipt: Receipt) -> Result:
    """The lane that a receipt is of, and what it came to. Spec: [RESULT-ROOT.1]"""
    order, opening, last = receipt.order, receipt.session.opening, receipt.segments[-1].head
    segments = chain_heads(ZERO_DIGEST, [typed_digest(domain, record.head) for record in receipt.segments])
    chain, count = receipt.end.close(receipt.chain), receipt.end.completion_tokens
    return Result(
        session=SessionId(Digest(order.session)),
        task=order.task,
        lane=0,
        sole=opening.lanes == 1,
        home_epoch=order.home_epoch,
        generation=Generation(last.generation),
        miner=NodeId(last.miner),
        root=result_root(domain, order, opening.model, segments, chain, count),
        count=count,
    )
