"""The light client as a library: sessions at a router, answers as streams, everything verified on the way.

    async with connect("/ip4/127.0.0.1/tcp/4001/p2p/16Uiu2…?network=…") as net:
        async with net.session() as session:
            async with session.ask("Where does a bear live?") as answer:
                async for text in answer:
                    print(text, end="")
            if await answer.wait_for("finalized", timeout_ms=5_000):
                print(answer.levels)

It needs no model and no gossip. Text is handed out only after the miner's signature over it was checked, and a level is
named only when what proves it was.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count

import trio

from p2pnode.address import RouterAddress, parse_router_address
from p2pnode.answer import Answer, Reached, RequestFailed
from p2pnode.chain_look import ChainLook
from p2pnode.clock import Clock, open_clock
from p2pnode.driver import Driver, open_driver
from p2pnode.identity import NodeKey, node_id_of_peer_id
from p2pnode.session import Session, assigned
from p2pnode.transport.libp2p import Libp2pConfig, open_libp2p
from p2pnode.transport.seam import PeerUnreachable, Transport
from p2pnode.transport.unwrap import unwrapped
from protocol.core.genesis import Genesis
from protocol.core.ids import ModelDigest, NodeId
from protocol.messages.adverts import ModelOffer
from protocol.roles.client import (
    CheckpointClaimed,
    ClientMachine,
    CloseAsked,
    ConnectRouter,
    Deliver,
    HeaderAccepted,
    Item,
    OpenAsked,
    RouterGone,
    RouterReady,
    TaskLevel,
)

__all__ = ["Answer", "LightClient", "Reached", "RequestFailed", "Session", "connect"]

CONNECT_TIMEOUT_MS = 10_000
OPEN_TIMEOUT_MS = 30_000
SESSION_LIFETIME_MS = 3_600_000
PRICE_CAP_WEI = 10**15
ORDERS_EXPECTED = 32
"""Of a session, as long as the first: for so many the ledger reserves what they cost."""
SESSION_ITEMS_MAX = 4_096
"""Assignments, lanes' ends and changes of router of one session that wait to be looked at."""
ITEMS_MAX = 8
"""Of a router or session: one when it stands, one when it ends. Of an answer, one for each token more: the machine
takes none beyond max_tokens, whatever a router sends."""


class LightClient:
    """A connection to a router, and the others that may take its place. Made by :func:`connect`."""

    def __init__(
        self,
        driver: Driver,
        router: NodeId,
        address: RouterAddress,
        others: tuple[NodeId, ...],
        clock: Clock,
        *,
        has_account: bool,
    ) -> None:
        self.router = router
        """That sessions are opened at."""
        self.address = address
        self.has_account = has_account
        """Whether its key was given, so that it may have a balance in the ledger; one made for the day has none."""
        self.rising: dict[int, Answer] = {}
        """Answers whose levels are heard of, by handle."""
        self.look: ChainLook | None = None
        """How this client asks the chain; None where it was given no way."""
        self._clock = clock
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
        if not self.certifies:
            return "level streamed: every frame is signed; this network has no committee to certify more"
        assert self._ready is not None
        oracles = self._ready.oracles
        last = f"every frame is signed, {oracles} oracles certify answers and decide them in blocks"
        if self.settles:
            return f"level up to settled: {last}, and this client asks the chain itself what the contract accepted"
        if self.genesis.contracts is None:
            return f"level up to finalized: {last}"
        return f"level up to finalized: {last}; to see them settled, name an endpoint of the chain: --rpc URL"

    @property
    def certifies(self) -> bool:
        """Whether the network has a committee that this client can check."""
        return bool(self.genesis.committee) and self.address.network is not None

    @property
    def settles(self) -> bool:
        """Whether the network settles on a chain that this client can ask."""
        return self.certifies and self.look is not None

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
        cap_wei: int | None = None,
        lanes: int = 1,
        direct: bool = False,
        audits: bool = False,
    ) -> AsyncIterator[Session]:
        """Open a session, and close it with the block. Raises RequestFailed.

        Args:
            lanes: Independent runs of each order, by as many miners; the first is streamed.
            direct: Take the frames from the miner itself where it can be dialed, so that it learns our address; the
                router relays them where it cannot.
            cap_wei: What the ledger is to reserve of this client's balance; miners give little credit beyond. None:
                enough for some dozens of orders as long as the first, where they cost anything and a key was given.
            audits: Oracles may open the orders, to score what was answered.
        """
        await self._stand()
        offer = self.model(model)
        handle, items = self.new_handle(SESSION_ITEMS_MAX)
        wish = OpenAsked(
            handle=handle,
            router=self.router,
            model=ModelDigest(offer.manifest.digest()),
            nonce=self._session_nonce(),
            price_cap_wei=price_cap_wei,
            tokens=tokens,
            timeout_ms=timeout_ms,
            lifetime_ms=SESSION_LIFETIME_MS,
            others=tuple(router for router in self._routers if router != self.router),
            lanes=lanes,
            direct=direct,
            cap_wei=self._cap_wei(offer, tokens, lanes) if cap_wei is None else cap_wei,
            audits=audits,
        )
        self.dispatch(wish)
        session: Session | None = None
        try:
            session = Session(self, handle, await assigned(items), items)
            yield session
        finally:
            if session is not None:
                session.settle()
            self.dispatch(CloseAsked(handle))
            self.drop_handle(handle)

    def _cap_wei(self, offer: ModelOffer, tokens: int, lanes: int) -> int:
        return offer.price_wei * tokens * lanes * ORDERS_EXPECTED if self.has_account and self.certifies else 0

    def _session_nonce(self) -> bytes:
        """Rises from session to session: of an account's sessions the ledger takes none that is older than one that is
        over."""
        return self._clock().to_bytes(8, "big") + secrets.token_bytes(24)

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
        if isinstance(effect.item, TaskLevel):
            # Nobody need wait for it, and it comes when whoever asked has left.
            answer = self.rising.get(effect.handle)
            if answer is not None:
                answer.rise(effect.item)
            return
        if isinstance(effect.item, CheckpointClaimed):
            if self.look is not None:
                self.look.look_for(effect.item.digest)
            return
        channel = self._items.get(effect.handle)
        if channel is None:
            return
        try:
            channel.send_nowait(effect.item)
        except trio.WouldBlock:
            # More than any honest router has to say: nothing of it is looked at any more.
            del self._items[effect.handle]
            channel.close()


