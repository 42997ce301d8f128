"""The light client as a library: sessions at a router, answers as streams, everything verified on the way.

    async with connect("/ip4/127.0.0.1/tcp/4001/p2p/16Uiu2…?network=…") as net:
        async with net.session() as session:
            async with session.ask("Where does a bear live?") as answer:
                async for text in answer:
                    print(text, end="")
            if await answer.wait_for("finalized", timeout_ms=5_000):
                print(answer.levels)
            save_receipt(Path("answer.receipt"), answer.receipt())  # of p2pnode.receipts; `p2pnode verify` checks it

It needs no model and no gossip. Text is handed out only after the miner's signature over it was checked, and a level is
named only when what proves it was.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count

import trio

from p2pnode.address import RouterAddress, parse_router_address
from p2pnode.answer import Answer, Piece, Reached, RequestFailed, TokenLogprob
from p2pnode.chain_look import ChainLook
from p2pnode.clock import Clock, open_clock
from p2pnode.driver import Driver, Tap, open_driver
from p2pnode.embeddings import Embeddings
from p2pnode.greetings import Greetings
from p2pnode.identity import NodeKey, node_id_of_peer_id
from p2pnode.routers import Routers, RouterStatus, first_reached
from p2pnode.session import Session, assigned
from p2pnode.transport.libp2p import Libp2pConfig, open_libp2p
from p2pnode.transport.seam import Transport
from p2pnode.transport.unwrap import unwrapped
from p2pnode.trust_store import TrustKeeper, TrustStore
from protocol.core.genesis import Genesis
from protocol.core.ids import ModelDigest, NodeId
from protocol.messages.adverts import ModelOffer
from protocol.roles.client import (
    ChainWanted,
    CheckpointClaimed,
    CheckpointSeen,
    ClientMachine,
    CloseAsked,
    Deliver,
    HeaderAccepted,
    Item,
    OpenAsked,
    RouterReady,
    RouterSeen,
    TaskLevel,
    TaskReceipt,
    TrustMoved,
    WatchRouters,
)

__all__ = [
    "Answer",
    "Embeddings",
    "LightClient",
    "Piece",
    "Reached",
    "RequestFailed",
    "RouterStatus",
    "Session",
    "TokenLogprob",
    "connect",
]

MakeTap = Callable[[NodeId], Tap]
"""Makes what hears a client's machine, for the node id that the client is given; ``Instruments.client`` does."""

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
        addresses: Mapping[NodeId, RouterAddress],
        clock: Clock,
        *,
        has_account: bool,
    ) -> None:
        self.address = addresses[router]
        self.has_account = has_account
        """Whether its key was given, so that it may have a balance in the ledger; one made for the day has none."""
        self.rising: dict[int, Answer] = {}
        """Answers whose levels are heard of, by handle."""
        self.look: ChainLook | None = None
        """How this client asks the chain; None where it was given no way."""
        self.keeper: TrustKeeper | None = None
        """What writes down whom this client believes; None where nothing is to be kept."""
        self._clock = clock
        self._watched = Routers(addresses)
        self._driver = driver
        self._handles = count(1)
        self._items: dict[int, trio.MemorySendChannel[Item]] = {}
        self._greetings = Greetings(self, router, self.address.network)

    @property
    def router(self) -> NodeId:
        """That sessions are opened at."""
        return self._greetings.router

    @property
    def _ready(self) -> RouterReady | None:
        return self._greetings.ready

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
    def routers(self) -> tuple[RouterStatus, ...]:
        """The routers that were named: each is asked all the time how far it is."""
        return self._watched.all()

    async def routers_changed(self) -> None:
        """Wait until one of them shows something."""
        await self._watched.changed()

    @property
    def level_note(self) -> str:
        """What an answer is worth here, in words for a person."""
        if self.address.network is None:
            return "level capped at streamed: the address names no network, so the router's word for it was taken"
        if self._ready is not None and self._ready.untrusted:
            return f"level capped at streamed: {self._ready.untrusted}"
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
        """Whether the network has a committee that this client can check, and believes."""
        assert self._ready is not None
        return bool(self.genesis.committee) and self.address.network is not None and not self._ready.untrusted

    @property
    def shows_header(self) -> bool:
        """Whether the router showed a final header when it greeted us."""
        return self._ready is not None and self._ready.hello.certified is not None

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
        await self.stand()
        if self.certifies and not self.shows_header:
            await self.refresh()
        if self.certifies and not self.shows_header:
            # What is ordered before any header is known nobody certifies, and a router may hide what it knows.
            await self._watched.shown_head()
        offer = await self._offer(model)
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
            others=tuple(each.node for each in self._watched.by_preference(self.router) if each.node != self.router),
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

    async def _offer(self, model: str | None) -> ModelOffer:
        try:
            return self.model(model)
        except RequestFailed:
            # A miner of it may have come since the router was greeted.
            await self.refresh()
            return self.model(model)

    def _cap_wei(self, offer: ModelOffer, tokens: int, lanes: int) -> int:
        return offer.price_wei * tokens * lanes * ORDERS_EXPECTED if self.has_account and self.certifies else 0

    def _session_nonce(self) -> bytes:
        """Rises from session to session: of an account's sessions the ledger takes none that is older than one that is
        over."""
        return self._clock().to_bytes(8, "big") + secrets.token_bytes(24)

    async def greet(self, router: NodeId) -> None:
        """Greet a router: sessions are opened there from now on. Raises RequestFailed."""
        await self._greetings.greet(router)

    async def refresh(self) -> None:
        """Greet the present router anew: what it has miners for changes. Raises RequestFailed."""
        await self._greetings.refresh()

    async def stand(self) -> None:
        """Turn to the best router that answers. Raises RequestFailed."""
        await self._greetings.stand(self._watched.by_preference(self.router))

    def watch(self) -> None:
        """Ask all routers, from now on, how far they are."""
        self.dispatch(WatchRouters(next(self._handles), self.router, tuple(each.node for each in self.routers)))

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
        if isinstance(effect.item, TrustMoved):
            if self.keeper is not None:
                self.keeper.moved(effect.item.kept)
            return
        if isinstance(effect.item, TaskLevel | TaskReceipt):
            # Nobody need wait for it, and it comes when whoever asked has left.
            answer = self.rising.get(effect.handle)
            if answer is not None:
                answer.rise(effect.item)
            return
        if isinstance(effect.item, CheckpointClaimed):
            if self.look is not None:
                self.look.look_for(effect.item.digest)
            return
        if isinstance(effect.item, RouterSeen):
            self._watched.see(effect.item)
            return
        if isinstance(effect.item, ChainWanted):
            if self.look is not None:
                self.look.look_for_newest()
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
    trust: TrustStore | None = None,
    tap: MakeTap | None = None,
) -> AsyncIterator[LightClient]:
    """Connect to the first router that answers; the others take its place should it be lost.

    Raises MalformedAddress, PeerUnreachable, WrongPeer, RequestFailed, WrongChain. Without ``key`` a fresh one is made:
    nothing links this client to an earlier one, and it has no balance, so it is served on what credit miners give.
    With ``rpc``, endpoints of the network's chain, it asks there what the contract accepted: answers may get settled.
    With ``trust``, it goes on from what was known of the network's committees before, and keeps what it learns; without
    it begins at the genesis, which is enough as long as that is younger than the network's trust period. What is done
    is told to ``tap``, if there is one.
    """
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError as error:
        what = "this client runs on trio; a program on asyncio uses connect of p2pnode.asyncio_client"
        raise RuntimeError(what) from error
    addresses = [parse_router_address(router) if isinstance(router, str) else router for router in routers]
    if not addresses:
        raise TypeError("connect() needs the address of a router")
    given, key = key is not None, key or NodeKey.generate()
    if transport is not None:
        async with _greeted(transport, addresses, key, timeout_ms, given, trust, tap) as client, _looking(client, rpc):
            yield client
        return
    async with (
        open_libp2p(key, Libp2pConfig(listen=())) as opened,
        _greeted(opened, addresses, key, timeout_ms, given, trust, tap) as client,
        _looking(client, rpc),
    ):
        yield client


