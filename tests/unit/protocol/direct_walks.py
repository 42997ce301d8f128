"""Walks of router, miner and client in which clients take their frames on streams of their own to the miner."""

from collections import Counter
from typing import Any

import msgspec
from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Received, Sent
from protocol.core.signing import typed_digest
from protocol.messages.sessions import SessionOpen
from protocol.messages.tasks import (
    Ack,
    AckMessage,
    AttachDirect,
    Continuation,
    Delivery,
    DirectReady,
    EndReason,
    EndRecord,
    FrameMessage,
    RelayTask,
    SegmentStart,
    SubmitTask,
)
from protocol.roles.client import OpenAsked, SessionOver
from protocol.session.lifecycle import SessionState
from protocol.session.transcript import SegmentWriter, segment_id
from tests.unit.protocol.client_walk import ClientWalk
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    MINER,
    MINERS,
    MODEL,
    PARAMS,
    PROMPT_TOKENS,
    ROUTER,
    assignment_of,
    head_of,
    id_of,
    order_of,
    ready_of,
    start_of,
    stream_of,
    submit_of,
)
from tests.unit.protocol.miner_walk import MinerWalk
from tests.unit.protocol.router_walk import RouterWalk
from tests.unit.protocol.walk import openings, tasks


class DirectRouterWalk(RouterWalk):
    """A router past which some orders are streamed. Those may end without its word, and never in two."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted: Counter[tuple[bytes, int]] = Counter()

    def proper(self, data: st.DataObject) -> None:
        opening = data.draw(openings)
        session = self.hand.machine._sessions.get(id_of(opening))
        if session is None or session.client is None or not session.was_ready or data.draw(st.booleans()):
            super().proper(data)
            return
        direct = [task for task in session.tasks.values() if task.direct]
        lease = session.lease
        if not direct or data.draw(st.integers(0, 3)) == 0:
            self.say(session.client, msgspec.structs.replace(submit_of(opening, session.last_task + 1), direct=True))
            return
        task = data.draw(st.sampled_from(direct))
        if lease is not None and task.started and session.life.state is SessionState.READY and data.draw(st.booleans()):
            self.say(lease.channel, self.ended(lease, task.submit.order, 0))
        else:
            self.say(session.client, self.fall_back(data, task, lease))

    def fall_back(self, data: st.DataObject, task: Any, lease: Any) -> SubmitTask:
        """The client sends an order again, with what it has; now and then with what nobody signed."""
        names: dict[str, Any] = {"generation": task.generation or GENERATION}
        if lease is not None:
            names["miner"] = next(miner for miner in MINERS if miner.node == lease.miner)
        head, *frames = stream_of(task.submit.order, sizes=[1] * 8, **names)
        assert isinstance(head, SegmentStart)
        has = [f for f in frames[: data.draw(st.integers(0, 7))] if isinstance(f, FrameMessage)]
        texts = [b"forged"] * len(has) if data.draw(st.integers(0, 9)) == 0 else [frame.texts[0] for frame in has]
        ids = tuple(frame.ids[0] for frame in has)
        resume = Continuation((head.head,), ids, tuple(texts)) if has else None
        return msgspec.structs.replace(task.submit, direct=False, resume=resume)

    def received(self, channel: Channel, message: Message) -> None:
        if isinstance(message, SubmitTask):
            name = bytes(message.order.session), message.order.task
            if message.direct or name in self.submitted:
                self.submitted[name] += channel in self.hand.machine._clients.channels
                return
        super().received(channel, message)

    def finish(self) -> None:
        self.did(self.hand.wait(4_000_000))
        for channel, session, task in list(self.owed):
            if (session, task) in self.submitted:
                said = -self.owed.pop((channel, session, task))
                # A session that is not there refuses every order, also one that is sent again.
                assert said <= self.submitted[session, task] + 1
        super().finish()


class DirectMinerWalk(MinerWalk):
    """A miner whose sessions' clients come themselves."""

    def proper(self, data: st.DataObject) -> None:
        machine = self.hand.machine
        opening = data.draw(openings)
        lease = machine._leases.get(id_of(opening))
        if lease is None or data.draw(st.integers(0, 3)) == 0:
            super().proper(data)
            return
        assignment = assignment_of(opening, generations=(lease.generation,))
        if lease.direct is None or data.draw(st.integers(0, 9)) == 0:
            self.inbound += 1
            channel = Channel(self.inbound)
            self.channels.append(channel)
            self.did(self.hand.tell(ChannelOpened(channel, CLIENT.node, "task")))
            self.say(channel, AttachDirect(assignment, ROUTER.sign(typed_digest(DOMAIN, assignment))))
        elif not lease.running():
            order = order_of(opening, lease.last_task + 1)
            self.say(lease.channel, start_of(assignment, order, delivery=Delivery.DIRECT))
        else:
            self.directly(data, lease, data.draw(st.sampled_from(list(lease.lanes.values()))))

    def directly(self, data: st.DataObject, lease: Any, lane: Any) -> None:
        """What may happen to an order that is streamed directly."""
        events: list[object] = [Sent(lease.direct)] * 3
        for index, chain in {lane.acked: lane._acked_chain, **lane._boundaries}.items():
            relay = RelayTask(lease.session, lane.order.task, index, chain)
            ack = Ack(
                lease.session,
                lane.order.task,
                0,
                lease.generation,
                segment_id(DOMAIN, lane.writer.head) if lane.writer else bytes(32),
                index,
                chain,
            )
            events.append(Received(lease.channel, relay))
            acked = AckMessage(ack, CLIENT.sign(typed_digest(DOMAIN, ack)))
            events += [Received(lease.direct, acked)] * 3
        if lane in lease.running() and data.draw(st.booleans()):
            self.work(data, lease, lane)
            return
        if data.draw(st.integers(0, 4)) == 0:
            self.dead.add(lease.direct)
            events = [ChannelClosed(lease.direct, "gone")]
        self.did(self.hand.tell(data.draw(st.sampled_from(events))))

    def likely(self, data: st.DataObject) -> st.SearchStrategy[Message]:
        opening, task = data.draw(openings), data.draw(tasks)
        assignment = assignment_of(opening, generations=(data.draw(st.sampled_from(self.generations[-3:])),))
        token = AttachDirect(assignment, ROUTER.sign(typed_digest(DOMAIN, assignment)))
        relay = RelayTask(id_of(opening), task, data.draw(st.integers(0, 50)), bytes(32))
        return st.one_of(super().likely(data), st.sampled_from([token, relay]))

    def finish(self) -> None:
        super().finish()
        assert self.hand.machine._direct.sessions == {}

    def bounded(self) -> None:
        super().bounded()
        machine = self.hand.machine
        assert set(machine._peers) == set(machine._by_channel) | set(machine._direct.sessions)
        streams = {lease.direct: lease.session for lease in machine._leases.values() if lease.direct is not None}
        assert machine._direct.sessions == streams
        for lease in machine._leases.values():
            for lane in lease.lanes.values():
                held = sum(len(frame.ids) for frame in lane._unacked)
                assert held <= PARAMS.unacked_tokens_max + PARAMS.frame_tokens_max


