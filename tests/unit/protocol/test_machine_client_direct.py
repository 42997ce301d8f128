"""The client's machine with a stream of its own to the miner: what it believes there, and what it does alone."""

from typing import Any

import msgspec
import pytest

from protocol.core.machine import ChannelClosed, Close, Learn, Open
from protocol.core.signing import typed_digest
from protocol.messages.sessions import ResumeSession, SessionReady, SessionResumed
from protocol.messages.tasks import (
    AckMessage,
    AttachDirect,
    CancelTask,
    DirectReady,
    EndReason,
    SubmitTask,
    TaskFailed,
)
from protocol.roles.client import CancelAsk, TaskText
from tests.unit.protocol.client_at_hand import HELLO, TIMEOUT_MS, Client
from tests.unit.protocol.client_direct_at_hand import ADDRESSES, TASK, Straight
from tests.unit.protocol.machines import (
    DOMAIN,
    MINERS,
    ROUTER,
    id_of,
    of,
    sent,
)
from tests.unit.protocol.test_machine_client_takeover import generation_of, ready_of

# The token, and what comes on the stream


@pytest.mark.spec("DIRECT-TOKEN.1")
def test_the_client_dials_the_miner_and_shows_the_assignment() -> None:
    client = Straight(ask=False)
    (learn,), (stream,) = of(client.attached, Learn), of(client.attached, Open)
    assert (learn.peer, learn.addresses) == (MINERS[0].node, ADDRESSES)
    assert (stream.peer, stream.protocol) == (MINERS[0].node, "task")
    (token,) = sent(client.attached, stream.channel)
    ready = ready_of(client.opening, 1, MINERS[0])
    assert token == AttachDirect(ready.assignment, ready.signature)
    client.empty()


@pytest.mark.parametrize("fields", [{"ready": False}, {"addresses": ()}])
def test_without_a_ready_stream_orders_are_relayed(fields: dict[str, Any]) -> None:
    client = Straight(**fields)
    (submit,) = sent(client.asked, client.channel)
    assert isinstance(submit, SubmitTask)
    assert not submit.direct
    client.says(client.head(), client.frame(4), client.frame(2, reason=EndReason.STOP))
    assert client.shown(6)
    client.empty()


def test_a_stream_that_was_not_asked_for_is_not_opened() -> None:
    client = Client()
    client.says(HELLO)
    opening = client.open()
    effects = client.says(msgspec.structs.replace(ready_of(opening, 1, MINERS[0]), addresses=ADDRESSES))
    assert of(effects, Open) == []
    assert client.machine._held.direct == {}


@pytest.mark.spec("DIRECT-TOKEN.1", "ACK-SIGNED.1")
def test_frames_are_verified_shown_and_acknowledged_where_they_come_from() -> None:
    client = Straight()
    (submit,) = sent(client.asked, client.channel)
    assert isinstance(submit, SubmitTask)
    assert submit.direct
    client.tells(client.head())
    effects = client.tells(client.frame(40), client.frame(40), client.frame(10, reason=EndReason.STOP))
    acks = [message.ack.index for message in sent(effects, client.direct) if isinstance(message, AckMessage)]
    assert acks == [80, 90]
    assert sent(effects, client.channel) == []
    assert client.shown(90)
    assert client.over(TASK).end.completion_tokens == 90
    client.empty()


# Several ways at once


@pytest.mark.spec("DIRECT-FALLBACK.1")
@pytest.mark.parametrize("count", [0, 3])
def test_the_miner_may_find_no_stream_before_the_client_lost_it(count: int) -> None:
    """The head comes through the router; what happens to the stream after that is of no interest to the order."""
    client = Straight()
    client.says(client.head(), *[client.frame(1) for _ in range(count)])
    effects = client.lose()
    assert sent(effects) == []
    client.says(client.frame(2), client.frame(1, reason=EndReason.STOP))
    assert client.shown(count + 3)
    client.empty()


@pytest.mark.spec("DIRECT-FALLBACK.1", "CHAIN-TAKEOVER.1")
def test_another_miner_takes_over_and_the_client_says_where_it_stands() -> None:
    client = Straight()
    client.tells(client.head(), client.frame(7))
    before = client.direct
    assert before is not None
    effects = client.take_over(MINERS[1])
    assert Close(before) in effects
    assert client.direct != before
    again = client.again(effects)
    assert again.resume is not None
    assert len(again.resume.ids) == 7
    client.tells(DirectReady(id_of(client.opening)))
    client.says(client.head(), client.frame(5), client.frame(1, reason=EndReason.STOP))
    assert client.shown(13)
    assert isinstance(sent(client.ask_for(TASK + 1), client.channel)[0], SubmitTask)
    assert client.task(TASK + 1).direct, "the next order has a stream again"
    client.empty()


@pytest.mark.spec("DIRECT-FALLBACK.1", "TASK-TERMINAL.1")
def test_the_next_lease_is_told_of_what_ended_directly_under_the_last() -> None:
    """The miner's report may be lost with it, and the router would wait for this client's word for ever."""
    client = Straight()
    client.tells(client.head(), client.frame(3, reason=EndReason.STOP))
    client.ask_for(TASK + 1)
    effects = client.assign(MINERS[1], number=2)
    first, second, *_ = sent(effects, client.channel)
    assert first == CancelTask(id_of(client.opening), 1)
    assert isinstance(second, SubmitTask)
    assert client.says(TaskFailed(id_of(client.opening), 1, "cancelled", "", 0)) == [], "it has its end already"
    effects = client.assign(MINERS[2], number=3)
    assert CancelTask(id_of(client.opening), 1) not in sent(effects), "once"
    client.empty()


