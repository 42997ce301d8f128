"""Continuous batching: many requests, one model, one step at a time.

A step admits waiting requests to free slots, draws one token for every running stream, and feeds prompts as far as
its budget goes. Calls into the model are single micro-batches, so a token never depends on who else is served.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from p2pnode.engine.api import (
    EngineBusy,
    EngineError,
    Finished,
    FinishReason,
    GenerateRequest,
    PromptTooLong,
    SchemaRefused,
    ScoredToken,
    TokenLogProbs,
)
from p2pnode.engine.grammars import TokensBreakSchema
from p2pnode.engine.rate import RateMeter
from p2pnode.engine.slots import IDLE_FEED_MICROBATCHES, Job, Slot, SlotTable
from p2pnode.engine.stops import StopScanner
from p2pnode.engine.works import Constraint, Generating, GrammarBook, Scoring, log_probabilities
from protocol.session.sampling import NO_TOKEN, choose_many
from protocol.session.schema import grammar_of
from protocol.session.schema_strings import SchemaError


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
    logprobs: TokenLogProbs | None = None


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


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that cannot go on."""

    number: int
    error: EngineError


Outcome = Drawn | Ended | Scored | Refused


@dataclass(slots=True)
class Totals:
    """Counters since the start."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    decode_calls: int = 0


class Batcher:
    """Serves requests over the slots of one model. ``clock`` gives seconds, for the rate of generation only.

    A request with a schema waits for its grammar before it waits for a slot: ``grammar_opened`` tells of it.
    """

    def __init__(self, model: Model, *, queue_max: int, clock: Callable[[], float], grammars: GrammarBook) -> None:
        self._model = model
        self._queue_max = queue_max
        self._grammars = grammars
        self._preparing: dict[int, Job] = {}
        self.table = SlotTable(model.slots, model.context_tokens, queue_max)
        self.totals = Totals()
        self.rate = RateMeter(clock)
        self._work: dict[int, Generating | Scoring] = {}
        self._steps = np.arange(max(model.microbatch_tokens, model.context_tokens) + 1, dtype=np.int32)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return self.table.idle

    def generate(self, number: int, request: GenerateRequest) -> list[Outcome]:
        """Queue a generation; what is over before it begins ends here.

        Raises EngineBusy, PromptTooLong, SchemaRefused, EngineError.
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
        scanner = StopScanner(request.sampling.stop, held)
        work = Generating(request, scanner, len(emitted))
        self._queue(Job(number, feed, len(feed) - 1, request.priority), work)
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
        self._queue(Job(number, feed, want_from, request.priority), Scoring(request, tuple(claimed)))
        return []

    def _queue(self, job: Job, work: Generating | Scoring) -> None:
        """Queue a request for a slot, or, if it has one, for its grammar."""
        request = work.request
        if not request.sampling.schema:
            self.table.submit(job)
        else:
            if len(self._preparing) >= self._queue_max + len(self.table.slots):
                raise EngineBusy(f"{len(self._preparing)} requests wait for their grammars already; try again later")
            try:
                grammar = grammar_of(request.sampling.schema)
            except SchemaError as error:
                raise SchemaRefused(str(error)) from error
            self._grammars.open(job.number, grammar, [token.id for token in request.emitted])
            work.constraint = Constraint(self._grammars, job.number)
            self._preparing[job.number] = job
        self._work[job.number] = work

    def grammar_opened(self, number: int, refused: SchemaRefused | None) -> list[Outcome]:
        """Go on with a request whose grammar is ready, or is refused."""
        job = self._preparing.pop(number, None)
        if job is None:
            return []
        work = self._work[number]
        error: EngineError | None = refused
        if isinstance(work, Scoring) and isinstance(refused, TokensBreakSchema):
            # What others emitted is wrong already: the scores tell.
            assert work.constraint is not None
            work.constraint.refused, error = refused, None
        if error is None:
            try:
                self.table.submit(job)
            except EngineBusy as busy:
                error = busy
        if error is None:
            return []
        self._forget(number)
        return [Refused(number, error)]

    def cancel(self, number: int) -> None:
        """Forget a request; its slot is free at once."""
        if self._preparing.pop(number, None) is not None or self.table.cancel(number):
            self._forget(number)

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
            if isinstance(work, Scoring):
                self._score(slot, job, work, logits, outcomes)
            elif stop == len(job.feed):
                self._draw([slot], logits, outcomes)
            if slot.job is not job or stop == len(job.feed):
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
        draws = [work.draw(slot.cells[: slot.length]) for slot, work in zip(run, works, strict=True)]
        for row, token in enumerate(choose_many(logits, draws)):
            if token == NO_TOKEN:
                self._refuse(run[row], works[row].refusal(), outcomes)
                continue
            asked, logprobs = works[row].request.sampling.logprobs, None
            if asked:
                logprobs = log_probabilities(logits[row], token, min(asked - 1, len(logits[row])), self._said)
            self._release(run[row], works[row], token, logprobs, outcomes)
            self.totals.generated_tokens += 1

    def _generation(self, slot: Slot) -> Generating:
        assert slot.job is not None
        work = self._work[slot.job.number]
        assert isinstance(work, Generating)
        return work

    def _said(self, token: int) -> bytes:
        return b"" if token in self._model.end_tokens else self._model.piece(token)

    def _refuse(self, slot: Slot, error: EngineError, outcomes: list[Outcome]) -> None:
        assert slot.job is not None
        number = slot.job.number
        outcomes.append(Refused(number, error))
        self._end(slot, number)

    def _release(
        self, slot: Slot, work: Generating, token: int, logprobs: TokenLogProbs | None, outcomes: list[Outcome]
    ) -> None:
        """Hand out a drawn token, and end the generation if it is the last."""
        assert slot.job is not None
        number = slot.job.number
        work.count += 1
        ends = token in self._model.end_tokens
        full = work.count >= work.request.max_tokens
        text, stopped = work.scanner.push(self._said(token), last=ends or full)
        outcomes.append(Drawn(number, token, text, logprobs))
        if work.constraint is not None:
            work.constraint.accept(token)
        slot.next_token = token
        if ends or stopped or full:
            reason = FinishReason.STOP if ends or stopped else FinishReason.LENGTH
            prompt_tokens = len(work.request.prompt)
            cached = min(slot.cached, prompt_tokens)
            outcomes.append(Ended(number, Finished(reason, prompt_tokens, work.count, cached)))
            self._end(slot, number)

    def _score(self, slot: Slot, job: Job, work: Scoring, logits: NDArray[np.float32], outcomes: list[Outcome]) -> None:
        first = slot.length - len(logits)
        for row, index in enumerate(range(first, slot.length)):
            work.score(logits[row], job.feed[: index + 1])
        if work.constraint is not None and work.constraint.refused is not None and not work.constraint.broken:
            outcomes.append(Refused(job.number, work.constraint.refused))
            self._end(slot, job.number)
        elif slot.length == len(job.feed):
            outcomes.append(Scored(job.number, tuple(work.scores)))
            self._end(slot, job.number)

    def _end(self, slot: Slot, number: int) -> None:
        self._forget(number)
        self.table.release(slot)

    def _forget(self, number: int) -> None:
        if self._work.pop(number).constraint is not None:
            self._grammars.close(number)

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
