"""What a body may hold, what it owes, and when a member may refuse it for that."""

from collections.abc import Sequence

import msgspec
import pytest

from p2pnode.sim.counter import CounterState
from protocol.committee.certificates import batch_digest
from protocol.committee.cut import BATCH_BYTES, content_bytes_max, omitted, open_cut, pack_cut, share_bytes
from protocol.committee.payload import InvalidBody
from protocol.core.codec import pack
from protocol.core.ids import ZERO_DIGEST
from protocol.core.params import COMMITTEE_SIZES
from protocol.messages.committee import SignedBatch
from tests.unit.protocol.committee_at_hand import (
    DOMAIN,
    LEDGER,
    ME,
    PARAMS,
    START_MS,
    STRANGER,
    VOTE,
    Member,
    batch,
    batches,
    body_of,
    build,
    chain,
    committee_of,
    digest_of,
    keyed,  # noqa: F401
    nullification,
    opening,
    others,
    propose,
    said,
    say,
)

ONE, OTHER, THIRD = others(3)
LARGEST = content_bytes_max(PARAMS)


def genesis(size: int = 4) -> CounterState:
    """The first state of a committee of this size."""
    return LEDGER.genesis(committee_of(1, size))


def refused(included: Sequence[SignedBatch], state: CounterState | None = None) -> str | None:
    """Why a body of these batches does not hold."""
    try:
        open_cut(DOMAIN, PARAMS, state or genesis(), body_of(included))
    except InvalidBody as error:
        return str(error)
    return None


def filled(place: int, size: int) -> list[SignedBatch]:
    """An oracle's chain that takes up exactly so many bytes of a body."""
    made: list[SignedBatch] = []
    while size:
        previous = digest_of(made[-1]) if made else ZERO_DIGEST
        number, room = len(made) + 1, min(size, 2_000)
        if 0 < size - room < 800:
            room = size - 800
        empty = len(pack(batch(place, number, previous, b"x" * 300))) - 300
        made.append(batch(place, number, previous, b"x" * (room - empty)))
        assert len(pack(made[-1])) == room
        size -= room
    return made


# Valid


@pytest.mark.spec("CUT-VALID.1")
def test_batches_that_continue_their_oracles_chains_in_order_are_a_cut() -> None:
    chains = [batches(place, 3) for place in range(4)]
    in_order = [signed for made in sorted(chains, key=lambda made: made[0].batch.oracle) for signed in made]
    assert refused(in_order) is None
    after = LEDGER.execute(genesis(), body_of(in_order))
    assert after.count == 12
    assert all(after.included(1, made[2].batch.oracle) == (3, digest_of(made[2])) for made in chains)
    assert refused([batches(ONE, 4)[3]], after) is None, "and the next body goes on from there"
    assert refused(batches(ONE, 1), after) is not None


@pytest.mark.spec("CUT-VALID.1")
def test_another_order_a_gap_or_a_second_time_is_none() -> None:
    one, two, three = batches(ONE, 3)
    low, high = sorted((batch(ONE, 1), batch(OTHER, 1)), key=lambda signed: signed.batch.oracle)
    assert refused([low, high]) is None
    for bad in ([high, low], [two], [one, three], [two, one], [one, one], [one, two, two]):
        assert refused(bad) is not None


@pytest.mark.spec("CUT-VALID.1")
def test_a_batch_on_another_batch_than_the_one_before_is_refused() -> None:
    first, another = batch(ONE, 1), batch(ONE, 1, content=b"another")
    assert refused([first, batch(ONE, 2, digest_of(first))]) is None
    assert refused([first, batch(ONE, 2, digest_of(another))]) is not None
    assert refused([first, batch(ONE, 2)]) is not None
    after = LEDGER.execute(genesis(), body_of([another]))
    assert refused([batch(ONE, 2, digest_of(first))], after) is not None


@pytest.mark.spec("CUT-VALID.1", "BATCH-FORWARD.1")
def test_whoever_is_no_oracle_of_the_home_epoch_is_refused() -> None:
    stranger = msgspec.structs.replace(batch(ONE, 1).batch, oracle=STRANGER.node_id)
    signed = SignedBatch(stranger, STRANGER.sign(batch_digest(DOMAIN, stranger)), b"content")
    assert refused([signed]) is not None
    assert refused([batch(5, 1)]) is not None
    assert refused([batch(ONE, 1, home_epoch=2)]) is not None
    assert refused([batch(ONE, 0)]) is not None


