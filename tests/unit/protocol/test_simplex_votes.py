"""Who proposes, who votes, and for what."""

from collections.abc import Callable, Sequence

import pytest

from protocol.committee.certificates import CommitteeError
from protocol.core.errors import RemoteProtocolError, SignatureError
from protocol.core.signing import keccak
from protocol.messages.committee import Certificate, Offer, Propose, SignedBatch, State, Statement
from tests.unit.protocol.committee_at_hand import (
    FINALIZE,
    MINE,
    NULLIFY,
    PARAMS,
    PROPOSAL,
    STRANGER,
    VOTE,
    Made,
    Member,
    batch,
    batches,
    body_of,
    build,
    chain,
    dress,
    keyed,  # noqa: F401
    leader,
    nullification,
    opening,
    others,
    propose,
    said,
    say,
)

INTERVAL_MS = PARAMS.block_interval_ms_min


def votes(member: Member, message: Propose) -> bool:
    """Whether a member votes for what is proposed, and for nothing else."""
    sent = said(member.hear(message), VOTE)
    assert [vote.header for vote in sent] in ([], [message.statement.header])
    return bool(sent)


# For what a member votes


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_a_member_votes_for_the_leaders_block_on_the_opening() -> None:
    member, block = Member(), build(opening(), 1)
    assert votes(member, propose(block))
    assert member.signed(VOTE, 1) == block.digest


@pytest.mark.spec("SIMPLEX-VOTE.1")
@pytest.mark.parametrize("proof", [Made.notarization, Made.finalization])
def test_it_votes_for_a_block_on_a_parent_that_is_notarized_or_final(proof: Callable[[Made], Certificate]) -> None:
    _, first, second = chain(2)
    member = Member()
    member.hear(propose(first))
    assert votes(member, propose(second, proof(first)))


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_not_without_the_parents_certificate() -> None:
    _, first, second = chain(2)
    member = Member()
    member.hear(propose(first))
    member.hear(nullification(1))
    assert member.simplex.height == 2
    assert not votes(member, propose(second))
    # The certificate comes later: then it votes.
    assert [vote.header for vote in said(member.hear(first.notarization()), VOTE)] == [second.digest]


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_not_without_a_nullification_of_every_height_between() -> None:
    start = opening()
    third = build(start, 3)
    member = Member()
    member.hear(nullification(2))
    assert member.simplex.height == 3
    assert not votes(member, propose(third))
    assert not votes(member, propose(third, None, [nullification(2)]))
    assert [vote.header for vote in said(member.hear(nullification(1)), VOTE)] == [third.digest]


@pytest.mark.spec("SIMPLEX-VOTE.1", "SIMPLEX-LEADER.1")
def test_the_proposal_brings_what_the_vote_needs() -> None:
    third, member = build(opening(), 3), Member()
    assert votes(member, propose(third, None, [nullification(1), nullification(2)]))


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_not_without_having_executed_the_parent() -> None:
    _, first, second = chain(2)
    member = Member()
    assert not votes(member, propose(second, first.notarization()))
    assert member.simplex.height == 2
    assert [vote.header for vote in said(member.hear(first.block()), VOTE)] == [second.digest]


@pytest.mark.spec("SIMPLEX-VOTE.1")
@pytest.mark.parametrize("height", [2, 5])
def test_not_at_another_height(height: int) -> None:
    member, block = Member(), build(opening(), height)
    assert not votes(member, propose(block))
    assert member.signed(VOTE, height) is None
    # Nor for one that was left.
    member = Member()
    member.reach(height)
    assert not votes(member, propose(build(opening(), 1)))
    assert member.signed(VOTE, 1) is None


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_a_proposal_that_came_early_is_voted_for_when_its_height_is_entered() -> None:
    member, block = Member(), build(opening(), 2)
    assert not votes(member, propose(block))
    assert [vote.header for vote in said(member.hear(nullification(1)), VOTE)] == [block.digest]


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_not_for_the_leaders_second_proposal() -> None:
    start = opening()
    one, other = build(start, 1), build(start, 1, batches(0, 1))
    member = Member()
    assert votes(member, propose(one))
    assert not votes(member, propose(other))
    assert len(member.convicted) == 1


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_not_for_the_second_even_if_the_first_got_no_vote() -> None:
    start = opening()
    wrong, right = build(start, 1, results_count=9), build(start, 1)
    member = Member()
    assert not votes(member, propose(wrong))
    assert not votes(member, propose(right))


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_not_for_the_second_if_of_the_first_only_the_statement_came() -> None:
    start = opening()
    first, second = build(start, 1), build(start, 1, batches(0, 1))
    member = Member()
    member.hear(say(leader(1), PROPOSAL, 1, first.digest))
    assert not votes(member, propose(second))
    assert not votes(member, propose(second))
    # Sync brings the block that was named first.
    assert [vote.header for vote in said(member.hear(first.block()), VOTE)] == [first.digest]


