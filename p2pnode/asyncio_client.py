"""The light client for programs on asyncio: the same sessions, answers and levels as `p2pnode.client` has on trio.

    async with connect("/ip4/127.0.0.1/tcp/4001/p2p/16Uiu2…?network=…") as net:
        async with net.session() as session:
            async with session.ask("Where does a bear live?") as answer:
                async for text in answer:
                    print(text, end="")
            if await answer.wait_for("finalized", timeout_ms=5_000):
                print(answer.levels)

The client itself runs on trio, in a thread of its own, so a program that is busy for a while loses no frame. What is
read of it from here are single values that are replaced and never changed, or lists that only grow; what takes part in
its loop goes there to be done. Cancelling a task here cancels what it waits for there: a cancelled answer frees its
miner.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import trio

from p2pnode import client as on_trio
from p2pnode.address import RouterAddress
from p2pnode.answer import Answer, Finish, Piece, Reached, RequestFailed, TokenLogprob
from p2pnode.client import CONNECT_TIMEOUT_MS, LightClient, RouterStatus, Session
from p2pnode.embeddings import EMBED_TIMEOUT_MS, Embeddings
from p2pnode.identity import NodeKey
from p2pnode.transport.unwrap import unwrapped
from p2pnode.trio_thread import TrioThread, open_trio_thread
from p2pnode.trust_store import TrustStore
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.messages.adverts import ModelOffer
from protocol.messages.evidence import ConflictingValues
from protocol.messages.receipts import Receipt
from protocol.messages.tasks import LaneEnded, SegmentHead
from protocol.roles.client import SessionAssigned, SessionReserved, TaskLevel, TaskTranscript
from protocol.session.record import SessionRecord

__all__ = ["AsyncioAnswer", "AsyncioClient", "AsyncioSession", "Reached", "RequestFailed", "RouterStatus", "connect"]

P = ParamSpec("P")
R = TypeVar("R")
Me = TypeVar("Me")


def _as_on_trio(
    original: Callable[Concatenate[Any, P], object],
) -> Callable[[Callable[Concatenate[Me, ...], R]], Callable[Concatenate[Me, P], R]]:
    """A method that takes what the one of the same name takes over there, and is told of in the same words."""
    return wraps(original)


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is known of a session."""

    assigned: SessionAssigned
    reserved: SessionReserved | None
    router: NodeId
    router_lost: bool
    lanes_ended: Sequence[LaneEnded]
    over: bool = False


