"""The bound chain of a lane: how a miner writes it, how everybody else checks it.

``chain_0`` is the typed digest of the segment's head, which binds network, session, task, lane, generation,
miner, order, prompt commitment, rendered prompt, model and sampling. Every token moves the chain on by one
hash; every frame signs (segment, index, chain). A lane ends with a signed end record. So a reader that holds
the session's assignment and its own order can be shown nothing else than what the miner signed for exactly
this task: no token changed, dropped, repeated, moved, or cut off at the end.

A lane may consist of several segments (failover): the next one starts at the last signed index and names the
chain value there.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protocol.core.errors import LocalProtocolError, SignatureError, TranscriptError
from protocol.core.ids import ZERO_DIGEST, Digest, Generation, ModelDigest, NodeId, SessionId
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign, recover, typed_digest
from protocol.messages.logprobs import TokenLogProbs
from protocol.messages.tasks import (
    SEGMENTS_MAX,
    Ack,
    AckMessage,
    Continuation,
    EndRecord,
    Frame,
    FrameMessage,
    LaneEnded,
    SegmentHead,
    StartTask,
    TaskOrder,
)
from protocol.session.logprobs import check_logprobs, sign_logprobs

TOKEN_OVERHEAD_BYTES = 8
"""What a token takes in a Continuation beside its text."""
START_OVERHEAD_BYTES = 65_536
"""Room in a StartTask for all but prompt and tokens: signatures, assignment, heads."""

_TOKEN = struct.Struct(">QII")


def prompt_tokens_digest(nonce: bytes, ids: Sequence[int]) -> Digest:
    """sha256 of the prompt's nonce and of the rendered prompt's token ids as big-endian 32-bit words.

    Heads and chain values become public in blocks. The nonce, which only client and miners know, keeps both from
    being guessed: every chain value follows from it. Spec: [CHAIN-SALT.1]
    """
    words = struct.pack(f">{len(ids)}I", *ids)
    return Digest(hashlib.sha256(b"p2pnode/prompt-tokens/1" + nonce + words).digest())


def advance(chain: Digest, index: int, token: int, text: bytes) -> Digest:
    """The chain after the token that makes the lane ``index`` tokens long. Spec: [CHAIN-TOKEN.1]"""
    return Digest(hashlib.sha256(b"\x01" + chain + _TOKEN.pack(index, token, len(text)) + text).digest())


def close_chain(chain: Digest, end: EndRecord) -> Digest:
    """The chain after the end record. Spec: [CHAIN-END.1]"""
    return end.close(chain)


def segment_id(domain: Domain, head: SegmentHead) -> Digest:
    """The id of a segment and the start of its chain. Spec: [CHAIN-HEAD.1]"""
    return Digest(typed_digest(domain, head))


def replay(domain: Domain, resume: Continuation) -> Digest:
    """The chain value after a lane's earlier segments. Raises TranscriptError. Spec: [CHAIN-TAKEOVER.1]"""
    if len(resume.ids) != len(resume.texts):
        raise TranscriptError("resume.tokens", "as many texts as tokens")
    starts = {head.start_index: head for head in resume.heads}
    if len(starts) != len(resume.heads) or max(starts, default=0) >= len(resume.ids):
        raise TranscriptError("resume.heads", "every segment but the last to come holds tokens")
    chain = ZERO_DIGEST
    for index, (token, text) in enumerate(zip(resume.ids, resume.texts, strict=True)):
        head = starts.get(index)
        if head is not None:
            if head.previous_head != chain:
                raise TranscriptError("resume.heads", f"the segment from token {index} names another chain before it")
            chain = segment_id(domain, head)
        elif index == 0:
            raise TranscriptError("resume.heads", "no segment starts at token 0")
        chain = advance(chain, index + 1, token, text)
    return chain


def check_resume(domain: Domain, order: TaskOrder, lane: int, resume: Continuation) -> Digest:
    """The chain value from which a lane of an order goes on. Raises TranscriptError unless it follows from what miners
    bound to this very order. Spec: [CHAIN-TAKEOVER.1]
    """
    names = (typed_digest(domain, order), lane, order.session)
    if any((head.order, head.lane, head.session) != names for head in resume.heads):
        raise TranscriptError("resume.heads", "an earlier segment belongs to another order or lane")
    if len(resume.ids) > order.max_tokens:
        raise TranscriptError("resume.tokens", "the lane holds more tokens than the order allows")
    return replay(domain, resume)


