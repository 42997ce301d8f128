"""Embeddings beside generations: one micro-batch at a time, so that no text holds up the streams that run."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from p2pnode.engine.api import (
    EMBED_CHARACTERS_MAX,
    EMBED_TEXTS_MAX,
    Embeddings,
    EngineBusy,
    EngineError,
    PromptTooLong,
)


class EmbeddingModel(Protocol):
    """What embedding needs of a model; ``Llama`` is one."""

    context_tokens: int
    embedding_size: int
    microbatch_tokens: int

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def hidden_sum(self, tokens: Sequence[int], start: int) -> NDArray[np.float64]: ...


@dataclass(slots=True)
class _Job:
    number: int
    waiting: deque[list[int]]
    tokens: int
    vectors: list[bytes] = field(default_factory=list)


class Embedder:
    """Answers embedding requests, several in turn, a text each. ``queue_max``: requests at once."""

    def __init__(self, model: EmbeddingModel, *, queue_max: int) -> None:
        self._model = model
        self._queue_max = queue_max
        self._jobs: deque[_Job] = deque()
        self._done = 0
        """Tokens of the present text: the first of the first job."""
        self._total = np.zeros(model.embedding_size)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._jobs

    def submit(self, number: int, texts: Sequence[str]) -> None:
        """Queue a request. Raises EngineBusy, PromptTooLong, EngineError."""
        check_texts(texts)
        if len(self._jobs) >= self._queue_max:
            raise EngineBusy(f"{len(self._jobs)} requests for embeddings wait already; try again later")
        tokens = [self._model.tokenize(text, add_special=True, parse_special=False) for text in texts]
        longest = max(map(len, tokens))
        if longest > self._model.context_tokens:
            raise PromptTooLong(
                f"a text of {longest} tokens does not fit into the context of {self._model.context_tokens}: "
                "embed it in parts"
            )
        if not all(tokens):
            raise EngineError("an empty text has no embedding")
        self._jobs.append(_Job(number, deque(tokens), sum(map(len, tokens))))

    def cancel(self, number: int) -> None:
        """Forget a request; one that is unknown is fine."""
        if self._jobs and self._jobs[0].number == number:
            self._begin()
        self._jobs = deque(job for job in self._jobs if job.number != number)

    def step(self) -> list[tuple[int, Embeddings]]:
        """Do one micro-batch; returns the request that it completed, if any. Raises EngineError if the model fails."""
        if not self._jobs:
            return []
        job = self._jobs[0]
        text = job.waiting[0]
        part = text[self._done : self._done + self._model.microbatch_tokens]
        self._total += self._model.hidden_sum(part, self._done)
        self._done += len(part)
        if self._done < len(text):
            return []
        length = float(np.linalg.norm(self._total))
        job.vectors.append((self._total / (length or 1.0)).astype("<f4").tobytes())
        job.waiting.popleft()
        self._begin()
        self._jobs.popleft()
        if job.waiting:
            self._jobs.append(job)
            return []
        return [(job.number, Embeddings(tuple(job.vectors), job.tokens))]

    def _begin(self) -> None:
        self._done = 0
        self._total[:] = 0.0


def check_texts(texts: Sequence[str]) -> None:
    """Raises EngineError for what no engine embeds, whatever its model."""
    if not 0 < len(texts) <= EMBED_TEXTS_MAX:
        raise EngineError(f"1 to {EMBED_TEXTS_MAX} texts can be embedded at once, not {len(texts)}")
    if not all(texts):
        raise EngineError("an empty text has no embedding")
    if (size := sum(map(len, texts))) > EMBED_CHARACTERS_MAX:
        raise EngineError(f"{size} characters are more than the {EMBED_CHARACTERS_MAX} that can be embedded at once")
