"""The client's machine when its router is lost: it goes on at another, and takes nothing from one that it has left."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.genesis import Genesis
from protocol.core.machine import Close, Open
from protocol.core.params import Params
from protocol.messages.greeting import ClientHello
from protocol.messages.sessions import (
    CloseSession,
    OpenSession,
    ResumeSession,
    SessionResumed,
)
from protocol.messages.tasks import AckMessage, CancelTask, SubmitTask, TaskFailed
from protocol.roles.client import (
    CancelAsk,
    CloseAsked,
    ConnectRouter,
    RouterFound,
    RouterReady,
    RouterSought,
    SessionAssigned,
    SessionOver,
)
from protocol.roles.client.seeking import ANSWER_MS, GREETING_MS, OPEN_MS, PAUSE_MS, SEEK_MS, TERM_NUMBERS
from tests.unit.protocol.client_at_hand import SESSION_HANDLE
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import MALLORY, MINERS, id_of, of, sent
from tests.unit.protocol.seeking_at_hand import (
    FIRST,
    ROUTERS,
    SECOND,
    TASK,
    THIRD,
    Seeker,
    ready_at,
    refusal_of,
)

OTHER_NETWORK = Genesis("another", params=replace(Params(), bids_good=2))


def submits(effects: list[object]) -> list[SubmitTask]:
    return [message for message in sent(effects) if isinstance(message, SubmitTask)]


@pytest.mark.spec("ROUTER-TERM.1", "CHAIN-TAKEOVER.1")
@pytest.mark.parametrize("count", range(4))
def test_another_router_gets_the_session_and_what_was_verified(count: int) -> None:
    client = Seeker.asking()
    client.says(client.head(), *([client.next_frame(count)] if count else []))
    effects = client.lose(FIRST)
    assert len(client.told(RouterSought)) == 1
    assert client.heard(effects, FIRST) == [ClientHello()], "the same one first: it may still hold the session"
    assert client.heard(client.lose(FIRST), SECOND) == [ClientHello()]
    effects = client.greets(SECOND)
    assert client.term(effects, SECOND) == TERM_NUMBERS
    (submit,) = submits(client.answers(SECOND, ready_at(client.opening, 1_025, SECOND, MINERS[1])))
    assert [item.router for item in client.told(RouterFound)] == [SECOND.node]
    assert submit.order == client.asked
    resume = submit.resume
    assert (resume.ids if resume is not None else ()) == tuple(range(count))
    client.begin(1_025, MINERS[1], SECOND)
    client.answers(SECOND, client.head(), client.next_frame(12, end=True))
    assert client.text(TASK) == b"0 1 2 3 4 5 6 7 8 9 10 11 "
    assert client.over(TASK).end.completion_tokens == 12


@pytest.mark.spec("RESUME-REPLAY.1", "ACK-SIGNED.1")
def test_the_same_router_is_asked_for_what_was_missed() -> None:
    client = Seeker.asking()
    client.says(client.head(), client.next_frame(2))
    missed = client.next_frame(3)
    client.tell(CancelAsk(TASK))
    client.lose(FIRST)
    client.ask(TASK + 1)
    assert client.heard(client.greets(FIRST), FIRST) == [ResumeSession(id_of(client.opening), 3)]
    effects = client.answers(FIRST, SessionResumed(id_of(client.opening), 1))
    assert client.told(RouterFound)
    ack, cancel, submit = client.heard(effects, FIRST)
    assert isinstance(ack, AckMessage)
    assert ack.ack.index == 2, "one may have been lost"
    assert cancel == CancelTask(id_of(client.opening), 1)
    assert isinstance(submit, SubmitTask)
    assert submit.order.task == 2, "it never arrived"
    client.answers(FIRST, missed)
    assert client.text(TASK) == b"0 1 2 3 4 "


@pytest.mark.spec("RESUME-REPLAY.1", "ROUTER-TERM.1")
def test_a_router_that_has_forgotten_the_session_gets_it_anew() -> None:
    client = Seeker.asking()
    client.lose(FIRST)
    client.greets(FIRST)
    effects = client.answers(FIRST, refusal_of(client.opening))
    assert client.term(effects, FIRST) == TERM_NUMBERS
    assert submits(client.answers(FIRST, ready_at(client.opening, 1_025, FIRST)))
    client.lose(FIRST)
    assert client.heard(client.greets(FIRST), FIRST) == [ResumeSession(id_of(client.opening), 1)], "counted anew"


@pytest.mark.spec("ROUTER-TERM.1", "ASSIGN-NUMBER.1")
@settings(max_examples=40)
@given(st.lists(st.integers(1, 1_024), min_size=1, max_size=5))
def test_each_term_is_above_all_that_was_known(numbers: list[int]) -> None:
    client = Seeker.asking()
    after = 0
    for step, number in enumerate(numbers):
        router = ROUTERS[step % 3]
        if step:
            client.seek(router)
            before, after = after, client.term(client.greets(router), router)
            assert after % TERM_NUMBERS == 0
            assert after > before
            assert after >= client.told(SessionAssigned)[-1].assignment.number
        client.answers(router, ready_at(client.opening, after + max(number, 2), router))
        assert client.told(SessionAssigned)[-1].assignment.number == after + max(number, 2)


@pytest.mark.spec("ROUTER-TERM.1", "ASSIGN-NUMBER.1")
@pytest.mark.parametrize(
    ("signer", "changed"),
    [
        (FIRST, {"signer": SECOND}),
        (THIRD, {"signer": SECOND}),
        (SECOND, {"number": 1}),
        (SECOND, {"number": 2}),
        (SECOND, {"number": 1_024}),
        (SECOND, {"router": FIRST.node}),
        (SECOND, {"router": THIRD.node}),
        (FIRST, {}),
        (MALLORY, {"router": SECOND.node}),
    ],
)
def test_no_assignment_is_taken_up_to_the_term_or_of_another_router(signer: Key, changed: dict[str, Any]) -> None:
    fields = dict(changed)
    client = Seeker.asking()
    client.lose(FIRST)
    client.lose(FIRST)
    client.greets(SECOND)
    effects = client.answers(SECOND, ready_at(client.opening, fields.pop("number", 1_025), signer, **fields))
    assert not submits(effects)
    assert len(client.told(SessionAssigned)) == 1
    assert not client.told(SessionOver), "the others may do better"
    if THIRD.node not in client.streams:
        effects = client.wait(ANSWER_MS)
    assert client.heard(effects, THIRD) == [ClientHello()]
    assert client.term(client.greets(THIRD), THIRD) == 2 * TERM_NUMBERS


@pytest.mark.spec("ROUTER-TERM.1")
def test_in_its_term_a_router_goes_on_with_rising_numbers_only() -> None:
    client = Seeker.asking()
    client.move_to(SECOND)
    client.answers(SECOND, ready_at(client.opening, 1_030, SECOND, MINERS[1]))
    assert client.told(SessionAssigned)[-1].assignment.number == 1_030
    client.answers(SECOND, ready_at(client.opening, 1_029, SECOND, MINERS[2]))
    assert client.over(TASK).code == "router_lost"


@pytest.mark.spec("ROUTER-TERM.1")
@pytest.mark.parametrize("code", ["queue_full", "no_capacity", "model_not_found", "rate_limited"])
def test_a_router_that_refuses_is_passed_over(code: str) -> None:
    client = Seeker.asking()
    client.lose(FIRST)
    client.lose(FIRST)
    client.greets(SECOND)
    effects = client.answers(SECOND, refusal_of(client.opening, code))
    assert client.heard(effects, THIRD) == [ClientHello()]
    effects = client.greets(THIRD)
    assert client.term(effects, THIRD) == 2 * TERM_NUMBERS
    assert submits(client.answers(THIRD, ready_at(client.opening, 2 * TERM_NUMBERS + 1, THIRD)))
    assert Close(client.streams[SECOND.node]) in effects, "whoever was only asked is left"


@pytest.mark.spec("ROUTER-TERM.1", "SIGN-DOMAIN.1")
@pytest.mark.parametrize("connected", [False, True])
def test_a_router_of_another_network_is_passed_over(connected: bool) -> None:
    client = Seeker.asking(SECOND, THIRD)
    if connected:
        client.tell(ConnectRouter(99, SECOND.node, None))
        client.greets(SECOND, OTHER_NETWORK)
        assert isinstance(client.items[99][-1], RouterReady)
    client.lose(FIRST)
    effects = client.lose(FIRST)
    if not connected:
        effects = client.greets(SECOND, OTHER_NETWORK)
        assert Close(client.streams[SECOND.node]) in effects
    assert not [message for message in client.heard(effects, SECOND) if isinstance(message, OpenSession)]
    assert client.heard(effects, THIRD) == [ClientHello()]
    client.greets(THIRD)
    assert submits(client.answers(THIRD, ready_at(client.opening, 1_025, THIRD)))


@pytest.mark.spec("ROUTER-TERM.1")
def test_a_router_that_greets_too_late_is_left_alone() -> None:
    client = Seeker.asking()
    client.lose(FIRST)
    client.lose(FIRST)
    effects = client.wait(GREETING_MS)
    assert Close(client.streams[SECOND.node]) in effects
    assert client.heard(effects, THIRD) == [ClientHello()]
    assert client.greets(SECOND) == []


@pytest.mark.spec("ROUTER-TERM.1")
def test_a_router_that_the_program_greets_as_well_is_not_asked_when_it_comes_too_late() -> None:
    client = Seeker.asking()
    client.tell(ConnectRouter(99, SECOND.node, None))
    client.lose(FIRST)
    client.lose(FIRST)
    effects = client.wait(GREETING_MS)
    assert client.heard(effects, THIRD) == [ClientHello()]
    assert sent(client.greets(SECOND)) == []
    client.greets(THIRD)
    assert submits(client.answers(THIRD, ready_at(client.opening, 1_025, THIRD)))


@pytest.mark.spec("ROUTER-TERM.1")
def test_a_router_that_answers_after_the_client_moved_on_is_told_and_not_heard() -> None:
    client = Seeker.asking()
    client.lose(FIRST)
    client.lose(FIRST)
    (wish,) = [m for m in sent(client.greets(SECOND)) if isinstance(m, OpenSession)]
    assert wish.timeout_ms == OPEN_MS < ANSWER_MS, "its own refusal comes first"
    effects = client.wait(ANSWER_MS)
    assert CloseSession(id_of(client.opening)) in client.heard(effects, SECOND)
    late = ready_at(client.opening, 1_025, SECOND)
    assert client.answers(SECOND, late) == []
    client.greets(THIRD)
    client.answers(SECOND, late, refusal_of(client.opening, "session_closed"))
    assert len(client.told(SessionAssigned)) == 1
    assert submits(client.answers(THIRD, ready_at(client.opening, 2_049, THIRD)))


@pytest.mark.spec("ROUTER-TERM.1")
def test_a_slow_router_that_is_asked_again_is_not_blamed_for_its_late_answer() -> None:
    """On one stream comes first what answers the first question; only what answers the latest counts."""
    client = Seeker.asking(SECOND)
    client.tell(ConnectRouter(99, SECOND.node, None))
    client.greets(SECOND)
    client.lose(FIRST)
    assert client.term(client.lose(FIRST), SECOND) == TERM_NUMBERS
    assert client.term(client.wait(ANSWER_MS + PAUSE_MS), SECOND) == 2 * TERM_NUMBERS
    name = client.opening
    effects = client.answers(SECOND, ready_at(name, 1_025, SECOND), refusal_of(name, "session_closed"))
    assert effects == []
    assert submits(client.answers(SECOND, ready_at(name, 2_049, SECOND)))
    assert not client.told(SessionOver)


@pytest.mark.spec("RESUME-REPLAY.1")
def test_a_router_that_is_slow_to_resume_is_asked_once_and_then_left() -> None:
    client = Seeker.asking(SECOND)
    client.says(client.head(), client.next_frame(2))
    missed = client.next_frame(2)
    client.lose(FIRST)
    client.greets(FIRST)
    effects = client.wait(ANSWER_MS)
    assert CloseSession(id_of(client.opening)) in client.heard(effects, FIRST), "whatever it holds, nobody wants it"
    effects = client.lose(SECOND) + client.wait(PAUSE_MS)
    resumed = [message for message in sent(effects) if isinstance(message, ResumeSession)]
    assert resumed == []
    assert client.term(effects, FIRST) == TERM_NUMBERS
    late = client.answers(FIRST, SessionResumed(id_of(client.opening), 1), missed)
    assert late == []
    assert client.text(TASK) == b"0 1 "
    (submit,) = submits(client.answers(FIRST, ready_at(client.opening, 1_025, FIRST)))
    assert submit.resume is not None
    assert submit.resume.ids == (0, 1)


@pytest.mark.spec("ROUTER-TERM.1", "ACK-SIGNED.1", "RESUME-REPLAY.1")
def test_the_next_router_hears_no_ack_of_a_lease_that_it_never_knew() -> None:
    """It would end the connection for it."""
    client = Seeker.asking()
    client.says(client.head(), client.next_frame(3))
    client.move_to(SECOND)
    client.lose(SECOND)
    client.greets(SECOND)
    effects = client.answers(SECOND, SessionResumed(id_of(client.opening), 1))
    assert client.told(RouterFound)
    assert sent(effects) == []


@pytest.mark.spec("TASK-TERMINAL.1", "ROUTER-TERM.1")
@pytest.mark.parametrize("how", ["silent", "refusing", "unreachable", "slow", "lost again"])
def test_without_a_router_every_wish_ends_once_in_bounded_time(how: str) -> None:
    client = Seeker.asking()
    client.says(client.head(), client.next_frame(2))
    client.ask(TASK + 1)
    since, steps = client.now_ms, 0
    effects = client.lose(FIRST)
    while not client.told(SessionOver):
        steps += 1
        assert steps < 1_000
        assert client.now_ms - since <= SEEK_MS + GREETING_MS + ANSWER_MS
        opened = {effect.peer: effect.channel for effect in of(effects, Open)}
        effects = []
        for router in ROUTERS:
            if router.node not in opened or how == "silent":
                continue
            effects += client.lose(router) if how == "unreachable" else client.greets(router)
            if how == "lost again":
                effects += client.lose(router)
            if how == "refusing":
                effects += client.answers(router, *[refusal_of(client.opening, "no_capacity")] * 2)
        effects += [] if effects else client.wait(100)
    (over,) = client.told(SessionOver)
    assert over.code == "router_lost"
    assert ("no_capacity: no" in over.detail) == (how == "refusing")
    assert [client.over(handle).code for handle in (TASK, TASK + 1)] == ["router_lost"] * 2
    assert len(client.told(RouterSought)) == 1
    assert not client.told(RouterFound)
    assert client.machine.next_deadline() is None
    assert not client.machine._held.by_channel


@pytest.mark.spec("TASK-TERMINAL.1")
@pytest.mark.parametrize("asked", [False, True])
def test_a_session_that_is_closed_while_a_router_is_asked_leaves_nothing_there(asked: bool) -> None:
    client = Seeker.asking()
    client.lose(FIRST)
    client.lose(FIRST)
    if asked:
        client.greets(SECOND)
    effects = client.tell(CloseAsked(SESSION_HANDLE))
    assert client.heard(effects, SECOND) == [CloseSession(id_of(client.opening))] * asked
    assert Close(client.streams[SECOND.node]) in effects
    assert client.over(SESSION_HANDLE).code == "session_closed"
    assert client.over(TASK).code == "session_closed"
    assert not client.machine._held.by_channel
    assert client.machine.next_deadline() is None


@pytest.mark.spec("TASK-TERMINAL.1", "ROUTER-TERM.1")
def test_orders_and_cancellations_wait_for_the_next_router() -> None:
    client = Seeker.asking()
    client.lose(FIRST)
    client.lose(FIRST)
    assert sent(client.ask(TASK + 1)) == []
    assert sent(client.tell(CancelAsk(TASK))) == []
    client.greets(SECOND)
    effects = client.answers(SECOND, ready_at(client.opening, 1_025, SECOND))
    first, cancel, second = client.heard(effects, SECOND)
    assert (first.order.task, second.order.task) == (1, 2)  # type: ignore[attr-defined]
    assert cancel == CancelTask(id_of(client.opening), 1)
    client.answers(SECOND, TaskFailed(id_of(client.opening), 1, "cancelled", "", 0))
    assert client.over(TASK).code == "cancelled"


@pytest.mark.spec("ROUTER-TERM.1")
def test_a_session_may_move_before_it_stood() -> None:
    client = Seeker(SECOND)
    client.lose(FIRST)
    client.lose(FIRST)
    assert client.term(client.greets(SECOND), SECOND) == TERM_NUMBERS
    client.answers(SECOND, ready_at(client.opening, 1_025, SECOND))
    assert client.told(SessionAssigned)


@pytest.mark.spec("TASK-TERMINAL.1")
def test_a_session_with_one_router_that_never_stood_ends_at_once() -> None:
    client = Seeker(FIRST)
    assert client.opening.routers == (FIRST.node,)
    client.lose(FIRST)
    assert client.over(SESSION_HANDLE).code == "router_lost"


@pytest.mark.spec("ROUTER-TERM.1")
def test_a_session_names_four_routers_at_most_each_once() -> None:
    client = Seeker(SECOND, SECOND, FIRST, THIRD, MINERS[4], MINERS[5])
    assert client.opening.routers == tuple(router.node for router in (FIRST, SECOND, THIRD, MINERS[4]))


@pytest.mark.spec("ROUTER-TERM.1", "RESUME-REPLAY.1")
def test_the_router_that_serves_is_asked_first_when_it_is_lost_again() -> None:
    client = Seeker.asking()
    client.move_to(SECOND)
    effects = client.lose(SECOND)
    assert client.heard(effects, SECOND) == [ClientHello()]
    assert [m for m in client.heard(client.greets(SECOND), SECOND) if isinstance(m, ResumeSession)]
