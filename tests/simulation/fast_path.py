"""One router, some miners and some clients on a network that fails: real machines, drivers and SDK, virtual time.

A seed decides everything: sizes, latencies, engines, what clients want, and which faults strike when. What miners
sign is written down beside them, and everything a client is shown is held against it.
"""

import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from p2pnode import client as sdk
from p2pnode import session as sdk_session
from p2pnode.address import RouterAddress
from p2pnode.client import Answer, LightClient, RequestFailed, Session, connect
from p2pnode.clock import Clock, open_clock
from p2pnode.driver import Driver, Perform, open_driver
from p2pnode.engine.api import GenerateRequest
from p2pnode.engine.fake import END, FakeConfig, FakeEngine, piece
from p2pnode.generation import Generations
from p2pnode.identity import NodeKey
from p2pnode.transport.memory import MemoryNetwork
from p2pnode.transport.memory_node import MemoryTransport
from p2pnode.transport.seam import TransportError
from protocol.core.genesis import Genesis
from protocol.core.ids import SessionId
from protocol.core.machine import Machine, Send
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.messages.adverts import ModelManifest, ModelOffer
from protocol.messages.tasks import EndReason, FrameMessage
from protocol.roles.miner import Generate, GenerationKey, MinerMachine, MinerSettings, Rendered
from protocol.roles.peer import PeerMachine, PeerSettings
from protocol.roles.router import RouterMachine, RouterSettings
from protocol.session.adverts import AdvertBook
from protocol.session.lifecycle import TERMINAL_CODES
from protocol.session.record import BidFate, explain, judge_bid, open_countersigned
from protocol.session.transcript import advance, close_chain, segment_id
from tests.simulation.slow_disk import Disk

MANIFEST = ModelManifest("fake", bytes(32), 1, "fake", "none", 4_096)
MODEL = MANIFEST.digest()
GRACE_S = 6.0
"""The client's patience beyond a wish's own time, and a slow link's."""

PARAMS = replace(
    Params(),
    first_frame_timeout_ms=5_000,
    frame_gap_timeout_ms=4_000,
    lease_idle_ms=20_000,
    sessions_per_miner_max=32,
    queue_requests_max=16,
).validate()
GENESIS = Genesis("fast path", params=PARAMS)


@dataclass
class Ledger:
    """What miners signed, what clients saw, and how every wish ended."""

    signed: dict[tuple[bytes, int], list[FrameMessage]] = field(default_factory=dict)
    """Of lane 0."""
    undisturbed: dict[tuple[bytes, int, int], list[int]] = field(default_factory=dict)
    """The answer that the toy engine gives by this seed to this prompt in this lane, whoever runs it."""
    ends: list[str] = field(default_factory=list)
    faults: int = 0
    lanes_ended: int = 0
    fates: Counter[BidFate] = field(default_factory=Counter)
    """What clients' records show of the bids that miners kept."""

    def digest(self) -> str:
        """A fingerprint of the run."""
        content = [(name, [(f.ids, f.texts) for f in frames]) for name, frames in self.signed.items()]
        return hashlib.sha256(repr((content, self.ends)).encode()).hexdigest()

    def check(self, answer: Answer, session: bytes, task: int) -> None:
        """What was shown was signed, and is the undisturbed answer: each token once, from the first on, all of them
        if it ended by itself."""
        shown, whole = answer.token_ids, self.undisturbed.get((session, task, 0), [])
        assert shown == whole[: len(shown)]
        assert answer.text == b"".join(map(piece, shown)).decode("utf-8", "replace")
        frames = self.signed.get((session, task), [])
        signed = {frame.first_index + at: token for frame in frames for at, token in enumerate(frame.ids)}
        assert shown == [signed.get(index) for index in range(len(shown))]
        if answer.finish is not None:
            assert answer.finish.completion_tokens == len(shown)
            assert answer.finish.reason == "cancelled" or shown == whole
        starts = [head.start_index for head in answer.heads]
        assert starts == sorted(starts)

    def check_lanes(self, session: Session, domain: Domain) -> None:
        """A lane's end is told once for each lease, is signed over the lane's own undisturbed answer, and all of it
        unless it was cancelled."""
        session.look()
        named = [(ended.head.task, ended.head.lane, ended.head.generation) for ended in session.lanes_ended]
        assert len(set(named)) == len(named)
        for ended in session.lanes_ended:
            head, total = ended.head, ended.end.completion_tokens
            assert head.lane > 0
            whole = self.undisturbed[session.id, head.task, head.lane]
            assert ended.end.reason is EndReason.CANCELLED or total == len(whole)
            chain = segment_id(domain, head)
            for index, token in enumerate(whole[:total]):
                chain = advance(chain, index + 1, token, piece(token))
            assert close_chain(chain, ended.end) == ended.chain
        self.lanes_ended += len(named)


