"""Receipts as client, router and miner make them of what they see: each holds, link by link."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import Close
from protocol.core.signing import typed_digest
from protocol.light.headers import HeaderTrust
from protocol.light.levels import Level
from protocol.light.receipt import Verified, verify_receipt
from protocol.light.shelf import ReceiptShelf
from protocol.messages.envelope import envelope_digest
from protocol.messages.receipts import Receipt
from protocol.messages.results import Observation, Verdict
from protocol.messages.sessions import BidSet, CloseSession, SessionReady
from protocol.messages.tasks import AckMessage, FrameMessage, SegmentStart, StartTask
from protocol.roles.client import CloseAsked, TaskOver, TaskReceipt, papers
from protocol.session.transcript import LaneVerifier, expect_segment, make_ack
from tests.unit.protocol.client_at_hand import SESSION_HANDLE
from tests.unit.protocol.following_at_hand import Followed
from tests.unit.protocol.light_at_hand import EPOCH, committed, known_book, observed, outcome_news, outcome_of
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    GENESIS,
    MALLORY,
    MINER,
    MINERS,
    MODEL,
    NOW_MS,
    ORACLES,
    PARAMS,
    ROUTER,
    assignment_of,
    bid_set_of,
    id_of,
    of,
    opening_of,
    order_of,
    sent,
    stream_of,
    submit_of,
)
from tests.unit.protocol.miner_results_at_hand import Bound, Streamed
from tests.unit.protocol.router_at_hand import Route, Task
from tests.unit.protocol.seeking_at_hand import FIRST, SECOND, Seeker
from tests.unit.protocol.test_machine_client_levels import TASK, Asking, root_of
from tests.unit.protocol.test_machine_client_takeover import CONTENT, ready_of
from tests.unit.protocol.test_machine_client_takeover import Asking as TakenOver


def trust() -> HeaderTrust:
    """Of somebody who has the genesis, and nothing else."""
    return HeaderTrust(GENESIS)


def level_of(receipt: Receipt) -> Level:
    """What a receipt proves to who has the genesis; every link of it holds."""
    verdict = verify_receipt(receipt, trust())
    assert isinstance(verdict, Verified), verdict
    return verdict.level


def receipts_of(client: Any, handle: int = TASK) -> list[Receipt]:
    """What was delivered of an answer's receipt, in order."""
    return [item.receipt for item in of(client.items.get(handle, []), TaskReceipt)]


# The client


def test_a_clients_receipt_rises_with_its_answer() -> None:
    client = Asking()
    value = client.answered()
    (receipt,) = receipts_of(client)
    assert level_of(receipt) == Level.STREAMED
    assert isinstance(client.items[TASK][-1], TaskOver), "it is there before the answer is over"
    client.says(committed(value, GENERATION))
    assert level_of(receipts_of(client)[-1]) == Level.COMMITTED
    for oracle in ORACLES[:3]:
        client.says(observed(oracle, value))
    certified = receipts_of(client)[-1]
    assert level_of(certified) == Level.CERTIFIED
    assert [signed.batch.oracle for signed in certified.batches] == [oracle.node for oracle in ORACLES[:3]]
    client.says(outcome_news(outcome_of(value)))
    final = receipts_of(client)[-1]
    assert level_of(final) == Level.FINALIZED
    assert not final.batches, "what is final needs none, and they tell of other sessions"
    assert len(final.hand_overs) == EPOCH - 1
    assert final.segments[0].ack is not None and final.segments[0].ack.index == final.end.completion_tokens
    assert final.tokens is not None and len(final.tokens.ids) == final.end.completion_tokens


def test_one_batch_too_few_is_in_no_receipt() -> None:
    client = Asking()
    value = client.answered()
    for oracle in ORACLES[:2]:
        client.says(committed(value, GENERATION), observed(oracle, value))
    receipt = receipts_of(client)[-1]
    assert receipt.batches == ()
    assert level_of(receipt) == Level.COMMITTED


