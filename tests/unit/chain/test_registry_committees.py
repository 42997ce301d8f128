"""NodeRegistry: candidates, the draw, and whose stake is needed until when."""

from collections.abc import Iterator
from typing import Any

import pytest

from protocol.committee.election import Candidate, committee_root, draw_seed, elect
from protocol.core.ids import Digest, NodeId
from tests.unit.chain.contracts_at_hand import (
    ANYBODY,
    DEPLOYER,
    DOMAIN,
    EVIDENCE,
    MINER,
    OWNER,
    Rig,
    Settings,
    consent,
    members_of,
)
from tests.unit.chain.evm import Refused
from tests.unit.chain.modules_at_hand import compiled
from tests.unit.protocol.keys import Key, key

NODES = tuple(key(100 + number) for number in range(9))
STAKES = tuple(200 + 150 * number for number in range(9))
"""The last ones are above the cap."""
LATE = key(300)


@pytest.fixture(scope="module")
def deployed() -> tuple[Rig, Any]:
    """Both contracts, nine oracles and a miner, and their state at the first hand-over."""
    rig = Rig(Settings(terms_max=9))
    for node, stake in zip(NODES, STAKES, strict=True):
        rig.register(node, stake)
    rig.register(key(200), roles=MINER)
    rig.submit(rig.header(1, 1))
    return rig, rig.evm.keep()


@pytest.fixture
def rig(deployed: tuple[Rig, Any]) -> Iterator[Rig]:
    """For one test: what it does is undone."""
    made, kept = deployed
    made.evm.take_back(kept)
    yield made


def refused(rig: Rig, reason: str, name: str, *arguments: Any, sender: bytes = ANYBODY) -> None:
    """A call, to be refused for this reason."""
    with pytest.raises(Refused) as refusal:
        rig.registry.send(name, *arguments, sender=sender)
    assert refusal.value.reason == reason


def expected(rig: Rig, epoch: int, block: int) -> tuple[NodeId, ...]:
    """Whom the protocol draws."""
    pool = [Candidate(node.node, stake) for node, stake in zip(NODES, STAKES, strict=True)]
    seed = draw_seed(DOMAIN.network_id, epoch, Digest(rig.evm.block_hash(block)))
    return elect(seed, pool, rig.settings.stake_cap, (), rig.settings.size_max)


def drawn(rig: Rig, epoch: int = 3) -> tuple[bytes, ...]:
    """Draw; whom the contract says."""
    [(name, of, members)] = rig.registry.events(rig.draw(epoch))
    assert (name, of) == ("Drawn", epoch)
    return tuple(bytes.fromhex(member[2:]) for member in members)


def weights(rig: Rig) -> list[bytes]:
    """The frozen candidates."""
    return rig.candidates()


# The draw


@pytest.mark.spec("REGISTRY-CANDIDATES.1", "ELECTION-SEED.1", "ELECTION-DRAW.1")
def test_the_first_header_freezes_the_candidates_and_the_eighth_block_draws(rig: Rig) -> None:
    seed_block = rig.evm.number + 8
    assert rig.registry.call("frozen") == (3, seed_block, 9)
    assert weights(rig) == sorted(node.node for node in NODES)
    members = drawn(rig)
    assert members == expected(rig, 3, seed_block)
    assert len(members) == 7
    assert rig.registry.call("drawn_root", 3) == committee_root([NodeId(member) for member in members])
    refused(rig, "drawn", "draw", 3, weights(rig))


@pytest.mark.spec("ELECTION-SEED.1")
@pytest.mark.parametrize(
    ("late", "forgotten"), [(1, 0), (256, 0), (257, 1), (512, 1), (513, 2), (10_000, 39), (10_241, 40)]
)
def test_a_seed_block_that_is_forgotten_is_replaced_by_a_later_one(rig: Rig, late: int, forgotten: int) -> None:
    seed_block = rig.registry.call("frozen")[1]
    rig.evm.advance(blocks=seed_block + late - rig.evm.number)
    assert drawn(rig) == expected(rig, 3, seed_block + 256 * forgotten)