class AsyncioAnswer:
    """One answer, streamed: an async iterator of text. Leaving its block early cancels it; its level still rises after
    that, for as long as the session stands.
    """

    def __init__(self, there: TrioThread, answer: Answer, news: "asyncio.Queue[Piece | RequestFailed | None]") -> None:
        self.finish: Finish | None = None
        """How it ended, once it was read to its end."""
        self.token_ids: list[int] = []
        """As far as it was read."""
        self.logprobs: list[TokenLogprob] = []
        """One for each of ``token_ids``, if they were ordered."""
        self.text = ""
        """As far as it was read."""
        self._there = there
        self._answer = answer
        self._news = news

    def __aiter__(self) -> AsyncGenerator[str, None]:
        return self._texts()

    async def _texts(self) -> AsyncGenerator[str, None]:
        async for piece in self.pieces():
            if piece.text:
                yield piece.text

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The answer frame by frame: text with the tokens that it is of. Raises RequestFailed."""
        while self.finish is None:
            match await self._news.get():
                case Piece() as piece:
                    self.text += piece.text
                    self.token_ids += piece.ids
                    self.logprobs += piece.logprobs
                    yield piece
                case RequestFailed() as failed:
                    raise failed
                case None:
                    self.finish = self._answer.finish
                    return

    def cancel(self) -> None:
        """Ask the miner to stop; the iteration goes on to the signed end."""
        self._there.soon(self._answer.cancel)

    async def read(self) -> str:
        """The whole answer. Raises RequestFailed."""
        async for _ in self:
            pass
        return self.text

    @property
    def heads(self) -> Sequence[SegmentHead]:
        """One for each miner that worked on the answer; more than one after a failover."""
        return tuple(self._answer.heads)

    @property
    def transcript(self) -> TaskTranscript | None:
        """All that its result root is computed from; once it ended, and only if it was asked for."""
        return self._answer.transcript

    @property
    def news(self) -> TaskLevel | None:
        """The latest of its levels, with all that is known; none while it is only streamed."""
        return self._answer.news

    @property
    def level(self) -> str:
        """How certain it is: streamed, committed, certified, finalized or settled. It never falls."""
        return self._answer.level

    @property
    def levels(self) -> list[Reached]:
        """The levels whose proof is here, in order; the proof of one may come before that of one below."""
        return self._answer.levels

    @property
    def against(self) -> str:
        """Why it will not rise, in a word or two, such as ``late``; empty as long as it may."""
        return self._answer.against

    @property
    def unfinalized(self) -> bool:
        """Whether it should have been final by now and no router has shown that it is; the client goes on asking."""
        return self._answer.unfinalized

    @property
    def evidence(self) -> tuple[ConflictingValues, ...]:
        """What convicts each oracle that signed two values for it."""
        return self._answer.evidence

    @property
    def paid_wei(self) -> int | None:
        """What its lane was paid when it became final; None before."""
        return self._answer.paid_wei

    def receipt(self) -> Receipt:
        """All that is needed to verify it, on the level that it has by now. Raises RequestFailed before its end."""
        return self._answer.receipt()

    async def changed(self) -> bool:
        """Wait for the next that is heard of it; False if nothing more will be."""
        return await self._there.call(self._answer.changed)

    async def wait_for(self, level: str, *, timeout_ms: int | None = None) -> bool:
        """Wait until it is as certain as ``level``, or can not become so; whether it is. Raises ValueError for a level
        that does not exist."""
        return await self._there.call(partial(self._answer.wait_for, level, timeout_ms=timeout_ms))


class AsyncioSession:
    """Miners reserved for one client and one model."""

    def __init__(self, there: TrioThread, session: Session, standing: _Standing) -> None:
        self._there = there
        self._session = session
        self._standing = standing
        self._moved = asyncio.Event()

    @property
    def assigned(self) -> SessionAssigned:
        """The latest assignment: after a failover it names another miner."""
        return self._standing.assigned

    @property
    def reserved(self) -> SessionReserved | None:
        """What the ledger holds for the session, as a final header proves; None as long as that is nothing."""
        return self._standing.reserved

    @property
    def router(self) -> NodeId:
        """Who serves it; another one after the first was lost."""
        return self._standing.router

    @property
    def router_lost(self) -> bool:
        """Whether a router is looked for right now."""
        return self._standing.router_lost

    @property
    def lanes_ended(self) -> Sequence[LaneEnded]:
        """What the miners of the lanes above 0 signed at their ends."""
        return self._standing.lanes_ended

    @property
    def id(self) -> bytes:
        """The session id."""
        return self._standing.assigned.session

    @property
    def miner(self) -> NodeId:
        """Who streams."""
        return NodeId(self._standing.assigned.assignment.miners[0])

    async def changed(self) -> bool:
        """Wait for the next thing that happens to the session; False if nothing more will."""
        if not self._standing.over:
            await self._moved.wait()
        return not self._standing.over

    async def record(self) -> SessionRecord:
        """The session's signed papers so far; no prompt and no text is in it."""
        return await self._there.call(_in_loop(self._session.record))

    @_as_on_trio(Session.ask)
    @asynccontextmanager
    async def ask(self, *arguments: Any, **named: Any) -> AsyncIterator[AsyncioAnswer]:
        """Order an answer."""
        news = asyncio.Queue[Piece | RequestFailed | None]()
        asked = _read(self._session.ask(*arguments, **named), self._there.told(news.put_nowait))
        async with self._there.held(asked) as answer:
            yield AsyncioAnswer(self._there, answer, news)

    async def embed(self, texts: Sequence[str], *, timeout_ms: int = EMBED_TIMEOUT_MS) -> Embeddings:
        """Texts to vectors, by the session's miner. Raises RequestFailed."""
        return await self._there.call(partial(self._session.embed, texts, timeout_ms=timeout_ms))

    async def decided(self, level: str = "finalized") -> None:
        """Wait until each answer that came to its end is as certain as ``level``, or can not become so."""
        await self._there.call(partial(self._session.decided, level))

    def stand(self, standing: _Standing) -> None:
        """Take in what is known of it now."""
        self._standing = standing
        self._moved.set()
        self._moved = asyncio.Event()


