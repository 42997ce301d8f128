"""The blocks above the finalized end: what follows from them, what is missing, what is forgotten. And certificates."""

from collections.abc import Callable

import msgspec
import pytest

from protocol.committee.certificates import CommitteeError, assemble, verify_certificate
from protocol.committee.members import faulty_max, quorum_of
from protocol.committee.payload import InvalidBody
from protocol.committee.repeats import wanted
from protocol.committee.tree import Base, Tree
from protocol.core.errors import ParameterError, RemoteProtocolError
from protocol.core.params import COMMITTEE_SIZES
from protocol.messages.committee import Certificate, Certified, MemberSignature
from tests.unit.protocol.committee_at_hand import (
    DOMAIN,
    FINALIZATION,
    KEYS,
    LEDGER,
    NOTARIZATION,
    NULLIFICATION,
    PARAMS,
    PROPOSAL,
    VOTE,
    Made,
    Member,
    batch,
    build,
    certify,
    chain,
    committee_of,
    keyed,  # noqa: F401
    leader,
    nullification,
    opening,
    others,
    propose,
    say,
)

ONE = others(1)[0]


def tree(*blocks: Made) -> Tree:
    """An epoch's tree that holds some blocks."""
    start = opening()
    made = Tree(Base(start.header, start.digest, start.state), LEDGER, PARAMS.epoch_blocks)
    for block in blocks:
        made.add_block(block.digest, block.header, block.body)
    return made


# Quorums and certificates


@pytest.mark.spec("COMMITTEE-QUORUM.1")
def test_any_two_quorums_share_a_correct_member() -> None:
    for size in COMMITTEE_SIZES:
        faulty, quorum = faulty_max(size), quorum_of(size)
        assert (size, quorum) == (3 * faulty + 1, 2 * faulty + 1)
        assert 2 * quorum - size == faulty + 1, "what two quorums share at least"
        assert size - faulty >= quorum, "the correct alone are one"
    for size in set(range(33)) - set(COMMITTEE_SIZES):
        with pytest.raises(ParameterError):
            quorum_of(size)


@pytest.mark.spec("CERTIFICATE-QUORUM.1")
@pytest.mark.parametrize("size", [4, 7, 31])
@pytest.mark.parametrize("kind", [NOTARIZATION, NULLIFICATION, FINALIZATION])
def test_a_certificate_of_a_quorum_holds(size: int, kind: object) -> None:
    header = bytes(32) if kind is NULLIFICATION else b"\1" * 32
    committee = committee_of(1, size)
    for places in (range(committee.quorum), range(size - committee.quorum, size)):
        verify_certificate(DOMAIN, committee, certify(kind, 9, header, places, size=size))  # type: ignore[arg-type]


def changed(**to: object) -> Callable[[Certificate], Certificate]:
    """A certificate with something else in it."""
    return lambda certificate: msgspec.structs.replace(certificate, **to)


def with_signatures(change: Callable[[list[MemberSignature]], list[MemberSignature]]) -> Callable[..., Certificate]:
    """A certificate with other signatures."""
    return lambda certificate: msgspec.structs.replace(
        certificate, signatures=tuple(change(list(certificate.signatures)))
    )


@pytest.mark.spec("CERTIFICATE-QUORUM.1")
@pytest.mark.parametrize(
    "change",
    [
        changed(kind=FINALIZATION),
        changed(kind=NULLIFICATION),
        changed(epoch=2),
        changed(height=10),
        changed(header=b"\2" * 32),
        changed(header=bytes(32)),
        with_signatures(lambda signed: signed[:2]),
        with_signatures(lambda signed: [*signed, MemberSignature(3, say(3, VOTE, 9, b"\1" * 32).signature)]),
        with_signatures(lambda signed: signed[::-1]),
        with_signatures(lambda signed: [signed[0], signed[1], signed[1]]),
        with_signatures(lambda signed: [*signed[:2], MemberSignature(3, signed[2].signature)]),
        with_signatures(lambda signed: [*signed[:2], MemberSignature(30, signed[2].signature)]),
        with_signatures(lambda signed: [*signed[:2], MemberSignature(2, bytes(65))]),
        with_signatures(lambda signed: [*signed[:2], MemberSignature(2, say(2, PROPOSAL, 9, b"\1" * 32).signature)]),
    ],
)
def test_any_other_does_not(change: Callable[[Certificate], Certificate]) -> None:
    good = certify(NOTARIZATION, 9, b"\1" * 32, [0, 1, 2])
    verify_certificate(DOMAIN, committee_of(), good)
    with pytest.raises(RemoteProtocolError):
        verify_certificate(DOMAIN, committee_of(), change(good))


@pytest.mark.spec("CERTIFICATE-QUORUM.1")
def test_of_more_signatures_than_needed_the_first_by_place_make_it() -> None:
    signatures = {place: say(place, VOTE, 9, b"\1" * 32).signature for place in (3, 1, 0, 2)}
    made = assemble(committee_of(), NOTARIZATION, 9, b"\1" * 32, signatures)  # type: ignore[arg-type]
    assert [signed.index for signed in made.signatures] == [0, 1, 2]
    verify_certificate(DOMAIN, committee_of(), made)


