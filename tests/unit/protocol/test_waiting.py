"""The batches that wait: which are taken, which are dropped, and never more than there is room for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.committee.certificates import CommitteeError
from protocol.committee.cut import content_bytes_max
from protocol.committee.evidence import convict
from protocol.committee.waiting import Waiting
from protocol.core.errors import RemoteProtocolError
from protocol.messages.committee import Offer, SignedBatch
from tests.unit.protocol.committee_at_hand import (
    DOMAIN,
    KEYS,
    LEDGER,
    PARAMS,
    START_MS,
    Member,
    batch,
    batches,
    body_of,
    build,
    committee_of,
    digest_of,
    keyed,  # noqa: F401
    opening,
    others,
)

ONE, OTHER, THIRD = others(3)
ROOM = PARAMS.batches_waiting_max


# Taken and forwarded


@pytest.mark.spec("BATCH-FORWARD.1")
def test_a_new_batch_is_forwarded_to_all_once() -> None:
    member, signed = Member(), batch(ONE, 1)
    assert member.hear(Offer(signed)) == [Offer(signed)]
    assert member.hear(Offer(signed)) == []
    assert list(member.simplex.waiting.all()) == [signed]


@pytest.mark.spec("BATCH-FORWARD.1")
def test_up_to_a_bound_beyond_the_last_final_one_in_any_order() -> None:
    made = batches(ONE, ROOM + 2)
    member = Member()
    for signed in made[::-1]:
        expected = [Offer(signed)] if signed.batch.number <= ROOM else []
        assert member.hear(signed) == expected
    assert len(member.simplex.waiting) == ROOM
    # When some are final there is room for as many more, and what was final is not taken again.
    block = build(opening(), 1, made[:2])
    member.hear(block.block(block.finalization()))
    assert len(member.simplex.waiting) == ROOM - 2
    assert member.hear(made[0]) == []
    for signed in made[ROOM:]:
        assert member.hear(signed)[0] == Offer(signed)
    assert len(member.simplex.waiting) == ROOM


@pytest.mark.spec("BATCH-FORWARD.1")
def test_of_this_epoch_or_the_two_before() -> None:
    state = LEDGER.genesis(committee_of(1))
    for epoch in (2, 3, 4):
        state = LEDGER.turn(state, committee_of(epoch))
    waiting = Waiting(DOMAIN, PARAMS)
    wanted = [epoch for epoch in range(7) if waiting.wants(batch(ONE, 1, home_epoch=epoch), state)]
    assert wanted == [2, 3, 4]


@pytest.mark.spec("BATCH-FORWARD.1")
def test_of_oracles_alone_and_within_the_bound_of_content() -> None:
    member = Member()
    assert member.hear(batch(5, 1)) == []
    assert member.hear(batch(ONE, 1, content=b"x" * (content_bytes_max(PARAMS) + 1))) == []
    assert member.hear(batch(ONE, 0)) == []
    assert len(member.simplex.waiting) == 0


@pytest.mark.spec("BATCH-FORWARD.1")
def test_a_forged_one_is_refused_and_not_kept() -> None:
    good, member = batch(ONE, 1), Member()
    for bad in (
        SignedBatch(good.batch, bytes(64) + b"\x1b", good.content),
        SignedBatch(good.batch, bytes(65), good.content),
        SignedBatch(good.batch, batch(OTHER, 1).signature, good.content),
        SignedBatch(good.batch, good.signature, b"another"),
    ):
        with pytest.raises(RemoteProtocolError):
            member.hear(bad)
    assert len(member.simplex.waiting) == 0
    assert CommitteeError.code == "remote/committee"
    assert member.hear(good) == [Offer(good)]


@pytest.mark.spec("BATCH-FORWARD.1")
def test_two_of_one_number_convict_their_oracle_and_the_first_stays() -> None:
    member, first = Member(), batch(ONE, 1)
    member.hear(first)
    for content in (b"a", b"b"):
        assert member.hear(batch(ONE, 1, content=content)) == []
    assert [convict(DOMAIN, evidence) for evidence in member.convicted] == [KEYS[ONE].node_id] * 2
    assert list(member.simplex.waiting.all()) == [first]


# Offered, owed, settled


def test_what_is_offered_continues_every_chain_as_far_as_it_goes() -> None:
    waiting, state = Waiting(DOMAIN, PARAMS), opening().state
    one, two, three = batches(ONE, 3)
    for signed in (three, one, batch(OTHER, 2, b"\1" * 32)):
        waiting.add(signed, START_MS)
    assert list(waiting.offered(state)) == [one]
    waiting.add(two, START_MS + 1)
    assert list(waiting.offered(state)) == [one, two, three]
    assert list(waiting.offered(state, before_ms=START_MS)) == [one], "and no further than the first that is younger"
    after = LEDGER.execute(state, body_of([one, two]))
    assert list(waiting.offered(after)) == [three]


def test_settling_drops_what_is_final_and_what_can_follow_nothing() -> None:
    waiting, state = Waiting(DOMAIN, PARAMS), opening().state
    mine = batches(ONE, 4)
    another = batch(OTHER, 1, content=b"another")
    for signed in (*mine, *batches(OTHER, 3)):
        waiting.add(signed, START_MS)
    ordered = sorted([*mine[:2], another], key=lambda signed: (signed.batch.oracle, signed.batch.number))
    waiting.settle(LEDGER.execute(state, body_of(ordered)))
    assert list(waiting.all()) == mine[2:], "the other's second batch names a first that is not in the chain"


def test_settling_keeps_what_a_gap_still_separates() -> None:
    waiting, state = Waiting(DOMAIN, PARAMS), opening().state
    mine = batches(ONE, 3)
    waiting.add(mine[2], START_MS)
    waiting.settle(LEDGER.execute(state, body_of(mine[:1])))
    assert list(waiting.all()) == [mine[2]]


def test_a_home_that_is_too_long_ago_is_dropped() -> None:
    waiting, state = Waiting(DOMAIN, PARAMS), opening().state
    waiting.add(batch(ONE, 1), START_MS)
    for epoch in (2, 3):
        state = LEDGER.turn(state, committee_of(epoch))
        waiting.settle(state)
        assert len(waiting) == 1
    waiting.settle(LEDGER.turn(state, committee_of(4)))
    assert len(waiting) == 0


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 9), st.integers(0, 2)), max_size=60))
def test_it_never_holds_more_than_its_bound(spam: list[tuple[int, int, int, int]]) -> None:
    member = Member()
    for place, home, number, content in spam:
        member.hear(batch(place, number, content=bytes([content]), home_epoch=home))
    assert len(member.simplex.waiting) <= 4 * ROOM
    assert member.simplex.waiting.convicted <= {key.node_id for key in KEYS[:4]}


def test_names_are_digests() -> None:
    assert digest_of(batch(ONE, 1)) != digest_of(batch(THIRD, 1))
