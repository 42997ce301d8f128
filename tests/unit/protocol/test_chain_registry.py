"""What the registry's events come to: who may mine, who is paid, and who is in the committee."""

from dataclasses import replace

import pytest

from protocol.ledger import Section
from protocol.ledger.miners import PoolState
from protocol.ledger.nodes import Node
from protocol.ledger.proofs import read_record, verify_ledger_proof
from tests.unit.protocol.chain_at_hand import (
    CHAIN_GENESIS,
    CHAIN_PARAMS,
    MINER_ROLE,
    ORACLE_ROLE,
    ROUTER_ROLE,
    Anchored,
    changed,
    deposited,
    drawn,
)
from tests.unit.protocol.ledger_at_hand import (
    MINER,
    MINERS,
    ORACLES,
    OWNER,
    PRICE,
    ROUTER,
    STRANGER,
    Part,
    available,
    enlist_of,
    keyed,  # noqa: F401
    ok,
    opening_of,
    order_of,
    session_of,
)

NODE = MINERS[2].node_id
MEMBERS = tuple(key.node_id for key in ORACLES[:4])


# Nodes


@pytest.mark.spec("CHAIN-NODES.1", "LEDGER-PROOF.1")
def test_the_ledger_holds_the_registry_and_proves_it() -> None:
    books = Anchored()
    books.take(changed(NODE, MINER_ROLE | ORACLE_ROLE, 5))
    assert books.state.registered(NODE) == Node(OWNER.node_id, 6, 5, False)
    proof = books.state.prove(Section.NODES, NODE)
    assert verify_ledger_proof(books.header(), proof)
    assert proof.value is not None
    assert read_record(Section.NODES, proof.value) == books.state.registered(NODE)
    books.take(changed(NODE, ORACLE_ROLE, 9))
    assert books.state.registered(NODE) == Node(OWNER.node_id, 4, 9, False)
    books.take(changed(NODE, 0, 0))
    assert books.state.registered(NODE) is None
    assert len(books.state.tree(Section.NODES)) == 0


@pytest.mark.spec("CHAIN-NODES.1")
def test_the_ledger_holds_no_more_nodes_than_it_may() -> None:
    books = Anchored()
    nodes = [bytes([number]) * 20 for number in range(1, CHAIN_PARAMS.registered_max + 2)]
    for node in nodes:
        books.take(changed(node))
    assert len(books.state.tree(Section.NODES)) == CHAIN_PARAMS.registered_max
    assert books.state.registered(nodes[-1]) is None
    books.take(changed(nodes[0], stake=7))
    assert books.state.registered(nodes[0]) == Node(OWNER.node_id, MINER_ROLE, 7, False)
    books.take(changed(nodes[1], 0), changed(nodes[-1]))
    assert books.state.registered(nodes[-1]) is not None, "there is room again"


# Miners


@pytest.mark.spec("CHAIN-ENLIST.1", "POOL-ENLIST.1")
def test_with_a_registry_only_its_miners_enlist() -> None:
    books = Anchored()
    books.bring(enlistments=[enlist_of(MINERS[2])])
    books.take(changed(NODE, ROUTER_ROLE | ORACLE_ROLE))
    books.bring(enlistments=[enlist_of(MINERS[2])])
    books.take(changed(NODE, jailed=True))
    books.bring(enlistments=[enlist_of(MINERS[2])])
    assert books.state.miner(NODE) is None
    books.take(changed(NODE))
    books.bring(enlistments=[enlist_of(MINERS[2])])
    miner = books.state.miner(NODE)
    assert miner is not None
    assert miner.state is PoolState.TESTING


@pytest.mark.spec("CHAIN-NODES.1")
@pytest.mark.parametrize(
    "event", [changed(MINER.node_id, jailed=True), changed(MINER.node_id, ORACLE_ROLE), changed(MINER.node_id, 0)]
)
def test_who_may_not_mine_any_more_leaves_the_pool(event: object) -> None:
    books = Anchored()
    books.take(changed(MINER.node_id))
    assert MINER.node_id in available(books)
    books.take(event)  # type: ignore[arg-type]
    assert books.state.miner(MINER.node_id) is None
    assert available(books) == {MINERS[1].node_id}


