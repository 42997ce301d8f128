"""The inbox, both sides: what is asked is answered once and proved, and what is wrong is refused by who it concerns."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from chain.api import Answer, AnswerProved, Question
from chain.sealing import SealingKey, answer_context, question_context, seal
from p2pnode import inbox as inbox_module
from p2pnode.inbox import Inbox, InboxTerms
from p2pnode.inbox_answer import Unanswerable
from p2pnode.inbox_asker import Asker, InboxError
from p2pnode.store import NodeStore, open_store
from protocol.core.codec import pack
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.signing import typed_digest
from protocol.light.inbox import reply_result
from protocol.messages.inbox import InboxQuestion, InboxReply
from protocol.messages.results import Outcome, SettledNews, Verdict
from protocol.messages.tasks import EndReason, EndRecord, SegmentHead, TaskOrder
from protocol.session.transcript import SegmentWriter
from tests.unit.chain.contracts_at_hand import DOMAIN
from tests.unit.chain.small_ledger import Book
from tests.unit.p2pnode.model_chain import WINDOW_S, AtHand, Settling
from tests.unit.protocol.machines import GENERATION, MINER, MODEL, PROMPT_TOKENS, head_of

ROUTER, ASKER = NodeId(b"\x11" * 20), NodeId(b"\x22" * 20)
SECRET = SealingKey.of_node(b"\x07" * 32)
WORDS = (b"In ", b"a ", b"wood.")
FEE = 1_000


def reply_to(asked: InboxQuestion, words: tuple[bytes, ...] = WORDS) -> InboxReply:
    """What the network answers."""
    prompt = asked.prompt
    order = TaskOrder(b"\x33" * 32, 1, 1, prompt.commitment(), prompt.sampling.digest(), bytes(32), asked.max_tokens, 9)
    head: SegmentHead = msgspec.structs.replace(
        head_of(order, GENERATION), order=typed_digest(DOMAIN, order), miner=MINER.node, model=MODEL
    )
    writer = SegmentWriter(DOMAIN, MINER.sign, head)
    ids = tuple(range(len(words)))
    end = EndRecord(EndReason.STOP, len(PROMPT_TOKENS), len(words), 0)
    writer.frame(ids, words, end)
    return InboxReply(order, (head,), ids, words, end)


class Rig:
    """A router and an asker on one chain."""

    def __init__(self, store: NodeStore, folder: Path) -> None:
        self.at_hand = AtHand()
        self.router = self.at_hand.client(ROUTER)
        self.asker_chain = self.at_hand.client(ASKER)
        self.asker = Asker(DOMAIN, self.asker_chain, folder, lambda _: None, 0)
        self.store = store
        self.settling = Settling(self.at_hand, lambda: self.at_hand.passes(WINDOW_S))
        self.asked: list[InboxQuestion] = []
        self.answers: Callable[[InboxQuestion], InboxReply] = reply_to
        self.book = Book()
        self.stops_at = ""

    async def answer(self, asked: InboxQuestion, model: bytes, bytes_max: int) -> InboxReply:
        """The network's answer; its outcome is in the next checkpoint."""
        self.asked.append(asked)
        if self.stops_at == "read":
            await trio.sleep_forever()
        reply = self.answers(asked)
        assert len(pack(reply)) <= bytes_max
        if self.stops_at != "on chain":
            self.decide(asked, reply_to(asked))
        self.router.endpoint.down = self.stops_at == "answered"
        return reply

    def decide(self, asked: InboxQuestion, reply: InboxReply, verdict: Verdict = Verdict.OK) -> None:
        """The committee says what a lane came to, and the contract hears of it."""
        root = typed_digest(DOMAIN, reply_result(DOMAIN, asked.prompt, reply))
        order = reply.order
        outcome = Outcome(order.session, order.task, 0, verdict, root, len(reply.ids), 1, 9)
        self.book = self.book.decided(outcome)
        certified = self.at_hand.checkpoint(self.book)
        proof = self.book.prove_outcome(len(self.book.outcomes) - 1)
        self.settling.claims.append(SettledNews(outcome, proof, certified))

    def inbox(self, **terms: int) -> Inbox:
        """The router's side, as after a start."""
        given: Any = self.settling
        return Inbox(self.router, InboxTerms(SECRET, **terms), DOMAIN, self.store, self.answer, given)

    async def run(self, inbox: Inbox, done: Callable[[], bool]) -> None:
        """Until something has come about. Time jumps only while no worker thread is at something."""
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.autojump_threshold = 0.02
        with trio.fail_after(600):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(inbox.run)
                while not done():
                    self.at_hand.mine()
                    await trio.sleep(0.5)
                nursery.cancel_scope.cancel()

    def serve(self) -> None:
        """The router's terms are on the chain."""
        self.router.wait(self.router.serve(InboxTerms(SECRET).service), 1)

    def ask(self, **fields: Any) -> int:
        """A question, as plain web3 would ask it."""
        prompt = "Where does a bear live?"
        return self.asker.ask(
            ROUTER, prompt, **{"model": ZERO_DIGEST, "max_tokens": 9, "fee": FEE, "within_s": 3_600, **fields}
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NodeStore]:
    with open_store(tmp_path / "node") as opened:
        yield opened