@pytest.mark.spec("REGISTRY-CANDIDATES.1")
def test_a_draw_names_exactly_the_frozen_candidates_in_their_order(rig: Rig) -> None:
    refused(rig, "too soon", "draw", 3, weights(rig))
    rig.evm.advance(blocks=8)
    refused(rig, "too soon", "draw", 3, weights(rig))
    rig.evm.advance(blocks=1)
    pool = weights(rig)
    refused(rig, "epoch", "draw", 2, pool)
    refused(rig, "epoch", "draw", 4, pool)
    refused(rig, "count", "draw", 3, pool[:-1])
    refused(rig, "count", "draw", 3, [*pool, b"\xff" * 20])
    refused(rig, "order", "draw", 3, pool[::-1])
    refused(rig, "order", "draw", 3, [*pool[:-1], pool[-2]])
    refused(rig, "order", "draw", 3, [bytes(20), *pool[1:]])
    refused(rig, "no candidate", "draw", 3, [*pool[:-1], b"\xff" * 20])
    refused(rig, "no candidate", "draw", 3, sorted([*pool[1:], key(200).node]))
    rig.registry.send("draw", 3, pool, sender=ANYBODY)


@pytest.mark.spec("REGISTRY-CANDIDATES.1")
def test_what_changes_after_the_freeze_changes_only_the_next_draw(rig: Rig) -> None:
    before, seed_block = weights(rig), rig.registry.call("frozen")[1]
    rig.register(LATE)
    rig.registry.send("begin_unbonding", NODES[0].node, sender=OWNER)
    rig.registry.send("rotate", NODES[1].node, key(301).node, consent(key(301), OWNER), sender=OWNER)
    rig.registry.send("slash", NODES[2].node, b"\1" * 32, ANYBODY, sender=EVIDENCE)
    rig.registry.send("add_stake", NODES[3].node, 400, sender=ANYBODY, value=400)
    rig.registry.send("add_stake", NODES[3].node, 10, sender=ANYBODY, value=10)
    assert weights(rig) == before
    assert drawn(rig) == expected(rig, 3, seed_block)
    rig.submit(rig.header(2, 1))
    gone = {NODES[0].node, NODES[1].node, NODES[2].node}
    assert set(weights(rig)) == set(before) - gone | {LATE.node, key(301).node}
    assert rig.registry.call("frozen")[2] == rig.registry.call("candidate_count") == 8


def test_a_committee_is_drawn_only_before_its_hand_over(rig: Rig) -> None:
    rig.submit(rig.header(2, 1))
    rig.evm.advance(blocks=9)
    refused(rig, "epoch", "draw", 3, weights(rig))
    rig.registry.send("draw", 4, weights(rig), sender=ANYBODY)


def test_below_four_candidates_nothing_is_drawn_and_the_committee_stays() -> None:
    rig = Rig()
    for node in NODES[:3]:
        rig.register(node)
    rig.submit(rig.header(1, 1))
    with pytest.raises(Refused, match="too few"):
        rig.draw(3)
    rig.submit(rig.header(2, 1))
    assert rig.checkpoints.call("root", 3) == committee_root(members_of(rig.keys))


def test_only_checkpoints_freezes(rig: Rig) -> None:
    for sender in (ANYBODY, DEPLOYER, OWNER):
        refused(rig, "checkpoints", "freeze", 9, True, sender=sender)


def test_before_the_first_freeze_nothing_can_be_drawn() -> None:
    rig = Rig()
    refused(rig, "epoch", "draw", 0, [])
    refused(rig, "epoch", "draw", 1, [])


@pytest.mark.spec("REGISTRY-CANDIDATES.1")
def test_a_jailed_candidate_is_in_no_later_draw(rig: Rig) -> None:
    rig.registry.send("slash", NODES[4].node, b"\1" * 32, ANYBODY, sender=EVIDENCE)
    rig.submit(rig.header(2, 1))
    assert NODES[4].node not in weights(rig)


def test_candidates_are_listed_page_by_page(rig: Rig) -> None:
    count = rig.registry.call("oracle_count")
    pages = [rig.registry.call("frozen_candidates", at, min(at + 4, count)) for at in range(0, count, 4)]
    assert sorted(bytes.fromhex(node[2:]) for page in pages for node in page) == weights(rig)
    assert rig.registry.call("frozen_candidates", count, count + 1_024) == ()
    for first, last in ((5, 4), (0, 1_025)):
        with pytest.raises(Refused, match="page"):
            rig.registry.call("frozen_candidates", first, last)


# No place


@pytest.fixture(scope="module")
def full() -> tuple[Rig, Any]:
    """All 128 places are taken: node i has a stake of 101 + i. One more oracle waits."""
    rig = Rig(Settings(stake_min=100))
    for number in range(128):
        rig.register(key(1_000 + number), 101 + number)
    rig.register(LATE, 150)
    return rig, rig.evm.keep()


