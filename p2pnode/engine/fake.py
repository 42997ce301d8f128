"""An engine without a model: every token is the toy model's, every delay is trio's clock.

For tests and benchmarks: on a MockClock hours pass in milliseconds. It passes the conformance suite of the real one.
"""

import hashlib
import heapq
import math
import struct
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from p2pnode.engine.api import (
    ChatMessage,
    Embeddings,
    EngineBusy,
    EngineError,
    EngineStats,
    EngineUnavailable,
    Finished,
    FinishReason,
    GenerateEvent,
    GenerateRequest,
    LogProb,
    ModelInfo,
    PromptTooLong,
    SchemaRefused,
    ScoredToken,
    Token,
    TokenLogProbs,
    Tokens,
    ToolsRefused,
)
from p2pnode.engine.chat import PLAIN, ROLES
from p2pnode.engine.embedding import check_texts
from p2pnode.engine.stops import StopScanner
from p2pnode.engine.tools import read_tools, read_turns
from p2pnode.engine.toy import BOS, END, FIRST_WORD, WORDS, piece, rendered, token_at
from p2pnode.engine.toy_grammar import read_grammar, shortest
from protocol.session.schema import grammar_of
from protocol.session.schema_strings import SchemaError

PROMPTS_KEPT = 16
SCHEMAS_KEPT = 16
EMBEDDING_SIZE = 32
LOGPROB = -0.125
"""Of the token drawn; each next likeliest has one less."""


@dataclass(frozen=True, slots=True)
class FakeConfig:
    """How the fake behaves. Times in seconds of trio's clock; indices are of tokens in an answer."""

    slots: int = 4
    context_slot_tokens: int = 4_096
    queue_max: int = 64
    first_token_s: float = 0.0
    token_s: float = 0.0
    answer_tokens: int | None = None
    """How long every answer is, its end token included; None: by the hash, 8 to 71."""
    fail_at: int | None = None
    """Generations raise EngineUnavailable instead of this token."""
    takes_tools: bool = True
    stall_at: int | None = None
    """Generations never bring forth this token, nor any after it."""


@asynccontextmanager
async def open_fake_engine(config: FakeConfig | None = None) -> AsyncIterator["FakeEngine"]:
    """The fake in the place of open_engine."""
    yield FakeEngine(config or FakeConfig())


@dataclass(slots=True)
class _Counters:
    prompt: int = 0
    generated: int = 0
    cached: int = 0


@dataclass(order=True, slots=True)
class _Waiting:
    order: tuple[int, int]
    turn: trio.Event = field(compare=False, default_factory=trio.Event)
    gone: bool = field(compare=False, default=False)


