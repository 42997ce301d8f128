"""The light client as a library: sessions at a router, answers as streams, everything verified on the way.

    async with connect("/ip4/127.0.0.1/tcp/4001/p2p/16Uiu2…?network=…") as net:
        async with net.session() as session, session.ask("Where does a bear live?") as answer:
            async for text in answer:
                print(text, end="")

It needs no model and no gossip. Text is handed out only after the miner's signature over it was checked.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count

import trio

from p2pnode.address import RouterAddress, parse_router_address
from p2pnode.answer import Answer, RequestFailed
from p2pnode.clock import open_clock
from p2pnode.driver import Driver, open_driver
from p2pnode.identity import NodeKey, node_id_of_peer_id
from p2pnode.transport.libp2p import Libp2pConfig, open_libp2p
from p2pnode.transport.seam import PeerUnreachable, Transport
from protocol.core.genesis import Genesis
from protocol.core.ids import ModelDigest, NodeId
from protocol.messages.adverts import ModelOffer
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import LaneEnded, PromptMessage, SegmentHead
from protocol.roles.client import (
    AskTask,
    CancelAsk,
    ClientMachine,
    CloseAsked,
    ConnectRouter,
    Deliver,
    Item,
    LaneReported,
    OpenAsked,
    RouterFound,
    RouterGone,
    RouterReady,
    RouterSought,
    SessionAssigned,
    SessionOver,
)
from protocol.session.record import SessionRecord

__all__ = ["Answer", "LightClient", "RequestFailed", "Session", "connect"]

CONNECT_TIMEOUT_MS = 10_000
OPEN_TIMEOUT_MS = 30_000
TASK_TIMEOUT_MS = 300_000
SESSION_LIFETIME_MS = 3_600_000
PRICE_CAP_WEI = 10**15
SESSION_ITEMS_MAX = 4_096
"""Assignments, lanes' ends and changes of router of one session that wait to be looked at."""
ITEMS_MAX = 8
"""Of a router or session: one when it stands, one when it ends. Of an answer, one for each token more: the machine
takes none beyond max_tokens, whatever a router sends."""