class Overheard:
    """A miner's machine, with what it signs written down, and what it should have said to the end."""

    def __init__(self, machine: MinerMachine, ledger: Ledger, engine: FakeEngine) -> None:
        self.machine, self.ledger, self.engine = machine, ledger, engine
        self.wanted: dict[GenerationKey, Generate] = {}
        self.protocols, self.topics = machine.protocols, machine.topics
        self.next_deadline = machine.next_deadline

    def handle(self, event: object, now_ms: int) -> list[object]:
        effects = self.machine.handle(event, now_ms)
        if isinstance(event, Rendered):
            self.foretell(self.wanted.pop(event.generation), event.prompt_tokens)
        for effect in effects:
            if isinstance(effect, Generate):
                self.wanted[effect.generation] = effect
            if isinstance(effect, Send) and isinstance(effect.message, FrameMessage):
                frame = effect.message
                assert frame.lane == 0, "other lanes are streamed to nobody"
                self.ledger.signed.setdefault((frame.session, frame.task), []).append(frame)
        return effects

    def foretell(self, effect: Generate, prompt: Sequence[int]) -> None:
        """The whole answer, as an engine that nothing happens to would give it."""
        request = GenerateRequest(list(prompt), effect.sampling, effect.lane_seed, effect.max_tokens)
        ids: list[int] = []
        while len(ids) < effect.max_tokens and ids[-1:] != [END]:
            ids.append(self.engine.token_at(request, len(ids)))
        assert self.ledger.undisturbed.setdefault(effect.generation, ids) == ids


@dataclass
class Running:
    """A node: its machine and its driver."""

    key: NodeKey
    transport: MemoryTransport
    machine: Any
    driver: Driver
    scope: trio.CancelScope