def earned(books: Anchored) -> dict[bytes, int]:
    """A lane of 100 tokens comes to OK and is paid: who has what of it."""
    opening = opening_of(order_of(books.reserve(session_of(cap_wei=5_000, lanes=1))), [Part(acked=100)])
    books.bring(openings=[opening], observations=[ok(opening)])
    books.observe(ok(opening), by=(1, 2))
    keys = (OWNER, ROUTER, MINER, *ORACLES[:4], STRANGER)
    return {key.node_id: books.balance(key) for key in keys if books.balance(key)}


@pytest.mark.spec("LEDGER-SHARES.1")
def test_what_a_registered_node_earns_is_its_owners() -> None:
    books = Anchored()
    books.take(deposited(1, 5_000))
    plain = earned(books)
    assert set(plain) == {ROUTER.node_id, MINER.node_id, *MEMBERS[:3]}
    books = Anchored()
    books.take(deposited(1, 5_000), *(changed(key.node_id, 7) for key in (ROUTER, MINER, ORACLES[0])))
    registered = earned(books)
    assert set(registered) == {OWNER.node_id, *MEMBERS[1:3]}
    assert sum(plain.values()) == sum(registered.values()) == 100 * PRICE
    assert books.all_wei() == 5_000


@pytest.mark.spec("LEDGER-SHARES.1")
def test_the_registry_goes_before_what_a_miner_says_of_its_owner() -> None:
    books = Anchored()
    books.take(deposited(1, 5_000), changed(MINER.node_id))
    books.bring(enlistments=[enlist_of(MINER, owner=STRANGER)])
    assert STRANGER.node_id not in earned(books), "whoever has the node's key signs that"
    assert books.balance(OWNER) > 0


# Committees


@pytest.mark.spec("CHAIN-COMMITTEE.1")
def test_a_committee_is_drawn_two_epochs_ahead() -> None:
    books = Anchored()
    assert (books.state.next_members, books.chain.repeats) == (MEMBERS, 1)
    books.take(drawn(3, (1, 2, 3, 4)))
    assert books.state.next_members == MEMBERS, "what an epoch's headers name is fixed when it begins"
    books.turn()
    later = tuple(key.node_id for key in ORACLES[1:5])
    assert (books.epoch, books.state.next_members, books.chain.repeats) == (2, later, 0)
    assert books.chain.draws == ()
    books.take(drawn(3, (0, 1, 2, 3)))
    books.turn()
    assert books.state.homes[3] == later, "too late"
    assert (books.state.next_members, books.chain.repeats) == (later, 1)


@pytest.mark.spec("CHAIN-COMMITTEE.1")
def test_a_draw_waits_for_its_epoch() -> None:
    books = Anchored()
    books.take(drawn(4, (2, 3, 4, 5)))
    books.turn()
    assert books.state.next_members == MEMBERS
    books.turn()
    assert books.state.next_members == tuple(key.node_id for key in ORACLES[2:6])


@pytest.mark.spec("CHAIN-TERMS.1")
def test_without_a_draw_the_committee_stays_however_long() -> None:
    books = Anchored()
    for epoch in range(2, 7):
        books.turn()
        assert (books.epoch, books.chain.repeats) == (epoch, epoch)
        assert books.state.next_members == books.state.homes[epoch] == MEMBERS
    assert books.chain.repeats > CHAIN_PARAMS.committee_terms_max
    books.take(drawn(8, (0, 1, 2, 3)))
    books.turn()
    assert (books.epoch, books.chain.repeats, books.state.next_members) == (7, 0, MEMBERS), "drawn again, the same"


def test_seven_may_follow_four() -> None:
    books = Anchored(replace(CHAIN_GENESIS))
    books.take(drawn(3, range(7)))
    books.turn(2)
    books.say(books.word(deposited(1)), by=[4, 5])
    assert books.chain.deposits == 0, "of seven, two may lie"
    books.say(books.word(deposited(1)), by=[6])
    assert books.chain.deposits == 1
