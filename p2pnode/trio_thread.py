"""A trio loop in a thread of its own, beside a program on asyncio: it is called, holds blocks open, and tells back.

What this library stands on is trio's. A program on asyncio uses it from there: what it awaits is awaited in that
thread, what it cancels is cancelled there, and what ends there ends the block that held it here.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, suppress
from typing import TypeVar

import trio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from p2pnode.transport.unwrap import unwrapped

T = TypeVar("T")


class TrioThread:
    """The thread, as the asyncio program sees it. Made by :func:`open_trio_thread`."""

    def __init__(self, portal: BlockingPortal, token: trio.lowlevel.TrioToken) -> None:
        self._portal = portal
        self._token = token
        self._loop = asyncio.get_running_loop()

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await it there. Cancelling this cancels that, and waits until it is over."""
        return await self._portal.call_async(work)

    def soon(self, work: Callable[[], object]) -> None:
        """Do it there in a moment; nobody waits for it."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(work)

    def told(self, hear: Callable[[T], object]) -> Callable[[T], None]:
        """What is called there, and has ``hear`` called here in a moment, in the same order."""

        def tell(news: T) -> None:
            # The loop here may be closed by now: then nobody is left to hear it.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(hear, news)

        return tell

    @asynccontextmanager
    async def held(self, context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        """A block over there, entered and left with this one, whose errors are raised here."""
        leave = trio.Event()
        entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def enter(value: T) -> None:
            if not entered.done():
                entered.set_result(value)

        async def hold() -> None:
            async with context as value:
                self.told(enter)(value)
                await leave.wait()

        with unwrapped():
            async with asyncio.TaskGroup() as group:
                # What it raises, also long after it was entered, cancels the block here and is raised in its place.
                holding = group.create_task(self.call(hold))
                try:
                    value = await entered
                except asyncio.CancelledError:
                    holding.cancel()
                    raise
                try:
                    yield value
                finally:
                    self.soon(leave.set)
                    await asyncio.wait([holding])


@asynccontextmanager
async def open_trio_thread() -> AsyncIterator[TrioThread]:
    """Start the thread; it ends with the block, and what is still done there by then is cancelled."""
    opening = start_blocking_portal(backend="trio", name="p2pnode")
    portal = opening.__enter__()
    try:
        yield TrioThread(portal, await portal.call_async(trio.lowlevel.current_trio_token))
    finally:
        await asyncio.shield(asyncio.to_thread(_close, portal, opening))


def _close(portal: BlockingPortal, opening: AbstractContextManager[BlockingPortal]) -> None:
    # A bug over there may have ended it already.
    with suppress(RuntimeError):
        portal.call(portal.stop, True)
    opening.__exit__(None, None, None)
