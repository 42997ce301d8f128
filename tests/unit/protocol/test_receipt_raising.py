"""A receipt with what others know of the same answer, and the hand-overs that go with it."""

from typing import Any

import pytest
from msgspec.structs import replace

from protocol.light.handovers import HandOverBook
from protocol.light.headers import HeaderTrust
from protocol.light.levels import Level
from protocol.light.proofs import with_committees
from protocol.light.raising import OtherAnswer, raised_by_outcome, raised_by_receipt, raised_by_settled
from protocol.light.receipt import NotEnoughTrust, Verified, verify_receipt
from protocol.light.receipt.redact import redact
from protocol.light.trust_book import LightBook
from protocol.messages.receipts import Receipt
from protocol.messages.results import OutcomeNews, SettledNews
from tests.receipts_made import Maker

LEVELS = (Level.STREAMED, Level.COMMITTED, Level.CERTIFIED, Level.FINALIZED)


def made(level: Level, **fields: Any) -> Receipt:
    return Maker(level=level, home=2, final_epoch=3, shift=1, **fields).receipt()


def level_of(receipt: Receipt, trust: HeaderTrust) -> Level:
    verdict = verify_receipt(receipt, trust)
    assert isinstance(verdict, Verified), verdict
    return verdict.level


@pytest.mark.spec("RECEIPT-RAISED.1")
@pytest.mark.parametrize("mine", LEVELS, ids=str)
@pytest.mark.parametrize("found", LEVELS, ids=str)
def test_of_two_receipts_of_an_answer_comes_one_of_the_higher_level(mine: Level, found: Level) -> None:
    whole, shown = made(mine), redact(made(found))
    raised = raised_by_receipt(whole, shown)
    assert level_of(raised, Maker(home=2, final_epoch=3, shift=1).trust()) == max(mine, found)
    assert (raised.prompt, raised.tokens) == (whole.prompt, whole.tokens)
    if mine >= found:
        assert raised.final == whole.final


@pytest.mark.spec("RECEIPT-RAISED.1")
@pytest.mark.parametrize(
    "other",
    [
        Maker(tokens=11, home=2, final_epoch=3, shift=1),
        Maker(failover=True, home=2, final_epoch=3, shift=1),
        Maker(question="Where do bees live?", home=2, final_epoch=3, shift=1),
        Maker(founded_s=5, home=2, final_epoch=3, shift=1),
    ],
    ids=["fewer tokens", "other miners", "another prompt", "another network"],
)
def test_the_receipt_of_another_answer_raises_nothing(other: Maker) -> None:
    with pytest.raises(OtherAnswer):
        raised_by_receipt(made(Level.STREAMED), other.receipt())


@pytest.mark.spec("RECEIPT-RAISED.1")
def test_an_outcome_and_a_settlement_raise_it_step_by_step() -> None:
    maker = Maker(level=Level.SETTLED, settling=True, home=1, final_epoch=1)
    mine = Maker(level=Level.STREAMED, settling=True, home=1, final_epoch=1).receipt()
    final, settled = maker.final(), maker.settled()
    told = OutcomeNews(final.outcome, final.proof, final.certified)
    later = SettledNews(final.outcome, settled.proof, settled.certified)
    with pytest.raises(OtherAnswer):
        raised_by_settled(mine, later)
    raised = raised_by_outcome(mine, told)
    assert level_of(raised, maker.trust()) == Level.FINALIZED
    assert raised_by_outcome(raised, told) is raised
    last = raised_by_settled(raised, later)
    verdict = verify_receipt(last, maker.trust(), accepted=lambda _digest: True)
    assert isinstance(verdict, Verified) and verdict.level == Level.SETTLED
    with pytest.raises(OtherAnswer):
        raised_by_outcome(mine, replace(told, outcome=replace(final.outcome, task=2)))
    with pytest.raises(OtherAnswer):
        raised_by_settled(raised, replace(later, outcome=replace(final.outcome, paid_wei=1)))


# The committees that go with it


def carried(maker: Maker, book: HandOverBook) -> Receipt:
    """The maker's receipt with what a book knows of its committees."""
    bare = replace(maker.receipt(), hand_overs=(), committees=())
    return with_committees(maker.domain, bare, book)


def test_a_receipt_carries_the_hand_overs_from_the_genesis_on() -> None:
    maker = Maker(home=2, final_epoch=5, shift=1)
    book = HandOverBook(maker.genesis)
    book.take(maker.hand_over(epoch) for epoch in range(1, 9))
    receipt = carried(maker, book)
    assert receipt == maker.receipt(), "and no more than are needed"
    assert level_of(receipt, maker.trust()) == Level.FINALIZED
    first = Maker(home=1, final_epoch=1)
    assert carried(first, HandOverBook(first.genesis)) == first.receipt()


@pytest.mark.spec("RECEIPT-SKIP.1")
def test_hand_overs_that_were_skipped_are_carried_by_f_1_signatures() -> None:
    maker = Maker(home=5, final_epoch=5, shift=1, size=7, skip=True)
    book = LightBook(maker.genesis)
    book.skip(maker.hand_over(4))
    assert book.trust.handed_over_by(5) == 1
    receipt = carried(maker, book)
    (skipped,) = receipt.hand_overs
    assert len(skipped.certified.certificate.signatures) == 3
    assert level_of(receipt, maker.trust()) == Level.FINALIZED
    assert receipt == maker.receipt()


def test_where_the_way_from_the_genesis_is_not_known_the_members_come_along() -> None:
    maker = Maker(home=6, final_epoch=8, shift=1)
    point = maker.trust(6).point()
    assert point is not None
    book = LightBook(maker.genesis, points=[point])
    book.trust.learn(6, maker.committee(6))
    book.take([maker.hand_over(6), maker.hand_over(7)])
    receipt = carried(maker, book)
    assert [each.epoch for each in receipt.committees] == [6]
    assert [each.epoch for each in receipt.hand_overs] == [6, 7]
    assert level_of(receipt, HeaderTrust(maker.genesis, [point])) == Level.FINALIZED
    assert isinstance(verify_receipt(receipt, maker.trust()), NotEnoughTrust), "the genesis alone does not lead there"


def test_what_cannot_be_led_to_is_left_out() -> None:
    maker = Maker(home=3, final_epoch=3, shift=1)
    receipt = carried(maker, HandOverBook(maker.genesis))
    assert (receipt.hand_overs, receipt.committees) == ((), ())
    verdict = verify_receipt(receipt, maker.trust())
    assert isinstance(verdict, NotEnoughTrust) and verdict.level == Level.COMMITTED