@pytest.mark.spec("CUT-VALID.1")
def test_batches_of_the_two_epochs_before_may_enter_and_older_ones_not() -> None:
    state = genesis()
    for epoch in (2, 3):
        state = LEDGER.turn(state, committee_of(epoch))
    old, new = batch(ONE, 1, home_epoch=1), batch(ONE, 1, home_epoch=3)
    assert refused([old, new], state) is None
    assert refused([new, old], state) is not None, "by home epoch first"
    later = LEDGER.turn(state, committee_of(4))
    assert refused([old], later) is not None
    assert refused([new], later) is None


@pytest.mark.spec("CUT-VALID.1")
def test_a_forged_batch_is_refused() -> None:
    good = batch(ONE, 1)
    assert refused([SignedBatch(good.batch, bytes(64) + b"\x1b", good.content)]) is not None
    assert refused([SignedBatch(good.batch, bytes(65), good.content)]) is not None
    assert refused([SignedBatch(good.batch, batch(OTHER, 1).signature, good.content)]) is not None
    assert refused([SignedBatch(good.batch, good.signature, b"another")]) is not None


@pytest.mark.spec("CUT-VALID.1")
@pytest.mark.parametrize("body", [b"\x00", b"\x90", b"\x91\x90", b"\xc1", bytes(1_000)])
def test_a_body_that_does_not_decode_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidBody):
        open_cut(DOMAIN, PARAMS, genesis(), body)


@pytest.mark.spec("CUT-VALID.1")
def test_each_oracle_has_its_share_and_not_a_byte_more() -> None:
    share = share_bytes(PARAMS, genesis())
    exact = filled(ONE, share)
    assert sum(len(pack(signed)) for signed in exact) == share
    assert refused(exact) is None
    more = filled(ONE, share + 1)
    assert "share" in str(refused(more))
    both = sorted([*exact, *batches(OTHER, 1)], key=lambda signed: (signed.batch.oracle, signed.batch.number))
    assert refused(both) is None, "what one has not left, another has"


@pytest.mark.spec("CUT-VALID.1")
@pytest.mark.parametrize("size", [4, 7, 31])
def test_all_shares_together_fit_a_block(size: int) -> None:
    share = share_bytes(PARAMS, genesis(size))
    offered = [signed for place in range(size) for signed in filled(place, share)]
    body = LEDGER.propose(genesis(size), offered)
    assert LEDGER.execute(genesis(size), body).count == len(offered), "all of it is in"
    assert len(body) <= PARAMS.block_bytes_max, "or the leader's own proposal would be refused"


@pytest.mark.spec("CUT-VALID.1")
@pytest.mark.parametrize("size", COMMITTEE_SIZES)
def test_the_largest_batch_fits_every_share_there_may_be(size: int) -> None:
    largest = batch(0, 2**40, b"\xff" * 32, b"x" * LARGEST, home_epoch=2**40)
    assert len(pack(largest)) <= LARGEST + BATCH_BYTES <= share_bytes(PARAMS, genesis(size)) // 3


@pytest.mark.spec("CUT-VALID.1")
def test_a_batch_with_too_much_content_is_refused_though_it_fits_the_share() -> None:
    assert refused([batch(ONE, 1, content=b"x" * LARGEST)]) is None
    assert refused([batch(ONE, 1, content=b"x" * (LARGEST + 1))]) is not None


@pytest.mark.spec("CUT-VALID.1", "CUT-FAIR.1")
def test_what_a_leader_packs_is_a_fair_cut_and_takes_the_oldest_first() -> None:
    state, share = genesis(), share_bytes(PARAMS, genesis())
    offered = [*filled(ONE, 2 * share), *batches(OTHER, 3), *batches(THIRD, 1)]
    body = pack_cut(PARAMS, state, offered)
    taken = open_cut(DOMAIN, PARAMS, state, body)
    mine = [signed.batch.number for signed in taken if signed in offered[: len(filled(ONE, 2 * share))]]
    assert mine == list(range(1, len(mine) + 1))
    assert len(taken) == len(mine) + 4
    assert omitted(PARAMS, state, LEDGER.execute(state, body), body, offered) is None


def test_nothing_offered_is_an_empty_body() -> None:
    assert pack_cut(PARAMS, genesis(), []) == b""
    assert open_cut(DOMAIN, PARAMS, genesis(), b"") == ()
    assert LEDGER.execute(genesis(), b"") is not None


# Fair


OLD_MS = 2 * PARAMS.delta_ms


def entered(*held: SignedBatch, age_ms: int = OLD_MS) -> Member:
    """A member that took some batches so long before it entered height 2."""
    member = Member()
    for signed in held:
        member.hear(signed)
    member.now_ms += age_ms
    member.hear(nullification(1))
    return member


def votes(member: Member, included: Sequence[SignedBatch]) -> bool:
    """Whether a member votes for a block at height 2 with these batches."""
    return bool(said(member.hear(propose(build(opening(), 2, included))), VOTE))


