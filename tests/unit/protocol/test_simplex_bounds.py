"""Whatever members send, what is kept of it stays within bounds, and what does not hold leaves no trace."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.committee.simplex import BODIES_AHEAD_MAX
from protocol.core.errors import RemoteProtocolError
from protocol.messages.committee import Block, Certificate, Certified, Offer, Propose, SignedBatch, State, Statement
from tests.unit.protocol import strategies
from tests.unit.protocol.committee_at_hand import (
    FINALIZE,
    NULLIFY,
    PARAMS,
    PROPOSAL,
    STRANGER,
    VOTE,
    Made,
    Member,
    batch,
    build,
    chain,
    keyed,  # noqa: F401
    leader,
    nullification,
    opening,
    others,
    propose,
    say,
    signed_by,
)

AHEAD = PARAMS.heights_ahead_max
ONE, OTHER = others(2)


def held(member: Member) -> int:
    """How many statements are kept."""
    return sum(len(tally.about(place)) for tally in member.simplex.tallies.values() for place in range(4))


# Spam


@pytest.mark.spec("SIMPLEX-VOTE.1", "COMMITTEE-QUORUM.1")
def test_statements_of_heights_far_ahead_are_dropped() -> None:
    member = Member()
    for height in (*range(1, 200), 2**40, 2**63 - 1):
        for kind in (VOTE, NULLIFY, FINALIZE, PROPOSAL):
            member.hear(say(ONE, kind, height, bytes(32) if kind is NULLIFY else b"\1" * 32))
    assert set(member.simplex.tallies) == set(range(1, 2 + AHEAD))
    assert held(member) <= 4 * (1 + AHEAD)


@pytest.mark.spec("COMMITTEE-QUORUM.1")
def test_of_what_one_member_says_twice_the_first_is_kept() -> None:
    member = Member()
    for content in range(1, 100):
        member.hear(say(ONE, VOTE, 1, content.to_bytes(32, "big")[::-1]))
    assert held(member) == 1
    assert len(member.convicted) >= 1


def test_after_a_long_time_without_a_finalization_old_heights_are_not_kept_either() -> None:
    member = Member()
    member.reach(300)
    for height in range(1, 300):
        member.hear(say(ONE, FINALIZE, height, b"\1" * 32))
        member.hear(propose(build(opening(), height, [batch(leader(height), 1)])))
    assert len(member.simplex.tallies) <= 2 * AHEAD + 1
    assert len(member.simplex.tree.bodies) <= 2 * AHEAD + 1


def test_proposals_far_ahead_are_not_kept() -> None:
    member = Member()
    for height in range(1, 50):
        member.hear(propose(build(opening(), height, [batch(ONE, 1)])))
    assert len(member.simplex.tree.bodies) <= 2 + BODIES_AHEAD_MAX
    assert max(header.height for header in member.simplex.tree.headers.values()) == 1 + BODIES_AHEAD_MAX


def test_a_leaders_many_blocks_of_one_height_are_one() -> None:
    member = Member()
    for number in range(20):
        member.hear(propose(build(opening(), 1, results_count=number)))
    assert len(member.simplex.tree.headers) == 2
    assert len(member.simplex.tree.bodies) <= 1
    assert len(member.simplex.tallies) == 1


def test_blocks_that_nobody_certified_are_forgotten_when_their_height_is_long_left() -> None:
    member = Member()
    for height in range(1, 60):
        member.hear(propose(build(opening(), height, [batch(ONE, 1)])))
        member.hear(nullification(height))
    assert len(member.simplex.tree.bodies) <= 10
    assert len(member.simplex.tallies) <= AHEAD + 1
    assert sum(name.startswith(b"open/block/") for name in member.disk) <= 60


def test_what_is_final_leaves_nothing_of_its_heights() -> None:
    blocks = chain(6)
    member = Member()
    for at, block in enumerate(blocks[1:], 1):
        member.hear(propose(block, blocks[at - 1].notarization() if at > 1 else None))
        member.hear(block.notarization())
        for place in others(3):
            member.hear(say(place, NULLIFY, block.height))
    member.hear(blocks[6].finalization())
    tree = member.simplex.tree
    assert tree.headers.keys() == {blocks[6].digest}
    assert not (tree.notarizations or tree.nullifications or tree.finalizations)
    assert all(height > 6 for height in member.simplex.tallies)
    assert [name for name in member.disk if name.startswith(b"open/")] == []


# Sync


@pytest.mark.spec("SYNC-CHECK.1")
def test_a_block_comes_with_a_certificate_or_is_named_by_what_is_held() -> None:
    _, first, second = chain(2)
    member = Member()
    assert member.hear(first.block()) == []
    assert first.digest not in member.simplex.tree.bodies, "nobody has named it"
    assert not member.disk
    member.hear(first.block(first.notarization()))
    assert first.digest in member.simplex.tree.headers
    member.hear(second.notarization())
    member.hear(second.block())
    member.hear(second.finalization())
    assert [header.height for header in member.settled] == [1, 2]


@pytest.mark.spec("SYNC-CHECK.1")
def test_a_block_that_the_leader_proposed_may_come_by_sync() -> None:
    block, member = build(opening(), 1), Member()
    member.hear(say(leader(1), PROPOSAL, 1, block.digest))
    assert member.hear(block.block())
    assert member.signed(VOTE, 1) == block.digest


def forgeries() -> list[Block]:
    """Blocks that do not hold."""
    one, two = build(opening(), 1, [batch(ONE, 1)]), build(opening(), 1)
    good = one.notarization()
    few = Certificate(good.kind, 1, 1, good.header, (*good.signatures[:2], good.signatures[1]))
    return [
        Block(one.header, two.body, good),
        Block(one.header, one.body + b"\0", good),
        Block(two.header, two.body, good),
        Block(one.header, one.body, few),
        Block(one.header, one.body, two.notarization()),
        Block(one.header, one.body, build(opening(), 2).notarization()),
        Block(one.header, one.body, nullification(1)),
    ]


@pytest.mark.spec("SYNC-CHECK.1", "CERTIFICATE-QUORUM.1")
@pytest.mark.parametrize("number", range(7))
def test_a_forged_block_is_refused_and_leaves_no_trace(number: int) -> None:
    member = Member()
    with pytest.raises(RemoteProtocolError):
        member.hear(forgeries()[number])
    assert member.disk == {}
    assert len(member.simplex.tree.headers) == 1
    assert member.simplex.height == 1


@pytest.mark.spec("SYNC-CHECK.1")
def test_a_body_that_belongs_to_another_header_never_stands_in_for_a_missing_one() -> None:
    empty, full = build(opening(), 1), build(opening(), 1, [batch(ONE, 1)])
    member = Member()
    member.hear(full.finalization())
    for bad in (Block(full.header, b"", None), Block(full.header, b"x", None)):
        with pytest.raises(RemoteProtocolError):
            member.hear(bad)
    member.hear(empty.block())
    assert member.settled == []
    member.hear(full.block())
    assert member.settled == [full.header]


@pytest.mark.spec("COMMITTEE-QUORUM.1", "CERTIFICATE-QUORUM.1")
def test_who_is_no_member_is_refused() -> None:
    member = Member()
    for said in (signed_by(STRANGER, VOTE, 1, b"\1" * 32), Statement(NULLIFY, 1, 1, b"\1" * 32, bytes(65))):
        with pytest.raises(RemoteProtocolError):
            member.hear(said)
    assert member.simplex.tallies == {}


# Anything


MESSAGES = st.one_of([strategies.build(kind) for kind in (Propose, State, Certified, Offer, Block)])


def ours(place: int, message: object) -> object:
    """The same content, signed by a member, in this epoch."""
    match message:
        case State(statement=said):
            return State(say(place, said.kind, said.height % 20, said.header))
        case Propose(statement=said, header=header):
            wrong = {name: getattr(header, name) for name in ("results_root", "ledger_root", "params_digest", "body")}
            made: Made = build(opening(), header.height % 9, **wrong)
            return Propose(propose(made).statement, made.header, message.body, message.parent, message.nullifications)
        case Offer(signed=SignedBatch() as signed):
            return Offer(batch(place, signed.batch.number % 9, signed.batch.previous, signed.content))
    return message


@settings(max_examples=150)
@given(st.lists(st.tuples(MESSAGES, st.integers(0, 3), st.booleans()), max_size=12))
def test_anything_well_typed_is_taken_or_refused_by_a_typed_error(spam: list[tuple[object, int, bool]]) -> None:
    member = Member()
    for message, place, signed in spam:
        try:
            member.hear(ours(place, message) if signed else message)  # type: ignore[arg-type]
        except RemoteProtocolError:
            continue
        member.wait(50)
    assert len(member.simplex.tallies) <= AHEAD + 2
    assert len(member.simplex.tree.headers) <= BODIES_AHEAD_MAX + 4


@settings(max_examples=40)
@given(st.lists(st.tuples(MESSAGES, st.integers(0, 3)), max_size=12))
def test_the_same_comes_out_of_the_same(spam: list[tuple[object, int]]) -> None:
    ran = []
    for _ in range(2):
        member, effects = Member(), []
        member.hear(propose(build(opening(), 1)))
        for message, place in copy.deepcopy(spam):
            try:
                effects.append(member.taken(ours(place, message)))  # type: ignore[arg-type]
            except RemoteProtocolError as error:
                effects.append([str(error)])
        ran.append((effects, member.simplex.height, member.simplex.next_deadline()))
    assert ran[0] == ran[1]
