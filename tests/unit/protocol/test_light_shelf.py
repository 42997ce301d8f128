"""The shelf of receipts, and what light clients are told of it."""

from typing import Any

import pytest
from msgspec.structs import replace

from protocol.core.codec import Message, encode, pack
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Close, DeadlineReached, Send, Sent
from protocol.core.signing import typed_digest
from protocol.light.handovers import HandOverBook
from protocol.light.levels import Level
from protocol.light.receipt import Verified, verify_receipt
from protocol.light.receipt.redact import redact
from protocol.light.serving import SILENT_MS, STREAMS_MAX, STREAMS_OF_PEER, WAITING_MAX, Known, LightServer
from protocol.light.shelf import EARLY_MAX, PROOFS_BYTES, RECEIPTS_KEPT_MS, ReceiptShelf
from protocol.messages.greeting import ClientHello
from protocol.messages.handover import HandOvers, HandOversAsked
from protocol.messages.receipts import HeadAsked, LightRefused, OutcomeAsked, Receipt, ReceiptAsked, ReceiptFound
from protocol.messages.results import CommittedNews, ObservedNews, OutcomeNews, SettledNews
from protocol.messages.tasks import Ack, AckMessage
from protocol.session.transcript import segment_id
from tests.receipts_made import CLIENT, NOW_MS, ORACLES, Maker
from tests.unit.protocol.keys import Key, key
from tests.unit.protocol.machines import Hand, sent

MAKER = Maker(home=2, final_epoch=3, shift=1)
STRANGER = key(77)


def bare(maker: Maker = MAKER) -> Receipt:
    """The maker's receipt as it was when the answer ended: nothing is proved of it, and the last ack is to come."""
    receipt = maker.receipt()
    last = replace(receipt.segments[-1], ack=None)
    nothing: dict[str, Any] = {"commit": None, "reveal": None, "batches": (), "final": None, "settled": None}
    return replace(receipt, segments=(*receipt.segments[:-1], last), hand_overs=(), committees=(), **nothing)


def book_of(maker: Maker = MAKER) -> HandOverBook:
    """Of a router that followed its committees."""
    book = HandOverBook(maker.genesis)
    book.take(maker.hand_over(epoch) for epoch in range(1, maker.final_epoch + 1))
    return book


def shelf_of(maker: Maker = MAKER, **bounds: int) -> ReceiptShelf:
    return ReceiptShelf(maker.domain, maker.genesis.params, book_of(maker), **bounds)


def news_of(maker: Maker = MAKER) -> list[Any]:
    """All that is said of the maker's answer."""
    final = maker.final()
    return [
        CommittedNews(*maker.opened),
        *(ObservedNews(maker.session, signed) for signed in maker.batches()),
        OutcomeNews(final.outcome, final.proof, final.certified),
    ]


def ack_of(maker: Maker = MAKER, **changes: Any) -> AckMessage:
    """The client's last ack."""
    receipt = maker.receipt()
    record = receipt.segments[-1]
    head = record.head
    segment = segment_id(maker.domain, head)
    content = Ack(head.session, head.task, 0, head.generation, segment, record.index, receipt.chain)
    ack = replace(content, **changes)
    return AckMessage(ack, CLIENT.sign(typed_digest(maker.domain, ack)))


def got(shelf: ReceiptShelf, asker: Key = CLIENT, now_ms: int = NOW_MS, maker: Maker = MAKER) -> Receipt | None:
    return shelf.get(maker.session, 1, asker.node, now_ms)


def level_of(receipt: Receipt | None, maker: Maker = MAKER) -> Level:
    assert receipt is not None
    verdict = verify_receipt(receipt, network=maker.genesis.network_id())
    assert isinstance(verdict, Verified), verdict
    return verdict.level


@pytest.mark.spec("RECEIPT-KEPT.1")
def test_a_receipt_on_the_shelf_rises_step_by_step_to_what_its_maker_knows() -> None:
    shelf, levels = shelf_of(), []
    shelf.keep(bare(), NOW_MS)
    shelf.acked(ack_of())
    for news in news_of():
        levels.append(level_of(got(shelf)))
        shelf.news(news)
    assert levels == [Level.STREAMED, *[Level.COMMITTED] * 3, Level.CERTIFIED]
    assert got(shelf) == replace(MAKER.receipt(), batches=()), "what is final needs no oracles' batches"


