"""What the node and its engine's worker say to each other: MessagePack arrays behind a four-byte length.

Both ends are ours and of one version, so this is a private format: no negotiation, but still strictly typed.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from p2pnode.engine.api import (
    ChatMessage,
    Embeddings,
    EngineBusy,
    EngineConfig,
    EngineError,
    EngineStats,
    EngineUnavailable,
    Finished,
    GenerateRequest,
    ModelInfo,
    ModelLoadError,
    PromptTooLong,
    SchemaRefused,
    ScoredToken,
    TokenLogProbs,
    ToolsRefused,
)

FailureKind = Literal[
    "failed", "model-load", "prompt-too-long", "schema-refused", "tools-refused", "busy", "unavailable"
]
LENGTH_BYTES = 4
FRAME_BYTES_MAX = 64 * 1_024 * 1_024
LOAD = 0
"""The number under which a failed load is reported; requests count from 1."""


class Load(Struct, frozen=True, array_like=True, tag="load"):
    """The first message to a worker, once."""

    config: EngineConfig


class Generate(Struct, frozen=True, array_like=True, tag="generate"):
    number: int
    request: GenerateRequest


class Cancel(Struct, frozen=True, array_like=True, tag="cancel"):
    number: int


class Score(Struct, frozen=True, array_like=True, tag="score"):
    number: int
    request: GenerateRequest
    claimed: tuple[int, ...]


class Render(Struct, frozen=True, array_like=True, tag="render"):
    number: int
    messages: tuple[ChatMessage, ...]
    tools: str


class Tokenize(Struct, frozen=True, array_like=True, tag="tokenize"):
    number: int
    text: str
    add_bos: bool


class Detokenize(Struct, frozen=True, array_like=True, tag="detokenize"):
    number: int
    tokens: tuple[int, ...]


class Embed(Struct, frozen=True, array_like=True, tag="embed"):
    number: int
    texts: tuple[str, ...]


class Stats(Struct, frozen=True, array_like=True, tag="stats"):
    number: int


Query = Score | Render | Tokenize | Detokenize | Embed | Stats
ToWorker = Load | Generate | Cancel | Query


class Loaded(Struct, frozen=True, array_like=True, tag="loaded"):
    """The model is ready."""

    model: ModelInfo


class Progress(Struct, frozen=True, array_like=True, tag="progress"):
    """The tokens of one step: (number, token id, text, log probabilities where asked for) each."""

    tokens: tuple[tuple[int, int, bytes, TokenLogProbs | None], ...]


class Done(Struct, frozen=True, array_like=True, tag="done"):
    """The end of a generation."""

    number: int
    finished: Finished


class Failed(Struct, frozen=True, array_like=True, tag="failed"):
    """A request, or the load, could not be carried out."""

    number: int
    kind: FailureKind
    message: str


class Answer(Struct, frozen=True, array_like=True, tag="answer"):
    """What a query asked for, encoded by itself."""

    number: int
    value: msgspec.Raw


FromWorker = Loaded | Progress | Done | Failed | Answer

_KINDS: dict[FailureKind, type[EngineError]] = {
    "model-load": ModelLoadError,
    "prompt-too-long": PromptTooLong,
    "schema-refused": SchemaRefused,
    "tools-refused": ToolsRefused,
    "busy": EngineBusy,
    "unavailable": EngineUnavailable,
    "failed": EngineError,
}

QueryValue = list[int] | bytes | list[ScoredToken] | Embeddings | EngineStats

# The hooks carry the one type that MessagePack does not know: a path.
_encoder = msgspec.msgpack.Encoder(enc_hook=str)
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(
    ToWorker, dec_hook=lambda kind, value: kind(value)
)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode(message: ToWorker | FromWorker) -> bytes:
    """A message with its length before it."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def encode_value(value: QueryValue) -> msgspec.Raw:
    """The value of an Answer."""
    return msgspec.Raw(_encoder.encode(value))


def failure(number: int, error: EngineError) -> Failed:
    """An error as it travels."""
    kind = next(kind for kind, known in _KINDS.items() if isinstance(error, known))
    return Failed(number, kind, str(error))


def error_of(failed: Failed) -> EngineError:
    """The error that travelled."""
    return _KINDS[failed.kind](failed.message)


class FrameBuffer:
    """Cuts a stream of bytes into message bodies."""

    def __init__(self) -> None:
        self._data = bytearray()

    def push(self, data: bytes) -> list[bytes]:
        """Add bytes; returns the bodies that are complete now."""
        self._data += data
        bodies = []
        start = 0
        while len(self._data) - start >= LENGTH_BYTES:
            size = int.from_bytes(self._data[start : start + LENGTH_BYTES], "big")
            if size > FRAME_BYTES_MAX:
                raise EngineError(f"a message of {size} bytes on the engine's channel: the other end is not ours")
            end = start + LENGTH_BYTES + size
            if len(self._data) < end:
                break
            bodies.append(bytes(self._data[start + LENGTH_BYTES : end]))
            start = end
        del self._data[:start]
        return bodies


def decode_to_worker(body: bytes) -> ToWorker:
    """What a worker received."""
    return _to_worker.decode(body)


def decode_from_worker(body: bytes) -> FromWorker:
    """What a worker sent."""
    return _from_worker.decode(body)
