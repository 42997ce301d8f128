"""What the rest of the program sees of inference: load, render, generate, score, embed, stats.

The llama.cpp engine behind it runs in a process of its own (``supervisor`` and ``worker``); a deterministic
fake for tests and benchmarks passes the same conformance suite.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from protocol.core.errors import P2PNodeError
from protocol.messages.sampling import SamplingParams

LOGPROB_MIN = -9_999.0
"""What an impossible token's log probability is said to be, as OpenAI says it."""
EMBED_TEXTS_MAX = 256
EMBED_CHARACTERS_MAX = 1_048_576
"""Of all texts of one call together."""
MICROBATCH_TOKENS = 32
"""n_ubatch: at 63 or less, prefill and generation agree bit for bit on one build (a protocol parameter)."""


class EngineError(P2PNodeError):
    """The engine could not do what was asked; the message says what and what to try."""

    code = "engine/failed"


class ModelLoadError(EngineError):
    """The file is missing, no GGUF, corrupt, or of an architecture this build cannot run."""

    code = "engine/model-load"


class PromptTooLong(EngineError):
    """Prompt and requested tokens exceed the context of a slot. The message names all three figures."""

    code = "engine/prompt-too-long"


class SchemaRefused(EngineError):
    """The sampling's JSON schema is no schema, uses what cannot be held to, or costs too much; the message says
    which."""

    code = "engine/schema-refused"


class ToolsRefused(EngineError):
    """Tools or their calls are no JSON lists of objects, or the model's chat template knows nothing of tools."""

    code = "engine/tools-refused"


class EngineBusy(EngineError):
    """No free slot and no room in the queue."""

    code = "engine/busy"


class EngineUnavailable(EngineError):
    """The worker died more often than it may, or the engine is closed."""

    code = "engine/unavailable"


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    """The end token, or a stop sequence."""
    LENGTH = "length"
    """The token limit."""
    CANCELLED = "cancelled"
    """For callers to report that they closed it: the engine itself ends only as above."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model says of itself."""

    architecture: str
    parameters: int
    quantization: str
    vocab_size: int
    context_train_tokens: int
    context_slot_tokens: int
    """How many tokens one slot can hold, prompt and answer together."""
    slots: int
    embedding_size: int
    has_chat_template: bool
    takes_tools: bool
    """Whether the chat template shows tools to the model; without it ``render`` refuses them."""
    build: str
    """llama.cpp build and CPU features: within one build tokens are reproducible bit for bit."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation, as the chat template takes it. A turn of role ``plain`` stands alone: a text to go
    on with, for which no template is filled."""

    role: str
    content: str
    calls: str = ""
    """The tools that the assistant called in this turn: a JSON list as chat templates take it (``tool_calls``; the
    arguments of each may be an object, or OpenAI's JSON text of one). Empty: none."""
    call_id: str = ""
    """Of the call that a turn of role ``tool`` answers; empty: not named."""


@dataclass(frozen=True, slots=True)
class LogProb:
    """How likely a token was: of the model's own distribution, at temperature 1, before penalties and any schema."""

    id: int
    piece: bytes
    """What the token says by itself, nothing of which waits for stop sequences; of an end token nothing."""
    logprob: float
    """Natural logarithm, at most 0, at least ``LOGPROB_MIN``."""


@dataclass(frozen=True, slots=True)
class TokenLogProbs:
    """What comes with a token where the sampling asks for log probabilities."""

    own: LogProb
    top: tuple[LogProb, ...]
    """The likeliest tokens, as many as were asked for, likeliest first, the lowest id on ties."""


