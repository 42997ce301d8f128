"""The router's machine when a client's stream is lost: it keeps what it says, for that client, within bounds."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.codec import Message, encode
from protocol.core.machine import Channel, ChannelClosed
from protocol.messages.sessions import (
    LeaseGrant,
    LeaseRelease,
    ResumeSession,
    SessionEnded,
    SessionOpen,
    SessionReady,
    SessionResumed,
)
from protocol.messages.tasks import FrameMessage, SubmitTask, TaskFailed
from protocol.roles.router.clients import DETACHED_SHARE
from protocol.roles.router.state import KEPT_BYTES_MAX, KEPT_MESSAGES_MAX, MESSAGE_BYTES
from protocol.session.transcript import LaneVerifier, expect_segment, make_ack
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    MALLORY,
    MINER,
    MINERS,
    MODEL,
    PARAMS,
    id_of,
    opening_of,
    order_of,
    sent,
    stream_of,
    submit_of,
)
from tests.unit.protocol.router_at_hand import Route, Task

ROOM = PARAMS.sessions_per_router_max // DETACHED_SHARE


class Away(Task):
    """An order, all that its session's client was told or would have been, and the client's way back."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(Route(params=replace(PARAMS, **changes)))
        self.name = id_of(self.opening)
        self.told: list[Message] = []

    def kept(self) -> list[Message]:
        """What the router has not forgotten."""
        return list(self.route.machine._sessions[self.name].kept)

    def leave(self) -> list[object]:
        """The client's stream is lost."""
        return self.route.tell(ChannelClosed(self.client, "reset"))

    def back(self, received: int, peer: Key = CLIENT) -> list[Message]:
        """The client says on a new stream how much it has; what it is sent there."""
        channel = self.route.opened(peer.node, "client")
        answer = sent(self.route.receive(channel, ResumeSession(self.name, received)), channel)
        if isinstance(answer[0], SessionResumed):
            self.client = channel
        return answer

    def ack(self, messages: list[Message]) -> list[object]:
        """The client acknowledges the last of some messages of the stream."""
        verifier = LaneVerifier(DOMAIN, expect_segment(DOMAIN, self.order, 0, GENERATION, MINER.node, MODEL))
        for message in messages:
            verifier.take(message) if isinstance(message, FrameMessage) else verifier.begin(message.head)  # type: ignore
        return self.route.receive(self.client, make_ack(DOMAIN, CLIENT.sign, verifier))


def refused(answer: list[Message]) -> bool:
    return [(type(message), getattr(message, "code", "")) for message in answer] == [(SessionEnded, "session_expired")]


@pytest.mark.spec("RESUME-REPLAY.1")
@settings(max_examples=100)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6), st.integers(-2, 9))
def test_the_rest_comes_byte_for_byte(before: int, acked: int, away: int, received: int) -> None:
    """Whatever was said before and after the cut, and whatever the client had acknowledged."""
    task = Away()
    stream = task.stream()
    told: list[Message] = [*task.kept(), *sent(task.send(stream[:before]), task.client)]
    if 1 < acked <= before < len(stream):
        task.ack(stream[:acked])
    first = len(told) - len(task.kept())
    assert first == (1 + acked if 1 < acked <= before < len(stream) else 0)
    task.leave()
    assert sent(task.send(stream[before : before + away])) == []
    told += stream[before : before + away]
    if received < 0:
        return
    answer = task.back(received)
    if not first <= received <= len(told):
        assert refused(answer)
        return
    assert answer[0] == SessionResumed(task.name, 1)
    assert [encode(message) for message in answer[1:]] == [encode(message) for message in told[received:]]
    assert sent(task.send(stream[before + away :]), task.client) == stream[before + away :]


@pytest.mark.spec("RESUME-REPLAY.1")
def test_nobody_else_is_told_what_a_client_missed() -> None:
    task = Away()
    task.send(task.stream()[:2])
    assert refused(task.back(0, MALLORY))
    task.leave()
    assert refused(task.back(0, MALLORY))
    assert refused(task.back(0, MINER))
    assert len(task.back(0)) == 4


@pytest.mark.spec("RESUME-REPLAY.1")
def test_a_client_may_be_back_before_its_old_stream_is_known_to_be_dead() -> None:
    task = Away()
    task.send(task.stream()[:2])
    old = task.client
    assert len(task.back(1)) == 3
    assert sent(task.send([task.stream()[2]]), old) == []
    (answer,) = sent(task.route.receive(old, submit_of(task.opening, 2)), old)
    assert isinstance(answer, TaskFailed), "the old stream carries the session no more"
    assert task.route.tell(ChannelClosed(old, "reset")) == []
    assert sent(task.send(task.stream()[3:]), task.client) == task.stream()[3:]
    assert task.route.machine.load()["sessions"] == 1


