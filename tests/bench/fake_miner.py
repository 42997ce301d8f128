"""A miner's process whose engine is the fake: ``python -m tests.bench.fake_miner run [--config FILE] …``.

It takes the place of ``p2pnode.cli.entry`` in a testnet (``TestnetPlan.miner_module``): everything but the engine is
the miner's own. Configured by the environment, as any child of a testnet.
"""

import argparse
import gc
import json
import logging
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

from p2pnode.config import NodeConfig, load_config
from p2pnode.engine.api import Engine, EngineConfig
from p2pnode.engine.fake import FakeConfig, open_fake_engine
from p2pnode.node import open_node

FIRST_TOKEN_S = 0.020
TOKEN_S = 0.005


def fake_config(slots: int) -> FakeConfig:
    """The engine of the path bench: 20 ms to the first token, 5 ms for each, for as long as asked."""
    return FakeConfig(slots=slots, first_token_s=FIRST_TOKEN_S, token_s=TOKEN_S, answer_tokens=1 << 30)


def open_fake(config: EngineConfig) -> AbstractAsyncContextManager[Engine]:
    return open_fake_engine(fake_config(config.slots))


def main() -> None:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fake_miner")
    parser.add_argument("command", choices=("run",))
    parser.add_argument("--config", type=Path)
    args, _ = parser.parse_known_args()
    config = load_config(args.config)
    logging.basicConfig(level=config.node.log_level.upper(), stream=sys.stderr)
    trio.run(_serve, config)


async def _serve(config: NodeConfig) -> None:
    async with open_node(config, engine=open_fake) as node:
        gc.collect()
        gc.freeze()  # as p2pnode.cli.run does
        print(json.dumps(node.status()), flush=True)
        async with trio.lowlevel.FdStream(0) as standard_input:
            async for _ in standard_input:
                pass


if __name__ == "__main__":
    main()