@pytest.mark.spec("RECEIPT-KEPT.1")
def test_news_that_are_faster_than_the_last_frame_are_not_lost() -> None:
    shelf = shelf_of()
    for news in news_of():
        shelf.news(news)
    shelf.keep(bare(), NOW_MS)
    assert level_of(got(shelf)) == Level.FINALIZED
    for _ in range(EARLY_MAX):
        shelf.news(ObservedNews(bytes(32), MAKER.batches()[0]))
    assert len(shelf._early) == EARLY_MAX


@pytest.mark.spec("RECEIPT-KEPT.1")
def test_lies_are_in_no_receipt() -> None:
    shelf = shelf_of()
    shelf.keep(bare(), NOW_MS)
    commit, reveal = MAKER.opened
    final = MAKER.final()
    forged = MAKER.certify(MAKER.header(3), oracles=ORACLES[40:44])
    lies: list[Any] = [
        CommittedNews(replace(commit, signature=CLIENT.sign(b"\x01" * 32)), reveal),
        CommittedNews(commit, replace(reveal, signature=CLIENT.sign(b"\x01" * 32))),
        *(ObservedNews(MAKER.session, MAKER.batch(oracle)) for oracle in ORACLES[40:44]),
        *(ObservedNews(MAKER.session, MAKER.batch(oracle, count=5)) for oracle in MAKER.oracles(2)),
        OutcomeNews(final.outcome, final.proof, forged),
        OutcomeNews(replace(final.outcome, paid_wei=1), final.proof, final.certified),
        SettledNews(final.outcome, final.proof, forged),
    ]
    for lie in lies:
        shelf.news(lie)
    other = ack_of(index=3, chain=b"\x03" * 32)
    shelf.acked(other)
    assert got(shelf) == bare()


@pytest.mark.spec("RECEIPT-ASKED.1")
def test_only_the_sessions_client_is_shown_prompt_and_text() -> None:
    shelf = shelf_of()
    shelf.keep(bare(), NOW_MS)
    assert got(shelf, STRANGER) == redact(bare())
    assert got(shelf, CLIENT) == bare()
    question = MAKER.question.encode()
    assert question in pack(bare()) and question not in pack(redact(bare()))
    assert shelf.get(MAKER.session, 2, CLIENT.node, NOW_MS) is None
    assert shelf.get(bytes(32), 1, CLIENT.node, NOW_MS) is None


@pytest.mark.spec("RECEIPT-KEPT.1")
def test_a_receipt_is_kept_for_its_time() -> None:
    shelf = shelf_of()
    shelf.keep(bare(), NOW_MS)
    assert got(shelf, now_ms=NOW_MS + RECEIPTS_KEPT_MS - 1) is not None
    assert got(shelf, now_ms=NOW_MS + RECEIPTS_KEPT_MS) is None
    assert (len(shelf), shelf.bytes, shelf._rising) == (0, 0, {})


@pytest.mark.spec("RECEIPT-KEPT.1")
def test_beyond_its_bytes_the_oldest_receipt_goes() -> None:
    size = len(pack(bare())) + PROOFS_BYTES
    shelf = shelf_of(bytes_max=3 * size)
    for task in range(1, 6):
        shelf.keep(replace(bare(), order=replace(bare().order, task=task)), NOW_MS)
    held = [task for task in range(1, 6) if shelf.get(MAKER.session, task, CLIENT.node, NOW_MS) is not None]
    assert held == [3, 4, 5]
    assert shelf.bytes <= 3 * size
    shelf.keep(None, NOW_MS)
    assert len(shelf) == 3
    shelf_of(bytes_max=size - 1).keep(bare(), NOW_MS)
    again = shelf_of(bytes_max=3 * size)
    for _ in range(9):
        again.keep(bare(), NOW_MS)
    assert (len(again), again.bytes) == (1, size)


