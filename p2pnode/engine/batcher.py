"""Continuous batching: many requests, one model, one step at a time.

A step admits waiting requests to free slots, draws one token for every running stream, and feeds prompts as far as
its budget goes. Calls into the model are single micro-batches, so a token never depends on who else is served.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from p2pnode.engine.api import EngineError, Finished, FinishReason, GenerateRequest, PromptTooLong, ScoredToken
from p2pnode.engine.rate import RateMeter
from p2pnode.engine.slots import IDLE_FEED_MICROBATCHES, Job, Slot, SlotTable
from p2pnode.engine.stops import StopScanner
from protocol.session.sampling import Draw, choose_many, margin


class Model(Protocol):
    """What batching needs of a model; ``Llama`` is one."""

    slots: int
    context_tokens: int
    vocab_size: int
    microbatch_tokens: int
    end_tokens: frozenset[int]

    def decode(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        slots: NDArray[np.int32],
        wanted: NDArray[np.bool_],
    ) -> NDArray[np.float32]: ...

    def forget(self, slot: int, start: int) -> None: ...

    def copy(self, source: int, target: int, length: int) -> None: ...

    def piece(self, token: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token of a generation."""

    number: int
    token: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a generation."""

    number: int
    finished: Finished


@dataclass(frozen=True, slots=True)
class Scored:
    """The answer to a score request."""

    number: int
    tokens: tuple[ScoredToken, ...]


Outcome = Drawn | Ended | Scored


@dataclass(slots=True)
class _Generation:
    request: GenerateRequest
    scanner: StopScanner
    count: int
    """Tokens of the answer so far."""


@dataclass(slots=True)
class _Scoring:
    request: GenerateRequest
    claimed: tuple[int, ...]
    scores: list[ScoredToken] = field(default_factory=list)


@dataclass(slots=True)
class Totals:
    """Counters since the start."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    decode_calls: int = 0


