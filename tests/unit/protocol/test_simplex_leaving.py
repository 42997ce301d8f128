"""How a member leaves a height, what it signs then and never signs, and in which order things reach the disk."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from protocol.committee.certificates import CommitteeError
from protocol.committee.effects import Settled, ToMembers
from protocol.committee.signer import PREFIXES
from protocol.committee.storage import OPEN_BLOCK, OPEN_CERTIFICATE
from protocol.core.codec import Message
from protocol.core.machine import Persist
from protocol.messages.committee import Certificate, CertificateKind, Certified, Propose, State, StatementKind
from tests.unit.protocol.committee_at_hand import (
    FINALIZATION,
    FINALIZE,
    ME,
    MINE,
    NOTARIZATION,
    NULLIFICATION,
    NULLIFY,
    PARAMS,
    VOTE,
    Made,
    Member,
    batch,
    build,
    certify,
    chain,
    keyed,  # noqa: F401
    nullification,
    opening,
    others,
    propose,
    said,
    say,
)

LONG_MS = 100_000


def certificates(sent: list[Message]) -> list[Certificate]:
    """Those among what was sent."""
    return [message.certificate for message in sent if isinstance(message, Certified)]


def fired(member: Member) -> Member:
    """A member whose timer has fired at its height."""
    member.hear(batch(others(1)[0], 1))
    assert [nullify.height for nullify in said(member.wait(LONG_MS), NULLIFY)] == [member.simplex.height]
    return member


# Quorums


@pytest.mark.spec("COMMITTEE-QUORUM.1", "SIMPLEX-LEAVE.1")
def test_two_votes_beside_its_own_make_a_notarization_and_one_does_not() -> None:
    block, member = build(opening(), 1), Member()
    member.hear(propose(block))
    one, other = others(2)
    assert certificates(member.hear(say(one, VOTE, 1, block.digest))) == []
    assert member.simplex.height == 1
    sent = member.hear(say(other, VOTE, 1, block.digest))
    assert certificates(sent) == [block.notarization([ME, one, other])]
    assert [finalize.header for finalize in said(sent, FINALIZE)] == [block.digest]
    assert member.simplex.height == 2


@pytest.mark.spec("COMMITTEE-QUORUM.1")
def test_one_member_counts_once() -> None:
    block, member = build(opening(), 1), Member()
    member.hear(propose(block))
    one = others(1)[0]
    for _ in range(3):
        assert member.hear(say(one, VOTE, 1, block.digest)) == []
    assert member.simplex.height == 1


@pytest.mark.spec("COMMITTEE-QUORUM.1")
def test_votes_for_two_blocks_make_no_notarization() -> None:
    start = opening()
    block, another = build(start, 1), build(start, 1, [batch(0, 1)])
    member = Member()
    member.hear(propose(block))
    for place in others(3):
        member.hear(say(place, VOTE, 1, another.digest if place == others(1)[0] else b"\1" * 32))
    assert member.simplex.height == 1


@pytest.mark.spec("SIMPLEX-LEAVE.1")
def test_three_finalizes_make_a_block_and_all_before_it_final() -> None:
    _, first, second = chain(2)
    member = Member()
    for block, parent in ((first, None), (second, first.notarization())):
        member.hear(propose(block, parent))
        member.hear(block.notarization())
    assert member.signed(FINALIZE, 2) == second.digest
    one, other = others(2)
    member.hear(say(one, FINALIZE, 2, second.digest))
    assert member.settled == []
    member.hear(say(other, FINALIZE, 2, second.digest))
    assert [header.height for header in member.settled] == [1, 2]
    assert member.simplex.tree.final_height == 2


@pytest.mark.spec("SIMPLEX-LEAVE.1")
def test_finalizes_do_not_make_final_what_is_only_notarized_by_others() -> None:
    block, member = build(opening(), 1), Member()
    member.hear(propose(block))
    member.hear(block.notarization())
    for place in others(3):
        member.hear(say(place, VOTE, 1, block.digest))
    assert member.settled == []


# Leaving


@pytest.mark.spec("SIMPLEX-LEAVE.1")
def test_with_a_notarization_it_signs_finalize_and_sends_the_certificate() -> None:
    block, member = build(opening(), 1), Member()
    sent = member.hear(Certified(block.notarization(), block.header))
    assert [type(message) for message in sent] == [Certified, State]
    assert certificates(sent) == [block.notarization()]
    assert member.signed(FINALIZE, 1) == block.digest


@pytest.mark.spec("SIMPLEX-LEAVE.1")
def test_with_a_nullification_it_signs_nothing_and_sends_the_certificate() -> None:
    member = Member()
    sent = member.hear(nullification(1))
    assert certificates(sent) == [nullification(1)]
    assert said(sent) == []
    assert member.simplex.height == 2
    assert member.signed(FINALIZE, 1) is None


@pytest.mark.spec("SIMPLEX-LEAVE.1", "SIGNER-ONCE.1")
@pytest.mark.parametrize("restarts", [False, True])
def test_after_a_nullify_it_never_signs_finalize(restarts: bool) -> None:
    block, member = build(opening(), 1), fired(Member())
    if restarts:
        member.restart()
    sent = member.hear(block.notarization())
    assert certificates(sent) == [block.notarization()], "it leaves"
    assert said(sent) == []
    assert member.signed(FINALIZE, 1) is None
    assert member.simplex.height == 2


@pytest.mark.spec("SIMPLEX-LEAVE.1", "SIGNER-ONCE.1")
@pytest.mark.parametrize("restarts", [False, True])
def test_after_a_finalize_it_never_signs_nullify(restarts: bool) -> None:
    block, member = build(opening(), 1), Member()
    member.hear(block.notarization())
    if restarts:
        member.restart()
    member.hear(batch(others(1)[0], 1))
    assert 1 not in [nullify.height for nullify in said(member.wait(LONG_MS), NULLIFY)]
    assert member.signer.sign(NULLIFY, 1, 1) is None


@pytest.mark.spec("SIMPLEX-LEAVE.1")
def test_it_never_nullifies_a_height_that_it_left() -> None:
    member = Member()
    member.hear(batch(others(1)[0], 1))
    member.wait(100)
    member.hear(nullification(1))
    assert {nullify.height for nullify in said(member.wait(LONG_MS), NULLIFY)} == {2}


@pytest.mark.spec("SIMPLEX-LEAVE.1")
def test_a_late_notarization_of_a_nullified_height_is_kept_and_not_finalized() -> None:
    block, member = build(opening(), 1), Member()
    member.hear(nullification(1))
    assert member.hear(block.notarization()) == []
    assert member.signed(FINALIZE, 1) is None
    assert member.simplex.tree.notarizations[1] == block.notarization()


@pytest.mark.spec("SIMPLEX-LEAVE.1")
def test_votes_of_its_own_making_a_late_certificate_move_nobody() -> None:
    block, member = build(opening(), 1), Member()
    member.hear(propose(block))
    member.hear(nullification(1))
    for place in others(2):
        assert certificates(member.hear(say(place, VOTE, 1, block.digest))) == []
    assert 1 in member.simplex.tree.notarizations
    assert member.simplex.height == 2


# Jumping


@pytest.mark.spec("SIMPLEX-JUMP.1")
@pytest.mark.parametrize("kind", list(CertificateKind))
@pytest.mark.parametrize("height", [1, 2, 7, 1_000_000])
def test_a_certificate_of_any_kind_and_height_moves_on(kind: CertificateKind, height: int) -> None:
    header = b"\0" * 32 if kind is NULLIFICATION else b"\5" * 32
    certificate, member = certify(kind, height, header), Member()
    sent = member.hear(certificate)
    assert member.simplex.height == height + 1
    assert certificates(sent) == [certificate]
    # It makes what it lacks known, and does not vote on it.
    assert member.signed(VOTE, height + 1) is None
    member.restart()
    assert member.simplex.height == height + 1


@pytest.mark.spec("SIMPLEX-JUMP.1")
def test_a_certificate_below_moves_nobody() -> None:
    member = Member()
    member.hear(nullification(5))
    assert member.hear(nullification(3)) == []
    assert member.simplex.height == 6
    assert member.simplex.tree.nullifications[3] == nullification(3)


@pytest.mark.spec("SIMPLEX-JUMP.1", "SIMPLEX-VOTE.1")
def test_until_the_rest_has_come_a_member_that_jumped_does_not_vote() -> None:
    blocks = chain(3)
    member = Member()
    member.hear(blocks[2].notarization())
    assert said(member.hear(propose(blocks[3], blocks[2].notarization())), VOTE) == []
    assert said(member.hear(blocks[2].block()), VOTE) == []
    vote = said(member.hear(blocks[1].block(blocks[1].notarization())), VOTE)
    assert [statement.header for statement in vote] == [blocks[3].digest]


@pytest.mark.spec("SIMPLEX-JUMP.1", "CERTIFICATE-QUORUM.1")
def test_a_forged_certificate_moves_nobody() -> None:
    good = nullification(3)
    few = Certificate(good.kind, 1, 3, good.header, good.signatures[:2])
    another = Certificate(good.kind, 1, 4, good.header, good.signatures)
    named = Certificate(good.kind, 1, 3, b"\1" * 32, good.signatures)
    disguised = Certificate(FINALIZATION, 1, 3, good.header, good.signatures)
    member = Member()
    for bad in (few, another, named, disguised):
        with pytest.raises(CommitteeError):
            member.hear(bad)
    assert member.hear(certify(NULLIFICATION, 3, epoch=2)) == [], "of an epoch that is none of this Simplex's business"
    assert member.simplex.height == 1
    assert member.disk == {}
    assert list(member.simplex.tree.certificates(above=0)) == []


@pytest.mark.spec("SIMPLEX-JUMP.1")
def test_a_header_that_the_certificate_does_not_name_is_refused() -> None:
    _, first, second = chain(2)
    member = Member()
    for bad in (
        Certified(first.notarization(), second.header),
        Certified(nullification(1), first.header),
        Certified(first.finalization(), build(opening(), 1, [batch(0, 1)]).header),
    ):
        with pytest.raises(CommitteeError):
            member.hear(bad)
    assert member.simplex.height == 1
    assert member.disk == {}


# The order of effects


def index(effects: list[object], wanted: Callable[[object], bool]) -> int:
    """Where the first such effect stands."""
    return next(place for place, effect in enumerate(effects) if wanted(effect))


def persists(prefix: bytes) -> Callable[[object], bool]:
    """An effect that makes a record of some kind durable."""
    return lambda effect: (
        isinstance(effect, Persist)
        and any(name.startswith(prefix) and value is not None for name, value in effect.records)
    )


def sends(kind: type, statement: StatementKind | None = None) -> Callable[[object], bool]:
    """An effect that sends something."""
    return lambda effect: (
        isinstance(effect, ToMembers)
        and isinstance(effect.message, kind)
        and (statement is None or (isinstance(effect.message, State) and effect.message.statement.kind is statement))
    )


@pytest.mark.spec("SIMPLEX-PERSIST.1")
def test_before_a_vote_leaves_block_certificates_and_signature_are_durable() -> None:
    _, first, _ = chain(2)
    member = Member()
    member.hear(first.block(first.notarization()))
    third = build(first, 3)
    effects = member.taken(propose(third, first.notarization(), [nullification(2)]))
    vote = index(effects, sends(State, VOTE))
    for prefix in (OPEN_BLOCK, OPEN_CERTIFICATE, *PREFIXES[:1]):
        assert index(effects, persists(prefix)) < vote
    store = {name for effect in effects[:vote] if isinstance(effect, Persist) for name, _ in effect.records}
    assert any(third.digest in name for name in store)


@pytest.mark.spec("SIMPLEX-PERSIST.1", "SIMPLEX-LEAVE.1")
def test_a_certificate_is_durable_before_it_or_anything_of_the_next_height_leaves() -> None:
    _, first, second = chain(2)
    member = Member()
    member.hear(propose(first))
    member.hear(propose(second, None))
    effects = member.taken(first.notarization())
    assert persists(OPEN_CERTIFICATE)(effects[0])
    assert sends(Certified)(effects[1])
    finalize, vote = index(effects, sends(State, FINALIZE)), index(effects, sends(State, VOTE))
    assert index(effects, persists(PREFIXES[0])) < finalize < vote


@pytest.mark.spec("SIMPLEX-PERSIST.1", "SIMPLEX-LEADER.1")
def test_a_proposals_block_and_signature_are_durable_before_it_leaves() -> None:
    member = Member()
    member.reach(MINE)
    member.hear(batch(others(1)[0], 1))
    member.now_ms += PARAMS.block_interval_ms_min
    effects = member.simplex.on_time(member.now_ms)
    proposal = index(effects, sends(Propose))
    assert index(effects, persists(OPEN_BLOCK)) < proposal
    assert index(effects, persists(PREFIXES[0])) < proposal
    assert proposal < index(effects, sends(State, VOTE))


@pytest.mark.spec("SIMPLEX-PERSIST.1")
def test_a_nullify_is_durable_before_it_leaves() -> None:
    member = Member()
    member.hear(batch(others(1)[0], 1))
    member.wait(LONG_MS)
    assert index(member.effects, persists(PREFIXES[0])) < index(member.effects, sends(State, NULLIFY))


@pytest.mark.spec("SIMPLEX-PERSIST.1")
def test_no_effect_of_consensus_ends_the_node_if_the_disk_fails() -> None:
    _, first, _ = chain(2)
    member = Member()
    effects = [*member.taken(propose(first)), *member.taken(first.notarization()), *member.taken(first.finalization())]
    durable = [effect for effect in effects if isinstance(effect, Persist)]
    assert len(durable) >= 5
    assert not any(effect.vital for effect in durable)


@pytest.mark.spec("SIMPLEX-LEAVE.1")
def test_what_is_final_is_told_after_it_is_durable_with_the_snapshot_that_is_due() -> None:
    _, first, _ = chain(2)
    member = Member(params=replace(PARAMS, snapshot_blocks=1))
    member.hear(propose(first))
    effects = member.taken(first.finalization())
    told = index(effects, lambda effect: isinstance(effect, Settled))
    assert index(effects, persists(b"chain/")) < told
    assert index(effects, persists(b"state")) < told


@pytest.mark.spec("SIMPLEX-LEAVE.1")
@pytest.mark.parametrize("proof", [Made.notarization, Made.finalization])
def test_the_same_certificate_twice_is_taken_once(proof: Callable[[Made], Certificate]) -> None:
    block, member = build(opening(), 1), Member()
    assert member.hear(proof(block))
    assert member.hear(proof(block)) == []
    assert member.hear(certify(NOTARIZATION, 1, block.digest, [0, 1, 2, 3][:3])) == [] or proof is Made.finalization