class AsyncioClient:
    """A connection to a router, and the others that may take its place. Made by :func:`connect`."""

    def __init__(self, there: TrioThread, client: LightClient) -> None:
        self.has_account = client.has_account
        """Whether its key was given, so that it may have a balance in the ledger; one made for the day has none."""
        self._there = there
        self._client = client

    @property
    def router(self) -> NodeId:
        """Where sessions are opened."""
        return self._client.router

    @property
    def address(self) -> RouterAddress:
        """Of the router that was reached first."""
        return self._client.address

    @property
    def genesis(self) -> Genesis:
        """The network the router serves; checked against the address if that names one."""
        return self._client.genesis

    @property
    def models(self) -> Sequence[ModelOffer]:
        """What the router had miners for when it greeted us."""
        return self._client.models

    @property
    def routers(self) -> tuple[RouterStatus, ...]:
        """The routers that were named: each is asked all the time how far it is."""
        return self._client.routers

    @property
    def level_note(self) -> str:
        """What an answer is worth here, in words for a person."""
        return self._client.level_note

    @property
    def certifies(self) -> bool:
        """Whether the network has a committee that this client can check, and believes."""
        return self._client.certifies

    @property
    def settles(self) -> bool:
        """Whether the network settles on a chain that this client can ask."""
        return self._client.settles

    def model(self, wanted: str | None) -> ModelOffer:
        """The offer of a model by name or digest prefix; the first if None. Raises RequestFailed."""
        return self._client.model(wanted)

    async def refresh(self) -> None:
        """Ask the router again what it has miners for. Raises RequestFailed."""
        await self._there.call(self._client.refresh)

    async def routers_changed(self) -> None:
        """Wait until one of them shows something."""
        await self._there.call(self._client.routers_changed)

    @_as_on_trio(LightClient.session)
    @asynccontextmanager
    async def session(self, *arguments: Any, **named: Any) -> AsyncIterator[AsyncioSession]:
        """Open a session, and close it with the block."""
        opened: list[AsyncioSession] = []
        first: list[_Standing] = []

        def hear(standing: _Standing) -> None:
            if opened:
                opened[0].stand(standing)
            else:
                first[:] = [standing]

        watched = _watched(self._client.session(*arguments, **named), self._there.told(hear))
        async with self._there.held(watched) as session:
            opened.append(AsyncioSession(self._there, session, first[0]))
            yield opened[0]


@asynccontextmanager
async def connect(
    *routers: str | RouterAddress,
    key: NodeKey | None = None,
    timeout_ms: int = CONNECT_TIMEOUT_MS,
    rpc: Sequence[str] = (),
    trust: TrustStore | None = None,
    tap: on_trio.MakeTap | None = None,
) -> AsyncIterator[AsyncioClient]:
    """Connect to the first router that answers, as :func:`p2pnode.client.connect` does on trio."""
    async with open_trio_thread() as there:
        connecting = on_trio.connect(*routers, key=key, timeout_ms=timeout_ms, rpc=rpc, trust=trust, tap=tap)
        async with there.held(connecting) as client:
            yield AsyncioClient(there, client)


# What runs over there


def _in_loop(work: Callable[[], R]) -> Callable[[], Coroutine[Any, Any, R]]:
    async def done() -> R:
        return work()

    return done


@asynccontextmanager
async def _read(
    asked: AbstractAsyncContextManager[Answer], tell: Callable[[Piece | RequestFailed | None], None]
) -> AsyncIterator[Answer]:
    """An answer whose pieces are told as they come: never more than its order's limit of tokens."""

    async def read(answer: Answer) -> None:
        try:
            async with aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    tell(piece)
            tell(None)
        except RequestFailed as error:
            tell(error)

    with unwrapped():
        async with asked as answer, trio.open_nursery() as nursery:
            nursery.start_soon(read, answer)
            yield answer
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _watched(
    opened: AbstractAsyncContextManager[Session], tell: Callable[[_Standing], None]
) -> AsyncIterator[Session]:
    """A session that is told of whenever something happens to it."""

    def standing(session: Session, *, over: bool = False) -> _Standing:
        assigned, reserved = session.assigned, session.reserved
        return _Standing(assigned, reserved, session.router, session.router_lost, tuple(session.lanes_ended), over)

    async def watch(session: Session) -> None:
        while await session.changed():
            tell(standing(session))
        tell(standing(session, over=True))

    with unwrapped():
        async with opened as session, trio.open_nursery() as nursery:
            tell(standing(session))
            nursery.start_soon(watch, session)
            yield session
            nursery.cancel_scope.cancel()
