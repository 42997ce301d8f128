"""The miner's machine when it goes on with what another began: it checks all of it, and repeats none of it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from protocol.core.codec import decode, encode
from protocol.core.errors import DecodeError
from protocol.core.ids import ZERO_DIGEST
from protocol.core.machine import ChannelClosed, Close
from protocol.core.signing import typed_digest
from protocol.messages.tasks import Ack, AckMessage, Continuation, EndReason, FrameMessage, SegmentStart
from protocol.roles.miner import Generate, Generated
from protocol.session.transcript import SegmentWriter, replay
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    MINERS,
    assignment_of,
    head_of,
    of,
    opening_of,
    order_of,
    sent,
    start_of,
)
from tests.unit.protocol.miner_at_hand import UNACKED, Mine, Run

EARLIER = 5
"""Tokens that the miner before streamed."""
BEFORE = MINERS[1]


def continuation_of(order: Any, count: int = EARLIER, **head: Any) -> Continuation:
    """What another miner signed of an order."""
    writer = SegmentWriter(DOMAIN, BEFORE.sign, head_of(order, b"\x48" * 24, **{"miner": BEFORE.node, **head}))
    ids, texts = tuple(range(100, 100 + count)), tuple(b"%d " % index for index in range(count))
    writer.frame(ids, texts, None)
    return Continuation((writer.head,), ids, texts)


class Takeover(Run):
    """An order that the miner goes on with, and its reader, who has read the earlier segment."""

    def __init__(self, count: int = EARLIER, max_tokens: int = 400) -> None:
        opening = opening_of()
        mine = Mine()
        leased = mine.lease(opening)
        self.resume = continuation_of(order_of(opening, max_tokens=max_tokens), count)
        super().__init__(mine, opening, leased=leased, max_tokens=max_tokens, resume=self.resume)
        self.verifier.index = count
        self.verifier.chain = replay(DOMAIN, self.resume)


def test_the_engine_is_given_what_was_said_and_the_head_names_the_chain_before() -> None:
    run = Takeover()
    (generate,) = of(run.begun, Generate)
    assert generate.emitted == tuple(zip(run.resume.ids, run.resume.texts, strict=True))
    assert generate.max_tokens == 400, "of the whole lane"
    (start,) = [m for m in sent(run.render(), run.channel) if isinstance(m, SegmentStart)]
    assert start.head.start_index == EARLIER
    assert start.head.previous_head == replay(DOMAIN, run.resume)


@pytest.mark.spec("CHAIN-TAKEOVER.1", "CHAIN-END.1")
def test_the_end_counts_the_whole_lane() -> None:
    run = Takeover()
    run.render()
    run.produce(3)
    run.finish()
    run.report()
    assert run.verifier.finish().completion_tokens == EARLIER + 3
    assert run.text == b"0 1 2 "


@pytest.mark.spec("CHAIN-TAKEOVER.1", "CHAIN-END.1")
@pytest.mark.parametrize("reason", [EndReason.STOP, EndReason.LENGTH])
def test_a_lane_that_was_all_but_ended_is_ended_at_once(reason: EndReason) -> None:
    run = Takeover(max_tokens=EARLIER)
    run.render()
    run.read(run.mine.tell(Generated(run.name, reason, 0)))
    assert run.text == b""
    assert run.verifier.finish().completion_tokens == EARLIER
    assert run.verifier.finish().reason == reason


@pytest.mark.spec("ACK-CREDIT.1", "CHAIN-TAKEOVER.1")
def test_credit_starts_where_the_segment_does() -> None:
    run = Takeover()
    run.render()
    run.produce(2 * UNACKED)
    while [m for m in sent(run.report()) if isinstance(m, FrameMessage)]:
        pass
    assert run.verifier.index == EARLIER + UNACKED
    run.ack(EARLIER, b"\x01" * 32)
    assert run.verifier.index == EARLIER + UNACKED, "what was not its own to sign it cannot have acknowledged"
    assert run.mine.machine._leases, "and an old ack is no offence"
    run.ack()
    while [m for m in sent(run.report()) if isinstance(m, FrameMessage)]:
        pass
    assert run.verifier.index == EARLIER + 2 * UNACKED


def test_a_cancelled_takeover_ends_with_a_signed_count_of_the_whole_lane() -> None:
    run = Takeover()
    run.render()
    run.produce(2)
    run.cancel()
    run.report()
    assert run.verifier.finish().reason is EndReason.CANCELLED
    assert run.verifier.finish().completion_tokens == EARLIER + len(run.text.split())


def test_speed_is_measured_by_the_tokens_of_the_own_segment() -> None:
    run = Takeover(count=300)
    run.render()
    run.produce(1)
    run.mine.wait(1_000)
    run.produce(10)
    run.finish()
    assert run.mine.machine._bids.speed.tokens_per_second <= 11


OTHER = order_of(opening_of(number=1))


def in_heads(**fields: object) -> Callable[[Continuation], Continuation]:
    def change(resume: Continuation) -> Continuation:
        return msgspec.structs.replace(
            resume, heads=tuple(msgspec.structs.replace(head, **fields) for head in resume.heads)
        )

    return change


@pytest.mark.spec("CHAIN-TAKEOVER.1", "MINER-ORDER.1")
@pytest.mark.parametrize(
    ("change", "max_tokens", "why"),
    [
        (lambda _: continuation_of(OTHER), 400, "another order"),
        (in_heads(order=typed_digest(DOMAIN, OTHER)), 400, "another order"),
        (in_heads(lane=1), 400, "another order or lane"),
        (in_heads(session=bytes(32)), 400, "another order or lane"),
        (lambda resume: resume, EARLIER - 1, "more tokens than the order allows"),
        (in_heads(previous_head=b"\x01" * 32), 400, "another chain"),
        (in_heads(start_index=1), 400, "no segment starts at token 0"),
        (lambda r: msgspec.structs.replace(r, texts=r.texts[1:]), 400, "as many texts as tokens"),
        (lambda r: msgspec.structs.replace(r, heads=r.heads * 2), 400, "every segment"),
    ],
    ids=["order", "order named", "lane", "session", "too many", "chain", "start", "texts", "heads"],
)
def test_a_continuation_that_does_not_hold_is_refused_and_costs_the_lease(
    change: Callable[[Continuation], Continuation], max_tokens: int, why: str
) -> None:
    opening, mine = opening_of(), Mine()
    channel, generation = mine.lease(opening)
    order = order_of(opening, max_tokens=max_tokens)
    start = start_of(assignment_of(opening, generations=(generation,)), order, resume=change(continuation_of(order)))
    effects = mine.receive(channel, start)
    assert Close(channel) in effects
    assert why in str(effects)
    assert not of(effects, Generate)
    assert mine.machine.slots() == (2, 2)


def test_a_continuation_of_nothing_is_no_message() -> None:
    opening = opening_of()
    order = order_of(opening)
    for resume in (Continuation((), (1,), (b"x",)), Continuation(continuation_of(order).heads, (), ())):
        start = start_of(assignment_of(opening), order, resume=resume)
        with pytest.raises(DecodeError):
            decode(encode(start))
    whole = start_of(assignment_of(opening), order, resume=continuation_of(order))
    assert decode(encode(whole)) == whole


@pytest.mark.spec("ACK-SIGNED.1")
def test_an_ack_for_the_lease_before_is_refused() -> None:
    run = Takeover()
    run.render()
    run.produce(3)
    ack = Ack(run.order.session, run.order.task, 0, b"\x48" * 24, bytes(32), EARLIER, ZERO_DIGEST)
    effects = run.mine.receive(run.channel, AckMessage(ack, CLIENT.sign(typed_digest(DOMAIN, ack))))
    assert Close(run.channel) in effects


def test_a_router_that_leaves_takes_the_engine_with_it() -> None:
    run = Takeover()
    assert "CancelGeneration" in str(run.mine.tell(ChannelClosed(run.channel, "gone")))
    assert run.mine.machine.slots() == (2, 2)
