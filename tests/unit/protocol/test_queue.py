"""The router's queue: within its bounds, fair whatever one client does, and every request leaves once."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.core.errors import LocalProtocolError
from protocol.core.params import Params
from protocol.session.lifecycle import TERMINAL_CODES
from protocol.session.queue import QUANTUM_TOKENS, FairQueue, Queued, Refused, Waiting
from protocol.session.service_rate import RETRY_MS_MAX, RETRY_MS_MIN, UNKNOWN_RETRY_MS, ServiceRate

PARAMS = replace(Params(), queue_requests_max=8, queue_tokens_max=4_000, queue_client_requests_max=3)
FAR_MS = 10**9


class QueueMachine(RuleBasedStateMachine):
    """Pushes, pops, removals and time in any order, against a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(PARAMS)
        self.model: dict[bytes, Waiting] = {}
        self.left: set[bytes] = set()
        self.now_ms = 0
        self.number = 0

    @rule(client=st.sampled_from([b"a", b"b", b"c"]), cost=st.integers(1, 2_000), wait_ms=st.integers(-5, 500))
    def push(self, client: bytes, cost: int, wait_ms: int) -> None:
        self.number += 1
        item = Waiting(self.number.to_bytes(4, "big"), client, cost, self.now_ms + wait_ms)
        outcome = self.queue.push(item, self.now_ms)
        if isinstance(outcome, Queued):
            assert 1 <= outcome.position <= len(self.model) + 1
            assert self.now_ms + outcome.wait_ms < item.deadline_ms
            self.model[item.key] = item
        else:
            self.check_refusal(item, outcome)

    def check_refusal(self, item: Waiting, refused: Refused) -> None:
        """A refusal has a reason."""
        assert refused.code in TERMINAL_CODES
        assert 0 <= refused.retry_after_ms <= RETRY_MS_MAX
        mine = sum(other.client == item.client for other in self.model.values())
        tokens = sum(other.cost_tokens for other in self.model.values()) + item.cost_tokens
        if refused.code == "rate_limited":
            assert mine >= PARAMS.queue_client_requests_max
        if refused.code == "queue_full":
            assert len(self.model) >= PARAMS.queue_requests_max or tokens > PARAMS.queue_tokens_max

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def push_twice(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        with pytest.raises(LocalProtocolError):
            self.queue.push(self.model[key], self.now_ms)

    @rule()
    def pop(self) -> None:
        item = self.queue.pop(self.now_ms)
        alive = [other for other in self.model.values() if other.deadline_ms > self.now_ms]
        if item is None:
            assert not alive
            return
        self.leave(item)
        same_client = [other for other in alive if other.client == item.client]
        assert item.deadline_ms == min(other.deadline_ms for other in same_client)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([*sorted(self.model), b"gone"]))
        item = self.queue.remove(key)
        assert item == self.model.get(key)
        if item is not None:
            self.leave(item)

    @rule(elapsed_ms=st.integers(0, 300))
    def pass_time(self, elapsed_ms: int) -> None:
        self.now_ms += elapsed_ms

    @rule()
    def expire(self) -> None:
        expired = self.queue.expire(self.now_ms)
        late = {key for key, item in self.model.items() if item.deadline_ms <= self.now_ms}
        assert {item.key for item in expired} == late
        assert [item.deadline_ms for item in expired] == sorted(item.deadline_ms for item in expired)
        for item in expired:
            self.leave(item)

    def leave(self, item: Waiting) -> None:
        """Whatever way a request leaves, it leaves once."""
        assert item.key not in self.left
        self.left.add(item.key)
        assert self.model.pop(item.key) == item

    @invariant()
    def holds_its_bounds(self) -> None:
        assert len(self.queue) == len(self.model) <= PARAMS.queue_requests_max
        assert self.queue.tokens == sum(item.cost_tokens for item in self.model.values()) <= PARAMS.queue_tokens_max

    @invariant()
    def remembers_only_clients_that_wait(self) -> None:
        waiting = {item.client for item in self.model.values()}
        assert set(self.queue._turns) == set(self.queue._ring) == waiting
        assert len(self.queue._ring) == len(waiting)

    @invariant()
    def knows_its_next_deadline(self) -> None:
        earliest = min((item.deadline_ms for item in self.model.values()), default=None)
        assert self.queue.next_deadline() == earliest


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None, database=None)


