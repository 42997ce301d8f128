"""The miner's machine and lanes that are streamed to nobody, and a lease that is taken in place of another."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.ids import Generation
from protocol.core.machine import Channel, ChannelClosed, Close, Send
from protocol.messages.envelope import Envelope
from protocol.messages.sessions import LeaseBusy, LeaseGrant, LeaseRelease, LeaseRequest, SessionOpen
from protocol.messages.tasks import CancelTask, Delivery, EndReason, FrameMessage, LaneEnded, SegmentStart, TaskFailed
from protocol.roles.miner import CancelGeneration, Generate, Generated, GenerationFailed, Produced, Rendered
from protocol.session.sampling import lane_seed
from protocol.session.transcript import LaneVerifier, check_ended, close_chain, expect_segment
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    MINER,
    MINERS,
    MODEL,
    PARAMS,
    PROMPT_TOKENS,
    ROUTER,
    assignment_of,
    id_of,
    of,
    opening_of,
    order_of,
    sent,
    start_of,
)
from tests.unit.protocol.miner_at_hand import UNACKED, Mine

OTHER = Generation(b"\x09" * 24)
"""The lease of lane 0, which another miner has."""


class Withheld:
    """A miner's run of lane 1."""

    def __init__(
        self, mine: Mine | None = None, task: int = 1, leased: tuple[Channel, Generation] | None = None
    ) -> None:
        self.mine = mine or Mine()
        self.opening = opening_of(lanes=2)
        self.channel, self.generation = leased or self.mine.lease(self.opening)
        self.order = order_of(self.opening, task)
        self.name = (bytes(id_of(self.opening)), task, 1)
        assignment = assignment_of(
            self.opening, miners=(MINERS[1].node, MINER.node), generations=(OTHER, self.generation)
        )
        start = start_of(assignment, self.order, lane=1, delivery=Delivery.WITHHELD)
        self.begun = self.mine.receive(self.channel, start)

    def tell(self, event: object) -> list[object]:
        """Something happens; nothing of the lane leaves but its end."""
        effects = self.mine.tell(event)
        assert not [m for m in sent(effects) if isinstance(m, FrameMessage | SegmentStart)]
        return effects

    def render(self) -> list[object]:
        return self.tell(Rendered(self.name, PROMPT_TOKENS))

    def produce(self, ids: range) -> list[object]:
        return self.tell(Produced(self.name, tuple(ids), tuple(b"%d " % i for i in ids)))

    def finish(self) -> list[object]:
        return self.tell(Generated(self.name, EndReason.STOP, 0))

    def expected(self) -> Any:
        """What the end must bind."""
        return expect_segment(DOMAIN, self.order, 1, self.generation, MINER.node, MODEL)


@pytest.mark.spec("LANE-WITHHELD.1")
@settings(max_examples=20)
@given(st.lists(st.integers(1, UNACKED + 4), max_size=3))
def test_only_the_end_leaves_and_it_signs_what_a_last_frame_would(sizes: list[int]) -> None:
    run = Withheld()
    assert run.render() == []
    total = 0
    for size in sizes:
        assert run.produce(range(total, total + size)) == [], "no ack is waited for, and no frame sent"
        total += size
    assert run.mine.wait(PARAMS.frame_gap_timeout_ms) == []
    effects = run.finish()
    (ended,) = sent(effects, run.channel)
    assert isinstance(ended, LaneEnded)
    assert ended.end.completion_tokens == total
    check_ended(DOMAIN, run.expected(), ended)
    reader = LaneVerifier(DOMAIN, run.expected())
    reader.begin(ended.head)
    whole = FrameMessage(
        ended.head.session,
        1,
        1,
        0,
        tuple(range(total)),
        tuple(b"%d " % i for i in range(total)),
        ended.end,
        ended.signature,
    )
    reader.take(whole)
    assert close_chain(reader.chain, ended.end) == ended.chain
    assert run.finish() == run.produce(range(3)) == []


@pytest.mark.spec("LANE-WITHHELD.1", "NOISE-KEY.1")
def test_a_lane_has_noise_of_its_own() -> None:
    (generate,) = of(Withheld().begun, Generate)
    assert generate.generation[2] == 1
    seeds = [lane_seed(b"\x06" * 32, 0, lane) for lane in range(2)]
    assert generate.lane_seed == seeds[1] != seeds[0]


@pytest.mark.spec("LANE-WITHHELD.1")
@pytest.mark.parametrize("begun", [False, True])
def test_a_withheld_lane_that_is_cancelled_says_so_once(*, begun: bool) -> None:
    run = Withheld()
    if begun:
        run.render()
        run.produce(range(5))
    effects = run.mine.receive(run.channel, CancelTask(run.order.session, 1))
    assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
    (said,) = sent(effects, run.channel)
    if begun:
        assert isinstance(said, LaneEnded)
        assert (said.end.reason, said.end.completion_tokens) == (EndReason.CANCELLED, 5)
        check_ended(DOMAIN, run.expected(), said)
    else:
        assert isinstance(said, TaskFailed)
    assert run.finish() == run.mine.receive(run.channel, CancelTask(run.order.session, 1)) == []


