"""What passes between the miner's machine and its engine."""

from dataclasses import dataclass

from protocol.core.ids import ModelDigest
from protocol.core.machine import NO_KEY, Key
from protocol.messages.logprobs import TokenLogProbs
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import EndReason, PromptMessage

GenerationKey = tuple[bytes, int, int]
"""(session, task, lane)."""


@dataclass(frozen=True, slots=True)
class Generate:
    """Render the messages, then generate; Rendered, Produced… and Generated or GenerationFailed come back."""

    generation: GenerationKey
    model: ModelDigest
    messages: tuple[PromptMessage, ...]
    sampling: SamplingParams
    lane_seed: bytes
    max_tokens: int
    """Of the whole lane, ``emitted`` included."""
    emitted: tuple[tuple[int, bytes], ...] = ()
    """Tokens and texts that earlier segments hold; generation goes on after them with the same noise."""
    tools: str = ""
    """As the prompt carries them."""
    key: Key = NO_KEY


EmbedName = tuple[bytes, int]
"""(generation of the lease, number)."""


@dataclass(frozen=True, slots=True)
class Embed:
    """Embed some texts; TextsEmbedded or EmbeddingFailed comes back."""

    name: EmbedName
    model: ModelDigest
    texts: tuple[str, ...]
    key: Key = NO_KEY


@dataclass(frozen=True, slots=True)
class TextsEmbedded:
    """The vectors, float32 each, little-endian, in the order of the texts."""

    name: EmbedName
    vectors: tuple[bytes, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class EmbeddingFailed:
    """There are none; ``code`` is one of the lifecycle's terminal codes."""

    name: EmbedName
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class CancelGeneration:
    """Stop a generation; nothing more of it comes back."""

    generation: GenerationKey
    key: Key = NO_KEY


@dataclass(frozen=True, slots=True)
class Rendered:
    """The prompt's token ids, before the first Produced."""

    generation: GenerationKey
    prompt_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Produced:
    """Tokens that are ready: ids and each one's share of the visible text."""

    generation: GenerationKey
    ids: tuple[int, ...]
    texts: tuple[bytes, ...]
    logprobs: tuple[TokenLogProbs, ...] = ()
    """One for each, if the order wants them."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The generation ended by itself."""

    generation: GenerationKey
    reason: EndReason
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class GenerationFailed:
    """The engine could not run it; ``code`` is one of the lifecycle's terminal codes."""

    generation: GenerationKey
    code: str
    detail: str
