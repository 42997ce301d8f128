"""A client in a network with a committee: what it signs for the ledger, and how its answers rise."""

from typing import Any

import msgspec
import pytest

from protocol.core.codec import Message
from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.core.machine import Close
from protocol.core.signing import typed_digest, verify
from protocol.light.levels import Level
from protocol.messages.committee import header_digest
from protocol.messages.envelope import envelope_digest
from protocol.messages.greeting import RouterHello
from protocol.messages.results import LedgerNews, Observation, ObservedNews, SessionClose, Verdict
from protocol.messages.sessions import BidSet, CloseSession, SessionOpen, SessionReady
from protocol.messages.tasks import AckMessage, FrameMessage, SegmentStart, TaskOrder
from protocol.results.commitment import make_opening, opening_root, segment_of
from protocol.roles.client import (
    CloseAsked,
    RouterGone,
    SessionReserved,
    TaskLevel,
    TaskOver,
)
from protocol.roles.client.levels import SETTLING_MAX
from protocol.roles.client.state import EARLY_MAX
from protocol.session.transcript import LaneVerifier, close_chain, expect_segment, segment_id
from tests.unit.protocol.client_at_hand import HELLO, SESSION_HANDLE, Client
from tests.unit.protocol.following_at_hand import session_news
from tests.unit.protocol.light_at_hand import (
    EPOCH,
    batch_of,
    certify,
    committed,
    header_of,
    observed,
    outcome_news,
    outcome_of,
)
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    GENESIS,
    MALLORY,
    MINER,
    MINERS,
    ORACLES,
    ROUTER,
    assignment_of,
    bid_set_of,
    id_of,
    of,
    ready_of,
    sent,
    stream_of,
)

CERTIFIED = certify(header_of(40))
GREETING = RouterHello(ROUTER.node, HELLO.genesis, (), CERTIFIED)
TASK = 3


def root_of(order: TaskOrder, messages: list[Message]) -> tuple[Digest, int]:
    """The result of an answer as its miner computes it: from the opening that it hands in."""
    heads = [message.head for message in messages if isinstance(message, SegmentStart)]
    expected = [expect_segment(DOMAIN, order, 0, head.generation, head.miner, head.model) for head in heads]
    verifier = LaneVerifier(DOMAIN, expected[0])
    for message in messages:
        if isinstance(message, SegmentStart):
            if verifier.head is not None:
                verifier.take_over(expected[heads.index(message.head)])
            verifier.begin(message.head)
        elif isinstance(message, FrameMessage):
            verifier.take(message)
    chain, segments = close_chain(verifier.chain, verifier.finish()), [segment_of(head) for head in heads]
    signature = CLIENT.sign(typed_digest(DOMAIN, order))
    opening = make_opening(DOMAIN, order, signature, heads, chain, verifier.index, segments)
    return opening_root(DOMAIN, opening), verifier.index


class Asking(Client):
    """A client of a network with a committee, with a session that stands."""

    def __init__(self, network: bytes | None = GENESIS.network_id(), **opening: Any) -> None:
        super().__init__(network)
        self.says(GREETING)
        self.opening: SessionOpen = self.open(SESSION_HANDLE, cap_wei=500, **opening)
        self.says(ready_of(self.opening))

    def answered(self, handle: int = TASK) -> Observation:
        """An answer, streamed to its end; what the oracles see of it."""
        order = self.order(self.ask(handle))
        messages = stream_of(order)
        self.says(*messages)
        root, count = root_of(order, messages)
        return Observation(order.session, order.task, 0, Verdict.OK, root, count)

    def levels(self, handle: int = TASK) -> list[TaskLevel]:
        """What was delivered of an answer's levels."""
        return of(self.items.get(handle, []), TaskLevel)


@pytest.mark.spec("LIGHT-HEADER.1")
def test_a_session_names_the_newest_final_header_and_orders_their_home_epoch() -> None:
    client = Asking()
    assert client.opening.header == header_digest(DOMAIN, header_of(40))
    assert client.order(client.ask(TASK)).home_epoch == EPOCH
    client.says(LedgerNews(certify(header_of(1, EPOCH + 1)), ()), LedgerNews(certify(header_of(90)), ()))
    assert client.order(client.ask(TASK + 1)).home_epoch == EPOCH + 1
    assert client.open(9).header == header_digest(DOMAIN, header_of(1, EPOCH + 1))


