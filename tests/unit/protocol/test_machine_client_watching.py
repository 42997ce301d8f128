"""A client and the routers that it watches: who is there, who is behind, who shows what does not hold."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.machine import Close, Open
from protocol.messages.committee import CertificateKind
from protocol.messages.handover import HandOvers, HandOversAsked
from protocol.messages.receipts import HeadAsked, LightRefused, OutcomeAsked
from protocol.messages.results import Observation, Verdict
from protocol.messages.sessions import ROUTERS_MAX
from protocol.roles.client import CheckpointSeen, RouterState, WatchRouters
from protocol.roles.client.watching import ANSWER_MS, HEARTBEATS, QUESTIONS_MAX, RETRY_MS_MAX, ROUND_MS
from tests.unit.protocol.keys import key
from tests.unit.protocol.light_at_hand import (
    EPOCH,
    EPOCHS_KNOWN,
    certify,
    hand_over_of,
    header_of,
    outcome_news,
    outcome_of,
)
from tests.unit.protocol.machines import MALLORY, ORACLES, PARAMS, ROUTER, of, sent
from tests.unit.protocol.watching_at_hand import NOTHING, ROUTERS, SECOND, THIRD, WATCH, Watcher

OF_NOBODY = Observation(b"\x07" * 32, 1, 0, Verdict.OK, b"\x08" * 32, 3)


@pytest.mark.spec("LIGHT-WATCH.1")
def test_every_router_is_asked_at_once_on_a_stream_of_its_own_and_again_every_round() -> None:
    client = Watcher()
    assert {each.peer for each in of(client.first, Open)} == {router.node for router in ROUTERS}
    assert all(len(client.asked(client.first, router)) == 1 for router in ROUTERS)
    for router in ROUTERS:
        client.wait(7)
        client.head(router, 41)
    assert [(client.state(router), client.seen(router).answer_ms) for router in ROUTERS] == [
        (RouterState.ALIVE, 7),
        (RouterState.ALIVE, 14),
        (RouterState.ALIVE, 21),
    ]
    again = client.wait(ROUND_MS)
    assert of(again, Open) == []
    assert all(len(client.asked(again, router)) == 1 for router in ROUTERS)


def test_a_router_that_has_no_header_is_alive() -> None:
    client = Watcher()
    client.shows(SECOND, NOTHING)
    assert client.state(SECOND) is RouterState.ALIVE
    assert client.seen(SECOND).epoch == 0


@pytest.mark.spec("LIGHT-WATCH.1")
def test_what_one_router_shows_moves_the_header_that_sessions_name_and_the_others_are_measured_by_it() -> None:
    client = Watcher()
    client.head(SECOND, 90)
    client.head(ROUTER, 41)
    assert client.state(ROUTER) is RouterState.ALIVE, "it may have become final just now"
    for _ in range(2):
        client.wait(ROUND_MS)
        client.head(SECOND, 91)
        client.head(ROUTER, 41)
    assert client.state(ROUTER) is RouterState.BEHIND
    assert "3/41" in client.seen(ROUTER).note
    assert "3/90" in client.seen(ROUTER).note
    client.wait(ROUND_MS)
    client.head(ROUTER, 95)
    assert client.state(ROUTER) is RouterState.ALIVE


@pytest.mark.spec("LIGHT-WATCH.1")
def test_a_router_that_shows_no_header_where_others_have_one_is_behind() -> None:
    client = Watcher()
    client.head(SECOND, 50)
    for _ in range(2):
        client.wait(ROUND_MS)
        client.head(SECOND, 50)
        client.shows(THIRD, *[NOTHING] * len(client.machine._watching._routers[THIRD.node].questions))
    assert client.state(THIRD) is RouterState.BEHIND


@pytest.mark.spec("LIGHT-WATCH.1")
def test_headers_that_stand_still_are_told_and_a_later_one_clears_it() -> None:
    client = Watcher()
    for _ in range(HEARTBEATS * PARAMS.heartbeat_ms // ROUND_MS + 2):
        for router in ROUTERS:
            client.head(router, 41)
        client.wait(ROUND_MS)
    for router in ROUTERS:
        client.head(router, 41)
    assert {client.state(router) for router in ROUTERS} == {RouterState.STALE}
    client.wait(ROUND_MS)
    client.head(ROUTER, 42)
    assert client.state(ROUTER) is RouterState.ALIVE


@pytest.mark.spec("LIGHT-WATCH.1")
def test_who_does_not_answer_is_silent_and_tried_again_ever_more_seldom() -> None:
    client = Watcher()
    client.head(ROUTER, 41)
    effects = client.wait(ANSWER_MS)
    assert {each.channel for each in of(effects, Close)} == {client.lights[each.node] for each in (SECOND, THIRD)}
    assert client.state(SECOND) is RouterState.SILENT
    assert client.state(ROUTER) is RouterState.ALIVE
    tries = []
    for second in range(400):
        effects = client.wait(1_000)
        tries += [second for each in of(effects, Open) if each.peer == SECOND.node]
        if client.machine._watching._routers[ROUTER.node].questions:
            client.head(ROUTER, 41)
    gaps = [after - before for before, after in pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[-1] * 1_000 <= RETRY_MS_MAX + ANSWER_MS + ROUND_MS
    while SECOND.node not in {each.peer for each in of(client.wait(1_000), Open)}:
        pass
    client.head(SECOND, 41)
    assert client.state(SECOND) is not RouterState.SILENT


def test_a_stream_that_breaks_is_opened_again() -> None:
    client = Watcher()
    client.head(SECOND, 41)
    client.leaves(SECOND)
    assert client.state(SECOND) is RouterState.SILENT
    assert SECOND.node in {each.peer for each in of(client.wait(2 * ROUND_MS), Open)}


@pytest.mark.parametrize(
    "shown",
    [
        certify(header_of(60), signers=[*ORACLES[:2], MALLORY]),
        certify(header_of(60), places=(0, 1)),
        certify(header_of(60), kind=CertificateKind.NOTARIZATION),
        certify(header_of(60), shown=header_of(61)),
        certify(header_of(60), shown=None),
        HandOvers((hand_over_of(EPOCHS_KNOWN, signers=[*ORACLES[:2], MALLORY]),)),
        HandOvers((), more=True),
        LightRefused("busy", "not asked"),
        HeadAsked(1),
        outcome_news(outcome_of(OF_NOBODY)),
    ],
)
@pytest.mark.spec("LIGHT-WATCH.3")
def test_who_shows_what_does_not_hold_or_was_not_asked_for_lies_and_is_asked_nothing_more(shown: Message) -> None:
    client = Watcher()
    if isinstance(shown, LightRefused):
        client.shows(SECOND, NOTHING)
    effects = client.shows(SECOND, shown)
    assert client.state(SECOND) is RouterState.LYING
    assert [each.channel for each in of(effects, Close)] == [client.lights[SECOND.node]]
    later = client.wait(10 * ROUND_MS)
    assert SECOND.node not in {each.peer for each in of(later, Open)}
    assert client.machine._held.routers[ROUTER.node].chain.header == header_of(40), "nothing of it was taken"


@pytest.mark.spec("LIGHT-WATCH.3", "HANDOVER-TAKEN.1")
def test_a_header_of_a_later_epoch_counts_once_its_committee_is_shown() -> None:
    client = Watcher()
    client.committees = None
    effects = client.head(SECOND, 3, EPOCHS_KNOWN + 1)
    (channel, asked), *_ = client.asks
    assert (channel, asked) == (client.lights[SECOND.node], HandOversAsked(EPOCHS_KNOWN))
    assert effects == []
    client.shows(SECOND, HandOvers((hand_over_of(EPOCHS_KNOWN),)))
    assert client.state(SECOND) is RouterState.ALIVE
    assert (client.seen(SECOND).epoch, client.seen(SECOND).height) == (EPOCHS_KNOWN + 1, 3)


@pytest.mark.parametrize(
    "shown",
    [
        HandOvers(()),
        HandOvers((hand_over_of(EPOCHS_KNOWN, signers=[*ORACLES[:2], MALLORY]),)),
        HandOvers((hand_over_of(EPOCHS_KNOWN, members=[key(70 + n) for n in range(4)], named=ORACLES),)),
        HandOvers((hand_over_of(EPOCHS_KNOWN), hand_over_of(EPOCHS_KNOWN + 2))),
    ],
)
@pytest.mark.spec("LIGHT-WATCH.3", "HANDOVER-TAKEN.1")
def test_a_forged_hand_over_or_none_convicts_who_needs_it(shown: HandOvers) -> None:
    client = Watcher()
    client.committees = None
    client.head(SECOND, 3, EPOCHS_KNOWN + 1)
    client.shows(SECOND, shown)
    assert client.state(SECOND) is RouterState.LYING
    assert client.machine._held.routers[ROUTER.node].chain.header == header_of(40)


@pytest.mark.spec("LIGHT-WATCH.1")
def test_who_shows_a_later_epoch_and_never_how_it_came_about_is_silent() -> None:
    client = Watcher()
    client.committees = None
    client.head(SECOND, 3, EPOCHS_KNOWN + 1)
    client.wait(ROUND_MS)
    assert client.state(SECOND) is RouterState.SILENT
    assert f"epoch {EPOCHS_KNOWN + 1}" in client.seen(SECOND).note


def test_an_old_header_of_an_epoch_that_is_forgotten_is_no_lie() -> None:
    client = Watcher()
    client.head(SECOND, 41)
    client.machine._held.routers[ROUTER.node].chain.trust._known.pop(1)
    client.wait(ROUND_MS)
    client.head(SECOND, 5, epoch=1)
    assert client.state(SECOND) is RouterState.BEHIND


@pytest.mark.spec("LIGHT-WATCH.2")
def test_what_the_contract_accepted_no_router_may_be_behind() -> None:
    client = Watcher()
    for router in ROUTERS:
        client.head(router, 41)
    effects = client.tell(CheckpointSeen(EPOCH, 60))
    assert all(client.asked(effects, router) for router in ROUTERS)
    client.head(ROUTER, 41)
    client.head(SECOND, 60)
    assert client.state(ROUTER) is RouterState.BEHIND
    assert client.state(SECOND) is RouterState.ALIVE


def test_a_router_that_breaks_a_rule_on_its_other_stream_lies_here_too() -> None:
    client = Watcher()
    client.says(HeadAsked(1))
    assert client.state(ROUTER) is RouterState.LYING


def test_no_more_routers_are_watched_than_a_session_may_name_and_of_one_network() -> None:
    client = Watcher(*(key(60 + number) for number in range(ROUTERS_MAX + 3)))
    assert len(client.lights) == ROUTERS_MAX
    assert len(of(client.first, Open)) == ROUTERS_MAX


def test_a_watch_at_a_router_that_was_not_greeted_begins_nothing() -> None:
    client = Watcher(ROUTER)
    assert client.tell(WatchRouters(WATCH + 1, THIRD.node, (THIRD.node,))) == []


messages = st.sampled_from(
    [
        NOTHING,
        HeadAsked(3),
        OutcomeAsked(b"\x07" * 32, 1),
        certify(header_of(41)),
        certify(header_of(70)),
        certify(header_of(1, EPOCHS_KNOWN + 1)),
        certify(header_of(60), signers=[*ORACLES[:2], MALLORY]),
        HandOvers(()),
        HandOvers((hand_over_of(EPOCHS_KNOWN),)),
        outcome_news(outcome_of(OF_NOBODY)),
        None,
    ]
)


@given(st.lists(st.tuples(st.sampled_from(ROUTERS), messages, st.integers(0, ROUND_MS)), max_size=20))
def test_whatever_routers_say_and_leave_the_tables_stay_small(said: list[tuple[object, Message | None, int]]) -> None:
    client = Watcher()
    client.committees = None
    for router, message, after_ms in said:
        client.wait(after_ms)
        if message is None:
            client.leaves(router)  # type: ignore[arg-type]
        else:
            client.shows(router, message)  # type: ignore[arg-type]
        watching = client.machine._watching
        assert len(watching._by_channel) <= len(ROUTERS)
        assert all(len(each.questions) <= QUESTIONS_MAX for each in watching._routers.values())
        client.asks.clear()
    assert sent(client.wait(3 * ROUND_MS)) is not None
