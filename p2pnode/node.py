"""Puts the parts of a node together: key, store, transport, engine, and a driver for each role."""

import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from chain.api import Chain
from p2pnode.accusing import Accusing
from p2pnode.address import RouterAddress
from p2pnode.checkpoint_book import CheckpointBook
from p2pnode.clock import Clock, open_clock
from p2pnode.config import NodeConfig
from p2pnode.control import SOCKET, serve_control
from p2pnode.driver import Driver, Perform, Records, open_driver
from p2pnode.ending import Ending
from p2pnode.engine.api import Engine, EngineConfig
from p2pnode.engine.supervisor import open_engine
from p2pnode.generation import Generations
from p2pnode.http_role import serve_http
from p2pnode.identity import NodeKey
from p2pnode.inbox_role import InboxRole
from p2pnode.light_node import known_to, known_to_oracle, known_to_router, light_server
from p2pnode.models.store import ModelStore, StoredModel
from p2pnode.node_key import load_key
from p2pnode.node_settings import local_params, transport_config
from p2pnode.oracle import Oracle, make_machine
from p2pnode.oracle_records import OracleRecords
from p2pnode.records import load_kept_bids, load_numbers, load_results
from p2pnode.running_node import Node
from p2pnode.settling import Settling, open_used_chain
from p2pnode.signer_log import SignerLog, open_signer_log
from p2pnode.store import NodeStore, open_store
from p2pnode.telemetry.instruments import Instruments, open_instruments
from p2pnode.tester import models_held, offered, testing, watch_calls
from p2pnode.transport.libp2p import open_libp2p
from p2pnode.transport.loopback import Loopback
from p2pnode.transport.seam import Transport
from p2pnode.transport.unwrap import unwrapped
from protocol.core.genesis import Genesis
from protocol.core.ids import ModelDigest
from protocol.core.machine import Machine
from protocol.light.handovers import HandOverBook
from protocol.light.serving import Known
from protocol.messages.adverts import ModelOffer, Role
from protocol.messages.results import Submit
from protocol.roles.miner import MinerMachine, MinerSettings
from protocol.roles.miner.answering import AnswerMachine, AnswerSettings
from protocol.roles.miner.transcripts import KeepTranscript
from protocol.roles.oracle import OracleMachine
from protocol.roles.peer import PeerMachine, PeerSettings
from protocol.roles.router import HandIn, RouterMachine, RouterSettings
from protocol.roles.tester import TesterMachine, TesterSettings
from protocol.roles.tester.calling import CallBook
from protocol.session.adverts import AdvertBook

__all__ = ["ROLES", "Node", "OpenEngine", "Progress", "open_node", "say_nothing"]

ROLES: tuple[Role, ...] = ("router", "miner", "oracle")

OpenEngine = Callable[[EngineConfig], AbstractAsyncContextManager[Engine]]
"""Loads the model that a miner serves."""

TEST_SLOTS = 1
"""Of a miner's engine, where there are oracles to test it."""

Progress = Callable[[str], None]
"""Told in a few words what is being done, for a person who waits."""


def say_nothing(_what: str) -> None:
    """The progress of nobody's business."""


@asynccontextmanager
async def open_node(
    config: NodeConfig, *, progress: Progress = say_nothing, engine: OpenEngine = open_engine
) -> AsyncIterator[Node]:
    """Start a node and run it for as long as the block lasts.

    Raises ConfigError, KeystoreError, SignerLogError, StoreError, ModelStoreError, EngineError or TransportError, each
    saying what to do; nothing is left behind but the node's folder.
    """
    config.require_runnable()
    genesis = config.genesis()
    with unwrapped():
        async with AsyncExitStack() as stack:
            store = stack.enter_context(open_store(config.node.state_dir))
            key = await load_key(config)
            log = None
            if "oracle" in config.node.roles:
                # Before the network is opened: a second node with this key would take the first one's place there.
                log = stack.enter_context(open_signer_log(config.keys.keystore, key.node_id, genesis.network_id()))
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            served = _Served({}, (), "")
            if "miner" in config.node.roles:
                progress(f"loading model {config.miner.model}")
                served = await _open_engine(config, genesis, engine, stack)
            progress("opening the network")
            inner = await stack.enter_async_context(open_libp2p(key, transport_config(config, genesis)))
            transport = Loopback(inner, nursery)
            clock, hand_overs = open_clock(), HandOverBook(genesis, store.load)
            chain = await open_used_chain(config, genesis, key)
            here = config.node
            told = open_instruments(config.telemetry, here.name, here.roles, key.node_id, genesis.domain())
            instruments = stack.enter_context(told)
            parts = _Parts(
                config,
                genesis,
                instruments,
                hand_overs,
                chain,
                key,
                transport,
                store,
                log,
                clock,
                stack,
                nursery,
                served,
                engine,
                known_to(genesis, hand_overs),
            )
            node = await parts.start_roles()
            node.http = await nursery.start(serve_http, node, key)
            await nursery.start(serve_control, config.node.state_dir / SOCKET, node.answer)
            yield node
            progress("stopping")
            # All at once, as when it is cancelled: one part that is gone must not be told things by another.
            nursery.cancel_scope.cancel()