class Batcher:
    """Serves requests over the slots of one model. ``clock`` gives seconds, for the rate of generation only."""

    def __init__(self, model: Model, *, queue_max: int, clock: Callable[[], float]) -> None:
        self._model = model
        self.table = SlotTable(model.slots, model.context_tokens, queue_max)
        self.totals = Totals()
        self.rate = RateMeter(clock)
        self._work: dict[int, _Generation | _Scoring] = {}
        self._steps = np.arange(max(model.microbatch_tokens, model.context_tokens) + 1, dtype=np.int32)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return self.table.idle

    def generate(self, number: int, request: GenerateRequest) -> list[Outcome]:
        """Queue a generation; what is over before it begins ends here.

        Raises EngineBusy, PromptTooLong, EngineError.
        """
        prompt, emitted = len(request.prompt), [token.id for token in request.emitted]
        self._check(request, request.max_tokens)
        held = self._held_text(request)
        reason = None
        if (emitted and emitted[-1] in self._model.end_tokens) or any(stop in held for stop in request.sampling.stop):
            reason = FinishReason.STOP
        elif len(emitted) >= request.max_tokens:
            reason = FinishReason.LENGTH
        if reason is not None:
            return [Ended(number, Finished(reason, prompt, len(emitted), 0))]
        feed = np.array([*request.prompt, *emitted], dtype=np.int32)
        self.table.submit(Job(number, feed, len(feed) - 1, request.priority))
        scanner = StopScanner(request.sampling.stop, held)
        self._work[number] = _Generation(request, scanner, len(emitted))
        return []

    def score(self, number: int, request: GenerateRequest, claimed: Sequence[int]) -> list[Outcome]:
        """Queue a teacher-forced run over ``claimed``. Raises like generate."""
        emitted = [token.id for token in request.emitted]
        self._check(request, len(emitted) + len(claimed))
        self.check_ids(claimed)
        if not claimed:
            return [Scored(number, ())]
        feed = np.array([*request.prompt, *emitted, *claimed[:-1]], dtype=np.int32)
        want_from = len(request.prompt) + len(emitted) - 1
        self.table.submit(Job(number, feed, want_from, request.priority))
        self._work[number] = _Scoring(request, tuple(claimed))
        return []

    def cancel(self, number: int) -> None:
        """Forget a request; its slot is free at once."""
        if self.table.cancel(number):
            del self._work[number]

    def step(self) -> list[Outcome]:
        """Do one step's worth of work. Raises EngineError if the model fails."""
        for admission in self.table.admit():
            if admission.source is not None:
                self._model.copy(admission.source.index, admission.slot.index, admission.cached)
            self._model.forget(admission.slot.index, admission.cached)
            self.totals.cached_tokens += admission.cached
        outcomes: list[Outcome] = []
        generated = self.totals.generated_tokens
        runs = self.table.generating_runs()
        for run in runs:
            for start in range(0, len(run), self._model.microbatch_tokens):
                self._advance(run[start : start + self._model.microbatch_tokens], outcomes)
        self._feed_prompts(1 if runs else IDLE_FEED_MICROBATCHES, outcomes)
        if self.totals.generated_tokens != generated:
            self.rate.add(self.totals.generated_tokens - generated)
        return outcomes

    def _advance(self, run: Sequence[Slot], outcomes: list[Outcome]) -> None:
        """One more token for each slot of a run that generates; the others are padding."""
        drawing = [slot for slot in run if slot.generating]
        wanted = np.array([slot.generating for slot in run])
        tokens = np.array([slot.next_token for slot in run], dtype=np.int32)
        positions = np.array([slot.length for slot in run], dtype=np.int32)
        first = run[0].index
        logits = self._decode(tokens, positions, self._steps[first : first + len(run)], wanted)
        for slot in run:
            if slot.generating:
                slot.cells[slot.length] = slot.next_token
                slot.length += 1
            else:
                self._model.forget(slot.index, slot.length)
        self._draw(drawing, logits, outcomes)

    def _feed_prompts(self, microbatches: int, outcomes: list[Outcome]) -> None:
        for _ in range(microbatches):
            slot = self.table.next_feeding()
            if slot is None or slot.job is None:
                return
            job, start = slot.job, slot.length
            stop = min(start + self._model.microbatch_tokens, len(job.feed))
            positions = self._steps[start:stop]
            owner = np.full(stop - start, slot.index, dtype=np.int32)
            logits = self._decode(job.feed[start:stop], positions, owner, positions >= job.want_from)
            self.totals.prompt_tokens += stop - start
            slot.extend(job.feed[start:stop])
            work = self._work[job.number]
            if isinstance(work, _Scoring):
                self._score(slot, job, work, logits, outcomes)
            elif stop == len(job.feed):
                self._draw([slot], logits, outcomes)
            if stop == len(job.feed):
                return

    def _decode(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        slots: NDArray[np.int32],
        wanted: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        self.totals.decode_calls += 1
        return self._model.decode(tokens, positions, slots, wanted)

    def _draw(self, run: Sequence[Slot], logits: NDArray[np.float32], outcomes: list[Outcome]) -> None:
        works = [self._generation(slot) for slot in run]
        draws = [
            Draw(work.request.sampling, work.request.lane_seed, work.count, slot.cells[: slot.length])
            for slot, work in zip(run, works, strict=True)
        ]
        for slot, work, token in zip(run, works, choose_many(logits, draws), strict=True):
            self._release(slot, work, token, outcomes)
        self.totals.generated_tokens += len(run)

    def _generation(self, slot: Slot) -> _Generation:
        assert slot.job is not None
        work = self._work[slot.job.number]
        assert isinstance(work, _Generation)
        return work

    def _release(self, slot: Slot, work: _Generation, token: int, outcomes: list[Outcome]) -> None:
        """Hand out a drawn token, and end the generation if it is the last."""
        assert slot.job is not None
        number = slot.job.number
        work.count += 1
        ends = token in self._model.end_tokens
        full = work.count >= work.request.max_tokens
        text, stopped = work.scanner.push(b"" if ends else self._model.piece(token), last=ends or full)
        outcomes.append(Drawn(number, token, text))
        slot.next_token = token
        if ends or stopped or full:
            reason = FinishReason.STOP if ends or stopped else FinishReason.LENGTH
            prompt_tokens = len(work.request.prompt)
            cached = min(slot.cached, prompt_tokens)
            outcomes.append(Ended(number, Finished(reason, prompt_tokens, work.count, cached)))
            self._end(slot, number)

    def _score(
        self, slot: Slot, job: Job, work: _Scoring, logits: NDArray[np.float32], outcomes: list[Outcome]
    ) -> None:
        first = slot.length - len(logits)
        for row, index in enumerate(range(first, slot.length)):
            token = work.claimed[index - job.want_from]
            position = len(work.request.emitted) + index - job.want_from
            draw = Draw(work.request.sampling, work.request.lane_seed, position, job.feed[: index + 1])
            distance = margin(logits[row], draw, token)
            work.scores.append(ScoredToken(token, distance, _log_probability(logits[row], token)))
        if slot.length == len(job.feed):
            outcomes.append(Scored(job.number, tuple(work.scores)))
            self._end(slot, job.number)

    def _end(self, slot: Slot, number: int) -> None:
        del self._work[number]
        self.table.release(slot)

    def _check(self, request: GenerateRequest, answer_tokens: int) -> None:
        if not request.prompt:
            raise EngineError("the prompt has no tokens: not even a BOS to begin with")
        self.check_ids(request.prompt)
        self.check_ids([token.id for token in request.emitted])
        if len(request.prompt) + answer_tokens > self._model.context_tokens:
            raise PromptTooLong(
                f"a prompt of {len(request.prompt)} tokens and an answer of up to {answer_tokens} do not fit into "
                f"the context of {self._model.context_tokens}: shorten the prompt or ask for fewer tokens"
            )

    def check_ids(self, tokens: Sequence[int]) -> None:
        """Raises EngineError for what is no token of this model."""
        if tokens and not (min(tokens) >= 0 and max(tokens) < self._model.vocab_size):
            raise EngineError(f"token ids are 0 to {self._model.vocab_size - 1}, not {min(tokens)} to {max(tokens)}")

    def _held_text(self, request: GenerateRequest) -> bytes:
        """What the emitted tokens say beyond what was shown of them."""
        ends = self._model.end_tokens
        said = b"".join(b"" if token.id in ends else self._model.piece(token.id) for token in request.emitted)
        shown = b"".join(token.text for token in request.emitted)
        if not said.startswith(shown):
            raise EngineError("the texts of the emitted tokens are not what these tokens say")
        return said[len(shown) :]


def _log_probability(logits: NDArray[np.float32], token: int) -> float:
    """Of one token, at temperature 1 and without penalties."""
    top = float(logits.max())
    total = float(np.exp(logits - top, dtype=np.float64).sum())
    return float(logits[token]) - top - float(np.log(total))