@pytest.mark.spec("DIRECT-FALLBACK.1", "RESUME-REPLAY.1")
@pytest.mark.parametrize("heard", [0, 1])
def test_a_stream_that_is_lost_while_the_router_is_away_is_told_when_it_is_back(heard: int) -> None:
    client = Straight()
    client.tells(client.head(), client.frame(6))
    client.tell(ChannelClosed(client.channel, "gone"))
    assert sent(client.lose()) == []
    (stream,) = of(client.wait(1_000), Open) or of(client.wait(0), Open) or [None]
    channel = client.machine._held.routers[ROUTER.node].channel
    effects = client.receive(channel, HELLO)
    assert any(isinstance(message, ResumeSession) for message in sent(effects))
    effects = client.receive(channel, SessionResumed(id_of(client.opening), heard))
    (submit,) = [message for message in sent(effects) if isinstance(message, SubmitTask)]
    assert not submit.direct
    assert submit.resume is not None
    assert len(submit.resume.ids) == 6
    assert [message.ack.index for message in sent(effects) if isinstance(message, AckMessage)] == [6]
    del stream


def test_the_direct_stream_goes_on_while_the_router_is_away() -> None:
    client = Straight()
    client.tells(client.head(), client.frame(6))
    client.tell(ChannelClosed(client.channel, "gone"))
    effects = client.tells(client.frame(1, reason=EndReason.STOP))
    assert [type(message) for message in sent(effects, client.direct)] == [AckMessage]
    assert client.shown(7)
    assert client.over(TASK).end is not None


# Ends


@pytest.mark.spec("TASK-TERMINAL.1")
@pytest.mark.parametrize("lost", [False, True])
def test_cancelling_a_direct_order_goes_through_the_router_and_its_end_comes_as_frames_do(lost: bool) -> None:
    client = Straight()
    client.tells(client.head(), client.frame(4))
    cancel = CancelTask(id_of(client.opening), 1)
    assert sent(client.tell(CancelAsk(TASK))) == [cancel]
    end = client.frame(0, reason=EndReason.CANCELLED)
    if lost:
        effects = client.lose()
        client.again(effects)
        assert sent(effects)[-1] == cancel, "said again: the router may have taken it for ended"
        client.says(end)
    else:
        client.tells(end)
    assert client.over(TASK).end.reason is EndReason.CANCELLED
    client.empty()


@pytest.mark.spec("TASK-TERMINAL.1")
def test_the_deadline_ends_a_direct_order() -> None:
    client = Straight()
    client.tells(client.head())
    for _ in range(TIMEOUT_MS // 500 + 4):
        client.tells(client.frame(1))
        client.wait(500)
    assert client.over(TASK).code == "deadline_exceeded"
    client.empty()


def test_what_has_outgrown_a_message_is_not_sent_but_ends() -> None:
    client = Straight()
    client.tells(client.head())
    writer = client.writers[TASK]
    for _ in range(2):
        client.tells(writer.frame([1] * 199, [b"x" * 1_024] * 199, None))
    client.task().texts.extend([b"x" * 1_024] * 400)
    client.task().ids.extend([1] * 400)
    effects = client.lose()
    assert not [message for message in sent(effects) if isinstance(message, SubmitTask)]
    assert client.over(TASK).code == "miner_lost"
    client.empty()


@pytest.mark.spec("DIRECT-FALLBACK.1", "TASK-TERMINAL.1")
def test_several_orders_of_a_session_some_direct_and_some_not() -> None:
    client = Straight()
    client.ask_for(TASK + 1)
    client.tells(client.head(), client.frame(4))
    effects = client.lose()
    again = [message for message in sent(effects) if isinstance(message, SubmitTask)]
    assert [(submit.order.task, submit.direct) for submit in again] == [(1, False), (2, False)]
    client.ask_for(TASK + 2)
    for handle, first in ((TASK, 4), (TASK + 1, 0), (TASK + 2, 0)):
        client.says(*[client.head(handle)] * (not first), client.frame(6, handle, EndReason.STOP))
        assert client.shown(first + 6, handle)
    client.empty()


@pytest.mark.spec("CHAIN-ORDER.1")
def test_a_token_is_shown_once_also_when_it_comes_both_ways() -> None:
    client = Straight()
    frames = [client.head(), client.frame(3), client.frame(3)]
    client.tells(*frames[:2])
    client.lose()
    assert client.says(frames[1])
    assert client.over(TASK).code == "transcript_broken", "a router does not send what the client said it has"
    texts = [item for item in client.items[TASK] if isinstance(item, TaskText)]
    assert [text.first_index for text in texts] == [0]


def test_an_assignment_that_names_the_same_lease_leaves_the_stream_alone() -> None:
    client = Straight()
    ready = ready_of(client.opening, 2, MINERS[0])
    assignment = msgspec.structs.replace(ready.assignment, generations=(generation_of(1),))
    same = SessionReady(
        ready.session, assignment, ROUTER.sign(typed_digest(DOMAIN, assignment)), ready.bid_set, ADDRESSES
    )
    effects = client.says(same)
    assert (of(effects, Open), of(effects, Close)) == ([], [])
    client.tells(client.head(), client.frame(2, reason=EndReason.STOP))
    assert client.shown(2)
    client.empty()
