"""One lane as its miner runs it: tokens in from the engine, signed frames out, held back by acks.

Tokens that become ready while a frame is in flight join the next one. At most ``unacked_tokens_max`` tokens run
ahead of the client's last signed ack, so acks are the flow control, end to end.
"""

from collections import deque

from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.messages.logprobs import FRAME_LOGPROBS_MAX, TokenLogProbs
from protocol.messages.results import AckWord, Papers
from protocol.messages.tasks import (
    AckMessage,
    Delivery,
    EndReason,
    EndRecord,
    FrameMessage,
    LaneEnded,
    SegmentHead,
    SegmentStart,
    TaskOrder,
)
from protocol.roles.miner.events import Generate, GenerationKey
from protocol.roles.miner.transcripts import Draft
from protocol.session.transcript import SegmentWriter, close_chain, segment_id


class Lane:
    """The sending side of one segment."""

    def __init__(
        self,
        params: Params,
        order: TaskOrder,
        generation: GenerationKey,
        nonce: bytes,
        started_ms: int,
        start_index: int = 0,
        previous: Digest = ZERO_DIGEST,
        delivery: Delivery = Delivery.RELAYED,
    ) -> None:
        self.order = order
        self.delivery = delivery
        self.start_index = start_index
        self.previous = previous
        self.generation = generation
        self.nonce = nonce
        """Of the prompt."""
        self.started_ms = started_ms
        self.first_token_ms: int | None = None
        self.writer: SegmentWriter | None = None
        self.cancelling = False
        self.held: Generate | None = None
        """The engine is asked for it once the client's credit allows."""
        self.papers: Papers | None = None
        """Why the lane is this miner's."""
        self.earlier: tuple[SegmentHead, ...] = ()
        """The segments before this miner's."""
        self.draft: Draft | None = None
        """Of the lane's receipt and transcript, where they are to be kept."""
        self.audited = False
        """Whether oracles may have its transcript."""
        self.words: dict[Digest, AckWord] = {}
        """The client's last ack of each segment, by the segment's id."""
        self.tells_logprobs = False
        """Whether frames bring log probabilities."""
        self.acked = start_index
        self._params = params
        self._ready: deque[tuple[int, bytes, TokenLogProbs | None]] = deque()
        self._end: EndRecord | None = None
        self._signature: bytes | None = None
        """Of the end, once it is signed."""
        self._acked_chain = previous
        self._boundaries: dict[int, Digest] = {}
        """Chain value at the end of each frame that is not acknowledged: what an ack may name."""
        self._unacked: deque[FrameMessage] = deque()
        """Of a lane that streams directly: should that stream go, these are sent again as they are."""

    def produced(
        self, ids: tuple[int, ...], texts: tuple[bytes, ...], now_ms: int, logprobs: tuple[TokenLogProbs, ...] = ()
    ) -> None:
        """Take tokens from the engine, which keeps to the order's max_tokens and, if it wants log probabilities, brings
        them."""
        if self.first_token_ms is None:
            self.first_token_ms = now_ms
        told = logprobs if self.tells_logprobs else (None,) * len(ids)
        self._ready.extend(zip(ids, texts, told, strict=True))
        if self.draft is not None:
            self.draft.add(ids, texts)

    def ended(self, reason: EndReason, cached_tokens: int) -> None:
        """The engine is done, or the task was cancelled: what is ready is sent, then the end."""
        assert self.writer is not None
        total = self.writer.index + len(self._ready)
        prompt = self.writer.head.prompt_token_count
        self._end = EndRecord(reason, prompt, total, min(cached_tokens, prompt))

    def cancelled(self) -> None:
        """Forget what was not sent and end here."""
        if self.delivery is not Delivery.WITHHELD:
            self._ready.clear()
        self.ended(EndReason.CANCELLED, 0)

    def next_frame(self) -> FrameMessage | None:
        """The frame to send now, or None: nothing is ready, no credit left, or all is written.

        Spec: [ACK-CREDIT.1]
        """
        if self.writer is None or self.writer.ended:
            return None
        credit = self.acked + self._params.unacked_tokens_max - self.writer.index
        frame_max = self._params.frame_tokens_max
        if self.tells_logprobs:
            frame_max = min(frame_max, FRAME_LOGPROBS_MAX)
        take = min(len(self._ready), frame_max, credit)
        last = take == len(self._ready) and self._end is not None
        if take <= 0 and not last:
            return None
        tokens = [self._ready.popleft() for _ in range(take)]
        logprobs = tuple(told for _, _, told in tokens if told is not None)
        end = self._end if last else None
        frame = self.writer.frame([t for t, _, _ in tokens], [b for _, b, _ in tokens], end, logprobs)
        self._boundaries[self.writer.index] = self.writer.chain
        if self.delivery is Delivery.DIRECT:
            self._unacked.append(frame)
        if last:
            self._signature = frame.signature
        return frame

    def withhold(self) -> bool:
        """Sign the end of a lane that is streamed to nobody; whether it was signed now. Spec: [LANE-WITHHELD.1]"""
        if self.writer is None or self.writer.ended or self._end is None:
            return False
        ids, texts = [token for token, _, _ in self._ready], [text for _, text, _ in self._ready]
        self._ready.clear()
        self._signature = self.writer.frame(ids, texts, self._end).signature
        return True

    def report(self) -> LaneEnded:
        """The signed end, for a router that did not see the frames."""
        assert self.writer is not None and self._end is not None and self._signature is not None
        chain = close_chain(self.writer.chain, self._end)
        return LaneEnded(self.writer.head, self._end, chain, self._signature)

    def transcript(self) -> list[object]:
        """What is to be kept of the lane, once its end is signed. Spec: [TEST-KEPT.1]"""
        if not self.audited or self.draft is None or self.writer is None or self._end is None:
            return []
        return [self.draft.finish(self.order, (*self.earlier, self.writer.head), self._end)]

    def relay_from(self, index: int, chain: bytes) -> list[Message]:
        """Go on through the router, from what the client has: the same frames again, then new ones.

        Raises RemoteProtocolError if the client has there what was not signed here, or acknowledged more already.
        Spec: [DIRECT-FALLBACK.1]
        """
        if {**self._boundaries, self.acked: self._acked_chain}.get(index) != chain:
            raise RemoteProtocolError(f"no frame of the lane ends at token {index} with such a chain")
        self.delivery = Delivery.RELAYED
        again = [frame for frame in self._unacked if frame.first_index >= index]
        self._unacked.clear()
        if self.writer is None:
            return []
        head: list[Message] = [SegmentStart(self.writer.head)] if index == self.start_index else []
        return [*head, *again]

    @property
    def backlog(self) -> int:
        """Tokens that are ready and not sent."""
        return len(self._ready)

    @property
    def starved(self) -> bool:
        """Whether only a missing ack holds the lane up."""
        return (
            self.writer is not None
            and not self.writer.ended
            and bool(self._ready)
            and self.writer.index - self.acked >= self._params.unacked_tokens_max
        )

    @property
    def written(self) -> bool:
        """Whether the end is signed and on its way: the lane needs no engine any more."""
        return self.writer is not None and self.writer.ended

    @property
    def settled(self) -> bool:
        """Whether its end has left, and the client has acknowledged all that it was sent."""
        if self.writer is None or not self.writer.ended:
            return False
        return self.delivery is Delivery.WITHHELD or self.acked >= self.writer.index

    def take_ack(self, message: AckMessage) -> None:
        """Move the credit. Raises RemoteProtocolError for an ack that does not name what was signed.

        Spec: [ACK-CREDIT.1]
        """
        ack = message.ack
        if self.writer is None or ack.index > self.writer.index:
            raise RemoteProtocolError("an ack names tokens that were not sent")
        if ack.index <= self.acked:
            return
        if self._boundaries.get(ack.index) != ack.chain:
            raise RemoteProtocolError("an ack names another chain than the one signed")
        self.acked, self._acked_chain = ack.index, Digest(ack.chain)
        self.words[Digest(ack.segment)] = AckWord(ack.index, ack.chain, message.signature)
        self._boundaries = {index: chain for index, chain in self._boundaries.items() if index > ack.index}
        while self._unacked and _was_read(self._unacked[0], ack.index):
            self._unacked.popleft()

    def take_earlier(self, domain: Domain, message: AckMessage) -> bool:
        """Keep the client's ack of a segment before this miner's: whose it was is paid by it. False if it is of none.

        Spec: [ACK-EARLIER.1]
        """
        ack = message.ack
        ends = [head.start_index for head in self.earlier[1:]] + [self.start_index]
        for head, end in zip(self.earlier, ends, strict=False):
            segment = segment_id(domain, head)
            if (segment, head.generation) != (ack.segment, ack.generation):
                continue
            known = self.words.get(segment)
            if head.start_index < ack.index <= end and (known is None or ack.index > known.index):
                self.words[segment] = AckWord(ack.index, ack.chain, message.signature)
            return True
        return False


def _was_read(frame: FrameMessage, acked: int) -> bool:
    # An end without tokens has the index of the frame before it, whose ack says nothing of it.
    return frame.end is None and frame.first_index + len(frame.ids) <= acked