@pytest.mark.spec("CUT-FAIR.1")
def test_a_block_that_leaves_out_what_is_owed_gets_no_vote() -> None:
    assert not votes(entered(batch(ONE, 1)), [])
    assert votes(entered(batch(ONE, 1)), [batch(ONE, 1)])
    assert not votes(entered(batch(ONE, 1), batch(OTHER, 1)), [batch(ONE, 1)])
    assert not votes(entered(*batches(ONE, 3)), batches(ONE, 2))
    assert votes(entered(*batches(ONE, 2)), batches(ONE, 3)), "more than is owed is fine"


@pytest.mark.spec("CUT-FAIR.1")
@pytest.mark.parametrize(("age_ms", "fine"), [(OLD_MS, False), (OLD_MS - 1, True), (0, True)])
def test_what_came_less_than_two_delta_before_the_height_is_not_owed(age_ms: int, fine: bool) -> None:
    assert votes(entered(batch(ONE, 1), age_ms=age_ms), []) == fine


@pytest.mark.spec("CUT-FAIR.1")
def test_waiting_at_the_height_makes_nothing_owed() -> None:
    member = entered(batch(ONE, 1), age_ms=0)
    member.now_ms += 10 * OLD_MS
    assert votes(member, [])


@pytest.mark.spec("CUT-FAIR.1")
def test_what_follows_a_batch_that_is_not_owed_is_not_owed_either() -> None:
    one, two = batches(ONE, 2)
    member = Member()
    member.hear(two)
    member.now_ms += OLD_MS
    member.hear(one)
    member.hear(nullification(1))
    assert votes(member, [])


@pytest.mark.spec("CUT-FAIR.1")
def test_what_does_not_continue_its_oracles_chain_as_the_parent_has_it_is_not_owed() -> None:
    another = batch(ONE, 1, content=b"another")
    assert votes(entered(batches(ONE, 2)[1]), [])
    # The parent has another first batch, so the second one that is held leads nowhere.
    member = entered(batches(ONE, 2)[1])
    parent = build(opening(), 2, [another])
    member.hear(propose(parent))
    member.hear(parent.notarization())
    assert said(member.hear(propose(build(parent, 3))), VOTE)


@pytest.mark.spec("CUT-FAIR.1")
def test_what_is_in_the_parent_is_not_owed_again() -> None:
    member = entered(batch(ONE, 1))
    parent = build(opening(), 2, [batch(ONE, 1)])
    member.hear(propose(parent))
    member.hear(parent.notarization())
    assert said(member.hear(propose(build(parent, 3))), VOTE)


@pytest.mark.spec("CUT-FAIR.1")
def test_what_does_not_fit_the_share_is_not_owed() -> None:
    state, share = genesis(), share_bytes(PARAMS, genesis())
    made = filled(ONE, share)
    last = batch(ONE, len(made) + 1, digest_of(made[-1]))
    for held, owed in ((made, None), (made[:-1], made[-1])):
        body = body_of(held)
        assert omitted(PARAMS, state, LEDGER.execute(state, body), body, [*made, last]) == owed


@pytest.mark.spec("CUT-FAIR.1")
def test_an_oracle_under_evidence_is_owed_nothing() -> None:
    member = entered(batch(ONE, 1), batch(OTHER, 1))
    member.hear(batch(ONE, 1, content=b"another"))
    assert len(member.convicted) == 1
    assert votes(member, [batch(OTHER, 1)])
    member = entered(batch(ONE, 1), batch(OTHER, 1))
    member.hear(batch(ONE, 1, content=b"another"))
    assert not votes(member, [batch(ONE, 1)]), "the others are owed as before"


@pytest.mark.spec("CUT-FAIR.1")
def test_two_votes_are_evidence_as_well() -> None:
    member = entered(batch(ONE, 1))
    for header in (b"\1" * 32, b"\2" * 32):
        member.hear(say(ONE, VOTE, 5, header))
    assert votes(member, [])


@pytest.mark.spec("CUT-FAIR.1")
def test_nothing_is_owed_by_a_member_that_has_just_started() -> None:
    member = entered(batch(ONE, 1))
    member.restart()
    member.hear(nullification(1))
    assert votes(member, [])


@pytest.mark.spec("CUT-FAIR.1", "SIMPLEX-LEADER.1")
def test_a_leader_owes_what_it_holds_to_the_last_batch() -> None:
    blocks = chain(1)
    member = Member(place=others(1)[0])
    assert member.place != ME
    state = blocks[0].state
    waiting = member.simplex.waiting
    for signed in batches(OTHER, 3):
        waiting.add(signed, START_MS)
    body = LEDGER.propose(state, list(waiting.offered(state)))
    assert LEDGER.omits(state, LEDGER.execute(state, body), body, list(waiting.owed(state, START_MS))) is None
