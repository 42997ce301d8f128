"""What chaos does to a miner's processes and to its way to the router."""

import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Generic, Protocol, TypeVar

import psutil
import trio

from p2pnode.testnet import Testnet, TestnetPlan
from p2pnode.testnet_child import Child, bury, drain
from p2pnode.transport.unwrap import unwrapped

KINDS = ("kill", "freeze", "slow", "cut")
SLOW_STOPPED_S, SLOW_RUNNING_S = 0.045, 0.005
"""A tenth of the time is left to the miner."""
CHUNK_BYTES = 65_536

V = TypeVar("V", bound="Victim")
V_contra = TypeVar("V_contra", bound="Victim", contravariant=True)


class Proxy:
    """A cable between a miner and the router that can be cut without either end being told."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.whole = trio.Event()
        self.whole.set()

    async def serve(self, nursery: trio.Nursery) -> None:
        """Listen on a free port."""
        listeners = await nursery.start(trio.serve_tcp, self._carry, 0)
        self.port = listeners[0].socket.getsockname()[1]

    def cut(self) -> None:
        """Forward nothing any more; what comes in waits."""
        self.whole = trio.Event()

    def heal(self) -> None:
        """Forward what waited and everything after it."""
        self.whole.set()

    async def _carry(self, near: trio.SocketStream) -> None:
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            far = await trio.open_tcp_stream("127.0.0.1", self.target)
            async with near, far, trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, near, far)
                nursery.start_soon(self._copy, far, near)

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(CHUNK_BYTES):
                await self.whole.wait()
                await sink.send_all(data)
            await sink.send_eof()


class ChaosNet(Testnet):
    """A testnet whose miners reach the router through a proxy each, and can be started again.

    A miner dials the router, so the one connection between the two runs through its proxy, whichever side opens the
    streams on it.
    """

    def __init__(self, plan: TestnetPlan, nursery: trio.Nursery) -> None:
        super().__init__(plan)
        self.proxies: dict[str, Proxy] = {}
        self._nursery = nursery

    async def _spawn(self, name: str, roles: list[str], bootstrap: list[str]) -> Child:
        if bootstrap and name not in self.proxies:
            port = bootstrap[0].partition("/tcp/")[2].partition("/")[0]
            proxy = self.proxies[name] = Proxy(int(port))
            await proxy.serve(self._nursery)
        if bootstrap:
            before, _, after = bootstrap[0].partition("/tcp/")
            bootstrap = [f"{before}/tcp/{self.proxies[name].port}/{after.partition('/')[2]}"]
        return await super()._spawn(name, roles, bootstrap)

    def miner(self, node: bytes) -> Child:
        """The miner with a node id."""
        return next(child for child in self.children if child.ready["node"] == "0x" + node.hex())

    async def revive(self, dead: Child) -> None:
        """Start a killed miner again, with its key."""
        await bury(dead)
        self.children.remove(dead)
        child = await self._spawn(dead.name, ["miner"], [self.address])
        self._nursery.start_soon(drain, child)
        await self._await_ready(child)


@asynccontextmanager
async def open_chaos_net(plan: TestnetPlan) -> AsyncIterator[ChaosNet]:
    """As open_testnet, with proxies."""
    with unwrapped():
        async with trio.open_nursery() as nursery:
            testnet = ChaosNet(plan, nursery)
            try:
                await testnet.start(nursery)
                yield testnet
            finally:
                with trio.CancelScope(shield=True):
                    await testnet.stop()
                nursery.cancel_scope.cancel()


class Victim(Protocol):
    """What a fault strikes: a miner, or an engine of another router."""

    name: str
    process: trio.Process


class Net(Protocol[V_contra]):
    """Where it lives."""

    proxies: dict[str, Proxy]

    async def revive(self, dead: V_contra) -> None: ...


class Fault(Generic[V]):
    """One fault of one miner, from strike to heal."""

    def __init__(self, kind: str, net: Net[V], miner: V) -> None:
        self.kind, self.net, self.miner = kind, net, miner
        self._slowing: trio.CancelScope | None = None

    def strike(self, nursery: trio.Nursery) -> None:
        """Do it now."""
        if self.kind == "kill":
            self.miner.process.kill()
        elif self.kind == "freeze":
            self._signal(signal.SIGSTOP)
        elif self.kind == "cut":
            self.net.proxies[self.miner.name].cut()
        else:
            self._slowing = trio.CancelScope()
            nursery.start_soon(self._slow, self._slowing)

    async def heal(self) -> None:
        """Undo it, as far as the miner is concerned."""
        if self.kind == "kill":
            await self.miner.process.wait()
            await self.net.revive(self.miner)
        elif self.kind == "freeze":
            self._signal(signal.SIGCONT)
        elif self.kind == "cut":
            self.net.proxies[self.miner.name].heal()
        elif self._slowing is not None:
            self._slowing.cancel()

    async def _slow(self, scope: trio.CancelScope) -> None:
        processes = self._processes()
        with scope:
            try:
                while True:
                    self._signal(signal.SIGSTOP, processes)
                    await trio.sleep(SLOW_STOPPED_S)
                    self._signal(signal.SIGCONT, processes)
                    await trio.sleep(SLOW_RUNNING_S)
            finally:
                self._signal(signal.SIGCONT, processes)

    def _processes(self) -> Sequence[int]:
        node = psutil.Process(self.miner.process.pid)
        return [node.pid, *(worker.pid for worker in node.children(recursive=True))]

    def _signal(self, number: int, processes: Sequence[int] | None = None) -> None:
        for pid in processes or self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
