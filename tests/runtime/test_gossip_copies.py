"""The simulator's model of gossip against the library: how many copies of a message real nodes send each other."""

from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest
import trio

from p2pnode.sim.counting_mesh import LINKS_JOINED, LINKS_MAX, RPC_BYTES
from p2pnode.transport.libp2p import Libp2pTransport
from p2pnode.transport.libp2p.pubsub import NodePubsub, OutboundRpcs
from protocol.core.genesis import Genesis
from tests.runtime.transports import accept, eventually, opener

NODES = 14
TOPIC = Genesis("copies").topic("sessions")
DATA = bytes(300)


async def test_a_message_is_copied_as_often_as_the_model_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from libp2p.pubsub.pb import rpc_pb2

    copies, sizes = [0], set[int]()
    take, push = NodePubsub._on_message, OutboundRpcs.push_bytes

    def counted_take(self: NodePubsub, *message: Any) -> None:
        copies[0] += 1
        take(self, *message)

    def counted_push(self: OutboundRpcs, body: bytes, priority: bool = False) -> bool:
        if len(rpc_pb2.RPC.FromString(body).publish) == 1:  # not what a heartbeat tells or repeats, however long
            sizes.add(len(body) + 2)
        return push(self, body, priority)

    monkeypatch.setattr(NodePubsub, "_on_message", counted_take)
    monkeypatch.setattr(OutboundRpcs, "push_bytes", counted_push)
    async with AsyncExitStack() as stack:
        nodes, readers = await _network(stack)
        link_ends = sum(map(_links, nodes))
        assert max(map(_links, nodes)) <= LINKS_MAX
        expected = NODES * (link_ends - (NODES - 1))
        for node in nodes:
            await node.publish(TOPIC, DATA)
        for reader in readers:
            with trio.fail_after(20):
                for _ in range(NODES - 1):
                    await reader.receive()
        # Neighbours of an author that had it from another do not send it back: that is all that may be missing.
        await eventually(lambda: copies[0] >= 0.95 * expected)
        await trio.sleep(0.3)
        assert copies[0] <= expected
    assert sizes
    # Now and then a signature is a byte or two shorter.
    assert {size for size in sizes if abs(size - len(DATA) - RPC_BYTES) > 6} == set()


async def _network(stack: AsyncExitStack) -> tuple[list[Libp2pTransport], list[Any]]:
    """Nodes that dialed as many others as the model's do, in a mesh of all their connections."""
    rng, open_node = Random(1), opener("libp2p")
    nodes: list[Libp2pTransport] = []
    readers = []
    for number in range(1, NODES + 1):
        node = await stack.enter_async_context(open_node(number, degree=0))
        for other in rng.sample(nodes, min(LINKS_JOINED, len(nodes))):
            await node.connect(other.addresses[0])
        nodes.append(node)
        readers.append(await node.subscribe(TOPIC, accept))
    wanted = 2 * sum(min(LINKS_JOINED, number) for number in range(NODES))
    await eventually(lambda: sum(map(_links, nodes)) >= 0.9 * wanted)
    await trio.sleep(1.5)  # one more heartbeat: who has too many links drops some
    return nodes, readers


def _links(node: Libp2pTransport) -> int:
    return len(node.pubsub._node_router.mesh.get(TOPIC, ()))
