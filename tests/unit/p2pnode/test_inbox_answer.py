"""How a router has a question answered: again where it may help, never longer than a reply may be, else not at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from p2pnode.answer import RequestFailed
from p2pnode.inbox_answer import TOKEN_BYTES, TRIES, Unanswerable, answer_question
from protocol.core.codec import pack
from protocol.core.ids import ZERO_DIGEST
from protocol.messages.inbox import InboxQuestion
from protocol.messages.tasks import EndReason, EndRecord
from protocol.roles.client import TaskTranscript
from tests.unit.protocol.machines import MODEL, OFFER, PROMPT, head_of, opening_of, order_of

ASKED = InboxQuestion(PROMPT, 50)
ROOM = 16_000


class Said:
    """An answer as the SDK gives it: tokens one by one, until it is cancelled."""

    def __init__(self, words: list[bytes], final: bool) -> None:
        self.text = ""
        self.token_ids: list[int] = []
        self.heads = [head_of(order_of(opening_of()))]
        self.level, self.against = "certified", ""
        self.transcript: TaskTranscript | None = None
        self._words, self._final, self._cancelled = words, final, False

    def cancel(self) -> None:
        self._cancelled = True

    async def __aiter__(self) -> AsyncIterator[str]:
        for number, word in enumerate(self._words):
            if self._cancelled:
                break
            self.token_ids.append(number)
            self.text += word.decode()
            yield word.decode()
        order, count = order_of(opening_of()), len(self.token_ids)
        end, texts = EndRecord(EndReason.STOP, 1, count, 0), tuple(self._words[:count])
        self.transcript = TaskTranscript(order, PROMPT, tuple(self.heads), tuple(self.token_ids), texts, end)

    async def wait_for(self, level: str, *, timeout_ms: int) -> bool:
        assert (level, timeout_ms > 0) == ("finalized", True)
        return self._final


class Network:
    """A client whose sessions go as a test says: an answer, one that does not become final, or an error."""

    def __init__(self, *tries: Said | RequestFailed) -> None:
        self.tries = list(tries)
        self.models = [OFFER]
        self.sessions: list[dict[str, Any]] = []
        self.orders: list[dict[str, Any]] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        yield self

    @asynccontextmanager
    async def session(self, model: str | None = None, **terms: Any) -> AsyncIterator[Any]:
        self.sessions.append({"model": model, **terms})
        yield self

    @asynccontextmanager
    async def ask(self, messages: Any, **order: Any) -> AsyncIterator[Any]:
        self.orders.append({"messages": messages, **order})
        said = self.tries.pop(0)
        if isinstance(said, RequestFailed):
            raise said
        yield said


def busy() -> RequestFailed:
    return RequestFailed("no_capacity", "all slots are taken", retry_after_ms=2_000)


async def test_the_asker_s_prompt_is_ordered_as_it_is() -> None:
    network = Network(Said([b"In ", b"a ", b"wood."], True))
    reply = await answer_question(network.open, ASKED, MODEL, ROOM)
    assert reply.texts == (b"In ", b"a ", b"wood.")
    (order,) = network.orders
    assert (order["messages"], order["nonce"], order["sampling"]) == (PROMPT.messages, PROMPT.nonce, PROMPT.sampling)
    assert (order["max_tokens"], order["transcript"]) == (50, True)
    (session,) = network.sessions
    assert session == {"model": MODEL.hex(), "tokens": 50, "cap_wei": 50 * OFFER.price_wei}


async def test_any_model_will_do_where_none_is_asked_for() -> None:
    network = Network(Said([b"Yes."], True))
    await answer_question(network.open, ASKED, ZERO_DIGEST, ROOM)
    assert network.sessions[0]["model"] is None


async def test_what_fails_or_does_not_become_final_is_tried_again(autojump_clock: object) -> None:
    network = Network(busy(), Said([b"No."], False), Said([b"Yes."], True))
    reply = await answer_question(network.open, ASKED, MODEL, ROOM)
    assert reply.texts == (b"Yes.",)


@pytest.mark.parametrize("last", [busy, lambda: Said([b"No."], False)], ids=["busy", "not final"])
async def test_after_some_tries_it_is_unanswerable(autojump_clock: object, last: Any) -> None:
    network = Network(*(last() for _ in range(TRIES + 1)))
    with pytest.raises(Unanswerable):
        await answer_question(network.open, ASKED, MODEL, ROOM)
    assert len(network.tries) == 1


async def test_an_answer_ends_where_a_reply_is_full() -> None:
    room = 4_096
    network = Network(Said([b"word "] * 1_000, True))
    reply = await answer_question(network.open, ASKED, MODEL, room)
    assert len(pack(reply)) <= room
    assert 0 < len(reply.ids) < 1_000
    assert len(reply.ids) * (TOKEN_BYTES + 5) > room // 4
