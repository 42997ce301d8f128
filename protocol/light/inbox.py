"""What whoever asked through the inbox can check: that the text it was sent is what the network's verdict is about.

The contract proved that a lane came to a result root. The root follows from the question and from every token of the
reply, so a router that changes, adds or leaves out anything sends a reply that leads to another root.
"""

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.core.signing import Domain, typed_digest
from protocol.messages.inbox import InboxReply
from protocol.messages.results import LaneResult
from protocol.messages.tasks import Prompt
from protocol.results.commitment import chain_heads
from protocol.session.transcript import advance, segment_id

LANE = 0
"""An answer is always its lane 0."""


class ReplyError(RemoteProtocolError):
    """A reply that does not belong to the question, or does not lead to one result; the message names the link."""

    code = "remote/inbox-reply"


def reply_result(domain: Domain, prompt: Prompt, reply: InboxReply) -> LaneResult:
    """What a reply to a prompt came to; its typed digest is the result root. Raises ReplyError.

    Spec: [INBOX-REPLY.1]
    """
    order = reply.order
    if (order.prompt, order.sampling) != (prompt.commitment(), prompt.sampling.digest()):
        raise ReplyError("the order is of another question")
    _check_heads(domain, reply)
    digests, chain = _chain(domain, reply)
    segments, model, count = chain_heads(ZERO_DIGEST, digests), reply.heads[-1].model, len(reply.ids)
    return LaneResult(typed_digest(domain, order), order.prompt, model, segments, reply.end.close(chain), count)


def _check_heads(domain: Domain, reply: InboxReply) -> None:
    order, model = reply.order, reply.heads[-1].model
    expected = (order.session, order.task, LANE, typed_digest(domain, order), order.prompt, order.sampling, model)
    for head in reply.heads:
        named = (head.session, head.task, head.lane, head.order, head.prompt, head.sampling, head.model)
        if named != expected:
            raise ReplyError("a segment of another order")
    starts = [head.start_index for head in reply.heads]
    if starts != sorted(set(starts)) or starts[0] != 0 or starts[-1] > len(reply.ids):
        raise ReplyError("segments that do not follow each other from token 0")
    if len(reply.ids) != len(reply.texts) or reply.end.completion_tokens != len(reply.ids):
        raise ReplyError("another number of tokens than the end names")


def _chain(domain: Domain, reply: InboxReply) -> tuple[list[Digest], Digest]:
    """The segments' digests, and the chain value after the last token."""
    ends = [*(head.start_index for head in reply.heads[1:]), len(reply.ids)]
    digests: list[Digest] = []
    chain = ZERO_DIGEST
    for head, end in zip(reply.heads, ends, strict=True):
        if head.previous_head != chain:
            raise ReplyError("a segment that names another chain before it")
        chain = segment_id(domain, head)
        digests.append(chain)
        for index in range(head.start_index, end):
            chain = advance(chain, index + 1, reply.ids[index], reply.texts[index])
    return digests, chain


def reply_text(reply: InboxReply) -> str:
    """What was answered."""
    return b"".join(reply.texts).decode("utf-8", "replace")
