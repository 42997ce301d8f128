"""Miners, routers and clients when the committee changes."""

import pytest

from protocol.core.codec import Message, decode, encode, pack, unpack
from protocol.core.ids import NodeId
from protocol.core.machine import ChannelClosed, Close, Note, Open, Persist, SendAll
from protocol.light.handovers import HandOverBook, hand_over_key
from protocol.light.levels import Level
from protocol.messages.committee import SignedBatch
from protocol.messages.greeting import ClientHello, RouterHello
from protocol.messages.handover import (
    HAND_OVERS_MAX,
    HandOver,
    HandOvers,
    HandOversAsked,
    HandOversFound,
    HandOversPicked,
)
from protocol.messages.results import (
    CommitMessage,
    Content,
    Follow,
    LedgerNews,
    ObservedNews,
    RevealAsked,
    RevealMessage,
)
from protocol.roles.client import RouterGone, RouterReady
from protocol.roles.miner.proving import LINGER_MS
from tests.unit.protocol.client_at_hand import HELLO, Client
from tests.unit.protocol.following_at_hand import Followed
from tests.unit.protocol.keys import Key, key
from tests.unit.protocol.light_at_hand import (
    EPOCH,
    batch_of,
    certify,
    hand_over_of,
    header_of,
    known_book,
    news_of,
    outcome_news,
    outcome_of,
)
from tests.unit.protocol.machines import GENESIS, MALLORY, ORACLES, ROUTER, id_of, of, opening_of, ready_of, sent
from tests.unit.protocol.miner_results_at_hand import LISTED, Bound, Streamed, Withheld
from tests.unit.protocol.test_light_handovers import turning
from tests.unit.protocol.test_machine_client_levels import GREETING, TASK, Asking
from tests.unit.protocol.test_machine_miner_results import outcome_of as result_of

NEW = [key(150 + number) for number in range(4)]
TURN = HandOvers((hand_over_of(EPOCH + 1, NEW),))
"""What the four say in the epoch after this one: then it is these oracles' turn."""
AFTER = HandOvers((hand_over_of(EPOCH + 2, NEW, signers=NEW[:3]),))
OLD_NODES, NEW_NODES = {each.node for each in ORACLES}, {each.node for each in NEW}


def by(signers: list[Key], height: int, epoch: int) -> LedgerNews:
    """A header of a committee's own."""
    return LedgerNews(certify(header_of(height, epoch), signers=signers), ())


# Miners


def told(mine: Bound, *kinds: type[Message]) -> set[NodeId]:
    """Who was told something since the last time."""
    found = {oracle for oracle, message in mine.told if isinstance(message, kinds)}
    mine.told.clear()
    return found


@pytest.mark.spec("RESULT-HOME.1")
def test_a_result_is_told_to_the_committee_of_its_own_epoch() -> None:
    mine = Bound()
    first = Streamed(mine)
    first.end()
    mine.say(0, TURN)
    assert set(mine.links) == OLD_NODES | NEW_NODES, "of the result, and of the next epoch"
    assert not told(mine, CommitMessage)
    first.ack()
    assert told(mine, CommitMessage) == OLD_NODES
    second = Streamed(mine, opening_of(number=1), home_epoch=EPOCH + 2)
    second.done()
    assert told(mine, CommitMessage) == NEW_NODES
    mine.wait(60_000)
    again = {
        (oracle, message.papers.order.home_epoch) for oracle, message in mine.told if type(message) is CommitMessage
    }
    expected = {(node, EPOCH) for node in OLD_NODES} | {(node, EPOCH + 2) for node in NEW_NODES}
    assert again == expected


@pytest.mark.spec("RESULT-HOME.1", "REVEAL-WHEN.1")
def test_only_oracles_of_its_own_epoch_ask_for_an_opening() -> None:
    mine = Bound()
    run = Withheld(mine)
    run.end()
    mine.wait(100)
    mine.say(0, TURN)
    asked = RevealAsked(id_of(run.session), 1)
    for oracle in NEW[:3]:
        mine.receive(mine.links[oracle.node], asked)
    assert not told(mine, RevealMessage)
    mine.ask(0, 1)
    assert told(mine, RevealMessage) == OLD_NODES


