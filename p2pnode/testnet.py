"""A network of several processes on this machine: routers, miners and oracles, each with a folder and a log.

The keys of oracles and miners are made first, as the genesis names them, and one for a client, who is given a balance.
A testnet that is started again in its folder is the same network: its oracles go on where they stopped, and so does the
chain that it settles on, if it has one.

Children are in sessions of their own, so Ctrl-C reaches only the parent, which takes them down in order; and each
ends by itself when its standard input closes, so none outlives a parent that was killed.
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from p2pnode.control import ControlError
from p2pnode.testnet_child import Child, bury, drain, last_line
from p2pnode.testnet_folder import (
    CLIENT_KEYSTORE,
    KEYSTORE,
    TestnetFolder,
    client_key,
    make_key,
    miner_name,
    oracle_name,
    router_name,
)
from p2pnode.transport.unwrap import unwrapped
from protocol.core.errors import P2PNodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.messages.adverts import Role

if TYPE_CHECKING:
    # A testnet without a chain starts without it.
    from p2pnode.testnet_chain import ChainPlan, TestnetChain

__all__ = ["KEYSTORE", "Child", "Testnet", "TestnetError", "TestnetPlan", "client_key", "make_key", "open_testnet"]

NODE_MODULE = "p2pnode.cli.entry"
CLIENT_WEI = 10**9
"""What the genesis gives it."""
TESTNET = "testnet"
"""What a testnet's network is called."""
QUICK = Params(heartbeat_ms=1_500)
"""Of a testnet: a person who looks should see the height rise."""
QUICK_ON_CHAIN = replace(QUICK, anchor_stride=2, checkpoint_ms=2_000, turn_ms=4_000)
"""And see answers get settled: a local chain makes a block a second."""
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1


class TestnetError(P2PNodeError):
    """A node of the testnet did not start, or stopped by itself; its log says why."""

    __test__ = False  # not a test, whatever pytest makes of the name
    code = "testnet/failed"


@dataclass(frozen=True, slots=True)
class TestnetPlan:
    """What to start, and where."""

    __test__ = False
    folder: Path
    miners: int = 3
    model: str = "tiny"
    slots: int = 2
    config: Path | None = None
    """Where everything else is taken from."""
    routers: int = 1
    miner_module: str = NODE_MODULE
    """What runs a miner; a benchmark puts one with another engine here."""
    oracles: int = 0
    genesis: Genesis | None = None
    """The network's parameters; the oracles become its committee. None: the built-in ones, with a short heartbeat."""
    password: str = ""
    """Of all keys."""
    price_wei: int = 1
    """What miners ask for a token, where there are oracles to keep a ledger."""
    miners_listed: bool = True
    """Whether the genesis lists the miners as if tested; if not, they enlist and the oracles test them first."""
    oracle_module: str = NODE_MODULE
    """What runs an oracle; a test puts one here that writes down what it hears."""
    router_module: str = NODE_MODULE
    """What runs a router; a test puts one here that can lie."""
    members: int = 0
    """How many of the oracles, the first ones, are the genesis committee; 0: all."""
    chain: "ChainPlan | None" = None
    """The chain that is started with it, and what its contracts are deployed with; None: nothing settles."""
    inbox: bool = False
    """Whether its routers answer what is asked through the inbox on that chain."""
    tests_miners: bool = True
    """Whether its oracles hold the model; those without one say nothing of a miner."""
    http: str = ""
    """Where its first router serves the OpenAI API, as HOST:PORT; empty: nowhere."""