@pytest.fixture
def rig(store: NodeStore, tmp_path: Path) -> Rig:
    (tmp_path / "inbox").mkdir()
    return Rig(store, tmp_path / "inbox")


def fee_of(rig: Rig) -> int:
    """What lies in the contract."""
    return rig.at_hand.chain.holdings().coins.get(rig.at_hand.terms.addresses.inbox, 0)


@pytest.mark.spec("INBOX-ROUTER.1")
async def test_a_question_is_answered_proved_and_paid(rig: Rig, autojump_clock: object) -> None:
    rig.serve()
    number = rig.ask()
    assert fee_of(rig) == FEE
    inbox = rig.inbox()
    await rig.run(inbox, lambda: inbox.answered == 1)
    answered = rig.asker.answer(number)
    assert answered.shown()["text"] == "In a wood."
    assert rig.asker.await_proof(answered)
    assert fee_of(rig) == 0
    assert [question.max_tokens for question in rig.asked] == [9]
    assert rig.store.load(b"inbox/asked/") == rig.store.load(b"inbox/answered/") == {}
    assert inbox.status()["open"] == 0


@pytest.mark.spec("INBOX-ROUTER.1")
@pytest.mark.parametrize("stopped_at", ["read", "answered", "on chain"])
async def test_a_router_that_was_stopped_goes_on_and_answers_once(
    rig: Rig, autojump_clock: object, stopped_at: str
) -> None:
    rig.serve()
    number = rig.ask()
    rig.stops_at = stopped_at
    reached = {
        "read": lambda: bool(rig.asked),
        "answered": lambda: bool(rig.store.load(b"inbox/answered/")),
        "on chain": lambda: any(isinstance(item, Answer) for item in _items(rig)),
    }
    await rig.run(rig.inbox(), reached[stopped_at])
    rig.stops_at, rig.router.endpoint.down = "", False
    if stopped_at == "on chain":
        rig.decide(rig.asked[0], reply_to(rig.asked[0]))
    again = rig.inbox()
    await rig.run(again, lambda: again.answered == 1)
    assert len(rig.asked) == (2 if stopped_at == "read" else 1)
    assert sum(isinstance(item, Answer) for item in _items(rig)) == 1
    assert rig.asker.proved(rig.asker.answer(number))


def _items(rig: Rig) -> tuple[Question | Answer | AnswerProved, ...]:
    return rig.router.inbox(rig.router.start(), 100).items


async def test_the_terms_are_announced_once(rig: Rig, autojump_clock: object) -> None:
    inbox = rig.inbox(fee_min=7)
    await rig.run(inbox, lambda: rig.router.service(ROUTER) == InboxTerms(SECRET, 7).service)
    nonce = rig.at_hand.chain.nonce(ROUTER)
    await rig.run(rig.inbox(fee_min=7), lambda: inbox.trouble == "")
    assert rig.at_hand.chain.nonce(ROUTER) == nonce


def _sealed(rig: Rig, plain: bytes, commitment: bytes, reply_key: bytes, asker: NodeId = ASKER) -> bytes:
    return seal(SECRET.public, plain, question_context(DOMAIN, ROUTER, asker, reply_key, commitment))


