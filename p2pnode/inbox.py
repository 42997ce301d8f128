"""A router's side of the inbox on the chain: it answers what it is asked there, and collects the fee by proof.

A question is kept until its fee is somebody's: read, answered by the network, answered on the chain, proved. Each step
is durable before the next, so a router that was away goes on where it stopped, and never answers a question twice with
two answers.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import msgspec
import trio

from chain.api import (
    ANSWER_BYTES_MAX,
    Answer,
    AnswerProof,
    Chain,
    EventCursor,
    InboxService,
    Question,
    TxId,
    TxState,
)
from chain.errors import ChainError, HistoryChanged, Reverted
from chain.sealing import (
    OVERHEAD_BYTES,
    KeyNonsense,
    SealedNonsense,
    SealingKey,
    answer_context,
    question_context,
    seal,
)
from p2pnode.chain_sender import in_thread
from p2pnode.inbox_answer import Unanswerable
from p2pnode.settled_watch import SettledWatch
from p2pnode.store import NodeStore
from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain
from protocol.light.inbox import LANE, reply_result
from protocol.messages.committee import header_digest
from protocol.messages.inbox import InboxQuestion, InboxReply
from protocol.messages.results import SettledNews
from protocol.messages.tasks import TaskOrder
from protocol.results.mountain import outcome_leaf, verify_proof

log = logging.getLogger(__name__)

OPEN_MAX = 256
"""Questions that are held at once; while there are more, the chain is not read on."""
AT_ONCE = 4
"""Questions that the network is asked at once."""
PAGE_ITEMS = 32
POLL_S = 2.0
LOOK_AGAIN_S = 5.0
TX_WAIT_S = 60.0
MARGIN_S = 30
"""Nothing is begun any more so soon before the deadline."""
REPLY_BYTES_MAX = ANSWER_BYTES_MAX - OVERHEAD_BYTES

CURSOR, ASKED, ANSWERED = b"inbox/cursor", b"inbox/asked/", b"inbox/answered/"

AnswerIt = Callable[[InboxQuestion, bytes, int], Awaitable[InboxReply]]
"""The network's answer to a question, for a model, in so many bytes. Raises Unanswerable."""