@pytest.mark.spec("LANE-WITHHELD.1")
def test_the_next_order_follows_an_end_and_lanes_kept_are_bounded() -> None:
    run = Withheld()
    run.render()
    run.finish()
    for task in range(2, 10):
        run = Withheld(run.mine, task, (run.channel, run.generation))
        assert of(run.begun, Generate)
        run.render()
        run.produce(range(10))
        run.finish()
        (lease,) = run.mine.machine._leases.values()
        assert len(lease.lanes) <= 5
    assert len(run.mine.machine._deadlines) == 1


@pytest.mark.spec("LANE-WITHHELD.1", "TASK-TERMINAL.1")
@pytest.mark.parametrize("how", ["fail", "deadline"])
def test_a_withheld_lane_that_cannot_end_fails_and_the_lease_stays(how: str) -> None:
    run = Withheld()
    run.render()
    run.produce(range(3))
    effects = run.tell(GenerationFailed(run.name, "engine_failed", "no")) if how == "fail" else run.mine.wait(60_000)
    (failed,) = sent(effects, run.channel)
    assert isinstance(failed, TaskFailed)
    assert failed.code == {"fail": "engine_failed", "deadline": "deadline_exceeded"}[how]
    assert of(Withheld(run.mine, 2, (run.channel, run.generation)).begun, Generate)


@pytest.mark.spec("LEASE-RENEWAL.1")
def test_a_lease_is_idle_from_the_end_of_its_withheld_order_on() -> None:
    run = Withheld()
    assert sent(run.mine.wait(59_000)) == []
    run.render()
    run.finish()
    idle_ms = PARAMS.lease_idle_ms
    assert run.mine.wait(idle_ms - 1) == []
    effects = run.mine.wait(1)
    assert sent(effects, run.channel) == [LeaseRelease(run.order.session)]
    assert Close(run.channel) in effects
    assert run.mine.machine.slots() == (2, 2)


# Taking lane 0 over


def ask(mine: Mine, opening: SessionOpen, router: Any = ROUTER) -> tuple[Channel, list[object]]:
    """A router asks for a lease once more, by the bid that the miner made."""
    (bid,) = [digest for digest, bid in mine.machine._bids.bids.items() if bid.session == id_of(opening)][-1:]
    channel = mine.opened(router.node, "task")
    return channel, mine.receive(channel, LeaseRequest(opening, CLIENT.sign(id_of(opening)), bid))


@pytest.mark.spec("FAILOVER-NEXT.1", "LEASE-GENERATION.1")
def test_a_takeover_ends_the_lanes_own_run_and_takes_no_second_slot() -> None:
    run = Withheld()
    run.render()
    run.produce(range(3))
    channel, effects = ask(run.mine, run.opening)
    assert of(effects, CancelGeneration) == [CancelGeneration(run.name)]
    assert Close(run.channel) in effects
    (grant,) = sent(effects, channel)
    assert isinstance(grant, LeaseGrant)
    assert grant.generation != run.generation
    assert run.mine.machine.slots() == (1, 2)
    assert run.finish() == [], "nobody is told of the run that ended"
    assignment = assignment_of(
        run.opening, number=2, miners=(MINER.node, MINERS[2].node), generations=(grant.generation, OTHER)
    )
    (generate,) = of(run.mine.receive(channel, start_of(assignment, run.order)), Generate)
    assert generate.generation[2] == 0
    run.mine.tell(ChannelClosed(run.channel, "closed"))
    assert run.mine.machine.slots() == (1, 2)
    run.mine.tell(ChannelClosed(channel, "closed"))
    assert run.mine.machine.slots() == (2, 2)


@pytest.mark.spec("FAILOVER-NEXT.1")
def test_the_last_slot_is_enough_to_take_over_with_and_a_refusal_keeps_the_run() -> None:
    run = Withheld()
    other, _ = run.mine.lease(opening_of(number=7))
    assert run.mine.machine.slots() == (0, 2)
    stranger, effects = ask(run.mine, run.opening, MINERS[4])
    assert Close(stranger) in effects, "the session does not name this router"
    run.render()
    channel, effects = ask(run.mine, run.opening)
    assert isinstance(sent(effects, channel)[0], LeaseGrant)
    assert run.mine.machine.slots() == (0, 2)
    late = opening_of(number=8)
    effects = run.mine.announce(late)
    assert not [m for m in sent(effects) if isinstance(m, Envelope)], "no slot, no bid"
    assert other in run.mine.machine._by_channel


@pytest.mark.spec("FAILOVER-NEXT.1")
def test_a_lease_request_without_a_bid_does_not_end_a_run() -> None:
    run = Withheld()
    run.render()
    channel = run.mine.opened(ROUTER.node, "task")
    effects = run.mine.receive(channel, LeaseRequest(run.opening, CLIENT.sign(id_of(run.opening)), bytes(32)))
    assert isinstance(sent(effects, channel)[0], LeaseBusy)
    assert [m for m in of(run.finish(), Send) if isinstance(m.message, LaneEnded)]