@pytest.mark.spec("RESULT-HOME.1")
def test_links_to_a_former_committee_end_with_what_it_was_told() -> None:
    mine = Bound(genesis=LISTED, hand_overs=known_book())
    run = Streamed(mine)
    run.done()
    (message,) = mine.commits()
    mine.say(0, TURN)
    mine.receive(mine.links[NEW[0].node], AFTER)
    assert set(mine.links) == OLD_NODES | NEW_NODES
    mine.say(0, outcome_news(result_of(message)))
    assert set(mine.links) == NEW_NODES
    mine.tell_closed(run.channel)
    mine.wait(LINGER_MS)
    assert not mine.links


@pytest.mark.spec("RESULT-HOME.1", "HANDOVER-ASKED.1")
def test_a_miner_that_knows_no_oracle_of_an_epoch_asks_the_router_of_the_lease() -> None:
    mine = Bound()
    run = Streamed(mine, home_epoch=EPOCH + 2)
    effects = run.end()
    assert [message for message in sent(effects, run.channel) if isinstance(message, HandOversAsked)] == [
        HandOversAsked(EPOCH + 1)
    ]
    run.ack()
    assert told(mine, CommitMessage) == OLD_NODES, "as long as nobody better is known"
    effects = mine.receive(run.channel, TURN)
    assert set(mine.links) >= NEW_NODES
    assert told(mine, CommitMessage) == NEW_NODES
    assert hand_over_key(EPOCH + 1) in mine.disk
    assert run.channel not in [effect.channel for effect in of(effects, Close)]
    forged = HandOvers((hand_over_of(EPOCH + 2, ORACLES, signers=ORACLES[:3]),))
    other = Streamed(mine, opening_of(number=1), home_epoch=EPOCH + 3)
    other.end()
    assert other.channel in [effect.channel for effect in of(mine.receive(other.channel, forged), Close)]
    assert mine.machine._proving._trust.epoch == EPOCH + 2


@pytest.mark.spec("HANDOVER-KEPT.1")
def test_a_miner_goes_on_with_the_committees_that_it_has_been_shown() -> None:
    mine = Bound()
    Streamed(mine, home_epoch=EPOCH + 2).end()
    mine.say(0, TURN)
    # What the book at hand began with was on no disk.
    mine.disk.update((hand_over_key(each.epoch), pack(each)) for each in known_book().store.page(1).hand_overs)

    def load(prefix: bytes) -> dict[bytes, bytes]:
        return {name: value for name, value in mine.disk.items() if name.startswith(prefix)}

    reborn = mine.restart(hand_overs=HandOverBook(GENESIS, load))
    assert set(reborn.links) >= NEW_NODES
    assert told(reborn, CommitMessage) == NEW_NODES


@pytest.mark.spec("HANDOVER-ASKED.1")
def test_who_is_far_behind_hears_nothing_before_the_last_page_and_begins_anew_after_it() -> None:
    chain = turning(HAND_OVERS_MAX + 5)
    mine = Bound(hand_overs=HandOverBook(GENESIS))
    mine.answers = False
    Streamed(mine).done()
    assert {asked for _, asked in mine.asks} == {HandOversAsked(1)}
    mine.asks.clear()
    first = mine.links[ORACLES[0].node]
    mine.receive(first, HandOvers(tuple(chain[:HAND_OVERS_MAX]), more=True))
    assert [asked for oracle, asked in mine.asks if oracle == ORACLES[0].node] == [HandOversAsked(HAND_OVERS_MAX + 1)]
    assert not of(mine.receive(first, news_of(epoch=HAND_OVERS_MAX + 3)), Note), "it may well be true"
    effects = mine.receive(first, HandOvers(tuple(chain[HAND_OVERS_MAX:])))
    assert first in [effect.channel for effect in of(effects, Close)]
    assert first not in mine.links.values()
    present = {each for hand_over in chain[-2:] for each in hand_over.members}
    assert present <= set(mine.links)


