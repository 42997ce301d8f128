"""A router and the committee: the node pool, reservations, and the news that it passes on."""

from typing import Any

import msgspec
import pytest

from protocol.core.codec import Message
from protocol.core.machine import Channel, ChannelClosed, Close, Note, PeerConnected, Publish
from protocol.core.signing import typed_digest
from protocol.messages.greeting import ClientHello, RouterHello
from protocol.messages.results import (
    Change,
    CommittedNews,
    Follow,
    LedgerNews,
    Observation,
    ObservedNews,
    RevealAsked,
    SessionClose,
    SignedClose,
    SignedSession,
    SignedWithdraw,
    Submit,
    Verdict,
    Watch,
    Withdraw,
)
from protocol.messages.sessions import CloseSession, LeaseGrant, ResumeSession, SessionEnded, SessionOpen, SessionReady
from protocol.messages.tasks import TaskFailed
from protocol.roles.router import HandIn
from protocol.roles.router.following import HANDED_IN_MAX, HANDED_IN_TIMES, POOL_LAG_MS, RESEND_MS_MAX
from protocol.roles.router.watched import NEWS_MAX, SEEN_MAX
from tests.unit.protocol.following_at_hand import Followed, session_news
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
    MALLORY,
    MINER,
    MINERS,
    ORACLES,
    PARAMS,
    id_of,
    of,
    opening_of,
    sent,
    stream_of,
    submit_of,
)
from tests.unit.protocol.router_at_hand import Route

RESEND_MS = PARAMS.result_resend_ms


def value_of(opening: SessionOpen, task: int = 1, **fields: Any) -> Observation:
    content: dict[str, Any] = {"lane": 0, "verdict": Verdict.OK, "root": b"\x02" * 32, "count": 8}
    return Observation(id_of(opening), task, **{**content, **fields})


class Served(Followed):
    """A session that MINER was leased for."""

    def __init__(self, **opening: Any) -> None:
        super().__init__()
        self.told()
        self.opening = opening_of(**opening)
        self.channel = self.client()
        self.opened_with = self.open(self.channel, self.opening)
        channel, miner = self.asked(self.bid(self.opening) + self.wait(PARAMS.bid_window_ms))
        assert miner == MINER.node
        self.miner = channel
        self.granted = self.receive(channel, LeaseGrant(id_of(self.opening), GENERATION, 1_000))
        assert of_kind(sent(self.granted, self.channel), SessionReady)


def of_kind(messages: list[Message], *kinds: type[Message]) -> list[Message]:
    return [message for message in messages if isinstance(message, kinds)]


def submitted(route: Followed, place: int = 0) -> list[Submit]:
    return [message for message in route.said[route.oracle(place)] if isinstance(message, Submit)]


# Links


def test_without_a_committee_nothing_of_it_happens() -> None:
    route = Route()
    assert (route.machine.next_deadline(), route.wait(10_000)) == (None, [])
    client = route.client()
    (hello,) = sent(route.receive(client, ClientHello()), client)
    assert isinstance(hello, RouterHello)
    assert hello.certified is None
    assert of(route.open(client, opening_of()), Publish)


def test_every_oracle_is_followed_and_one_is_asked_for_the_pool() -> None:
    route = Followed()
    assert set(route.links) == {oracle.node for oracle in ORACLES}
    follows = [message for said in route.said.values() for message in said]
    assert sorted(message.pool for message in follows if isinstance(message, Follow)) == [False] * 3 + [True]


def test_when_the_one_that_is_asked_is_lost_the_next_is_asked_from_the_start() -> None:
    route = Followed()
    first = route.teller()
    route.loses(first)
    second = route.teller()
    assert second != first
    assert route.said[route.oracle(second)][0] == Follow(pool=True)
    route.hears(second, *route.pool.news(all_of_it=True))
    assert route.machine.load()["pool"] == 3
    assert route.tell(PeerConnected(route.oracle(first)))
    assert route.said[route.oracle(first)][0] == Follow(pool=False)


def test_when_all_are_lost_whoever_comes_back_first_is_asked() -> None:
    route = Followed()
    for place in range(4):
        route.loses(place)
    assert route.machine._following._asked is None
    route.tell(PeerConnected(route.oracle(2)))
    assert route.teller() == 2
    assert route.said[route.oracle(2)][0] == Follow(pool=True)


