"""Gossip as every transport behind the seam does it: libp2p on loopback, and memory."""

from contextlib import AsyncExitStack

import pytest
import trio

from p2pnode.transport.seam import (
    GOSSIP_BYTES_MAX,
    FrameTooLarge,
    Gossip,
    PublishRefused,
    TransportError,
    Verdict,
)
from protocol.core.ids import NodeId
from tests.runtime.transports import (
    KINDS,
    TOPIC,
    Clock,
    Open,
    accept,
    clock_for,
    eventually,
    key,
    opener,
    pair,
    publish_until_heard,
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock(kind: str) -> Clock:
    return clock_for(kind)


@pytest.fixture
def open_node(kind: str) -> Open:
    return opener(kind)


async def test_gossip_names_origin_and_forwarder_over_two_hops(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a, open_node(2) as b, open_node(3) as c:
        await a.connect(b.addresses[0])
        await c.connect(b.addresses[0])
        readers = [await node.subscribe(TOPIC, accept) for node in (a, b, c)]
        await publish_until_heard(a, readers[2])
        await a.publish(TOPIC, b"far")
        with trio.fail_after(10):
            gossip = await readers[2].receive()
        assert gossip == Gossip(TOPIC, a.me, b.me, b"far")


@pytest.mark.parametrize("verdict", [Verdict.IGNORE, Verdict.REJECT])
async def test_only_accepted_gossip_is_delivered_and_forwarded(open_node: Open, clock: Clock, verdict: Verdict) -> None:
    def check(forwarder: NodeId, origin: NodeId, data: bytes) -> Verdict:
        return verdict if data == b"bad" else Verdict.ACCEPT

    async with open_node(1) as a, open_node(2) as b, open_node(3) as c:
        await a.connect(b.addresses[0])
        await c.connect(b.addresses[0])
        await a.subscribe(TOPIC, accept)
        at_b = await b.subscribe(TOPIC, check)
        at_c = await c.subscribe(TOPIC, accept)
        await publish_until_heard(a, at_c)
        while True:
            with trio.move_on_after(0.05) as drained:
                await at_b.receive()
            if drained.cancelled_caught:
                break
        await a.publish(TOPIC, b"bad")
        await a.publish(TOPIC, b"good")
        with trio.fail_after(10):
            assert (await at_b.receive()).data == b"good"
            assert (await at_c.receive()).data == b"good"
        traffic = b.traffic()
        assert traffic.connections == 2
        counted = traffic.gossip[TOPIC]
        assert counted["accepted"] >= 2
        turned_away = {Verdict.IGNORE: "ignored", Verdict.REJECT: "rejected"}
        assert [counted[name] for name in turned_away.values()] == [int(each is verdict) for each in turned_away]


async def test_own_messages_do_not_come_back(open_node: Open, clock: Clock) -> None:
    async with pair(open_node) as (a, b):
        at_a = await a.subscribe(TOPIC, accept)
        at_b = await b.subscribe(TOPIC, accept)
        await publish_until_heard(a, at_b)
        with pytest.raises(trio.WouldBlock):
            at_a.receive_nowait()


async def test_oversize_gossip_is_refused_here(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a:
        with pytest.raises(FrameTooLarge):
            await a.publish(TOPIC, bytes(GOSSIP_BYTES_MAX + 1))


async def test_the_largest_gossip_arrives(open_node: Open, clock: Clock) -> None:
    async with pair(open_node) as (a, b):
        at_b = await b.subscribe(TOPIC, accept)
        await a.subscribe(TOPIC, accept)
        await publish_until_heard(a, at_b)
        await a.publish(TOPIC, bytes(GOSSIP_BYTES_MAX))
        with trio.fail_after(10):
            assert (await at_b.receive()).data == bytes(GOSSIP_BYTES_MAX)


async def test_a_check_that_raises_rejects(open_node: Open, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def check(forwarder: NodeId, origin: NodeId, data: bytes) -> Verdict:
        if data == b"bug":
            raise KeyError("a bug of ours")
        return Verdict.ACCEPT

    async with pair(open_node) as (a, b):
        at_b = await b.subscribe(TOPIC, check)
        await a.subscribe(TOPIC, accept)
        await publish_until_heard(a, at_b)
        await a.publish(TOPIC, b"bug")
        await a.publish(TOPIC, b"fine")
        with trio.fail_after(10):
            assert (await at_b.receive()).data == b"fine"
        assert "bug: the check" in caplog.text


async def test_publishing_is_paced_and_bounded(open_node: Open, clock: Clock) -> None:
    async with open_node(1, topic_rate_default=2.0) as a:
        sent, refused = 0, 0

        async def publish() -> None:
            nonlocal sent, refused
            try:
                await a.publish(TOPIC, b"x")
                sent += 1
            except PublishRefused:
                refused += 1

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(publish)
        assert sent + refused == 100
        assert 16 <= sent <= 24


async def test_a_slow_subscriber_loses_the_oldest(open_node: Open, clock: Clock) -> None:
    async with pair(open_node, topic_rate_default=100_000.0) as (a, b):
        at_b = await b.subscribe(TOPIC, accept)
        await a.subscribe(TOPIC, accept)
        await publish_until_heard(a, at_b)
        for n in range(4200):
            await a.publish(TOPIC, b"%d" % n)
            if n % 200 == 0:
                await trio.sleep(0.05)
        await eventually(lambda: b.topics.counts(TOPIC).accepted >= 4200)  # type: ignore[attr-defined]
        first = await at_b.receive()
        assert int(first.data) == 4200 - 4096


async def test_a_topic_has_one_subscriber(open_node: Open, clock: Clock) -> None:
    async with open_node(1) as a:
        await a.subscribe(TOPIC, accept)
        with pytest.raises(TransportError):
            await a.subscribe(TOPIC, accept)


async def test_strangers_share_a_twentieth(open_node: Open, clock: Clock) -> None:
    friends = {key(1).node_id}

    async with AsyncExitStack() as stack:
        settings = {"topic_rate_default": 100.0, "allow": friends.__contains__}
        b = await stack.enter_async_context(open_node(2, **settings))
        friend = await stack.enter_async_context(open_node(1, topic_rate_default=5000.0))
        stranger = await stack.enter_async_context(open_node(3, topic_rate_default=5000.0))
        at_b = await b.subscribe(TOPIC, accept)
        for node in (friend, stranger):
            await node.subscribe(TOPIC, accept)
            await node.connect(b.addresses[0])
        await publish_until_heard(friend, at_b)
        for n in range(150):
            await stranger.publish(TOPIC, b"stranger %d" % n)
            await friend.publish(TOPIC, b"friend %d" % n)
        heard = {friend.me: 0, stranger.me: 0}
        with trio.fail_after(10):
            while heard[friend.me] < 150:
                gossip = await at_b.receive()
                heard[gossip.origin] += 1
        assert heard[stranger.me] <= 60