# Routers


@pytest.mark.spec("ROUTER-FOLLOWS.1", "HANDOVER-TOLD.1", "HANDOVER-PICKED.1")
def test_a_router_has_links_to_the_next_committee_before_its_turn_and_to_no_former_one_after_it() -> None:
    route = Followed().told()
    client = route.client()
    route.receive(client, ClientHello())
    (page,) = sent(route.receive(client, HandOversAsked(1)), client)
    assert isinstance(page, HandOvers)
    assert [each.epoch for each in page.hand_overs] == list(range(1, EPOCH + 1))
    (found,) = sent(route.receive(client, HandOversPicked((EPOCH, EPOCH + 9, 1))), client)
    assert found == HandOversFound((page.hand_overs[-1], page.hand_overs[0])), "to who skips, single ones"
    effects = route.hears(1, TURN)
    assert sent(effects, client) == [TURN]
    assert [name for effect in of(effects, Persist) for name, _ in effect.records] == [hand_over_key(EPOCH + 1)]
    assert set(route.links) >= OLD_NODES | NEW_NODES
    assert sent(route.hears(2, TURN), client) == [], "each once"
    route.hears(next(place for place in range(4) if place != route.teller()), news_of(epoch=EPOCH + 1))
    effects = route.receive(route.links[NEW[0].node], by(NEW[:3], 1, EPOCH + 2))
    assert [type(effect.message) for effect in of(effects, SendAll) if client in effect.channels] == [LedgerNews]
    closed = {effect.channel for effect in of(effects, Close)}
    assert {route.links[node] for node in OLD_NODES} <= closed
    assert route.machine._following._asked in NEW_NODES
    assert Follow(pool=True) in route.said[route.machine._following._asked]


@pytest.mark.spec("HANDOVER-TOLD.1")
def test_a_client_that_has_left_is_told_nothing() -> None:
    route = Followed()
    client = route.client()
    route.receive(client, HandOversAsked(1))
    route.tell(ChannelClosed(client, "gone"))
    assert sent(route.hears(1, TURN), client) == []
    assert not route.machine._following._readers


@pytest.mark.spec("HANDOVER-TAKEN.1")
@pytest.mark.parametrize(
    "lie",
    [
        HandOver(certify(header_of(5, EPOCH + 1)), tuple(sorted(NEW_NODES))),
        hand_over_of(EPOCH + 1, NEW, signers=[*ORACLES[:2], MALLORY]),
        hand_over_of(EPOCH + 2, NEW),
    ],
    ids=["not named", "not signed", "too early"],
)
def test_an_oracle_that_makes_up_a_committee_is_left(lie: HandOver) -> None:
    route = Followed()
    effects = route.hears(1, HandOvers((lie,)))
    assert "router.oracle-broke-rule" in [note.what for note in of(effects, Note)]
    assert route.machine._following._trust.epoch == EPOCH + 1
    assert not NEW_NODES & set(route.links)


@pytest.mark.spec("HANDOVER-ASKED.1")
def test_a_router_that_was_away_for_long_takes_page_by_page_and_then_the_pool() -> None:
    chain = turning(HAND_OVERS_MAX + 5)
    route = Followed(followed=HandOverBook(GENESIS))
    assert route.machine._following._trust.epoch == 1
    teller = route.teller()
    channel = route.links[route.oracle(teller)]
    route.answers = False
    again = HandOversAsked(1)
    route.machine._following._links._asker._asked[channel] = again.first
    asks = sent(route.receive(channel, HandOvers(tuple(chain[:HAND_OVERS_MAX]), more=True)), channel)
    assert asks == [HandOversAsked(HAND_OVERS_MAX + 1)]
    assert route.receive(channel, by(NEW[:3], 4, HAND_OVERS_MAX + 3)) == []
    effects = route.receive(channel, HandOvers(tuple(chain[HAND_OVERS_MAX:])))
    assert channel in [effect.channel for effect in of(effects, Close)]
    last = {node for hand_over in chain[-2:] for node in hand_over.members}
    assert {effect.peer for effect in of(effects, Open)} >= last - set(OLD_NODES)
    asked = route.machine._following._asked
    assert asked in last
    assert Follow(pool=True) in route.said[asked]


