"""How an epoch closes and the next one begins."""

from typing import Any

import pytest

from p2pnode.sim.counter import CounterLedger
from protocol.committee.certificates import CommitteeError
from protocol.committee.effects import Closed
from protocol.committee.election import committee_root
from protocol.committee.epochs import Epochs
from protocol.committee.repeats import resend
from protocol.committee.signer import Signer
from protocol.committee.simplex import Rules
from protocol.committee.storage import STATE
from protocol.committee.waiting import Waiting
from protocol.core.errors import ParameterError
from protocol.core.machine import Persist
from protocol.messages.committee import EMPTY_BODY, Certified, Propose
from tests.unit.protocol.committee_at_hand import (
    DOMAIN,
    FINALIZATION,
    FINALIZE,
    KEYS,
    LEDGER,
    ME,
    NULLIFY,
    PARAMS,
    PROPOSAL,
    START_MS,
    VOTE,
    Made,
    Member,
    batch,
    batches,
    build,
    certify,
    chain,
    committee_of,
    keyed,  # noqa: F401
    leader,
    members_of,
    nullification,
    opening,
    others,
    propose,
    said,
    say,
    store,
)

LAST = PARAMS.epoch_blocks


def bring(member: Member, *blocks: Made) -> None:
    """Blocks and their notarizations arrive."""
    for block in blocks:
        member.hear(block.block(block.notarization()))


def whole() -> list[Made]:
    """The blocks of an epoch, the first and the last with something in it."""
    one, other = batches(0, 2)
    blocks = [opening()]
    for height in range(1, LAST + 1):
        blocks.append(build(blocks[-1], height, {1: [one], LAST: [other]}.get(height, [])))
    return blocks


# Closing heights


@pytest.mark.spec("EPOCH-CLOSING.1")
def test_the_last_height_may_have_a_body_and_those_above_may_not() -> None:
    blocks = whole()
    member = Member()
    bring(member, *blocks[1:LAST])
    full = blocks[LAST]
    assert said(member.hear(propose(full, blocks[LAST - 1].notarization())), VOTE)
    member.hear(full.notarization())
    item = batches(0, 3)[2:]
    assert said(member.hear(propose(build(full, LAST + 1, item), full.notarization())), VOTE) == []
    assert member.signed(VOTE, LAST + 1) is None


@pytest.mark.spec("EPOCH-CLOSING.1", "CUT-FAIR.1")
def test_a_closing_block_is_empty_changes_nothing_and_owes_nobody_anything() -> None:
    blocks = whole()
    member = Member()
    member.hear(batches(0, 3)[2])
    member.wait(10_000)
    bring(member, *blocks[1:])
    closing = build(blocks[LAST], LAST + 1)
    assert said(member.hear(propose(closing, blocks[LAST].notarization())), VOTE)


@pytest.mark.spec("EPOCH-CLOSING.1")
def test_a_closing_block_that_claims_another_state_gets_no_vote() -> None:
    blocks = whole()
    member = Member()
    bring(member, *blocks[1:])
    wrong = build(blocks[LAST], LAST + 1, results_count=99)
    assert said(member.hear(propose(wrong, blocks[LAST].notarization())), VOTE) == []


@pytest.mark.spec("EPOCH-CLOSING.1", "SIMPLEX-TIMER.2")
def test_the_leader_of_a_closing_height_proposes_an_empty_block_whatever_waits() -> None:
    height = next(height for height in range(LAST + 1, LAST + 9) if leader(height) == ME)
    member = Member()
    member.hear(batch(0, 1))
    member.reach(height)
    (proposal,) = [message for message in member.wait(500) if isinstance(message, Propose)]
    assert proposal.header.body == EMPTY_BODY
    assert proposal.header.results_count == 0


# Closing


@pytest.mark.spec("EPOCH-CLOSE.1")
def test_a_finalization_below_the_last_height_closes_nothing() -> None:
    blocks = whole()
    member = Member()
    bring(member, *blocks[1:LAST])
    member.hear(blocks[LAST - 1].finalization())
    assert member.simplex.committee.epoch == 1


@pytest.mark.spec("EPOCH-CLOSE.1")
def test_a_notarization_of_the_last_height_closes_nothing() -> None:
    blocks = whole()
    member = Member()
    bring(member, *blocks[1:])
    assert member.simplex.height == LAST + 1
    assert member.simplex.committee.epoch == 1


def closed_by(height: int, *, skip: int = 0) -> Member:
    """A member whose epoch was closed by a finalization of this height; ``skip`` closing heights were nullified."""
    blocks = whole()
    while blocks[-1].height < height:
        at = blocks[-1].height + 1 + (skip if blocks[-1].height == LAST else 0)
        blocks.append(build(blocks[-1], at))
    member = Member()
    bring(member, *blocks[1 : LAST + 1])
    for gap in range(LAST + 1, LAST + 1 + skip):
        member.hear(nullification(gap))
    bring(member, *blocks[LAST + 1 :])
    member.hear(blocks[-1].finalization())
    return member