def test_where_no_header_is_known_none_is_named() -> None:
    client = Client()
    client.says(HELLO)
    assert client.ready().header == ZERO_DIGEST
    assert client.order(client.ask(TASK)).home_epoch == 0


@pytest.mark.spec("LIGHT-HEADER.1")
def test_a_router_with_a_header_that_is_not_final_is_refused() -> None:
    forged = certify(header_of(40), signers=[*ORACLES[:2], MALLORY])
    client = Client()
    client.says(msgspec.structs.replace(GREETING, certified=forged))
    assert isinstance(client.over(1), RouterGone)
    client = Asking()
    assert of(client.says(LedgerNews(forged, ())), Close)


@pytest.mark.spec("LEVEL-PROVED.1", "LEVEL-RISES.1")
def test_an_answer_rises_and_every_step_is_delivered() -> None:
    client = Asking()
    value = client.answered()
    assert client.levels() == []
    client.wait(12)
    client.says(committed(value, GENERATION))
    for oracle in ORACLES:
        client.wait(10)
        client.says(observed(oracle, value))
    client.wait(30)
    client.says(outcome_news(outcome_of(value, paid_wei=56)), outcome_news(outcome_of(value, paid_wei=56)))
    told = [(item.level, item.after_ms, item.agreeing) for item in client.levels()]
    assert told == [
        (Level.COMMITTED, 12, 0),
        (Level.COMMITTED, 22, 1),
        (Level.COMMITTED, 32, 2),
        (Level.CERTIFIED, 42, 3),
        (Level.CERTIFIED, 52, 4),
        (Level.FINALIZED, 82, 4),
    ]
    last = client.levels()[-1]
    assert (last.members, last.against, last.evidence) == (4, "", 0)
    assert last.final is not None
    assert (last.final.epoch, last.final.height, last.final.paid_wei) == (EPOCH, 41, 56)


@pytest.mark.spec("LEVEL-PROVED.1")
def test_news_that_do_not_hold_or_are_of_others_are_dropped_and_the_router_is_kept() -> None:
    client = Asking()
    value = client.answered()
    other = msgspec.structs.replace(value, task=9)
    for news in (
        committed(value, GENERATION, MINER, MALLORY),
        committed(other, GENERATION),
        observed(MALLORY, value),
        observed(ORACLES[0], other),
        outcome_news(outcome_of(value), signers=(ORACLES[0], ORACLES[1], MALLORY)),
        outcome_news(outcome_of(other)),
        session_news(client.opening, signers=(ORACLES[0], ORACLES[1], MALLORY)),
        ObservedNews(b"\x09" * 32, batch_of(ORACLES[0], [value])),
    ):
        assert client.says(news) == []
    assert client.levels() == []
    client.says(outcome_news(outcome_of(value)))
    assert [item.level for item in client.levels()] == [Level.FINALIZED]


def test_a_verdict_against_it_is_told_as_what_it_is() -> None:
    client = Asking()
    value = client.answered()
    late = msgspec.structs.replace(value, verdict=Verdict.LATE, root=ZERO_DIGEST, count=0)
    client.says(committed(value, GENERATION), observed(ORACLES[0], late), observed(ORACLES[1], late))
    last = client.levels()[-1]
    assert (last.level, last.against) == (Level.COMMITTED, "late")


def test_an_oracle_that_contradicts_itself_is_told_of() -> None:
    client = Asking()
    value = client.answered()
    late = msgspec.structs.replace(value, verdict=Verdict.LATE, root=ZERO_DIGEST, count=0)
    client.says(observed(ORACLES[0], value, 1), observed(ORACLES[0], late, 2))
    assert client.levels()[-1].evidence == 1
    assert [piece.first.batch.number for piece in client.levels()[-1].convicting] == [1]


