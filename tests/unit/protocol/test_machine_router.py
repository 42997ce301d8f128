"""The router's machine, driven by hand: auctions, leases, its queue, and what it refuses."""

from typing import Any

import pytest

from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Close, Note, Open, Persist, Publish, Send
from protocol.core.signing import typed_digest, verify
from protocol.messages.envelope import Envelope, unseal
from protocol.messages.greeting import ClientHello, RouterHello
from protocol.messages.sessions import (
    Announcement,
    BidReceipt,
    CloseSession,
    LeaseBusy,
    LeaseGrant,
    LeaseRelease,
    SessionEnded,
    SessionOpen,
    SessionReady,
)
from protocol.messages.tasks import StartTask
from protocol.roles.router import RouterSettings
from protocol.roles.router.rounds import WAKE_MS
from protocol.session.auction import verify_bid_set
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    DOMAIN,
    GENERATION,
    GENESIS,
    MALLORY,
    MINER,
    MINERS,
    MODEL,
    NOW_MS,
    PARAMS,
    ROUTER,
    id_of,
    of,
    opening_of,
    other_model,
    sent,
    submit_of,
)
from tests.unit.protocol.router_at_hand import TIMEOUT_MS, Route, Task

# Auction


def test_a_greeting_shows_network_and_models() -> None:
    route = Route()
    (hello,) = sent(route.receive(route.client(), ClientHello()))
    assert isinstance(hello, RouterHello)
    assert (hello.router, hello.genesis) == (ROUTER.node, GENESIS.to_json())
    assert [offer.manifest.digest() for offer in hello.models] == [MODEL]


@pytest.mark.spec("SESSION-ID.1")
def test_a_session_is_announced_with_what_the_client_signed() -> None:
    route, opening = Route(), opening_of()
    (published,) = of(route.open(route.client(), opening), Publish)
    assert published.topic == "sessions"
    assert isinstance(published.message, Envelope)
    announcement, signer = unseal(DOMAIN, published.message, Announcement)
    assert (announcement.session, announcement.model, announcement.pool) == (id_of(opening), MODEL, 3)
    assert (signer, announcement.router, announcement.widening) == (ROUTER.node, ROUTER.node, 0)


def test_bids_are_closed_as_soon_as_enough_are_good() -> None:
    route, opening = Route(), opening_of()
    route.open(route.client(), opening)
    first = route.bid(opening, MINERS[0])
    (envelope,) = sent(first, route.bidder)
    assert isinstance(envelope, Envelope)
    receipt, signer = unseal(DOMAIN, envelope, BidReceipt)
    assert (receipt.position, receipt.session, signer) == (0, id_of(opening), ROUTER.node)
    assert (of(first, Open), of(first, Close)) == ([], [Close(route.bidder)])
    _, miner = route.asked(route.bid(opening, MINERS[1]))
    assert miner in (MINERS[0].node, MINERS[1].node)


def test_bids_are_closed_when_the_window_ends_or_all_have_bid() -> None:
    route, opening = Route(), opening_of()
    route.open(route.client(), opening)
    route.bid(opening)
    assert route.wait(PARAMS.bid_window_ms - 1) == []
    assert route.asked(route.wait(1))[1] == MINER.node
    alone = Route(miners=1)
    alone.open(alone.client(), opening)
    assert alone.asked(alone.bid(opening))[1] == MINER.node


def test_without_bids_rounds_widen_until_the_deadline_and_end_in_no_capacity() -> None:
    route, opening = Route(), opening_of()
    client = route.client()
    effects = route.open(client, opening) + route.wait(TIMEOUT_MS)
    envelopes = [effect.message for effect in of(effects, Publish)]
    widenings = [unseal(DOMAIN, e, Announcement)[0].widening for e in envelopes if isinstance(e, Envelope)]
    assert widenings == list(range(len(widenings)))
    assert len(widenings) > 6
    (ended,) = sent(effects, client)
    assert isinstance(ended, SessionEnded)
    assert (ended.code, ended.retry_after_ms > 0) == ("no_capacity", True)
    assert route.machine.next_deadline() is None
    route.tell(ChannelClosed(client, "left"))
    route.empty()


