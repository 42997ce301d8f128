"""The router's machine: clients in, auctions and leases out, orders and frames through.

It promises its clients one thing above all: whatever miners do, every session and every order ends in exactly
one terminal event by its deadline. It holds no text longer than it takes to pass it on.
"""

from collections import OrderedDict

from protocol.core.codec import Message, decode
from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import Digest, ModelDigest, NodeId, SessionId, Signature
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelNumbers,
    ChannelOpened,
    Close,
    DeadlineReached,
    Note,
    Received,
    Send,
)
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign, verify
from protocol.messages.envelope import Envelope
from protocol.messages.sessions import (
    Bid,
    ClientHello,
    CloseSession,
    LeaseBusy,
    LeaseGrant,
    LeaseRelease,
    OpenSession,
    RouterHello,
    SessionEnded,
    SessionOpen,
    session_id,
)
from protocol.messages.tasks import AckMessage, CancelTask, FrameMessage, SegmentStart, SubmitTask, TaskFailed
from protocol.roles.router.admission import RETRY_AFTER_MS, Refusal, find_fault, find_shortage
from protocol.roles.router.relay import Relay, TaskName
from protocol.roles.router.rounds import RoundName, Rounds
from protocol.roles.router.state import Measured, RouterSettings, Session
from protocol.session.adverts import AdvertBook
from protocol.session.lifecycle import SessionFact, SessionState
from protocol.session.queue import FairQueue, Refused, Waiting

MEASURED_MAX = 10_000
MODELS_SHOWN_MAX = 64
NOBODY_FREE = ("no_capacity", "no miner had a free slot in time")
NOBODY_ELSE = ("miner_lost", "no other miner took over in time")


