"""What consensus expects of a payload: of the real ledger, and of the one that simulations count with."""

from collections.abc import Sequence
from typing import Any

import pytest

from p2pnode.sim.counter import CounterLedger
from protocol.committee.certificates import batch_digest
from protocol.committee.cut import Cut, content_bytes_max, share_bytes
from protocol.committee.election import committee_root
from protocol.committee.members import Committee, make_committee
from protocol.committee.payload import InvalidBody, Payload
from protocol.core.codec import pack
from protocol.core.errors import DecodeError
from protocol.core.ids import ZERO_DIGEST, NodeId
from protocol.ledger import Ledger
from protocol.messages.committee import SignedBatch
from protocol.messages.results import Content
from tests.unit.protocol.ledger_at_hand import (
    DOMAIN,
    GENESIS,
    ORACLES,
    PARAMS,
    batch_of,
    keyed,  # noqa: F401
    session_of,
    signed_session,
    withdraw_of,
)

MEMBERS = GENESIS.committee


def rotated(committee: Committee) -> tuple[NodeId, ...]:
    """Another committee follows each."""
    return (*committee.members[1:], committee.members[0])


LEDGERS = {
    "counter": CounterLedger(DOMAIN, PARAMS, rotated),
    "ledger": Ledger(DOMAIN, PARAMS, GENESIS, rotated),
}


@pytest.fixture(params=LEDGERS)
def ledger(request: pytest.FixtureRequest) -> Payload:
    """Each of them."""
    return LEDGERS[request.param]


def committee_of(epoch: int, members: tuple[NodeId, ...] = MEMBERS) -> Committee:
    """The committee of an epoch."""
    return make_committee(DOMAIN.network_id, epoch, members)


def genesis(ledger: Payload) -> Any:
    """The first state."""
    return ledger.genesis(committee_of(1))


def chain(place: int, count: int, home: int = 1, first: Any = None) -> list[SignedBatch]:
    """An oracle's batches, each with something in it that both ledgers may make of what they like."""
    made: list[SignedBatch] = []
    number, previous = first or (0, ZERO_DIGEST)
    for _ in range(count):
        content = Content(withdrawals=(withdraw_of(10 * number + place + 1),), sessions=(signed_session(session_of()),))
        made.append(batch_of(ORACLES[place], pack(content), number + 1, previous, home))
        number, previous = number + 1, batch_digest(DOMAIN, made[-1].batch)
    return made


def body_of(batches: Sequence[SignedBatch]) -> bytes:
    """A body, whatever is wrong with it."""
    return pack(Cut(tuple(batches)))


def test_a_network_begins_with_an_empty_cut(ledger: Payload) -> None:
    state = genesis(ledger)
    assert state.homes == {1: MEMBERS}
    assert state.next_members == rotated(committee_of(1))
    assert state.roots.next_committee == committee_root(state.next_members)
    assert state.roots.results_count == 0
    assert state.included(1, MEMBERS[0]) == (0, ZERO_DIGEST)
    assert genesis(ledger).roots == state.roots


def test_nothing_to_say_is_an_empty_body_that_changes_no_root(ledger: Payload) -> None:
    state = genesis(ledger)
    assert ledger.propose(state, []) == b""
    assert ledger.execute(state, b"").roots == state.roots


@pytest.mark.spec("CUT-VALID.1")
def test_what_is_proposed_is_executed_and_in(ledger: Payload) -> None:
    state = genesis(ledger)
    offered = [*chain(0, 3), *chain(2, 1)]
    body = ledger.propose(state, offered)
    after = ledger.execute(state, body)
    assert after.included(1, MEMBERS[0]) == (3, batch_digest(DOMAIN, offered[2].batch))
    assert after.included(1, MEMBERS[2])[0] == 1
    assert after.included(1, MEMBERS[1])[0] == 0
    assert state.included(1, MEMBERS[0])[0] == 0, "a state does not change"
    assert after.roots.ledger_root != state.roots.ledger_root
    assert ledger.omits(state, after, body, offered) is None


@pytest.mark.spec("CUT-VALID.1")
def test_a_body_that_is_none_is_refused(ledger: Payload) -> None:
    state = genesis(ledger)
    one, two, three = chain(0, 3)
    other = chain(1, 1)
    forged = SignedBatch(one.batch, two.signature, one.content)
    swapped = SignedBatch(one.batch, one.signature, two.content)
    stranger = batch_of(ORACLES[5], b"")
    large = batch_of(ORACLES[0], bytes(content_bytes_max(PARAMS) + 1))
    tomorrow = batch_of(ORACLES[0], b"", home=2)
    for bad in (
        b"\xc1",
        pack(Cut((one,))) + b"\0",
        body_of([two]),
        body_of([one, three]),
        body_of([one, one]),
        body_of([two, one]),
        body_of(sorted([one, *other], key=lambda signed: signed.batch.oracle, reverse=True)),
        body_of([forged]),
        body_of([swapped]),
        body_of([stranger]),
        body_of([large]),
        body_of([tomorrow]),
    ):
        with pytest.raises(InvalidBody):
            ledger.execute(state, bad)