def fits(params: Params, resume: Continuation) -> bool:
    """Whether there is room for it in a StartTask, beside the largest prompt."""
    return len(resume.heads) <= SEGMENTS_MAX and continuation_bytes(resume.texts) <= continuation_bytes_max(params)


def continuation_bytes(texts: Iterable[bytes]) -> int:
    """What tokens with these texts take in a Continuation, at most."""
    return sum(TOKEN_OVERHEAD_BYTES + len(text) for text in texts)


def continuation_bytes_max(params: Params) -> int:
    """Room for tokens in a StartTask."""
    return StartTask.LIMIT_BYTES - params.prompt_bytes_max - START_OVERHEAD_BYTES


class SegmentWriter:
    """One segment as its miner writes it. Frames come out signed and in order; after the end nothing does."""

    def __init__(self, domain: Domain, sign: Sign, head: SegmentHead) -> None:
        self.head = head
        self.index = head.start_index
        self.chain = segment_id(domain, head)
        self.ended = False
        self._segment = self.chain
        self._domain = domain
        self._sign = sign

    def frame(
        self,
        ids: Sequence[int],
        texts: Sequence[bytes],
        end: EndRecord | None,
        logprobs: tuple[TokenLogProbs, ...] = (),
    ) -> FrameMessage:
        """Sign the next tokens. Raises LocalProtocolError after the end or for an empty frame without one."""
        if self.ended or not (ids or end) or len(ids) != len(texts):
            raise LocalProtocolError("a frame holds tokens or an end, and nothing follows the end")
        first = self.index
        for token, text in zip(ids, texts, strict=True):
            self.index += 1
            self.chain = advance(self.chain, self.index, token, text)
        signed = self.chain
        if end is not None:
            self.ended = True
            signed = close_chain(self.chain, end)
        frame = Frame(self._segment, self.index, signed, end is not None)
        return FrameMessage(
            session=self.head.session,
            task=self.head.task,
            lane=self.head.lane,
            first_index=first,
            ids=tuple(ids),
            texts=tuple(texts),
            end=end,
            signature=self._sign(typed_digest(self._domain, frame)),
            logprobs=sign_logprobs(self._domain, self._sign, self._segment, first, logprobs) if logprobs else None,
        )


@dataclass(frozen=True, slots=True)
class SegmentExpectation:
    """What a reader knows before the head comes: from its own order and the router's assignment."""

    session: SessionId
    task: int
    lane: int
    generation: Generation
    miner: NodeId
    order: Digest
    prompt: Digest
    model: ModelDigest
    sampling: Digest
    max_tokens: int
    router: NodeId | None = None
    """By whose assignment, and ``price_wei`` a token, as the miner bid it; None where the reader does not pay."""
    price_wei: int | None = None


def expect_segment(
    domain: Domain,
    order: TaskOrder,
    lane: int,
    generation: bytes,
    miner: bytes,
    model: bytes,
    router: bytes | None = None,
    price_wei: int | None = None,
) -> SegmentExpectation:
    """What the segment of a lane must bind under this order and assignment."""
    return SegmentExpectation(
        session=SessionId(Digest(order.session)),
        task=order.task,
        lane=lane,
        generation=Generation(generation),
        miner=NodeId(miner),
        order=typed_digest(domain, order),
        prompt=Digest(order.prompt),
        model=ModelDigest(model),
        sampling=Digest(order.sampling),
        max_tokens=order.max_tokens,
        router=None if router is None else NodeId(router),
        price_wei=price_wei,
    )


def check_names(expected: SegmentExpectation, head: SegmentHead) -> None:
    """Whether a head binds what was ordered and assigned. Raises TranscriptError. Spec: [CHAIN-HEAD.1]"""
    names = ("session", "task", "lane", "generation", "miner", "order", "prompt", "model", "sampling")
    for name in (*names, "router", "price_wei"):
        got, want = getattr(head, name), getattr(expected, name)
        if want is not None and got != want:
            raise TranscriptError(f"head.{name}", f"is {_shown(got)}, expected {_shown(want)}")


