"""Whoever asks a router through the inbox on the chain: seals the question, opens the answer, and checks both proofs.

It needs nothing but the chain: no peer is dialed, and nobody is believed but the contract.
"""

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from chain.api import Answer, AnswerProved, Chain, EventCursor, InboxService, Question, TxId, TxState
from chain.errors import Reverted
from chain.sealing import SealedNonsense, SealingKey, answer_context, question_context, seal
from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError, P2PNodeError, RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.signing import Domain, typed_digest
from protocol.light.inbox import LANE, ReplyError, reply_result, reply_text
from protocol.messages.inbox import InboxQuestion, InboxReply
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import Prompt, PromptMessage

POLL_S = 1.0
TX_S = 120.0
PAGE_ITEMS = 64
_BYTES_MAX = 1 << 16

Tell = Callable[[str], None]


class InboxError(P2PNodeError):
    """A question could not be asked, or its answer does not hold."""

    code = "inbox/failed"


class _Kept(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A question, as its asker keeps it: without the reply key no answer can be read."""

    router: bytes
    question: InboxQuestion
    model: bytes
    reply_key: bytes
    number_from: bytes
    """The cursor from which on its events are looked for."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that belongs to its question; whether the network gave it, its root tells."""

    number: int
    answer: Answer
    reply: InboxReply
    root: Digest

    def shown(self) -> dict[str, Any]:
        """For a person or a program."""
        order = self.reply.order
        return {
            "text": reply_text(self.reply),
            "tokens": len(self.reply.ids),
            "session": order.session.hex(),
            "task": order.task,
            "model": self.reply.heads[-1].model.hex(),
            "root": self.root.hex(),
        }


class Asker:
    """See the module. ``folder`` is where questions are kept, one file each."""

    def __init__(self, domain: Domain, chain: Chain, folder: Path, tell: Tell, timeout_s: float) -> None:
        sender = chain.sender()
        assert sender is not None, "who asks has a key"
        self.me: NodeId = sender
        self._domain = domain
        self._chain = chain
        self._folder = folder
        self._tell = tell
        self._timeout_s = timeout_s

    def ask(self, router: bytes, prompt: str, model: Digest, max_tokens: int, fee: int | None, within_s: int) -> int:
        """Ask; the question's number, once it is final. Raises InboxError, ChainError."""
        service = self._service(NodeId(router))
        asked = Prompt(secrets.token_bytes(32), (PromptMessage("user", prompt),), SamplingParams())
        question, reply_key = InboxQuestion(asked, max_tokens), SealingKey.generate()
        cursor = self._now()
        kept = _Kept(router, question, model, reply_key.packed(), cursor.packed())
        path = self._folder / f"{asked.commitment().hex()}.question"
        _write(path, pack(kept))
        self._mined(self._chain.ask(self._sealed(service, kept, reply_key, fee, within_s)))
        found: Question | None = self._await(
            lambda: self._find(cursor, router, asked.commitment()), "the question to become final"
        )
        if found is None:
            raise InboxError("the question is not final yet", hint="its transaction may still be: look at the chain")
        os.replace(path, self._path(found.number))
        return found.number

    def _service(self, router: NodeId) -> InboxService:
        service = self._chain.service(router)
        if service is None:
            raise InboxError(
                f"0x{router.hex()} takes no questions",
                hint="its operator sets [router] inbox = true, and shows the address",
            )
        return service

    def _sealed(
        self, service: InboxService, kept: _Kept, reply_key: SealingKey, fee: int | None, within_s: int
    ) -> Question:
        commitment = kept.question.prompt.commitment()
        context = question_context(self._domain, kept.router, self.me, reply_key.public, commitment)
        return Question(
            number=0,
            asker=self.me,
            router=NodeId(kept.router),
            prompt=commitment,
            model=Digest(kept.model),
            reply_key=reply_key.public,
            deadline_s=int(time.time()) + within_s,
            fee=service.fee_min if fee is None else fee,
            sealed=seal(service.key, pack(kept.question), context),
        )

    def _now(self) -> EventCursor:
        block = self._chain.finalized()
        return EventCursor(block.number, block.hash)

    def _find(self, cursor: EventCursor, router: bytes, commitment: Digest) -> Question | None:
        for item in self._items(cursor, router):
            if isinstance(item, Question) and (item.asker, item.prompt) == (self.me, commitment):
                return item
        return None

    def _items(self, cursor: EventCursor, router: bytes) -> list[Question | Answer | AnswerProved]:
        """All that the inbox says of a router's questions after a cursor."""
        found: list[Question | Answer | AnswerProved] = []
        more = True
        while more:
            page = self._chain.inbox(cursor, PAGE_ITEMS, NodeId(router))
            found += page.items
            cursor, more = page.cursor, page.more
        return found

    # The answer

    def answer(self, number: int) -> Answered:
        """Wait for the answer to a question of this asker's, open it, and see that it belongs to it. Raises InboxError,
        ChainError."""
        kept = self._kept(number)

        def answered() -> Answer | None:
            items = self._items(EventCursor.read(kept.number_from), kept.router)
            return next((item for item in items if isinstance(item, Answer) and item.number == number), None)

        found = self._await(answered, "the router's answer")
        if found is None:
            raise InboxError(
                f"question {number} is not answered yet",
                hint=f"`p2pnode inbox show {number}` looks again; after its deadline `reclaim` takes the fee back",
            )
        return self._opened(kept, found)

    def _opened(self, kept: _Kept, answer: Answer) -> Answered:
        key = SealingKey.read(kept.reply_key)
        try:
            plain = key.open(answer.sealed, answer_context(self._domain, answer.number, key.public))
            reply = unpack(InboxReply, plain, limit_bytes=_BYTES_MAX)
            result = reply_result(self._domain, kept.question.prompt, reply)
            if (reply.order.session, reply.order.task, LANE) != (answer.session, answer.task, answer.lane):
                raise ReplyError("it is of another lane than the transaction says")
            if kept.model not in (ZERO_DIGEST, result.model):
                raise ReplyError("another model answered than was asked")
        except (SealedNonsense, DecodeError, RemoteProtocolError) as error:
            hint = f"it cannot be proved: after the deadline `p2pnode inbox reclaim {answer.number}` takes the fee back"
            raise InboxError(f"the answer does not hold: {error}", hint=hint) from error
        return Answered(answer.number, answer, reply, typed_digest(self._domain, result))

    def await_proof(self, answered: Answered) -> bool:
        """Wait until the contract has found the answer's root in the network's results. Raises InboxError for another
        root: then the text was altered."""
        return bool(self._await(lambda: self.proved(answered), "the proof of the answer"))

    def proved(self, answered: Answered) -> bool:
        """Whether it has, in a final block. Raises InboxError for another root."""
        kept = self._kept(answered.number)
        for item in self._items(EventCursor.read(kept.number_from), kept.router):
            if isinstance(item, AnswerProved) and item.number == answered.number:
                if item.root != answered.root:
                    raise InboxError(
                        "the network decided another result than this text",
                        hint="do not trust this answer or its router",
                    )
                return True
        return False

    def reclaim(self, number: int) -> str:
        """Take the fee back. Raises ChainError."""
        return self._mined(self._chain.reclaim(number))

    # How

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.question"

    def _kept(self, number: int) -> _Kept:
        try:
            return unpack(_Kept, self._path(number).read_bytes()[:_BYTES_MAX], limit_bytes=_BYTES_MAX)
        except (OSError, DecodeError) as error:
            hint = "answers can be read only where the question was asked"
            raise InboxError(f"question {number} was not asked from here: {error}", hint=hint) from error

    def _mined(self, tx: TxId) -> str:
        self._tell("waiting for the transaction to get into a block")
        status = self._chain.wait(tx, TX_S)
        if status.state is TxState.FAILED:
            raise Reverted("the inbox", status.reason)
        return "0x" + status.hash.hex()

    def _await(self, look: Callable[[], Any], what: str) -> Any:
        """What is looked for, or what the last look gave when it takes too long."""
        until = time.monotonic() + self._timeout_s
        while True:
            found = look()
            if found or time.monotonic() > until:
                return found
            self._tell(f"waiting for {what}")
            time.sleep(POLL_S)


def _write(path: Path, data: bytes) -> None:
    """A file that only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
