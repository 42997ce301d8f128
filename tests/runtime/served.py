"""A testnet in a thread with a loop of its own: all tests of a module use it, in their own loops or in none."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from p2pnode.testnet import Child, Testnet, TestnetPlan, open_testnet

READY_S = 240.0


@dataclass(frozen=True)
class Served:
    """A running testnet, and a hold on its loop; what it does there blocks, until it is done."""

    net: Testnet
    token: trio.lowlevel.TrioToken
    nursery: trio.Nursery

    def child(self, node: str) -> Child:
        """Whose node has this id."""
        return next(child for child in self.net.children if child.ready["node"] == node)

    def kill(self, child: Child) -> None:
        """kill -9."""

        async def kill() -> None:
            child.process.kill()
            await child.process.wait()

        trio.from_thread.run(kill, trio_token=self.token)

    def restart_oracle(self, child: Child) -> None:
        """Start an oracle that ended once more, until it signs."""
        trio.from_thread.run(self.net.restart_oracle, child, self.nursery, trio_token=self.token)


@contextmanager
def served(plan: TestnetPlan) -> Iterator[Served]:
    """The testnet for as long as the block lasts. What it ends with, at its start or later, is raised here."""
    up, over = threading.Event(), threading.Event()
    ready: list[Served] = []
    failed: list[BaseException] = []

    async def run() -> None:
        async with open_testnet(plan) as net, trio.open_nursery() as nursery:
            ready.append(Served(net, trio.lowlevel.current_trio_token(), nursery))
            up.set()
            await trio.to_thread.run_sync(over.wait)
            nursery.cancel_scope.cancel()

    def serve() -> None:
        try:
            trio.run(run)
        except BaseException as error:  # raised where the testnet is used
            failed.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert up.wait(READY_S), "the testnet takes too long"
        if ready:
            yield ready[0]
    finally:
        over.set()
        thread.join()
    for error in failed:
        raise error
