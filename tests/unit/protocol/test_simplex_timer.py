"""How long a member waits, what for, and what it says again."""

from itertools import pairwise

import pytest

from protocol.committee.repeats import RESENT_MAX, resend
from protocol.committee.timing import DOUBLINGS_MAX, timeout_ms
from protocol.core.params import Params
from protocol.messages.committee import Certified, Offer, Propose, State
from tests.unit.protocol.committee_at_hand import (
    FINALIZE,
    MINE,
    NULLIFY,
    PARAMS,
    START_MS,
    VOTE,
    Member,
    batch,
    batches,
    build,
    chain,
    keyed,  # noqa: F401
    nullification,
    opening,
    others,
    propose,
    said,
    say,
)

ITEM = batch(others(1)[0], 1)
T_MS = PARAMS.block_interval_ms_min + 3 * PARAMS.delta_ms


def nullified_after(member: Member, within_ms: int = 1_000_000) -> int | None:
    """How long it takes until the member signs a nullify of its height."""
    start, height = member.now_ms, member.simplex.height
    while (at := member.simplex.next_deadline()) is not None and at <= start + within_ms:
        member.wait(max(0, at - member.now_ms))
        if member.signed(NULLIFY, height) is not None:
            return member.now_ms - start
    return None


# The formula


@pytest.mark.spec("SIMPLEX-TIMER.1")
@pytest.mark.parametrize(
    ("faulty_max", "height", "final_height", "doublings"),
    [
        (1, 1, 0, 0),
        (1, 3, 0, 0),
        (1, 4, 0, 1),
        (1, 5, 0, 2),
        (1, 9, 0, 6),
        (1, 10, 0, 6),
        (1, 1_000_000, 0, 6),
        (1, 104, 100, 1),
        (1, 101, 100, 0),
        (2, 4, 0, 0),
        (2, 5, 0, 1),
        (10, 12, 0, 0),
        (10, 13, 0, 1),
        (10, 18, 0, 6),
        (10, 90, 80, 0),
    ],
)
def test_the_timer_doubles_with_every_height_without_a_finalization_beyond_f_and_one(
    faulty_max: int, height: int, final_height: int, doublings: int
) -> None:
    params = Params()
    expected = params.block_interval_ms_min + 3 * params.delta_ms * 2**doublings
    assert timeout_ms(params, faulty_max, height, final_height) == expected


@pytest.mark.spec("SIMPLEX-TIMER.1")
def test_it_never_falls_with_the_height_and_is_bounded() -> None:
    times = [timeout_ms(PARAMS, 1, height, 0) for height in range(1, 100)]
    assert all(low <= high <= 2 * low for low, high in pairwise(times))
    assert times[-1] == PARAMS.block_interval_ms_min + (3 * PARAMS.delta_ms << DOUBLINGS_MAX)


@pytest.mark.spec("SIMPLEX-TIMER.1")
@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 9, 12])
def test_a_member_waits_that_long_after_it_entered_its_height(height: int) -> None:
    member = Member()
    member.hear(ITEM)
    member.reach(height)
    assert nullified_after(member) == timeout_ms(PARAMS, 1, height, 0)


@pytest.mark.spec("SIMPLEX-TIMER.1")
def test_notarized_heights_that_do_not_become_final_back_off_as_well() -> None:
    blocks = chain(5)
    member = Member()
    member.hear(ITEM)
    for block in blocks[1:]:
        member.hear(block.notarization())
    assert nullified_after(member) == timeout_ms(PARAMS, 1, 6, 0)
    member = Member()
    member.hear(ITEM)
    for block in blocks[1:]:
        member.hear(block.finalization())
    assert member.simplex.tree.base.header.height == 0, "the blocks themselves are missing, and it does not matter"
    assert nullified_after(member) == T_MS


@pytest.mark.spec("SIMPLEX-TIMER.1", "SIMPLEX-LEAVE.1")
@pytest.mark.parametrize("voted", [False, True])
def test_when_it_fires_the_member_nullifies_having_voted_or_not(voted: bool) -> None:
    member = Member()
    member.hear(ITEM)
    if voted:
        member.hear(propose(build(opening(), 1, [ITEM])))
    assert (member.signed(VOTE, 1) is not None) == voted
    assert nullified_after(member) == T_MS
    assert member.simplex.height == 1, "its own word does not make it leave"
    assert said(member.wait(100_000), NULLIFY) == [], "it says so once"


