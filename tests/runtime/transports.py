"""Nodes of either transport, for the suite that both of them pass."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import trio
import trio.testing

from p2pnode.identity import NodeKey
from p2pnode.transport.libp2p import Libp2pConfig, open_libp2p
from p2pnode.transport.memory import MemoryNetwork
from p2pnode.transport.seam import Gossip, PeerDown, PeerUp, Stream, StreamClosed, Transport, Verdict
from protocol.core.ids import NodeId

KINDS = ["libp2p", "memory"]
TOPIC = "/p2pnode/00000000/nodes/1"

Clock = trio.abc.Clock | None
Open = Callable[..., AbstractAsyncContextManager[Any]]


def key(n: int) -> NodeKey:
    return NodeKey(n.to_bytes(32, "big"))


def opener(kind: str) -> Open:
    """A function that opens a node: ``open_node(n, topic_rate_default=…, send_s=…, allow=…)``."""
    network = MemoryNetwork(seed=7)

    def open_one(n: int, **settings: Any) -> AbstractAsyncContextManager[Any]:
        settings = {"topic_rate_default": 1000.0, **settings}
        if kind == "memory":
            return network.open(key(n), **settings)
        return open_libp2p(key(n), Libp2pConfig(listen=("/ip4/127.0.0.1/tcp/0",), **settings))

    return open_one


def clock_for(kind: str) -> Clock:
    """The memory network runs on virtual time; sockets do not."""
    return trio.testing.MockClock(autojump_threshold=0) if kind == "memory" else None


@asynccontextmanager
async def pair(open_node: Open, **settings: Any) -> AsyncIterator[tuple[Transport, Transport]]:
    """Two nodes, the first connected to the second."""
    async with open_node(1, **settings) as a, open_node(2, **settings) as b:
        await a.connect(b.addresses[0])
        await until_up(b, a.me)
        yield a, b


async def until_up(node: Transport, peer: NodeId) -> None:
    with trio.fail_after(30):
        async for event in node.events():
            if event == PeerUp(peer):
                return


async def until_down(node: Transport, peer: NodeId) -> None:
    with trio.fail_after(60):
        async for event in node.events():
            if event == PeerDown(peer):
                return


async def echo(stream: Stream) -> None:
    with suppress(StreamClosed):
        while True:
            await stream.send(await stream.receive())


def accept(forwarder: NodeId, origin: NodeId, data: bytes) -> Verdict:
    return Verdict.ACCEPT


async def publish_until_heard(node: Transport, reader: trio.MemoryReceiveChannel[Gossip]) -> None:
    """Gossip until it arrives: a mesh forms a little after its peers connect."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                await reader.receive()
                nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            while True:
                await node.publish(TOPIC, b"is anybody there")
                await trio.sleep(0.05)
    while True:  # what was still under way
        with trio.move_on_after(0.3) as scope:
            await reader.receive()
        if scope.cancelled_caught:
            return


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that nothing tells of: a counter, a table."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)
