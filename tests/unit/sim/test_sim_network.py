"""Streams, connections and gossip of a simulated network."""

import pytest

from p2pnode.sim.checkers import Checker
from p2pnode.sim.faults import Cut, Drop
from p2pnode.sim.host import Host
from p2pnode.sim.world import World
from protocol import gossip
from protocol.core import signing
from protocol.core.ids import NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelOpened,
    Close,
    GossipReceived,
    Open,
    PeerConnected,
    PeerLost,
    Publish,
    Send,
    Sent,
)
from protocol.messages.adverts import Advert
from protocol.messages.envelope import Envelope, seal
from tests.unit.sim.worlds import FAR, NEAR, Told, host_of, number, run_ms, told, world_of

GO = object()
OUT = Channel(-1)


def talking(count: int, *after: object, seed: int = 1, lossy: bool = False) -> tuple[World, Host, Host]:
    """A node that opens a stream to another and sends so many numbered messages at once."""
    world = world_of(seed, FAR)
    if lossy:
        world.network.lossy = frozenset({"talk"})
    other = host_of(world, "other")
    effects = [Open(OUT, other.node, "talk"), *(Send(OUT, number(at)) for at in range(count)), *after]
    node = host_of(world, "node", Told(lambda event: effects if event is GO else []))
    node.drives[0].dispatch(GO)
    return world, node, other


@pytest.mark.parametrize("seed", range(8))
def test_a_stream_is_reliable_and_in_order_and_ends_after_what_was_sent(seed: int) -> None:
    world, node, other = talking(50, Close(OUT), seed=seed)
    run_ms(world, 3_000)
    assert isinstance(told(other).heard[0], PeerConnected)
    assert isinstance(told(other).heard[1], ChannelOpened)
    assert told(other).heard[1].channel == 1
    assert told(other).numbers() == list(range(50))
    assert isinstance(told(other).heard[-1], ChannelClosed)
    assert told(node).of(ChannelClosed) == []


def test_inbound_channels_are_numbered_from_one_and_what_was_handed_over_is_reported() -> None:
    world, node, other = talking(0, Send(OUT, number(1), report=True))
    told(node).answer = lambda event: []
    run_ms(world, 1_000)
    assert told(node).of(Sent) == [Sent(OUT)]
    told(other).answer = lambda event: [Send(Channel(1), number(9))] if event is GO else []
    other.drives[0].dispatch(GO)
    run_ms(world, 1_000)
    assert told(node).numbers() == [9]


def test_a_peer_that_does_not_speak_the_protocol_or_is_not_there_closes_the_channel() -> None:
    world = world_of()
    other = host_of(world, "other")
    nobody = world.keys.key("nobody").node_id
    effects = [Open(OUT, other.node, "unknown"), Open(Channel(-2), nobody, "talk")]
    node = host_of(world, "node", Told(lambda event: effects if event is GO else []))
    node.drives[0].dispatch(GO)
    run_ms(world, 20_000)
    assert sorted(event.channel for event in told(node).of(ChannelClosed)) == [-2, -1]


def test_a_short_cut_only_delays_a_stream_and_a_long_one_ends_it() -> None:
    for cut_ms, survives in ((2_000, True), (30_000, False)):
        world, node, other = talking(1)
        run_ms(world, 1_000)
        Cut(1_000, cut_ms, ("node",), ("other",), one_way=True).plan(world, 10**9)
        run_ms(world, 1)
        told(node).answer = lambda event: [Send(OUT, number(5))] if event is GO else []
        node.drives[0].dispatch(GO)
        run_ms(world, 1_500)
        assert told(other).numbers() == [0]
        run_ms(world, 60_000)
        assert (told(other).numbers() == [0, 5]) == survives
        assert bool(told(node).of(PeerLost)) == bool(told(other).of(PeerLost)) == (not survives)
        assert bool(told(node).of(ChannelClosed)) == (not survives)


@pytest.mark.parametrize("silent", [True, False])
def test_who_dies_is_missed_at_once_or_after_a_while(silent: bool) -> None:
    world, node, other = talking(1)
    run_ms(world, 1_000)
    other.crash(silent=silent)
    run_ms(world, 500)
    assert bool(told(node).of(PeerLost)) == (not silent)
    run_ms(world, 15_000)
    assert [event.peer for event in told(node).of(PeerLost)] == [other.node]
    assert [event.channel for event in told(node).of(ChannelClosed)] == [OUT]


def test_who_comes_back_knows_nothing_of_the_connection_and_says_so() -> None:
    world, node, other = talking(1)
    run_ms(world, 1_000)
    other.crash(silent=True)
    other.start()
    told(node).answer = lambda event: [Send(OUT, number(5))] if event is GO else []
    node.drives[0].dispatch(GO)
    run_ms(world, 500)
    assert len(told(node).of(ChannelClosed)) == 1
    assert 5 not in told(other).numbers()