class FakeEngine:
    """An api.Engine. Knobs are in its config."""

    def __init__(self, config: FakeConfig) -> None:
        self.config = config
        self.counters = _Counters()
        self._busy = 0
        self._queue: list[_Waiting] = []
        self._arrivals = 0
        self._schemas: dict[str, bytes] = {}
        self._prompts: deque[tuple[int, ...]] = deque(maxlen=PROMPTS_KEPT)

    @property
    def model(self) -> ModelInfo:
        return ModelInfo(
            architecture="fake",
            parameters=0,
            quantization="none",
            vocab_size=FIRST_WORD + len(WORDS),
            context_train_tokens=self.config.context_slot_tokens,
            context_slot_tokens=self.config.context_slot_tokens,
            slots=self.config.slots,
            embedding_size=EMBEDDING_SIZE,
            has_chat_template=True,
            takes_tools=self.config.takes_tools,
            build="fake",
        )

    async def render(self, messages: Sequence[ChatMessage], tools: str = "") -> list[int]:
        await trio.lowlevel.checkpoint()
        if not messages:
            raise EngineError("a conversation needs at least one message")
        if any(message.role == PLAIN for message in messages):
            if len(messages) > 1 or tools or messages[0].calls or messages[0].call_id:
                raise EngineError("a plain text stands alone: no other message, no tools")
            return rendered(messages)
        for message in messages:
            if message.role not in ROLES:
                raise EngineError(f"role {message.role!r} is none of {', '.join(ROLES)}")
        calls = read_turns(messages)
        if tools:
            read_tools(tools)
        if (tools or any(calls)) and not self.config.takes_tools:
            raise ToolsRefused("the fake was told to know nothing of tools")
        return rendered(messages, tools)

    async def tokenize(self, text: str, *, add_bos: bool = True) -> list[int]:
        await trio.lowlevel.checkpoint()
        return [*([BOS] if add_bos else []), *text.encode(errors="replace")]

    async def detokenize(self, tokens: Sequence[int]) -> bytes:
        await trio.lowlevel.checkpoint()
        self._check_ids(tokens)
        return b"".join(map(piece, tokens))

    def generate(self, request: GenerateRequest) -> "FakeGeneration":
        return FakeGeneration(self, request)

    async def score(self, request: GenerateRequest, claimed: Sequence[int]) -> list[ScoredToken]:
        await trio.lowlevel.checkpoint()
        self.check(request, len(request.emitted) + len(claimed))
        self._check_ids(claimed)
        first = len(request.emitted)
        fits = [token == self.token_at(request, first + at) for at, token in enumerate(claimed)]
        if request.sampling.schema:
            # Of a text that no longer holds to the schema no token is right.
            right = fits.index(False) if False in fits else len(fits)
            fits = [self.holds(request) and at < right for at in range(len(fits))]
        return [ScoredToken(token, 0.0 if fit else math.inf, LOGPROB) for token, fit in zip(claimed, fits, strict=True)]

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        await trio.lowlevel.checkpoint()
        check_texts(texts)
        raw = [text.encode(errors="replace") for text in texts]
        longest = 1 + max(map(len, raw))
        if longest > self.config.context_slot_tokens:
            raise PromptTooLong(
                f"a text of {longest} tokens does not fit into the context of {self.config.context_slot_tokens}: "
                "embed it in parts"
            )
        return Embeddings(tuple(map(_vector, raw)), sum(map(len, raw)) + len(raw))

    async def stats(self) -> EngineStats:
        await trio.lowlevel.checkpoint()
        return EngineStats(
            slots_total=self.config.slots,
            slots_busy=self._busy,
            queued=self.queued,
            prompt_tokens_total=self.counters.prompt,
            generated_tokens_total=self.counters.generated,
            cached_tokens_total=self.counters.cached,
            decode_calls_total=self.counters.generated,
            tokens_per_second=0.0,
            kv_cells_used=0,
            kv_cells_total=self.config.slots * self.config.context_slot_tokens,
            worker_restarts=0,
            memory_bytes=0,
        )

    def token_at(self, request: GenerateRequest, index: int) -> int:
        """The token of this request's answer at an index; with a schema the answer is the shortest that holds to it."""
        if request.sampling.schema:
            answer = self._shortest(request.sampling.schema)
            return answer[index] if index < len(answer) else END
        return token_at(request.prompt, request.lane_seed, index, self.config.answer_tokens)

    def holds(self, request: GenerateRequest) -> bool:
        """Whether the emitted tokens are what the schema permits, if there is one."""
        schema = request.sampling.schema
        return not schema or all(token.id == self.token_at(request, at) for at, token in enumerate(request.emitted))

    def _shortest(self, schema: str) -> bytes:
        if schema not in self._schemas:
            try:
                text = shortest(read_grammar(grammar_of(schema)))
            except SchemaError as error:
                raise SchemaRefused(str(error)) from error
            if text is None:
                raise SchemaRefused("every text that holds to the schema would be endless")
            while len(self._schemas) >= SCHEMAS_KEPT:
                del self._schemas[next(iter(self._schemas))]
            self._schemas[schema] = text.encode()
        return self._schemas[schema]

    def check(self, request: GenerateRequest, answer_tokens: int) -> None:
        """Raises what the real engine would."""
        if not request.prompt:
            raise EngineError("the prompt has no tokens: not even a BOS to begin with")
        self._check_ids(request.prompt)
        self._check_ids([token.id for token in request.emitted])
        if request.sampling.schema:
            self._shortest(request.sampling.schema)
        context = self.config.context_slot_tokens
        if len(request.prompt) + answer_tokens > context:
            raise PromptTooLong(
                f"a prompt of {len(request.prompt)} tokens and an answer of up to {answer_tokens} do not fit into "
                f"the context of {context}: shorten the prompt or ask for fewer tokens"
            )

    def _check_ids(self, tokens: Sequence[int]) -> None:
        if any(not 0 <= token < self.model.vocab_size for token in tokens):
            raise EngineError(f"token ids are 0 to {self.model.vocab_size - 1}")

    @property
    def queued(self) -> int:
        return sum(not waiting.gone for waiting in self._queue)

    async def acquire_slot(self, priority: int) -> None:
        """Wait for a slot. Raises EngineBusy if too many wait."""
        if self._busy < self.config.slots:
            self._busy += 1
            return
        if self.queued >= self.config.queue_max:
            raise EngineBusy(f"all {self.config.slots} slots work and {self.queued} requests wait; try again later")
        self._arrivals += 1
        waiting = _Waiting((-priority, self._arrivals))
        heapq.heappush(self._queue, waiting)
        try:
            await waiting.turn.wait()
        except trio.Cancelled:
            waiting.gone = True
            if waiting.turn.is_set():
                self.release_slot()
            raise

    def release_slot(self) -> None:
        """Free a slot, or pass it on to who waits first."""
        while self._queue:
            waiting = heapq.heappop(self._queue)
            if not waiting.gone:
                waiting.turn.set()
                return
        self._busy -= 1

    def remember_prompt(self, prompt: Sequence[int]) -> int:
        """How much of it an earlier prompt began with."""
        known = tuple(prompt)
        cached = max((_common_prefix(known, other) for other in self._prompts), default=0)
        self._prompts.append(known)
        cached = min(cached, len(known) - 1)
        self.counters.cached += cached
        self.counters.prompt += len(known) - cached
        return cached