class Session:
    """Miners reserved for one client and one model."""

    def __init__(
        self, client: "LightClient", handle: int, assigned: SessionAssigned, items: trio.MemoryReceiveChannel[Item]
    ) -> None:
        self.router = NodeId(assigned.assignment.router)
        """Who serves it; another one after the first was lost."""
        self.router_lost = False
        """Whether a router is looked for right now."""
        self.lanes_ended: list[LaneEnded] = []
        """What the miners of the lanes above 0 signed at their ends."""
        self._assigned = assigned
        self._assignments = [assigned.ready]
        self._heads: list[SegmentHead] = []
        self._client = client
        self._handle = handle
        self._items = items

    @property
    def assigned(self) -> SessionAssigned:
        """The latest assignment: after a failover it names another miner."""
        self.look()
        return self._assigned

    def look(self) -> None:
        """Take in what has happened to the session since."""
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self._take_in(self._items.receive_nowait())

    async def changed(self) -> bool:
        """Wait for the next thing that happens to the session; False if nothing more will."""
        with suppress(trio.EndOfChannel):
            self._take_in(await self._items.receive())
            return True
        return False

    def _take_in(self, item: Item) -> None:
        match item:
            case SessionAssigned():
                self._assigned = item
                self._assignments.append(item.ready)
            case RouterSought():
                self.router_lost = True
            case RouterFound():
                self.router, self.router_lost = item.router, False
            case LaneReported():
                self.lanes_ended.append(item.ended)

    def record(self) -> SessionRecord:
        """The session's signed papers so far; no prompt and no text is in it."""
        latest = self.assigned
        return SessionRecord(
            genesis=self._client.genesis.to_json(),
            opening=latest.opening,
            signature=latest.signature,
            assignments=tuple(self._assignments),
            heads=tuple(self._heads),
        )

    @property
    def id(self) -> bytes:
        """The session id."""
        return self.assigned.session

    @property
    def miner(self) -> NodeId:
        """Who streams."""
        return NodeId(self.assigned.assignment.miners[0])

    @asynccontextmanager
    async def ask(
        self,
        prompt: str | Sequence[PromptMessage],
        *,
        sampling: SamplingParams | None = None,
        seed: bytes | None = None,
        max_tokens: int = 256,
        timeout_ms: int = TASK_TIMEOUT_MS,
    ) -> AsyncIterator[Answer]:
        """Order an answer. ``seed``: 32 bytes; the same seed and prompt give the same tokens on one build."""
        turns = (PromptMessage("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
        handle, items = self._client.new_handle(max_tokens)
        ask = AskTask(
            handle=handle,
            session=self._handle,
            messages=turns,
            sampling=sampling or SamplingParams(),
            nonce=secrets.token_bytes(32),
            seed=seed or secrets.token_bytes(32),
            max_tokens=max_tokens,
            timeout_ms=timeout_ms,
        )
        self._client.dispatch(ask)
        answer = Answer(lambda: self._client.dispatch(CancelAsk(handle)), items)
        try:
            yield answer
        finally:
            self._heads += answer.heads
            if answer.finish is None:
                answer.cancel()
            self._client.drop_handle(handle)


class LightClient:
    """A connection to a router, and the others that may take its place. Made by :func:`connect`."""

    def __init__(self, driver: Driver, router: NodeId, address: RouterAddress, others: tuple[NodeId, ...] = ()) -> None:
        self.router = router
        """That sessions are opened at."""
        self.address = address
        self._routers = (router, *others)
        self._driver = driver
        self._handles = count(1)
        self._items: dict[int, trio.MemorySendChannel[Item]] = {}
        self._ready: RouterReady | None = None
        self._greeting: trio.MemoryReceiveChannel[Item] | None = None
        """What the router's end would arrive on."""
        self._greets = trio.Lock()

    @property
    def genesis(self) -> Genesis:
        """The network the router serves; checked against the address if that names one."""
        assert self._ready is not None
        return self._ready.genesis

    @property
    def models(self) -> Sequence[ModelOffer]:
        """What the router had miners for when it greeted us."""
        assert self._ready is not None
        return self._ready.hello.models

    @property
    def level_note(self) -> str:
        """What an answer is worth here, in words for a person."""
        if self.address.network is None:
            return "level capped at streamed: the address names no network, so the router's word for it was taken"
        return "level streamed: every frame is signed; this network has no committee to certify more"

    def model(self, wanted: str | None) -> ModelOffer:
        """The offer of a model by name or digest prefix; the first if None. Raises RequestFailed."""
        for offer in self.models:
            manifest = offer.manifest
            if (
                wanted is None
                or wanted == manifest.name
                or (len(wanted) >= 6 and manifest.digest().hex().startswith(wanted.lower()))
            ):
                return offer
        names = ", ".join(offer.manifest.name for offer in self.models) or "none"
        what = f"model {wanted!r}" if wanted else "any model"
        raise RequestFailed("model_not_found", f"the router knows no miner for {what}; it has: {names}")

    @asynccontextmanager
    async def session(
        self,
        model: str | None = None,
        *,
        tokens: int = 512,
        timeout_ms: int = OPEN_TIMEOUT_MS,
        price_cap_wei: int = PRICE_CAP_WEI,
        lanes: int = 1,
        direct: bool = False,
    ) -> AsyncIterator[Session]:
        """Open a session, and close it with the block. Raises RequestFailed.

        Args:
            lanes: Independent runs of each order, by as many miners; the first is streamed.
            direct: Take the frames from the miner itself where it can be dialed, so that it learns our address; the
                router relays them where it cannot.
        """
        await self._stand()
        offer = self.model(model)
        handle, items = self.new_handle(SESSION_ITEMS_MAX)
        wish = OpenAsked(
            handle=handle,
            router=self.router,
            model=ModelDigest(offer.manifest.digest()),
            nonce=secrets.token_bytes(32),
            price_cap_wei=price_cap_wei,
            tokens=tokens,
            timeout_ms=timeout_ms,
            lifetime_ms=SESSION_LIFETIME_MS,
            others=tuple(router for router in self._routers if router != self.router),
            lanes=lanes,
            direct=direct,
        )
        self.dispatch(wish)
        try:
            yield Session(self, handle, await _assigned(items), items)
        finally:
            self.dispatch(CloseAsked(handle))
            self.drop_handle(handle)

    async def greet(self, router: NodeId) -> None:
        """Greet a router: sessions are opened there from now on. Raises RequestFailed."""
        handle, items = self.new_handle()
        self.dispatch(ConnectRouter(handle, router, self.address.network))
        first = await items.receive()
        if isinstance(first, RouterGone):
            self.drop_handle(handle)
            raise RequestFailed(first.code, first.detail)
        assert isinstance(first, RouterReady)
        self.router, self._ready, self._greeting = router, first, items

    async def _stand(self) -> None:
        """If the router was lost since, greet it again, or the next that answers. Raises RequestFailed."""
        async with self._greets:
            if self._greeting is not None:
                try:
                    self._greeting.receive_nowait()
                except trio.WouldBlock:
                    return
                self._greeting = None
            failed: list[RequestFailed] = []
            for router in self._routers:
                try:
                    await self.greet(router)
                    return
                except RequestFailed as error:
                    failed.append(error)
            raise failed[0]

    def dispatch(self, event: object) -> None:
        """Hand the machine a wish."""
        self._driver.dispatch(event)

    def new_handle(self, tokens: int = 0) -> tuple[int, trio.MemoryReceiveChannel[Item]]:
        """A handle and where its items arrive."""
        handle = next(self._handles)
        send, receive = trio.open_memory_channel[Item](ITEMS_MAX + max(tokens, 0))
        self._items[handle] = send
        return handle, receive

    def drop_handle(self, handle: int) -> None:
        """Nothing more of a handle is wanted."""
        self._items.pop(handle, None)

    def deliver(self, effect: object) -> None:
        """Perform a Deliver."""
        assert isinstance(effect, Deliver)
        channel = self._items.get(effect.handle)
        if channel is None:
            return
        try:
            channel.send_nowait(effect.item)
        except trio.WouldBlock:
            # More than any honest router has to say: nothing of it is looked at any more.
            del self._items[effect.handle]
            channel.close()


async def _assigned(items: trio.MemoryReceiveChannel[Item]) -> SessionAssigned:
    """The session's first assignment. Raises RequestFailed."""
    async for item in items:
        if isinstance(item, SessionOver):
            raise RequestFailed(item.code, item.detail, retry_after_ms=item.retry_after_ms)
        if isinstance(item, SessionAssigned):
            return item
    raise RequestFailed("router_lost", "the client was closed")


@asynccontextmanager
async def connect(
    *routers: str | RouterAddress,
    key: NodeKey | None = None,
    transport: Transport | None = None,
    timeout_ms: int = CONNECT_TIMEOUT_MS,
) -> AsyncIterator[LightClient]:
    """Connect to the first router that answers; the others take its place should it be lost.

    Raises MalformedAddress, PeerUnreachable, WrongPeer, RequestFailed. Without ``key`` a fresh one is made: nothing
    links this client to an earlier one.
    """
    addresses = [parse_router_address(router) if isinstance(router, str) else router for router in routers]
    if not addresses:
        raise TypeError("connect() needs the address of a router")
    key = key or NodeKey.generate()
    if transport is not None:
        async with _greeted(transport, addresses, key, timeout_ms) as client:
            yield client
        return
    async with (
        open_libp2p(key, Libp2pConfig(listen=())) as opened,
        _greeted(opened, addresses, key, timeout_ms) as client,
    ):
        yield client


@asynccontextmanager
async def _greeted(
    transport: Transport, addresses: Sequence[RouterAddress], key: NodeKey, timeout_ms: int
) -> AsyncIterator[LightClient]:
    node, address = await _first_reached(transport, addresses, timeout_ms)
    others = []
    for other in addresses:
        if other is not address and other.network == address.network:
            others.append(node_id_of_peer_id(other.peer_id))
            transport.learn(others[-1], (other.multiaddr,))
    machine = ClientMachine(key.node_id, key.sign)
    async with open_driver(machine, transport, open_clock()) as driver:
        client = LightClient(driver, node, address, tuple(others))
        driver.performers = {Deliver: client.deliver}
        await client.greet(node)
        yield client


async def _first_reached(
    transport: Transport, addresses: Sequence[RouterAddress], timeout_ms: int
) -> tuple[NodeId, RouterAddress]:
    """Raises PeerUnreachable when none answers."""
    failed: list[str] = []
    for address in addresses:
        try:
            return await transport.connect(str(replace(address, network=None)), timeout_ms=timeout_ms), address
        except PeerUnreachable as error:
            failed.append(str(error))
    hint = "check that the router runs, and that the address is the one it printed"
    raise PeerUnreachable(f"no router answers: {'; '.join(failed)}", hint=hint)