@pytest.mark.spec("RESUME-REPLAY.1")
@pytest.mark.parametrize("done", ["nothing asked", "ended and acknowledged", "failed"])
def test_a_session_without_work_is_not_kept(done: str) -> None:
    task = Away()
    stream = stream_of(task.order, sizes=(1, 2, 2, 2, 1))
    if done == "failed":
        task.send([TaskFailed(task.name, 1, "bad_request", "no", 0)])
    else:
        task.send(stream)
        task.ack(stream)
    effects = task.leave()
    assert sent(effects, task.miner) == [LeaseRelease(task.name)]
    assert refused(task.back(0))


@pytest.mark.spec("RESUME-REPLAY.1")
@pytest.mark.parametrize("how", ["no lease yet", "queued"])
def test_a_session_that_never_stood_is_not_kept(how: str) -> None:
    route = Route(rounds_max=1 if how == "queued" else 4)
    other = route.client(MALLORY)
    route.open(other, opening_of(MALLORY, 5))
    client = route.client()
    route.open(client, opening_of())
    route.tell(ChannelClosed(client, "reset"))
    assert route.machine.load()["sessions"] == 1
    assert route.machine.load()["clients_away"] == 0


@pytest.mark.spec("RESUME-REPLAY.1", "TASK-TERMINAL.1")
def test_an_end_without_its_ack_is_kept_for_the_window_and_no_longer() -> None:
    task = Away()
    stream = task.stream()
    task.send(stream)
    assert task.leave() == []
    assert task.route.wait(PARAMS.resume_window_ms - 1) == []
    answer = task.back(1)
    assert answer[1:] == stream
    assert task.leave() == []
    effects = task.route.wait(PARAMS.resume_window_ms)
    assert sent(effects) == [LeaseRelease(task.name)]
    assert refused(task.back(1))
    task.route.tell(ChannelClosed(Channel(4), "left"))


@pytest.mark.spec("RESUME-REPLAY.1", "FAILOVER-NEXT.1")
def test_failovers_while_the_client_is_away_are_told_in_order() -> None:
    task = Away(bids_good=2)
    stream = task.stream()
    task.send(stream[:2])
    task.leave()
    effects = task.route.tell(ChannelClosed(task.miner, "reset")) + task.route.wait(PARAMS.bid_window_ms)
    effects += task.route.bid(task.opening, MINERS[1]) + task.route.wait(PARAMS.bid_window_ms)
    channel, miner = task.route.asked(effects)
    assert miner == MINERS[1].node
    task.route.receive(channel, LeaseGrant(task.name, b"\x45" * 24, 1_000))
    held = task.route.machine._sessions[task.name].tasks[1].verifier
    assert held is not None
    head = {"generation": b"\x45" * 24, "start_index": 1, "previous_head": held.chain}
    again = stream_of(task.order, sizes=(2, 1), miner=MINERS[1], **head)
    for message in again:
        task.route.receive(channel, message)
    _, *rest = task.back(3)
    assert [type(message) for message in rest] == [SessionReady, type(again[0]), FrameMessage, FrameMessage]
    assert rest[1:] == again


@pytest.mark.spec("RESUME-REPLAY.1")
def test_orders_that_the_client_sends_again_are_those_that_never_came() -> None:
    task = Away()
    task.submit(2)
    task.leave()
    (resumed, *_) = task.back(1)
    assert resumed == SessionResumed(task.name, 2)
    effects = task.submit(3)
    assert [type(message) for message in sent(effects)] == []
    assert task.route.machine.load()["tasks"] == 3


# Bounds


@pytest.mark.spec("RESUME-REPLAY.1")
def test_what_is_kept_is_bounded_by_count_and_by_bytes() -> None:
    task = Away()
    session = task.route.machine._sessions[task.name]
    frame = task.stream()[1]
    for _ in range(3 * KEPT_MESSAGES_MAX):
        session.tell(TaskFailed(task.name, 9, "bad_request", "x" * 1_000, 0))
        assert len(session.kept) <= KEPT_MESSAGES_MAX
        assert sum(map(len, map(encode, session.kept))) <= KEPT_BYTES_MAX + len(session.kept) * MESSAGE_BYTES
    for _ in range(3 * KEPT_MESSAGES_MAX):
        session.tell(frame)
    assert len(session.kept) == KEPT_MESSAGES_MAX, "small ones"
    big = msgspec.structs.replace(frame, ids=(1,) * 100, texts=(b"x" * 1_000,) * 100)
    for _ in range(10):
        session.tell(big)
        assert session.kept_bytes <= KEPT_BYTES_MAX
    assert 0 < len(session.kept) < 10
    first = session.told - len(session.kept)
    task.leave()
    assert refused(task.back(first - 1))
    assert len(task.back(first)) == 1 + len(session.kept)
    while session.kept:
        session._forget_oldest()
    assert session.kept_bytes == 0