@pytest.mark.spec("CERTIFICATE-QUORUM.1")
def test_another_committees_certificate_does_not_hold() -> None:
    with pytest.raises(CommitteeError):
        verify_certificate(DOMAIN, committee_of(1, 7), certify(NULLIFICATION, 9))


# What follows


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_the_state_after_a_block_needs_every_block_before_it() -> None:
    first = build(opening(), 1, [batch(ONE, 1)])
    second = build(first, 2)
    held = tree(second)
    assert held.state_after(second.digest) is None
    held.add_block(first.digest, first.header, first.body)
    assert held.state_after(second.digest) == second.state
    assert held.state_after(b"\1" * 32) is None


@pytest.mark.spec("SIMPLEX-VOTE.1")
def test_what_stands_on_an_invalid_block_is_invalid_however_often_one_asks() -> None:
    wrong = build(opening(), 1, results_count=7)
    held = tree(wrong, build(wrong, 2))
    for _ in range(2):
        with pytest.raises(InvalidBody):
            held.state_after(build(wrong, 2).digest)


@pytest.mark.spec("SIMPLEX-LEADER.1")
def test_the_parent_is_the_highest_certified_block_with_all_between_nullified() -> None:
    blocks = chain(3)
    held = tree(*blocks[1:])
    assert held.parent_for(1) == blocks[0].digest
    assert held.parent_for(2) is None, "height 1 is neither notarized nor nullified"
    held.add_certificate(blocks[1].notarization())
    assert held.parent_for(2) == blocks[1].digest
    assert held.parent_for(4) is None
    held.add_certificate(nullification(3))
    assert held.parent_for(4) is None
    held.add_certificate(nullification(2))
    assert held.parent_for(4) == blocks[1].digest
    held.add_certificate(blocks[2].finalization())
    assert held.parent_for(4) == blocks[2].digest


@pytest.mark.spec("SIMPLEX-LEADER.1")
def test_a_certified_block_that_is_not_here_is_no_parent_and_hides_what_is_below_it_unless_nullified() -> None:
    blocks = chain(2)
    held = tree(blocks[1])
    held.add_certificate(blocks[1].notarization())
    held.add_certificate(blocks[2].notarization())
    assert held.parent_for(3) is None
    held.add_certificate(nullification(2))
    assert held.parent_for(3) == blocks[1].digest


@pytest.mark.spec("SIMPLEX-LEAVE.1", "EPOCH-CLOSE.1")
def test_settling_moves_the_end_up_and_forgets_what_lies_beside() -> None:
    blocks, aside = chain(3), build(opening(), 2, [batch(ONE, 1)])
    held = tree(*blocks[1:], aside)
    for block in blocks[1:]:
        held.add_certificate(block.notarization())
    held.add_certificate(nullification(1))
    assert held.settleable() is None
    held.add_certificate(blocks[2].finalization())
    assert held.final_height == 2
    certificate = held.settleable()
    assert certificate is not None
    headers, states = held.settle(certificate)
    assert [header.height for header in headers] == [1, 2]
    assert states[-1] == held.base.state
    assert len(states) == 2
    assert held.base.digest == blocks[2].digest
    assert held.headers.keys() == {blocks[2].digest, blocks[3].digest}
    assert list(held.certificates(above=0)) == [blocks[3].notarization()]
    assert held.knows(NULLIFICATION, 1)
    assert not held.add_certificate(nullification(2)), "the height is settled"


@pytest.mark.spec("SIMPLEX-LEAVE.1")
def test_the_highest_finalization_whose_blocks_are_here_is_settled() -> None:
    blocks = chain(3)
    held = tree(blocks[1])
    for block in blocks[1:]:
        held.add_certificate(block.finalization())
    # Blocks 2 and 3 are empty, so their headers are all there is to them, and those are not here.
    certificate = held.settleable()
    assert certificate is not None
    assert certificate.height == 1
    assert held.final_height == 3


# What is missing


@pytest.mark.spec("SYNC-MERGE.1", "SIMPLEX-JUMP.1")
def test_what_is_missing_is_known_by_its_heights() -> None:
    blocks = chain(4)
    member = Member()
    assert wanted(member.simplex) is None
    member.hear(blocks[3].notarization())
    assert wanted(member.simplex) == (1, 3)
    member.hear(Certified(blocks[3].notarization(), blocks[3].header))
    assert wanted(member.simplex) == (1, 3), "two heights below are neither notarized nor nullified here"
    for block in blocks[1:3]:
        member.hear(block.block(block.notarization()))
    assert wanted(member.simplex) is None
    member.hear(blocks[4].finalization())
    assert wanted(member.simplex) == (1, 4)
    member.hear(blocks[4].block())
    assert wanted(member.simplex) is None
    assert member.simplex.tree.base.header.height == 4


@pytest.mark.spec("SYNC-MERGE.1")
def test_a_proposal_without_its_block_is_asked_for_and_so_is_a_parent() -> None:
    block = build(opening(), 1, [batch(ONE, 1)])
    member = Member()
    member.hear(say(leader(1), PROPOSAL, 1, block.digest))
    assert wanted(member.simplex) == (1, 1)
    member.hear(block.block())
    assert wanted(member.simplex) is None
    member = Member()
    member.hear(nullification(1))
    member.hear(propose(build(block, 2)))
    assert wanted(member.simplex) == (1, 1)
    assert KEYS[ONE].node_id in committee_of().places
