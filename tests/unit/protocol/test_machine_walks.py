"""Machines among strangers: whatever arrives in whatever order, nothing raises, nothing grows, everything ends.

Each walk mixes messages of random content with rightly signed ones at the wrong time, on the wrong channel, twice,
or from the wrong side. At the end time passes, and whoever was promised an end must have had exactly one.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelOpened,
    GossipReceived,
    Open,
    PeerConnected,
    PeerLost,
    Publish,
    Received,
)
from protocol.roles.client import (
    ConnectRouter,
    RouterGone,
)
from protocol.roles.peer import PROBES_MAX
from tests.unit.protocol.client_walk import ClientWalk
from tests.unit.protocol.machines import (
    GENESIS,
    MINERS,
    PARAMS,
    ROUTER,
    advert_of,
    of,
)
from tests.unit.protocol.miner_walk import MinerWalk
from tests.unit.protocol.router_walk import RouterWalk
from tests.unit.protocol.test_machine_peer import Peer
from tests.unit.protocol.walk import ANYTHING


@pytest.mark.spec("TASK-TERMINAL.1")
@pytest.mark.parametrize("kind", [RouterWalk, MinerWalk, ClientWalk], ids=lambda kind: kind.__name__)
@settings(max_examples=60)
@given(st.data())
def test_any_walk_is_survived_bounded_and_comes_to_its_ends(kind: type, data: st.DataObject) -> None:
    walk = kind()
    if kind is ClientWalk:
        walk.wish(ConnectRouter(1, ROUTER.node, GENESIS.network_id()), RouterGone)
    for _ in range(data.draw(st.integers(1, 60))):
        walk.step(data)
        walk.bounded()
    walk.finish()


@settings(max_examples=60)
@given(st.data())
def test_a_peer_survives_any_walk(data: st.DataObject) -> None:
    peer = Peer()
    channels = [Channel(99)]
    for number in range(data.draw(st.integers(1, 40))):
        miner = data.draw(st.sampled_from(MINERS))
        event = data.draw(
            st.sampled_from(
                [
                    PeerConnected(miner.node),
                    PeerLost(miner.node),
                    ChannelOpened(Channel(number + 1), miner.node, "probe"),
                    ChannelClosed(channels[-1], "gone"),
                    GossipReceived("nodes", miner.node, *advert_of(miner, peer.now_ms)),
                ]
            )
        )
        channels += [Channel(number + 1)] if isinstance(event, ChannelOpened) else []
        effects = peer.tell(event)
        channels += [stream.channel for stream in of(effects, Open)]
        peer.tell(Received(data.draw(st.sampled_from(channels)), data.draw(ANYTHING)))
        peer.wait(data.draw(st.sampled_from((0, 10, 20_000))))
        assert len(peer.machine._asked) <= PROBES_MAX
        assert len(peer.machine._asking) <= PROBES_MAX
        assert len(peer.book) <= len(MINERS)
    assert of(peer.wait(2 * PARAMS.advert_interval_ms), Publish)
    assert not peer.machine._asked
    assert not peer.machine._asking