@asynccontextmanager
async def connect_here(
    transport: Transport, address: RouterAddress, key: NodeKey, *, tap: Tap | None = None
) -> AsyncIterator[LightClient]:
    """A client in a router's own process, at that router; ``address`` names the network, ``key`` is the node's own."""
    machine, clock = ClientMachine(key.node_id, key.sign, live=True), open_clock()
    async with open_driver(machine, transport, clock, tap=tap) as driver:
        client = LightClient(driver, transport.me, {transport.me: address}, clock, has_account=True)
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
    client.look = ChainLook(
        chain,
        lambda digest: client.dispatch(HeaderAccepted(digest)),
        lambda newest: client.dispatch(CheckpointSeen(newest.epoch, newest.height)),
    )
    with unwrapped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.look.run)
            yield
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _greeted(
    transport: Transport,
    addresses: Sequence[RouterAddress],
    key: NodeKey,
    timeout_ms: int,
    has_account: bool,
    trust: TrustStore | None,
    tap: MakeTap | None,
) -> AsyncIterator[LightClient]:
    node, address = await first_reached(transport, addresses, timeout_ms)
    named = {node_id_of_peer_id(each.peer_id): each for each in addresses if each.network == address.network}
    for other, where in named.items():
        if other != node:
            transport.learn(other, (where.multiaddr,))
    kept = None
    if trust is not None and address.network is not None:
        kept = await trio.to_thread.run_sync(trust.load, address.network)
    known = {address.network: kept} if address.network is not None and kept is not None else {}
    machine, clock = ClientMachine(key.node_id, key.sign, known), open_clock()
    made = tap(key.node_id) if tap is not None else None
    async with open_driver(machine, transport, clock, tap=made) as driver:
        client = LightClient(driver, node, named, clock, has_account=has_account)
        driver.performers = {Deliver: client.deliver}
        async with _keeping(client, trust):
            await client.stand()
            client.watch()
            yield client


@asynccontextmanager
async def _keeping(client: LightClient, trust: TrustStore | None) -> AsyncIterator[None]:
    """What is learned of the network's committees is kept, if the address names the network."""
    if trust is None or client.address.network is None:
        yield
        return
    client.keeper = keeper = TrustKeeper(trust, client.address.network)
    with unwrapped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            yield
            nursery.cancel_scope.cancel()
