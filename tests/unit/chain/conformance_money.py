"""What every chain behind the seam does with money, questions and names: the second half of the conformance suite."""

from typing import Any

import pytest

from chain.api import (
    Answer,
    AnswerProof,
    InboxService,
    Question,
)
from chain.errors import Reverted
from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.core.signing import Domain, keccak, typed_digest
from protocol.ledger.records import Section
from protocol.messages.results import LaneResult, Outcome, Verdict
from protocol.messages.tasks import TaskOrder
from tests.unit.chain.conformance_scene import (
    ACCOUNT,
    OTHER,
    OWNER,
    ROUTER,
    TERMS,
    Check,
    Scene,
)

# Money


def money_comes_in_and_goes_out(scene: Scene) -> None:
    has = scene.chain.coin(OWNER.node)
    scene.deposited(ACCOUNT, 50)
    assert scene.chain.coin(OWNER.node) <= has - 150
    assert scene.chain.deposited(1) == (ACCOUNT, 50)
    scene.book = scene.book.credited(ACCOUNT, balance=-20, withdrawable=20)
    certified = scene.submitted(1, 1)
    header, proof = certified.header, scene.book.prove(Section.ACCOUNTS, ACCOUNT)
    assert header is not None
    with pytest.raises(Reverted) as refused:
        scene.chain.withdraw(header, proof)
    assert refused.value.reason == "not usable"
    scene.rig.skip(TERMS.window_s)
    scene.rig.mine()
    before = scene.chain.coin(ACCOUNT)
    scene.done(scene.chain.withdraw(header, proof))
    assert scene.chain.coin(ACCOUNT) == before + 60
    assert scene.chain.paid(ACCOUNT) == 20
    with pytest.raises(Reverted) as refused:
        scene.chain.withdraw(header, proof)
    assert refused.value.reason == "nothing to pay"


def all_goes_back_when_the_committee_is_dead(scene: Scene) -> None:
    scene.deposited(ACCOUNT, 50)
    certified = scene.submitted(1, 1)
    scene.done(scene.chain.deposit(OTHER, 30))
    header, proof = certified.header, scene.book.prove(Section.ACCOUNTS, ACCOUNT)
    assert header is not None
    with pytest.raises(Reverted) as refused:
        scene.chain.exit(header, ZERO_DIGEST, proof)
    assert refused.value.reason == "alive"
    scene.rig.skip(TERMS.dead_s + 60)
    scene.rig.mine()
    assert scene.chain.dead()
    before = [scene.chain.coin(account) for account in (ACCOUNT, OTHER)]
    scene.done(scene.chain.exit(header, ZERO_DIGEST, proof))
    scene.done(scene.chain.refund(2, header, ZERO_DIGEST))
    assert [scene.chain.coin(account) for account in (ACCOUNT, OTHER)] == [before[0] + 150, before[1] + 90]
    assert scene.chain.exited(ACCOUNT)
    assert scene.chain.deposited(2) is None
    for again, reason in (
        (lambda: scene.chain.exit(header, ZERO_DIGEST, proof), "exited"),
        (lambda: scene.chain.refund(2, header, ZERO_DIGEST), "no deposit"),
        (lambda: scene.chain.refund(1, header, ZERO_DIGEST), "taken in"),
        (lambda: scene.chain.submit_checkpoint(*scene.finalized(1, 2)), "halted"),
        (lambda: scene.chain.deposit(ACCOUNT, 9), "dead"),
    ):
        with pytest.raises(Reverted) as refused:
            again()
        assert refused.value.reason == reason


def all_goes_back_where_no_header_ever_came(scene: Scene) -> None:
    scene.done(scene.chain.deposit(ACCOUNT, 30))
    scene.rig.skip(TERMS.dead_s + 60)
    scene.rig.mine()
    scene.done(scene.chain.refund(1, None, ZERO_DIGEST))
    assert scene.chain.deposited(1) is None


# Questions and names


