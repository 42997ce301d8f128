"""What an asker makes of a sealed reply: the network's own result root, or the link that is broken."""

from collections.abc import Callable

import msgspec
import pytest

from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError
from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import typed_digest
from protocol.light.inbox import ReplyError, reply_result, reply_text
from protocol.messages.inbox import INBOX_TOKENS_MAX, InboxQuestion, InboxReply
from protocol.messages.tasks import EndReason, EndRecord, SegmentHead, TaskOrder
from protocol.results.commitment import make_opening, opening_root, segment_of
from protocol.roles.client import TaskOver, TaskTranscript
from protocol.session.transcript import SegmentWriter
from tests.unit.protocol.client_at_hand import HELLO, Client
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    MALLORY,
    MINERS,
    PROMPT,
    PROMPT_TOKENS,
    head_of,
    opening_of,
    order_of,
    stream_of,
)

ORDER = order_of(opening_of())
TOKENS = tuple((100 + index, b"%d " % index) for index in range(9))


def lane(order: TaskOrder, starts: tuple[int, ...] = (0, 4, 7)) -> tuple[InboxReply, bytes]:
    """A lane that changed its miner at these tokens, and the root that its last miner commits to."""
    heads: list[SegmentHead] = []
    chain, tokens = ZERO_DIGEST, TOKENS
    for number, (start, end) in enumerate(zip(starts, (*starts[1:], len(tokens)), strict=True)):
        fields = {"miner": MINERS[number].node, "start_index": start, "previous_head": chain}
        writer = SegmentWriter(DOMAIN, MINERS[number].sign, head_of(order, GENERATION[:-1] + bytes([number]), **fields))
        heads.append(writer.head)
        if part := tokens[start:end]:
            writer.frame([token for token, _ in part], [text for _, text in part], None)
        chain = writer.chain
    record = EndRecord(EndReason.STOP, len(PROMPT_TOKENS), len(tokens), 0)
    signature, segments = CLIENT.sign(typed_digest(DOMAIN, order)), [segment_of(head) for head in heads]
    opening = make_opening(DOMAIN, order, signature, heads, record.close(chain), len(tokens), segments)
    ids, texts = zip(*tokens, strict=True)
    return InboxReply(order, tuple(heads), ids, texts, record), opening_root(DOMAIN, opening)


REPLY, ROOT = lane(ORDER)


@pytest.mark.spec("INBOX-REPLY.1")
@pytest.mark.parametrize("starts", [(0,), (0, 4, 7), (0, 9)])
def test_an_honest_reply_leads_to_the_root_that_its_miner_commits_to(starts: tuple[int, ...]) -> None:
    reply, root = lane(ORDER, starts)
    result = reply_result(DOMAIN, PROMPT, unpack(InboxReply, pack(reply), limit_bytes=16_384))
    assert typed_digest(DOMAIN, result) == root
    assert (result.order, result.prompt, result.count) == (typed_digest(DOMAIN, ORDER), PROMPT.commitment(), 9)
    assert reply_text(reply) == "0 1 2 3 4 5 6 7 8 "


def _with(**fields: object) -> InboxReply:
    return msgspec.structs.replace(REPLY, **fields)


def _head(at: int, **fields: object) -> InboxReply:
    heads = list(REPLY.heads)
    heads[at] = msgspec.structs.replace(heads[at], **fields)
    return _with(heads=tuple(heads))


@pytest.mark.parametrize(
    "reply",
    [
        _with(ids=(*REPLY.ids[:3], 7, *REPLY.ids[4:])),
        _with(texts=(*REPLY.texts[:8], b"lies")),
        _with(end=EndRecord(EndReason.LENGTH, len(PROMPT_TOKENS), 9, 0)),
        _head(2, miner=MALLORY.node),
        _head(2, price_wei=99),
    ],
    ids=["a token", "a text", "the end", "a miner", "a price"],
)
@pytest.mark.spec("INBOX-REPLY.1")
def test_whatever_is_changed_leads_to_another_root_or_none(reply: InboxReply) -> None:
    try:
        result = reply_result(DOMAIN, PROMPT, reply)
    except ReplyError:
        return
    assert typed_digest(DOMAIN, result) != ROOT


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        (lambda: _with(order=msgspec.structs.replace(ORDER, prompt=b"\x01" * 32)), "another question"),
        (lambda: _with(order=msgspec.structs.replace(ORDER, sampling=b"\x01" * 32)), "another question"),
        (lambda: _with(order=msgspec.structs.replace(ORDER, max_tokens=3)), "another order"),
        (lambda: _head(1, lane=1), "another order"),
        (lambda: _head(0, model=b"\x01" * 32), "another order"),
        (lambda: _head(1, previous_head=b"\x01" * 32), "another chain"),
        (lambda: _head(1, start_index=0), "do not follow"),
        (lambda: _head(0, start_index=1), "do not follow"),
        (lambda: _head(2, start_index=10), "do not follow"),
        (lambda: _with(ids=REPLY.ids[:-1], texts=REPLY.texts[:-1]), "another number"),
        (lambda: _with(texts=REPLY.texts[:-1]), "another number"),
    ],
)
def test_a_reply_that_does_not_hold_together_is_refused_by_its_link(
    reply: Callable[[], InboxReply], named: str
) -> None:
    with pytest.raises(ReplyError, match=named):
        reply_result(DOMAIN, PROMPT, reply())


@pytest.mark.spec("INBOX-QUESTION.1")
def test_a_question_is_bounded_and_in_one_form() -> None:
    question = InboxQuestion(PROMPT, INBOX_TOKENS_MAX)
    assert unpack(InboxQuestion, pack(question), limit_bytes=8_192) == question
    for tokens in (0, INBOX_TOKENS_MAX + 1):
        with pytest.raises(DecodeError):
            unpack(InboxQuestion, pack(InboxQuestion(PROMPT, tokens)), limit_bytes=8_192)


def test_a_client_tells_what_an_answer_is_made_of_if_it_is_asked_to() -> None:
    client = Client()
    client.says(HELLO)
    client.ready()
    for handle, wanted in ((3, True), (4, False)):
        order = client.order(client.ask(handle, transcript=wanted))
        client.says(*stream_of(order))
        transcripts = [item for item in client.items[handle] if isinstance(item, TaskTranscript)]
        assert any(isinstance(item, TaskOver) for item in client.items[handle])
        assert len(transcripts) == wanted
        for told in transcripts:
            reply = InboxReply(told.order, told.heads, told.ids, told.texts, told.end)
            assert reply_result(DOMAIN, told.prompt, reply).count == len(told.ids) == 8
            assert b"".join(told.texts) == client.text(handle)