@pytest.mark.spec("SIMPLEX-VOTE.1", "SIGNER-ONCE.1")
def test_once_however_often_it_is_proposed() -> None:
    member, block = Member(), build(opening(), 1)
    assert votes(member, propose(block))
    assert not votes(member, propose(block))
    assert member.hear(State(propose(block).statement)) == []


@pytest.mark.spec("SIMPLEX-VOTE.1")
@pytest.mark.parametrize(
    "wrong",
    [
        {"results_root": b"\1" * 32},
        {"results_count": 2},
        {"ledger_root": b"\1" * 32},
        {"params_digest": b"\1" * 32},
        {"anchor_number": 1},
        {"anchor_hash": b"\1" * 32},
        {"deposits": 1},
        {"next_committee": b"\1" * 32},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_not_for_a_header_that_names_another_state(wrong: dict[str, object]) -> None:
    member, block = Member(), build(opening(), 1, batches(0, 1), **wrong)
    assert not votes(member, propose(block))
    assert member.signed(VOTE, 1) is None


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_not_for_a_block_on_itself_or_above_its_parent() -> None:
    _, first, second = chain(2)
    member = Member()
    member.hear(propose(second))
    assert not votes(member, propose(build(second, 1)))
    assert not votes(Member(), propose(build(first, 1)))


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_not_if_the_body_breaks_the_ledgers_rules() -> None:
    one, other = batches(0, 2)
    block = build(opening(), 1, [one, other])
    spoilt = replace_body(block, [other])
    assert not votes(Member(), propose(spoilt))
    assert votes(Member(), propose(block))


def replace_body(block: Made, included: Sequence[SignedBatch]) -> Made:
    """A block whose body leads nowhere, under a header that names it."""
    body = body_of(included)
    return dress(block.header, body, block.state, {"body": keccak(body)})


# What is no proposal


@pytest.mark.spec("SIMPLEX-LEADER.1")
def test_a_proposal_that_does_not_hold_is_refused_and_nothing_is_kept() -> None:
    start = opening()
    block, another = build(start, 1), build(start, 1, batches(0, 1))
    member = Member()
    good = propose(block)
    stranger = next(place for place in others(3) if place != leader(1))
    for bad in (
        propose(block, place=stranger),
        Propose(say(leader(1), VOTE, 1, block.digest), block.header, block.body, None, ()),
        Propose(good.statement, another.header, another.body, None, ()),
        Propose(good.statement, block.header, another.body, None, ()),
        Propose(say(leader(1), PROPOSAL, 1, block.digest, epoch=1), build(start, 2).header, b"", None, ()),
    ):
        with pytest.raises(CommitteeError):
            member.hear(bad)
    forged = replace_signature(good)
    with pytest.raises(RemoteProtocolError):
        member.hear(forged)
    assert set(member.simplex.tree.headers) == {start.digest}
    assert member.disk == {}
    assert votes(member, good), "and none of it stands in the way of the right one"


def replace_signature(message: Propose) -> Propose:
    """Signed by nobody."""
    said = message.statement
    fake = Statement(said.kind, said.epoch, said.height, said.header, bytes(64) + b"\x1b")
    return Propose(fake, message.header, message.body, message.parent, message.nullifications)


@pytest.mark.spec("SIMPLEX-LEADER.1")
def test_a_signature_of_the_wrong_form_is_refused() -> None:
    member, block = Member(), build(opening(), 1)
    fake = Statement(PROPOSAL, 1, 1, block.digest, bytes(65))
    with pytest.raises(SignatureError):
        member.hear(Propose(fake, block.header, block.body, None, ()))


@pytest.mark.spec("SIMPLEX-LEADER.1")
def test_a_body_beyond_the_bound_is_refused() -> None:
    block = build(opening(), 1)
    large = bytes(PARAMS.block_bytes_max + 1)
    with pytest.raises(CommitteeError):
        Member().hear(Propose(propose(block).statement, block.header, large, None, ()))


@pytest.mark.spec("SIMPLEX-VOTE.1", "SIMPLEX-PERSIST.1")
def test_a_proposal_with_one_bad_certificate_changes_nothing() -> None:
    """Otherwise what the good ones led to would be in memory and never on disk, and be sent one day."""
    _, first, _ = chain(2)
    bad = certify_wrongly()
    member = Member()
    member.hear(propose(first))
    third = build(first, 3)
    with pytest.raises(CommitteeError):
        member.hear(propose(third, first.notarization(), [bad]))
    assert member.simplex.height == 1
    assert member.signed(FINALIZE, 1) is None
    assert member.simplex.tree.notarizations == {}
    member.restart()
    assert member.simplex.height == 1


def certify_wrongly() -> Certificate:
    """A nullification of height 2 with the signatures of height 1."""
    wrong = nullification(1)
    return Certificate(wrong.kind, wrong.epoch, 2, wrong.header, wrong.signatures)


# Who proposes


@pytest.mark.spec("SIMPLEX-LEADER.1", "SIMPLEX-TIMER.2")
def test_the_leader_proposes_once_and_votes_for_its_own() -> None:
    member = Member()
    member.reach(MINE)
    assert member.hear(batch(others(1)[0], 1))[0] == Offer(batch(others(1)[0], 1))
    sent = member.wait(INTERVAL_MS)
    (proposal,) = [message for message in sent if isinstance(message, Propose)]
    assert proposal.header.height == MINE
    assert proposal.header.parent == opening().digest
    assert [certificate.height for certificate in proposal.nullifications] == list(range(1, MINE))
    assert [vote.header for vote in said(sent, VOTE)] == [proposal.statement.header]
    other = Member(place=others(1)[0])
    assert votes(other, proposal)
    assert not any(isinstance(message, Propose) for message in member.wait(10 * INTERVAL_MS))


@pytest.mark.spec("SIMPLEX-LEADER.1")
def test_the_parent_is_the_highest_that_may_be_one() -> None:
    blocks = chain(2)
    member = Member()
    for block in blocks[1:]:
        member.hear(propose(block))
        member.hear(block.notarization())
    for height in range(3, MINE):
        member.hear(nullification(height))
    member.hear(batch(others(1)[0], 1))
    (proposal,) = [message for message in member.wait(INTERVAL_MS) if isinstance(message, Propose)]
    assert proposal.header.parent == blocks[2].digest
    assert proposal.parent == blocks[2].notarization()
    assert [certificate.height for certificate in proposal.nullifications] == list(range(3, MINE))


@pytest.mark.spec("SIMPLEX-LEADER.1")
def test_a_notarized_height_that_was_nullified_as_well_may_still_be_the_parent() -> None:
    blocks = chain(1)
    member = Member()
    member.hear(propose(blocks[1]))
    member.reach(MINE)
    member.hear(blocks[1].notarization())
    member.hear(batch(others(1)[0], 1))
    (proposal,) = [message for message in member.wait(INTERVAL_MS) if isinstance(message, Propose)]
    assert proposal.header.parent == blocks[1].digest


@pytest.mark.spec("SIMPLEX-LEADER.1")
def test_without_the_parents_block_the_leader_proposes_nothing() -> None:
    first = build(opening(), MINE - 1)
    member = Member()
    member.reach(MINE - 1)
    member.hear(first.notarization())
    assert member.simplex.height == MINE
    member.hear(batch(others(1)[0], 1))
    assert not any(isinstance(message, Propose) for message in member.wait(INTERVAL_MS))
    assert any(isinstance(message, Propose) for message in member.hear(first.block()))


@pytest.mark.spec("SIMPLEX-LEADER.1")
def test_nobody_else_proposes() -> None:
    member = Member()
    member.hear(batch(others(1)[0], 1))
    for height in range(1, MINE):
        assert not any(isinstance(message, Propose) for message in member.wait(INTERVAL_MS)), height
        member.reach(height + 1)


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_a_follower_votes_for_nothing_and_keeps_up() -> None:
    follower = Member(key=STRANGER)
    _, first, _ = chain(2)
    assert follower.hear(propose(first)) == []
    follower.hear(first.finalization())
    assert [header.height for header in follower.settled] == [1]
    assert follower.simplex.next_deadline() is None
    assert follower.wait(100_000) == []
    assert not any(name.startswith(b"signed/") for name in follower.disk)


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_a_vote_after_a_nullify_and_a_nullify_after_a_vote_are_honest() -> None:
    block = build(opening(), 1)
    member = Member()
    member.hear(batch(others(1)[0], 1))
    assert said(member.wait(100_000), NULLIFY)
    assert votes(member, propose(build(opening(), 1, [batch(others(1)[0], 1)])))
    member = Member()
    assert votes(member, propose(block))
    member.hear(batch(others(1)[0], 1))
    assert said(member.wait(100_000), NULLIFY)
