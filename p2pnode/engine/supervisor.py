"""The engine as the node uses it: a worker process that is kept alive, and many requests over one channel.

Whatever was asked for and not answered is kept here. When a worker dies another takes its place and is told all of
it again, generations with the tokens that they have already brought forth: sampling depends on nothing else, so they
go on as if nothing had happened.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import msgspec
import trio

import p2pnode.engine.wire as wire
from p2pnode.engine.api import (
    ChatMessage,
    Embeddings,
    Engine,
    EngineConfig,
    EngineError,
    EngineStats,
    EngineUnavailable,
    GenerateRequest,
    ModelInfo,
    ModelLoadError,
    ScoredToken,
    Token,
    TokenLogProbs,
)
from p2pnode.engine.process import WorkerProcess, start_worker
from p2pnode.engine.requests import QueryInFlight, Stream, SupervisedGeneration

QUERY_TIMEOUT_S = 30.0
SCORE_TIMEOUT_S = 300.0
RESTART_WINDOW_S = 60.0
FRUITLESS_ATTEMPTS_MAX = 3
"""A generation during which the worker dies this often without a single new token is given up: it may be why."""

T = TypeVar("T")


@asynccontextmanager
async def open_engine(config: EngineConfig) -> AsyncIterator[Engine]:
    """Load a model in a process of its own. Raises ModelLoadError; errors of the block pass unwrapped."""
    engine = SupervisedEngine(config)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            nursery.start_soon(engine.supervise)
            await engine.loaded()
            yield engine
        except trio.Cancelled:
            raise
        except BaseException as error:
            # Out of the nursery first: it would wrap the error in a group.
            failure = error
        engine.close("the engine is closed")
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class SupervisedEngine:
    """An Engine over a worker process. ``worker`` is the present one, None while there is none."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._model: ModelInfo | None = None
        self._streams: dict[int, Stream] = {}
        self._queries: dict[int, QueryInFlight] = {}
        self._last_number = 0
        self._deaths: deque[float] = deque()
        self._restarts = 0
        self._load_error: EngineError | None = None
        self._tried = trio.Event()
        self._over: EngineUnavailable | None = None
        self._outbox: list[bytes] = []
        self._outbox_filled = trio.Event()
        self._trio_token = trio.lowlevel.current_trio_token()
        self.worker: WorkerProcess | None = None

    @property
    def model(self) -> ModelInfo:
        assert self._model is not None, "open_engine yields an engine only once its model is loaded"
        return self._model

    async def render(self, messages: Sequence[ChatMessage], tools: str = "") -> list[int]:
        turns = tuple(
            ChatMessage(*map(_encodable, (turn.role, turn.content, turn.calls, turn.call_id))) for turn in messages
        )
        return await self._query(lambda number: wire.Render(number, turns, _encodable(tools)), list[int])

    async def tokenize(self, text: str, *, add_bos: bool = True) -> list[int]:
        return await self._query(lambda number: wire.Tokenize(number, _encodable(text), add_bos), list[int])

    async def detokenize(self, tokens: Sequence[int]) -> bytes:
        return await self._query(lambda number: wire.Detokenize(number, tuple(tokens)), bytes)

    def generate(self, request: GenerateRequest) -> SupervisedGeneration:
        return SupervisedGeneration(self, request, self._trio_token)

    async def score(self, request: GenerateRequest, claimed: Sequence[int]) -> list[ScoredToken]:
        return await self._query(
            lambda number: wire.Score(number, request, tuple(claimed)), list[ScoredToken], SCORE_TIMEOUT_S
        )

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        asked = tuple(map(_encodable, texts))
        return await self._query(lambda number: wire.Embed(number, asked), Embeddings, SCORE_TIMEOUT_S)

    async def stats(self) -> EngineStats:
        stats = await self._query(wire.Stats, EngineStats)
        return replace(stats, worker_restarts=self._restarts)

    async def loaded(self) -> None:
        """Wait for the first load. Raises ModelLoadError."""
        await self._tried.wait()
        if self._load_error is not None:
            raise self._load_error

    async def supervise(self) -> None:
        """Keep a worker running until cancelled, out of restarts, or unable to load."""
        while True:
            async with start_worker(debug=self._config.debug) as worker:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(worker.keep_stderr)
                    nursery.start_soon(self._write, worker)
                    await self._read(worker)
                    nursery.cancel_scope.cancel()
                self.worker = None
            fate = await worker.fate()
            if self._model is None:
                self._load_error = self._load_error or ModelLoadError(
                    f"{self._config.model_path}: the worker {fate} while loading it; "
                    "the file is corrupt, or memory is short"
                )
                self._tried.set()
                return
            self._restarts += 1
            now = trio.current_time()
            self._deaths.append(now)
            while self._deaths[0] <= now - RESTART_WINDOW_S:
                self._deaths.popleft()
            if self._over is None and len(self._deaths) > self._config.restarts_per_minute_max:
                self.close(f"the engine's worker died {len(self._deaths)} times within a minute; at last it {fate}")
            if self._over is not None:
                return
            self._give_up_fruitless(fate)

    async def _read(self, worker: WorkerProcess) -> None:
        """Take in what the worker says until it is gone."""
        self._outbox = [wire.encode(wire.Load(self._config))]
        self._outbox_filled.set()
        while messages := await worker.receive():
            for message in messages:
                match message:
                    case wire.Progress(tokens):
                        self._take_tokens(tokens)
                    case wire.Done(number, finished):
                        if (stream := self._streams.pop(number, None)) is not None:
                            stream.end(finished)
                    case wire.Answer(number, value):
                        if (query := self._queries.pop(number, None)) is not None:
                            query.answer(value)
                    case wire.Loaded(model):
                        self._model, self.worker = model, worker
                        self._resubmit()
                        self._tried.set()
                    case wire.Failed(wire.LOAD):
                        self._fail_load(wire.error_of(message))
                    case wire.Failed(number):
                        self._fail(number, wire.error_of(message))

    async def _write(self, worker: WorkerProcess) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                await self._outbox_filled.wait()
                self._outbox_filled = trio.Event()
                data, self._outbox = b"".join(self._outbox), []
                await worker.send(data)

    def _send(self, message: wire.ToWorker) -> None:
        if self.worker is not None:
            self._outbox.append(wire.encode(message))
            self._outbox_filled.set()

    def _take_tokens(self, tokens: Sequence[tuple[int, int, bytes, TokenLogProbs | None]]) -> None:
        for number, token, text, logprobs in tokens:
            stream = self._streams.get(number)
            if stream is not None:
                stream.push(Token(token, text, logprobs))

    def _resubmit(self) -> None:
        """Tell a new worker all that is unanswered, in the order in which it was asked."""
        for number, stream in self._streams.items():
            self._send(wire.Generate(number, stream.continued()))
        for query in self._queries.values():
            self._send(query.message)

    def _give_up_fruitless(self, fate: str) -> None:
        for number, stream in list(self._streams.items()):
            stream.attempts += 1
            if stream.attempts >= FRUITLESS_ATTEMPTS_MAX:
                self._fail(number, EngineError(f"the worker {fate}, {stream.attempts} times during this generation"))

    def _fail_load(self, error: EngineError) -> None:
        self._load_error = error
        self.close(f"the engine's worker cannot be restarted: {error}")

    def _fail(self, number: int, error: EngineError) -> None:
        waiting = self._streams.pop(number, None) or self._queries.pop(number, None)
        if waiting is not None:
            waiting.fail(error)

    def close(self, why: str) -> None:
        """Refuse all that is asked from now on, and all that is unanswered."""
        if self._over is None:
            self._over = EngineUnavailable(why)
        for number in [*self._streams, *self._queries]:
            self._fail(number, EngineUnavailable(str(self._over)))

    def _next_number(self) -> int:
        if self._over is not None:
            raise EngineUnavailable(str(self._over))
        self._last_number += 1
        return self._last_number

    def submit(self, request: GenerateRequest) -> tuple[int, Stream]:
        """Start a generation. Raises EngineUnavailable."""
        number = self._next_number()
        stream = self._streams[number] = Stream(request)
        self._send(wire.Generate(number, request))
        return number, stream

    def cancel(self, number: int) -> None:
        """Stop a generation that nobody follows any more; one that has ended is fine."""
        if self._streams.pop(number, None) is not None:
            self._send(wire.Cancel(number))

    async def _query(self, message: Callable[[int], wire.Query], kind: type[T], timeout_s: float | None = None) -> T:
        timeout_s = QUERY_TIMEOUT_S if timeout_s is None else timeout_s
        number = self._next_number()
        query = self._queries[number] = QueryInFlight(message(number))
        self._send(query.message)
        try:
            with trio.fail_after(timeout_s):
                return msgspec.msgpack.decode(await query.wait(), type=kind)
        except trio.TooSlowError:
            raise EngineUnavailable(
                f"the engine did not answer within {timeout_s:.0f} s; its queue is long, or the machine overloaded"
            ) from None
        finally:
            if self._queries.pop(number, None) is not None and isinstance(query.message, wire.Score | wire.Embed):
                self._send(wire.Cancel(number))


def _encodable(text: str) -> str:
    """Lone surrogates, which JSON can carry and UTF-8 cannot, become question marks."""
    return text.encode(errors="replace").decode()