def test_a_bid_nobody_waits_for_just_ends_its_stream() -> None:
    route, opening = Route(), opening_of()
    assert route.bid(opening) == [Close(route.bidder)]
    client = route.client()
    route.open(client, opening)
    route.bid(opening, MINERS[0])
    route.bid(opening, MINERS[1])
    assert route.bid(opening, MINERS[2]) == [Close(route.bidder)]
    route.tell(ChannelClosed(client, "left"))
    route.empty()


@pytest.mark.parametrize(
    ("why", "signer", "fields"),
    [
        ("brought by another", MINER, {"peer": MALLORY.node}),
        ("signed by another", MALLORY, {"miner": MINER.node, "peer": MINER.node}),
        ("too dear", MINER, {"price_wei": 1_001}),
        ("of another model", MINER, {"model": other_model()}),
        ("without a slot", MINER, {"slots_free": 0}),
        ("stale", MINER, {"issued_ms": NOW_MS - 10**6}),
    ],
)
def test_a_bid_of_no_use_is_refused(why: str, signer: Key, fields: dict[str, Any]) -> None:
    route, opening = Route(), opening_of()
    route.open(route.client(), opening)
    effects = route.bid(opening, signer, **fields)
    assert (sent(effects), of(effects, Close)) == ([], [Close(route.bidder)])
    assert of(effects, Note)[0].what == "router.peer-broke-rule"
    assert of(route.wait(PARAMS.bid_window_ms), Open) == [], "and does not count"


def test_a_miner_bids_once() -> None:
    route, opening = Route(), opening_of()
    route.open(route.client(), opening)
    route.bid(opening)
    effects = route.bid(opening)
    assert (sent(effects), of(effects, Close)) == ([], [Close(route.bidder)])


def test_bid_streams_are_bounded_and_silent_ones_end() -> None:
    route = Route()
    channels = [route.opened(MINER.node, "bid") for _ in range(2 * PARAMS.sessions_per_router_max)]
    late = ChannelOpened(Channel(999), MINER.node, "bid")
    assert route.tell(late) == [Close(Channel(999))]
    assert route.wait(PARAMS.announcement_lifetime_ms) == [Close(channel) for channel in channels]
    route.empty()
    assert route.tell(late) == []


# Leases


def bid_by_all(route: Route, opening: SessionOpen) -> tuple[Channel, NodeId]:
    """Two miners bid; returns whom the router asks first."""
    route.open(route.clients, opening)
    route.bid(opening, MINERS[0])
    return route.asked(route.bid(opening, MINERS[1]))


@pytest.fixture
def route() -> Route:
    made = Route()
    made.clients = made.client()  # type: ignore[attr-defined]
    return made


def test_a_busy_miner_moves_the_question_to_the_next(route: Route) -> None:
    opening = opening_of()
    channel, first = bid_by_all(route, opening)
    effects = route.receive(channel, LeaseBusy(id_of(opening), 1_000, "full"))
    assert Close(channel) in effects
    _, second = route.asked(effects)
    assert {first, second} == {MINERS[0].node, MINERS[1].node}


def test_a_miner_that_does_not_answer_moves_the_question_to_the_next(route: Route) -> None:
    channel, first = bid_by_all(route, opening_of())
    effects = route.wait(PARAMS.lease_request_timeout_ms)
    assert Close(channel) in effects
    other, second = route.asked(effects)
    assert first != second
    (_,) = of(route.tell(ChannelClosed(other, "unreachable")), Note)
    assert of(route.wait(200), Publish), "and then asks for bids again"


@pytest.mark.parametrize("message", [LeaseRelease(bytes(32)), LeaseGrant(bytes(32), GENERATION, 1), ClientHello()])
def test_a_miner_that_answers_nonsense_is_passed_over(route: Route, message: Message) -> None:
    channel, first = bid_by_all(route, opening_of())
    effects = route.receive(channel, message)
    assert Close(channel) in effects
    assert route.asked(effects)[1] != first