def test_what_an_honest_miner_sends_without_an_ack_is_kept() -> None:
    """Frames of one token, up to the credit, and all assignments of a few failovers."""
    tokens = PARAMS.unacked_tokens_max
    assert tokens * 400 < KEPT_BYTES_MAX / 2
    assert tokens < KEPT_MESSAGES_MAX / 2


class Crowd:
    """Clients that open sessions, order something and go away."""

    def __init__(self, room: int = 4) -> None:
        self.route = Route(miners=1, params=replace(PARAMS, sessions_per_router_max=room * DETACHED_SHARE))
        self.number = 0

    def stand(self, client: Key) -> tuple[SessionOpen, Channel]:
        """A session with an order under way."""
        self.number += 1
        opening, channel = opening_of(client, self.number), self.route.client(client)
        self.route.leased(opening, channel)
        order = order_of(opening)
        submit = submit_of(opening, client=client)
        assert isinstance(submit, SubmitTask)
        assert submit.order == order
        self.route.receive(channel, submit)
        return opening, channel

    def away(self, client: Key) -> SessionOpen:
        """It stands, and its client's stream is lost."""
        opening, channel = self.stand(client)
        self.route.tell(ChannelClosed(channel, "reset"))
        return opening

    def holds(self, opening: SessionOpen) -> bool:
        return id_of(opening) in self.route.machine._sessions


@pytest.mark.spec("RESUME-REPLAY.1")
def test_sessions_of_clients_that_are_away_are_bounded() -> None:
    crowd = Crowd(room=2)
    held = [crowd.away(CLIENT) for _ in range(4)]
    assert [crowd.holds(opening) for opening in held] == [False, False, True, True], "the latest are kept"
    assert crowd.route.machine.load()["clients_away"] == 2


@pytest.mark.spec("RESUME-REPLAY.1")
def test_a_stream_that_carried_many_keeps_no_more_than_there_is_room_for() -> None:
    route = Route(miners=1)
    client = route.client()
    openings = [opening_of(number=number) for number in range(4)]
    for opening in openings:
        route.leased(opening, client)
        route.receive(client, submit_of(opening))
    effects = route.tell(ChannelClosed(client, "reset"))
    assert len([m for m in sent(effects) if isinstance(m, LeaseRelease)]) == 4 - ROOM
    assert route.machine.load()["sessions"] == route.machine.load()["clients_away"] == ROOM
    route.wait(PARAMS.resume_window_ms)
    route.empty()


@pytest.mark.spec("RESUME-REPLAY.1")
def test_a_client_that_leaves_many_behind_takes_no_room_from_another() -> None:
    crowd = Crowd(room=4)
    other = crowd.away(MALLORY)
    greedy = [crowd.away(CLIENT) for _ in range(6)]
    assert crowd.holds(other)
    third = crowd.away(MINERS[3])
    assert crowd.holds(other)
    assert crowd.holds(third)
    assert [crowd.holds(opening) for opening in greedy] == [False] * 4 + [True] * 2


@pytest.mark.spec("RESUME-REPLAY.1")
def test_nobody_loses_room_to_a_client_that_has_as_much() -> None:
    crowd = Crowd(room=3)
    held = [crowd.away(client) for client in (CLIENT, MALLORY, MINERS[3], MINERS[4])]
    assert [crowd.holds(opening) for opening in held] == [True, True, True, False]


def test_a_clients_share_counts_all_its_streams_and_what_is_kept_for_it() -> None:
    crowd = Crowd(room=16)
    for step in range(PARAMS.sessions_per_client_max):
        crowd.away(CLIENT) if step % 2 else crowd.stand(CLIENT)
    again = crowd.route.client()
    (ended,) = sent(crowd.route.open(again, opening_of(number=99)), again)
    assert isinstance(ended, SessionEnded)
    assert ended.code == "rate_limited"
    crowd.route.wait(PARAMS.resume_window_ms)
    assert sent(crowd.route.open(again, opening_of(number=99)), again) == []
    assert crowd.route.machine._clients.held[CLIENT.node] == PARAMS.sessions_per_client_max // 2 + 1