@pytest.mark.spec("REGISTRY-CANDIDATES.1")
def test_who_finds_no_place_displaces_one_with_less_stake(full: tuple[Rig, Any]) -> None:
    rig, kept = full
    rig.evm.take_back(kept)
    assert rig.registry.call("candidate_count") == 128
    assert rig.registry.call("weight", LATE.node) == 0
    low, same, high = (key(1_000 + number).node for number in (0, 49, 50))
    refused(rig, "full", "stand", LATE.node, bytes(20))
    refused(rig, "stake", "stand", LATE.node, same)
    refused(rig, "stake", "stand", LATE.node, high)
    refused(rig, "no candidate", "stand", LATE.node, LATE.node)
    refused(rig, "no candidate", "stand", LATE.node, ANYBODY)
    refused(rig, "candidate", "stand", low, high)
    rig.registry.send("stand", LATE.node, low, sender=ANYBODY)
    assert rig.registry.call("weight", low) == 0
    assert rig.registry.call("weight", LATE.node) == 150
    assert rig.registry.call("candidate_count") == 128
    refused(rig, "stake", "stand", low, same)


@pytest.mark.spec("REGISTRY-CANDIDATES.1")
def test_who_waits_takes_a_place_that_comes_free(full: tuple[Rig, Any]) -> None:
    rig, kept = full
    rig.evm.take_back(kept)
    rig.registry.send("begin_unbonding", key(1_007).node, sender=OWNER)
    assert rig.registry.call("candidate_count") == 127
    refused(rig, "not full", "stand", LATE.node, key(1_000).node)
    rig.registry.send("stand", LATE.node, bytes(20), sender=ANYBODY)
    assert rig.registry.call("candidate_count") == 128
    refused(rig, "unbonding", "stand", key(1_007).node, bytes(20))


@pytest.mark.spec("REGISTRY-CANDIDATES.1")
def test_more_stake_alone_makes_no_candidate(full: tuple[Rig, Any]) -> None:
    rig, kept = full
    rig.evm.take_back(kept)
    rig.register(key(200), roles=MINER)
    for node in (LATE.node, key(200).node):
        rig.registry.send("add_stake", node, 700, sender=ANYBODY, value=700)
        assert rig.registry.call("weight", node) == 0
    assert rig.registry.call("candidate_count") == 128


def test_only_oracles_stand(rig: Rig) -> None:
    refused(rig, "candidate", "stand", key(200).node, bytes(20))
    refused(rig, "unknown", "stand", ANYBODY, bytes(20))


def test_the_largest_draw_there_is_fits_into_a_block(full: tuple[Rig, Any]) -> None:
    rig, kept = full
    rig.evm.take_back(kept)
    rig.submit(rig.header(1, 1))
    done = rig.draw(3)
    [(_, _, members)] = rig.registry.events(done)
    assert len(set(members)) == 31
    assert done.gas < 3_000_000


# Whose stake is needed


def leave(rig: Rig, node: Key) -> None:
    """Begin to unbond, and let the time pass."""
    rig.registry.send("begin_unbonding", node.node, sender=OWNER)
    rig.evm.advance(seconds=rig.settings.unbonding_s)


def free(rig: Rig, node: Key) -> bool:
    """Whether the stake can be had back now."""
    kept = rig.evm.keep()
    try:
        rig.registry.send("finish_unbonding", node.node, sender=ANYBODY)
    except Refused as refusal:
        assert refusal.reason == "committee"
        return False
    finally:
        rig.evm.take_back(kept)
    return True


@pytest.mark.spec("REGISTRY-UNBOND.1")
def test_a_frozen_candidate_is_needed_until_it_can_not_be_drawn_any_more(rig: Rig) -> None:
    leave(rig, NODES[0])
    assert not free(rig, NODES[0])
    rig.submit(rig.header(2, 1))  # the committee of epoch 3 is named: no draw any more
    assert free(rig, NODES[0])


@pytest.mark.spec("REGISTRY-UNBOND.1")
def test_members_are_needed_until_two_epochs_after_their_last(rig: Rig) -> None:
    members = drawn(rig)
    keys = tuple(next(node for node in NODES if node.node == member) for member in members)
    leaving = keys[0]
    leave(rig, leaving)
    root = committee_root(members_of(keys))
    rig.submit(rig.header(2, 1, next_committee=root))
    assert not free(rig, leaving)
    second = drawn(rig, 4)
    successors = tuple(next(node for node in NODES if node.node == member) for member in second)
    assert leaving not in successors
    later = committee_root(members_of(successors))
    rig.submit(rig.header(3, 1, next_committee=later), keys)  # from epoch 4 on it is in none
    for epoch in (4, 5):
        rig.submit(rig.header(epoch, 1, next_committee=later), successors)
        assert not free(rig, leaving), "the committee of epoch 3 is within two epochs"
    rig.submit(rig.header(6, 1, next_committee=later), successors)
    assert free(rig, leaving)
    leave(rig, successors[0])
    rig.submit(rig.header(7, 1, next_committee=later), successors)
    assert not free(rig, successors[0]), "their committee is still in force"