def a_question_is_asked_answered_and_paid(scene: Scene) -> None:
    router = scene.rig.client(ROUTER)
    scene.done(router.serve(InboxService(b"k" * 32, 7)), router)
    assert scene.chain.service(ROUTER.node) == InboxService(b"k" * 32, 7)
    question = _question(scene)
    scene.done(scene.chain.ask(question))
    open_one = scene.chain.question(1)
    assert open_one is not None
    assert (open_one.asker, open_one.fee, open_one.answered, open_one.sealed) == (OWNER.node, 9, False, b"")
    order, result, outcome = _task(scene.domain)
    answer = Answer(1, Digest(order.session), 1, 0, b"answer")
    scene.done(router.answer(answer), router)
    scene.book = scene.book.decided(outcome)
    certified = scene.submitted(1, 1)
    assert certified.header is not None
    scene.rig.skip(TERMS.window_s)
    scene.rig.mine()
    has = scene.chain.coin(ROUTER.node)
    shown = AnswerProof(1, certified.header, outcome, scene.book.prove_outcome(0), order, result)
    scene.done(scene.chain.prove_answer(shown))
    assert scene.chain.coin(ROUTER.node) == has + 9
    assert scene.chain.question(1) is None
    page = scene.chain.inbox(scene.chain.start(), 100, ROUTER.node)
    asked, answered, proved = page.items
    assert isinstance(asked, Question)
    assert (asked.number, asked.asker, asked.sealed, asked.reply_key) == (1, OWNER.node, b"sealed", b"r" * 32)
    assert answered == answer
    assert (proved.number, getattr(proved, "fee", None)) == (1, 9)
    assert scene.chain.inbox(scene.chain.start(), 100, ACCOUNT).items == ()


def an_unanswered_question_is_taken_back(scene: Scene) -> None:
    router = scene.rig.client(ROUTER)
    scene.done(router.serve(InboxService(b"k" * 32, 0)), router)
    scene.done(scene.chain.ask(_question(scene)))
    with pytest.raises(Reverted) as refused:
        scene.chain.reclaim(1)
    assert refused.value.reason == "too soon"
    scene.rig.skip(1_000)
    scene.rig.mine()
    scene.done(scene.chain.reclaim(1))
    assert scene.chain.question(1) is None


def the_head_of_a_name_is_brought(scene: Scene) -> None:
    scene.book = scene.book.named("tiny", OWNER.node, 3, "stable")
    certified = scene.submitted(1, 1)
    assert certified.header is not None
    scene.rig.skip(TERMS.window_s)
    scene.rig.mine()
    proof = scene.book.prove(Section.NAMES, b"tiny")
    scene.done(scene.chain.prove_name(certified.header, proof))
    model = Digest(keccak(b"tiny\x03"))
    assert scene.chain.name_head("tiny") == (3, keccak(model))
    assert scene.chain.name_alias("tiny", "stable") == model
    with pytest.raises(Reverted) as refused:
        scene.chain.prove_name(certified.header, proof)
    assert refused.value.reason == "old"


def _question(scene: Scene) -> Question:
    fields: dict[str, Any] = {"prompt": Digest(keccak(b"prompt")), "model": ZERO_DIGEST, "reply_key": b"r" * 32}
    deadline_s = scene.chain.finalized().time_s + 900
    return Question(0, OWNER.node, ROUTER.node, deadline_s=deadline_s, fee=9, sealed=b"sealed", **fields)


def _task(domain: Domain) -> tuple[TaskOrder, LaneResult, Outcome]:
    order = TaskOrder(keccak(b"session"), 1, 1, keccak(b"prompt"), bytes(32), bytes(32), 9, 9)
    result = LaneResult(typed_digest(domain, order), order.prompt, keccak(b"model"), bytes(32), keccak(b"chain"), 7)
    return order, result, Outcome(order.session, 1, 0, Verdict.OK, typed_digest(domain, result), 7, 1, 5)


MONEY_CHECKS: tuple[Check, ...] = (
    money_comes_in_and_goes_out,
    all_goes_back_when_the_committee_is_dead,
    all_goes_back_where_no_header_ever_came,
    a_question_is_asked_answered_and_paid,
    an_unanswered_question_is_taken_back,
    the_head_of_a_name_is_brought,
)
