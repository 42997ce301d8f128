"""How far a miner serves a client ahead of its reservation, and how it asks for its place in the node pool."""

from dataclasses import replace
from typing import Any

import pytest

from protocol.core.machine import Open, Send
from protocol.core.signing import typed_digest, verify
from protocol.messages.handover import HandOvers
from protocol.messages.results import LedgerNews, Submit, Verdict
from protocol.messages.sessions import SessionOpen
from protocol.messages.tasks import CancelTask, TaskFailed
from protocol.roles.miner import CancelGeneration, Generate
from protocol.roles.miner.credit import PATIENCE_MS, TAB_KEPT_MS, TABS_MAX
from protocol.roles.miner.enlisting import AGAIN_MS_MAX, AGAIN_MS_MIN, AGAIN_SELDOM_MS, TRIES_OFTEN
from protocol.roles.miner.proving import LINGER_MS
from protocol.session.lifecycle import TERMINAL_CODES
from tests.unit.protocol.following_at_hand import session_news
from tests.unit.protocol.keys import key
from tests.unit.protocol.light_at_hand import EPOCH, hand_over_of, news_of, outcome_news
from tests.unit.protocol.machines import (
    DOMAIN,
    MINER,
    MODEL,
    ORACLES,
    PARAMS,
    id_of,
    of,
    opening_of,
    sent,
)
from tests.unit.protocol.miner_results_at_hand import LISTED, Bound, Streamed, Withheld
from tests.unit.protocol.test_machine_miner_results import outcome_of

PRICE = 10
TOKENS = 100
COST = PRICE * TOKENS
CREDIT = replace(PARAMS, unreserved_credit_wei=2 * COST, sessions_per_miner_max=64).validate()


def priced(**settings: Any) -> Bound:
    """A miner that gives credit for two orders."""
    return Bound(**{"params": CREDIT, "price_wei": PRICE, **settings})


def order(mine: Bound, opening: SessionOpen | None = None, task: int = 1, **fields: Any) -> Streamed:
    """An order of so many tokens."""
    return Streamed(mine, opening, task, **{"max_tokens": TOKENS, "cap_wei": COST, **fields})


def failed(effects: list[object]) -> TaskFailed:
    (failure,) = [effect.message for effect in of(effects, Send) if isinstance(effect.message, TaskFailed)]
    return failure


# Credit


@pytest.mark.spec("MINER-CREDIT.1")
def test_without_a_reservation_a_client_is_served_up_to_its_credit_and_no_further() -> None:
    mine = priced()
    first, second, third = (order(mine, opening_of(number=number)) for number in range(3))
    assert of(first.begun, Generate)
    assert of(second.begun, Generate)
    assert third.begun == []
    effects = mine.wait(PATIENCE_MS)
    failure = failed(effects)
    assert (failure.code, failure.session) == ("unreserved", id_of(third.opening))
    assert failure.code in TERMINAL_CODES
    assert not of(effects, CancelGeneration), "its engine was never asked"
    assert mine.machine.slots() == (5, 8), "the router keeps its lease"


@pytest.mark.spec("MINER-CREDIT.1")
def test_what_was_not_used_is_free_again_and_what_was_is_owed() -> None:
    mine = priced()
    for number in range(2):
        run = order(mine, opening_of(number=number))
        run.done(20)
    assert of(order(mine, opening_of(number=2)).begun, Generate), "40 of 200 tokens are owed"
    assert of(order(mine, opening_of(number=3), max_tokens=60).begun, Generate), "200 are"
    assert not of(order(mine, opening_of(number=4), max_tokens=1).begun, Generate)


@pytest.mark.spec("MINER-CREDIT.1")
def test_what_was_signed_is_owed_when_the_router_goes_under_way() -> None:
    mine = priced()
    run = order(mine)
    run.render()
    run.produce(TOKENS - 1)
    mine.tell_closed(run.channel)
    assert of(order(mine, opening_of(number=1)).begun, Generate)
    assert not of(order(mine, opening_of(number=2), max_tokens=2).begun, Generate)
    assert of(order(mine, opening_of(number=3), max_tokens=1).begun, Generate)


@pytest.mark.spec("MINER-CREDIT.1")
@pytest.mark.parametrize("by", ["router", "oracle"])
def test_an_order_waits_for_the_reservation_and_starts_when_it_is_proved(by: str) -> None:
    mine = priced()
    for number in range(2):
        order(mine, opening_of(number=number))
    run = order(mine, opening_of(number=2))
    mine.wait(PATIENCE_MS - 1)
    news = session_news(run.opening)
    effects = mine.receive(run.channel, news) if by == "router" else mine.say(1, news)
    assert of(effects, Generate)
    assert not [m for m in sent(mine.wait(PATIENCE_MS)) if isinstance(m, TaskFailed)]


