"""Sending under faults in any order: crashes of the chain's kind, and what endpoints do to us."""

from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chain.errors import ChainError
from chain.transactions import BUMP_AFTER_S
from tests.unit.chain.sending import Rig, order


class Sending(RuleBasedStateMachine):
    """Whatever happens on the way: nothing that was promised is done twice, and in the end all of it is done."""

    @initialize()
    def start(self) -> None:
        self.rig = Rig(depth=4, endpoints=2)
        self.wanted = 0

    @rule()
    def send(self) -> None:
        try:
            self.rig.sender.send(order(f"{self.wanted}", within_s=10**9))
        except ChainError:
            return
        self.wanted += 1

    @precondition(lambda self: self.wanted)
    @rule(number=st.integers(0, 40))
    def send_again(self, number: int) -> None:
        name = f"{number % self.wanted}"
        if name.encode() in self.rig.chain.done:
            return  # it may be final, and then asking again is asking for it again
        with suppress(ChainError):
            self.rig.sender.send(order(name, within_s=10**9))

    @rule()
    def look(self) -> None:
        with suppress(ChainError):
            self.rig.sender.maintain()

    @rule(blocks=st.integers(1, 6))
    def mine(self, blocks: int) -> None:
        self.rig.chain.mine(count=blocks)

    @precondition(lambda self: self.rig.chain.head.number > 4)
    @rule(depth=st.integers(1, 4), drop=st.booleans())
    def reorganise(self, depth: int, drop: bool) -> None:
        self.rig.chain.reorganise(depth, drop=drop)

    @rule()
    def drop(self) -> None:
        self.rig.chain.pool.clear()

    @rule(place=st.integers(0, 1), fault=st.sampled_from(["down", "deaf", "no_receipts"]), on=st.booleans())
    def fault(self, place: int, fault: str, on: bool) -> None:
        setattr(self.rig.endpoints[place], fault, on)

    @rule(seconds=st.integers(0, BUMP_AFTER_S))
    def pass_time(self, seconds: int) -> None:
        self.rig.later(seconds)

    @rule(fee=st.integers(1, 1_000))
    def change_fee(self, fee: int) -> None:
        self.rig.chain.base_fee = fee

    @invariant()
    def nothing_is_done_twice(self) -> None:
        if hasattr(self, "rig"):
            done = self.rig.chain.done
            assert len(done) == len(set(done))

    def teardown(self) -> None:
        for endpoint in self.rig.endpoints:
            endpoint.down = endpoint.deaf = endpoint.no_receipts = False
        for _ in range(60):
            self.rig.later(BUMP_AFTER_S)
            self.look()
            self.rig.chain.mine(count=2)
        assert self.rig.sender.maintain() == 0
        assert sorted(self.rig.chain.done) == sorted(str(number).encode() for number in range(self.wanted))


Sending.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSending = Sending.TestCase
