"""How long a router waits for frames: what the miner lately took, many times over, and never longer than a limit."""

from collections.abc import Callable
from dataclasses import dataclass

from protocol.core.deadlines import Deadlines
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.messages.tasks import EndReason, FrameMessage
from protocol.roles.router.hedging import TaskName
from protocol.roles.router.state import Lease, Measured, Session, Task

CANCEL_TIMEOUT_MS = 3_000
"""A miner ends a cancelled task within this; less than the client's own patience, so that it learns why."""
CREDIT_MS = 8_000
"""A miner that waits for a session's reservation says so within this."""
STALL_FACTOR = 10


@dataclass(frozen=True, slots=True)
class Patience:
    """The clocks of lane 0's frames, over state that the machine owns."""

    params: Params
    deadlines: Deadlines[TaskName]
    measured: Callable[[NodeId], Measured]

    def await_first(self, session: Session, task: Task, lease: Lease, now_ms: int) -> None:
        """Start the clock for a first frame, or the end of what was cancelled."""
        limit_ms = CANCEL_TIMEOUT_MS if task.cancelled else self._begin_ms(task, lease)
        if session.strains(task, self.params.unreserved_credit_wei) and not task.cancelled:
            limit_ms = max(limit_ms, CREDIT_MS)
        self.deadlines.set(("frame", session.id, task.number), now_ms + limit_ms)

    def _begin_ms(self, task: Task, lease: Lease) -> int:
        """How long a miner may take to its first frame: ten times what it lately took, more for a longer prompt, and
        twice as long for each that was given up before it without a token. Spec: [FAILOVER-STALL.1]
        """
        seen, longest_ms = self.measured(lease.miner), self.params.first_frame_timeout_ms
        if not seen.begin_ms:
            return longest_ms
        taken_ms = STALL_FACTOR * seen.begin_ms * max(seen.begin_size, task.size) // seen.begin_size
        return min(max(taken_ms, self.params.stall_ms_min) << min(task.fruitless - 1, 16), longest_ms)

    def _gap_ms(self, lease: Lease) -> int:
        """How long a miner may be silent between frames: ten times what it lately was. Spec: [FAILOVER-STALL.1]"""
        seen, longest_ms = self.measured(lease.miner), self.params.frame_gap_timeout_ms
        return min(max(STALL_FACTOR * seen.gap_ms, self.params.stall_ms_min), longest_ms) if seen.gap_ms else longest_ms

    def left_ms(self, session: Session, task: Task, now_ms: int) -> int:
        """Until the task's own deadline."""
        at = self.deadlines.at(("task", session.id, task.number))
        return max(1, (at if at is not None else now_ms) - now_ms)

    def observe(self, session: Session, task: Task, message: FrameMessage, now_ms: int) -> None:
        """Learn the miner's pace from a frame that just came."""
        assert session.lease is not None
        seen = self.measured(session.lease.miner)
        if task.first_ms is None:
            task.first_ms = now_ms
            seen.began(now_ms - task.started_ms, task.size)
        else:
            seen.paused(now_ms - task.awaited_ms)
        task.awaited_ms = now_ms
        if message.end is not None and message.end.reason is not EndReason.CANCELLED:
            if task.submit.direct and task.first_ms == task.started_ms:
                seen.reported()
                return
            tokens = task.index - task.heads[-1].start_index
            seen.succeeded(tokens, task.first_ms - task.started_ms, now_ms - task.first_ms)

    def await_frame(self, session: Session, task: Task, now_ms: int) -> None:
        """Start the clock for the next frame, unless it is the client's ack that is missing."""
        name = ("frame", session.id, task.number)
        if task.cancelled or session.lease is None:
            return
        if self.waits_for_ack(task):
            self.deadlines.clear(name)
        else:
            self.deadlines.set(name, now_ms + self._gap_ms(session.lease))

    def waits_for_ack(self, task: Task) -> bool:
        """Whether the miner has no credit left."""
        return task.index - task.acked >= self.params.unacked_tokens_max
