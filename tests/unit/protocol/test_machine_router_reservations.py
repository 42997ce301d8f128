"""A router and the ledger: what is reserved for its sessions, the news that it passes on, and what it hands in."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from protocol.core.codec import Message
from protocol.core.machine import ChannelClosed, Close, Note, Open
from protocol.core.params import Params
from protocol.core.signing import typed_digest
from protocol.messages.results import (
    CommittedNews,
    Observation,
    ObservedNews,
    SessionClose,
    SignedClose,
    SignedSession,
    SignedWithdraw,
    Submit,
    Verdict,
    Watch,
    Withdraw,
)
from protocol.messages.sessions import (
    CloseSession,
    LeaseBusy,
    LeaseGrant,
    ResumeSession,
    SessionOpen,
    SessionReady,
)
from protocol.messages.tasks import TaskFailed
from protocol.roles.router import HandIn
from protocol.roles.router.following import HANDED_IN_MAX, HANDED_IN_TIMES, RESEND_MS_MAX
from protocol.roles.router.watched import NEWS_MAX, SEEN_MAX
from tests.unit.protocol.following_at_hand import Followed, session_news
from tests.unit.protocol.light_at_hand import (
    batch_of,
    committed,
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

RESEND_MS = PARAMS.result_resend_ms


def value_of(opening: SessionOpen, task: int = 1, **fields: Any) -> Observation:
    content: dict[str, Any] = {"lane": 0, "verdict": Verdict.OK, "root": b"\x02" * 32, "count": 8}
    return Observation(id_of(opening), task, **{**content, **fields})


class Served(Followed):
    """A session that MINER was leased for."""

    def __init__(self, hedge_bp: int = 0, params: Params = PARAMS, **opening: Any) -> None:
        super().__init__(hedge_bp=hedge_bp, params=params)
        self.told()
        self.opening = opening_of(**opening)
        self.channel = self.client()
        self.open(self.channel, self.opening)
        self.bid(self.opening)
        channel, miner = self.asked(self.bid(self.opening, MINERS[1]))
        if miner != MINER.node:
            refused = self.receive(channel, LeaseBusy(id_of(self.opening), 0, "busy"))
            channel, miner = self.asked(refused)
        self.miner = channel
        self.granted = self.receive(channel, LeaseGrant(id_of(self.opening), GENERATION, 1_000))
        assert of_kind(sent(self.granted, self.channel), SessionReady)


def of_kind(messages: list[Message], *kinds: type[Message]) -> list[Message]:
    return [message for message in messages if isinstance(message, kinds)]


def submitted(route: Followed, place: int = 0) -> list[Submit]:
    return [message for message in route.said[route.oracle(place)] if isinstance(message, Submit)]


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


@pytest.mark.parametrize(
    ("credit_wei", "reserved", "waits"), [(7 * 400 - 1, False, True), (7 * 400, False, False), (1, True, False)]
)
def test_a_miner_that_may_wait_for_credit_is_not_taken_for_stalled_nor_another_asked_beside_it(
    credit_wei: int, reserved: bool, waits: bool
) -> None:
    route = Served(hedge_bp=10_000, params=replace(PARAMS, unreserved_credit_wei=credit_wei))
    if reserved:
        route.hears(0, session_news(route.opening))
    route.machine._measured.of(MINER.node).began(10, 10)
    route.receive(route.channel, submit_of(route.opening, 1))
    asked = [stream for stream in of(route.wait(7_000), Open) if stream.protocol == "task"]
    given_up = bool(asked) or route.machine._sessions[id_of(route.opening)].lease is None
    assert given_up != waits
    if given_up:
        return
    failed = TaskFailed(id_of(route.opening), 1, "unreserved", "the credit is used up", 0)
    effects = route.receive(route.miner, failed)
    assert sent(effects, route.channel) == [failed]
    assert route.machine._measured.of(MINER.node).doubts == 0, "it is no failure of the miner's"


def test_what_a_session_had_counts_against_its_credit() -> None:
    route = Served(params=replace(PARAMS, unreserved_credit_wei=7 * 401))
    session = route.machine._sessions[id_of(route.opening)]
    route.receive(route.channel, submit_of(route.opening, 1))
    for message in stream_of(submit_of(route.opening, 1).order):
        route.receive(route.miner, message)
    assert session.had == 8
    route.receive(route.channel, submit_of(route.opening, 2))
    assert session.strains(session.tasks[2], 7 * 407) and not session.strains(session.tasks[2], 7 * 408)


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