def check_ended(domain: Domain, expected: SegmentExpectation, ended: LaneEnded) -> None:
    """Whether the miner of a lane that was not streamed here signed its end. Raises TranscriptError.

    Nothing is shown of the tokens: they can be checked against ``ended.chain`` by whoever gets them.
    Spec: [LANE-WITHHELD.1]
    """
    head, end = ended.head, ended.end
    check_names(expected, head)
    if head.lane > 0 and (head.start_index or head.previous_head != ZERO_DIGEST):
        raise TranscriptError("head.start_index", f"is {head.start_index}: lane {head.lane} begins anew")
    total = end.completion_tokens
    if not head.start_index <= total <= expected.max_tokens:
        raise TranscriptError("end.usage", f"{total} tokens, the order allows {expected.max_tokens}")
    if end.prompt_tokens != head.prompt_token_count or end.cached_tokens > end.prompt_tokens:
        raise TranscriptError("end.usage", "claims other prompt tokens than the head")
    frame = Frame(segment_id(domain, head), total, ended.chain, True)
    try:
        signer = recover(typed_digest(domain, frame), ended.signature)
    except SignatureError as error:
        raise TranscriptError("frame.signature", str(error)) from error
    if signer != expected.miner:
        raise TranscriptError("frame.signature", f"the end is not what miner {expected.miner.hex()} signed")


