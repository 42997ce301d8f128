"""The router's machine: clients in, auctions and leases out, orders and frames through.

It promises its clients one thing above all: whatever miners do, every session and every order ends in exactly
one terminal event by its deadline. It holds no text longer than it takes to pass it on and to go on elsewhere, and
for receipts, where it keeps them.
"""

from functools import partial

from protocol.core.codec import decode
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
    PeerConnected,
    Received,
    Send,
    Stopping,
)
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign, typed_digest, verify
from protocol.messages.committee import Certified
from protocol.messages.embeddings import EmbedAsked
from protocol.messages.envelope import Envelope
from protocol.messages.greeting import ClientHello, RouterHello
from protocol.messages.handover import HandOversAsked, HandOversPicked
from protocol.messages.sessions import (
    Bid,
    CloseSession,
    OpenSession,
    ResumeSession,
    SessionEnded,
    session_id,
)
from protocol.messages.tasks import AckMessage, CancelTask, SubmitTask, TaskFailed
from protocol.roles.router.admission import RETRY_AFTER_MS, find_refusal, find_shortage
from protocol.roles.router.clients import Clients
from protocol.roles.router.embeds import Embeds
from protocol.roles.router.events import HandIn
from protocol.roles.router.following import Following
from protocol.roles.router.hedging import Budget, Hedging, TaskName
from protocol.roles.router.lanes import Lanes
from protocol.roles.router.leasing import LeaseName, Leasing
from protocol.roles.router.miners import Miners
from protocol.roles.router.pace import Pace
from protocol.roles.router.patience import Patience
from protocol.roles.router.receipts import Receipts
from protocol.roles.router.relay import Relay
from protocol.roles.router.rounds import RoundName, Rounds
from protocol.roles.router.state import Measurements, RouterSettings, Session
from protocol.roles.router.winding_up import WindingUp
from protocol.session.adverts import AdvertBook
from protocol.session.lifecycle import SessionFact, SessionState
from protocol.session.queue import FairQueue, Refused, Waiting

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
        self._measured = Measurements()
        self._sessions: dict[SessionId, Session] = {}
        self._queue = FairQueue(params)
        self._rounds_open: dict[SessionId, None] = {}
        """Sessions that look for miners, the longest first."""
        self._peers: dict[Channel, NodeId] = {}
        self._clients = Clients(params, self._sessions, self._peers)
        self._bidders: Deadlines[Channel] = Deadlines()
        """Streams that a bid is due on; each ends with its receipt."""
        self._round_deadlines: Deadlines[RoundName] = Deadlines()
        self._lease_deadlines: Deadlines[LeaseName] = Deadlines()
        self._task_deadlines: Deadlines[TaskName] = Deadlines()
        self._session_deadlines: Deadlines[SessionId] = Deadlines()
        of, numbers = self._measured.of, ChannelNumbers()
        self._following = following = Following(
            settings.followed, domain, params, self._sessions, self._clients, numbers, settings.shelf
        )
        self._rounds = Rounds(settings, domain, params, sign, book, self._round_deadlines, of, Pace(params), following)
        clocks, signed = self._lease_deadlines, dict(settings.numbers)
        self._leasing = Leasing(settings, domain, params, sign, book, clocks, {}, self._peers, signed, numbers)
        self._hedging = Hedging(domain, params, self._task_deadlines, of, self._leasing, Budget(settings.hedge_bp))
        patience = Patience(params, self._task_deadlines, of)
        receipts = Receipts(settings.shelf, settings.genesis)
        self._relay = Relay(domain, params, self._task_deadlines, of, self._hedging.arm, patience, receipts)
        self._lanes = Lanes(domain, params, self._task_deadlines, of)
        self._embeds = Embeds(domain, params, self._task_deadlines)
        self._miners = Miners(self._leasing, self._hedging, self._relay, self._lanes, self._embeds, following, self)
        self._winding_up = WindingUp(self._sessions, self._queue, self._embeds.waits, partial(self.end, tell=False))

    def next_deadline(self) -> int | None:
        """The earliest of rounds, leases, tasks, sessions and the queue."""
        clocks = (
            self._round_deadlines.next(),
            self._lease_deadlines.next(),
            self._task_deadlines.next(),
            self._session_deadlines.next(),
            self._clients.away.next(),
            self._bidders.next(),
            self._leasing.expiring.next(),
            self._following.next_deadline(),
        )
        return min((at for at in clocks if at is not None), default=None)

    def handle(self, event: object, now_ms: int) -> list[object]:
        """Take one event; total on whatever a peer sent."""
        return [*self._handle(event, now_ms), *self._winding_up.go_on(now_ms)]

    def _handle(self, event: object, now_ms: int) -> list[object]:
        match event:
            case ChannelOpened():
                return self._opened(event, now_ms)
            case Received() if self._following.owns(event.channel):
                return self._following.received(event.channel, event.message, now_ms)
            case Received():
                return self._received(event, now_ms)
            case ChannelClosed() if self._following.owns(event.channel):
                return self._following.closed(event.channel, now_ms)
            case ChannelClosed():
                return self._closed(event, now_ms)
            case DeadlineReached():
                return self._expire(now_ms)
            case PeerConnected():
                return self._following.met(event.peer, now_ms)
            case HandIn():
                return self._following.hand_in(event.submit, now_ms)
            case Stopping():
                self._winding_up.begun = True
        return []

    @property
    def certified(self) -> Certified | None:
        """The newest final header that is known here."""
        return self._following.certified

    def load(self) -> dict[str, int]:
        """Figures for status."""
        return {
            "sessions": len(self._sessions),
            "sessions_ready": sum(session.life.state is SessionState.READY for session in self._sessions.values()),
            "queued": len(self._queue),
            "tasks": sum(len(session.tasks) for session in self._sessions.values()),
            "clients": len(self._clients.channels),
            "clients_away": len(self._clients.away),
            **self._following.load(),
        }

    # Channels

    def _opened(self, event: ChannelOpened, now_ms: int) -> list[object]:
        held = len(self._clients.channels if event.protocol == "client" else self._bidders)
        if held >= 2 * self._params.sessions_per_router_max:
            return [Close(event.channel)]
        self._peers[event.channel] = event.peer
        if event.protocol == "client":
            self._clients.channels[event.channel] = {}
        else:
            self._bidders.set(event.channel, now_ms + self._params.announcement_lifetime_ms)
        return []

    def _received(self, event: Received, now_ms: int) -> list[object]:
        try:
            if event.channel in self._clients.channels:
                return self._from_client(event, now_ms)
            if self._bidders.at(event.channel) is not None:
                return self._from_bidder(event, now_ms)
            session = self._of_miner(event.channel)
            if session is not None:
                return self._miners.received(session, event.channel, event.message, now_ms)
        except RemoteProtocolError as error:
            peer = self._peers.get(event.channel, NodeId(b""))
            note = Note("router.peer-broke-rule", (("peer", peer.hex()), ("why", str(error))))
            return [note, *self._broke_rule(event.channel, error, now_ms), Close(event.channel)]
        return []

    def _broke_rule(self, channel: Channel, error: RemoteProtocolError, now_ms: int) -> list[object]:
        effects: list[object] = []
        for name in list(self._clients.channels.get(channel, ())):
            effects += self.end(self._sessions[name], "bad_request", str(error), now_ms)
        return effects + self._closed(ChannelClosed(channel, str(error)), now_ms)

    def _closed(self, event: ChannelClosed, now_ms: int) -> list[object]:
        channel = event.channel
        self._bidders.clear(channel)
        effects: list[object] = []
        left = [self._sessions[name] for name in self._clients.channels.get(channel, ())]
        over = [session for session in left if not session.unfinished]
        for session in over:
            # All leave the queue before the first one's end starts a round for another.
            self._queue.remove(session.id)
        for session in over:
            effects += self.end(session, "router_lost", "the client left", now_ms, tell=False)
        for session in left:
            crowded = self._clients.wait(session, now_ms) if session.id in self._sessions else None
            if crowded is not None:
                detail = "too many clients are away"
                effects += self.end(self._sessions[crowded], "router_lost", detail, now_ms, tell=False)
        self._clients.channels.pop(channel, None)
        self._following.left(channel)
        miner_of = self._of_miner(channel)
        self._leasing.forget(channel)
        self._peers.pop(channel, None)
        if miner_of is not None:
            effects += self._miners.gone(miner_of, channel, event.reason, now_ms)
        return effects

    def _of_miner(self, channel: Channel) -> Session | None:
        name = self._leasing.miners.get(channel)
        return self._sessions.get(name) if name is not None else None

    # Clients

    def _from_client(self, event: Received, now_ms: int) -> list[object]:
        message, channel = event.message, event.channel
        match message:
            case ClientHello():
                models = self._book.models(MODELS_SHOWN_MAX)
                genesis, certified = self._settings.genesis, self.certified
                return [Send(channel, RouterHello(self._settings.node, genesis, models, certified))]
            case OpenSession():
                return self._open_session(channel, message, now_ms)
            case ResumeSession():
                resumed = self._clients.resume(channel, message)
                session = self._clients.session(channel, message.session)
                return resumed + (self._following.repeat(session) if session else [])
            case CloseSession():
                session = self._clients.session(channel, message.session)
                return self._close(session, message.signature, now_ms) if session else []
            case SubmitTask():
                session = self._clients.session(channel, message.order.session)
                if session is None or not session.was_ready:
                    code, detail = "session_expired", "the session is not open here"
                    failed = TaskFailed(message.order.session, message.order.task, code, detail, 0)
                    return [Send(channel, failed)]
                unwanted = self._winding_up.order(session, message, now_ms)
                return self._submit(session, message, now_ms) if unwanted is None else unwanted
            case EmbedAsked():
                session = self._clients.session(channel, message.order.session)
                return self._embeds.taken(channel, session, message, now_ms) + self._wake(session, now_ms)
            case AckMessage():
                session = self._clients.session(channel, message.ack.session)
                return self._relay.ack(session, message, now_ms) if session else []
            case HandOversAsked() | HandOversPicked():
                return self._following.asked(channel, message)
            case CancelTask():
                session = self._clients.session(channel, message.session)
                return self._cancel(session, message, now_ms) if session else []
        raise RemoteProtocolError(f"{type(message).__name__} is not for a router")

    def _open_session(self, channel: Channel, message: OpenSession, now_ms: int) -> list[object]:
        opening, term = message.opening, message.term
        id_ = session_id(self._domain, opening)
        verify(id_, message.signature, opening.client, "the session")
        if term is not None:
            verify(typed_digest(self._domain, term.term), term.signature, opening.client, "the router's term")
        held, peer, node = self._sessions.get(id_), self._peers[channel], self._settings.node
        held_term, known = held.term if held is not None else None, held is not None
        refusal = find_refusal(self._params, node, id_, peer, message, held_term, now_ms, known=known)
        refusal = refusal or self._winding_up.refusal()
        effects: list[object] = []
        if refusal is None and held is not None:
            # Its client has lost track of what was sent, and starts over from what it verified.
            effects = self.end(held, "router_lost", "opened anew by its client", now_ms, tell=False)
        if refusal is None:
            pool = self._book.pool(ModelDigest(opening.model))
            of_client, of_router = self._clients.held[peer], len(self._sessions)
            refusal = find_shortage(self._params, opening, of_client, of_router, pool)
        if refusal is not None:
            return [*effects, Send(channel, SessionEnded(id_, *refusal))]
        timeout_ms = min(message.timeout_ms, self._params.task_deadline_ms_max)
        session = Session(
            id_, opening, Signature(message.signature), channel, peer, message.tokens, now_ms + timeout_ms, term
        )
        session.life.take(SessionFact.OPENED)
        # Fair by connection: keys cost nothing, connections do.
        outcome = self._queue.push(Waiting(id_, peer, max(1, message.tokens), session.deadline_ms), now_ms)
        if isinstance(outcome, Refused):
            detail = "the router's queue is full or too slow for the time given"
            return [*effects, Send(channel, SessionEnded(id_, outcome.code, detail, outcome.retry_after_ms))]
        self._sessions[id_] = session
        self._clients.admit(channel, session)
        self._session_deadlines.set(id_, session.deadline_ms)
        return effects + self._following.opened(session, now_ms) + self._pump(now_ms)

    def _close(self, session: Session, signature: bytes | None, now_ms: int) -> list[object]:
        freed = self._following.closed_by_client(session, signature, now_ms) if signature is not None else []
        return freed + self.end(session, "session_closed", "closed by its client", now_ms)

    def _submit(self, session: Session, message: SubmitTask, now_ms: int) -> list[object]:
        last = session.last_task
        effects = self._relay.submit(session, message, now_ms)
        task = session.tasks.get(message.order.task)
        if task is not None and message.order.task > last:
            effects += self._lanes.order(session, task, now_ms) + self._leasing.fill(session, now_ms)
        return effects + self._wake(session, now_ms) if task is not None and not task.settled else effects

    def _wake(self, session: Session | None, now_ms: int) -> list[object]:
        """The lease ran out while nothing was asked: miners are looked for again."""
        if session is None or session.life.state is not SessionState.RESTING:
            return []
        self.look_on(session, now_ms)
        return self._rounds.announce(session, now_ms)

    def _cancel(self, session: Session, message: CancelTask, now_ms: int) -> list[object]:
        effects = self._hedging.settled(session, message.task) + self._relay.cancel(session, message, now_ms)
        return effects + self._lanes.cancel(session, message.task)

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
        receipt = self._rounds.take_bid(session, self._peers[event.channel], event.message, now_ms)
        self._closed(ChannelClosed(event.channel, "answered"), now_ms)
        effects: list[object] = [Send(event.channel, receipt), Close(event.channel)]
        return effects + self._close_bids(session, now_ms) if self._rounds.enough(session) else effects

    def _session_of_bid(self, envelope: Envelope) -> Session | None:
        # The session id is read before the signature is checked: it only says where to look.
        bid = decode(envelope.payload)
        return self._sessions.get(SessionId(Digest(bid.session))) if isinstance(bid, Bid) else None

    def _close_bids(self, session: Session, now_ms: int) -> list[object]:
        self._rounds.close(session, now_ms)
        return self._leasing.fill(session, now_ms) + self.settle(session, now_ms)

    def settle(self, session: Session, now_ms: int) -> list[object]:
        """Something was granted or refused: assign, look on, or try again later."""
        if self._leasing.barren(session):
            self._rounds.starve(session, now_ms)
            return self._leasing.withdraw(session)
        if not self._leasing.complete(session):
            return []
        if self._leasing.used_up(session):
            return self.end(session, "session_expired", "too many miners were lost", now_ms)
        effects = self._leasing.assign(session)
        self._rounds_open.pop(session.id, None)
        self._session_deadlines.set(session.id, session.opening.expires_ms)
        effects += self._miners.resume(session, now_ms)
        return effects + self._leasing.fill(session, now_ms) + self._pump(now_ms)

    def look_on(self, session: Session, now_ms: int) -> None:
        """Lane 0 has no miner: somebody takes over soon, or the session ends."""
        limit_ms = min(session.opening.expires_ms, now_ms + self._params.first_frame_timeout_ms)
        self._session_deadlines.set(session.id, limit_ms)
        self._rounds_open[session.id] = None

    def starve(self, session: Session, now_ms: int, *, soon: bool) -> list[object]:
        """Nobody is left in rank."""
        self._rounds.starve(session, now_ms)
        if soon:
            self._rounds.retry_soon(session, now_ms)
        return self._leasing.withdraw(session)

    # Ends

    def end(
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
        self._rounds.abandon(session)
        effects = self._relay.fail_all(session, code, detail)
        effects += session.tell(SessionEnded(session.id, code, detail[:1_024], retry_after_ms))
        if not tell:
            effects = []
        released = bool(session.leases)
        self._lanes.abandon(session)
        self._embeds.abandon(session)
        effects += self._hedging.drop(session) + self._leasing.release_all(session)
        session.life.take(SessionFact.ENDED)
        del self._sessions[session.id]
        self._queue.remove(session.id)
        self._rounds_open.pop(session.id, None)
        self._session_deadlines.clear(session.id)
        self._clients.dismiss(session)
        self._following.ended(session)
        if released:
            self._rounds.slot_released(session, (self._sessions[name] for name in self._rounds_open), now_ms)
        return effects + self._pump(now_ms)

    def _expire(self, now_ms: int) -> list[object]:
        effects: list[object] = []
        for name in self._session_deadlines.due(now_ms):
            session = self._sessions.get(name)
            if session is not None and session.life.state in (SessionState.READY, SessionState.RESTING):
                effects += self.end(session, "session_expired", "the session's lifetime is over", now_ms)
            elif session is not None:
                code, detail = NOBODY_ELSE if session.was_ready else NOBODY_FREE
                effects += self.end(session, code, detail, now_ms, retry_after_ms=RETRY_AFTER_MS)
        for name in self._clients.away.due(now_ms):
            effects += self.end(self._sessions[name], "router_lost", "the client did not come back", now_ms, tell=False)
        for kind, name in self._round_deadlines.due(now_ms):
            session = self._sessions.get(name)
            if session is not None and kind == "bids":
                effects += self._close_bids(session, now_ms)
            elif session is not None:
                effects += self._rounds.announce(session, now_ms)
        for kind, name, channel in self._lease_deadlines.due(now_ms):
            session = self._sessions.get(name)
            if session is not None:
                effects += self._miners.unanswered(kind, session, channel, now_ms)
        for kind, raw, number in self._task_deadlines.due(now_ms):
            session = self._sessions.get(SessionId(Digest(raw)))
            if session is not None:
                effects += self._miners.overdue(kind, session, number, now_ms)
        for channel in self._bidders.due(now_ms):
            self._peers.pop(channel, None)
            effects.append(Close(channel))
        return effects + self._leasing.forget_expired(now_ms) + self._following.expire(now_ms)
