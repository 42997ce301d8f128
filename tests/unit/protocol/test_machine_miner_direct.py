"""The miner's machine, driven by hand: a client's own stream, what goes there, and what does not."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from protocol.core.codec import Message
from protocol.core.ids import Generation
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Close, Send
from protocol.core.signing import typed_digest
from protocol.messages.greeting import ClientHello
from protocol.messages.tasks import (
    AckMessage,
    AttachDirect,
    CancelTask,
    DirectReady,
    EndReason,
    FrameMessage,
    LaneEnded,
    RelayTask,
    TaskFailed,
)
from protocol.roles.miner import Generate
from protocol.session.transcript import check_ended, expect_segment, make_ack
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    MALLORY,
    MINER,
    MINERS,
    MODEL,
    PARAMS,
    ROUTER,
    assignment_of,
    id_of,
    of,
    opening_of,
    order_of,
    sent,
)
from tests.unit.protocol.miner_at_hand import UNACKED
from tests.unit.protocol.miner_direct_at_hand import Attached, frames

# The token


@pytest.mark.spec("DIRECT-TOKEN.1")
def test_frames_go_to_the_client_and_the_signed_end_to_the_router_too() -> None:
    run = Attached()
    assert of(run.start(), Generate)
    run.render()
    run.produce(3)
    assert run.relayed == []
    run.produce(4)
    run.report()
    run.ack()
    run.finish()
    assert run.relayed == [], "a frame is in flight"
    run.report()
    assert run.readers[1].finish().completion_tokens == 7
    (ended,) = run.relayed
    assert isinstance(ended, LaneEnded)
    expected = expect_segment(DOMAIN, order_of(run.opening), 0, run.generation, MINER.node, MODEL)
    check_ended(DOMAIN, expected, ended)
    assert ended.end == run.readers[1].end
    run.empty()


Forge = Callable[[Attached], dict[str, Any]]


@pytest.mark.spec("DIRECT-TOKEN.1")
@pytest.mark.parametrize(
    "forge",
    [
        lambda run: {"peer": MALLORY.node},
        lambda run: {"peer": ROUTER.node},
        lambda run: {"signer": MALLORY},
        lambda run: {"signer": CLIENT},
        lambda run: {"assignment": assignment_of(opening_of(number=1), generations=(run.generation,))},
        lambda run: {"assignment": assignment_of(run.opening, miners=(MINERS[1].node,), generations=(run.generation,))},
        lambda run: {"assignment": assignment_of(run.opening, generations=(Generation(bytes(24)),))},
        lambda run: {
            "assignment": assignment_of(
                run.opening, miners=(MINERS[1].node, MINER.node), generations=(bytes(24), run.generation)
            )
        },
        lambda run: {
            "assignment": assignment_of(
                run.opening, miners=(MINERS[1].node, MINER.node), generations=(run.generation, run.generation)
            )
        },
    ],
    ids=[
        "another peer",
        "the router",
        "signed by nobody",
        "signed by the client",
        "another session",
        "another miner",
        "another lease",
        "another lane",
        "another lane's miner",
    ],
)
def test_nobody_else_gets_the_frames(forge: Forge) -> None:
    run = Attached()
    run.start()
    run.render()
    channel, effects = run.attach(**forge(run))
    assert sent(effects) == []
    assert Close(channel) in effects
    assert Close(run.direct) not in effects
    assert frames(sent(run.produce(1), run.direct))
    # The client's own stream is as it was, whatever the client does there next.
    effects = run.mine.receive(run.direct, ClientHello())
    assert Close(run.direct) in effects
    run.empty()


@pytest.mark.spec("DIRECT-TOKEN.1")
def test_a_token_is_worth_nothing_without_the_lease() -> None:
    run = Attached(attach=False)
    run.mine.tell(ChannelClosed(run.channel, "gone"))
    channel, effects = run.attach()
    assert Close(channel) in effects
    run.empty()


def test_a_stream_with_a_lease_is_no_direct_stream() -> None:
    run = Attached(attach=False)
    token = AttachDirect(run.assignment, ROUTER.sign(typed_digest(DOMAIN, run.assignment)))
    assert Close(run.channel) in run.mine.receive(run.channel, token)
    run.empty()


def test_a_stream_that_never_speaks_is_closed_and_one_that_is_attached_is_not() -> None:
    run = Attached()
    silent = run.mine.opened(CLIENT.node, "task")
    run.start()
    effects = run.mine.wait(PARAMS.lease_request_timeout_ms)
    assert of(effects, Close) == [Close(silent)]
    run.render()
    assert run.readers[1].head is not None
    run.empty()


@pytest.mark.parametrize(
    "message",
    [
        ClientHello(),
        CancelTask(bytes(32), 1),
        RelayTask(bytes(32), 1, 0, bytes(32)),
        DirectReady(bytes(32)),
        AttachDirect(assignment_of(opening_of()), bytes(65)),
    ],
    ids=lambda message: type(message).__name__,
)
@pytest.mark.parametrize("attached", [False, True])
def test_what_has_no_place_on_a_clients_stream_ends_it_and_nothing_else(message: Message, attached: bool) -> None:
    run = Attached()
    run.start()
    run.render()
    channel = run.direct if attached else run.mine.opened(CLIENT.node, "task")
    effects = run.mine.receive(channel, message)
    assert of(effects, Close) == [Close(channel)]
    assert run.mine.machine.slots() == (1, 2)
    assert run.mine.receive(channel, message) == []
    run.empty()


# Flow control


@pytest.mark.spec("ACK-CREDIT.1", "DIRECT-TOKEN.1")
def test_flow_control_holds_on_the_direct_stream_and_what_is_kept_is_bounded_by_it() -> None:
    run = Attached()
    run.start()
    run.render()
    (lease,) = run.mine.machine._leases.values()
    (lane,) = lease.lanes.values()
    acked = 0
    for round_ in range(8):
        run.produce(45)
        while frames(sent(run.report(), run.direct)):
            pass
        assert run.readers[1].index - acked <= UNACKED
        held = run.readers[1].index - lane.acked
        assert sum(len(frame.ids) for frame in lane._unacked) == held <= UNACKED
        if round_ % 3 == 2:
            acked = run.readers[1].index
            run.ack()
    assert run.readers[1].index > 2 * UNACKED
    assert run.relayed == []


@pytest.mark.spec("ACK-CREDIT.1")
def test_a_client_that_does_not_acknowledge_directly_loses_its_order() -> None:
    run = Attached()
    run.start()
    run.render()
    run.produce(UNACKED + 1)
    run.report()
    run.read(run.mine.wait(PARAMS.frame_gap_timeout_ms // 2))
    (failed,) = run.relayed
    assert isinstance(failed, TaskFailed)
    assert failed.code == "ack_timeout"
    run.empty()


@pytest.mark.spec("ACK-SIGNED.1")
def test_an_ack_that_the_client_did_not_sign_ends_the_stream_and_the_lane_waits() -> None:
    run = Attached()
    run.start()
    run.render()
    run.produce(2)
    ack = make_ack(DOMAIN, MALLORY.sign, run.readers[1])
    assert Close(run.direct) in run.mine.receive(run.direct, ack)
    assert sent(run.produce(2)) == []
    run.relay()
    assert [frame.first_index for frame in frames(run.relayed)] == [2]
    run.empty()


def test_an_ack_of_another_lease_ends_the_stream() -> None:
    run = Attached()
    run.start()
    run.render()
    run.produce(2)
    ack = msgspec.structs.replace(make_ack(DOMAIN, CLIENT.sign, run.readers[1]).ack, generation=bytes(24))
    message = AckMessage(ack, CLIENT.sign(typed_digest(DOMAIN, ack)))
    assert Close(run.direct) in run.mine.receive(run.direct, message)


# Ends


@pytest.mark.spec("TASK-TERMINAL.1")
@pytest.mark.parametrize("lost", [False, True])
def test_a_cancelled_order_ends_where_its_client_listens(lost: bool) -> None:
    run = Attached()
    run.start()
    run.render()
    run.produce(2)
    run.report()
    if lost:
        run.lose()
    run.read(run.mine.receive(run.channel, CancelTask(id_of(run.opening), 1)))
    if lost:
        assert run.relayed == [], "it waits for the client's word"
        for message in sent(run.relay(), run.channel):
            run.verify(message)
    else:
        (ended,) = run.relayed
        assert isinstance(ended, LaneEnded)
    assert run.readers[1].finish().reason is EndReason.CANCELLED
    run.empty()


@pytest.mark.spec("TASK-TERMINAL.1")
def test_a_lane_that_waits_in_vain_for_its_client_ends_at_the_deadline() -> None:
    run = Attached()
    run.start()
    run.render()
    run.lose()
    run.produce(5)
    run.read(run.mine.wait(60_000))
    (failed,) = run.relayed
    assert isinstance(failed, TaskFailed)
    assert failed.code == "deadline_exceeded"
    run.empty()


def test_the_lease_goes_and_with_it_the_stream() -> None:
    run = Attached()
    run.start()
    effects = run.mine.tell(ChannelClosed(run.channel, "left"))
    assert Close(run.direct) in effects
    assert run.mine.receive(run.direct, ClientHello()) == []
    run.empty()
    idle = Attached()
    assert Close(idle.direct) in idle.mine.wait(PARAMS.lease_idle_ms)
    idle.empty()


@pytest.mark.spec("MINER-ORDER.1")
def test_streams_of_clients_are_bounded_by_the_leases() -> None:
    run = Attached()
    for _ in range(30):
        run.direct, effects = run.attach()
        assert len(of(effects, Close)) == 1
    machine = run.mine.machine
    assert (len(machine._direct.sessions), len(machine._by_channel), len(machine._peers)) == (1, 1, 2)
    for number in range(PARAMS.sessions_per_miner_max):
        run.mine.tell(ChannelOpened(Channel(500 + number), CLIENT.node, "task"))
    assert len(machine._by_channel) == PARAMS.sessions_per_miner_max


def test_only_frames_are_reported_as_sent() -> None:
    run = Attached()
    effects = run.start() + run.render() + run.produce(2)
    assert [e.report for e in of(effects, Send)] == [isinstance(e.message, FrameMessage) for e in of(effects, Send)]