@pytest.mark.spec("QUEUE-BOUND.1", "QUEUE-FAIR.1", "QUEUE-DEADLINE.1")
class TestQueueMachine(QueueMachine.TestCase):
    """Runs the machine."""


def filled(requests: dict[bytes, list[int]]) -> FairQueue:
    """A queue with the given costs of each client, pushed one client after the other."""
    queue = FairQueue(Params())
    for client, costs in requests.items():
        for place, cost in enumerate(costs):
            assert isinstance(queue.push(Waiting(client + bytes([place]), client, cost, FAR_MS), 0), Queued)
    return queue


def drain(queue: FairQueue, *, every_ms: int = 1) -> list[Waiting]:
    """All requests in the order of service."""
    served = []
    while (item := queue.pop(len(served) * every_ms)) is not None:
        served.append(item)
    return served


@pytest.mark.spec("QUEUE-FAIR.1")
def test_a_flood_of_one_client_does_not_delay_another() -> None:
    served = drain(filled({b"flood": [400] * 30, b"one": [400]}))
    assert [item.client for item in served].index(b"one") <= 1


@pytest.mark.spec("QUEUE-FAIR.1")
def test_clients_are_served_equal_tokens_not_equal_requests() -> None:
    served = drain(filled({b"small": [100] * 32, b"large": [1_600] * 2}))
    half = served[: len(served) // 2]
    tokens = {name: sum(item.cost_tokens for item in half if item.client == name) for name in (b"small", b"large")}
    assert abs(tokens[b"small"] - tokens[b"large"]) <= 1_600 + QUANTUM_TOKENS


@pytest.mark.spec("QUEUE-FAIR.1")
def test_as_long_as_two_clients_wait_neither_runs_ahead() -> None:
    queue = filled({b"a": [300, 700] * 10, b"b": [50] * 32, b"c": [2_000] * 5})
    tokens = dict.fromkeys((b"a", b"b", b"c"), 0)
    while len({item.client for item in queue._requests.values()}) == 3:
        item = queue.pop(0)
        assert item is not None
        tokens[item.client] += item.cost_tokens
        assert max(tokens.values()) - min(tokens.values()) <= 2_000 + QUANTUM_TOKENS


@pytest.mark.spec("QUEUE-FAIR.1")
def test_the_largest_request_comes_to_its_turn_at_once() -> None:
    assert [item.cost_tokens for item in drain(filled({b"a": [1_000_000]}))] == [1_000_000]


@pytest.mark.spec("QUEUE-DEADLINE.1")
def test_inside_one_client_the_earliest_deadline_goes_first() -> None:
    queue = FairQueue(Params())
    for deadline_ms in (300, 100, 200):
        queue.push(Waiting(bytes([deadline_ms // 100]), b"a", 10, deadline_ms), 0)
    assert [item.deadline_ms for item in drain(queue)] == [100, 200, 300]


@pytest.mark.spec("QUEUE-DEADLINE.1")
def test_what_is_late_is_not_served_and_comes_out_as_expired() -> None:
    queue = FairQueue(Params())
    queue.push(Waiting(b"late", b"a", 10, 100), 0)
    queue.push(Waiting(b"good", b"a", 10, 200), 0)
    assert queue.next_deadline() == 100
    served = queue.pop(100)
    assert served is not None
    assert served.key == b"good"
    assert queue.pop(100) is None
    assert [item.key for item in queue.expire(100)] == [b"late"]
    assert queue.expire(100) == ()


@pytest.mark.spec("QUEUE-DEADLINE.1")
def test_what_cannot_be_served_in_time_is_refused_at_once() -> None:
    queue = filled({b"a": [1_000] * 20})
    for turn in range(5):
        queue.pop(turn * 1_000)  # 1,000 tokens a second
    behind = queue.push(Waiting(b"x", b"a", 1_000, 4_000 + 10_000), 4_000)
    assert isinstance(behind, Queued), "it goes before its client's later deadlines"
    after_own = queue.push(Waiting(b"y", b"a", 1_000, FAR_MS + 1), 4_000)
    assert after_own == Queued(position=17, wait_ms=16_000)
    for number in range(4):
        queue.push(Waiting(bytes([200, number]), b"b", 1_000, FAR_MS), 4_000)
    refused = queue.push(Waiting(b"z", b"b", 1_000, 4_000 + 1_000), 4_000)
    assert isinstance(refused, Queued), "the other client's backlog costs one turn"
    impossible = queue.push(Waiting(b"w", b"c", 1_000, 4_000 + 1_000), 4_000)
    assert impossible == Refused("deadline_exceeded", 1_024)


@pytest.mark.spec("QUEUE-BOUND.1")
def test_each_bound_has_its_own_refusal() -> None:
    queue = FairQueue(PARAMS)
    for number in range(3):
        queue.push(Waiting(bytes([number]), b"a", 1, FAR_MS), 0)
    assert queue.push(Waiting(b"x", b"a", 1, FAR_MS), 0) == Refused("rate_limited", UNKNOWN_RETRY_MS)
    assert queue.push(Waiting(b"x", b"b", 3_998, FAR_MS), 0) == Refused("queue_full", UNKNOWN_RETRY_MS)
    assert queue.push(Waiting(b"x", b"b", 1, 0), 0) == Refused("deadline_exceeded", 0)
    for number in range(5):
        queue.push(Waiting(bytes([9, number]), bytes([number]), 1, FAR_MS), 0)
    assert queue.push(Waiting(b"x", b"z", 1, FAR_MS), 0) == Refused("queue_full", UNKNOWN_RETRY_MS)


@pytest.mark.spec("QUEUE-BOUND.1")
@pytest.mark.parametrize("cost", [0, -1])
def test_a_request_that_costs_nothing_is_a_bug(cost: int) -> None:
    with pytest.raises(LocalProtocolError):
        FairQueue(PARAMS).push(Waiting(b"x", b"a", cost, FAR_MS), 0)


def served_steadily(tokens: int, every_ms: int, at_once: int = 1) -> ServiceRate:
    """A rate that has seen a long backlog served evenly."""
    rate = ServiceRate()
    for turn in range(100):
        for _ in range(at_once):
            rate.served(tokens, turn * every_ms, backlogged=True)
    return rate


@pytest.mark.parametrize(("tokens", "every_ms", "at_once"), [(500, 1_000, 1), (7, 3, 1), (500, 1_000, 8)])
def test_the_rate_is_learned_from_a_backlog(tokens: int, every_ms: int, at_once: int) -> None:
    rate = served_steadily(tokens, every_ms, at_once)
    ten_turns = 10 * tokens * at_once
    assert rate.time_for(ten_turns) == pytest.approx(10 * every_ms, rel=0.02)


def test_time_without_a_backlog_teaches_nothing() -> None:
    rate = served_steadily(500, 1_000)
    before = rate.time_for(1_000)
    rate.served(500, 100_000, backlogged=False)
    rate.served(500, 900_000, backlogged=True)
    assert rate.time_for(1_000) == before


@pytest.mark.parametrize("emptied_by", ["remove", "expire"])
def test_an_emptied_queue_stops_the_clock(emptied_by: str) -> None:
    queue = FairQueue(Params())
    for number in range(4):
        queue.push(Waiting(bytes([number]), b"a", 1_000, 10_000 + number), 0)
    for turn in range(3):
        queue.pop(turn * 1_000)
    if emptied_by == "remove":
        queue.remove(b"\3")
    else:
        queue.expire(20_000)
    for number in range(4, 7):
        queue.push(Waiting(bytes([number]), b"a", 1_000, FAR_MS), 500_000)
    queue.pop(500_000)
    assert queue.push(Waiting(b"next", b"a", 1_000, FAR_MS), 500_000) == Queued(position=3, wait_ms=2_000)


def test_the_rate_follows_a_change() -> None:
    rate = served_steadily(500, 1_000)
    for turn in range(100):
        rate.served(500, 100_000 + turn * 250, backlogged=True)
    assert rate.time_for(500) == pytest.approx(250, rel=0.05)


def test_retry_after_is_bounded() -> None:
    assert ServiceRate().retry_after(10**9) == UNKNOWN_RETRY_MS
    rate = served_steadily(500, 1_000)
    assert rate.retry_after(1) == RETRY_MS_MIN
    assert rate.retry_after(10**9) == RETRY_MS_MAX
