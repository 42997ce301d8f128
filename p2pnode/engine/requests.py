"""What the node has asked of its engine and what has come of it so far."""

from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import msgspec
import trio

import p2pnode.engine.wire as wire
from p2pnode.engine.api import EngineError, Finished, GenerateEvent, GenerateRequest, Token, Tokens


class QueryInFlight:
    """A question and, later, its answer."""

    def __init__(self, message: wire.Query) -> None:
        self.message = message
        self._outcome: msgspec.Raw | EngineError | None = None
        self._known = trio.Event()

    def answer(self, value: msgspec.Raw) -> None:
        self._outcome = value
        self._known.set()

    def fail(self, error: EngineError) -> None:
        self._outcome = error
        self._known.set()

    async def wait(self) -> msgspec.Raw:
        """The encoded answer. Raises the EngineError that came instead."""
        await self._known.wait()
        if isinstance(self._outcome, EngineError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome


class Stream:
    """A generation: what was asked, all tokens that came, and how many of them were taken."""

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request
        self._tokens: list[Token] = []
        self._taken = 0
        self._end: Finished | EngineError | None = None
        self._news = trio.Event()
        self.attempts = 0
        """Workers that died since the last token."""

    def push(self, token: Token) -> None:
        self._tokens.append(token)
        self.attempts = 0
        self._news.set()

    def end(self, finished: Finished) -> None:
        self._end = finished
        self._news.set()

    def fail(self, error: EngineError) -> None:
        self._end = error
        self._news.set()

    def continued(self) -> GenerateRequest:
        """The request that goes on from here."""
        return replace(self._request, emitted=(*self._request.emitted, *self._tokens))

    async def next(self) -> GenerateEvent:
        """The next event; not to be asked for after Finished. Raises the EngineError that ended the stream."""
        if self._taken == len(self._tokens) and self._end is None:
            self._news = trio.Event()
            await self._news.wait()
        else:
            await trio.lowlevel.checkpoint()
        if self._taken < len(self._tokens):
            tokens = tuple(self._tokens[self._taken :])
            self._taken = len(self._tokens)
            return Tokens(tokens)
        assert self._end is not None
        if isinstance(self._end, EngineError):
            raise self._end
        return self._end


class Submitter(Protocol):
    """Who starts and stops generations."""

    def submit(self, request: GenerateRequest) -> tuple[int, Stream]: ...

    def cancel(self, number: int) -> None: ...


class SupervisedGeneration:
    """An api.Generation of a supervised engine."""

    def __init__(self, engine: Submitter, request: GenerateRequest, trio_token: trio.lowlevel.TrioToken) -> None:
        self._engine = engine
        self._request = request
        self._trio_token = trio_token
        self._number = 0
        self._stream: Stream | None = None
        self._over = False

    def __aiter__(self) -> "SupervisedGeneration":
        return self

    async def __anext__(self) -> GenerateEvent:
        if self._over:
            raise StopAsyncIteration
        if self._stream is None:
            self._number, self._stream = self._engine.submit(self._request)
        try:
            event = await self._stream.next()
        except BaseException:
            await self.aclose()
            raise
        self._over = isinstance(event, Finished)
        return event

    async def aclose(self) -> None:
        """See api.Generation. Does not block, and is no checkpoint."""
        self._over = True
        if self._stream is not None:
            self._engine.cancel(self._number)

    def __del__(self) -> None:
        # Dropped without being closed. The collector may run anywhere, so trio is asked to do it when it can.
        if self._stream is not None and not self._over:
            with suppress(trio.RunFinishedError):
                self._trio_token.run_sync_soon(self._engine.cancel, self._number)
