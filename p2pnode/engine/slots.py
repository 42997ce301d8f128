"""Which request gets which slot, and what is computed next: decisions only, no model.

A slot keeps the tokens of its last request in the cache. A new one takes over the longest common prefix: of its
slot, or, where that spares enough, copied from another slot, busy or idle. Each step first lets every running
stream go on by one token, then feeds prompts: one micro-batch while streams run, so that a long prompt never holds
them up by more; several while none does, up to the first prompt that is complete.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pnode.engine.api import EngineBusy

COPY_GAIN_TOKENS = 64
"""A copied stream costs about what it takes to compute some tens of tokens."""
PADDING_ROWS_MAX = 2
"""Measured on a CPU with Q8_0 weights: rows of one micro-batch cost 3 ms each beyond 4, a second one 15 ms."""
IDLE_FEED_MICROBATCHES = 8
"""How many micro-batches of prompts one step feeds while no stream runs."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the slots need to know of a request."""

    number: int
    feed: NDArray[np.int32]
    """The tokens to have in the cache before anything can be drawn."""
    want_from: int
    """Logits are wanted of this index of ``feed`` and all after it."""
    priority: int = 0


class Slot:
    """One sequence of the model, and the job it works for."""

    def __init__(self, index: int, context_tokens: int) -> None:
        self.index = index
        self.cells: NDArray[np.int32] = np.zeros(context_tokens, dtype=np.int32)
        self.length = 0
        self.job: Job | None = None
        self.cached = 0
        self.used_at = 0
        self.next_token = 0
        """While generating: drawn, and not in the cache yet."""

    @property
    def feeding(self) -> bool:
        return self.job is not None and self.length < len(self.job.feed)

    @property
    def generating(self) -> bool:
        return self.job is not None and self.length >= len(self.job.feed)

    def extend(self, tokens: NDArray[np.int32]) -> None:
        """Note that the model holds these tokens now."""
        self.cells[self.length : self.length + len(tokens)] = tokens
        self.length += len(tokens)

    def common_prefix(self, feed: NDArray[np.int32]) -> int:
        size = min(self.length, len(feed))
        differs = self.cells[:size] != feed[:size]
        return int(differs.argmax()) if differs.any() else size


@dataclass(frozen=True, slots=True)
class Admission:
    """A job that got a slot. The model must first copy (if ``source``), then forget from ``cached`` on."""

    slot: Slot
    cached: int
    source: Slot | None


class SlotTable:
    """All slots and the queue before them."""

    def __init__(self, slots: int, context_tokens: int, queue_max: int) -> None:
        self.slots = [Slot(index, context_tokens) for index in range(slots)]
        self._queue: list[tuple[int, int, Job]] = []
        self._queue_max = queue_max
        self._clock = 0

    @property
    def busy(self) -> int:
        return sum(slot.job is not None for slot in self.slots)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        return not self._queue and all(slot.job is None for slot in self.slots)

    @property
    def cells_used(self) -> int:
        return sum(slot.length for slot in self.slots)

    def submit(self, job: Job) -> None:
        """Queue a job; larger priority first, then first come, first served. Raises EngineBusy."""
        free = len(self.slots) - self.busy
        if len(self._queue) >= self._queue_max + free:
            raise EngineBusy(
                f"all {len(self.slots)} slots work and {len(self._queue)} requests wait, "
                f"of at most {self._queue_max}; try again later"
            )
        self._clock += 1
        heapq.heappush(self._queue, (-job.priority, self._clock, job))

    def cancel(self, number: int) -> bool:
        """Take a job out, wherever it is; False if it is nowhere. Its slot is free at once."""
        for slot in self.slots:
            if slot.job is not None and slot.job.number == number:
                self.release(slot)
                return True
        waiting = [entry for entry in self._queue if entry[2].number != number]
        found = len(waiting) < len(self._queue)
        self._queue = waiting
        heapq.heapify(self._queue)
        return found

    def release(self, slot: Slot) -> None:
        """Free a slot; its cells stay, for whoever shares a prefix."""
        self._clock += 1
        slot.job, slot.used_at = None, self._clock

    def admit(self) -> Iterator[Admission]:
        """Give free slots to waiting jobs. Each admission must be carried out before the next is asked for."""
        while self._queue and any(slot.job is None for slot in self.slots):
            _, arrived, job = heapq.heappop(self._queue)
            admission = self._place(job)
            slot, source = admission.slot, admission.source
            if source is not None:
                slot.cells[: admission.cached] = source.cells[: admission.cached]
            slot.job, slot.length, slot.cached, slot.used_at = job, admission.cached, admission.cached, arrived
            yield admission

    def _place(self, job: Job) -> Admission:
        # At least one row must be computed for its logits, so not even a prompt known in full is taken over whole.
        shared = {slot.index: min(slot.common_prefix(job.feed), job.want_from) for slot in self.slots}
        free = [slot for slot in self.slots if slot.job is None]
        best = max(free, key=lambda slot: (shared[slot.index], -slot.used_at))
        if shared[best.index] and 2 * shared[best.index] >= best.length:
            target = best
        else:
            # Taking the best would throw away most of its cache: rather an empty slot, else the longest unused.
            target = min(free, key=lambda slot: (slot.length > 0, slot.used_at, slot.index))
        source = max(self.slots, key=lambda slot: shared[slot.index])
        own = shared[target.index]
        if shared[source.index] - own >= COPY_GAIN_TOKENS:
            return Admission(target, shared[source.index], source)
        return Admission(target, own, None)

    def generating_runs(self) -> list[list[Slot]]:
        """The slots that draw a token in this step, as runs of consecutive ones: each is one micro-batch.

        Where two runs of two or more are near, the slots between them are taken along as padding.
        """
        runs: list[list[Slot]] = []
        for slot in self.slots:
            if not slot.generating:
                continue
            if runs and runs[-1][-1].index + 1 == slot.index:
                runs[-1].append(slot)
            else:
                runs.append([slot])
        merged: list[list[Slot]] = []
        for run in runs:
            gap = self.slots[merged[-1][-1].index + 1 : run[0].index] if merged else []
            if gap and len(gap) <= PADDING_ROWS_MAX and min(len(merged[-1]), len(run)) > 1:
                merged[-1] += [*gap, *run]
            else:
                merged.append(run)
        return merged

    def next_feeding(self) -> Slot | None:
        """The slot whose prompt is fed next: the one admitted first of the highest priority."""
        feeding = [(-slot.job.priority, slot.used_at, slot) for slot in self.slots if slot.job and slot.feeding]
        return min(feeding, key=lambda entry: entry[:2])[2] if feeding else None