def test_a_reset_connection_is_dialed_again_by_who_keeps_in_touch() -> None:
    world = world_of()
    other = host_of(world, "other")
    node = host_of(world, "node", keeps=(other.node,))
    run_ms(world, 2_000)
    assert len(told(node).of(PeerConnected)) == len(told(other).of(PeerConnected)) == 1
    Drop(2_000, ("node", "other")).plan(world, 10**9)
    run_ms(world, 5_000)
    assert len(told(node).of(PeerLost)) == 1
    assert len(told(node).of(PeerConnected)) == 2


def test_nobody_reaches_a_node_that_cannot_be_dialed() -> None:
    world = world_of()
    shy = host_of(world, "shy", dialable=False)
    node = host_of(world, "node", Told(lambda event: [Open(OUT, shy.node, "talk")] if event is GO else []))
    node.drives[0].dispatch(GO)
    run_ms(world, 10_000)
    assert told(shy).heard == []
    assert len(told(node).of(ChannelClosed)) == 1


def test_a_lossy_stream_loses_repeats_and_reorders_and_any_other_never_does() -> None:
    seen = set()
    for lossy in (True, False):
        world, node, other = talking(1, lossy=lossy)
        run_ms(world, 1_000)
        for host in (node, other):
            for target in (node, other):
                link = world.network.link(host, target)
                link.loss_bp, link.duplicate_bp = 2_000, 2_000
        told(node).answer = lambda event: [Send(OUT, number(at)) for at in range(1, 200)] if event is GO else []
        node.drives[0].dispatch(GO)
        run_ms(world, 5_000)
        numbers = told(other).numbers()
        seen.add(
            (lossy, set(numbers) == set(range(200)), len(numbers) == len(set(numbers)), numbers == sorted(numbers))
        )
    assert seen == {(True, False, False, False), (False, True, True, True)}


# Gossip


class Judged(Checker):
    """Notes who decided what."""

    def __init__(self) -> None:
        self.forwarders: list[tuple[str, str, gossip.Decision]] = []

    def judged(self, host: Host, forwarder: Host, origin: NodeId, topic: str, checked: gossip.Checked) -> None:
        self.forwarders.append((host.name, forwarder.name, checked.decision))


class Following(Told):
    topics = ("nodes",)


def followers(count: int) -> tuple[World, list[Host], Judged]:
    world, checker = world_of(3, NEAR), Judged()
    world.watched_by((checker,))
    return world, [host_of(world, f"n{at}", Following()) for at in range(count)], checker


def advert_of(world: World, host: Host) -> Envelope:
    advert = Advert(host.node, 1, ("miner",), (), (), "")
    return seal(world.genesis.domain(), world.keys.key(host.name).sign, advert)


def publish(host: Host, envelope: Envelope) -> None:
    told(host).answer = lambda event: [Publish("nodes", envelope)] if event is GO else []
    host.drives[0].dispatch(GO)


def test_what_is_published_reaches_everybody_by_way_of_others() -> None:
    world, hosts, checker = followers(8)
    with signing.scheme(world.keys):
        publish(hosts[0], advert_of(world, hosts[0]))
        run_ms(world, 1_000)
    assert [len(told(host).of(GossipReceived)) for host in hosts] == [1] * 8
    assert {forwarder for _, forwarder, _ in checker.forwarders} > {"n0"}


def test_a_message_that_does_not_hold_stays_with_its_publisher() -> None:
    world, hosts, checker = followers(8)
    with signing.scheme(world.keys):
        publish(hosts[0], advert_of(world, hosts[1]))
        run_ms(world, 1_000)
    assert [len(told(host).of(GossipReceived)) for host in hosts] == [0] * 8
    assert {decision for *_, decision in checker.forwarders} == {gossip.Decision.REJECT}
    assert {forwarder for _, forwarder, _ in checker.forwarders} == {"n0"}


def test_gossip_goes_round_a_cut_link_and_not_across_a_partition() -> None:
    world, hosts, _ = followers(6)
    names = [host.name for host in hosts]
    with signing.scheme(world.keys):
        Cut(0, 10_000, ("n0",), tuple(names[1:5]), one_way=True).plan(world, 10**9)
        run_ms(world, 1)
        publish(hosts[0], advert_of(world, hosts[0]))
        run_ms(world, 1_000)
        assert [len(told(host).of(GossipReceived)) for host in hosts] == [1] * 6
        Cut(1_001, 10_000, ("n0", "n1"), tuple(names[2:])).plan(world, 10**9)
        run_ms(world, 1)
        publish(hosts[1], advert_of(world, hosts[1]))
        run_ms(world, 1_000)
    assert [len(told(host).of(GossipReceived)) for host in hosts] == [2, 2, 1, 1, 1, 1]