# Clients


@pytest.mark.spec("HANDOVER-ASKED.1", "LIGHT-HEADER.1")
def test_a_router_is_ready_when_it_has_shown_how_its_committee_came_about() -> None:
    client = Client()
    client.committees = None
    client.says(GREETING)
    assert client.asks == [(client.channel, HandOversAsked(1))]
    assert 1 not in client.items
    client.says(HandOvers(known_book().store.page(1).hand_overs))
    (ready,) = client.items[1]
    assert isinstance(ready, RouterReady)
    assert ready.oracles == 4


@pytest.mark.spec("HANDOVER-ASKED.1", "LIGHT-HEADER.1")
@pytest.mark.parametrize(
    "shown",
    [
        HandOvers(()),
        HandOvers(known_book().store.page(1).hand_overs[:1]),
        HandOvers((hand_over_of(1, NEW), *(hand_over_of(epoch, NEW, signers=NEW[:3]) for epoch in (2, 3)))),
        HandOvers((hand_over_of(1, ORACLES, signers=[MALLORY] * 3),)),
        HandOvers((), more=True),
    ],
    ids=["nothing", "too little", "another way", "nothing signed", "no end"],
)
def test_a_router_that_cannot_is_refused(shown: HandOvers) -> None:
    client = Client()
    client.committees = None
    client.says(GREETING)
    assert of(client.says(shown), Close)
    assert isinstance(client.over(1), RouterGone)


def test_the_turn_of_an_epoch_is_told_after_whom_it_was_handed_over_to() -> None:
    client = Asking()
    client.says(TURN)
    client.says(by(NEW[:3], 1, EPOCH + 2))
    assert client.order(client.ask(TASK)).home_epoch == EPOCH + 2
    assert of(client.says(by(NEW[:3], 1, EPOCH + 3)), Close), "nobody was handed over to"


def test_a_header_that_comes_before_its_hand_over_was_asked_for_waits() -> None:
    client = Client()
    client.committees = None
    client.says(RouterHello(ROUTER.node, HELLO.genesis, (), certify(header_of(4, 1))))
    assert client.items[1], "the first committee is known"
    client.says(news_of(epoch=2))
    client.says(HandOvers(known_book().store.page(1).hand_overs))
    opening = client.open(9, cap_wei=1)
    client.says(ready_of(opening))
    assert client.order(client.ask(TASK, session=9)).home_epoch == 2


@pytest.mark.spec("LEVEL-PROVED.1")
def test_an_answer_rises_by_the_committee_of_its_own_epoch() -> None:
    client = Asking()
    value = client.answered()
    client.says(TURN, by(NEW[:3], 1, EPOCH + 2))
    for number, oracle in enumerate(NEW, 1):
        client.says(_observed(batch_of(oracle, [value], number)))
    assert not client.levels(), "they are no oracles of that epoch"
    for oracle in ORACLES[:3]:
        client.says(_observed(batch_of(oracle, [value])))
    assert client.levels()[-1].level is Level.CERTIFIED
    assert client.levels()[-1].members == 4
    news = outcome_news(outcome_of(value), epoch=EPOCH + 2, signers=NEW[:3])
    client.says(decode(encode(news)))
    assert client.levels()[-1].level is Level.FINALIZED


def _observed(signed: SignedBatch) -> ObservedNews:
    content = unpack(Content, signed.content, limit_bytes=1 << 14)
    return ObservedNews(content.observations[0].session, signed)
