"""Orders of one session beside each other: as many as its miner runs at once, the others in line."""

import pytest

from protocol.core.codec import Message
from protocol.core.machine import ChannelClosed, Open
from protocol.messages.sessions import LeaseGrant, SessionReady
from protocol.messages.tasks import CancelTask, EndRecord, FrameMessage, StartTask, TaskFailed
from tests.unit.protocol.machines import (
    GENERATION,
    MINERS,
    PARAMS,
    id_of,
    of,
    opening_of,
    order_of,
    sent,
    stream_of,
    submit_of,
)
from tests.unit.protocol.router_at_hand import Route


class Scene:
    """A session whose miner says how many orders it runs at once."""

    def __init__(self, orders: int = 2, bidders: int = 1, **settings: int) -> None:
        self.route, self.opening = Route(**settings), opening_of(tasks_max=10)
        self.client = self.route.client()
        effects = self.route.open(self.client, self.opening)
        if not effects:
            effects = self.route.wait(1_000)
        bids = [effect for miner in MINERS[:bidders] for effect in self.route.bid(self.opening, miner)]
        if not of(bids, Open):
            bids += self.route.wait(PARAMS.bid_window_ms)
        self.miner, _ = self.route.asked(bids)
        self.grant = LeaseGrant(id_of(self.opening), GENERATION, 1_000, orders)
        (ready,) = sent(self.route.receive(self.miner, self.grant), self.client)
        assert isinstance(ready, SessionReady)

    def order(self, task: int) -> list[int]:
        """The client orders; which orders the miner is handed."""
        return self.handed(self.route.receive(self.client, submit_of(self.opening, task)))

    def handed(self, effects: list[object]) -> list[int]:
        """Which orders the effects hand over."""
        return [message.order.task for message in sent(effects) if isinstance(message, StartTask)]

    def refuse(self, task: int) -> list[object]:
        """The miner has no slot to spare."""
        refusal = TaskFailed(id_of(self.opening), task, "queue_full", "no slot is free beside", 1_000)
        return self.route.receive(self.miner, refusal)

    def stream(self, task: int) -> list[Message]:
        """The whole answer."""
        return stream_of(order_of(self.opening, task))

    def end(self, task: int) -> list[object]:
        """The miner streams an order to its end."""
        return [effect for message in self.stream(task) for effect in self.route.receive(self.miner, message)]

    def ends(self, effects: list[object]) -> list[tuple[int, str]]:
        """What the client hears of ends."""
        told = sent(effects, self.client)
        codes = [(message.task, message.code) for message in told if isinstance(message, TaskFailed)]
        frames = [message for message in told if isinstance(message, FrameMessage)]
        return codes + [(frame.task, "end") for frame in frames if isinstance(frame.end, EndRecord)]


@pytest.mark.spec("ORDER-PARALLEL.1")
def test_as_many_orders_run_at_once_as_the_grant_names() -> None:
    scene = Scene(orders=2)
    assert [scene.order(task) for task in (1, 2, 3)] == [[1], [2], []]
    effects = scene.end(2)
    assert (scene.ends(effects), scene.handed(effects)) == ([(2, "end")], [3])
    assert scene.order(4) == []
    effects = scene.end(1)
    assert (scene.ends(effects), scene.handed(effects)) == ([(1, "end")], [4])


@pytest.mark.spec("ORDER-PARALLEL.1", "TASK-TERMINAL.1")
def test_what_the_miner_has_no_slot_for_waits_until_another_order_has_ended() -> None:
    scene = Scene(orders=4)
    assert [scene.order(task) for task in (1, 2)] == [[1], [2]]
    assert scene.refuse(2) == []
    assert scene.order(3) == [], "it would have no slot either"
    effects = scene.end(1)
    assert scene.handed(effects) == [2, 3]
    assert scene.refuse(3) == []
    effects = scene.end(2)
    assert (scene.ends(effects), scene.handed(effects)) == ([(2, "end")], [3])
    assert scene.ends(scene.end(3)) == [(3, "end")]
    assert scene.route.machine.load()["tasks"] == 0
    assert [name for name, _ in scene.route.machine._task_deadlines._at.items()] == []


