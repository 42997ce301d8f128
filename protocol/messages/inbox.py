"""What is asked and answered through the inbox on the chain, once it is unsealed."""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.core.signing import U32
from protocol.messages.results import SEGMENTS_CLAIMED_MAX
from protocol.messages.tasks import TOKEN_BYTES_MAX, EndRecord, Prompt, SegmentHead, TaskOrder

INBOX_TOKENS_MAX = 1_000
"""Of an answer: what proves it has to fit beside it into a transaction."""


class InboxQuestion(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a router is to have answered. Its prompt's commitment stands on the chain. Spec: [INBOX-QUESTION.1]"""

    prompt: Prompt
    """The nonce is the asker's."""
    max_tokens: Annotated[int, Meta(ge=1, le=INBOX_TOKENS_MAX)]


class InboxReply(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An answer with all that its result root is computed from. Spec: [INBOX-REPLY.1]"""

    order: TaskOrder
    heads: Annotated[tuple[SegmentHead, ...], Meta(min_length=1, max_length=SEGMENTS_CLAIMED_MAX)]
    """Of lane 0, in order."""
    ids: Annotated[tuple[U32, ...], Meta(max_length=INBOX_TOKENS_MAX)]
    texts: Annotated[tuple[Annotated[bytes, Meta(max_length=TOKEN_BYTES_MAX)], ...], Meta(max_length=INBOX_TOKENS_MAX)]
    """Each token's share of the text."""
    end: EndRecord