@pytest.mark.spec("INBOX-QUESTION.1")
@pytest.mark.parametrize("wrong", ["sealed", "content", "prompt", "key", "fee", "unanswerable"])
async def test_what_cannot_be_answered_is_left_and_its_fee_goes_back(
    rig: Rig, autojump_clock: object, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.serve()
    monkeypatch.setattr(inbox_module, "MARGIN_S", 0)
    good = SealingKey.generate().public
    number = rig.ask()
    asked = next(item for item in _items(rig) if isinstance(item, Question))
    plain = SECRET.open(asked.sealed, question_context(DOMAIN, ROUTER, ASKER, asked.reply_key, asked.prompt))
    bad = {
        "sealed": lambda: replace(asked, reply_key=good),
        "content": lambda: replace(asked, sealed=_sealed(rig, plain + b"\0", asked.prompt, asked.reply_key)),
        "prompt": lambda: replace(
            asked, prompt=Digest(b"\x09" * 32), sealed=_sealed(rig, plain, b"\x09" * 32, asked.reply_key)
        ),
        "key": lambda: replace(
            asked, reply_key=b"\x01" + bytes(31), sealed=_sealed(rig, plain, asked.prompt, b"\x01" + bytes(31))
        ),
        "fee": lambda: replace(asked, fee=8),
        "unanswerable": lambda: asked,
    }[wrong]()
    rig.asker_chain.wait(rig.asker_chain.ask(replace(bad, deadline_s=bad.deadline_s - 1)), 1)

    def answers(question: InboxQuestion) -> InboxReply:
        if wrong == "unanswerable":
            raise Unanswerable("no miner")
        return reply_to(question)

    rig.answers = answers
    inbox = rig.inbox(fee_token=1)
    await rig.run(inbox, lambda: not rig.store.load(b"inbox/asked/") and rig.store.load(b"inbox/cursor") != {})
    answered = {item.number for item in _items(rig) if isinstance(item, Answer)}
    assert answered == (set() if wrong == "unanswerable" else {number})
    rig.at_hand.passes(4_000)
    before = rig.asker_chain.coin(ASKER)
    rig.asker.reclaim(2)
    assert rig.asker_chain.coin(ASKER) > before - 10**15
    assert rig.router.question(2) is None


@pytest.mark.spec("INBOX-REPLY.1")
async def test_an_altered_answer_is_seen_by_its_root(rig: Rig, autojump_clock: object) -> None:
    rig.serve()
    number = rig.ask()
    question = next(item for item in _items(rig) if isinstance(item, Question))
    plain = SECRET.open(question.sealed, question_context(DOMAIN, ROUTER, ASKER, question.reply_key, question.prompt))
    asked = msgspec.convert(msgspec.msgpack.decode(plain), InboxQuestion)
    true, altered = reply_to(asked), reply_to(asked, (b"In ", b"a ", b"zoo."))
    context = answer_context(DOMAIN, number, question.reply_key)
    order = true.order
    told = Answer(number, Digest(order.session), order.task, 0, seal(question.reply_key, pack(altered), context))
    rig.router.wait(rig.router.answer(told), 1)
    rig.decide(asked, true)
    rig.at_hand.passes(WINDOW_S)
    answered = rig.asker.answer(number)
    assert not rig.asker.proved(answered)
    news = rig.settling.claims[-1]
    result = reply_result(DOMAIN, asked.prompt, true)
    assert news.certified.header is not None
    shown = inbox_module.AnswerProof(number, news.certified.header, news.outcome, news.proof, order, result)
    rig.router.wait(rig.router.prove_answer(shown), 1)
    with pytest.raises(InboxError, match="another result"):
        rig.asker.proved(answered)


@pytest.mark.parametrize("wrong", ["sealed", "lane", "question"])
def test_an_answer_that_does_not_belong_to_the_question_is_refused(rig: Rig, wrong: str) -> None:
    rig.serve()
    number = rig.ask()
    question = next(item for item in _items(rig) if isinstance(item, Question))
    plain = SECRET.open(question.sealed, question_context(DOMAIN, ROUTER, ASKER, question.reply_key, question.prompt))
    asked = msgspec.convert(msgspec.msgpack.decode(plain), InboxQuestion)
    if wrong == "question":
        asked = msgspec.structs.replace(asked, prompt=msgspec.structs.replace(asked.prompt, nonce=bytes(32)))
    context = answer_context(DOMAIN, number + (wrong == "sealed"), question.reply_key)
    order = reply_to(asked).order
    sealed = seal(question.reply_key, pack(reply_to(asked)), context)
    told = Answer(number, Digest(order.session), order.task + (wrong == "lane"), 0, sealed)
    rig.router.wait(rig.router.answer(told), 1)
    with pytest.raises(InboxError, match="does not hold") as caught:
        rig.asker.answer(number)
    assert caught.value.hint


def test_nobody_is_asked_who_takes_no_questions(rig: Rig) -> None:
    with pytest.raises(InboxError, match="takes no questions"):
        rig.ask()
    with pytest.raises(InboxError, match="not asked from here"):
        rig.asker.answer(1)