class Testnet:
    """A running testnet. Made by :func:`open_testnet`."""

    __test__ = False

    def __init__(self, plan: TestnetPlan) -> None:
        self.plan = plan
        self.children: list[Child] = []
        self.chain: TestnetChain | None = None
        """Where it settles, once it is started; None where it does not."""
        self._genesis = ""
        self._folder = TestnetFolder(plan.folder, plan.password)

    @property
    def router(self) -> Child:
        """The first router's process."""
        return self.children[0]

    @property
    def routers(self) -> Sequence[Child]:
        """All routers' processes."""
        return self.children[: self.plan.routers]

    @property
    def oracles(self) -> Sequence[Child]:
        """All oracles' processes, in the order of their names."""
        return self.children[len(self.children) - self.plan.oracles :]

    @property
    def address(self) -> str:
        """What a client is given."""
        return self.addresses[0]

    @property
    def addresses(self) -> Sequence[str]:
        """Of all routers, the first first."""
        return [str(child.addresses[0]) for child in self.routers]

    @property
    def http_urls(self) -> Sequence[str]:
        """Where the first router serves the OpenAI API, without /v1; nowhere unless the plan says so."""
        return list(self.router.ready.get("http", {}).get("urls", ()))

    @property
    def client_keystore(self) -> Path | None:
        """The key of a client with a balance; None where there is no ledger."""
        return self.plan.folder / CLIENT_KEYSTORE if self.plan.oracles else None

    @property
    def rpc(self) -> Sequence[str]:
        """Where a client asks the chain itself; nowhere where nothing settles."""
        return [] if self.chain is None else [self.chain.url]

    def committee(self) -> dict[str, Any] | None:
        """What the first oracle that answers says of the committee; None if there is none."""
        for oracle in self.oracles:
            with suppress(ControlError):
                return oracle.ask("committee")
        return None

    def name_of(self, node: str) -> str:
        """What a node of this testnet is called, by its id; the id itself if it is none of them."""
        return next((child.name for child in self.children if child.ready.get("node") == node), node)

    def statuses(self) -> list[tuple[Child, dict[str, Any]]]:
        """What each node says of itself; an empty mapping for one that does not answer."""
        rows = []
        for child in self.children:
            try:
                rows.append((child, child.ask("status")))
            except ControlError:
                rows.append((child, {}))
        return rows

    async def watch(self, report: Callable[[str], None]) -> None:
        """Report nodes that stop by themselves; the others go on. Raises TestnetError when it is the last router."""
        async with trio.open_nursery() as nursery:
            for child in self.children:
                nursery.start_soon(self._watch, child, report)

    async def _watch(self, child: Child, report: Callable[[str], None]) -> None:
        status = await child.process.wait()
        if all(router.process.poll() is not None for router in self.routers):
            raise TestnetError(f"{child.name} stopped by itself with status {status}", hint=f"its log: {child.log}")
        report(f"{child.name} stopped with status {status}; the others go on. Its log: {child.log}")

    async def start(self, nursery: trio.Nursery) -> None:
        """Start all nodes and wait until every router knows every miner, and the oracles sign. Raises TestnetError."""
        await trio.to_thread.run_sync(self._open_chain)
        self._genesis = await trio.to_thread.run_sync(self._prepare)
        async with trio.open_nursery() as first:
            # The contracts, and what pays for an oracle's transactions, are there before the oracle is.
            if self.chain is not None and self.plan.inbox:
                # Then before the routers are, too.
                await trio.to_thread.run_sync(self._introduce)
            elif self.chain is not None:
                first.start_soon(trio.to_thread.run_sync, self._introduce)
            await self._start_routers_and_miners(nursery)
        for number in range(1, self.plan.oracles + 1):
            child = await self._spawn(oracle_name(number), ["oracle"], list(self.addresses))
            nursery.start_soon(drain, child)
        for child in self.children[self.plan.routers :]:
            await self._await_ready(child)
        for router in self.routers:
            await self._await_miners(router)
        for oracle in self.oracles[: self.plan.members or self.plan.oracles]:
            await self._await_signing(oracle)
        for router in self.routers if self.plan.oracles else ():
            await self._await_pool(router)
        if self.chain is not None:
            await self._await_deposit()

    async def _start_routers_and_miners(self, nursery: trio.Nursery) -> None:
        for number in range(1, self.plan.routers + 1):
            router = await self._spawn(router_name(number), ["router"], [self.address] if number > 1 else [])
            nursery.start_soon(drain, router)
            await self._await_ready(router)
        for number in range(1, self.plan.miners + 1):
            child = await self._spawn(miner_name(number), ["miner"], list(self.addresses))
            nursery.start_soon(drain, child)

    async def restart_oracle(self, child: Child, nursery: trio.Nursery) -> Child:
        """Start an oracle that ended once more, in the folder that it left. Raises TestnetError."""
        await bury(child)
        again = await self._spawn(child.name, ["oracle"], list(self.addresses))
        self.children[self.children.index(child)] = self.children.pop()
        nursery.start_soon(drain, again)
        await self._await_ready(again)
        await self._await_signing(again)
        return again

    def _prepare(self) -> str:
        """Make the keys and the genesis that names them; gives what the nodes are told of it."""
        plan, folder = self.plan, self._folder
        genesis = plan.genesis or Genesis(TESTNET, params=QUICK if plan.chain is None else QUICK_ON_CHAIN)
        if not plan.oracles:
            return "" if plan.genesis is None else folder.write(genesis)
        oracles = folder.node_ids(oracle_name, plan.oracles)
        miners = folder.node_ids(miner_name, plan.miners if plan.miners_listed else 0)
        made = replace(
            genesis,
            committee=oracles[: plan.members or len(oracles)],
            allocation=tuple(sorted(self._money().items())),
            miners=tuple(sorted({*genesis.miners, *miners})),
        )
        if self.chain is not None:
            made = replace(made, chain_id=self.chain.chain_id, allocation=())
        genesis = folder.earlier(made) or made
        return folder.write(genesis if self.chain is None else self.chain.named(genesis))

    def _money(self) -> dict[NodeId, int]:
        """What accounts begin with: by the genesis, or by deposits where there is a chain."""
        given = () if self.plan.genesis is None else self.plan.genesis.allocation
        # A router that serves HTTP is the client of those who ask there.
        router = {self._folder.key(router_name(1)).node_id: CLIENT_WEI} if self.plan.http else {}
        return {self._folder.client().node_id: CLIENT_WEI, **router, **dict(given)}

    def _open_chain(self) -> None:
        """Start it, if the plan has one. Raises ChainError."""
        if self.plan.chain is not None and self.plan.oracles:
            from p2pnode.testnet_chain import open_testnet_chain

            self.chain = open_testnet_chain(self.plan.folder, self.plan.chain)

    def _introduce(self) -> None:
        """Deploy the contracts, register all nodes with stake, and pay in. Raises ChainError."""
        assert self.chain is not None
        plan = self.plan
        names: list[tuple[str, Role]] = [
            *((router_name(number), "router") for number in range(1, plan.routers + 1)),
            *((miner_name(number), "miner") for number in range(1, plan.miners + 1)),
            *((oracle_name(number), "oracle") for number in range(1, plan.oracles + 1)),
        ]
        nodes = [(self._folder.key(name), role) for name, role in names]
        self.chain.introduce(self._folder.genesis(), nodes, self._money())

    async def _spawn(self, name: str, roles: list[str], bootstrap: list[str]) -> Child:
        folder = self.plan.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        config = ["--config", str(self.plan.config)] if self.plan.config is not None else []
        plan = self.plan
        modules = {"miner": plan.miner_module, "oracle": plan.oracle_module, "router": plan.router_module}
        module = modules.get(roles[0], NODE_MODULE)
        with (folder / "log.txt").open("ab") as log:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", module, "run", *config, "--json", "--as-child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log.fileno(),
                env=os.environ | self._settings(name, folder, roles, bootstrap),
                start_new_session=True,
            )
        child = Child(name, folder, process)
        self.children.append(child)
        return child

    def _settings(self, name: str, folder: Path, roles: list[str], bootstrap: list[str]) -> dict[str, str]:
        """What distinguishes this node from the others, as environment variables."""
        settings = {
            "P2PNODE_NODE_NAME": name,
            "P2PNODE_NODE_ROLES": ",".join(roles),
            "P2PNODE_NODE_STATE_DIR": str(folder),
            "P2PNODE_KEYS_KEYSTORE": str(folder / KEYSTORE),
            "P2PNODE_MINER_MODEL": self.plan.model,
            "P2PNODE_MINER_SLOTS": str(self.plan.slots),
            # One thread each: several engines that spin on the same cores would starve one another.
            "P2PNODE_MINER_THREADS": "1",
            "P2PNODE_ORACLE_MODELS": self.plan.model if self.plan.tests_miners else "",
        }
        if self.plan.oracles:
            settings["P2PNODE_MINER_PRICE_WEI"] = str(self.plan.price_wei)
        if bootstrap:
            settings["P2PNODE_NETWORK_BOOTSTRAP"] = ",".join(bootstrap)
        if self._genesis:
            settings["P2PNODE_NETWORK_GENESIS"] = self._genesis
        settings["P2PNODE_HTTP_LISTEN"] = self.plan.http if name == router_name(1) else ""
        if self.chain is not None:
            settings["P2PNODE_CHAIN_URLS"] = self.chain.url
            settings["P2PNODE_ROUTER_INBOX"] = str(self.plan.inbox).lower()
        return settings

    async def _await_ready(self, child: Child) -> None:
        with trio.move_on_after(READY_TIMEOUT_S):
            while not child.ready:
                if child.process.poll() is not None:
                    raise TestnetError(f"{child.name} did not start: {last_line(child.log)}", hint=f"log: {child.log}")
                await trio.sleep(POLL_S / 4)
            return
        raise TestnetError(f"{child.name} was not ready within {READY_TIMEOUT_S:g} s", hint=f"its log: {child.log}")

    async def _await_miners(self, router: Child) -> None:
        wanted = self.plan.miners * self.plan.slots
        with trio.move_on_after(READY_TIMEOUT_S):
            while True:
                status = await trio.to_thread.run_sync(router.ask, "status")
                if sum(model["slots"] for model in status["models"]) >= wanted:
                    return
                await trio.sleep(POLL_S)
        raise TestnetError(f"{router.name} did not learn of every miner", hint=f"its log: {router.log}")

    async def _await_pool(self, router: Child) -> None:
        with trio.move_on_after(READY_TIMEOUT_S):
            while True:
                status = await trio.to_thread.run_sync(router.ask, "status")
                if status["router"]["pool"]:
                    return
                await trio.sleep(POLL_S)
        raise TestnetError(f"{router.name} did not learn of the node pool", hint=f"its log: {router.log}")

    async def _await_deposit(self) -> None:
        """What was paid in is on the ledger."""
        client = self._folder.client().node_id
        with trio.move_on_after(READY_TIMEOUT_S):
            while True:
                oracle = self.oracles[0]
                answer = await trio.to_thread.run_sync(oracle.ask, f"ledger:account:0x{client.hex()}")
                if answer["record"] is not None:
                    return
                await trio.sleep(POLL_S)
        raise TestnetError("the oracles did not take in the client's deposit", hint=f"a log: {oracle.log}")

    async def _await_signing(self, oracle: Child) -> None:
        with trio.move_on_after(READY_TIMEOUT_S):
            while True:
                signing = (await trio.to_thread.run_sync(oracle.ask, "status"))["oracle"]["signing"]
                if signing == "yes":
                    return
                await trio.sleep(POLL_S)
        raise TestnetError(f"{oracle.name} does not sign: {signing}", hint=f"its log: {oracle.log}")

    async def stop(self) -> None:
        """Take all nodes down: politely, then by force. None waits for what runs: nobody will ask for it."""
        for child in reversed(self.children):
            if child.process.poll() is None:
                child.process.terminate()
            if child.process.stdin is not None:
                await child.process.stdin.aclose()
        with trio.move_on_after(STOP_TIMEOUT_S):
            for child in self.children:
                await child.process.wait()
        for child in self.children:
            if child.process.poll() is None:
                child.process.kill()
                await child.process.wait()
            if child.process.stdout is not None:
                await child.process.stdout.aclose()
        if self.chain is not None:
            await trio.to_thread.run_sync(self.chain.close)


@asynccontextmanager
async def open_testnet(plan: TestnetPlan) -> AsyncIterator[Testnet]:
    """Start a testnet and take it down with the block, whatever ends it. Raises TestnetError."""
    testnet = Testnet(plan)
    with unwrapped():
        async with trio.open_nursery() as nursery:
            try:
                await testnet.start(nursery)
                yield testnet
            finally:
                with trio.CancelScope(shield=True):
                    await testnet.stop()
                nursery.cancel_scope.cancel()
