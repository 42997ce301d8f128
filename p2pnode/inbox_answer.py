"""How a router has a question of the inbox answered: by an ordinary client session of its own, at itself."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from p2pnode.answer import Answer, RequestFailed
from p2pnode.session import Session
from protocol.core.codec import pack
from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.messages.adverts import ModelOffer
from protocol.messages.inbox import InboxQuestion, InboxReply
from protocol.roles.client import TaskTranscript

log = logging.getLogger(__name__)

FINAL_MS = 60_000
"""So long an answer is waited for to become final, before it is asked anew."""
TRIES = 3
PAUSE_S = 1.0
TOKEN_BYTES = 8
"""What a token takes in a reply beside its text, at most."""
HEAD_BYTES = 512
REPLY_ROOM_BYTES = 2_048
"""For all of a reply but tokens and heads."""


class Unanswerable(Exception):
    """A question that no try will answer: there is no such model, or no miner takes it."""


class Client(Protocol):
    """What of a light client this needs."""

    @property
    def models(self) -> Sequence[ModelOffer]:
        """What there are miners for."""

    def session(
        self, model: str | None = None, *, tokens: int = 512, timeout_ms: int = 0, cap_wei: int | None = None
    ) -> AbstractAsyncContextManager[Session]:
        """Open a session."""


OpenClient = Callable[[], AbstractAsyncContextManager[Client]]
"""Greets the router anew: what it has miners for changes."""


async def answer_question(open_client: OpenClient, asked: InboxQuestion, model: bytes, bytes_max: int) -> InboxReply:
    """The network's answer, final, in at most so many bytes. Raises Unanswerable."""
    failed: Exception | None = None
    for _ in range(TRIES):
        try:
            async with open_client() as client:
                transcript = await _once(client, asked, model, bytes_max)
        except RequestFailed as error:
            failed = error
            await trio.sleep(max(PAUSE_S, error.retry_after_ms / 1_000))
            continue
        if transcript is None:
            continue
        reply = InboxReply(transcript.order, transcript.heads, transcript.ids, transcript.texts, transcript.end)
        if len(pack(reply)) <= bytes_max:
            return reply
    raise Unanswerable(str(failed or "no answer became final"))


async def _once(client: Client, asked: InboxQuestion, model: bytes, bytes_max: int) -> TaskTranscript | None:
    """One try; None if the oracles did not agree on it."""
    wanted = None if model == ZERO_DIGEST else model.hex()
    cap_wei = _price_wei(client, model) * asked.max_tokens
    async with client.session(wanted, tokens=asked.max_tokens, cap_wei=cap_wei) as session:
        order = session.ask(
            asked.prompt.messages,
            sampling=asked.prompt.sampling,
            nonce=asked.prompt.nonce,
            max_tokens=asked.max_tokens,
            transcript=True,
        )
        async with order as answer:
            await _read(answer, bytes_max)
        if not await answer.wait_for("finalized", timeout_ms=FINAL_MS):
            log.warning("an answer of the inbox is %s, %s: asked anew", answer.level, answer.against or "not final")
            return None
        return answer.transcript


async def _read(answer: Answer, bytes_max: int) -> None:
    """To its end, or as far as a reply can hold. Raises RequestFailed."""
    async for _ in answer:
        taken = len(answer.text.encode()) + TOKEN_BYTES * len(answer.token_ids) + HEAD_BYTES * len(answer.heads)
        if taken + REPLY_ROOM_BYTES > bytes_max:
            # It ends here, signed; what comes on the way there still fits.
            answer.cancel()


def _price_wei(client: Client, model: bytes) -> int:
    """Of a token, at most: the router knows what is bid."""
    offers = [each for each in client.models if model in (ZERO_DIGEST, Digest(each.manifest.digest()))]
    return max((offer.price_wei for offer in offers), default=0)
