"""Walks of three correct members and a traitor: whatever the wire does, no two blocks conflict, and all goes on."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.protocol.committee_at_hand import keyed  # noqa: F401
from tests.unit.protocol.committee_walk import Walk

RARE = ("again", "sync", "double", "drop", "drop", "crash", "restart", "late", "late")
LIKELY = (*["deliver"] * 60, *["time"] * 4, *["offer"] * 3, *RARE)
TREASON = (*LIKELY, *["traitor"] * 5)


def steps(likely: tuple[str, ...], most: int) -> st.SearchStrategy[list[tuple[str, int, int]]]:
    """What happens, one thing after the other."""
    return st.lists(
        st.tuples(st.sampled_from(likely), st.integers(0, 11), st.integers(0, 40)), min_size=most // 2, max_size=most
    )


@pytest.mark.spec("SIMPLEX-LEAVE.1", "SIMPLEX-VOTE.1", "COMMITTEE-QUORUM.1", "SIGNER-ONCE.1", "EPOCH-CLOSE.1")
@settings(max_examples=40)
@given(steps(TREASON, 200))
def test_among_a_traitor_a_bad_wire_and_crashes(walked: list[tuple[str, int, int]]) -> None:
    walk = Walk()
    for what, one, other in walked:
        walk.step(what, one, other)
    walk.check()
    walk.heal()
    walk.check()


@pytest.mark.spec("SIMPLEX-PERSIST.1", "SIMPLEX-RESEND.1")
@pytest.mark.parametrize("likely", [LIKELY, TREASON], ids=["a bad wire", "and a traitor"])
def test_on_longer_walks(likely: tuple[str, ...]) -> None:
    final = convicted = epochs = 0
    for seed in range(12):
        random, walk = Random(seed), Walk()
        for _ in range(2_000):
            walk.step(random.choice(likely), random.randrange(12), random.randrange(1 << 16))
        walk.check()
        walk.heal()
        walk.check()
        final += max(len(walk.chain(member)) for member in walk.members)
        epochs += max(member.simplex.committee.epoch for member in walk.members)
        convicted += any(member.convicted for member in walk.members)
    assert final > 45, "they got somewhere"
    assert epochs > 14
    assert (convicted > 0) == (likely is TREASON)
