"""The tester's machine: which tests run now. An oracle that does not hold a miner's model says nothing of it.

Spec: [TEST-CALLED.1]
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from protocol.core.deadlines import Deadlines
from protocol.core.ids import NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelNumbers,
    ChannelOpened,
    Close,
    DeadlineReached,
    Received,
)
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign, keccak
from protocol.light.handovers import HandOverStore
from protocol.roles.tester.events import Called, Calls, Compared, Scored, ScoringFailed
from protocol.roles.tester.examination import Desk, Examination, Stage

TESTS_AT_ONCE = 16
"""Most wait for a miner that is busy with another oracle, or silent. More would slow down what is to be measured."""
CALLS_MAX = 256
"""Calls that are looked at; of more, each oracle takes another part first."""
TRY_AGAIN_MS = 60_000
"""Where this oracle's own engine failed."""

Key = tuple[NodeId, int]
"""(miner, test)."""


@dataclass(frozen=True, slots=True)
class TesterSettings:
    """Who tests."""

    __test__ = False  # no test of pytest's

    node: NodeId
    hand_overs: HandOverStore = field(default_factory=HandOverStore)
    """What shows that it is an oracle, to a miner that has not heard of it."""


class TesterMachine:
    """See the module."""

    __test__ = False  # no test of pytest's

    protocols = ()
    topics = ()

    def __init__(self, settings: TesterSettings, domain: Domain, params: Params, sign: Sign) -> None:
        questions = count(1)
        numbers = ChannelNumbers()
        self._desk = Desk(settings.node, domain, params, sign, numbers, lambda: next(questions), settings.hand_overs)
        self._calls: dict[Key, Called] = {}
        self._running: dict[Key, Examination] = {}
        self._done: set[Key] = set()
        """Reported, as long as the ledger still calls for them."""
        self._deadlines: Deadlines[Key] = Deadlines()

    def next_deadline(self) -> int | None:
        """When the next running test is due, or one that is tried again."""
        return self._deadlines.next()

    def handle(self, event: object, now_ms: int) -> list[object]:
        """Take one event; total on whatever a miner sent."""
        match event:
            case Calls():
                self._desk.oracles = event.oracles
                return self._called(event.calls, now_ms)
            case Received():
                test = self._by_channel(event.channel)
                return [] if test is None else self._after(test, test.received(event.message, now_ms), now_ms)
            case ChannelClosed():
                test = self._by_channel(event.channel)
                return [] if test is None else self._after(test, test.closed(now_ms), now_ms)
            case ChannelOpened():
                return [Close(event.channel)]
            case Scored() | Compared() | ScoringFailed():
                return self._engine_said(event, now_ms)
            case DeadlineReached():
                return self._expire(now_ms)
        return []

    def _called(self, calls: Iterable[Called], now_ms: int) -> list[object]:
        others = (call for call in calls if call.miner != self._desk.me)
        ranked = sorted(others, key=lambda call: keccak(self._desk.me + call.miner + call.test.to_bytes(8, "big")))
        self._calls = {(call.miner, call.test): call for call in ranked[:CALLS_MAX]}
        self._done &= self._calls.keys()
        effects: list[object] = []
        for key in [key for key in self._running if key not in self._calls]:
            self._deadlines.clear(key)
            effects += self._running.pop(key).close()
        return effects + self._start(now_ms)

    def _start(self, now_ms: int) -> list[object]:
        effects: list[object] = []
        for key, call in self._calls.items():
            if len(self._running) >= TESTS_AT_ONCE:
                break
            if key in self._running or key in self._done or self._deadlines.at(key) is not None:
                continue
            test = self._running[key] = Examination(self._desk, call, now_ms)
            effects += self._after(test, test.expire(now_ms), now_ms)
        return effects

    def _after(self, test: Examination, effects: list[object], now_ms: int) -> list[object]:
        """See to what follows a step of a test."""
        key = (test.called.miner, test.called.test)
        if test.stage is not Stage.OVER:
            if test.stage is Stage.SCORING:
                self._deadlines.clear(key)
            else:
                self._deadlines.set(key, test.due_ms)
            return effects
        del self._running[key]
        self._deadlines.clear(key)
        if test.gave_up:
            self._deadlines.set(key, now_ms + TRY_AGAIN_MS)
        else:
            self._done.add(key)
        return effects + self._start(now_ms)

    def _engine_said(self, event: Scored | Compared | ScoringFailed, now_ms: int) -> list[object]:
        test = next((test for test in self._running.values() if test.number == event.number), None)
        if test is None:
            return []
        match event:
            case Scored():
                effects = test.scored(event, now_ms)
            case Compared():
                effects = test.compared(event, now_ms)
            case ScoringFailed():
                effects = test.failed(event, now_ms)
        return self._after(test, effects, now_ms)

    def _by_channel(self, channel: Channel) -> Examination | None:
        return next((test for test in self._running.values() if test.channel == channel), None)

    def _expire(self, now_ms: int) -> list[object]:
        effects: list[object] = []
        for key in self._deadlines.due(now_ms):
            test = self._running.get(key)
            if test is not None:
                effects += self._after(test, test.expire(now_ms), now_ms)
        return effects + self._start(now_ms)
