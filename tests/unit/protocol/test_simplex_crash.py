"""A member that crashes between any two effects never contradicts itself, and goes on.

``Member`` holds what leaves it against what left it before and against its disk, whatever it lives through; here it
lives through an epoch, its own height and the next epoch's first one, and crashes at each effect of all that.
"""

from collections.abc import Callable, Iterator
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.committee.repeats import resend
from protocol.committee.storage import CHAIN
from protocol.messages.committee import Propose, State
from tests.unit.protocol.committee_at_hand import (
    FINALIZE,
    MINE,
    NULLIFY,
    PARAMS,
    PROPOSAL,
    VOTE,
    Crashed,
    Made,
    Member,
    batch,
    batches,
    build,
    keyed,  # noqa: F401
    nullification,
    opening,
    others,
    propose,
    said,
    say,
)

ONE, OTHER = others(2)
LAST = PARAMS.epoch_blocks
LONG_MS = 20_000

Event = Callable[[Member], object]


def hears(*messages: object) -> Event:
    """Messages arrive."""
    return lambda member: [member.hear(message) for message in messages]  # type: ignore[arg-type]


def blocks() -> list[Made]:
    """What the others make: a block with something in it at height 1, and one on it at height 3."""
    first = build(opening(), 1, [batch(ONE, 1)])
    return [first, build(first, 3)]


def own(member: Member) -> Made:
    """The member's block, as it is on its disk, or in its memory."""
    digest = member.signed(PROPOSAL, MINE)
    assert digest is not None, "it proposes in the end"
    tree = member.simplex.tree
    if digest not in tree.headers:
        return blocks()[1]
    return Made(tree.headers[digest], digest, tree.bodies[digest], tree.state_after(digest))


def others_vote_for_its_block(member: Member) -> None:
    """At its own height."""
    if member.simplex.committee.epoch == 1 and member.simplex.height <= MINE:
        member.wait(PARAMS.block_interval_ms_min)
        if member.signed(PROPOSAL, MINE) is None:
            member.wait(PARAMS.heartbeat_ms)  # it has forgotten what it could include
        for place in (ONE, OTHER):
            member.hear(say(place, VOTE, MINE, own(member).digest))
        for place in (ONE, OTHER):
            member.hear(say(place, FINALIZE, MINE, own(member).digest))
        member.hear(own(member).finalization())


def the_epoch_goes_on_to_its_end(member: Member) -> None:
    """What the others build on what is final at the member."""
    base = member.simplex.tree.base
    block = Made(base.header, base.digest, b"", base.state) if base.header.height >= MINE else own(member)
    while member.simplex.committee.epoch == 1:
        assert block.height < 3 * LAST, "the epoch must close"
        block = build(block, max(block.height, MINE) + 1)
        member.hear(propose(block))
        member.hear(block.block(block.notarization()))
        if block.height >= LAST:
            member.hear(block.finalization())


def the_next_begins(member: Member) -> None:
    """Its first height."""
    base = member.simplex.tree.base
    if base.header.height == 0:
        first = build(Made(base.header, base.digest, b"", base.state), 1)
        member.hear(propose(first))
        member.hear(first.notarization())
        member.hear(first.finalization())


def story() -> Iterator[Event]:
    """A life. Whoever starts again hears it all again, as others say all again."""
    first, third = blocks()
    yield hears(batch(ONE, 1))
    yield hears(propose(first))
    yield hears(say(ONE, VOTE, 1, first.digest), say(OTHER, VOTE, 1, first.digest))
    yield hears(say(ONE, FINALIZE, 1, first.digest), say(OTHER, FINALIZE, 1, first.digest))
    yield hears(first.finalization())
    yield hears(*batches(ONE, 2)[1:])
    yield lambda member: member.simplex.height == 2 and member.wait(LONG_MS)
    yield hears(say(ONE, NULLIFY, 2), say(OTHER, NULLIFY, 2))
    yield hears(propose(third, first.notarization(), [nullification(2)]))
    yield hears(third.notarization())
    yield hears(*(block.block(block.notarization()) for block in (first, third)))  # what only was in memory, by sync
    for height in range(4, MINE):
        yield hears(nullification(height))
    yield others_vote_for_its_block
    yield the_epoch_goes_on_to_its_end
    yield the_next_begins