@pytest.mark.spec("EPOCH-CLOSE.1", "EPOCH-HANDOVER.1")
def test_all_certificates_that_close_an_epoch_agree_on_how_the_next_begins() -> None:
    ends = [closed_by(LAST), closed_by(LAST + 1), closed_by(LAST + 2), closed_by(LAST + 3, skip=2)]
    assert [member.simplex.committee.epoch for member in ends] == [2, 2, 2, 2]
    assert {member.simplex.tree.base.digest for member in ends} == {opening(2, whole()[LAST].state).digest}
    assert {member.simplex.tree.base.state.pack() for member in ends} == {
        LEDGER.turn(whole()[LAST].state, committee_of(2)).pack()
    }
    assert {member.closing.certificate.height for member in ends if member.closing} == {LAST, LAST + 1, LAST + 2, 11}


@pytest.mark.spec("EPOCH-CLOSE.1")
def test_a_finalized_closing_block_above_a_nullified_last_height_closes_at_the_block_below() -> None:
    blocks = whole()[:LAST]
    member = Member()
    bring(member, *blocks[1:])
    member.hear(nullification(LAST))
    closing = build(blocks[-1], LAST + 1)
    bring(member, closing)
    member.hear(closing.finalization())
    assert member.simplex.committee.epoch == 2
    assert member.simplex.tree.base.digest == opening(2, blocks[-1].state).digest


@pytest.mark.spec("EPOCH-CLOSE.1")
def test_the_next_epoch_begins_at_height_1_with_the_roots_that_closed_the_last() -> None:
    member = closed_by(LAST)
    base = member.simplex.tree.base.header
    assert (base.epoch, base.height, base.parent, base.body) == (2, 0, bytes(32), EMPTY_BODY)
    assert base.results_count == 2
    assert member.simplex.height == 1
    first = build(opening(2, whole()[LAST].state), 1)
    assert [vote.epoch for vote in said(member.hear(propose(first)), VOTE)] == [2]


@pytest.mark.spec("EPOCH-CLOSE.2")
def test_who_holds_a_closing_finalization_says_nothing_more_in_that_epoch() -> None:
    blocks = whole()
    member = Member()
    # The finalization comes without the blocks, so the epoch cannot be turned yet.
    member.hear(certify(FINALIZATION, LAST + 1, b"\5" * 32))
    assert member.simplex.committee.epoch == 1
    assert member.simplex.height == LAST + 2
    bring(member, *blocks[1:4])
    mine = next(height for height in range(LAST + 2, LAST + 9) if leader(height) == ME)
    sent = member.hear(propose(build(blocks[3], LAST + 2)))
    member.reach(mine)
    sent += member.wait(1_000_000)
    assert said(sent) == []
    assert not any(isinstance(message, Propose) for message in sent)
    for kind in (PROPOSAL, VOTE, NULLIFY):
        assert all(member.signed(kind, height) is None for height in range(LAST + 1, mine + 1))
    assert member.signed(FINALIZE, LAST + 1) is None
    member.restart()
    assert said(member.wait(1_000_000)) == []


@pytest.mark.spec("EPOCH-CLOSE.2", "EPOCH-CLOSE.1")
def test_what_is_missing_comes_and_the_epoch_turns() -> None:
    blocks = whole()
    member = Member()
    member.hear(blocks[LAST].finalization())
    for block in blocks[LAST:0:-1]:
        assert member.simplex.committee.epoch == 1
        member.hear(block.block(block.notarization()))
    assert member.simplex.committee.epoch == 2
    assert [header.height for header in member.settled] == list(range(1, LAST + 1))


@pytest.mark.spec("EPOCH-CLOSE.2")
def test_statements_of_a_closed_epoch_fall_on_deaf_ears() -> None:
    member = closed_by(LAST)
    before = dict(member.disk)
    for message in (
        say(others(1)[0], VOTE, LAST + 1, b"\1" * 32),
        nullification(LAST + 1),
        propose(build(whole()[LAST], LAST + 1)),
        whole()[LAST].block(whole()[LAST].finalization()),
    ):
        assert member.hear(message) == []
    assert member.disk == before


# Handing over


class Following:
    """Genesis members first, then four others, then again."""

    FIRST, SECOND = tuple(key.node_id for key in KEYS[:4]), tuple(key.node_id for key in KEYS[3:7])

    def __call__(self, committee: Any) -> Any:
        return self.SECOND if committee.members == self.FIRST else self.FIRST


