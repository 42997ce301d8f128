"""A node under attack, in a process of its own: ``python -m tests.runtime.adversaries.victim``.

Configured by the environment, as any child of a testnet; a miner's engine is the fake. It prints its status when it is
ready, answers each line on standard input with its levels, and ends with its standard input.
"""

import gc
import json
import logging
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Any

import trio

from p2pnode.channels import Channels
from p2pnode.config import load_config
from p2pnode.engine.api import Engine, EngineConfig
from p2pnode.engine.fake import FakeConfig, open_fake_engine
from p2pnode.node import Node, open_node
from p2pnode.transport.libp2p import Libp2pTransport
from p2pnode.transport.loopback import Loopback

FIRST_TOKEN_S, TOKEN_S, ANSWER_TOKENS = 0.005, 0.001, 24


def open_fake(config: EngineConfig) -> AbstractAsyncContextManager[Engine]:
    """The miner's engine: quick, and the same answer to the same question."""
    speed = FakeConfig(slots=config.slots, first_token_s=FIRST_TOKEN_S, token_s=TOKEN_S, answer_tokens=ANSWER_TOKENS)
    return open_fake_engine(speed)


def levels(node: Node, channels: list[Channels]) -> dict[str, Any]:
    """What the node holds for others now; a leak shows as a level that does not come down again."""
    assert isinstance(node.transport, Loopback)
    inner = node.transport._inner
    assert isinstance(inner, Libp2pTransport)
    muxers = inner.links.all()
    topics = {name: node.genesis.topic(name) for name in ("nodes", "sessions")}
    return {
        "connections": len(muxers),
        "streams": sum(len(muxer.streams) for muxer in muxers),
        "inbound": len(inner.inbound),
        "handshakes": inner.listener.handshakes,
        "unfinished_bytes": inner.unfinished.total,
        "unread_bytes": sum(muxer.buffered for muxer in muxers),
        "unsent_bytes": sum(muxer.unsent for muxer in muxers),
        "channels": sum(map(len, channels)),
        "waiting_bytes": sum(held._waiting.total for held in channels),
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "adverts": len(node.book),
        "bids": len(node.miner._bids.bids) if node.miner is not None else 0,
        "sessions": node.router.load()["sessions"] if node.router is not None else 0,
        "peers": sorted(peer.hex() for peer in inner.peers()),
        "gossip": {name: asdict(inner.topics.counts(topic)) for name, topic in topics.items()},
    }


async def _serve() -> None:
    async with open_node(load_config(None), engine=open_fake) as node:
        gc.collect()
        channels = [item for item in gc.get_objects() if isinstance(item, Channels)]
        print(json.dumps(node.status()), flush=True)
        async with trio.lowlevel.FdStream(0) as standard_input:
            async for lines in standard_input:
                for _ in range(lines.count(b"\n")):
                    print(json.dumps(levels(node, channels)), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    trio.run(_serve)
