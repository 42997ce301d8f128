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
from protocol.messages.embeddings import EmbedFailed
from protocol.messages.greeting import ClientHello
from protocol.messages.sessions import (
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
    EndReason,
    EndRecord,
    FrameMessage,
    LaneEnded,
    SubmitTask,
    TaskFailed,
)
from protocol.roles.router.clients import DETACHED_SHARE
from protocol.roles.router.leasing import ASKED_AT_ONCE_MAX
from protocol.roles.router.relay import REPORTED_KEPT
from protocol.roles.router.state import KEPT_BYTES_MAX, KEPT_MESSAGES_MAX
from protocol.session.lifecycle import SessionState
from protocol.session.transcript import SegmentWriter, close_chain, replay
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENERATION,
    MINERS,
    PARAMS,
    PROMPT_TOKENS,
    ROUTER,
    bid_of,
    embed_of,
    head_of,
    id_of,
    of,
    stream_of,
    submit_of,
)
from tests.unit.protocol.router_at_hand import Route
from tests.unit.protocol.seeking_at_hand import term_of
from tests.unit.protocol.walk import OPENINGS, STREAMS, Walk, openings, tasks


class RouterWalk(Walk):
    """A router, and what it owes its clients."""

    protocols = ("client", "client", "bid")

    def __init__(self) -> None:
        super().__init__(Route(hedge_bp=2_500))
        self.drawn = 0
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
        elif session.asks and session.life.state in (SessionState.LEASING, SessionState.READY):
            self.drawn += 1
            generation = GENERATION[:16] + self.drawn.to_bytes(8, "big")
            grants = [LeaseGrant(session.id, generation, 1_000, orders) for orders in (1, 1, 2, 4)]
            answers = [*grants, LeaseBusy(session.id, 1, "no")]
            self.say(data.draw(st.sampled_from(sorted(session.asks))), data.draw(st.sampled_from(answers)))
        elif session.client is None:
            self.say(self.join(CLIENT.node, "client"), ResumeSession(session.id, session.told))
        elif session.life.state in (SessionState.READY, SessionState.RESTING) and (
            session.running() is None or data.draw(st.integers(0, 5)) == 0
        ):
            self.say(session.client, submit_of(opening, session.last_task + 1))
        elif session.life.state is SessionState.READY:
            self.work(data, session)
        else:
            self.did(self.hand.wait(400))

    def work(self, data: st.DataObject, session: Any) -> None:
        """Some miner of a session that is at work says what comes next; or time passes, and it is late."""
        ways: list[Any] = [lambda: self.say(session.lease.channel, self.streamed(session))] * 3
        for lane, line in session.withheld.items():
            if line.running is not None:
                ended = self.ended(session.leases[lane], line.running.submit.order, lane)
                ways.append(lambda lane=lane, ended=ended: self.say(session.leases[lane].channel, ended))
        if session.hedge is not None:
            ways += [lambda: self.say(session.hedge.lease.channel, self.streamed(session, session.hedge))] * 3
        elif session.running().index == 0:
            ways.append(lambda: self.did(self.hand.wait(2_000)))
        data.draw(st.sampled_from(ways))()

    @staticmethod
    def ended(lease: Any, order: Any, lane: int) -> LaneEnded:
        """What the miner of a withheld lane signs at its end."""
        miner = next(miner for miner in MINERS if miner.node == lease.miner)
        writer = SegmentWriter(DOMAIN, miner.sign, head_of(order, lease.generation, lane=lane, miner=miner.node))
        end = EndRecord(EndReason.STOP, len(PROMPT_TOKENS), 1, 0)
        frame = writer.frame((1,), (b"a",), end)
        return LaneEnded(writer.head, end, close_chain(writer.chain, end), frame.signature)

    def streamed(self, session: Any, hedge: Any = None) -> Message:
        """The next message of the running task's miner, or of the second one. It may go on with what another began."""
        task, holder = session.running(), hedge if hedge is not None else session
        miner = next(miner for miner in MINERS if miner.node == holder.lease.miner)
        verifier = hedge.verifier if hedge is not None else task.verifier
        head = verifier.head
        if verifier._segment is None:
            resume = task.continuation()
            start, previous = (len(resume.ids), replay(DOMAIN, resume)) if resume else (0, ZERO_DIGEST)
        else:
            start, previous = head.start_index, head.previous_head
        sizes = [1] * (8 - start) or [0]
        order = task.submit.order
        names: dict[str, Any] = {"start_index": start, "previous_head": previous}
        names["generation"] = holder.lease.generation
        segment, *frames = stream_of(order, sizes=sizes, miner=miner, **names)
        if verifier._segment is None:
            return segment
        return next(frame for frame in frames if frame.first_index == verifier.index)  # type: ignore[attr-defined]

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
        term = term_of(opening, ROUTER, data.draw(st.integers(1, 3)) * 1_024)
        return st.sampled_from(
            [
                OpenSession(opening, CLIENT.sign(id_of(opening)), 5_000, 10),
                OpenSession(opening, CLIENT.sign(id_of(opening)), 5_000, 10),
                OpenSession(opening, CLIENT.sign(id_of(opening)), 5_000, 10, term),
                ResumeSession(id_of(opening), data.draw(st.integers(0, 6))),
                LeaseBusy(id_of(opening), 1, "another router's", term),
                submit_of(opening, task),
                *(bid_of(opening, miner, issued_ms=self.hand.now_ms) for miner in MINERS[:3]),
                LeaseGrant(id_of(opening), GENERATION, 1_000),
                LeaseGrant(id_of(opening), GENERATION, 1_000),
                embed_of(opening, data.draw(tasks)),
                EmbedFailed(id_of(opening), data.draw(tasks), "engine_failed", "no", 0),
                LeaseBusy(id_of(opening), 1, "no"),
                LeaseRelease(id_of(opening)),
                CloseSession(id_of(opening)),
                CancelTask(id_of(opening), task),
                TaskFailed(id_of(opening), task, "engine_failed", "no", 0),
                ClientHello(),
                *stream,
            ]
        )

    def say(self, channel: Channel, message: Message) -> None:
        name = id_of(message.opening) if isinstance(message, OpenSession) else None
        before = self.hand.machine._sessions.get(name)
        super().say(channel, message)
        after = self.hand.machine._sessions.get(name)
        if before is not None and after is not before:
            # Its client started it over: what was owed before is owed no more.
            for owed in [owed for owed in self.owed if owed[1] == name]:
                del self.owed[owed]
            if after is not None:
                self.owed[channel, bytes(after.id), 0] = 1

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
        clients, kept = machine._clients, [name for names in machine._clients.kept.values() for name in names]
        assert len(clients.away) == len(kept) <= PARAMS.sessions_per_router_max // DETACHED_SHARE
        assert set(kept) == {name for name, session in machine._sessions.items() if session.client is None}
        assert clients.held == Counter(session.peer for session in machine._sessions.values())
        for session in machine._sessions.values():
            assert len(session.tasks) <= PARAMS.tasks_pending_per_session_max + REPORTED_KEPT
            assert len(session.kept) <= KEPT_MESSAGES_MAX
            assert session.kept_bytes <= KEPT_BYTES_MAX
            asked = Counter(ask.lane for ask in session.asks.values())
            assert max(asked.values(), default=0) <= ASKED_AT_ONCE_MAX + 1, "and one for a second start"
            hedges = [session.hedge.lease] if session.hedge is not None else []
            held = [*session.leases.values(), *session.granted.values(), *hedges]
            miners = [lease.miner for lease in (*session.leases.values(), *hedges)]
            assert len(set(miners)) == len(miners), "each lane has a miner of its own"
            assert {lease.channel for lease in held} | set(session.asks) == {
                channel for channel, name in machine._leasing.miners.items() if name == session.id
            }, "a stream to a miner is a lease or an ask"
            for line in session.withheld.values():
                assert len(line.waiting) <= PARAMS.tasks_pending_per_session_max + 1
            for lane, line in session.withheld.items():
                assert line.running is None or lane in session.leases, "what runs runs somewhere"