@asynccontextmanager
async def connect(
    *routers: str | RouterAddress,
    key: NodeKey | None = None,
    transport: Transport | None = None,
    timeout_ms: int = CONNECT_TIMEOUT_MS,
    rpc: Sequence[str] = (),
) -> AsyncIterator[LightClient]:
    """Connect to the first router that answers; the others take its place should it be lost.

    Raises MalformedAddress, PeerUnreachable, WrongPeer, RequestFailed, WrongChain. Without ``key`` a fresh one is made:
    nothing links this client to an earlier one, and it has no balance, so it is served on what credit miners give.
    With ``rpc``, endpoints of the network's chain, it asks there what the contract accepted: answers may get settled.
    """
    addresses = [parse_router_address(router) if isinstance(router, str) else router for router in routers]
    if not addresses:
        raise TypeError("connect() needs the address of a router")
    given, key = key is not None, key or NodeKey.generate()
    if transport is not None:
        async with _greeted(transport, addresses, key, timeout_ms, given) as client, _looking(client, rpc):
            yield client
        return
    async with (
        open_libp2p(key, Libp2pConfig(listen=())) as opened,
        _greeted(opened, addresses, key, timeout_ms, given) as client,
        _looking(client, rpc),
    ):
        yield client


@asynccontextmanager
async def connect_here(transport: Transport, address: RouterAddress, key: NodeKey) -> AsyncIterator[LightClient]:
    """A client in a router's own process, at that router; ``address`` names the network, ``key`` is the node's own."""
    machine, clock = ClientMachine(key.node_id, key.sign), open_clock()
    async with open_driver(machine, transport, clock) as driver:
        client = LightClient(driver, transport.me, address, (), clock, has_account=True)
        driver.performers = {Deliver: client.deliver}
        await client.greet(transport.me)
        yield client


@asynccontextmanager
async def _looking(client: LightClient, rpc: Sequence[str]) -> AsyncIterator[None]:
    """Raises WrongChain."""
    if not rpc or client.genesis.contracts is None or not client.certifies:
        yield
        return
    from p2pnode.chain_access import open_reading

    chain = await trio.to_thread.run_sync(open_reading, client.genesis, rpc)
    client.look = ChainLook(chain, lambda digest: client.dispatch(HeaderAccepted(digest)))
    with unwrapped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.look.run)
            yield
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _greeted(
    transport: Transport, addresses: Sequence[RouterAddress], key: NodeKey, timeout_ms: int, has_account: bool
) -> AsyncIterator[LightClient]:
    node, address = await _first_reached(transport, addresses, timeout_ms)
    others = []
    for other in addresses:
        if other is not address and other.network == address.network:
            others.append(node_id_of_peer_id(other.peer_id))
            transport.learn(others[-1], (other.multiaddr,))
    machine, clock = ClientMachine(key.node_id, key.sign), open_clock()
    async with open_driver(machine, transport, clock) as driver:
        client = LightClient(driver, node, address, tuple(others), clock, has_account=has_account)
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