class World:
    """See the module."""

    def __init__(self, seed: int, *, faulty: bool = True, engine: FakeConfig | None = None) -> None:
        self.rng = random.Random(seed)
        self.engine = engine
        self.wrap_router: Callable[[Machine], Machine] = lambda machine: machine
        self.faulty = faulty
        self.network = MemoryNetwork(seed=seed, latency_ms=self.rng.uniform(1, 40))
        self.ledger = Ledger()
        self.miners: list[Running] = []
        self.router: Running | None = None
        self.address: RouterAddress | None = None
        self.routers: list[Running] = []
        """All that run; ``router`` is the one that was started last."""

    def key(self) -> NodeKey:
        """A fresh key."""
        return NodeKey(self.rng.randbytes(32))

    # Nodes

    @asynccontextmanager
    async def node(
        self,
        key: NodeKey,
        machine: Machine,
        role: Any,
        book: AdvertBook,
        transport: MemoryTransport,
        offers: tuple[ModelOffer, ...] = (),
        performers: Any = None,
    ) -> AsyncIterator[Driver]:
        """The drivers of one node."""
        domain, clock = GENESIS.domain(), wall_clock()
        settings = PeerSettings(key.node_id, (role,), tuple(transport.addresses), offers, "")
        peer = PeerMachine(settings, domain, PARAMS, key.sign, book)
        disk = Disk(self.rng)
        async with (
            open_driver(machine, transport, clock, records=disk, genesis=GENESIS, performers=performers) as driver,
            open_driver(peer, transport, clock, genesis=GENESIS),
        ):
            yield driver

    async def run_router(
        self,
        key: NodeKey | None = None,
        port: int | None = None,
        numbers: Mapping[SessionId, int] | None = None,
        *,
        task_status: Any,
    ) -> None:
        """A router, until it is cancelled; one that was there before comes back with what it had on disk."""
        key = key or self.key()
        book = AdvertBook(PARAMS, self.rng.randbytes(16))
        async with self.network.open(key, topic_rate_default=1_000, port=port) as transport:
            addresses = tuple(transport.addresses)
            settings = RouterSettings(key.node_id, addresses, GENESIS.to_json(), numbers or {}, rounds_max=4)
            machine = RouterMachine(settings, GENESIS.domain(), PARAMS, key.sign, book)
            self.address = replace(parse(transport.addresses[0]), network=GENESIS.network_id())
            with trio.CancelScope() as scope:
                async with self.node(key, self.wrap_router(machine), "router", book, transport) as driver:
                    self.router = Running(key, transport, machine, driver, scope)
                    self.routers.append(self.router)
                    task_status.started()
                    await trio.sleep_forever()

    async def run_miner(self, task_status: Any) -> None:
        """A miner, until it is killed."""
        rng, key = self.rng, self.key()
        config = self.engine or FakeConfig(
            slots=rng.randint(1, 3),
            first_token_s=rng.uniform(0, 0.2),
            token_s=rng.choice((0.0, 0.005, 0.05)),
            stall_at=rng.randint(0, 20) if self.faulty and rng.random() < 0.15 else None,
            fail_at=rng.randint(0, 20) if self.faulty and rng.random() < 0.15 else None,
        )
        engine = FakeEngine(config)
        offers = (ModelOffer(MANIFEST, config.slots, 4_096, rng.randint(0, 50)),)
        made = MinerSettings(key.node_id, {MODEL: offers[0]}, rng.randbytes(16))
        machine = Overheard(MinerMachine(made, GENESIS.domain(), PARAMS, key.sign), self.ledger, engine)
        book = AdvertBook(PARAMS, rng.randbytes(16))
        with trio.CancelScope() as scope:
            async with self.network.open(key, topic_rate_default=1_000) as transport, trio.open_nursery() as nursery:

                def performers(dispatch: Perform) -> Mapping[type, Perform]:
                    generations = Generations({MODEL: engine}, nursery, dispatch)  # type: ignore[dict-item]
                    return generations.performers()

                for router in self.routers:
                    await transport.connect(router.transport.addresses[0])
                async with self.node(key, machine, "miner", book, transport, offers, performers) as driver:
                    self.miners.append(Running(key, transport, machine.machine, driver, scope))
                    task_status.started()
                    await trio.sleep_forever()

    # Clients

    async def run_client(self) -> None:
        """A client that opens some sessions and asks some questions in each."""
        rng, key = random.Random(self.rng.random()), self.key()
        async with self.network.open(key) as transport:
            for _ in range(rng.randint(1, 3)):
                await trio.sleep(rng.uniform(0, 3))
                assert self.address is not None
                try:
                    async with connect(self.address, key=key, transport=transport) as net:
                        await self.use_session(net, rng)
                except RequestFailed as failed:
                    self.ended(failed.code)
                except TransportError:
                    self.ledger.ends.append("unreachable")

    async def use_session(self, net: LightClient, rng: random.Random) -> None:
        """One session, and its answers."""
        timeout_ms = rng.randint(1_000, 15_000)
        try:
            async with AsyncExitStack() as stack:
                with trio.fail_after(timeout_ms / 1_000 + GRACE_S):
                    session = await stack.enter_async_context(net.session("fake", timeout_ms=timeout_ms))
                stack.callback(self.check_record, session)
                for _ in range(rng.randint(1, 4)):
                    await self.use_answers(session, rng.choice((1, 1, 3)), rng)
                    await trio.sleep(rng.choice((0.0, 0.0, rng.uniform(0, 30))))
        except RequestFailed as failed:
            self.ended(failed.code)

    def check_record(self, session: Session) -> None:
        """Every record holds, and no bid that any miner kept accuses the honest router."""
        record = session.record()
        assert [told.head for told in explain(record).segments] == list(record.heads)
        for miner in self.miners:
            for signed in miner.machine._bids.kept.values():
                if open_countersigned(GENESIS.domain(), signed)[0].session == session.id:
                    self.ledger.fates[judge_bid(record, signed).fate] += 1
        assert BidFate.LEFT_OUT not in self.ledger.fates

    async def use_answers(self, session: Session, count: int, rng: random.Random) -> None:
        """So many answers at once. The first failure after which the session is of no use is raised."""
        failed: list[RequestFailed] = []

        async def use(asks: random.Random) -> None:
            try:
                await self.use_answer(session, asks)
            except RequestFailed as error:
                failed.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(use, random.Random(rng.random()))
        if failed:
            raise failed[0]

    async def use_answer(self, session: Session, rng: random.Random) -> None:
        """One answer: read to its end, cancelled on the way, or left alone."""
        timeout_ms, tokens = rng.randint(500, 20_000), rng.randint(1, 400)
        stop_at = rng.choice((None, None, rng.randint(0, 30)))
        with trio.fail_after(timeout_ms / 1_000 + GRACE_S):
            try:
                async with session.ask(
                    f"question {rng.randint(1, 9)}", max_tokens=tokens, timeout_ms=timeout_ms
                ) as answer:
                    try:
                        async for _ in answer:
                            if stop_at is not None and len(answer.token_ids) > stop_at:
                                answer.cancel()
                    finally:
                        self.ledger.check(answer, session.id, answer.heads[0].task if answer.heads else 0)
                assert answer.finish is not None
                self.ledger.ends.append(answer.finish.reason)
            except RequestFailed as failed:
                self.ended(failed.code)
                if failed.code in ("session_expired", "miner_lost", "router_lost"):
                    raise

    def ended(self, code: str) -> None:
        """A wish ended with a code."""
        assert code in set(TERMINAL_CODES) - {"bad_request", "transcript_broken", "ack_timeout", "model_not_found"}
        self.ledger.ends.append(code)

    # Faults

    async def strike(self) -> None:
        """Now and then a connection is dropped, a cable is pulled for a while, a miner is killed."""
        rng = random.Random(self.rng.random())
        while True:
            await trio.sleep(rng.expovariate(1 / 4))
            nodes = list(self.network.nodes)
            one, other = rng.sample(nodes, 2)
            what = rng.choice(("drop", "drop", "cut", "slow", "kill"))
            self.ledger.faults += 1
            if what == "drop":
                self.network.drop(one, other)
            elif what == "slow":
                self.network.link(one, other).latency_s = rng.uniform(0.001, 0.3)
            elif what == "cut":
                self.network.cut(one, other)
                await trio.sleep(rng.uniform(0.1, 10))
                self.network.heal(one, other)
            elif len(self.miners) > 1:
                self.miners.pop(rng.randrange(len(self.miners))).scope.cancel()

    # A run

    async def run(self) -> Ledger:
        """Everything, from the first node to the last table that must be empty."""
        async with trio.open_nursery() as nodes:
            await nodes.start(self.run_router)
            for _ in range(self.rng.randint(2, 8)):
                await nodes.start(self.run_miner)
            await self.run_clients(6, patience_s=600)
            nodes.cancel_scope.cancel()
        return self.ledger

    async def run_clients(self, most: int, patience_s: float) -> None:
        """Clients among faults until the last wish has ended; then everything heals, and nothing may be left."""
        await trio.sleep(3)
        with trio.fail_after(patience_s):
            async with trio.open_nursery() as faults:
                if self.faulty:
                    faults.start_soon(self.strike)
                async with trio.open_nursery() as clients:
                    for _ in range(self.rng.randint(1, most)):
                        clients.start_soon(self.run_client)
                faults.cancel_scope.cancel()
        for ends in list(self.network._links):
            self.network.heal(*ends)
        await trio.sleep(60)
        self.check_empty()

    def check_empty(self) -> None:
        """No session, lease, stream or deadline of anybody is left."""
        for router in self.routers:
            self.check_router(router)
        for miner in self.miners:
            free, total = miner.machine.slots()
            assert free == total
            held = (
                miner.machine._by_channel,
                miner.machine._peers,
                miner.machine._deadlines,
                miner.machine._bids._open,
                miner.machine._direct.sessions,
                miner.machine._silent,
            )
            assert [len(table) for table in held] == [0] * len(held)
            assert len(miner.driver._channels) == 0
            assert not miner.driver._held

    @staticmethod
    def check_router(router: Running) -> None:
        """No session, lease, stream or deadline of a router is left."""
        machine = router.machine
        assert set(machine.load().values()) == {0}, machine.load()
        tables = (machine._peers, machine._leasing.miners, machine._bidders, machine._rounds_open, machine._queue)
        clocks = (
            machine._round_deadlines,
            machine._task_deadlines,
            machine._session_deadlines,
            machine._lease_deadlines,
        )
        assert [len(table) for table in (*tables, *clocks)] == [0] * 9
        assert len(router.driver._channels) == 0


def wall_clock() -> Clock:
    """The one wall clock of the world; right everywhere."""
    return open_clock(1_800_000_000_000 + int(trio.current_time() * 1_000))


def parse(address: str) -> RouterAddress:
    """An address of the memory network."""
    return RouterAddress(address, None)


def play(seed: int, monkeypatch: pytest.MonkeyPatch, *, faulty: bool = True) -> Ledger:
    """Run a seed; the same one is always the same run."""
    world = World(seed, faulty=faulty)
    prepare(world, seed, monkeypatch)
    return trio.run(world.run, clock=trio.testing.MockClock(autojump_threshold=0))


def prepare(world: World, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take chance and the wall clock out of everything that is not the world's."""
    from trio._core import _run  # what trio's own Hypothesis hook sets

    monkeypatch.setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    vars(_run)["_r"].seed(seed)
    monkeypatch.setattr(sdk, "open_clock", wall_clock)
    for module in (sdk, sdk_session):
        monkeypatch.setattr(module, "secrets", SimpleNamespace(token_bytes=world.rng.randbytes))