@pytest.mark.spec("MINER-CREDIT.1", "LIGHT-SESSION.1")
@pytest.mark.parametrize("how", ["absent", "other session", "not certified"])
def test_a_reservation_that_is_not_proved_is_none(how: str) -> None:
    mine = priced()
    for number in range(2):
        order(mine, opening_of(number=number))
    run = order(mine, opening_of(number=2))
    if how == "absent":
        assert not of(mine.receive(run.channel, session_news(run.opening, reserved=False)), Generate)
    elif how == "other session":
        assert not of(mine.receive(run.channel, session_news(opening_of(number=3))), Generate)
    else:
        news = session_news(run.opening, signers=[ORACLES[0], ORACLES[1], MINER])
        assert not of(mine.receive(run.channel, news), Generate)
        assert id_of(run.opening) not in mine.machine._leases, "a router that lies loses the lease"
        return
    assert failed(mine.wait(PATIENCE_MS)).code == "unreserved"


@pytest.mark.spec("MINER-CREDIT.1")
def test_an_order_that_waits_may_be_cancelled() -> None:
    mine = priced()
    for number in range(2):
        order(mine, opening_of(number=number))
    run = order(mine, opening_of(number=2))
    effects = mine.receive(run.channel, CancelTask(id_of(run.opening), 1))
    assert failed(effects).code == "cancelled"
    assert not of(effects, CancelGeneration)
    assert not [m for m in sent(mine.wait(PATIENCE_MS)) if isinstance(m, TaskFailed)]


@pytest.mark.spec("MINER-CREDIT.1")
def test_a_reserved_session_is_served_up_to_its_cap() -> None:
    mine = priced()
    opening = opening_of(cap_wei=5 * COST)
    leased = mine.lease(opening)
    mine.receive(leased[0], session_news(opening))
    for task in range(1, 5):
        run = Streamed(mine, opening, task, leased=leased, max_tokens=TOKENS, cap_wei=COST)
        assert of(run.begun, Generate), f"order {task} of five that the cap pays"
        run.render()
        run.produce(TOKENS)
        run.finish()
        run.report()
        run.ack()
    mine.wait(PARAMS.ack_wait_ms)
    run = Streamed(mine, opening, 5, leased=leased, max_tokens=TOKENS + 1, cap_wei=2 * COST)
    failure = failed(run.begun)
    assert (failure.code, failure.detail) == ("unreserved", "what the session has reserved is used up")
    assert of(Streamed(mine, opening, 6, leased=leased, max_tokens=TOKENS, cap_wei=COST).begun, Generate)


@pytest.mark.spec("MINER-CREDIT.1")
def test_a_paid_outcome_shows_that_the_session_is_reserved() -> None:
    mine = priced()
    run = order(mine)
    run.done(TOKENS)
    (message,) = mine.commits()
    other = order(mine, opening_of(number=1))
    assert of(other.begun, Generate)
    third = order(mine, opening_of(number=2))
    assert third.begun == []
    mine.say(0, outcome_news(outcome_of(message, Verdict.OK, paid_wei=COST)))
    assert of(order(mine, opening_of(number=3)).begun, Generate), "what is paid is not owed"


@pytest.mark.spec("MINER-CREDIT.1")
@pytest.mark.parametrize(
    ("fields", "code"),
    [({"cap_wei": COST - 1}, "bad_request"), ({"home_epoch": EPOCH + 5}, "unreserved")],
    ids=["the order's cap", "after the reservation"],
)
def test_an_order_that_would_not_be_paid_is_refused_at_once(fields: dict[str, int], code: str) -> None:
    mine, opening = priced(), opening_of()
    leased = mine.lease(opening)
    mine.receive(leased[0], session_news(opening))
    mine.machine._proving._epoch = 0
    run = Streamed(mine, opening, leased=leased, **{"max_tokens": TOKENS, "cap_wei": COST, **fields})
    assert failed(run.begun).code == code


@pytest.mark.spec("MINER-CREDIT.1")
def test_orders_of_an_epoch_that_is_past_or_far_are_refused_where_it_is_known() -> None:
    mine = priced()
    mine.tell_deadline()
    for number, (epoch, runs) in enumerate([(1, 0), (2, 1), (3, 1), (4, 1), (5, 0)]):
        run = order(mine, opening_of(number=number), max_tokens=1, home_epoch=epoch)
        assert len(of(run.begun, Generate)) == runs
        if not runs:
            assert failed(run.begun).code == "bad_request"


