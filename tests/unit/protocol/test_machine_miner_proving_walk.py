"""A miner among strangers, its oracles included: nothing raises, nothing grows, everything ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.protocol.miner_proving_walk import ProvingMinerWalk


@pytest.mark.spec("TASK-TERMINAL.1", "MINER-CREDIT.1")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_walk_with_oracles_is_survived_bounded_and_comes_to_its_ends(data: st.DataObject) -> None:
    walk = ProvingMinerWalk()
    for _ in range(data.draw(st.integers(1, 60))):
        walk.step(data)
        walk.bounded()
    walk.finish()