class LaneVerifier:
    """A lane as anyone else reads it, however its tokens are split into frames. Every method raises TranscriptError
    naming the link that broke, and after that nothing more is accepted.

    Spec: [CHAIN-HEAD.1] [CHAIN-TOKEN.1] [CHAIN-ORDER.1] [CHAIN-END.1] [CHAIN-SIGNER.1] [CHAIN-TAKEOVER.1]

    Args:
        logprobs: As ordered by the sampling parameter of that name.
    """

    def __init__(self, domain: Domain, expected: SegmentExpectation, logprobs: int = 0) -> None:
        self._domain = domain
        self._expected = expected
        self._logprobs = logprobs
        self._segment: Digest | None = None
        self._broken = False
        self.index = 0
        self.chain = ZERO_DIGEST
        self.head: SegmentHead | None = None
        self.end: EndRecord | None = None

    def begin(self, head: SegmentHead) -> None:
        """Take a segment's head."""
        with self._breaking():
            if self._segment is not None:
                raise TranscriptError("head", "the segment has started already")
            self._check_head(head)
            self.head = head
            self._segment = self.chain = segment_id(self._domain, head)

    def take_over(self, expected: SegmentExpectation) -> None:
        """Expect the lane's next segment, by another miner or lease, after the last token that held.

        A router may go on so after a segment that broke; what broke was not taken.
        """
        if self.end is not None:
            raise LocalProtocolError("a lane that ended is not taken over")
        if self.head is not None and self.index == self.head.start_index:
            # A segment that brought no token leaves no trace in the chain.
            self.chain = Digest(self.head.previous_head)
        self._expected = expected
        self._segment = None
        self._broken = False

    def mend(self) -> None:
        """Read on, from another source, after the last frame that held: what broke was not taken."""
        self._broken = False

    def adopt(self, expected: SegmentExpectation, resume: Continuation) -> None:
        """Stand where another reader stood: after ``resume``, inside the expected segment if tokens of it are there.

        Raises TranscriptError. A reader that starts so trusts the other for the tokens before.
        """
        self.index, self.chain, self.head, self.end = len(resume.ids), replay(self._domain, resume), None, None
        self._expected, self._segment, self._broken = expected, None, False
        latest = resume.heads[-1]
        if (latest.generation, latest.miner) == (expected.generation, expected.miner):
            with self._breaking():
                check_names(expected, latest)
            self.head, self._segment = latest, segment_id(self._domain, latest)

    def take(self, message: FrameMessage) -> None:
        """Take the next frame."""
        with self._breaking():
            if self._segment is None:
                raise TranscriptError("head", "a frame came before the segment's head")
            if self.end is not None:
                raise TranscriptError("frame.index", f"a frame came after the end at token {self.index}")
            self._check_place(message)
            chain, index = self.chain, self.index
            for token, text in zip(message.ids, message.texts, strict=True):
                index += 1
                chain = advance(chain, index, token, text)
            signed = chain if message.end is None else close_chain(chain, message.end)
            self._check_signature(message, Frame(self._segment, index, signed, message.end is not None))
            check_logprobs(self._domain, self._segment, self._expected.miner, message, self._logprobs)
            self.chain, self.index, self.end = chain, index, message.end

    def finish(self) -> EndRecord:
        """The end record; raises when the stream stopped without one."""
        if self.end is None:
            raise TranscriptError("end", f"the stream was cut after token {self.index}: no signed end record")
        return self.end

    def _check_head(self, head: SegmentHead) -> None:
        check_names(self._expected, head)
        if head.start_index != self.index:
            raise TranscriptError("head.start_index", f"is {head.start_index}, expected {self.index}")
        if head.previous_head != self.chain:
            raise TranscriptError(
                "head.previous_head", f"is {_shown(head.previous_head)}, expected {_shown(self.chain)}"
            )

    def _check_place(self, message: FrameMessage) -> None:
        expected = self._expected
        for name in ("session", "task", "lane"):
            got, want = getattr(message, name), getattr(expected, name)
            if got != want:
                raise TranscriptError(f"frame.{name}", f"is {_shown(got)}, expected {_shown(want)}")
        if message.first_index != self.index:
            kind = "repeated or out of order" if message.first_index < self.index else "missing before this one"
            raise TranscriptError(
                "frame.index", f"starts at token {message.first_index}, expected {self.index}: {kind}"
            )
        if len(message.ids) != len(message.texts) or not (message.ids or message.end):
            raise TranscriptError("frame.tokens", "a frame holds as many texts as tokens, and tokens or an end")
        total = self.index + len(message.ids)
        if total > expected.max_tokens:
            raise TranscriptError("frame.tokens", f"{total} tokens, the order allows {expected.max_tokens}")
        if message.end is not None:
            self._check_usage(message.end, total)

    def _check_usage(self, end: EndRecord, total: int) -> None:
        assert self.head is not None
        prompt = self.head.prompt_token_count
        if end.completion_tokens != total:
            raise TranscriptError("end.usage", f"claims {end.completion_tokens} tokens, the lane has {total}")
        if end.prompt_tokens != prompt or end.cached_tokens > prompt:
            claim = f"{end.prompt_tokens} prompt tokens, {end.cached_tokens} of them cached"
            raise TranscriptError("end.usage", f"claims {claim}; the head names {prompt}")

    def _check_signature(self, message: FrameMessage, frame: Frame) -> None:
        try:
            signer = recover(typed_digest(self._domain, frame), message.signature)
        except SignatureError as error:
            raise TranscriptError("frame.signature", str(error)) from error
        if signer != self._expected.miner:
            span = f"tokens {message.first_index} to {frame.index}"
            raise TranscriptError(
                "frame.signature", f"{span} are not what miner {self._expected.miner.hex()} signed (or another key did)"
            )

    def _breaking(self) -> "_Breaking":
        if self._broken:
            raise TranscriptError("transcript", "an earlier link is broken")
        return _Breaking(self)

    def _break(self) -> None:
        self._broken = True


class _Breaking:
    """Marks the verifier as broken when a check inside fails, so that a bad stream cannot be resumed."""

    def __init__(self, verifier: LaneVerifier) -> None:
        self._verifier = verifier

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            self._verifier._break()


def make_ack(domain: Domain, sign: Sign, verifier: LaneVerifier) -> AckMessage:
    """The reader's signed acknowledgement of all it has verified. Spec: [ACK-SIGNED.1]"""
    head = verifier.head
    if head is None:
        raise LocalProtocolError("nothing to acknowledge before the head")
    segment = segment_id(domain, head)
    ack = Ack(head.session, head.task, head.lane, head.generation, segment, verifier.index, verifier.chain)
    return AckMessage(ack, sign(typed_digest(domain, ack)))


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