@pytest.mark.spec("REGISTRY-UNBOND.1")
def test_members_of_the_genesis_are_needed_once_they_are_registered() -> None:
    rig = Rig()
    for member in rig.keys:
        rig.register(member)
    leave(rig, rig.keys[0])
    assert not free(rig, rig.keys[0])
    rig.submit(rig.header(1, 1))
    assert not free(rig, rig.keys[0])


@pytest.mark.spec("REGISTRY-UNBOND.1")
def test_a_key_of_the_genesis_is_needed_under_whatever_bond_it_comes_in() -> None:
    rig = Rig()
    rig.register(LATE)
    member = rig.keys[0]
    rig.registry.send("rotate", LATE.node, member.node, consent(member, OWNER), sender=OWNER)
    leave(rig, member)
    assert not free(rig, member)


@pytest.mark.spec("REGISTRY-UNBOND.1", "REGISTRY-ROTATE.1")
def test_a_member_with_another_key_is_needed_as_long(rig: Rig) -> None:
    first = drawn(rig)[0]
    member = next(node for node in NODES if node.node == first)
    rig.registry.send("rotate", member.node, LATE.node, consent(LATE, OWNER), sender=OWNER)
    leave(rig, LATE)
    rig.submit(rig.header(2, 1))
    assert not free(rig, LATE)


@pytest.mark.spec("REGISTRY-UNBOND.1", "REGISTRY-ROTATE.1")
def test_a_member_that_was_drawn_by_its_second_key_is_needed_too(rig: Rig) -> None:
    for number, node in enumerate(NODES):
        other = key(400 + number)
        rig.registry.send("rotate", node.node, other.node, consent(other, OWNER), sender=OWNER)
    rig.submit(rig.header(2, 1))
    first = drawn(rig, 4)[0]
    member = next(key(400 + number) for number in range(len(NODES)) if key(400 + number).node == first)
    leave(rig, member)
    rig.submit(rig.header(3, 1))
    assert not free(rig, member)


@pytest.mark.spec("REGISTRY-UNBOND.1", "CHECKPOINT-DEAD.1")
def test_once_the_exit_is_open_nobody_is_needed(rig: Rig) -> None:
    leave(rig, NODES[0])
    rig.evm.advance(seconds=rig.settings.dead_s + 1)
    assert not free(rig, NODES[0])
    rig.checkpoints.send("declare_dead", sender=ANYBODY)
    assert free(rig, NODES[0])


# Owners that are contracts

THIEF = """
# pragma version 0.4.3
interface Registry:
    def register(node: address, roles: uint256, stake: uint256, consent: bytes32[2]): payable
    def begin_unbonding(node: address): nonpayable
    def finish_unbonding(node: address): nonpayable
    def claim(reporter: address): nonpayable

registry: address
node: address
again: bool

@external
@payable
def register(registry: address, node: address, consent: bytes32[2]):
    self.registry = registry
    self.node = node
    extcall Registry(registry).register(node, 4, msg.value, consent, value=msg.value)
    extcall Registry(registry).begin_unbonding(node)

@external
@payable
def __default__():
    if self.again:
        extcall Registry(self.registry).claim(self)
    else:
        extcall Registry(self.registry).finish_unbonding(self.node)

@external
def turn():
    self.again = True
"""


def test_reentrancy_an_owner_that_calls_again_while_it_is_paid_gets_nothing(rig: Rig) -> None:
    thief = rig.evm.deploy(compiled(THIEF), sender=DEPLOYER)
    arguments = (rig.registry.address, LATE.node, consent(LATE, thief.address))
    thief.send("register", *arguments, sender=DEPLOYER, value=500)
    rig.evm.advance(seconds=rig.settings.unbonding_s)
    rig.submit(rig.header(2, 1))
    held = rig.evm.balance(rig.registry.address)
    refused(rig, "payee", "finish_unbonding", LATE.node)
    rig.registry.send("slash", NODES[0].node, b"\1" * 32, thief.address, sender=EVIDENCE)
    thief.send("turn", sender=DEPLOYER)
    refused(rig, "payee", "claim", thief.address)
    assert rig.evm.balance(rig.registry.address) == held
