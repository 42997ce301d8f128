"""A router and the committee: its streams to the oracles, the node pool, and who may bid."""

import msgspec
import pytest

from protocol.core.codec import Message
from protocol.core.machine import Channel, Close, Note, PeerConnected, Publish
from protocol.messages.greeting import ClientHello, RouterHello
from protocol.messages.results import (
    Change,
    Follow,
    LedgerNews,
    RevealAsked,
    Submit,
)
from protocol.messages.sessions import (
    SessionEnded,
)
from protocol.roles.router.following import POOL_LAG_MS
from tests.unit.protocol.following_at_hand import Followed
from tests.unit.protocol.light_at_hand import (
    EPOCH,
    certify,
    header_of,
)
from tests.unit.protocol.machines import (
    MALLORY,
    MINERS,
    ORACLES,
    id_of,
    of,
    opening_of,
    sent,
)
from tests.unit.protocol.router_at_hand import Route


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
