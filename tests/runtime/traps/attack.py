"""A node under attack, an honest peer beside it, and an attacker who speaks below the seam."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from p2pnode.identity import NodeKey
from p2pnode.transport.libp2p import Libp2pConfig, Libp2pTransport, open_libp2p
from p2pnode.transport.libp2p.muxed_stream import MuxedStream
from p2pnode.transport.libp2p.negotiation import propose
from p2pnode.transport.seam import Gossip, PeerUp, Stream, StreamClosed, Verdict
from protocol.core.ids import NodeId

TOPIC = "/p2pnode/00000000/sessions/1"
MESHSUB = "/meshsub/1.1.0"


def key(n: int) -> NodeKey:
    return NodeKey(n.to_bytes(32, "big"))


def config(**settings: Any) -> Libp2pConfig:
    return Libp2pConfig(**{"listen": ("/ip4/127.0.0.1/tcp/0",), "topic_rate_default": 2000.0, **settings})


async def echo(stream: Stream) -> None:
    with suppress(StreamClosed):
        while True:
            await stream.send(await stream.receive())


def accept(forwarder: NodeId, origin: NodeId, data: bytes) -> Verdict:
    return Verdict.ACCEPT


async def until_up(node: Libp2pTransport, peer: NodeId) -> None:
    with trio.fail_after(10):
        async for event in node.events():
            if event == PeerUp(peer):
                return


async def drained(reader: trio.MemoryReceiveChannel[Gossip], quiet_s: float = 0.2) -> list[Gossip]:
    """What is on the channel until it was silent for a moment."""
    heard = []
    while True:
        with trio.move_on_after(quiet_s) as scope:
            heard.append(await reader.receive())
        if scope.cancelled_caught:
            return heard


async def heard_of(node: Libp2pTransport, reader: trio.MemoryReceiveChannel[Gossip], word: bytes) -> None:
    """Publish until it is heard: a mesh forms a little after its peers connect."""
    with trio.fail_after(10):
        while True:
            await node.publish(TOPIC, word)
            with trio.move_on_after(0.1):
                while (await reader.receive()).data != word:
                    pass
                return


@dataclass
class Attack:
    """``victim`` and ``witness`` are honest and connected; ``attacker`` is connected to the victim only."""

    victim: Libp2pTransport
    witness: Libp2pTransport
    attacker: Libp2pTransport
    at_victim: trio.MemoryReceiveChannel[Gossip]
    at_witness: trio.MemoryReceiveChannel[Gossip]
    count: int = field(default=0)

    async def raw_stream(self, *protocols: str) -> MuxedStream:
        """A stream from the attacker to the victim, with nothing of ours on it."""
        muxer = self.attacker.links.best(self.victim.me)
        if muxer is None:
            await self.attacker.connect(self.victim.addresses[0])
            muxer = self.attacker.links.best(self.victim.me)
        assert muxer is not None
        stream = muxer.open_stream_now()
        if protocols:
            await propose(stream, *protocols)
        return stream

    async def still_serves(self) -> None:
        """The victim answers streams and carries gossip both ways."""
        self.count += 1
        word = b"still here %d" % self.count
        with trio.fail_after(15):
            stream = await self.witness.open_stream(self.victim.me, "echo")
            await stream.send(word)
            assert await stream.receive() == word
            await stream.close()
            await heard_of(self.victim, self.at_witness, b"to witness " + word)
            await heard_of(self.witness, self.at_victim, b"to victim " + word)


@asynccontextmanager
async def attack_on(**settings: Any) -> AsyncIterator[Attack]:
    """The settings are the victim's."""
    async with (
        open_libp2p(key(1), config(**settings)) as victim,
        open_libp2p(key(2), config()) as witness,
        open_libp2p(key(3), config()) as attacker,
    ):
        victim.handle("echo", echo)
        at_victim = await victim.subscribe(TOPIC, accept)
        at_witness = await witness.subscribe(TOPIC, accept)
        await witness.connect(victim.addresses[0])
        await attacker.connect(victim.addresses[0])
        await until_up(victim, witness.me)
        await until_up(victim, attacker.me)
        attack = Attack(victim, witness, attacker, at_victim, at_witness)
        await attack.still_serves()
        yield attack
