"""A trio loop beside a program on asyncio: what crosses over, and how what ends on one side ends on the other."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from p2pnode.trio_thread import open_trio_thread


class Block:
    """A trio block that says what happens to it, and can be made to fail."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.fail = trio.Event()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[threading.Thread]:
        async def failing() -> None:
            await self.fail.wait()
            raise ZeroDivisionError("it broke over there")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing)
            self.said.append("entered")
            try:
                yield threading.current_thread()
            finally:
                self.said.append("left")
                nursery.cancel_scope.cancel()


def test_calls_are_answered_from_a_thread_that_ends_with_the_block() -> None:
    async def use() -> threading.Thread:
        async with open_trio_thread() as there:

            async def work() -> threading.Thread:
                await trio.lowlevel.checkpoint()
                return threading.current_thread()

            thread = await there.call(work)
            assert thread is not threading.current_thread()
            return thread

    assert not asyncio.run(use()).is_alive()


def test_an_error_over_there_is_raised_here() -> None:
    async def use() -> None:
        async with open_trio_thread() as there:

            async def work() -> None:
                await trio.lowlevel.checkpoint()
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await there.call(work)

    asyncio.run(use())


def test_a_cancelled_call_is_cancelled_over_there_before_it_returns() -> None:
    async def use() -> None:
        said: list[str] = []
        async with open_trio_thread() as there:
            began = asyncio.Event()

            async def work() -> None:
                there.told(lambda _: began.set())(None)
                try:
                    await trio.sleep_forever()
                finally:
                    said.append("over")

            calling = asyncio.create_task(there.call(work))
            await began.wait()
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            assert said == ["over"]

    asyncio.run(use())


def test_news_comes_in_order_and_nobody_hears_it_once_the_loop_is_closed() -> None:
    heard: list[int] = []

    async def use() -> object:
        async with open_trio_thread() as there:
            tell, all_heard = there.told(heard.append), asyncio.Event()
            for number in range(100):
                there.soon(partial(tell, number))
            there.soon(lambda: there.told(lambda _: all_heard.set())(None))
            await all_heard.wait()
            return tell

    tell = asyncio.run(use())
    assert callable(tell)
    tell(100)
    assert heard == list(range(100))


@pytest.mark.parametrize("ends", ["by itself", "by an error", "by being cancelled"])
def test_a_block_over_there_is_left_with_the_one_here(ends: str) -> None:
    block = Block()

    async def hold(entered: asyncio.Event) -> None:
        async with open_trio_thread() as there, there.held(block.opened()) as thread:
            assert thread is not threading.current_thread()
            entered.set()
            if ends == "by an error":
                raise KeyError("mine")
            if ends == "by being cancelled":
                await asyncio.Event().wait()

    async def use() -> None:
        entered = asyncio.Event()
        holding = asyncio.create_task(hold(entered))
        await entered.wait()
        assert block.said[0] == "entered"
        match ends:
            case "by an error":
                with pytest.raises(KeyError, match="mine"):
                    await holding
            case "by being cancelled":
                holding.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await holding
            case _:
                await holding

    asyncio.run(use())
    assert block.said == ["entered", "left"]


def test_a_block_that_breaks_over_there_ends_the_one_here_with_its_error() -> None:
    block = Block()

    async def use() -> None:
        async with open_trio_thread() as there:
            with pytest.raises(ZeroDivisionError, match="it broke over there"):
                async with there.held(block.opened()):
                    there.soon(block.fail.set)
                    await asyncio.Event().wait()
            # Only that block: others go on.
            assert await there.call(_seven) == 7

    asyncio.run(use())
    assert block.said == ["entered", "left"]


async def _seven() -> int:
    return 7


def test_a_block_that_cannot_be_entered_raises_why() -> None:
    @asynccontextmanager
    async def closed() -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        raise PermissionError("closed")
        yield

    async def use() -> None:
        async with open_trio_thread() as there:
            with pytest.raises(PermissionError, match="closed"):
                async with there.held(closed()):
                    pytest.fail("entered")

    asyncio.run(use())


def test_a_block_that_takes_long_to_enter_is_given_up_with_the_one_here() -> None:
    said: list[str] = []

    async def use() -> None:
        async with open_trio_thread() as there:
            began = asyncio.Event()

            @asynccontextmanager
            async def slow() -> AsyncIterator[None]:
                there.told(lambda _: began.set())(None)
                try:
                    await trio.sleep_forever()
                finally:
                    said.append("given up")
                yield

            async def hold() -> None:
                async with there.held(slow()):
                    pytest.fail("entered")

            holding = asyncio.create_task(hold())
            await began.wait()
            holding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holding
            assert said == ["given up"]

    asyncio.run(use())