@pytest.mark.spec("EPOCH-HANDOVER.1")
def test_every_header_names_the_committee_that_follows_and_it_does() -> None:
    ledger = CounterLedger(DOMAIN, PARAMS, Following())
    key = KEYS[3]
    signer = Signer(DOMAIN, key.node_id, key.sign)
    signer.ready = True
    epochs = Epochs(Rules(DOMAIN, PARAMS), ledger, signer, Waiting(DOMAIN, PARAMS), Following.FIRST)
    simplex = epochs.genesis(START_MS)
    state, parent = simplex.tree.base.state, simplex.tree.base.digest
    assert simplex.tree.base.header.next_committee == committee_root(Following.SECOND)
    blocks = []
    for height in range(1, LAST + 1):
        blocks.append(on(parent, height, state))
        parent = blocks[-1].digest
    effects = [effect for block in blocks for effect in simplex.on_block(block.block(block.notarization()), START_MS)]
    assert {header.header.next_committee for header in blocks} == {committee_root(Following.SECOND)}
    another = on(parent, LAST, state, next_committee=committee_root(Following.FIRST))
    with pytest.raises(CommitteeError):
        simplex.on_block(another.block(blocks[-1].notarization()), START_MS)
    effects += simplex.on_certified(Certified(blocks[-1].finalization(), None), START_MS)
    assert isinstance(effects[-1], Closed)
    second, closing, _ = epochs.next(simplex, START_MS)
    assert second.committee.members == Following.SECOND
    assert second.me == 0, "the member that is in both"
    assert closing == Certified(blocks[-1].finalization(), blocks[-1].header)
    assert second.tree.base.header.next_committee == committee_root(Following.SECOND)
    assert second.tree.base.state.next_members == Following.FIRST
    assert second.tree.base.state.homes == {1: Following.FIRST, 2: Following.SECOND}


def on(parent: bytes, height: int, state: Any, **wrong: Any) -> Made:
    """An empty block in a world with another ledger."""
    from protocol.committee.payload import make_header
    from tests.unit.protocol.committee_at_hand import dress

    return dress(make_header(1, height, parent, state.roots, EMPTY_BODY), b"", state, wrong)


@pytest.mark.spec("EPOCH-HANDOVER.1")
def test_a_header_that_names_another_committee_to_follow_gets_no_vote() -> None:
    wrong = build(opening(), 1, next_committee=committee_root(members_of(4)[::-1]))
    assert said(Member().hear(propose(wrong)), VOTE) == []


@pytest.mark.spec("COMMITTEE-QUORUM.1")
@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 6, 8, 30])
def test_a_committee_of_another_size_never_begins(size: int) -> None:
    signer = Signer(DOMAIN, KEYS[0].node_id, KEYS[0].sign)
    members = tuple(key.node_id for key in KEYS[:size])
    with pytest.raises(ParameterError):
        Epochs(Rules(DOMAIN, PARAMS), LEDGER, signer, Waiting(DOMAIN, PARAMS), members).genesis(START_MS)


# Crashes


@pytest.mark.spec("EPOCH-CLOSE.1", "EPOCH-HANDOVER.1")
def test_a_crash_at_any_effect_of_the_close_leads_to_the_same_next_epoch() -> None:
    whole_story = closed_by(LAST)
    blocks = whole()
    for crash in range(20):
        member = Member()
        bring(member, *blocks[1:])
        effects = member.taken(blocks[LAST].finalization())
        turned = False
        for effect in effects[:crash]:
            if isinstance(effect, Persist):
                store(member.disk, effect)
            turned = turned or isinstance(effect, Closed)
        member.restart()
        member.hear(blocks[LAST].finalization())
        assert member.simplex.committee.epoch == 2
        assert member.simplex.tree.base == whole_story.simplex.tree.base
        assert member.closing == whole_story.closing
        assert member.disk[STATE] == whole_story.disk[STATE]
    assert turned, "the last crash came after the whole event"


@pytest.mark.spec("EPOCH-CLOSE.1")
def test_after_a_restart_in_the_next_epoch_what_closed_the_last_is_still_known() -> None:
    member = closed_by(LAST + 1)
    closing = member.closing
    first = build(opening(2, whole()[LAST].state), 1)
    member.hear(propose(first))
    member.hear(first.notarization())
    member.restart()
    assert member.closing == closing
    assert (member.simplex.committee.epoch, member.simplex.height) == (2, 2)
    assert member.signed(VOTE, 1, epoch=2) == first.digest
    assert [statement.epoch for statement in said([effect.message for effect in resend(member.simplex)])] == [2, 2]


@pytest.mark.spec("EPOCH-CLOSE.1")
def test_a_closed_epoch_leaves_nothing_open_on_disk() -> None:
    member = closed_by(LAST + 2)
    assert [name for name in member.disk if name.startswith(b"open/")] == []
    assert sum(name.startswith(b"chain/") for name in member.disk) == LAST + 2


@pytest.mark.spec("EPOCH-CLOSE.1")
def test_what_lies_above_the_closing_block_is_dropped() -> None:
    blocks = whole()
    member = Member()
    bring(member, *blocks[1:])
    above = build(blocks[LAST], LAST + 1)
    member.hear(propose(above, blocks[LAST].notarization()))
    bring(member, above)
    member.hear(nullification(LAST + 2))
    member.hear(blocks[LAST].finalization())
    assert member.simplex.committee.epoch == 2
    assert [name for name in member.disk if name.startswith(b"open/")] == []
    assert chain(1)[1].digest != above.digest