@pytest.mark.spec("ORDER-PARALLEL.1", "FAILOVER-NEXT.1")
def test_a_miner_that_refuses_the_only_order_failed_at_it() -> None:
    scene = Scene(orders=4)
    scene.order(1)
    scene.refuse(1)
    assert scene.route.machine._sessions[id_of(scene.opening)].lease is None


@pytest.mark.spec("ORDER-PARALLEL.1")
def test_an_order_that_streams_already_is_not_put_back() -> None:
    scene = Scene(orders=4)
    for task in (1, 2):
        scene.order(task)
    for message in scene.stream(2)[:2]:
        scene.route.receive(scene.miner, message)
    scene.refuse(2)
    assert scene.route.machine._sessions[id_of(scene.opening)].lease is None


@pytest.mark.spec("TASK-TERMINAL.1")
def test_an_order_that_was_put_back_can_be_cancelled_and_ends_by_its_deadline() -> None:
    scene = Scene(orders=4)
    for task in (1, 2, 3):
        scene.order(task)
    for task in (2, 3):
        scene.refuse(task)
    effects = scene.route.receive(scene.client, CancelTask(id_of(scene.opening), 2))
    assert scene.ends(effects) == [(2, "cancelled")]
    assert sent(effects, scene.miner) == []
    ended = [end for _ in range(60) for end in scene.ends(scene.route.wait(1_000))]
    assert [code for task, code in ended if task == 3] in (["deadline_exceeded"], ["miner_lost"])


@pytest.mark.spec("ORDER-PARALLEL.1", "CHAIN-TAKEOVER.1")
def test_the_next_miner_goes_on_with_all_that_the_lost_one_ran() -> None:
    scene = Scene(orders=2)
    for task in (1, 2, 3):
        scene.order(task)
    for message in scene.stream(2)[:3]:
        scene.route.receive(scene.miner, message)
    effects = scene.route.tell(ChannelClosed(scene.miner, "gone"))
    for _ in range(20):
        if any(each.protocol == "task" for each in of(effects, Open)):
            break
        effects = scene.route.bid(scene.opening, MINERS[1]) + scene.route.wait(500)
    channel, miner = scene.route.asked(effects)
    assert miner == MINERS[1].node
    grant = LeaseGrant(id_of(scene.opening), b"\x45" * 24, 1_000, 2)
    starts = [message for message in sent(scene.route.receive(channel, grant)) if isinstance(message, StartTask)]
    assert [start.order.task for start in starts] == [1, 2]
    assert starts[0].resume is None
    assert starts[1].resume is not None
    assert len(starts[1].resume.ids) == 3


@pytest.mark.spec("ORDER-PARALLEL.1", "HEDGE-START.1")
@pytest.mark.parametrize("running", [1, 2])
def test_no_second_start_is_made_while_two_orders_run_and_nothing_joins_one_that_is(running: int) -> None:
    scene = Scene(orders=2, bidders=2, hedge_bp=10_000)
    for task in range(1, running + 1):
        assert scene.order(task) == [task]
    session = scene.route.machine._sessions[id_of(scene.opening)]
    scene.route.wait(2 * PARAMS.stall_ms_min)
    asked = [(channel, ask.hedge) for channel, ask in session.asks.items()]
    if running == 2:
        assert asked == []
        return
    ((second, hedge),) = asked
    assert hedge == 1
    grant = LeaseGrant(id_of(scene.opening), b"\x46" * 24, 1_000, 2)
    assert scene.handed(scene.route.receive(second, grant)) == [1]
    assert scene.order(2) == [], "it waits for the one that wins"
    assert scene.handed(scene.route.tell(ChannelClosed(second, "gone"))) == [2]
