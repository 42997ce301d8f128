"""Responses that are made while they are sent: server-sent events, or one JSON body that takes its time.

Whoever goes away before the end cancels what was being made for them, down to the miner's engine.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec
import trio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from p2pnode.http.errors import ApiError, as_api_error
from p2pnode.transport.unwrap import unwrapped

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
encode = msgspec.json.Encoder().encode


class Events(Protocol):
    """Where a stream's events go."""

    headers: dict[str, str]
    """To go out with the first event."""

    async def event(self, *values: Any) -> None:
        """Some events, which go out together."""

    async def done(self, *values: Any) -> None:
        """The last events, and the end of a stream that has said all."""


class Stream:
    """Events on their way to one client. The status goes out with the first event: until then it may be an error."""

    def __init__(self, send: Send, ping_s: float) -> None:
        self.headers: dict[str, str] = {}
        """To go out with the first event."""
        self.started = False
        self._send = send
        self._ping_s = ping_s
        self._sending = trio.Lock()
        self._sent = trio.current_time()

    async def event(self, *values: Any) -> None:
        """Some events, which go out together: a write costs more than what is written."""
        await self._write(b"".join(map(_event, values)))

    async def done(self, *values: Any) -> None:
        """The last events, and the end of a stream that has said all."""
        await self._write(b"".join(map(_event, values)) + DONE, last=True)

    async def fail(self, error: ApiError) -> None:
        """The end of a stream that has not: a status, if none was told yet, else an error event and no [DONE]."""
        if self.started:
            await self._write(_event(error.body()), last=True)
            return
        self.started = True
        await _send_whole(self._send, error.status, {**self.headers, **error.headers()}, encode(error.body()))

    async def ping(self) -> None:
        """Whenever nothing was said for long, show that there is still somebody; runs until cancelled."""
        while True:
            await trio.sleep_until(self._sent + self._ping_s)
            if trio.current_time() >= self._sent + self._ping_s:
                await self._write(PING)

    async def _write(self, data: bytes, *, last: bool = False) -> None:
        async with self._sending:
            if not self.started:
                self.started = True
                await self._send(_start(200, {**STREAM_HEADERS, **self.headers}))
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})
            self._sent = trio.current_time()


class EventStream(Response):
    """A response of events; ``make`` writes them, to their end."""

    def __init__(self, make: Callable[[Stream], Awaitable[None]], ping_s: float) -> None:
        super().__init__()
        self._make = make
        self._ping_s = ping_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        stream = Stream(send, self._ping_s)

        async def run() -> None:
            try:
                await self._make(stream)
            except Exception as error:
                await stream.fail(as_api_error(error))

        await until_gone(receive, run, stream.ping)


class Whole(Response):
    """A response of one JSON body; ``make`` gives it and the headers that go with it."""

    def __init__(self, make: Callable[[], Awaitable[tuple[Any, Mapping[str, str]]]]) -> None:
        super().__init__()
        self._make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""

        async def run() -> None:
            try:
                value, headers = await self._make()
            except Exception as error:
                failed = as_api_error(error)
                await _send_whole(send, failed.status, failed.headers(), encode(failed.body()))
                return
            await _send_whole(send, 200, headers, encode(value))

        await until_gone(receive, run)


async def until_gone(
    receive: Receive, run: Callable[[], Awaitable[None]], *beside: Callable[[], Awaitable[None]]
) -> None:
    """Run to the end, or until the client has gone."""
    with unwrapped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_gone, receive, nursery.cancel_scope)
            for each in beside:
                nursery.start_soon(each)
            await run()
            nursery.cancel_scope.cancel()


def _event(value: Any) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


async def _gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _start(status: int, headers: Mapping[str, str]) -> Message:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


async def _send_whole(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    about = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    await send(_start(status, about))
    await send({"type": "http.response.body", "body": body, "more_body": False})
