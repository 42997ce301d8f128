"""The miner's machine, driven by hand: what goes on through the router when a client's own stream is lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.ids import ZERO_DIGEST
from protocol.core.machine import Close, Sent
from protocol.messages.greeting import ClientHello
from protocol.messages.tasks import (
    Delivery,
    DirectReady,
    EndReason,
    FrameMessage,
    SegmentStart,
    TaskFailed,
)
from protocol.roles.miner import CancelGeneration, Generate, Generated, Produced, Rendered
from protocol.session.transcript import LaneVerifier, expect_segment, make_ack
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    MINER,
    MODEL,
    PROMPT_TOKENS,
    id_of,
    of,
    order_of,
    sent,
)
from tests.unit.protocol.miner_direct_at_hand import Attached, frames

# Fallback


@pytest.mark.spec("DIRECT-FALLBACK.1")
@pytest.mark.parametrize("rendered", [False, True])
def test_an_order_for_which_there_is_no_stream_is_relayed(rendered: bool) -> None:
    run = Attached(attach=rendered)
    if rendered:
        run.lose()
    run.start()
    run.render()
    run.produce(2)
    assert [type(message) for message in run.relayed] == [SegmentStart, FrameMessage]
    assert run.relay() == [], "it goes there already"
    run.empty()


@pytest.mark.spec("DIRECT-FALLBACK.1", "CHAIN-ORDER.1")
@settings(max_examples=80)
@given(
    before=st.lists(st.integers(0, 40), max_size=6),
    got=st.integers(0, 6),
    acks=st.sets(st.integers(0, 6)),
    after=st.lists(st.integers(0, 40), max_size=3),
    noticed=st.booleans(),
    rendered=st.booleans(),
    ended=st.booleans(),
)
def test_wherever_the_stream_is_lost_the_rest_comes_by_relay_as_it_was_signed(
    before: list[int], got: int, acks: set[int], after: list[int], noticed: bool, rendered: bool, ended: bool
) -> None:
    """The client has the head and the first ``got`` frames of what was sent to it; acks of some of them arrived."""
    run = Attached()
    run.start()
    reader = run.readers[1]
    direct: list[Message] = []
    if rendered:
        direct += sent(run.mine.tell(Rendered(run.name(), PROMPT_TOKENS)), run.direct)
        for number, count in enumerate(before):
            ids = tuple(range(count))
            effects = run.mine.tell(Produced(run.name(), ids, tuple(b"%d " % i for i in ids))) if count else []
            direct += sent(effects, run.direct)
            if number < got and number in acks and len(direct) > 1:
                for message in direct:
                    run.verify(message)
                direct = []
                effects = run.mine.receive(run.direct, make_ack(DOMAIN, CLIENT.sign, reader))
                direct += sent(effects, run.direct)
            direct += sent(run.mine.tell(Sent(run.direct)), run.direct)
        if ended:
            direct += sent(run.mine.tell(Generated(run.name(), EndReason.STOP, 0)), run.direct)
    for message in direct[:got]:
        run.verify(message)
    missed, ended = direct[got:], ended and rendered
    if noticed:
        run.lose()
    if reader.head is not None and reader.index == 0 and reader.end is None:
        # As a client does: a head without a token is part of no chain yet.
        reader.take_over(expect_segment(DOMAIN, order_of(run.opening), 0, run.generation, MINER.node, MODEL))
    effects = run.relay()
    if reader.end is None:
        relayed = sent(effects, run.channel)
        again = frames(missed)
        assert frames(relayed)[: len(again)] == again, "byte for byte"
        for message in relayed:
            run.verify(message)
        run.relayed.clear()
        if not rendered:
            run.verify(sent(run.render(), run.channel)[0])
        run.relayed.clear()
        for count in after:
            run.produce(count) if count and not ended else None
        run.finish() if not ended else None
        for _ in range(40):
            if reader.index > 0:
                run.ack(by=run.channel)
            for message in run.relayed:
                run.verify(message)
            run.relayed.clear()
            run.report(run.channel)
        assert reader.end is not None
        assert reader.index == (sum(before) if rendered else 0) + (0 if ended else sum(after))
    run.empty()


@pytest.mark.spec("DIRECT-FALLBACK.1")
def test_an_end_without_a_token_is_sent_again_with_its_head() -> None:
    run = Attached()
    run.start()
    lost = sent(run.mine.tell(Rendered(run.name(), PROMPT_TOKENS)), run.direct)
    lost += sent(run.mine.tell(Generated(run.name(), EndReason.STOP, 0)), run.direct)
    assert sent(run.relay(), run.channel) == lost
    run.empty()


@pytest.mark.spec("DIRECT-FALLBACK.1", "ACK-CREDIT.1")
def test_an_ack_of_all_tokens_does_not_say_that_the_end_was_read() -> None:
    run = Attached()
    run.start()
    run.render()
    run.produce(3)
    ack = make_ack(DOMAIN, CLIENT.sign, run.readers[1])
    run.report()
    lost = sent(run.mine.tell(Generated(run.name(), EndReason.STOP, 0)), run.direct)
    run.mine.receive(run.direct, ack)
    assert sent(run.relay(), run.channel) == lost
    run.empty()


@pytest.mark.spec("DIRECT-FALLBACK.1")
def test_an_end_that_was_lost_is_sent_again_also_when_the_next_order_runs() -> None:
    run = Attached()
    run.start()
    run.render()
    run.produce(3)
    run.report()
    lost = sent(run.mine.tell(Generated(run.name(), EndReason.STOP, 0)), run.direct)
    run.start(2)
    run.render(2)
    effects = run.relay()
    assert sent(effects, run.channel) == lost
    run.verify(lost[0])
    assert run.readers[1].finish().completion_tokens == 3
    assert run.relay() == [], "once"
    run.report()
    run.produce(1, 2)
    assert run.readers[2].index == 1, "the other one goes on where it is"
    run.empty()


@pytest.mark.spec("DIRECT-FALLBACK.1")
@pytest.mark.parametrize(
    ("index", "chain"), [(5, None), (2, None), (0, ZERO_DIGEST), (3, bytes(32)), (2**40, None)], ids=str
)
def test_what_the_client_cannot_have_ends_its_order_and_not_the_lease(index: int, chain: bytes | None) -> None:
    run = Attached()
    run.start()
    run.render()
    run.produce(3)
    run.ack()
    run.report()
    run.produce(3)
    effects = run.relay(index=index, chain=chain)
    (failed,) = run.relayed
    assert isinstance(failed, TaskFailed)
    assert failed.code == "bad_request"
    assert of(effects, CancelGeneration) == [CancelGeneration(run.name())]
    assert run.mine.machine.slots() == (1, 2)
    assert of(run.start(2), Generate)
    run.empty()


@pytest.mark.spec("DIRECT-FALLBACK.1")
def test_what_is_not_held_any_more_is_said_at_once() -> None:
    run = Attached()
    run.readers[7] = LaneVerifier(DOMAIN, expect_segment(DOMAIN, order_of(run.opening, 7), 0, b"", b"", MODEL))
    run.relay(7)
    (failed,) = run.relayed
    assert isinstance(failed, TaskFailed)
    assert (failed.task, failed.code) == (7, "engine_failed")


@pytest.mark.spec("DIRECT-TOKEN.1")
def test_a_second_stream_takes_the_next_orders_and_nothing_of_the_one_under_way() -> None:
    run = Attached()
    run.start()
    run.render()
    run.produce(2)
    run.produce(2)
    first = run.direct
    second, effects = run.attach()
    assert of(effects, Close) == [Close(first)]
    assert sent(effects) == [DirectReady(id_of(run.opening))]
    assert run.produce(2) == []
    run.relay()
    assert [frame.first_index for frame in frames(run.relayed)] == [2]
    run.finish()
    run.report(run.channel)
    run.direct = second
    run.start(2)
    run.render(2)
    run.produce(1, 2)
    assert run.readers[2].index == 0, "a frame is in flight"
    run.report(run.channel)
    assert run.readers[2].index == 1
    assert run.mine.receive(first, ClientHello()) == []
    run.empty()


def test_a_lost_stream_holds_up_no_order_that_goes_elsewhere() -> None:
    run = Attached()
    run.start()
    run.render()
    run.finish()  # in flight for ever
    run.start(2, Delivery.RELAYED)
    run.render(2)
    run.produce(3, 2)
    run.finish(2)
    run.relayed.clear()
    run.lose()
    (frame,) = frames(run.relayed)
    assert (frame.task, frame.end is not None) == (2, True)
    run.empty()


def test_one_frame_is_in_flight_on_the_routers_stream_when_an_order_falls_back() -> None:
    run = Attached()
    run.start()
    run.render()
    run.finish()
    run.report()
    run.start(2, Delivery.RELAYED)
    run.render(2)
    run.produce(1, 2)
    run.relayed.clear()
    run.relay(1, 0, ZERO_DIGEST)
    run.relayed.clear()
    assert run.produce(1, 2) == []
    run.report(run.channel)
    assert [frame.first_index for frame in frames(run.relayed)] == [1]