class RouterMachine:
    """See the module. ``book`` is filled by the peer machine of the same node."""

    protocols = ("client", "bid")
    topics = ()

    def __init__(self, settings: RouterSettings, domain: Domain, params: Params, sign: Sign, book: AdvertBook) -> None:
        self._settings = settings
        self._domain = domain
        self._params = params
        self._book = book
        self._measured: OrderedDict[NodeId, Measured] = OrderedDict()
        self._sessions: dict[SessionId, Session] = {}
        self._queue = FairQueue(params)
        self._rounds_open: dict[SessionId, None] = {}
        """Sessions that look for miners, the longest first."""
        self._peers: dict[Channel, NodeId] = {}
        self._clients: dict[Channel, dict[SessionId, None]] = {}
        self._bidders: Deadlines[Channel] = Deadlines()
        """Streams that a bid is due on; each ends with its receipt."""
        self._miners: dict[Channel, SessionId] = {}
        self._round_deadlines: Deadlines[RoundName] = Deadlines()
        self._task_deadlines: Deadlines[TaskName] = Deadlines()
        self._session_deadlines: Deadlines[SessionId] = Deadlines()
        self._rounds = Rounds(
            settings,
            domain,
            params,
            sign,
            book,
            ChannelNumbers(),
            self._round_deadlines,
            self._measurement_of,
            dict(settings.numbers),
        )
        self._relay = Relay(domain, params, self._task_deadlines, self._measurement_of)

    def next_deadline(self) -> int | None:
        """The earliest of rounds, tasks, sessions and the queue."""
        clocks = (
            self._round_deadlines.next(),
            self._task_deadlines.next(),
            self._session_deadlines.next(),
            self._bidders.next(),
            self._rounds.assigned.next(),
        )
        return min((at for at in clocks if at is not None), default=None)

    def handle(self, event: object, now_ms: int) -> list[object]:
        """Take one event; total on whatever a peer sent."""
        match event:
            case ChannelOpened():
                return self._opened(event, now_ms)
            case Received():
                return self._received(event, now_ms)
            case ChannelClosed():
                return self._closed(event, now_ms)
            case DeadlineReached():
                return self._expire(now_ms)
        return []

    def load(self) -> dict[str, int]:
        """Figures for status."""
        ready = sum(session.life.state is SessionState.READY for session in self._sessions.values())
        return {
            "sessions": len(self._sessions),
            "sessions_ready": ready,
            "queued": len(self._queue),
            "tasks": sum(len(session.tasks) for session in self._sessions.values()),
            "clients": len(self._clients),
        }

    # Channels

    def _opened(self, event: ChannelOpened, now_ms: int) -> list[object]:
        held = len(self._clients if event.protocol == "client" else self._bidders)
        if held >= 2 * self._params.sessions_per_router_max:
            return [Close(event.channel)]
        self._peers[event.channel] = event.peer
        if event.protocol == "client":
            self._clients[event.channel] = {}
        else:
            self._bidders.set(event.channel, now_ms + self._params.announcement_lifetime_ms)
        return []

    def _received(self, event: Received, now_ms: int) -> list[object]:
        try:
            if event.channel in self._clients:
                return self._from_client(event, now_ms)
            if self._bidders.at(event.channel) is not None:
                return self._from_bidder(event, now_ms)
            if event.channel in self._miners:
                return self._from_miner(event, now_ms)
        except RemoteProtocolError as error:
            peer = self._peers.get(event.channel, NodeId(b""))
            note = Note("router.peer-broke-rule", (("peer", peer.hex()), ("why", str(error))))
            return [note, *self._broke_rule(event.channel, error, now_ms), Close(event.channel)]
        return []

    def _broke_rule(self, channel: Channel, error: RemoteProtocolError, now_ms: int) -> list[object]:
        effects: list[object] = []
        for session in self._clients.get(channel, ()):
            ended = SessionEnded(session, "bad_request", str(error)[:1_024], 0)
            effects.append(Send(channel, ended, key=session))
        return effects + self._closed(ChannelClosed(channel, str(error)), now_ms)

    def _closed(self, event: ChannelClosed, now_ms: int) -> list[object]:
        channel = event.channel
        self._peers.pop(channel, None)
        self._bidders.clear(channel)
        effects: list[object] = []
        left = self._clients.pop(channel, {})
        for session in left:
            # All leave the queue before the first one's end starts a round for another.
            self._queue.remove(session)
        for session in left:
            effects += self._end(self._sessions[session], "router_lost", "the client left", now_ms, tell=False)
        miner_of = self._miners.pop(channel, None)
        if miner_of is not None and miner_of in self._sessions:
            effects += self._miner_gone(self._sessions[miner_of], channel, event.reason, now_ms)
        return effects

    def _miner_gone(self, session: Session, channel: Channel, reason: str, now_ms: int) -> list[object]:
        if session.lease is not None and session.lease.channel == channel:
            return self._fail_over(session, f"the miner is gone: {reason}", now_ms)
        if session.round is not None and session.round.channel == channel:
            return self._watch(session, self._rounds.refused(session, now_ms, reason))
        return []

    # Clients

    def _from_client(self, event: Received, now_ms: int) -> list[object]:
        message = event.message
        match message:
            case ClientHello():
                models = self._book.models(MODELS_SHOWN_MAX)
                return [Send(event.channel, RouterHello(self._settings.node, self._settings.genesis, models))]
            case OpenSession():
                return self._open_session(event.channel, message, now_ms)
            case CloseSession():
                session = self._of_client(event.channel, message.session)
                return self._end(session, "session_closed", "closed by its client", now_ms) if session else []
            case SubmitTask():
                session = self._of_client(event.channel, message.order.session)
                if session is None or not session.was_ready:
                    code, detail = "session_expired", "the session is not open here"
                    failed = TaskFailed(message.order.session, message.order.task, code, detail, 0)
                    return [Send(event.channel, failed)]
                return self._relay.submit(session, message, now_ms)
            case AckMessage():
                session = self._of_client(event.channel, message.ack.session)
                return self._relay.ack(session, message, now_ms) if session else []
            case CancelTask():
                session = self._of_client(event.channel, message.session)
                return self._relay.cancel(session, message, now_ms) if session else []
        raise RemoteProtocolError(f"{type(message).__name__} is not for a router")

    def _of_client(self, channel: Channel, session: bytes) -> Session | None:
        return self._sessions[SessionId(Digest(session))] if session in self._clients[channel] else None

    def _open_session(self, channel: Channel, message: OpenSession, now_ms: int) -> list[object]:
        opening = message.opening
        id_ = session_id(self._domain, opening)
        verify(id_, message.signature, opening.client, "the session")
        refusal = self._refusal(channel, id_, opening, now_ms)
        if refusal is not None:
            return [Send(channel, SessionEnded(id_, *refusal))]
        timeout_ms = min(message.timeout_ms, self._params.task_deadline_ms_max)
        peer = self._peers[channel]
        session = Session(
            id_, opening, Signature(message.signature), channel, peer, message.tokens, now_ms + timeout_ms
        )
        session.life.take(SessionFact.OPENED)
        # Fair by connection: keys cost nothing, connections do.
        outcome = self._queue.push(Waiting(id_, peer, max(1, message.tokens), session.deadline_ms), now_ms)
        if isinstance(outcome, Refused):
            detail = "the router's queue is full or too slow for the time given"
            return [Send(channel, SessionEnded(id_, outcome.code, detail, outcome.retry_after_ms))]
        self._sessions[id_] = session
        self._clients[channel][id_] = None
        self._session_deadlines.set(id_, session.deadline_ms)
        return self._pump(now_ms)

    def _refusal(self, channel: Channel, id_: SessionId, opening: SessionOpen, now_ms: int) -> Refusal | None:
        if id_ in self._sessions:
            return ("bad_request", "the session is open already", 0)
        fault = find_fault(self._params, self._settings.node, opening, now_ms)
        if fault is not None:
            return fault
        pool = self._book.pool(ModelDigest(opening.model))
        return find_shortage(self._params, opening, len(self._clients[channel]), len(self._sessions), pool)

    # Rounds

    def _pump(self, now_ms: int) -> list[object]:
        """Start rounds for queued sessions while there is room."""
        effects: list[object] = []
        while len(self._rounds_open) < self._settings.rounds_max:
            item = self._queue.pop(now_ms)
            if item is None:
                break
            session = self._sessions.get(SessionId(Digest(item.key)))
            if session is not None:
                self._rounds_open[session.id] = None
                effects += self._rounds.announce(session, now_ms)
        return effects

    def _from_bidder(self, event: Received, now_ms: int) -> list[object]:
        if not isinstance(event.message, Envelope):
            raise RemoteProtocolError("a bid comes in an envelope")
        session = self._session_of_bid(event.message)
        if session is None or session.life.state is not SessionState.BIDDING:
            # Nobody's fault: others were faster, or the client left.
            return [*self._closed(ChannelClosed(event.channel, "bids are closed"), now_ms), Close(event.channel)]
        peer = self._peers[event.channel]
        receipt, effects = self._rounds.take_bid(session, peer, event.message, now_ms)
        self._closed(ChannelClosed(event.channel, "answered"), now_ms)
        return [Send(event.channel, receipt), Close(event.channel), *self._watch(session, effects)]

    def _session_of_bid(self, envelope: Envelope) -> Session | None:
        # The session id is read before the signature is checked: it only says where to look.
        bid = decode(envelope.payload)
        return self._sessions.get(SessionId(Digest(bid.session))) if isinstance(bid, Bid) else None

    def _from_miner(self, event: Received, now_ms: int) -> list[object]:
        session = self._sessions.get(self._miners[event.channel])
        message = event.message
        if session is None:
            return []
        match message:
            case LeaseGrant() if session.round is not None and session.round.channel == event.channel:
                effects = self._rounds.granted(session, message)
                self._rounds_open.pop(session.id, None)
                self._session_deadlines.set(session.id, session.opening.expires_ms)
                return effects + self._resume(session, now_ms) + self._pump(now_ms)
            case LeaseBusy() if session.round is not None and session.round.channel == event.channel:
                self._forget_miner(event.channel)
                return [Close(event.channel), *self._watch(session, self._rounds.refused(session, now_ms, message))]
        if not session.leased_on(event.channel):
            raise RemoteProtocolError(f"{type(message).__name__} is out of place")
        return self._from_leased(session, message, now_ms)

    def _from_leased(self, session: Session, message: Message, now_ms: int) -> list[object]:
        match message:
            case LeaseRelease() if session.tasks:
                return self._fail_over(session, "the miner ended the lease with work left", now_ms)
            case LeaseRelease():
                return self._end(session, "session_expired", "the miner ended the idle lease", now_ms)
            case SegmentStart():
                return self._relay.head(session, message)
            case FrameMessage():
                return self._relay.frame(session, message, now_ms)
            case TaskFailed() if self._relay.another_may_do_better(session, message):
                return self._fail_over(session, f"the miner failed: {message.code}", now_ms)
            case TaskFailed():
                return self._relay.miner_failed(session, message, now_ms)
        raise RemoteProtocolError(f"{type(message).__name__} is out of place")

    def _watch(self, session: Session, effects: list[object]) -> list[object]:
        """Remember the channel on which a miner was just asked for a lease."""
        if session.round is not None and session.round.channel is not None and session.round.asked is not None:
            self._miners[session.round.channel] = session.id
            self._peers[session.round.channel] = session.round.asked
        return effects

    # Ends

    def _end(
        self,
        session: Session,
        code: str,
        detail: str,
        now_ms: int,
        *,
        tell: bool = True,
        retry_after_ms: int = 0,
    ) -> list[object]:
        """A session is over: its tasks end, its slot is free, others may have it."""
        effects = self._rounds.abandon(session)
        told = self._relay.fail_all(session, code, detail)
        if tell:
            effects += told
            ended = SessionEnded(session.id, code, detail[:1_024], retry_after_ms)
            effects.append(Send(session.client, ended, key=session.id))
        if session.lease is not None and session.lease.channel in self._miners:
            effects += [
                Send(session.lease.channel, LeaseRelease(session.id), key=session.id),
                Close(session.lease.channel, key=session.id),
            ]
        for held in (session.lease, session.round):
            if held is not None and held.channel is not None:
                self._forget_miner(held.channel)
        session.life.take(SessionFact.ENDED)
        del self._sessions[session.id]
        self._queue.remove(session.id)
        self._rounds_open.pop(session.id, None)
        self._session_deadlines.clear(session.id)
        if session.client in self._clients:
            self._clients[session.client].pop(session.id, None)
        if session.lease is not None:
            self._rounds.slot_released(session, (self._sessions[name] for name in self._rounds_open), now_ms)
        return effects + self._pump(now_ms)

    def _expire(self, now_ms: int) -> list[object]:
        effects: list[object] = []
        for session_name in self._session_deadlines.due(now_ms):
            session = self._sessions.get(session_name)
            if session is not None and session.life.state is SessionState.READY:
                effects += self._end(session, "session_expired", "the session's lifetime is over", now_ms)
            elif session is not None:
                code, detail = NOBODY_ELSE if session.spent else NOBODY_FREE
                effects += self._end(session, code, detail, now_ms, retry_after_ms=RETRY_AFTER_MS)
        for kind, name in self._round_deadlines.due(now_ms):
            session = self._sessions.get(name)
            if session is not None:
                effects += self._watch(session, self._round_due(kind, session, now_ms))
        for kind, raw, number in self._task_deadlines.due(now_ms):
            session = self._sessions.get(SessionId(Digest(raw)))
            if session is not None:
                effects += self._task_due(kind, session, number, now_ms)
        for channel in self._bidders.due(now_ms):
            self._peers.pop(channel, None)
            effects.append(Close(channel))
        return effects + self._rounds.forget_expired(now_ms)

    def _round_due(self, kind: str, session: Session, now_ms: int) -> list[object]:
        if kind == "bids":
            return self._rounds.close(session, now_ms)
        if kind == "retry":
            return self._rounds.announce(session, now_ms)
        assert session.round is not None and session.round.channel is not None
        channel = session.round.channel
        self._forget_miner(channel)
        return [Close(channel), *self._rounds.refused(session, now_ms, "no answer to the lease request")]

    def _task_due(self, kind: str, session: Session, number: int, now_ms: int) -> list[object]:
        if kind != "frame" or session.lease is None:
            return self._relay.overdue(session, number, now_ms)
        return self._fail_over(session, "the miner sent nothing for too long", now_ms)

    # Failover

    def _fail_over(self, session: Session, why: str, now_ms: int) -> list[object]:
        """The session's miner is lost: the next takes over after the last signed token. Spec: [FAILOVER-NEXT.1]"""
        lease = session.lease
        assert lease is not None
        if session.running() is not None:
            self._measurement_of(lease.miner).failed()
        effects: list[object] = [Note("router.fail-over", (("miner", lease.miner.hex()), ("why", why)))]
        if lease.channel in self._miners:
            effects.append(Close(lease.channel, key=session.id))
            self._forget_miner(lease.channel)
        limit_ms = min(session.opening.expires_ms, now_ms + self._params.first_frame_timeout_ms)
        self._session_deadlines.set(session.id, limit_ms)
        self._rounds_open[session.id] = None
        effects += self._watch(session, self._rounds.take_over(session, now_ms))
        return effects + self._relay.suspend(session, now_ms)

    def _resume(self, session: Session, now_ms: int) -> list[object]:
        """A miner was leased: it goes on with what was running, or starts what waits."""
        task, lease = session.running(), session.lease
        if task is None or lease is None:
            return self._relay.advance(session, now_ms)
        return self._relay.hand_over(session, task, lease, now_ms)

    def _forget_miner(self, channel: Channel) -> None:
        self._miners.pop(channel, None)
        self._peers.pop(channel, None)

    def _measurement_of(self, miner: NodeId) -> Measured:
        measured = self._measured.get(miner)
        if measured is None:
            measured = self._measured[miner] = Measured()
            while len(self._measured) > MEASURED_MAX:
                self._measured.popitem(last=False)
        return measured
