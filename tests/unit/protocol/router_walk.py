"""A router's walk, and what it owes its clients."""

from collections import Counter
from typing import Any

from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.ids import ZERO_DIGEST, NodeId
from protocol.core.machine import (
    Channel,
    ChannelOpened,
    Send,
)
from protocol.messages.sessions import (
    ClientHello,
    CloseSession,
    LeaseBusy,
    LeaseGrant,
    LeaseRelease,
    OpenSession,
    ResumeSession,
    SessionEnded,
    SessionResumed,
)
from protocol.messages.tasks import (
    CancelTask,
    FrameMessage,
    SubmitTask,
    TaskFailed,
)
from protocol.roles.router.state import KEPT_MESSAGES_MAX
from protocol.session.lifecycle import SessionState
from protocol.session.transcript import replay
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    MINERS,
    PARAMS,
    bid_of,
    id_of,
    of,
    stream_of,
    submit_of,
)
from tests.unit.protocol.router_at_hand import Route
from tests.unit.protocol.walk import OPENINGS, STREAMS, Walk, openings, tasks


class RouterWalk(Walk):
    """A router, and what it owes its clients."""

    protocols = ("client", "client", "bid")

    def __init__(self) -> None:
        super().__init__(Route())
        self.owed: Counter[tuple[Channel, bytes, int]] = Counter()

    def proper(self, data: st.DataObject) -> None:
        machine = self.hand.machine
        if not machine._clients.channels:
            self.join(CLIENT.node, "client")
            return
        opening = data.draw(openings)
        session = machine._sessions.get(id_of(opening))
        if session is None:
            client = data.draw(st.sampled_from(sorted(machine._clients.channels)))
            self.say(client, OpenSession(opening, CLIENT.sign(id_of(opening)), 5_000, 10))
        elif session.life.state is SessionState.BIDDING:
            miner = data.draw(st.sampled_from(MINERS[:3]))
            self.say(self.join(miner.node, "bid"), bid_of(opening, miner, issued_ms=self.hand.now_ms))
        elif session.life.state is SessionState.LEASING and session.asks:
            answers = [LeaseGrant(session.id, GENERATION, 1_000)] * 3 + [LeaseBusy(session.id, 1, "no")]
            self.say(data.draw(st.sampled_from(sorted(session.asks))), data.draw(st.sampled_from(answers)))
        elif session.client is None:
            self.say(self.join(CLIENT.node, "client"), ResumeSession(session.id, session.told))
        elif session.life.state in (SessionState.READY, SessionState.RESTING) and session.running() is None:
            self.say(session.client, submit_of(opening, session.last_task + 1))
        elif session.life.state is SessionState.READY:
            self.say(session.lease.channel, self.streamed(session))
        else:
            self.did(self.hand.wait(400))

    def streamed(self, session: Any) -> Message:
        """The next message of the running task's miner, which may go on with what another began."""
        task = session.running()
        miner = next(miner for miner in MINERS if miner.node == session.lease.miner)
        head = task.verifier.head
        if task.verifier._segment is None:
            resume = task.continuation()
            start, previous = (len(resume.ids), replay(DOMAIN, resume)) if resume else (0, ZERO_DIGEST)
        else:
            start, previous = head.start_index, head.previous_head
        sizes = [1] * (8 - start) or [0]
        order = task.submit.order
        segment, *frames = stream_of(order, sizes=sizes, miner=miner, start_index=start, previous_head=previous)
        if task.verifier._segment is None:
            return segment
        return next(frame for frame in frames if frame.first_index == task.verifier.index)  # type: ignore[attr-defined]

    def join(self, peer: NodeId, protocol: str) -> Channel:
        """A stream is opened."""
        self.inbound += 1
        channel = Channel(self.inbound)
        self.channels.append(channel)
        self.did(self.hand.tell(ChannelOpened(channel, peer, protocol)))
        return channel

    def likely(self, data: st.DataObject) -> st.SearchStrategy[Message]:
        opening, task = data.draw(openings), data.draw(tasks)
        stream = STREAMS[OPENINGS.index(opening), min(task, 2)]
        return st.sampled_from(
            [
                OpenSession(opening, CLIENT.sign(id_of(opening)), 5_000, 10),
                OpenSession(opening, CLIENT.sign(id_of(opening)), 5_000, 10),
                submit_of(opening, task),
                *(bid_of(opening, miner, issued_ms=self.hand.now_ms) for miner in MINERS[:3]),
                LeaseGrant(id_of(opening), GENERATION, 1_000),
                LeaseGrant(id_of(opening), GENERATION, 1_000),
                LeaseBusy(id_of(opening), 1, "no"),
                LeaseRelease(id_of(opening)),
                CloseSession(id_of(opening)),
                CancelTask(id_of(opening), task),
                TaskFailed(id_of(opening), task, "engine_failed", "no", 0),
                ClientHello(),
                *stream,
            ]
        )

    def received(self, channel: Channel, message: Message) -> None:
        if channel in self.hand.machine._clients.channels:
            if isinstance(message, OpenSession):
                self.owed[channel, id_of(message.opening), 0] += 1
            if isinstance(message, ResumeSession):
                self.owed[channel, message.session, 0] += 1
            if isinstance(message, SubmitTask):
                self.owed[channel, message.order.session, message.order.task] += 1

    def did(self, effects: list[object]) -> None:
        super().did(effects)
        for effect in of(effects, Send):
            match effect.message:
                case SessionResumed():
                    self._moved(effect.channel, effect.message.session, effects)
                case SessionEnded():
                    self.owed[effect.channel, effect.message.session, 0] -= 1
                case TaskFailed() if effect.channel > 0:
                    self.owed[effect.channel, effect.message.session, effect.message.task] -= 1
                case FrameMessage() if effect.message.end is not None:
                    self.owed[effect.channel, effect.message.session, effect.message.task] -= 1

    def _moved(self, channel: Channel, session: bytes, effects: list[object]) -> None:
        """What was owed on another stream is owed on this one; an end that was lost there is said again here."""
        for before, name, task in list(self.owed):
            if name == session and before != channel:
                count = self.owed.pop((before, name, task))
                self.owed[channel, name, task] += count if task else 0
        for effect in of(effects, Send):
            match effect.message:
                case FrameMessage(end=end) if end is not None:
                    self.owed[channel, session, effect.message.task] += 1
                case TaskFailed():
                    self.owed[channel, session, effect.message.task] += 1

    def finish(self) -> None:
        """After every deadline nobody is owed anything."""
        self.did(self.hand.wait(4_000_000))
        for (channel, _, _), count in self.owed.items():
            assert count == 0 or (channel in self.dead and count > 0)
        machine = self.hand.machine
        assert set(machine._peers) == set(machine._clients.channels)
        machine._clients.channels.clear()
        machine._peers.clear()
        self.hand.empty()  # type: ignore[attr-defined]
        assert machine.next_deadline() is None

    def bounded(self) -> None:
        machine = self.hand.machine
        assert len(machine._sessions) <= PARAMS.sessions_per_router_max
        assert len(machine._queue) <= PARAMS.queue_requests_max
        assert len(machine._rounds_open) <= 16
        assert len(machine._clients.channels) + len(machine._bidders) <= 4 * PARAMS.sessions_per_router_max
        assert set(machine._leasing.miners.values()) <= set(machine._sessions)
        for session in machine._sessions.values():
            assert len(session.tasks) <= PARAMS.tasks_pending_per_session_max
            assert len(session.kept) <= KEPT_MESSAGES_MAX