def live(member: Member) -> None:
    """From the beginning to the end."""
    for event in story():
        event(member)


def goes_through(member: Member, *fuses: int) -> int:
    """Live with a crash after so many effects, then after so many more; how many crashes there were."""
    crashes = 0
    for fuse in (*fuses, None):
        member.fuse = fuse
        try:
            live(member)
            member.fuse = None
        except Crashed:
            crashes += 1
            member.restart()
            repeats_only_what_is_durable(member)
    return crashes


def repeats_only_what_is_durable(member: Member) -> None:
    """Right after a restart all that it says again is on its disk and was perhaps said before."""
    for effect in resend(member.simplex):
        if isinstance(effect.message, State | Propose):
            member.do([effect])


def ended_well(member: Member) -> None:
    """The epoch is closed, and the next one has begun."""
    assert (member.simplex.committee.epoch, member.simplex.tree.base.header.height) == (2, 1)
    assert member.convicted == []
    assert member.lost == []
    chain = sorted(name for name in member.disk if name.startswith(CHAIN))
    assert chain[-1] == CHAIN + (2).to_bytes(8, "big") + (1).to_bytes(8, "big")
    assert len(chain) == len(set(chain)) >= 5
    assert not any(name.startswith(b"open/") for name in member.disk if b"batch" not in name)


@cache
def effects_in_all() -> int:
    """How many effects a life has."""
    member = Member()
    member.fuse = fuse = 1_000_000
    live(member)
    assert member.fuse is not None
    ended_well(member)
    return fuse - member.fuse


@pytest.mark.spec("SIMPLEX-PERSIST.1", "SIMPLEX-LEAVE.1", "SIGNER-ONCE.1", "EPOCH-CLOSE.1", "SIMPLEX-VOTE.1")
def test_a_crash_after_any_effect() -> None:
    total = effects_in_all()
    assert total > 60
    for fuse in range(total):
        member = Member()
        assert goes_through(member, fuse) == 1
        ended_well(member)


@pytest.mark.spec("SIMPLEX-PERSIST.1", "SIGNER-ONCE.1")
@settings(max_examples=60)
@given(st.lists(st.integers(0, 60), min_size=2, max_size=6))
def test_one_crash_after_the_other(fuses: list[int]) -> None:
    member = Member()
    goes_through(member, *fuses)
    ended_well(member)


@pytest.mark.spec("SIMPLEX-PERSIST.1", "SIMPLEX-RESEND.1")
def test_a_restart_with_everything_durable_changes_nothing() -> None:
    member = Member()
    for event in story():
        event(member)
        before = (member.simplex.committee, member.simplex.height, member.simplex.tree.base.digest)
        again = [effect.message for effect in resend(member.simplex) if isinstance(effect.message, State)]
        member.restart()
        assert (member.simplex.committee, member.simplex.height, member.simplex.tree.base.digest) == before
        assert said(again) == said([effect.message for effect in resend(member.simplex)])
    ended_well(member)


@pytest.mark.spec("SIMPLEX-VOTE.1", "SIGNER-ONCE.1")
def test_a_vote_that_never_left_binds_as_one_that_did() -> None:
    start = opening()
    one, other = build(start, 1), build(start, 1, [batch(ONE, 1)])
    member = Member()
    effects = member.taken(propose(one))
    member.fuse = 2
    with pytest.raises(Crashed):
        member.do(effects)
    member.restart()
    assert member.signed(VOTE, 1) == one.digest
    assert said(member.hear(propose(other))) == []
    assert member.signed(VOTE, 1) == one.digest


@pytest.mark.spec("SIMPLEX-PERSIST.1")
def test_a_vote_whose_signature_was_not_durable_was_not_given() -> None:
    start = opening()
    one, other = build(start, 1), build(start, 1, [batch(ONE, 1)])
    member = Member()
    effects = member.taken(propose(one))
    member.fuse = 1
    with pytest.raises(Crashed):
        member.do(effects)
    member.restart()
    assert member.signed(VOTE, 1) is None
    assert [vote.header for vote in said(member.hear(propose(other)), VOTE)] == [other.digest]
