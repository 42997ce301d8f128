"""The router's machine and the client's word on who serves a session: it starts over, or ends its part."""

from dataclasses import replace
from typing import Any

import pytest

from protocol.core.machine import Channel, ChannelClosed
from protocol.messages.sessions import (
    LeaseBusy,
    LeaseGrant,
    LeaseRelease,
    OpenSession,
    SessionEnded,
    SessionReady,
)
from protocol.messages.tasks import TaskFailed
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    CLIENT,
    GENERATION,
    MALLORY,
    MINER,
    MINERS,
    PARAMS,
    ROUTER,
    id_of,
    opening_of,
    sent,
)
from tests.unit.protocol.router_at_hand import Route, Task
from tests.unit.protocol.seeking_at_hand import SECOND, term_of


def reopen(task: Task, peer: Key = CLIENT, **changes: Any) -> tuple[Channel, list[object]]:
    """The session is opened again, by a term; returns the stream."""
    term = changes.pop("term", term_of(task.opening, ROUTER, 1_024))
    channel = task.route.opened(peer.node, "client")
    wish = OpenSession(task.opening, CLIENT.sign(id_of(task.opening)), 5_000, 10, term)
    return channel, task.route.receive(channel, wish)


@pytest.mark.spec("ROUTER-TERM.1", "ASSIGN-NUMBER.1")
def test_a_client_may_start_a_session_over_by_a_term() -> None:
    task = Task()
    task.send(task.stream()[:3])
    old = task.client
    channel, effects = reopen(task)
    assert sent(effects, old) == [], "it has lost track of what was said there"
    assert LeaseRelease(id_of(task.opening)) in sent(effects, task.miner)
    asked = task.route.asked(task.route.bid(task.opening) + task.route.wait(PARAMS.bid_window_ms))
    (ready,) = sent(task.route.receive(asked[0], LeaseGrant(id_of(task.opening), GENERATION, 1_000)), channel)
    assert isinstance(ready, SessionReady)
    assert ready.assignment.number == 1_025


@pytest.mark.spec("ROUTER-TERM.1")
@pytest.mark.parametrize(
    ("peer", "changes"),
    [
        (MALLORY, {}),
        (MINER, {}),
        (CLIENT, {"term": None}),
        (CLIENT, {"after": 0}),
        (CLIENT, {"router": SECOND}),
        (CLIENT, {"session": bytes(32)}),
        (CLIENT, {"signer": MALLORY}),
    ],
    ids=["another peer", "a miner", "no term", "not greater", "another router's", "another session's", "forged"],
)
def test_a_session_is_not_started_over_by_another_or_without_a_term_for_it(peer: Key, changes: dict[str, Any]) -> None:
    task = Task()
    fields: dict[str, Any] = dict(changes)
    if "term" not in fields:
        router, after = fields.pop("router", ROUTER), fields.pop("after", 1_024)
        fields = {"term": term_of(task.opening, router, after, **fields)}
    channel, effects = reopen(task, peer, **fields)
    assert [getattr(message, "code", "") for message in sent(effects, channel)] in (["bad_request"], [])
    assert sent(effects, task.miner) == []
    assert sent(task.send(task.stream()), task.client) == task.stream(), "what runs is not disturbed"


@pytest.mark.spec("ROUTER-TERM.1")
def test_a_term_that_was_replayed_or_is_stale_changes_nothing() -> None:
    task = Task()
    current = term_of(task.opening, ROUTER, 2_048)
    channel, _ = reopen(task, term=current)
    for after in (1_024, 2_048):
        again, effects = reopen(task, term=term_of(task.opening, ROUTER, after))
        (ended,) = sent(effects, again)
        assert isinstance(ended, SessionEnded)
        assert ended.code == "bad_request"
    assert task.route.machine._sessions[id_of(task.opening)].term == current
    assert task.route.machine._sessions[id_of(task.opening)].client == channel