@pytest.mark.spec("POOL-FOLLOW.1")
def test_an_oracle_that_lies_about_the_pool_is_left_and_another_asked() -> None:
    route = Followed()
    liar = route.teller()
    (news,) = route.pool.news()
    effects = route.hears(liar, msgspec.structs.replace(news, changes=(*news.changes, Change(MALLORY.node, b"x"))))
    assert "router.oracle-broke-rule" in [note.what for note in of(effects, Note)]
    assert route.teller() != liar
    assert route.machine.load()["pool"] == 0
    route.told()
    assert route.machine.load()["pool"] == 3


@pytest.mark.spec("POOL-FOLLOW.1")
def test_an_oracle_that_holds_the_pool_back_is_found_by_the_headers_of_another() -> None:
    route = Followed().told()
    silent = route.teller()
    other = next(place for place in range(4) if place != silent)
    route.hears(other, LedgerNews(certify(header_of(90)), ()))
    route.wait(POOL_LAG_MS - 1)
    assert route.teller() == silent
    route.wait(1)
    assert route.teller() != silent
    assert route.said[route.oracle(silent)][-1] == Follow(pool=False)
    route.pool.height = 95
    route.told()
    route.wait(60_000)
    assert route.machine._following._behind is None


def test_one_that_only_lags_a_little_goes_on() -> None:
    route = Followed().told()
    asked = route.teller()
    other = next(place for place in range(4) if place != asked)
    for _ in range(20):
        (news,) = route.pool.news()
        route.hears(other, LedgerNews(news.certified, ()))
        route.wait(POOL_LAG_MS // 2)
        route.hears(asked, news)
    assert route.teller() == asked


@pytest.mark.parametrize(
    "message",
    [
        RevealAsked(bytes(32), 1),
        ClientHello(),
        LedgerNews(certify(header_of(9), signers=[ORACLES[0], ORACLES[1], ORACLES[1]]), ()),
        LedgerNews(certify(header_of(9), signers=[*ORACLES[:2], MALLORY]), ()),
    ],
)
def test_an_oracle_that_breaks_a_rule_is_left_for_a_while(message: Message) -> None:
    route = Followed()
    effects = route.hears(1, message)
    assert route.links[route.oracle(1)] in [close.channel for close in of(effects, Close)]
    before = dict(route.links)
    route.wait(5_000)
    assert route.links[route.oracle(1)] == before[route.oracle(1)]
    route.wait(5_000)
    assert route.links[route.oracle(1)] != before[route.oracle(1)]


# Who may bid


@pytest.mark.spec("POOL-GATE.1")
def test_nobody_is_asked_for_bids_before_the_pool_is_known_and_the_session_ends_in_time() -> None:
    route = Followed()
    client = route.client()
    effects = route.open(client, opening_of(), timeout_ms=5_000)
    assert not of(effects + route.wait(4_000), Publish)
    (ended,) = of_kind(sent(route.wait(1_000), client), SessionEnded)
    assert isinstance(ended, SessionEnded)
    assert ended.code == "no_capacity"
    route.open(client, opening_of(number=2))
    route.told()
    assert of(route.wait(200), Publish)


@pytest.mark.spec("POOL-GATE.1")
def test_bids_are_taken_from_available_miners_only() -> None:
    route = Followed(miners=3, available=1).told()
    client, opening = route.client(), opening_of()
    (publish,) = of(route.open(client, opening), Publish)
    assert route.machine._sessions[id_of(opening)].round.announcement.pool == 1
    effects = route.bid(opening, MINERS[1])
    assert route.bidder in [close.channel for close in of(effects, Close)]
    assert not sent(effects, route.bidder)
    assert sent(route.bid(opening, MINERS[0]), route.bidder), "the receipt"
    assert publish is not None


# Reservations


@pytest.mark.spec("ROUTER-RESERVES.1")
def test_a_session_is_submitted_to_all_and_again_until_it_is_reserved() -> None:
    route = Served()
    signed = SignedSession(route.opening, CLIENT.sign(id_of(route.opening)))
    for place in range(4):
        assert route.said[route.oracle(place)][-2:] == [Watch(id_of(route.opening)), Submit(sessions=(signed,))]
    route.wait(RESEND_MS)
    assert len(submitted(route)) == 2
    route.wait(10 * RESEND_MS_MAX)
    assert 5 < len(submitted(route)) < 20, "later each time"
    before = len(submitted(route))
    effects = route.hears(2, session_news(route.opening))
    assert len(sent(effects, route.channel)) == len(sent(effects, route.miner)) == 1
    route.wait(2 * RESEND_MS_MAX)
    assert len(submitted(route)) == before
    assert route.machine.load()["sessions_reserved"] == 1


@pytest.mark.spec("ROUTER-RESERVES.1")
def test_an_oracle_that_comes_back_hears_of_all_that_is_not_reserved() -> None:
    route = Served()
    route.hears(0, session_news(route.opening))
    second = opening_of(number=1)
    route.open(route.channel, second)
    for place in range(4):
        route.loses(place)
    route.wait(10_000)
    said = route.said[route.oracle(3)]
    assert Watch(id_of(route.opening)) in said
    assert Watch(id_of(second)) in said
    assert {item.sessions[0].opening for item in submitted(route, 3)} == {second}


@pytest.mark.spec("ROUTER-RESERVES.1")
def test_what_reserves_nothing_is_watched_and_not_submitted() -> None:
    route = Served(cap_wei=0)
    assert not submitted(route)
    assert route.said[route.oracle(0)][-1] == Watch(id_of(route.opening))
    assert not route.wait(100_000) or not submitted(route)


@pytest.mark.spec("ROUTER-RESERVES.1", "LIGHT-SESSION.1")
def test_only_what_is_proved_is_taken_for_reserved() -> None:
    opening = opening_of()
    good = session_news(opening)
    other = session_news(opening_of(number=7))
    bad = [
        msgspec.structs.replace(good, proof=other.proof),
        msgspec.structs.replace(good, certified=other.certified),
        session_news(opening, signers=(ORACLES[0], ORACLES[1], MALLORY)),
        msgspec.structs.replace(good, proof=msgspec.structs.replace(good.proof, value=b"x")),
    ]
    for news in bad:
        route = Served()
        effects = route.hears(0, news)
        assert not sent(effects, route.channel) and not sent(effects, route.miner)
        assert route.machine.load()["sessions_reserved"] == 0
    route = Served()
    route.hears(0, session_news(opening, reserved=False))
    assert route.machine.load()["sessions_reserved"] == 0
    route.hears(1, session_news(opening, height=70))
    assert not route.hears(2, session_news(opening, height=71)), "the same again, in a later header"
    assert not route.hears(2, session_news(opening, height=61, spent_wei=5)), "older news"
    assert sent(route.hears(2, session_news(opening, height=72, spent_wei=5)), route.channel)


@pytest.mark.spec("ROUTER-RESERVES.1")
def test_whoever_is_leased_later_learns_that_it_is_reserved() -> None:
    route = Followed().told()
    opening, client = opening_of(), route.client()
    route.open(client, opening)
    news = session_news(opening)
    assert sent(route.hears(0, news), client) == [news]
    channel, _ = route.asked(route.bid(opening) + route.wait(PARAMS.bid_window_ms))
    assert sent(route.receive(channel, LeaseGrant(id_of(opening), GENERATION, 1_000)), channel) == [news]


def test_a_miner_that_waits_for_credit_is_not_taken_for_stalled() -> None:
    route = Served()
    route.machine._measurement_of(MINER.node).began(10, 10)
    route.receive(route.channel, submit_of(route.opening, 1))
    route.wait(7_000)
    assert route.machine._sessions[id_of(route.opening)].lease is not None
    failed = TaskFailed(id_of(route.opening), 1, "unreserved", "the credit is used up", 0)
    effects = route.receive(route.miner, failed)
    assert sent(effects, route.channel) == [failed]
    assert route.machine._measurement_of(MINER.node).doubts == 0, "it is no failure of the miner's"


# News


def rounds_of_news(opening: SessionOpen) -> list[Message]:
    value = value_of(opening)
    return [observed(ORACLES[0], value), outcome_news(outcome_of(value))]


def test_news_of_a_session_go_to_its_client_once_each() -> None:
    route = Served()
    for news in rounds_of_news(route.opening):
        assert sent(route.hears(0, news), route.channel) == [news]
        assert route.hears(1, news) == []
    commit = committed(value_of(route.opening), GENERATION)
    assert sent(route.receive(route.miner, commit), route.channel) == [commit]


def test_news_of_other_sessions_go_nowhere_and_a_false_proof_is_the_oracles_fault() -> None:
    route = Served()
    for news in rounds_of_news(opening_of(number=9)):
        assert route.hears(0, news) == []
    forged = outcome_news(outcome_of(value_of(route.opening)), signers=(ORACLES[0], MALLORY, MALLORY))
    effects = route.hears(0, forged)
    assert not sent(effects, route.channel)
    assert of(effects, Note)


def test_a_miner_tells_of_its_own_session_only() -> None:
    route = Served()
    effects = route.receive(route.miner, committed(value_of(opening_of(number=9)), GENERATION))
    assert route.miner in [close.channel for close in of(effects, Close)]
    assert not of_kind(sent(effects, route.channel), CommittedNews)


@pytest.mark.spec("RESUME-REPLAY.1")
def test_a_client_that_comes_back_gets_the_news_it_may_have_missed() -> None:
    route = Served()
    route.receive(route.channel, submit_of(route.opening, 1))
    messages = stream_of(submit_of(route.opening, 1).order)
    for message in messages:
        route.receive(route.miner, message)
    before, after = rounds_of_news(route.opening)
    route.hears(0, before)
    route.tell(ChannelClosed(route.channel, "gone"))
    assert not sent(route.hears(0, after))
    reserved = session_news(route.opening)
    assert not sent(route.hears(0, reserved), route.channel)
    again = route.client()
    heard = sent(route.receive(again, ResumeSession(id_of(route.opening), 1 + len(messages))), again)
    assert heard[1:] == [before, after, reserved], "they are not counted among what the client acknowledges"


def test_what_is_kept_of_a_session_is_bounded_and_goes_with_it() -> None:
    route = Served()
    for number in range(1, SEEN_MAX + 40):
        route.hears(0, ObservedNews(id_of(route.opening), batch_of(ORACLES[0], [value_of(route.opening)], number)))
    watched = route.machine._following._watched[id_of(route.opening)]
    assert len(watched.news) == NEWS_MAX
    assert len(watched.seen) == SEEN_MAX
    route.receive(route.channel, CloseSession(id_of(route.opening)))
    assert not route.machine._following._watched
    assert not route.machine._following._again


# Epochs


def test_clients_learn_the_header_at_first_and_when_an_epoch_begins() -> None:
    route = Followed()
    early = route.client()
    effects = route.hears(route.teller(), *route.pool.news())
    (first,) = heard_by(effects, early)
    assert isinstance(first, LedgerNews)
    (hello,) = sent(route.receive(early, ClientHello()), early)
    assert isinstance(hello, RouterHello)
    assert hello.certified == first.certified
    assert not heard_by(route.hears(route.teller(), *route.pool.news()), early)
    (turn,) = heard_by(route.hears(route.teller(), *route.pool.news(epoch=EPOCH + 1)), early)
    assert isinstance(turn, LedgerNews)
    assert turn.certified.certificate.epoch == EPOCH + 1
    assert turn.changes == ()


def heard_by(effects: list[object], channel: Channel) -> list[Message]:
    return [effect.message for effect in effects if channel in getattr(effect, "channels", ())]  # type: ignore


# What is handed in


def test_a_signed_close_is_handed_in_a_few_times() -> None:
    route = Served()
    close = SessionClose(id_of(route.opening))
    signature = CLIENT.sign(typed_digest(DOMAIN, close))
    route.receive(route.channel, CloseSession(close.session, signature))
    wanted = Submit(closes=(SignedClose(close, signature),))
    assert submitted(route)[-1] == wanted
    route.wait(100_000)
    assert submitted(route).count(wanted) == HANDED_IN_TIMES
    assert not route.machine._following._handed_in


def test_a_close_that_the_client_did_not_sign_is_its_fault() -> None:
    route = Served()
    close = SessionClose(id_of(route.opening))
    before = len(submitted(route))
    effects = route.receive(route.channel, CloseSession(close.session, MALLORY.sign(typed_digest(DOMAIN, close))))
    assert route.channel in [closed.channel for closed in of(effects, Close)]
    assert len(submitted(route)) == before


def test_what_the_operator_hands_in_reaches_oracles_that_come_later_and_is_bounded() -> None:
    route = Followed()
    withdraw = Withdraw(CLIENT.node, 5)
    submit = Submit(withdrawals=(SignedWithdraw(withdraw, CLIENT.sign(typed_digest(DOMAIN, withdraw))),))
    route.loses(1)
    route.tell(HandIn(submit))
    assert submitted(route, 0) == [submit]
    route.wait(400)
    assert submitted(route, 1) == [submit]
    for _ in range(HANDED_IN_MAX + 10):
        route.tell(HandIn(submit))
    assert len(route.machine._following._handed_in) == HANDED_IN_MAX