@pytest.mark.spec("ASSIGN-NUMBER.1", "MACHINE-PERSIST.1")
def test_an_assignment_is_durable_before_anything_of_its_session_leaves(route: Route) -> None:
    opening = opening_of()
    channel, miner = bid_by_all(route, opening)
    persist, send = route.receive(channel, LeaseGrant(id_of(opening), GENERATION, 1_000))
    assert isinstance(persist, Persist)
    assert isinstance(send, Send)
    assert isinstance(send.message, SessionReady)
    assert persist.key == send.key == id_of(opening)
    assert persist.records[0][0] == b"assignment/" + id_of(opening)
    (start,) = of(route.receive(route.clients, submit_of(opening)), Send)
    assert isinstance(start.message, StartTask)
    assert start.key == persist.key, "so the order waits for it too"
    ready = send.message
    verify(typed_digest(DOMAIN, ready.assignment), ready.signature, ROUTER.node, "the assignment")
    auction = verify_bid_set(DOMAIN, PARAMS, opening, ready.bid_set, ready.assignment)
    assert ready.assignment.miners == (miner,) == auction.ranking.picks


@pytest.mark.spec("ASSIGN-NUMBER.1")
def test_assignment_numbers_of_a_session_rise_through_restarts_and_are_forgotten_with_it() -> None:
    opening = opening_of()
    again = Route(numbers={id_of(opening): 41})
    client = again.client()
    _, ready = again.leased(opening, client)
    assert ready.assignment.number == 42
    again.receive(client, CloseSession(id_of(opening)))
    _, ready = again.leased(opening, client)
    assert ready.assignment.number == 43
    again.tell(ChannelClosed(client, "left"))
    effects = again.wait(opening.expires_ms + PARAMS.clock_skew_ms_max - again.now_ms)
    assert of(effects, Persist) == [Persist(id_of(opening), ((b"assignment/" + id_of(opening), None),))]
    assert again.machine._leasing.numbers == {}
    assert again.machine.next_deadline() is None


def test_a_client_that_leaves_takes_everything_of_its_with_it(route: Route) -> None:
    waiting, bidding, leasing, ready = (opening_of(number=n) for n in range(4))
    route.machine._settings = RouterSettings(ROUTER.node, (), GENESIS.to_json(), rounds_max=2)
    lease, _ = route.leased(ready, route.clients)
    asked, _ = bid_by_all(route, leasing)
    route.open(route.clients, bidding)
    assert route.open(route.clients, waiting) == []
    effects = route.tell(ChannelClosed(route.clients, "left"))
    assert sent(effects, lease) == [LeaseRelease(id_of(ready))]
    assert {effect.channel for effect in of(effects, Close)} == {lease, asked}
    assert of(effects, Publish) == []
    route.empty()
    assert route.receive(asked, LeaseGrant(id_of(leasing), GENERATION, 1)) == []


# The queue and other refusals


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("bad_request", {"routers": (MALLORY.node,)}),
        ("bad_request", {"expires_ms": NOW_MS - PARAMS.clock_skew_ms_max}),
        ("bad_request", {"expires_ms": NOW_MS + PARAMS.session_lifetime_ms_max + 1}),
        ("bad_request", {"lanes": PARAMS.lanes_max + 1}),
        ("no_capacity", {"lanes": 4}),
        ("bad_request", {"tasks_max": 0}),
        ("bad_request", {"tasks_max": PARAMS.tasks_per_session_max + 1}),
        ("model_not_found", {"model": other_model()}),
    ],
)
def test_a_session_is_refused_with_its_code(route: Route, code: str, fields: dict[str, Any]) -> None:
    opening = opening_of(**fields)
    (ended,) = sent(route.open(route.clients, opening), route.clients)
    assert isinstance(ended, SessionEnded)
    assert (ended.session, ended.code) == (id_of(opening), code)


def test_a_session_that_its_client_did_not_sign_ends_the_connection(route: Route) -> None:
    assert Close(route.clients) in route.open(route.clients, opening_of(), signer=MALLORY)
    route.empty()