class _Asked(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A question, as it stands in the events."""

    number: int
    asker: bytes
    prompt: bytes
    model: bytes
    reply_key: bytes
    deadline_s: int
    fee: bytes
    sealed: bytes


class _Answered(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What was made of it."""

    question: InboxQuestion
    reply: InboxReply
    sealed: bytes


@dataclass(frozen=True, slots=True)
class InboxTerms:
    """On what terms a router answers."""

    key: SealingKey
    """What questions are sealed to."""
    fee_min: int = 0
    """What a question costs at least, in the coin's smallest unit."""
    fee_token: int = 0
    """And at least so much for each token of the longest answer."""

    @property
    def service(self) -> InboxService:
        """What of it the contract says."""
        return InboxService(self.key.public, self.fee_min)


class Inbox:
    """See the module. ``watch`` tells by which header an answer can be proved."""

    def __init__(
        self,
        chain: Chain,
        terms: InboxTerms,
        domain: Domain,
        store: NodeStore,
        answer: AnswerIt,
        watch: SettledWatch,
    ) -> None:
        router = chain.sender()
        assert router is not None, "a router that answers has a key"
        self.router: NodeId = router
        self._chain = chain
        self._terms = terms
        self._domain = domain
        self._store = store
        self._answer = answer
        self._watch = watch
        self._at_once = trio.CapacityLimiter(AT_ONCE)
        self._cursor: EventCursor | None = None
        self._open: dict[int, _Asked] = {}
        self.answered = 0
        """Answers whose fee was collected since the start."""
        self.trouble = ""
        """Why the chain cannot be asked now; empty where it can."""

    def status(self) -> dict[str, object]:
        """For the operator."""
        return {"open": len(self._open), "proved": self.answered, "trouble": self.trouble}

    async def run(self) -> None:
        """Read and answer until cancelled."""
        await self._serving()
        async with trio.open_nursery() as nursery:
            for data in self._store.load(ASKED).values():
                self._begin(unpack(_Asked, data, limit_bytes=len(data)), nursery)
            cursor = self._store.load(CURSOR).get(CURSOR)
            self._cursor = None if cursor is None else EventCursor.read(cursor)
            while True:
                more = False
                if len(self._open) < OPEN_MAX:
                    more = await self._asking(self._read_on, nursery) or False
                if not more:
                    await trio.sleep(POLL_S)

    async def _serving(self) -> None:
        """Say on what terms questions are taken, unless the contract knows."""
        while True:
            try:
                if await in_thread(self._chain.service, self.router) == self._terms.service:
                    return
                await self._done(await in_thread(self._chain.serve, self._terms.service))
            except ChainError as error:
                self._troubled(error)
                await trio.sleep(LOOK_AGAIN_S)

    async def _asking(self, do: Callable[[trio.Nursery], Awaitable[bool]], nursery: trio.Nursery) -> bool | None:
        """Something with the chain, whose outages are waited out; None if there is one."""
        try:
            found = await do(nursery)
        except HistoryChanged as error:
            # What was asked in blocks that are gone is asked again, or is none any more: then it is dropped below.
            self._troubled(error)
            self._cursor = None
            return None
        except ChainError as error:
            self._troubled(error)
            return None
        self.trouble = ""
        return found

    def _troubled(self, error: ChainError) -> None:
        if str(error) != self.trouble:
            log.warning("the inbox: %s", error)
        self.trouble = str(error)

    async def _read_on(self, nursery: trio.Nursery) -> bool:
        """Take in the next page of questions; whether more follow. Raises ChainError."""
        cursor = self._cursor or await in_thread(self._chain.start)
        page = await in_thread(self._chain.inbox, cursor, PAGE_ITEMS, self.router)
        found = [_asked(item) for item in page.items if isinstance(item, Question)]
        new = [asked for asked in found if asked.number not in self._open]
        records: list[tuple[bytes, bytes | None]] = [(_key(ASKED, asked.number), pack(asked)) for asked in new]
        if records or page.cursor != cursor:
            await self._store.persist([*records, (CURSOR, page.cursor.packed())])
        self._cursor = page.cursor
        for asked in new:
            self._begin(asked, nursery)
        return bool(page.more)

    def _begin(self, asked: _Asked, nursery: trio.Nursery) -> None:
        self._open[asked.number] = asked
        nursery.start_soon(self._work, asked)

    async def _work(self, asked: _Asked) -> None:
        """One question, until its fee is somebody's or nobody's of ours."""
        while True:
            try:
                outcome = await self._step(asked)
            except Reverted as error:
                # The asker may have taken it back, or somebody proved it first: the next look tells.
                log.warning("question %d: %s", asked.number, error)
                outcome = ""
            except ChainError as error:
                self._troubled(error)
                outcome = ""
            if outcome:
                log.info("question %d: %s", asked.number, outcome)
                break
            await trio.sleep(LOOK_AGAIN_S)
        await self._store.persist([(_key(ASKED, asked.number), None), (_key(ANSWERED, asked.number), None)])
        del self._open[asked.number]

    async def _step(self, asked: _Asked) -> str:
        """What can be done now; how it ended, or nothing if it has not. Raises ChainError."""
        question = await in_thread(self._chain.question, asked.number)
        if question is None:
            return "its fee is paid or reclaimed"
        answered = self._kept(asked.number)
        late = asked.deadline_s - time.time() < MARGIN_S
        if answered is None:
            if question.answered or late:
                return "too late to answer" if late else "answered by another process with this key"
            answered = await self._answered(asked)
            if answered is None:
                return "not answered"
            await self._store.persist([(_key(ANSWERED, asked.number), pack(answered))])
        if not question.answered:
            if late:
                return "too late to answer"
            order = answered.reply.order
            told = Answer(asked.number, Digest(order.session), order.task, LANE, answered.sealed)
            await self._done(await in_thread(self._chain.answer, told))
        return await self._proved(asked, answered)

    def _kept(self, number: int) -> _Answered | None:
        data = self._store.load(_key(ANSWERED, number)).get(_key(ANSWERED, number))
        return None if data is None else unpack(_Answered, data, limit_bytes=len(data))

    async def _answered(self, asked: _Asked) -> _Answered | None:
        """The network's answer, sealed; None where there can be none."""
        try:
            question = self._opened(asked)
            context = answer_context(self._domain, asked.number, asked.reply_key)
            # A key that nothing can be sealed to is found before anybody works.
            seal(asked.reply_key, b"", context)
            with trio.move_on_after(asked.deadline_s - time.time() - MARGIN_S):
                async with self._at_once:
                    reply = await self._answer(question, asked.model, REPLY_BYTES_MAX)
                return _Answered(question, reply, seal(asked.reply_key, pack(reply), context))
        except (Unanswerable, SealedNonsense, KeyNonsense, DecodeError) as error:
            log.warning("question %d is not answered: %s", asked.number, error)
        return None

    def _opened(self, asked: _Asked) -> InboxQuestion:
        """What is asked. Raises SealedNonsense, DecodeError, Unanswerable."""
        context = question_context(self._domain, self.router, asked.asker, asked.reply_key, asked.prompt)
        plain = self._terms.key.open(asked.sealed, context)
        question = unpack(InboxQuestion, plain, limit_bytes=len(asked.sealed))
        if question.prompt.commitment() != asked.prompt:
            raise Unanswerable("what is sealed is not the prompt that it names")
        if int.from_bytes(asked.fee, "big") < self._terms.fee_token * question.max_tokens:
            raise Unanswerable(f"its fee is below {self._terms.fee_token} for each of {question.max_tokens} tokens")
        return question

    async def _proved(self, asked: _Asked, answered: _Answered) -> str:
        """Wait for a header that proves it, and collect the fee. Raises ChainError."""
        order = answered.reply.order
        news = await self._settled(order)
        header = None if news is None else news.certified.header
        if news is None or header is None:
            return ""
        result = reply_result(self._domain, answered.question.prompt, answered.reply)
        shown = AnswerProof(asked.number, header, news.outcome, news.proof, order, result)
        tx = await in_thread(self._chain.prove_answer, shown)
        if not await self._done(tx, final=True):
            return ""
        self.answered += 1
        return "answered and proved"

    async def _settled(self, order: TaskOrder) -> SettledNews | None:
        """What shows the lane settled; None if nothing does for a while: is there still a fee to collect?"""
        try:
            with trio.fail_after(TX_WAIT_S):
                return await self._watch.settled(order.session, order.task, self._usable, LOOK_AGAIN_S)
        except trio.TooSlowError:
            return None

    async def _usable(self, news: SettledNews) -> bool:
        """Whether the contract can be shown this. An oracle's word is not taken for it."""
        header = news.certified.header
        if header is None or news.proof.count != header.results_count:
            return False
        if not verify_proof(header.results_root, outcome_leaf(news.outcome), news.proof):
            return False
        try:
            return bool(await in_thread(self._chain.usable, header_digest(self._domain, header)))
        except ChainError as error:
            self._troubled(error)
            return False

    async def _done(self, tx: TxId, *, final: bool = False) -> bool:
        """Wait until a transaction is in a block; whether it did what it should. Raises ChainError."""
        status = await in_thread(partial(self._chain.wait, tx, TX_WAIT_S, final=final))
        return status.state is not TxState.FAILED


def _asked(question: Question) -> _Asked:
    return _Asked(
        question.number,
        question.asker,
        question.prompt,
        question.model,
        question.reply_key,
        question.deadline_s,
        question.fee.to_bytes(32, "big"),
        question.sealed,
    )


def _key(kind: bytes, number: int) -> bytes:
    return kind + number.to_bytes(8, "big")