@pytest.mark.spec("SIMPLEX-TIMER.1")
def test_the_timer_starts_anew_at_each_height() -> None:
    member = Member()
    member.hear(ITEM)
    member.wait(T_MS - 1)
    assert member.signed(NULLIFY, 1) is None
    member.hear(nullification(1))
    assert nullified_after(member) == T_MS


@pytest.mark.spec("SIMPLEX-TIMER.1")
def test_the_timer_is_not_lost_where_a_message_comes_at_that_very_moment() -> None:
    member = Member()
    member.hear(ITEM)
    for late_ms in (0, 1):
        member.now_ms = START_MS + T_MS + late_ms
        member.hear(say(others(1)[0], VOTE, 1, b"\1" * 32))
        due = member.simplex.next_deadline()
        assert due is not None
        assert due <= member.now_ms
    assert said(member.wait(0), NULLIFY)


# What there is to wait for


@pytest.mark.spec("SIMPLEX-TIMER.2")
def test_without_a_reason_for_a_block_nobody_waits_for_one() -> None:
    member = Member()
    assert member.simplex.timer_ms is None
    assert nullified_after(member, PARAMS.heartbeat_ms) is None


@pytest.mark.spec("SIMPLEX-TIMER.2")
def test_an_includable_batch_is_a_reason_from_when_it_is_there() -> None:
    member = Member()
    member.wait(5_000)
    member.hear(ITEM)
    assert nullified_after(member) == T_MS


@pytest.mark.spec("SIMPLEX-TIMER.2")
def test_a_batch_that_cannot_be_included_is_none() -> None:
    member = Member()
    member.hear(batches(others(1)[0], 2)[1])
    assert len(member.simplex.waiting) == 1
    assert member.simplex.timer_ms is None
    member.hear(batches(others(1)[0], 1)[0])
    assert member.simplex.timer_ms == START_MS + T_MS


@pytest.mark.spec("SIMPLEX-TIMER.2")
def test_a_batch_in_the_block_that_would_be_the_parent_is_no_reason_any_more_but_the_block_is() -> None:
    member, block = Member(), build(opening(), 1, [ITEM])
    member.hear(ITEM)
    member.hear(propose(block))
    member.hear(block.notarization())
    assert member.simplex.timer_ms == START_MS + T_MS, "a notarized block that is not empty is not final"
    member.hear(block.finalization())
    assert member.simplex.timer_ms is None


@pytest.mark.spec("SIMPLEX-TIMER.2")
def test_a_notarized_block_that_is_empty_is_no_reason() -> None:
    member, block = Member(), build(opening(), 1)
    member.hear(propose(block))
    member.hear(block.notarization())
    assert member.simplex.timer_ms is None


@pytest.mark.spec("SIMPLEX-TIMER.2")
def test_a_notarized_block_that_is_not_empty_is_a_reason_before_its_body_has_come() -> None:
    member, block = Member(), build(opening(), 1, [ITEM])
    member.hear(Certified(block.notarization(), block.header))
    assert member.simplex.timer_ms == START_MS + T_MS


@pytest.mark.spec("SIMPLEX-TIMER.2")
def test_the_heartbeat_falls_due_after_the_last_notarized_block() -> None:
    member, block = Member(), build(opening(), 1)
    assert nullified_after(member) == PARAMS.heartbeat_ms + T_MS
    member = Member()
    member.wait(10_000)
    member.hear(block.notarization())
    assert nullified_after(member) == PARAMS.heartbeat_ms + T_MS
    member = Member()
    member.wait(10_000)
    member.hear(nullification(1))
    assert nullified_after(member) == PARAMS.heartbeat_ms + T_MS - 10_000


@pytest.mark.spec("SIMPLEX-TIMER.2", "EPOCH-CLOSING.1")
@pytest.mark.parametrize("above", [0, 1])
def test_a_closing_height_is_a_reason(above: int) -> None:
    member = Member()
    member.hear(nullification(PARAMS.epoch_blocks - 1 + above))
    assert (member.simplex.timer_ms is not None) == bool(above)