def test_news_before_the_end_wait_for_it_and_are_bounded() -> None:
    client = Asking()
    order = client.order(client.ask(TASK))
    messages = stream_of(order)
    root, count = root_of(order, messages)
    value = Observation(order.session, order.task, 0, Verdict.OK, root, count)
    client.says(*messages[:-1], committed(value, GENERATION), *(observed(oracle, value) for oracle in ORACLES))
    assert client.levels() == []
    client.says(messages[-1])
    assert isinstance(client.items[TASK][-3], TaskOver)
    assert [item.level for item in client.levels()] == [Level.CERTIFIED]
    client.ask(TASK + 1)
    other = msgspec.structs.replace(value, task=2)
    for number in range(EARLY_MAX + 9):
        client.says(observed(ORACLES[0], other, number + 1))
    (session,) = client.machine._held.sessions.values()
    assert len(session.early) == EARLY_MAX


def test_what_may_rise_is_bounded_and_ends_with_its_session() -> None:
    client = Asking(tasks_max=1_000)
    (session,) = client.machine._held.sessions.values()
    first = client.answered(100)
    settling = session.settling[first.task]
    for number in range(SETTLING_MAX - 1):
        session.settling[1_000 + number] = settling
    second = client.answered(101)
    assert len(session.settling) == SETTLING_MAX
    assert client.says(outcome_news(outcome_of(first))) == []
    client.says(outcome_news(outcome_of(second)))
    assert client.levels(101)
    client.tell(CloseAsked(SESSION_HANDLE))
    assert client.says(outcome_news(outcome_of(second))) == []


def test_an_answer_after_a_takeover_counts_with_all_its_segments_and_the_lost_one_is_acknowledged() -> None:
    client = Asking()
    order = client.order(client.ask(TASK))
    first = stream_of(order)[:3]
    client.says(*first)
    bid_set = bid_set_of(client.opening, (MINER, MINERS[1]))
    generation = b"\x55" * 24
    assignment = assignment_of(
        client.opening,
        number=2,
        miners=(MINERS[1].node,),
        generations=(generation,),
        bid_set=envelope_digest(DOMAIN, bid_set, BidSet),
    )
    ready = SessionReady(id_of(client.opening), assignment, ROUTER.sign(typed_digest(DOMAIN, assignment)), bid_set)
    effects = client.says(ready)
    (ack,) = [message for message in sent(effects, client.channel) if isinstance(message, AckMessage)]
    head = first[0].head  # type: ignore[attr-defined]
    assert (ack.ack.generation, ack.ack.segment, ack.ack.index) == (GENERATION, segment_id(DOMAIN, head), 3)
    verify(typed_digest(DOMAIN, ack.ack), ack.signature, CLIENT.node, "the ack")
    rest = stream_of(
        order,
        sizes=(2, 3),
        miner=MINERS[1],
        generation=generation,
        start_index=3,
        previous_head=ack.ack.chain,
    )
    client.says(*rest)
    root, count = root_of(order, [*first, *rest])
    assert client.over(TASK).tokens == count == 8
    commit = committed(Observation(order.session, 1, 0, Verdict.OK, root, count), generation, MINERS[1])
    client.says(commit)
    assert [item.level for item in client.levels()] == [Level.COMMITTED]


@pytest.mark.spec("LEDGER-RELEASE.1")
def test_closing_frees_what_was_reserved() -> None:
    client = Asking()
    (closed,) = [m for m in sent(client.tell(CloseAsked(SESSION_HANDLE))) if isinstance(m, CloseSession)]
    assert closed.signature is not None
    close = SessionClose(id_of(client.opening))
    verify(typed_digest(DOMAIN, close), closed.signature, CLIENT.node, "the close")


def test_where_nothing_is_reserved_the_close_is_not_signed() -> None:
    client = Client()
    client.says(GREETING)
    client.ready()
    (closed,) = sent(client.tell(CloseAsked(SESSION_HANDLE)))
    assert isinstance(closed, CloseSession)
    assert closed.signature is None


@pytest.mark.spec("LIGHT-SESSION.1")
def test_the_reservation_is_told_when_it_is_proved_and_newest() -> None:
    client = Asking()
    client.says(session_news(client.opening, height=60, spent_wei=5), session_news(client.opening, height=50))
    items = of(client.items[SESSION_HANDLE], SessionReserved)
    assert items == [SessionReserved(500, 5, EPOCH, 60)]


@pytest.mark.spec("LEVEL-PROVED.1")
def test_a_committee_that_only_the_router_vouches_for_proves_nothing() -> None:
    client = Asking(network=None)
    value = client.answered()
    assert client.says(committed(value, GENERATION), outcome_news(outcome_of(value))) == []
    assert client.levels() == []