def test_after_a_failover_each_miners_part_is_in_the_receipt() -> None:
    client = TakenOver()
    client.says(SegmentStart(client.writer.head), client.next_frame(3), client.next_frame(1))
    client.take_over(MINERS[2])
    client.says(SegmentStart(client.writer.head), client.next_frame(8, end=True))
    (receipt,) = receipts_of(client)
    assert level_of(receipt) == Level.STREAMED
    assert [record.head.start_index for record in receipt.segments] == [0, 4]
    assert [signed.assignment.number for signed in receipt.assignments] == [1, 2]
    assert len(receipt.bid_sets) == 1, "both assignments rest on one bid set, which is there once"
    first, second = receipt.segments
    assert first.ack is not None and (first.ack.index, first.ack.chain) == (4, first.chain)
    assert second.ack is not None and second.ack.index == receipt.end.completion_tokens


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 2)), max_size=5))
def test_the_receipt_holds_over_any_number_of_takeovers(segments: list[tuple[bool, int, int]]) -> None:
    client = TakenOver()
    for begun, count, miner in segments:
        if begun:
            client.says(SegmentStart(client.writer.head))
            if count and client.index < len(CONTENT):
                client.says(client.next_frame(count))
        client.take_over(MINERS[miner])
    client.says(SegmentStart(client.writer.head), client.next_frame(len(CONTENT), end=True))
    (receipt,) = receipts_of(client)
    assert level_of(receipt) == Level.STREAMED
    assert receipt.tokens is not None
    assert receipt.tokens.texts == tuple(text for _, text in CONTENT)


@pytest.mark.parametrize("count", [0, 5])
def test_an_answer_that_went_on_at_another_router_has_both_routers_papers(count: int) -> None:
    client = Seeker.asking()
    client.says(client.head(), *([client.next_frame(count)] if count else []))
    client.move_to(SECOND)
    client.begin(1_025, MINERS[0], SECOND)
    client.answers(SECOND, client.head(), client.next_frame(12, end=True))
    (receipt,) = receipts_of(client)
    assert level_of(receipt) == Level.STREAMED
    routers = [signed.assignment.router for signed in receipt.assignments]
    assert routers == ([FIRST.node, SECOND.node] if count else [SECOND.node])
    assert len(receipt.bid_sets) == len(routers)


def test_an_answer_without_its_signed_end_has_no_receipt() -> None:
    client = Asking()
    client.says(*stream_of(client.order(client.ask(TASK)))[:-1])
    client.tell(CloseAsked(SESSION_HANDLE))
    assert isinstance(client.items[TASK][-1], TaskOver)
    assert receipts_of(client) == []


def test_what_a_client_holds_for_receipts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(papers, "RAISED_TOKENS_MAX", 20)
    client = Asking()
    values = [client.answered(TASK + number) for number in range(3)]
    for value in values:
        client.says(committed(value, GENERATION))
    levels = [level_of(receipts_of(client, TASK + number)[-1]) for number in range(3)]
    assert levels == [Level.STREAMED, Level.COMMITTED, Level.COMMITTED], "eight tokens each: the first is let go"
    (session,) = client.machine._held.sessions.values()
    opening = client.opening
    for number in range(2, papers.ASSIGNMENTS_KEPT + 9):
        client.says(ready_of(opening, number, MINER))
    assert len(session.lent) == papers.ASSIGNMENTS_KEPT


# The router


def shelf() -> ReceiptShelf:
    return ReceiptShelf(DOMAIN, PARAMS, known_book())


def shown(kept: ReceiptShelf, task: int = 1, asker: NodeId = CLIENT.node, now_ms: int = NOW_MS) -> Receipt | None:
    return kept.get(id_of(opening_of()), task, asker, now_ms)


def ack_of(messages: Sequence[Message]) -> AckMessage:
    """The client's ack of all that a router or miner sent it."""
    head = next(message.head for message in messages if isinstance(message, SegmentStart))
    verifier = LaneVerifier(
        DOMAIN, expect_segment(DOMAIN, order_of(opening_of()), 0, head.generation, head.miner, MODEL)
    )
    for message in messages:
        if isinstance(message, SegmentStart):
            verifier.begin(message.head)
        elif isinstance(message, FrameMessage):
            verifier.take(message)
    return make_ack(DOMAIN, CLIENT.sign, verifier)


@pytest.mark.spec("RECEIPT-KEPT.1")
def test_a_router_keeps_the_receipt_of_what_it_relayed() -> None:
    kept = shelf()
    task = Task(Route(shelf=kept))
    messages = task.stream()
    task.send(messages[:-1])
    assert shown(kept) is None, "there is none before the end"
    task.send(messages[-1:])
    early = shown(kept)
    assert early is not None and level_of(early) == Level.STREAMED
    assert early.segments[0].ack is None
    task.route.receive(task.client, ack_of(messages))
    receipt = shown(kept)
    assert receipt is not None and level_of(receipt) == Level.STREAMED
    assert receipt.segments[0].ack is not None, "it came after the end"
    task.route.receive(task.client, CloseSession(id_of(task.opening)))
    assert shown(kept) == receipt, "the session is over, and its receipts are kept"


