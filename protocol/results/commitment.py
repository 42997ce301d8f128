"""A lane's result root, the commitment that binds it before it is shown, and what opens that.

The commitment is salted, so that nobody can try results against it, and bound to author, order, lane and generation,
so that nobody can commit to what another committed to.
"""

from collections.abc import Iterable, Sequence

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.signing import Domain, keccak, recover, typed_digest, verify
from protocol.messages.results import (
    SEGMENTS_CLAIMED_MAX,
    Commit,
    LaneResult,
    Opening,
    Reveal,
    Segment,
    SignedCommit,
    SignedReveal,
)
from protocol.messages.tasks import Ack, SegmentHead, TaskOrder

_COMMITMENT = b"p2pnode/commitment/1"


class ResultError(RemoteProtocolError):
    """A commit, reveal or opening that does not hold; ``link`` names what of it."""

    code = "remote/result"

    def __init__(self, link: str, message: str) -> None:
        super().__init__(f"{link}: {message}")
        self.link = link


def chain_heads(before: bytes, heads: Iterable[bytes]) -> Digest:
    """The running digest of segments, each named by its head's digest. Spec: [RESULT-ROOT.1]"""
    running = before
    for head in heads:
        running = keccak(running + head)
    return Digest(running)


def result_root(domain: Domain, order: TaskOrder, model: bytes, segments: bytes, chain: bytes, count: int) -> Digest:
    """What a lane came to, in one digest. Spec: [RESULT-ROOT.1]"""
    result = LaneResult(typed_digest(domain, order), order.prompt, model, segments, chain, count)
    return typed_digest(domain, result)


def commitment(
    domain: Domain, session: bytes, task: int, lane: int, generation: bytes, miner: bytes, root: bytes, salt: bytes
) -> Digest:
    """keccak over the domain, whose lane it is, the result root and 32 secret bytes. Spec: [COMMIT-BOUND.1]"""
    place = session + task.to_bytes(4, "big") + bytes([lane]) + generation + miner
    return Digest(keccak(_COMMITMENT + domain.separator() + place + root + salt))


def commit_of(domain: Domain, reveal: Reveal) -> Commit:
    """The commit that a reveal opens."""
    place = (reveal.session, reveal.task, reveal.lane, reveal.generation, reveal.miner)
    return Commit(*place, commitment(domain, *place, reveal.root, reveal.salt))


def check_commit(domain: Domain, signed: SignedCommit) -> None:
    """Raises SignatureError unless its miner signed it."""
    verify(typed_digest(domain, signed.commit), signed.signature, signed.commit.miner, "the commit")


def check_reveal(domain: Domain, signed: SignedReveal) -> None:
    """Raises SignatureError unless its miner signed it."""
    verify(typed_digest(domain, signed.reveal), signed.signature, signed.reveal.miner, "the reveal")


def head_of(domain: Domain, opening: Opening, segment: Segment) -> SegmentHead:
    """The head that a segment of an opening stands for."""
    order = opening.order
    return SegmentHead(
        session=order.session,
        task=order.task,
        lane=opening.lane,
        generation=segment.generation,
        miner=segment.miner,
        order=typed_digest(domain, order),
        prompt=order.prompt,
        router=segment.router,
        price_wei=segment.price_wei,
        prompt_tokens=segment.prompt_tokens,
        prompt_token_count=segment.prompt_token_count,
        model=opening.model,
        sampling=order.sampling,
        start_index=segment.start_index,
        previous_head=segment.previous_head,
    )


def opening_root(domain: Domain, opening: Opening) -> Digest:
    """The result root that an opening leads to. Spec: [RESULT-ROOT.1]"""
    heads = [typed_digest(domain, head_of(domain, opening, segment)) for segment in opening.segments]
    segments = chain_heads(opening.earlier, heads)
    return result_root(domain, opening.order, opening.model, segments, opening.chain, opening.count)


def make_opening(
    domain: Domain,
    order: TaskOrder,
    signature: bytes,
    heads: Sequence[SegmentHead],
    chain: bytes,
    count: int,
    segments: Sequence[Segment],
) -> Opening:
    """The opening of a lane with these heads, all of them; ``segments`` are the same, with the acks there are."""
    digests = [typed_digest(domain, head) for head in heads]
    cut = max(0, len(heads) - SEGMENTS_CLAIMED_MAX)
    earlier = chain_heads(ZERO_DIGEST, digests[:cut])
    lane, model = heads[-1].lane, heads[-1].model
    return Opening(order, signature, lane, model, tuple(segments[cut:]), earlier, chain, count)


def segment_of(head: SegmentHead) -> Segment:
    """What an opening says of a segment, without an ack."""
    return Segment(
        head.generation,
        head.miner,
        head.router,
        head.price_wei,
        head.prompt_tokens,
        head.prompt_token_count,
        head.start_index,
        head.previous_head,
    )


def check_opening(domain: Domain, client: bytes, opening: Opening) -> None:
    """What anybody can check of an opening: the client signed order and acks, the segments follow each other and hold
    no more tokens than the order allows. Raises ResultError, SignatureError. Spec: [OPENING-VALID.1]
    """
    order, segments = opening.order, opening.segments
    verify(typed_digest(domain, order), opening.signature, client, "the order")
    starts = [segment.start_index for segment in segments]
    if starts != sorted(set(starts)) or (opening.earlier == ZERO_DIGEST) != (starts[0] == 0):
        raise ResultError("segments", "they follow each other, the first from token 0")
    if not starts[-1] <= opening.count <= order.max_tokens:
        raise ResultError("count", f"{opening.count} tokens, the order allows {order.max_tokens}")
    ends = [*starts[1:], opening.count]
    for segment, end in zip(segments, ends, strict=True):
        _check_ack(domain, client, opening, segment, end)


def _check_ack(domain: Domain, client: bytes, opening: Opening, segment: Segment, end: int) -> None:
    word = segment.ack
    if word is None:
        return
    if opening.lane:
        raise ResultError("ack", "only lane 0 is acknowledged")
    if not segment.start_index <= word.index <= end:
        raise ResultError("ack", f"token {word.index} is not in its segment")
    head = typed_digest(domain, head_of(domain, opening, segment))
    order = opening.order
    ack = Ack(order.session, order.task, opening.lane, segment.generation, head, word.index, word.chain)
    verify(typed_digest(domain, ack), word.signature, client, "the ack")


def committer(domain: Domain, signed: SignedCommit) -> NodeId:
    """Who signed a commit, whatever it claims. Raises SignatureError."""
    return recover(typed_digest(domain, signed.commit), signed.signature)


def check_opens(domain: Domain, commit: Commit, reveal: Reveal, opening: Opening) -> None:
    """Whether a reveal opens a commit, and with this opening. Raises ResultError. Spec: [REVEAL-OPENS.1]"""
    if commit_of(domain, reveal) != commit:
        raise ResultError("reveal", "it does not open the commit")
    order = opening.order
    last = opening.segments[-1]
    place = (order.session, order.task, opening.lane, last.generation, last.miner)
    if place != (reveal.session, reveal.task, reveal.lane, reveal.generation, reveal.miner):
        raise ResultError("opening", "it is another lane's")
    if (opening_root(domain, opening), opening.count) != (reveal.root, reveal.count):
        raise ResultError("opening", "it leads to another result than the reveal names")
