"""Answers straight from the miner, over real libp2p: past the router, and whole whatever becomes of the stream."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pnode.client import Answer, LightClient, Session, connect
from p2pnode.config import load_config
from p2pnode.engine.api import Engine, EngineConfig
from p2pnode.engine.fake import FakeConfig, open_fake_engine
from p2pnode.identity import NodeKey
from p2pnode.node import Node, open_node
from p2pnode.transport.libp2p import Libp2pConfig, open_libp2p
from p2pnode.transport.seam import Transport
from protocol.core.machine import Send
from protocol.messages.tasks import FrameMessage, RelayTask, StartTask
from tests.runtime.transports import eventually

TOKENS = 300
"""Beyond what a miner may send without an ack."""
SEED = bytes(32)


def open_fake(config: EngineConfig) -> AbstractAsyncContextManager[Engine]:
    return open_fake_engine(FakeConfig(slots=config.slots, token_s=0.004, answer_tokens=1 << 30))


class Net:
    """A router, two miners and a client in one process, each on a transport of its own."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder, self._nursery = folder, nursery
        self.miners: dict[bytes, tuple[Node, trio.CancelScope]] = {}
        self.relayed: list[object] = []
        """What the router sent of frames, orders and requests to relay."""

    async def run(self, name: str, role: str, task_status: Any, bootstrap: tuple[str, ...] = ()) -> None:
        """A node, until it is killed."""
        settings = {"node.roles": [role], "node.state_dir": str(self.folder / name), "miner.slots": 2}
        overrides = {**settings, "network.listen": ["/ip4/127.0.0.1/tcp/0"], "network.bootstrap": list(bootstrap)}
        config = load_config(None, overrides=overrides, env={"P2PNODE_HOME": str(self.folder)})
        with trio.CancelScope() as scope:
            async with open_node(config, engine=open_fake) as node:
                task_status.started((node, scope))
                await trio.sleep_forever()

    async def start(self) -> str:
        """All nodes; the router's address."""
        router, _ = await self._nursery.start(lambda task_status: self.run("router", "router", task_status))
        self.overhear(router)
        address = str(router.addresses[0])
        for number in range(2):

            async def run(task_status: Any, name: str = f"miner-{number}") -> None:
                await self.run(name, "miner", task_status, (address,))

            node, scope = await self._nursery.start(run)
            self.miners[node.transport.me] = node, scope
        await eventually(lambda: sum(offer.slots for offer in router.book.models()) == 4)
        return address

    def overhear(self, node: Node) -> None:
        machine: Any = node.router
        handle = machine.handle

        def overhearing(event: object, now_ms: int) -> list[object]:
            effects: list[object] = handle(event, now_ms)
            said = [effect.message for effect in effects if isinstance(effect, Send)]
            self.relayed += [m for m in said if isinstance(m, FrameMessage | RelayTask | StartTask)]
            return effects

        machine.handle = overhearing

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message in self.relayed)


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    async with trio.open_nursery() as nursery:
        yield Net(tmp_path, nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def asking(net: Net) -> AsyncIterator[tuple[LightClient, Transport]]:
    address, key = await net.start(), NodeKey.generate()
    async with (
        open_libp2p(key, Libp2pConfig(listen=())) as transport,
        connect(address, key=key, transport=transport) as client,
    ):
        yield client, transport


async def undisturbed(client: LightClient) -> str:
    async with client.session() as session, session.ask("tell", seed=SEED, max_tokens=TOKENS) as answer:
        await answer.read()
    assert len(answer.token_ids) == TOKENS
    return answer.text


async def attached(net: Net, session: Session) -> None:
    """Wait until the client's own stream stands."""
    miner: Any = net.miners[bytes(session.miner)][0].miner
    await eventually(lambda: bool(miner._direct.sessions))
    await trio.sleep(0.2)


async def read_disturbed(answer: Answer, disturb: Callable[[], Any]) -> str:
    done = False
    with trio.fail_after(120):
        async for _ in answer:
            if len(answer.token_ids) > TOKENS // 3 and not done:
                done = True
                await disturb()
    assert answer.finish is not None
    assert answer.finish.completion_tokens == len(answer.token_ids) == TOKENS
    return answer.text


@pytest.mark.spec("DIRECT-TOKEN.1")
async def test_frames_do_not_pass_through_the_router(net: Net) -> None:
    async with asking(net) as (client, _):
        whole = await undisturbed(client)
        assert net.count(FrameMessage) > 0
        net.relayed.clear()
        async with client.session(direct=True) as session:
            await attached(net, session)
            for _ in range(2):
                async with session.ask("tell", seed=SEED, max_tokens=TOKENS) as answer:
                    assert await answer.read() == whole
        assert (net.count(StartTask), net.count(FrameMessage), net.count(RelayTask)) == (2, 0, 0)


@pytest.mark.spec("DIRECT-FALLBACK.1")
async def test_a_cut_connection_to_the_miner_is_not_seen_in_the_answer(net: Net) -> None:
    async with asking(net) as (client, transport):
        whole = await undisturbed(client)
        async with client.session(direct=True) as session:
            await attached(net, session)
            net.relayed.clear()
            async with session.ask("tell", seed=SEED, max_tokens=TOKENS) as answer:
                assert await read_disturbed(answer, lambda: transport.disconnect(session.miner)) == whole
            assert len(answer.heads) == 1, "the same miner goes on"
            assert net.count(RelayTask) == 1
            frames = [message for message in net.relayed if isinstance(message, FrameMessage)]
            assert min(frame.first_index for frame in frames) > TOKENS // 3, "only what the client did not have"


@pytest.mark.spec("DIRECT-FALLBACK.1", "CHAIN-TAKEOVER.1")
async def test_a_killed_miner_is_not_seen_in_the_answer(net: Net) -> None:
    async with asking(net) as (client, _):
        whole = await undisturbed(client)
        async with client.session(direct=True) as session:
            await attached(net, session)

            async def kill() -> None:
                net.miners[bytes(session.miner)][1].cancel()

            async with session.ask("tell", seed=SEED, max_tokens=TOKENS) as answer:
                assert await read_disturbed(answer, kill) == whole
            first, second = answer.heads
            assert first.miner != second.miner
            assert second.start_index > TOKENS // 3