class DirectClientWalk(ClientWalk):
    """A client with streams to its miners, which it trusts no more than the router."""

    def open(self) -> None:
        handle = self.handles + 1
        content = (handle, ROUTER.node, MODEL, handle.to_bytes(32, "big"), 1_000, 9, 5_000, 10**6)
        self.wish(OpenAsked(*content, direct=True), SessionOver)

    def go_on(self, data: st.DataObject, router: Any, session: Any) -> None:
        before = session.assignment
        if before is None:
            self.say(router.channel, self.ready(session.opening, 1))
        elif session.direct is not None and not session.direct.ready:
            self.say(session.direct.channel, DirectReady(session.id))
        elif len(session.tasks) < 2:
            self.ask(session.handle)
        elif (what := data.draw(st.integers(0, 19))) == 0:
            self.say(router.channel, self.ready(session.opening, before.number + 1))
        elif what == 1 and session.direct is not None:
            self.dead.add(session.direct.channel)
            self.did(self.hand.tell(ChannelClosed(session.direct.channel, "gone")))
        else:
            task = data.draw(st.sampled_from(list(session.tasks.values())))
            by = session.direct.channel if task.direct and session.direct is not None else router.channel
            self.say(by, self.streamed(task, before))

    @staticmethod
    def ready(opening: SessionOpen, number: int) -> Message:
        """The miner holds a lease, another one each time."""
        generation = GENERATION[:-1] + bytes([number % 256])
        made = ready_of(opening, number=number, generations=(generation,))
        return msgspec.structs.replace(made, addresses=("/memory/1",))

    @staticmethod
    def streamed(task: Any, assignment: Any) -> Message:
        """What the miner sends next."""
        verifier = task.verifier
        if verifier._segment is None:
            names = {"start_index": verifier.index, "previous_head": verifier.chain}
            return SegmentStart(head_of(task.order, assignment.generations[0], **names))
        writer = SegmentWriter(DOMAIN, MINER.sign, verifier.head)
        writer.index, writer.chain = verifier.index, verifier.chain
        end = EndRecord(EndReason.STOP, len(PROMPT_TOKENS), writer.index + 1, 0) if writer.index >= 6 else None
        return writer.frame([writer.index], [b"%d " % writer.index], end)

    def finish(self) -> None:
        super().finish()
        assert self.hand.machine._held.direct == {}

    def bounded(self) -> None:
        super().bounded()
        held = self.hand.machine._held
        streams = {s.direct.channel: s for s in held.sessions.values() if s.direct is not None}
        assert held.direct == streams
        for task in held.tasks.values():
            assert not task.direct or task.session.direct is not None, "frames are awaited on a stream that is there"