async def _open_engine(config: NodeConfig, genesis: Genesis, open_: OpenEngine, stack: AsyncExitStack) -> "_Served":
    stored = await trio.to_thread.run_sync(_resolve, config)
    miner = config.miner
    # Beside those that are offered: a test waits for no session, and no session for a test.
    for_tests = TEST_SLOTS if genesis.committee else 0
    engine_config = EngineConfig(
        model_path=stored.path,
        slots=miner.slots + for_tests,
        context_slot_tokens=miner.context_tokens,
        threads=miner.threads,
        gpu_layers=miner.gpu_layers,
    )
    engine = await stack.enter_async_context(open_(engine_config))
    slots = engine.model.slots - for_tests
    offer = ModelOffer(stored.manifest, slots, engine.model.context_slot_tokens, miner.price_wei)
    return _Served({stored.manifest.digest(): engine}, (offer,), engine.model.build[:128])


def _resolve(config: NodeConfig) -> StoredModel:
    return ModelStore(config.node.models_dir).resolve(config.miner.model)


@dataclass(frozen=True, slots=True)
class _Served:
    """What a miner serves."""

    engines: Mapping[ModelDigest, Engine]
    offers: tuple[ModelOffer, ...]
    build: str


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the roles of a node are built from."""

    config: NodeConfig
    genesis: Genesis
    instruments: Instruments
    hand_overs: HandOverBook
    """The committees, as far as the roles that run none know them."""
    chain: Chain | None
    """None where no role has to do with one."""
    key: NodeKey
    transport: Transport
    store: NodeStore
    signer_log: SignerLog | None
    clock: Clock
    stack: AsyncExitStack
    nursery: trio.Nursery
    served: _Served
    open_engine: OpenEngine
    known: Known
    """What light clients are told."""
    ending: Ending = field(default_factory=Ending)

    async def start_roles(self) -> Node:
        """Start each role's machine on a driver of its own; they share the transport and the advert book."""
        book = AdvertBook(self.genesis.params, secrets.token_bytes(16))
        started_ms, store = self.clock(), self.hand_overs.store
        config, genesis, told = self.config, self.genesis, self.instruments
        node = Node(config, genesis, self.transport, book, None, None, None, started_ms, self.clock, store, told)
        node.ending, node.engines = self.ending, self.served.engines
        if "router" in self.config.node.roles:
            node.router, node.hand_in = await self._start_router(book)
        if "miner" in self.config.node.roles:
            node.miner = await self._start_miner()
        if self.signer_log is not None:
            node.oracle = await self._start_oracle(self.signer_log, book)
            node.hand_overs = node.oracle.hand_overs
            node.hand_in = node.oracle.hand_in
        if self.config.router.inbox and self.chain is not None:
            node.inbox = self._start_inbox(self.chain, node.addresses[0])
        node.accusing = Accusing(self.genesis, self.key, self.transport, self.clock, self.nursery, node.oracle)
        await self._drive(light_server(self.known, self.hand_overs, self.config.node.roles))
        await self._start_peer(book)
        return node

    async def _start_router(self, book: AdvertBook) -> tuple[RouterMachine, Callable[[Submit], None]]:
        numbers = await load_numbers(self.store, self.clock())
        addresses = tuple(self.transport.addresses)
        followed = self.hand_overs if self.genesis.committee else None
        genesis, shelf = self.genesis.to_json(), self.known.shelf
        settings = RouterSettings(self.key.node_id, addresses, genesis, numbers, followed, shelf)
        params = local_params(self.config, self.genesis.params)
        machine = RouterMachine(settings, self.genesis.domain(), params, self.key.sign, book)
        known_to_router(self.known, machine)
        driver = await self._drive(machine)
        self.ending.unfinished.append(lambda: machine.load()["sessions"])
        return machine, lambda submit: driver.dispatch(HandIn(submit))

    def _start_inbox(self, chain: Chain, address: RouterAddress) -> InboxRole:
        """What the router is asked on the chain; its own client goes by ``address``."""
        section, domain, trust = self.config.router, self.genesis.domain(), self.hand_overs.trust
        tap = self.instruments.client
        inbox = InboxRole(section, domain, self.key, self.transport, self.store, trust, chain, tap)
        self.nursery.start_soon(inbox.run, address)
        return inbox

    async def _start_miner(self) -> MinerMachine:
        offers = {offer.manifest.digest(): offer for offer in self.served.offers}
        settings = MinerSettings(
            self.key.node_id,
            offers,
            os.urandom(16),
            await load_kept_bids(self.store),
            self.genesis,
            self.hand_overs,
            os.urandom(32),
            await load_results(self.store),
            self.known.shelf,
            self.config.miner.owner,
            self.config.miner.tokens_per_second,
        )
        machine = MinerMachine(settings, self.genesis.domain(), self.genesis.params, self.key.sign)
        answers = await self._start_answers(tuple(offers))
        await self._drive(machine, partial(self._generating, {KeepTranscript: answers.dispatch}))
        self.ending.unfinished.append(lambda: machine.unfinished)
        return machine

    async def _start_answers(self, models: tuple[ModelDigest, ...]) -> Driver:
        """What the miner's testers are answered by."""
        settings = AnswerSettings(self.key.node_id, models, self.hand_overs, self.served.build)
        machine = AnswerMachine(settings, self.genesis.domain(), self.genesis.params)
        return await self._drive(machine, partial(self._generating, {}))

    def _generating(self, others: Mapping[type, Perform], dispatch: Perform) -> Mapping[type, Perform]:
        generations = Generations(self.served.engines, self.nursery, dispatch)
        return {**generations.performers(), **others}

    async def _start_oracle(self, log: SignerLog, book: AdvertBook) -> Oracle:
        machine = await make_machine(self.key.node_id, self.key.sign, self.genesis, self.store, log, self.clock)
        known_to_oracle(self.known, machine)
        kept = CheckpointBook(self.store, machine.results.recent.get)
        settling = Settling(self.chain, self.genesis, self.key, kept.keep)
        driver = await self._drive(machine, settling.performers, records=OracleRecords(self.store, log))
        await self._start_tester(machine, book, driver.dispatch)
        watch = settling.watch(machine, driver.dispatch)
        if watch is not None:
            self.nursery.start_soon(watch.run)
        return Oracle(machine, self.genesis.params, driver.dispatch, self.clock, kept, watch)

    async def _start_tester(self, oracle: OracleMachine, book: AdvertBook, report: Perform) -> None:
        """The oracle's tests of miners, if it holds a model to test with."""
        models = await trio.to_thread.run_sync(models_held, self.config)
        if not models:
            return
        settings = TesterSettings(self.key.node_id, oracle.results.hand_overs.store)
        machine = TesterMachine(settings, self.genesis.domain(), self.genesis.params, self.key.sign)
        driver = await self._drive(machine, partial(testing, models, self.open_engine, self.nursery, report))
        calls = CallBook(self.key.node_id, models, partial(offered, book))
        self.nursery.start_soon(watch_calls, oracle, calls, driver.dispatch)

    async def _start_peer(self, book: AdvertBook) -> None:
        roles: tuple[Role, ...] = tuple(role for role in ROLES if role in self.config.node.roles)
        addresses = tuple(self.transport.addresses)
        settings = PeerSettings(self.key.node_id, roles, addresses, self.served.offers, self.served.build)
        domain, params = self.genesis.domain(), self.genesis.params
        await self._drive(PeerMachine(settings, domain, params, self.key.sign, book))

    async def _drive(
        self,
        machine: Machine,
        performers: Callable[[Perform], Mapping[type, Perform]] | None = None,
        records: Records | None = None,
    ) -> Driver:
        driver = open_driver(
            machine,
            self.transport,
            self.clock,
            records=records or self.store,
            genesis=self.genesis,
            performers=performers,
            tap=self.instruments.of(machine),
        )
        opened = await self.stack.enter_async_context(driver)
        self.instruments.drives(machine, opened)
        self.ending.tell.append(opened.dispatch)
        return opened