def test_batches_count_among_the_bytes_until_they_go() -> None:
    shelf = shelf_of()
    shelf.keep(bare(), NOW_MS)
    before, news = shelf.bytes, news_of()
    for each in news[:-1]:
        shelf.news(each)
    assert shelf.bytes == before + sum(len(signed.content) for signed in MAKER.batches())
    shelf.news(news[-1])
    assert shelf.bytes == before


@pytest.mark.spec("RECEIPT-KEPT.1")
def test_what_oracles_contradict_counts_among_the_bytes_and_foreign_acks_are_not_kept() -> None:
    shelf = shelf_of()
    shelf.keep(bare(), NOW_MS)
    before, oracle = shelf.bytes, MAKER.oracles(2)[0]
    lies = [MAKER.batch(oracle, count=count) for count in (5, 6)]
    for lie in lies:
        shelf.news(ObservedNews(MAKER.session, lie))
    assert shelf.bytes == before + len(lies[0].content) * 2 + len(lies[1].content), "the first value, and the pair"
    for number in range(9):
        shelf.acked(ack_of(segment=bytes([number]) * 32))
    (kept,) = shelf._kept.values()
    assert kept.acks == {}


def test_a_committee_that_becomes_known_later_still_certifies() -> None:
    book = HandOverBook(MAKER.genesis)
    shelf = ReceiptShelf(MAKER.domain, MAKER.genesis.params, book)
    shelf.keep(bare(), NOW_MS)
    commit, *batches, outcome = news_of()
    shelf.news(batches[0])
    assert shelf.outcome(MAKER.session, 1, NOW_MS) == []
    book.take([MAKER.hand_over(1), MAKER.hand_over(2)])
    for news in (commit, *batches, outcome):
        shelf.news(news)
    assert level_of(got(shelf)) == Level.FINALIZED
    assert shelf._rising == {}


def test_without_a_committee_a_receipt_stays_as_it_was() -> None:
    lone = Maker(level=Level.STREAMED, home=0)
    shelf = ReceiptShelf(lone.domain, lone.genesis.params, HandOverBook(lone.genesis))
    receipt = replace(bare(lone), order=replace(bare(lone).order, home_epoch=0))
    shelf.keep(receipt, NOW_MS)
    for news in news_of(MAKER):
        shelf.news(news)
    assert shelf.get(lone.session, 1, CLIENT.node, NOW_MS) == receipt
    assert shelf.outcome(lone.session, 1, NOW_MS) is None


# What is told of it


class Asked(Hand):
    """Somebody's stream to a node that has something to tell."""

    def __init__(self, shelf: ReceiptShelf, **known: Any) -> None:
        super().__init__(LightServer(Known(book_of().store, shelf, **known)))
        self.stream = self.opened(STRANGER.node, "light")

    def ask(self, message: Message) -> list[Message]:
        """What is answered; the stream takes it at once."""
        effects = self.receive(self.stream, message)
        if any(effect.report for effect in effects if isinstance(effect, Send)):
            effects += self.tell(Sent(self.stream))
        return sent(effects, self.stream)


def served() -> ReceiptShelf:
    shelf = shelf_of()
    shelf.keep(bare(), NOW_MS)
    for news in news_of():
        shelf.news(news)
    return shelf


@pytest.mark.spec("LIGHT-SERVED.1", "RECEIPT-ASKED.1")
def test_a_stranger_is_told_what_is_known_of_an_answer() -> None:
    asked = Asked(served(), head=lambda: MAKER.final().certified)
    (found,) = asked.ask(ReceiptAsked(MAKER.session, 1))
    assert isinstance(found, ReceiptFound) and found.receipt.tokens is None
    assert level_of(found.receipt) == Level.FINALIZED
    final = MAKER.final()
    assert asked.ask(OutcomeAsked(MAKER.session, 1)) == [OutcomeNews(final.outcome, final.proof, final.certified)]
    assert asked.ask(HeadAsked(7)) == [final.certified]
    (page,) = asked.ask(HandOversAsked(1))
    assert isinstance(page, HandOvers) and [each.epoch for each in page.hand_overs] == [1, 2, 3]