@pytest.mark.spec("RECEIPT-KEPT.1")
def test_a_router_shows_a_leased_miner_once_why_it_was_picked() -> None:
    task = Task(Route(shelf=shelf()))
    start, ready = sent(task.begun, task.miner)
    assert isinstance(start, StartTask) and isinstance(ready, SessionReady)
    assert ready.assignment == start.assignment
    assert ready.assignment.bid_set == envelope_digest(DOMAIN, ready.bid_set, BidSet)
    task.send(task.stream())
    assert [type(message) for message in sent(task.submit(2), task.miner)] == [StartTask]
    quiet = Task(Route())
    assert [type(message) for message in sent(quiet.begun, quiet.miner)] == [StartTask], "no receipts are kept there"


@pytest.mark.spec("RECEIPT-KEPT.1", "LEVEL-PROVED.1")
def test_a_routers_receipt_rises_by_what_oracles_tell_after_the_session_as_well() -> None:
    kept = shelf()
    route = Followed(shelf=kept).told()
    opening = opening_of()
    client = route.client()
    miner, _ = route.leased(opening, client)
    order = order_of(opening, home_epoch=EPOCH)
    route.receive(client, submit_of(opening, home_epoch=EPOCH))
    messages = stream_of(order)
    for message in messages:
        route.receive(miner, message)
    value = Observation(order.session, 1, 0, Verdict.OK, *root_of(order, messages))
    route.receive(miner, committed(value, GENERATION))
    assert _level_kept(kept) == Level.COMMITTED
    route.receive(client, CloseSession(id_of(opening)))
    for place in range(3):
        route.hears(place, observed(ORACLES[place], value))
    assert _level_kept(kept) == Level.CERTIFIED
    route.hears(1, outcome_news(outcome_of(value)))
    assert _level_kept(kept) == Level.FINALIZED


def _level_kept(kept: ReceiptShelf) -> Level:
    receipt = shown(kept)
    assert receipt is not None
    return level_of(receipt)


# The miner


def explained(run: Streamed, **fields: Any) -> SessionReady:
    """What its router shows the miner of a lease."""
    bid_set = bid_set_of(run.opening)
    content = {"generations": (run.generation,), "bid_set": envelope_digest(DOMAIN, bid_set, BidSet), **fields}
    signer = content.pop("signer", ROUTER)
    assignment = assignment_of(run.opening, **content)
    return SessionReady(id_of(run.opening), assignment, signer.sign(typed_digest(DOMAIN, assignment)), bid_set)


@pytest.mark.spec("RECEIPT-KEPT.1")
def test_a_miner_keeps_the_receipt_of_a_lane_that_it_ran() -> None:
    kept = shelf()
    run = Streamed(Bound(price_wei=7, shelf=kept))
    run.mine.receive(run.channel, explained(run))
    run.done()
    receipt = shown(kept)
    assert receipt is not None
    assert level_of(receipt) == Level.COMMITTED, "it has committed, and says so itself"
    assert receipt.tokens is not None and b"".join(receipt.tokens.texts) == run.text
    assert receipt.segments[0].ack is not None
    (news,) = run.mine.news
    value = Observation(run.order.session, 1, 0, Verdict.OK, news.reveal.reveal.root, news.reveal.reveal.count)  # type: ignore[union-attr]
    run.mine.say(0, outcome_news(outcome_of(value)))
    assert _level_kept(kept) == Level.FINALIZED


def test_without_its_routers_word_a_miner_has_no_receipt() -> None:
    kept = shelf()
    run = Streamed(Bound(price_wei=7, shelf=kept))
    run.done()
    assert shown(kept) is None


@pytest.mark.parametrize(
    "change",
    [
        {"generations": (GENERATION,)},
        {"bid_set": bytes(32)},
        {"signer": MALLORY},
        {"session": bytes(32)},
    ],
    ids=["another lease", "another bid set", "forged", "another session"],
)
def test_a_router_that_shows_a_miner_what_does_not_hold_is_left(change: dict[str, Any]) -> None:
    run = Streamed(Bound(price_wei=7, shelf=shelf()))
    effects = run.mine.receive(run.channel, explained(run, **change))
    assert Close(run.channel) in effects