def _log_probs(token: int, top: int) -> TokenLogProbs:
    likely = (token, *(other for other in range(top) if other != token))[:top]
    ranked = tuple(LogProb(each, piece(each), LOGPROB - place) for place, each in enumerate(likely))
    return TokenLogProbs(LogProb(token, piece(token), LOGPROB), ranked)


def _vector(text: bytes) -> bytes:
    values = [byte - 127.5 for byte in hashlib.sha256(text).digest()]
    length = math.hypot(*values)
    return struct.pack(f"<{EMBEDDING_SIZE}f", *(value / length for value in values))


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    size = min(len(one), len(other))
    return next((at for at in range(size) if one[at] != other[at]), size)


class FakeGeneration:
    """An api.Generation. Tokens come due by the clock, whether or not anyone takes them: those that are ready
    come together."""

    def __init__(self, engine: FakeEngine, request: GenerateRequest) -> None:
        self._engine = engine
        self._request = request
        self._has_slot = False
        self._over = False
        self._cached = 0
        self._first_due = 0.0
        self._start = self._index = len(request.emitted)
        self._scanner = StopScanner(request.sampling.stop)
        self._reason: FinishReason | None = None

    def __aiter__(self) -> "FakeGeneration":
        return self

    async def __anext__(self) -> GenerateEvent:
        if self._over:
            raise StopAsyncIteration
        try:
            return await self._next()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """See api.Generation."""
        self._over = True
        if self._has_slot:
            self._has_slot = False
            self._engine.release_slot()

    def __del__(self) -> None:
        if self._has_slot:
            self._engine.release_slot()

    async def _next(self) -> GenerateEvent:
        if not self._has_slot and self._reason is None:
            await self._begin()
        if self._reason is not None:
            await trio.lowlevel.checkpoint()
            await self.aclose()
            return Finished(self._reason, len(self._request.prompt), self._index, self._cached)
        config = self._engine.config
        if config.stall_at is not None and self._index >= config.stall_at:
            await trio.sleep_forever()
        await trio.sleep_until(self._due(self._index))
        now = trio.current_time()
        tokens: list[Token] = []
        while self._reason is None and self._due(self._index) <= now:
            if config.fail_at is not None and self._index >= config.fail_at:
                if tokens:
                    break
                raise EngineUnavailable(f"the fake was told to fail at token {config.fail_at}")
            if config.stall_at is not None and self._index >= config.stall_at:
                break
            tokens.append(self._draw())
        return Tokens(tuple(tokens))

    async def _begin(self) -> None:
        request, engine = self._request, self._engine
        engine.check(request, request.max_tokens)
        ids = [token.id for token in request.emitted]
        said = b"".join(map(piece, ids))
        shown = b"".join(token.text for token in request.emitted)
        if not said.startswith(shown):
            raise EngineError("the texts of the emitted tokens are not what these tokens say")
        if not engine.holds(request):
            raise SchemaRefused("the tokens so far are not what the schema permits")
        self._scanner.held = said[len(shown) :]
        if ids[-1:] == [END] or any(stop in self._scanner.held for stop in request.sampling.stop):
            self._reason = FinishReason.STOP
        elif len(ids) >= request.max_tokens:
            self._reason = FinishReason.LENGTH
        else:
            await engine.acquire_slot(request.priority)
            self._has_slot = True
            self._cached = engine.remember_prompt(request.prompt)
            self._first_due = trio.current_time() + engine.config.first_token_s

    def _due(self, index: int) -> float:
        return self._first_due + (index - self._start) * self._engine.config.token_s

    def _draw(self) -> Token:
        token = self._engine.token_at(self._request, self._index)
        self._index += 1
        self._engine.counters.generated += 1
        full = self._index >= self._request.max_tokens
        text, stopped = self._scanner.push(piece(token), last=full or token == END)
        if stopped or token == END:
            self._reason = FinishReason.STOP
        elif full:
            self._reason = FinishReason.LENGTH
        asked = self._request.sampling.logprobs
        return Token(token, text, _log_probs(token, asked - 1) if asked else None)
