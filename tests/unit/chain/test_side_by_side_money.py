"""Property-based: money, questions and names are the same on chain and in the model; none is made or lost."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from chain.api import Answer, AnswerProof, InboxService, Question
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.signing import keccak, typed_digest
from protocol.ledger.records import Section
from protocol.messages.committee import Certified
from protocol.messages.results import LaneResult, LedgerProof, Outcome, Verdict
from protocol.messages.tasks import TaskOrder
from tests.unit.chain.contracts_at_hand import GUARDIAN
from tests.unit.chain.small_ledger import Book, finalized
from tests.unit.chain.walking import ACCOUNTS, ANYBODY, OWNERS, Walk, picks, rarely

NAMES = ("tiny", "large")

accounts = st.sampled_from(ACCOUNTS)
routers = st.sampled_from((OWNERS[0],) * 4 + (OWNERS[1],))


class Money(Walk):
    """Deposits come in, the ledger moves money, it is withdrawn; the committee dies, and all is given back."""

    @initialize(account=accounts)
    def begin(self, account: NodeId) -> None:
        for amount in (50, 70):
            self.do("escrow", "deposit", account, amount, value=3 * amount)
        self.ledger_takes_deposits_in(100)
        self.do("inbox", "serve", InboxService(b"k" * 32, 5), sender=OWNERS[0])

    @rule(account=accounts, amount=st.integers(4, 60), wrong=rarely)
    def deposit(self, account: NodeId, amount: int, wrong: bool) -> None:
        self.do("escrow", "deposit", account, amount, value=3 * amount + wrong)

    @rule(most=st.integers(1, 3))
    def ledger_takes_deposits_in(self, most: int) -> None:
        coming = self.pair.model.escrow.deposits[self.book.deposits :][:most]
        for account, amount in coming:
            self.book = self.book.credited(account, balance=amount)
        self.book = self.book.counting(self.book.deposits + len(coming))

    @rule(account=accounts, to=accounts, amount=st.integers(1, 40), kind=st.sampled_from(("pay", "reserve", "leave")))
    def ledger_moves_money(self, account: NodeId, to: NodeId, amount: int, kind: str) -> None:
        amount = min(amount, self.book.account(account).balance_wei)
        book = self.book.credited(account, balance=-amount)
        match kind:
            case "pay":
                self.book = book.credited(to, balance=amount)
            case "reserve":
                self.book = book.credited(account, reserved=amount)
            case _:
                self.book = book.credited(account, withdrawable=amount)

    @precondition(lambda self: self.made)
    @rule(pick=picks, account=accounts, waits=st.sampled_from((0, 599, 600)), more=rarely, elsewhere=rarely)
    def withdraw(self, pick: int, account: NodeId, waits: int, more: bool, elsewhere: bool) -> None:
        self.pair.evm.advance(waits, waits // 12)
        certified, book = self.picked(pick)
        header = self.book.header(9, 9, ZERO_DIGEST) if elsewhere else certified.header
        self.do("escrow", "withdraw", header, _claim(book, account, more))

    @rule(seconds=st.sampled_from((1, 300)))
    def pause(self, seconds: int) -> None:
        self.do("checkpoints", "pause", seconds, sender=NodeId(GUARDIAN))

    # The end

    @precondition(lambda self: len(self.made) > 2 and not self.dead)
    @rule(seconds=st.sampled_from((5_000, 5_001)), frozen=st.booleans())
    def the_committee_dies(self, seconds: int, frozen: bool) -> None:
        if frozen:
            first, members = self.made[-1][0], tuple(each.node for each in self.members[self.next_slot(False)[0]])
            assert first.header is not None
            other = self.book.credited(ACCOUNTS[0], balance=1)
            second = other.header(first.header.epoch, first.header.height, Digest(first.header.next_committee))
            self._challenge(first, second, members)
        self.pair.evm.advance(seconds, seconds // 12)

    def _challenge(self, first: Certified, second: Any, members: tuple[NodeId, ...]) -> None:
        forged, _ = finalized(self.domain, second, self.members[second.epoch])
        self.do("checkpoints", "challenge", first, members, forged, members)

    @precondition(lambda self: self.dead)
    @rule(pick=picks, account=accounts, more=rarely, wrong_next=rarely)
    def exit(self, pick: int, account: NodeId, more: bool, wrong_next: bool) -> None:
        certified, book = self._last(pick)
        following = Digest(keccak(b"no")) if wrong_next else self._after(certified)
        header = None if certified is None else certified.header
        self.do("escrow", "exit", header, following, _claim(book, account, more))

    @precondition(lambda self: self.dead)
    @rule(pick=picks, number=st.integers(0, 9))
    def refund(self, pick: int, number: int) -> None:
        certified, _ = self._last(pick)
        header = None if certified is None else certified.header
        self.do("escrow", "refund", number, header, self._after(certified))

    def _usable(self, certified: Certified) -> bool:
        return self.pair.model.checkpoints.usable(self.pair.view(), self.digest(certified.header))

    def _last(self, pick: int) -> tuple[Certified | None, Book]:
        """Mostly the last usable header, or none where there is none; now and then any."""
        if self.made and pick % 6 == 5:
            return self.picked(pick)
        usable = [made for made in self.made if self._usable(made[0])]
        return usable[-1] if usable else (None, Book())

    def _after(self, certified: Certified | None) -> Digest:
        """The digest of the header that was accepted after one."""
        accepted = [made[0] for made in self.made]
        after = accepted if certified is None else accepted[accepted.index(certified) + 1 :]
        return self.digest(after[0].header) if after else ZERO_DIGEST

    # Questions

    @rule(router=routers, fee_min=st.sampled_from((0, 5)), stops=rarely)
    def serve(self, router: NodeId, fee_min: int, stops: bool) -> None:
        self.do("inbox", "serve", InboxService(bytes(32) if stops else b"k" * 32, fee_min), sender=router)

    @rule(
        router=routers,
        fee=st.sampled_from((0, 4, 9, 9)),
        ahead_s=st.sampled_from((0, 900, 900, 2_000, 30 * 86_400 + 1)),
        wrong=st.sampled_from((None,) * 6 + ("prompt", "reply_key", "sealed")),
        any_model=st.booleans(),
    )
    def ask(self, router: NodeId, fee: int, ahead_s: int, wrong: str | None, any_model: bool) -> None:
        fields: dict[str, Any] = {"prompt": keccak(b"prompt"), "reply_key": b"r" * 32, "sealed": b"sealed"}
        if wrong is not None:
            fields[wrong] = b"" if wrong == "sealed" else bytes(32)
        model = ZERO_DIGEST if any_model else Digest(keccak(b"model"))
        deadline_s = self.pair.evm.time_s + ahead_s
        question = Question(0, ANYBODY, router, model=model, deadline_s=deadline_s, fee=fee, **fields)
        self.do("inbox", "ask", question, value=fee)

    @precondition(lambda self: self.pair.model.inbox.questions)
    @rule(number=st.integers(0, 4), router=routers, lane=st.integers(0, 1), empty=rarely)
    def answer(self, number: int, router: NodeId, lane: int, empty: bool) -> None:
        answer = Answer(number, Digest(keccak(b"session")), 1, lane, b"" if empty else b"answer")
        self.do("inbox", "answer", answer, sender=router)

    @rule(lane=st.integers(0, 1), ok=st.sampled_from((True, True, False)), prompt=st.sampled_from((b"prompt", b"p")))
    def ledger_decides(self, lane: int, ok: bool, prompt: bytes) -> None:
        order, result = _task(self.domain, prompt)
        verdict = Verdict.OK if ok else Verdict.LATE
        root = typed_digest(self.domain, result)
        self.book = self.book.decided(Outcome(order.session, 1, lane, verdict, root, 7, 1, 5))

    @precondition(lambda self: self.pair.model.inbox.questions and any(book.outcomes for _, book in self.made))
    @rule(number=st.integers(0, 4), pick=picks, index=st.integers(0, 3), prompt=st.sampled_from((b"prompt", b"p")))
    def prove_answer(self, number: int, pick: int, index: int, prompt: bytes) -> None:
        made = [made for made in self.made if made[1].outcomes]
        certified, book = made[-1 - pick % len(made)]
        index %= len(book.outcomes)
        assert certified.header is not None
        proof = book.prove_outcome(index)
        papers = _task(self.domain, prompt)
        self.do("inbox", "prove", AnswerProof(number, certified.header, book.outcomes[index], proof, *papers))

    @precondition(lambda self: self.pair.model.inbox.questions)
    @rule(number=st.integers(0, 4))
    def reclaim(self, number: int) -> None:
        self.do("inbox", "reclaim", number)

    # Names

    @rule(name=st.sampled_from(NAMES), number=st.integers(1, 5), alias=st.sampled_from(("", "stable", "canary")))
    def ledger_names(self, name: str, number: int, alias: str) -> None:
        self.book = self.book.named(name, OWNERS[0], number, alias)

    @precondition(lambda self: self.made and len(self.book.names))
    @rule(pick=picks, name=st.sampled_from(NAMES), elsewhere=rarely)
    def prove_name(self, pick: int, name: str, elsewhere: bool) -> None:
        certified, book = self.picked(pick)
        proof = (self.book if elsewhere else book).prove(Section.NAMES, name.encode())
        if proof.value is not None:
            self.do("models", "prove", certified.header, proof)


def _claim(book: Book, account: NodeId, more: bool) -> LedgerProof:
    """What an account has by a book; or more, with the same proof."""
    proof = book.prove(Section.ACCOUNTS, account)
    if proof.value is not None and not more:
        return proof
    value = book.credited(account, balance=1, withdrawable=1).prove(Section.ACCOUNTS, account).value
    return LedgerProof(proof.section, proof.key, value, proof.siblings, None, proof.sections)


def _task(domain: Any, prompt: bytes) -> tuple[TaskOrder, LaneResult]:
    order = TaskOrder(keccak(b"session"), 1, 1, keccak(prompt), bytes(32), bytes(32), 9, 9)
    name = typed_digest(domain, order)
    return order, LaneResult(name, order.prompt, keccak(b"model"), bytes(32), keccak(b"chain"), 7)


class TestMoney(Money.TestCase):
    """A thousand calls."""

    settings = settings(
        max_examples=20,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )


@pytest.mark.long
class TestMoneyForLong(Money.TestCase):
    """Many thousands."""

    settings = settings(
        max_examples=1_500, stateful_step_count=100, deadline=None, suppress_health_check=list(HealthCheck)
    )
