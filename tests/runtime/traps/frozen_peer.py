"""A node in a process of its own, to be stopped in its tracks: prints its address and serves until killed."""

import sys

import trio

from p2pnode.identity import NodeKey
from p2pnode.transport.libp2p import Libp2pConfig, open_libp2p
from p2pnode.transport.seam import Stream, Verdict


async def echo(stream: Stream) -> None:
    while True:
        await stream.send(await stream.receive())


async def main() -> None:
    settings = Libp2pConfig(listen=("/ip4/127.0.0.1/tcp/0",), topic_rate_default=1000.0)
    async with open_libp2p(NodeKey((99).to_bytes(32, "big")), settings) as node:
        node.handle("echo", echo)
        reader = await node.subscribe("t", lambda forwarder, origin, data: Verdict.ACCEPT)
        print(node.addresses[0], flush=True)
        async for _ in reader:
            pass


if __name__ == "__main__":
    sys.exit(trio.run(main))