@dataclass(frozen=True, slots=True)
class Token:
    """One released token. ``text`` is its share of the visible answer: bytes, possibly empty, possibly a part of
    a UTF-8 character; the concatenation over all tokens is the answer, without any stop sequence. Text that may
    begin a stop sequence waits and comes with a later token, so the end token's text is mostly, not always, empty."""

    id: int
    text: bytes
    logprobs: TokenLogProbs | None = None
    """None unless the sampling's ``logprobs`` asks for them; of tokens handed in as emitted nobody reads it."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One generation. A takeover or restart goes on by giving the tokens already emitted."""

    prompt: Sequence[int]
    """The rendered prompt's token ids, BOS included."""
    sampling: SamplingParams
    """Its ``schema`` and ``logprobs`` are obeyed here too."""
    lane_seed: bytes
    """32 bytes: with the position it fixes the noise of every token (protocol.session.sampling)."""
    max_tokens: int
    """Of the whole answer, ``emitted`` included."""
    emitted: Sequence[Token] = ()
    """Tokens of this answer that were released before, by whomever; generation goes on after them."""
    priority: int = field(default=0)
    """Larger first, when requests wait for a slot."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Some consecutive tokens; as many as were ready."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a generation: always the last item, exactly once."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    """Of the whole answer, ``emitted`` included; the end token counts."""
    cached_tokens: int
    """How much of the prompt was found in the cache."""


GenerateEvent = Tokens | Finished


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The embeddings of some texts, in their order."""

    vectors: tuple[bytes, ...]
    """Mean-pooled and of length one: ``embedding_size`` float32 each, little-endian."""
    tokens: int
    """Of all texts together, as the model reads them."""

    def floats(self) -> list[list[float]]:
        """The vectors as numbers."""
        return [list(struct.unpack(f"<{len(vector) // 4}f", vector)) for vector in self.vectors]


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """What teacher forcing says of one claimed token.

    ``margin`` is the best achievable value of temperature-scaled logit plus noise minus the claimed token's, in
    logits (times temperature): 0 when the sampler would have chosen the same token here; ``inf`` when the claimed
    token was outside the candidate set by more than the slack.
    """

    id: int
    margin: float
    logprob: float


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Live load, cheap to ask for."""

    slots_total: int
    slots_busy: int
    queued: int
    prompt_tokens_total: int
    generated_tokens_total: int
    cached_tokens_total: int
    decode_calls_total: int
    tokens_per_second: float
    """Of generation, over the last seconds."""
    kv_cells_used: int
    kv_cells_total: int
    worker_restarts: int
    memory_bytes: int
    """Resident memory of the worker process."""


class Generation(Protocol):
    """A running generation: an iterator over its events, the last of which is Finished.

    It starts with the first event asked for. Its slot is freed within one decode step when it is closed, when the
    task that awaits the next event is cancelled, and when it is dropped.
    """

    def __aiter__(self) -> "Generation": ...

    async def __anext__(self) -> GenerateEvent: ...

    async def aclose(self) -> None:
        """Stop generating; nothing happens if it has ended. ``contextlib.aclosing`` calls this."""


class Engine(Protocol):
    """One loaded model. Used inside ``async with``; every method may be called from many tasks at once."""

    @property
    def model(self) -> ModelInfo: ...

    async def render(self, messages: Sequence[ChatMessage], tools: str = "") -> list[int]:
        """The prompt's token ids by the model's chat template, ready for the assistant's turn; of a lone ``plain``
        turn those of its text, after the BOS that the model wants. ``tools``: the JSON list that chat templates
        take, or nothing.

        Raises ToolsRefused, or EngineError for what the template or the model refuses.
        """

    async def tokenize(self, text: str, *, add_bos: bool = True) -> list[int]:
        """The token ids of plain text; special tokens in it are not parsed."""

    async def detokenize(self, tokens: Sequence[int]) -> bytes:
        """The bytes of some tokens, special ones rendered as nothing."""

    def generate(self, request: GenerateRequest) -> Generation:
        """Generate. A worker that dies is restarted and the generation goes on from its next token, unseen by the
        caller.

        The first event may raise PromptTooLong, SchemaRefused, EngineBusy or EngineError (ids or texts that cannot
        be), any event EngineUnavailable, or SchemaRefused: a schema that turns out to cost too much, or that asks
        for what the model's tokens cannot write.
        """

    async def score(self, request: GenerateRequest, claimed: Sequence[int]) -> list[ScoredToken]:
        """Teacher-force ``claimed`` after the request's prompt and emitted tokens, under the request's noise and
        schema. Raises like generate."""

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """The embeddings of 1 to ``EMBED_TEXTS_MAX`` texts. Streams that run go on meanwhile.

        Raises PromptTooLong (a text of more tokens than a slot holds), EngineBusy, or EngineError (no text, an empty
        one, or too much of it).
        """

    async def stats(self) -> EngineStats: ...


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How to run a model. Threads above the free cores make llama.cpp collapse: leave one for the node."""

    model_path: Path
    slots: int = 4
    context_slot_tokens: int = 0
    """0: the model's own training context, at most 4,096."""
    threads: int = 0
    """0: half of the cores, at least one."""
    queue_max: int = 64
    gpu_layers: int = 0
    restarts_per_minute_max: int = 5
    microbatch_tokens: int = MICROBATCH_TOKENS
    """Another value than the protocol's is for measurements only: audits would find margins that are not 0."""
    debug: bool = False
    """Pass llama.cpp's log on to this process's stderr."""