@pytest.mark.spec("ROUTER-TERM.1")
def test_a_session_that_is_started_over_counts_once_in_its_clients_share() -> None:
    route = Route(params=replace(PARAMS, sessions_per_client_max=1))
    client, opening = route.client(), opening_of()
    route.leased(opening, client)
    wish = OpenSession(opening, CLIENT.sign(id_of(opening)), 5_000, 10, term_of(opening, ROUTER, 1_024))
    assert sent(route.receive(client, wish), client) == []
    assert route.machine.load()["sessions"] == 1


@pytest.mark.spec("ASSIGN-NUMBER.1", "ROUTER-TERM.1")
@pytest.mark.parametrize(("stored", "after", "number"), [(7, 0, 8), (7, 1_024, 1_025), (1_030, 1_024, 1_031)])
def test_numbers_rise_through_a_restart_and_begin_above_the_term(stored: int, after: int, number: int) -> None:
    opening = opening_of()
    route = Route(numbers={id_of(opening): stored})
    client = route.client()
    term = term_of(opening, ROUTER, after) if after else None
    route.receive(client, OpenSession(opening, CLIENT.sign(id_of(opening)), 5_000, 10, term))
    channel, _ = route.asked(route.bid(opening) + route.wait(PARAMS.bid_window_ms))
    (ready,) = sent(route.receive(channel, LeaseGrant(id_of(opening), GENERATION, 1_000)), client)
    assert isinstance(ready, SessionReady)
    assert ready.assignment.number == number


@pytest.mark.spec("ROUTER-TERM.1", "TASK-TERMINAL.1")
@pytest.mark.parametrize(("stored", "after"), [(1_024, 0), (2_048, 1_024)])
def test_a_router_whose_numbers_are_used_up_ends_the_session(stored: int, after: int) -> None:
    opening = opening_of()
    route = Route(numbers={id_of(opening): stored})
    client = route.client()
    term = term_of(opening, ROUTER, after) if after else None
    route.receive(client, OpenSession(opening, CLIENT.sign(id_of(opening)), 5_000, 10, term))
    channel, _ = route.asked(route.bid(opening) + route.wait(PARAMS.bid_window_ms))
    effects = route.receive(channel, LeaseGrant(id_of(opening), GENERATION, 1_000))
    (ended,) = sent(effects, client)
    assert isinstance(ended, SessionEnded)
    assert ended.code == "session_expired"
    assert LeaseRelease(id_of(opening)) in sent(effects, channel)
    route.tell(ChannelClosed(client, "left"))
    route.empty()


# Another router serves the session


@pytest.mark.spec("ROUTER-TERM.1")
@pytest.mark.parametrize("when", ["asked", "held"])
def test_a_router_that_is_shown_another_ones_term_ends_its_part(when: str) -> None:
    task = Task()
    busy = LeaseBusy(id_of(task.opening), 0, "another router serves the session", term_of(task.opening, SECOND, 1_024))
    task.send(task.stream()[:2])
    if when == "asked":
        task.route.tell(ChannelClosed(task.miner, "closed"))
        channel, _ = task.route.asked(
            task.route.wait(100) + task.route.bid(task.opening, MINERS[1]) + task.route.wait(400)
        )
    else:
        channel = task.miner
    effects = task.route.receive(channel, busy)
    assert [(type(m), m.code) for m in task.ended(effects)] == [
        (TaskFailed, "router_lost"),
        (SessionEnded, "router_lost"),
    ]
    task.route.tell(ChannelClosed(task.client, "left"))
    task.route.empty()


@pytest.mark.spec("ROUTER-TERM.1")
@pytest.mark.parametrize(
    "fields", [{"signer": MALLORY}, {"after": 0}, {"session": bytes(32)}], ids=["forged", "not greater", "another's"]
)
def test_a_miner_cannot_end_a_session_without_its_clients_word(fields: dict[str, Any]) -> None:
    task = Task()
    term = term_of(task.opening, SECOND, **{"after": 1_024, **fields})
    effects = task.route.receive(task.miner, LeaseBusy(id_of(task.opening), 0, "gone", term))
    assert task.ended(effects) == [], "the miner broke a rule: another one takes over"
    assert task.route.machine.load()["sessions"] == 1