@pytest.mark.spec("CUT-VALID.1")
def test_each_oracle_has_its_share(ledger: Payload) -> None:
    state = genesis(ledger)
    content = bytes(content_bytes_max(PARAMS))
    batches: list[SignedBatch] = []
    number, previous = 0, ZERO_DIGEST
    while sum(len(pack(signed)) for signed in batches) <= share_bytes(PARAMS, state):
        batches.append(batch_of(ORACLES[0], content, number + 1, previous))
        number, previous = number + 1, batch_digest(DOMAIN, batches[-1].batch)
    with pytest.raises(InvalidBody, match="share"):
        ledger.execute(state, body_of(batches))
    body = ledger.propose(state, batches)
    assert ledger.execute(state, body).included(1, MEMBERS[0])[0] == len(batches) - 1


@pytest.mark.spec("CUT-FAIR.1")
def test_what_is_left_out_is_found(ledger: Payload) -> None:
    state = genesis(ledger)
    one, two = chain(0, 2)
    body = ledger.propose(state, [one])
    after = ledger.execute(state, body)
    assert ledger.omits(state, after, body, [one, two]) == two
    assert ledger.omits(state, state, b"", [one]) == one
    assert ledger.omits(state, after, body, [one]) is None


@pytest.mark.spec("LEDGER-CONTENT.1")
def test_content_of_any_kind_enters_the_cut(ledger: Payload) -> None:
    state = genesis(ledger)
    number, previous = 0, ZERO_DIGEST
    for content in (b"", b"\xc1 what is this", pack(Content()), bytes(100)):
        state = ledger.execute(state, body_of([batch_of(ORACLES[0], content, number + 1, previous)]))
        number, previous = state.included(1, MEMBERS[0])
    assert number == 4


@pytest.mark.spec("EPOCH-HANDOVER.1", "LEDGER-TURN.1")
def test_a_turn_keeps_three_homes_and_their_cut(ledger: Payload) -> None:
    state = genesis(ledger)
    state = ledger.execute(state, body_of(chain(0, 1)))
    for epoch in (2, 3, 4):
        committee = committee_of(epoch, state.next_members)
        state = ledger.turn(state, committee)
        assert set(state.homes) == {home for home in range(epoch - 2, epoch + 1) if home > 0}
        assert state.homes[epoch] == committee.members
        assert state.next_members == rotated(committee)
        assert (state.included(1, MEMBERS[0])[0] == 1) == (epoch < 4)
        late = chain(0, 1, 1, state.included(1, MEMBERS[0]))
        if epoch < 4:
            assert ledger.execute(state, body_of(late)).included(1, MEMBERS[0])[0] == 2
        else:
            with pytest.raises(InvalidBody):
                ledger.execute(state, body_of(late))


@pytest.mark.spec("STATE-SNAPSHOT.1")
def test_a_state_comes_back_from_its_snapshot(ledger: Payload) -> None:
    state = genesis(ledger)
    states = [state]
    for place in range(4):
        states.append(ledger.execute(states[-1], body_of(chain(place, 2))))
    states.append(ledger.turn(states[-1], committee_of(2)))
    states.append(ledger.execute(states[-1], body_of(chain(1, 1, 2))))
    for state in states:
        back = ledger.restore(state.pack())
        assert back.roots == state.roots
        assert back.pack() == state.pack()
        assert (back.homes, back.next_members) == (state.homes, state.next_members)
    follow = body_of(chain(3, 1, 2))
    restored = ledger.restore(states[-1].pack())
    assert ledger.execute(restored, follow).pack() == ledger.execute(states[-1], follow).pack()
    for bad in (b"", b"\xc1", states[-1].pack()[:-1]):
        with pytest.raises(DecodeError):
            ledger.restore(bad)


def test_two_executions_of_one_body_agree(ledger: Payload) -> None:
    state = genesis(ledger)
    body = ledger.propose(state, [*chain(1, 2), *chain(3, 2)])
    assert ledger.execute(state, body).pack() == ledger.execute(state, body).pack()
