"""The simulator's chain: many seeds without a violation, each the same run whenever it is played; and worlds that were
worth playing: with checkpoints, drawn committees, slashes, withdrawals, an end, and much that is refused."""

from collections import Counter

import pytest

from chain.model.blocks import MadeBlock
from p2pnode.sim.crypto import keys_of
from p2pnode.sim.onchain import PROFILES
from p2pnode.sim.onchain_mutations import CHAIN_MUTATIONS
from p2pnode.sim.runner import run
from p2pnode.sim.scenario import Setup
from p2pnode.sim.scenarios import SCENARIOS
from protocol.core import signing
from tests.simulation.played import play

SEEDS = range(10)
LONG_SEEDS = range(1_000, 1_300)
MISTAKES_MIN = 14
REFUSED = ("old", "committee", "signature", "proof", "not usable", "nothing to pay", "alive", "exited", "taken in")


def test_no_seed_violates_anything() -> None:
    play("chain", SEEDS, 10_000)


@pytest.mark.long
def test_none_of_many_seeds_violates_anything() -> None:
    play("chain", LONG_SEEDS, 10_000)


@pytest.mark.parametrize("profile", sorted(set(PROFILES) - {"chain"}))
def test_no_profile_violates_anything(profile: str) -> None:
    assert str(run(0, profile).violation) == "None"


def test_a_seed_run_twice_is_the_same_run() -> None:
    one, other = run(0, "chain", trace=True), run(0, "chain", trace=True)
    assert (one.hash, one.counts, one.trace) == (other.hash, other.counts, other.trace)


def test_worlds_are_worth_playing() -> None:
    """Of an equivocator's world, what its contracts did and refused."""
    keys = keys_of(2)
    with signing.scheme(keys):
        built = SCENARIOS["chain-equivocators"](Setup(2, keys, 100))
        world = built.world
        world.at(built.heal_ms * 1_000, lambda: [hook() for hook in world.watch.healed])
        world.run_until(built.end_ms * 1_000)
    onchain = world.onchain
    assert onchain is not None
    said, refused = _told(onchain.chain.blocks)
    assert said["Accepted"] > 10
    assert said["Drawn"] > 0
    assert said["Slashed"] > 0
    assert said["Paid"] > 10
    assert said["Refunded"] > 0
    assert [reason for reason in REFUSED if not refused[reason]] == []
    escrow = onchain.contracts.escrow
    assert escrow.paid_out == escrow.deposited > 0


def _told(blocks: list[MadeBlock]) -> tuple[Counter[str], Counter[str]]:
    said = Counter(type(log.what).__name__ for block in blocks for log in block.logs)
    refused = Counter(receipt.reason for block in blocks for receipt in block.receipts if receipt.reason)
    return said, refused


def test_all_mistakes_are_there() -> None:
    assert len(CHAIN_MUTATIONS) >= MISTAKES_MIN
    assert {mutation.scenario for mutation in CHAIN_MUTATIONS.values()} <= set(PROFILES)


@pytest.mark.parametrize("name", CHAIN_MUTATIONS)
def test_each_mistake_is_found(name: str) -> None:
    mutation = CHAIN_MUTATIONS[name]
    runs = (run(seed, mutation.scenario, mutation=name) for seed in range(mutation.within))
    found = next((result for result in runs if result.violation is not None), None)
    assert found is not None and found.violation is not None, f"not found in {mutation.within} seeds"
    assert found.violation.invariant in mutation.breaks, str(found.violation)
