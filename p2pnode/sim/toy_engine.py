"""A miner's engine in a world: the toy model's tokens at a pace of its own, on virtual time.

It stands where ``p2pnode.generation`` and an engine stand in a node: it executes Generate and CancelGeneration and
reports what they bring forth.
"""

import hashlib
import math
import struct
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from p2pnode.engine.toy import END, answer, piece, rendered
from p2pnode.sim.host import Boot, Dispatch, Perform
from protocol.messages.tasks import EndReason
from protocol.roles.miner import (
    CancelGeneration,
    Embed,
    Generate,
    Generated,
    GenerationFailed,
    GenerationKey,
    Produced,
    Rendered,
    TextsEmbedded,
)

QUEUE_MAX = 64


@dataclass(frozen=True, slots=True)
class Pace:
    """How an engine behaves; indices are of tokens in an answer."""

    slots: int
    first_token_us: int
    token_us: int
    """0: all tokens at once."""
    context_tokens: int = 4_096
    stall_at: int | None = None
    """It never brings forth this token, nor any after it."""
    fail_at: int | None = None
    """It fails instead of this token."""
    mended_ms: int = 0
    """In the world's time: from then on it neither stalls nor fails."""


def whole_answer(effect: Generate) -> list[int]:
    """The answer to an order, as an engine that nothing happens to gives it, whoever runs it."""
    prompt = rendered(effect.messages)
    return answer(prompt, effect.lane_seed, effect.max_tokens)


def vector_of(text: str) -> bytes:
    """What a text is embedded as: eight floats of its hash."""
    digest = hashlib.sha256(text.encode()).digest()[:8]
    length = math.sqrt(sum(byte * byte for byte in digest)) or 1.0
    return struct.pack("<8f", *(byte / length for byte in digest))


class ToyEngine:
    """The engine of one life of a miner."""

    def __init__(self, pace: Pace, boot: Boot, dispatch: Dispatch) -> None:
        self._pace = pace
        self._later: Callable[[int, Callable[[], None]], None] = boot.later
        self._elapsed_ms = boot.elapsed_ms
        self._dispatch = dispatch
        self._running: dict[GenerationKey, Generate] = {}
        self._waiting: deque[Generate] = deque()

    def performers(self) -> Mapping[type, Perform]:
        """What it executes."""
        return {Generate: self._start, CancelGeneration: self._cancel, Embed: self._embed}

    def _embed(self, effect: object) -> None:
        assert isinstance(effect, Embed)
        vectors = tuple(map(vector_of, effect.texts))
        self._report(TextsEmbedded(effect.name, vectors, sum(1 + len(text.encode()) for text in effect.texts)))

    def _start(self, effect: object) -> None:
        assert isinstance(effect, Generate)
        if len(self._running) < self._pace.slots:
            self._run(effect)
        elif len(self._waiting) < QUEUE_MAX:
            self._waiting.append(effect)
        else:
            self._report(GenerationFailed(effect.generation, "no_capacity", "too many wait"))

    def _cancel(self, effect: object) -> None:
        assert isinstance(effect, CancelGeneration)
        self._waiting = deque(item for item in self._waiting if item.generation != effect.generation)
        if self._running.pop(effect.generation, None) is not None:
            self._next()

    def _next(self) -> None:
        if self._waiting and len(self._running) < self._pace.slots:
            self._run(self._waiting.popleft())

    def _run(self, effect: Generate) -> None:
        prompt = rendered(effect.messages)
        if len(prompt) + effect.max_tokens > self._pace.context_tokens:
            self._report(GenerationFailed(effect.generation, "prompt_too_long", "it does not fit"))
            return
        self._running[effect.generation] = effect
        ids, start = whole_answer(effect), len(effect.emitted)
        begin = Rendered(effect.generation, tuple(prompt))
        over = start >= len(ids) or [token for token, _ in effect.emitted][-1:] == [END]
        wait_us = 0 if over else self._pace.first_token_us
        self._later(wait_us, partial(self._step, effect, ids, start, begin))

    def _step(self, effect: Generate, ids: list[int], index: int, begin: Rendered | None) -> None:
        """The next token is due, or, at no pace at all, every one that is left."""
        key, pace = effect.generation, self._pace
        if self._running.get(key) is not effect:
            return
        troubled = self._elapsed_ms() < pace.mended_ms
        limits = [limit for limit in (pace.stall_at, pace.fail_at) if troubled and limit is not None]
        until = min([len(ids), *limits] if not pace.token_us else [len(ids), index + 1, *limits])
        if index >= until and index < len(ids):
            if pace.fail_at is not None and index >= pace.fail_at:
                self._end(key, GenerationFailed(key, "engine_failed", "told to fail here"))
            return
        if begin is not None:
            self._dispatch(begin)
        taken = tuple(ids[index:until])
        if taken:
            self._dispatch(Produced(key, taken, tuple(map(piece, taken))))
        if until >= len(ids):
            reason = EndReason.STOP if ids[-1] == END else EndReason.LENGTH
            self._end(key, Generated(key, reason, 0))
        elif self._running.get(key) is effect:
            self._later(pace.token_us, partial(self._step, effect, ids, until, None))

    def _end(self, key: GenerationKey, event: Generated | GenerationFailed) -> None:
        if self._running.pop(key, None) is not None:
            self._dispatch(event)
            self._next()

    def _report(self, event: object) -> None:
        # Never within the effect itself: the machine is not done with what it asked for.
        self._later(0, partial(self._dispatch, event))