def test_the_queue_is_bounded_and_says_when_to_come_back() -> None:
    route = Route(rounds_max=1)
    clients = [(route.client(key), key) for key in MINERS]
    told = []
    for number in range(12):
        channel, key = clients[number % len(clients)]
        told += sent(route.open(channel, opening_of(key, number)))
    codes = [(m.code, m.retry_after_ms > 0) for m in told if isinstance(m, SessionEnded)]
    assert codes == [("queue_full", True)] * (12 - 1 - PARAMS.queue_requests_max)
    greedy = [sent(route.open(clients[0][0], opening_of(MINERS[0], number=20)))]
    assert greedy


def test_a_client_cannot_hold_more_sessions_than_its_share() -> None:
    route = Route()
    client = route.client()
    told = [m for number in range(6) for m in sent(route.open(client, opening_of(number=number)), client)]
    codes = [(m.code, m.retry_after_ms > 0) for m in told if isinstance(m, SessionEnded)]
    assert codes == [("rate_limited", True)] * 2


def test_a_session_that_waits_gets_the_slot_that_is_released() -> None:
    route = Route(miners=1)
    first, second = route.client(), route.client(MALLORY)
    one, other = opening_of(number=1), opening_of(MALLORY, number=2)
    lease, _ = route.leased(one, first)
    route.open(second, other)
    assert of(route.wait(PARAMS.bid_window_ms), Publish) == [], "no miner has a slot, so none bids"
    effects = route.receive(first, CloseSession(id_of(one)))
    assert sent(effects, lease) == [LeaseRelease(id_of(one))]
    (ended,) = sent(effects, first)
    assert isinstance(ended, SessionEnded)
    assert ended.code == "session_closed"
    assert of(route.wait(WAKE_MS), Publish), "the other asks at once"
    channel, _ = route.asked(route.bid(other))
    assert sent(route.receive(channel, LeaseGrant(id_of(other), GENERATION, 1)), second)


@pytest.mark.spec("LEASE-RENEWAL.1")
def test_a_session_whose_lease_ran_out_finds_a_miner_again_with_the_next_order() -> None:
    task = Task()
    task.send(task.stream())
    effects = task.route.receive(task.miner, LeaseRelease(id_of(task.opening)))
    assert task.ended(effects) == []
    assert Close(task.miner, key=id_of(task.opening)) in effects
    assert of(task.submit(2), Publish)
    channel, _ = task.route.asked(task.route.bid(task.opening) + task.route.wait(PARAMS.bid_window_ms))
    effects = task.route.receive(channel, LeaseGrant(id_of(task.opening), b"\x77" * 24, 1_000))
    (ready,) = sent(effects, task.client)
    assert isinstance(ready, SessionReady)
    assert ready.assignment.number == 2
    (start,) = sent(effects, channel)
    assert isinstance(start, StartTask)
    assert start.order.task == 2


def test_a_session_is_over_when_it_expires() -> None:
    route = Route()
    client, opening = route.client(), opening_of()
    lease, _ = route.leased(opening, client)
    effects = route.wait(opening.expires_ms - route.now_ms)
    assert [m.code for m in sent(effects, client)] == ["session_expired"]
    assert sent(effects, lease) == [LeaseRelease(id_of(opening))]


def test_each_slot_that_is_released_is_for_another_that_waits() -> None:
    route = Route(miners=1)
    holders = [route.client(miner) for miner in MINERS[:2]]
    held = [opening_of(miner, number) for number, miner in enumerate(MINERS[:2])]
    for client, opening in zip(holders, held, strict=True):
        route.leased(opening, client)
    waiting = [opening_of(MALLORY, 10 + number) for number in range(3)]
    for opening in waiting:
        route.open(route.client(MALLORY), opening)
        route.wait(10)
    for client, opening in zip(holders, held, strict=True):
        route.receive(client, CloseSession(id_of(opening)))
    published = [effect.message for effect in of(route.wait(WAKE_MS), Publish)]
    asked = [unseal(DOMAIN, message, Announcement)[0].session for message in published if isinstance(message, Envelope)]
    assert asked == [id_of(opening) for opening in waiting[:2]]
