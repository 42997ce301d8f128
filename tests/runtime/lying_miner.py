"""A miner that is not what it says: ``python -m tests.runtime.lying_miner run …``, in the place of ``p2pnode``.

The environment's LIES says who lies how, by the nodes' names: ``miner-2=q4_0,miner-3=slow``. Everything but the engine,
and for ``slow`` the claim, is the miner's own.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from p2pnode.config import NodeConfig, load_config
from p2pnode.engine.api import Engine, EngineConfig, GenerateEvent, GenerateRequest, Generation
from p2pnode.engine.supervisor import open_engine
from p2pnode.models.store import SHIPPED
from p2pnode.node import open_node

CLAIMED = 2_000
"""Tokens a second that the slow miner claims."""
PAUSE_S = 0.05
"""Before each of its tokens."""
CALM_S = 0.01
"""Before each token of a miner that only takes its time: what strikes at the first one strikes in the middle."""


class Lying:
    """An engine whose generations go through ``twist``; all else is the engine's."""

    def __init__(self, engine: Engine, twist: Callable[[Generation], Any]) -> None:
        self._engine = engine
        self._twist = twist

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, request: GenerateRequest) -> Any:
        return self._twist(self._engine.generate(request))


async def slowly(generation: Generation, pause_s: float = PAUSE_S) -> AsyncIterator[GenerateEvent]:
    """The same tokens, later."""
    async for event in generation:
        await trio.sleep(pause_s)
        yield event


async def never(generation: Generation) -> AsyncIterator[GenerateEvent]:
    """No token at all."""
    await trio.sleep_forever()
    yield await generation.__anext__()


def another(file: str) -> Callable[[EngineConfig], AbstractAsyncContextManager[Engine]]:
    """Loads another file than the one that is offered."""
    return lambda config: open_engine(replace(config, model_path=SHIPPED / file))


def twisted(twist: Callable[[Generation], Any]) -> Callable[[EngineConfig], AbstractAsyncContextManager[Any]]:
    """Loads what is offered, and answers otherwise."""

    @asynccontextmanager
    async def opened(config: EngineConfig) -> AsyncIterator[Any]:
        async with open_engine(config) as engine:
            yield Lying(engine, twist)

    return opened


ENGINES: Mapping[str, Callable[[EngineConfig], AbstractAsyncContextManager[Any]]] = {
    "": open_engine,
    "q4_0": another("tiny-q4_0.gguf"),
    "other": another("small-q8_0.gguf"),
    "slow": twisted(slowly),
    "calm": twisted(partial(slowly, pause_s=CALM_S)),
    "silent": twisted(never),
}


def lie_of(name: str, lies: str) -> str:
    """How a node of this name lies; empty if it does not."""
    return dict(each.split("=") for each in lies.split(",") if each).get(name, "")


def main(argv: Sequence[str] | None = None) -> None:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.runtime.lying_miner")
    parser.add_argument("command", choices=("run",))
    parser.add_argument("--config", type=Path)
    args, _ = parser.parse_known_args(argv)
    config = load_config(args.config)
    lie = lie_of(config.node.name, os.environ.get("LIES", ""))
    if lie == "slow":
        config = replace(config, miner=replace(config.miner, tokens_per_second=CLAIMED))
    logging.basicConfig(level=config.node.log_level.upper(), stream=sys.stderr)
    trio.run(serve, config, lie)


async def serve(config: NodeConfig, lie: str) -> None:
    """The node, until standard input ends."""
    async with open_node(config, engine=ENGINES[lie]) as node:
        print(json.dumps(node.status()), flush=True)
        async with trio.lowlevel.FdStream(0) as standard_input:
            async for _ in standard_input:
                pass


if __name__ == "__main__":
    main()