@pytest.mark.spec("MINER-CREDIT.1", "HANDOVER-ASKED.1")
def test_hand_overs_tell_what_epoch_it_is_and_after_a_long_silence_nothing_is_known_of_that() -> None:
    mine = priced()
    mine.tell_deadline()
    mine.say(1, HandOvers((hand_over_of(EPOCH + 1),)))
    assert failed(order(mine, opening_of(), max_tokens=1, home_epoch=EPOCH - 1).begun).code == "bad_request"
    assert of(order(mine, opening_of(number=1), max_tokens=1, home_epoch=EPOCH + 1).begun, Generate)
    mine.say(0, LedgerNews(news_of().certified, ()))
    assert ORACLES[0].node not in mine.links, "nobody asked for it"


def test_what_costs_nothing_needs_no_credit() -> None:
    mine = Bound(params=CREDIT)
    for number in range(8):
        assert of(order(mine, opening_of(number=number), cap_wei=0).begun, Generate)


def test_without_a_committee_there_is_no_credit_either() -> None:
    mine = Bound(params=CREDIT, price_wei=PRICE, genesis=None)  # type: ignore[arg-type]
    for number in range(8):
        assert of(order(mine, opening_of(number=number), cap_wei=0).begun, Generate)


@pytest.mark.spec("MINER-CREDIT.1")
def test_other_lanes_count_by_their_fee() -> None:
    mine = priced()
    tabs = mine.machine._proving.credit.tabs
    run = Withheld(mine, leased=None)
    (tab,) = tabs.values()
    assert tab.owed_wei() == run.order.max_tokens * PRICE * PARAMS.lane_fee_bp // 10_000
    run.end(50)
    assert tab.owed_wei() == 50 * PRICE * PARAMS.lane_fee_bp // 10_000


def test_what_clients_owe_is_remembered_for_so_many_sessions_and_so_long() -> None:
    mine = priced()
    tabs = mine.machine._proving.credit.tabs
    order(mine).done(TOKENS)
    for number in range(1, TABS_MAX + 5):
        mine.machine._proving.credit.expect(number.to_bytes(32, "big"), opening_of(), mine.now_ms)
        assert len(tabs) <= TABS_MAX
    assert id_of(opening_of()) not in tabs
    mine.machine._proving.credit.expect(bytes(32), opening_of(), mine.now_ms + TAB_KEPT_MS + 1)
    assert len(tabs) == 1


# The node pool


@pytest.mark.spec("MINER-ENLIST.1")
def test_a_miner_that_the_genesis_does_not_list_enlists_with_every_oracle() -> None:
    owner = key(8).node
    mine = Bound(price_wei=3, owner=owner, tokens_per_second=40)
    effects = mine.wait(0)
    links = {stream.peer: stream.channel for stream in of(effects, Open)}
    assert set(links) == {oracle.node for oracle in ORACLES}
    for channel in links.values():
        (message,) = [m for m in sent(effects, channel) if isinstance(m, Submit)]
    (signed,) = message.enlistments
    enlist = signed.enlist
    assert (enlist.miner, enlist.owner, enlist.model, enlist.slots) == (MINER.node, owner, MODEL, 8)
    assert (enlist.tokens_per_second, enlist.number) == (40, mine.now_ms)
    verify(typed_digest(DOMAIN, enlist), signed.signature, MINER.node, "the enlistment")
    assert Bound().wait(0)
    (signed,) = _submitted(Bound()).enlistments
    assert signed.enlist.owner == MINER.node


def _submitted(mine: Bound) -> Submit:
    mine.wait(0)
    return mine.submits[0]


@pytest.mark.spec("MINER-ENLIST.1")
def test_it_says_so_again_the_same_and_in_the_end_seldom() -> None:
    mine = Bound()
    first = _submitted(mine)
    mine.wait(AGAIN_MS_MIN)
    assert mine.submits[4:] == [first], "to all of them at once"
    waited = 0
    while mine.machine._proving._enlisting._tries < TRIES_OFTEN:
        assert waited < TRIES_OFTEN * AGAIN_MS_MAX
        mine.wait(1_000)
        waited += 1_000
    before = len(mine.submits)
    mine.wait(AGAIN_SELDOM_MS - 1_000)
    assert (len(mine.submits), mine.links) == (before, {}), "links that nobody needs are closed"
    mine.wait(1_000)
    assert len(mine.submits) == before + 4, "on links that are opened for it"
    assert set(mine.submits) == {first}


@pytest.mark.spec("MINER-ENLIST.1")
def test_a_listed_miner_does_not_and_has_links_only_while_it_has_something_to_do() -> None:
    mine = Bound(genesis=LISTED)
    mine.tell_deadline()
    assert (mine.links, mine.machine.next_deadline()) == ({}, None)
    channel, _ = mine.lease(opening_of())
    mine.tell_deadline()
    assert len(mine.links) == 4
    mine.tell_closed(channel)
    mine.wait(LINGER_MS - 1)
    assert len(mine.links) == 4
    mine.wait(1)
    assert (mine.links, mine.submits, mine.machine.next_deadline()) == ({}, [], None)
