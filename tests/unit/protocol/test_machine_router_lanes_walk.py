"""Any story of a session with lanes and second starts: miners lost, busy, slow at any point, orders cancelled.

The harness looks at all that leaves the router; here it only has to be led everywhere, and home again.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.messages.sessions import LeaseRelease
from protocol.messages.tasks import EndReason, TaskFailed
from protocol.session.lifecycle import SessionState
from tests.unit.protocol.failover_at_hand import words
from tests.unit.protocol.lanes_at_hand import Cast, Strand

TASKS_MAX = 6


class LanesWalk(Cast):
    """A session, all of whose miners come back when they are lost."""

    def __init__(self, lanes: int) -> None:
        super().__init__(lanes, 5, hedge_bp=10_000)
        self.ordered: set[int] = set()
        self.cancelled: set[int] = set()

    @property
    def over(self) -> bool:
        """Whether the session has ended."""
        return self.id not in self.route.machine._sessions

    def ways(self) -> list[tuple[str, Strand | int]]:
        """What can happen next."""
        ways: list[tuple[str, Strand | int]] = [("wait", ms) for ms in (20, 300, 2_100)]
        if self.session.life.state is SessionState.BIDDING:
            ways += [("bid", 0)] * 4
        for strand in self.asked():
            ways += [("grant", strand)] * 3 + [("busy", strand), ("lose", strand)]
        for strand in self.holding():
            ways += [("work", strand)] * 4 + [("lose", strand), ("forge", strand), ("release", strand)]
        if self.assignments and len(self.ordered) < TASKS_MAX:
            ways += [("order", len(self.ordered) + 1)] * 2
        ways += [("cancel", task) for task in self.session.tasks]
        return ways

    def do(self, what: str, on: Strand | int) -> None:
        """It happens."""
        if isinstance(on, int):
            if what == "wait":
                self.wait(on)
            elif what == "bid":
                self.bid()
            elif what == "order":
                self.ordered.add(on)
                self.order(on)
            else:
                self.cancelled.add(on)
                self.cancel(on)
        elif what == "work":
            self.work(on)
        elif what == "release":
            self.say(on, LeaseRelease(self.id))
            on.closed = True
        elif what == "forge":
            self.say(on, TaskFailed(self.id, self.session.last_task, "engine_failed", "", 0))
        else:
            getattr(self, what)(on)

    def work(self, strand: Strand) -> None:
        """An honest miner goes on with what it was handed."""
        if not strand.starts:
            return
        start, lane = strand.start, strand.start.lane
        if lane > 0:
            if strand.said == 0:
                strand.said = 1
                self.end_lane(strand, reason=EndReason.CANCELLED if strand.cancelled else EndReason.STOP)
        elif strand.cancelled:
            strand.cancelled, strand.said = False, 99
            self.say(strand, TaskFailed(self.id, start.order.task, "cancelled", "", 0))
        else:
            self.stream(strand, 1)

    def home(self) -> None:
        """From here on all goes well."""
        for _ in range(400):
            if self.over or {task for task, _ in self.ends} >= self.ordered:
                return
            if self.session.life.state is SessionState.BIDDING:
                self.bid()
            self.grant_all()
            before = [(strand.said, len(strand.starts)) for strand in self.holding()]
            for strand in self.holding():
                if not strand.closed:
                    self.work(strand)
            if before == [(strand.said, len(strand.starts)) for strand in self.holding()]:
                self.wait(100)
        raise AssertionError(f"{self.ordered} were ordered, and only {self.ends} ended")


@pytest.mark.spec(
    "LANES-FILL.1", "LANE-WITHHELD.1", "HEDGE-START.1", "FAILOVER-NEXT.1", "LEASE-RENEWAL.1", "TASK-TERMINAL.1"
)
@settings(max_examples=150)
@given(st.integers(1, 3), st.data())
def test_whatever_happens_to_its_miners_every_order_ends_once_and_lane_0_is_whole(
    lanes: int, data: st.DataObject
) -> None:
    walk = LanesWalk(lanes)
    for _ in range(data.draw(st.integers(0, 40))):
        if walk.over:
            break
        walk.do(*data.draw(st.sampled_from(walk.ways())))
    walk.home()
    ends = dict(walk.ends)
    assert len(ends) == len(walk.ends)
    for task in walk.ordered:
        code = ends[task]
        allowed = {"end", "queue_full", "deadline_exceeded", "engine_failed", "miner_lost"}
        assert code in allowed | ({"cancelled"} if task in walk.cancelled else set())
        assert walk.text[task] == words() if code == "end" else words().startswith(walk.text[task])
    assert len(set(walk.lane_ends)) == len(walk.lane_ends)
    walk.leave()