@pytest.mark.spec("SIMPLEX-TIMER.2")
def test_the_leader_proposes_for_the_same_reasons_and_not_before_the_interval() -> None:
    member = Member()
    member.hear(ITEM)
    member.reach(MINE)
    member.now_ms += PARAMS.block_interval_ms_min - 1
    assert not any(isinstance(message, Propose) for message in member.do(member.simplex.on_time(member.now_ms)))
    assert member.simplex.next_deadline() == member.now_ms + 1
    assert any(isinstance(message, Propose) for message in member.wait(1))


@pytest.mark.spec("SIMPLEX-TIMER.2")
def test_a_leader_without_a_reason_waits_for_the_heartbeat() -> None:
    member = Member()
    member.reach(MINE)
    assert member.wait(PARAMS.heartbeat_ms - 1) == []
    (proposal,) = [message for message in member.wait(1) if isinstance(message, Propose)]
    assert proposal.body == b""


@pytest.mark.spec("SIMPLEX-TIMER.2")
def test_a_batch_comes_to_a_leader_that_has_waited_and_is_proposed_at_once() -> None:
    member = Member()
    member.reach(MINE)
    member.wait(5_000)
    sent = member.hear(ITEM)
    assert [type(message) for message in sent] == [Offer, Propose, State]


# Again


@pytest.mark.spec("SIMPLEX-RESEND.1")
def test_all_that_may_have_been_lost_is_sent_again_and_nothing_below_the_latest_finalization() -> None:
    blocks = chain(3)
    member = Member()
    for at, block in enumerate(blocks[1:], 1):
        parent = blocks[at - 1].notarization() if at > 1 else None
        member.hear(propose(block, parent))
        member.hear(block.notarization())
    member.hear(blocks[2].finalization())
    member.hear(ITEM)
    member.wait(T_MS)
    assert member.signed(NULLIFY, 4) is not None
    again = [effect.message for effect in resend(member.simplex)]
    assert again[0] == Certified(blocks[2].finalization(), blocks[2].header)
    assert again[1] == Certified(blocks[3].notarization(), blocks[3].header)
    assert [(own.kind, own.height) for own in said(again)] == [(VOTE, 3), (FINALIZE, 3), (NULLIFY, 4)]
    assert again[-1] == Offer(ITEM)
    assert len(again) == 6


@pytest.mark.spec("SIMPLEX-RESEND.1")
def test_a_leader_sends_its_proposal_again_also_after_a_restart() -> None:
    member = Member()
    member.hear(ITEM)
    member.reach(MINE)
    (proposal,) = [message for message in member.wait(PARAMS.block_interval_ms_min) if isinstance(message, Propose)]
    for _ in range(2):
        again = [effect.message for effect in resend(member.simplex)]
        assert [message for message in again if isinstance(message, Propose)] == [proposal]
        assert said(again, VOTE)
        assert [message.certificate.height for message in again if isinstance(message, Certified)] == list(
            range(1, MINE)
        )
        member.restart()
        assert not any(isinstance(message, Propose) for message in member.wait(10_000)), "never another one"


@pytest.mark.spec("SIMPLEX-RESEND.1")
def test_what_is_sent_again_changes_nothing_for_who_has_it() -> None:
    member = Member()
    member.hear(ITEM)
    member.reach(MINE)
    member.wait(PARAMS.block_interval_ms_min)
    other = Member(place=others(1)[0])
    for effect in resend(member.simplex):
        other.hear(effect.message)
    assert other.simplex.height == MINE
    assert other.signed(VOTE, MINE) is not None
    before = dict(other.disk)
    for effect in resend(member.simplex):
        assert other.hear(effect.message) == []
    assert other.disk == before


@pytest.mark.spec("SIMPLEX-RESEND.1")
def test_after_a_long_stall_it_is_bounded() -> None:
    member = Member()
    member.reach(600)
    assert len(resend(member.simplex)) <= 2 * RESENT_MAX + 1
    heights = [effect.message.certificate.height for effect in resend(member.simplex)]  # type: ignore[attr-defined]
    assert heights == list(range(1, RESENT_MAX + 1)), "the lowest first: who is behind needs them in order"
