"""Machines among strangers, with direct streams: nothing raises, nothing grows, everything ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.roles.client import ConnectRouter, RouterGone
from tests.unit.protocol.direct_walks import DirectClientWalk, DirectMinerWalk, DirectRouterWalk
from tests.unit.protocol.machines import GENESIS, ROUTER


@pytest.mark.spec("DIRECT-FALLBACK.1", "TASK-TERMINAL.1")
@pytest.mark.parametrize("kind", [DirectRouterWalk, DirectMinerWalk, DirectClientWalk], ids=lambda kind: kind.__name__)
@settings(max_examples=80)
@given(st.data())
def test_any_walk_with_direct_streams_is_survived_bounded_and_comes_to_its_ends(
    kind: type, data: st.DataObject
) -> None:
    walk = kind()
    if kind is DirectClientWalk:
        walk.wish(ConnectRouter(1, ROUTER.node, GENESIS.network_id()), RouterGone)
    for _ in range(data.draw(st.integers(1, 80))):
        walk.step(data)
        walk.bounded()
    walk.finish()