@pytest.mark.spec("OUTCOME-ASKED.1")
def test_who_is_said_to_have_settled_it_is_told_along() -> None:
    maker = Maker(level=Level.SETTLED, settling=True)
    shelf = shelf_of(maker)
    shelf.keep(bare(maker), NOW_MS)
    final, settled = maker.final(), maker.settled()
    shelf.news(OutcomeNews(final.outcome, final.proof, final.certified))
    shelf.news(SettledNews(final.outcome, settled.proof, settled.certified))
    told = Asked(shelf).ask(OutcomeAsked(maker.session, 1))
    assert told[1:] == [SettledNews(final.outcome, settled.proof, settled.certified)]
    kept = shelf.get(maker.session, 1, CLIENT.node, NOW_MS)
    assert kept is not None and kept.settled is None, "an oracle's word, which only the chain can bear out"


@pytest.mark.spec("OUTCOME-ASKED.1", "LIGHT-SERVED.1")
def test_what_is_not_here_is_refused_with_why() -> None:
    early = shelf_of()
    early.keep(bare(), NOW_MS)

    def code(asked: Asked, message: Message) -> str:
        (refused,) = asked.ask(message)
        assert isinstance(refused, LightRefused)
        return refused.code

    asked = Asked(early)
    assert code(asked, OutcomeAsked(MAKER.session, 1)) == "not_final"
    assert code(asked, OutcomeAsked(MAKER.session, 2)) == "not_held"
    assert code(asked, ReceiptAsked(bytes(32), 1)) == "not_held"
    assert code(asked, HeadAsked(1)) == "not_held"
    oracle = Asked(shelf_of(), outcomes=lambda _session, task: [] if task == 1 else None)
    assert code(oracle, OutcomeAsked(MAKER.session, 1)) == "not_final"
    assert code(oracle, OutcomeAsked(MAKER.session, 2)) == "not_held"


@pytest.mark.spec("LIGHT-SERVED.1")
def test_one_receipt_at_a_time_is_on_its_way_to_a_stream() -> None:
    asked = Asked(served())
    first = asked.receive(asked.stream, ReceiptAsked(MAKER.session, 1))
    assert len(sent(first, asked.stream)) == 1
    for _ in range(3):
        assert asked.receive(asked.stream, HeadAsked(1)) == []
    assert [type(message) for message in sent(asked.tell(Sent(asked.stream)), asked.stream)] == [LightRefused] * 3
    asked.receive(asked.stream, ReceiptAsked(MAKER.session, 1))
    for _ in range(WAITING_MAX):
        assert asked.receive(asked.stream, HeadAsked(1)) == []
    assert asked.receive(asked.stream, HeadAsked(1)) == [Close(asked.stream)]
    assert asked.tell(Sent(asked.stream)) == []


@pytest.mark.spec("LIGHT-SERVED.1")
def test_streams_are_bounded_and_end_in_silence_or_nonsense() -> None:
    asked = Asked(shelf_of())
    more = [asked.opened(STRANGER.node, "light") for _ in range(STREAMS_OF_PEER - 1)]
    assert asked.machine.load()["streams"] == STREAMS_OF_PEER
    fifth = Channel(1_000)
    assert asked.tell(ChannelOpened(fifth, STRANGER.node, "light")) == [Close(fifth)], "of one peer"
    for number in range(STREAMS_MAX):
        asked.tell(ChannelOpened(Channel(2_000 + number), NodeId(number.to_bytes(20, "big")), "light"))
    assert asked.machine.load()["streams"] == STREAMS_MAX
    assert Close(more[0]) in asked.receive(more[0], ClientHello())
    asked.tell(ChannelClosed(more[1], "gone"))
    assert asked.machine.load()["streams"] == STREAMS_MAX - 2
    asked.now_ms += SILENT_MS
    assert asked.machine.next_deadline() == asked.now_ms
    assert Close(asked.stream) in asked.tell(DeadlineReached())
    assert asked.machine.load()["streams"] == 0
    assert asked.machine.next_deadline() is None
    assert asked.receive(Channel(4_711), HeadAsked(1)) == []


def test_every_answer_fits_its_message() -> None:
    for message in Asked(served()).ask(ReceiptAsked(MAKER.session, 1)):
        assert len(encode(message)) <= message.LIMIT_BYTES
