"""The miner's machine: announcements to bids, lease requests to slots, orders to signed frames.

It runs nothing without the client's signed order under an assignment that names its own lease, and streams
nothing beyond the client's signed acks. A session's stream to its router is the lease: when it goes, the slot
is free.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.core.codec import Message
from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest, ModelDigest, NodeId, SessionId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelNumbers,
    ChannelOpened,
    Close,
    DeadlineReached,
    GossipReceived,
    Note,
    Received,
    Send,
    Sent,
)
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign, typed_digest, verify
from protocol.messages.adverts import ModelOffer
from protocol.messages.sessions import (
    Announcement,
    CountersignedBid,
    LeaseBusy,
    LeaseGrant,
    LeaseRelease,
    LeaseRequest,
    session_id,
)
from protocol.messages.tasks import (
    AckMessage,
    AttachDirect,
    CancelTask,
    Delivery,
    RelayTask,
    SegmentStart,
    StartTask,
    TaskFailed,
)
from protocol.roles.miner.bidding import BidDesk
from protocol.roles.miner.direct import DirectStreams
from protocol.roles.miner.events import (
    CancelGeneration,
    Generated,
    GenerationFailed,
    GenerationKey,
    Produced,
    Rendered,
)
from protocol.roles.miner.lane import Lane
from protocol.roles.miner.leases import SERVED_BY_ANOTHER, Generations, Lease
from protocol.roles.miner.orders import check_order, check_term, generation_of
from protocol.session.transcript import SegmentWriter, check_resume, segment_id

TASK_LANES_KEPT = 4
"""Lanes of a lease that are sent but wait for the last ack, or wind down after a cancellation."""
RETRY_AFTER_MS = 1_000
_BUSY = ("no_capacity", "queue_full")


@dataclass(frozen=True, slots=True)
class MinerSettings:
    """What distinguishes one miner from another."""

    node: NodeId
    offers: Mapping[ModelDigest, ModelOffer]
    boot: bytes
    """16 random bytes drawn at process start."""
    kept: Mapping[bytes, CountersignedBid] = field(default_factory=dict)
    """Countersigned bids of earlier lives by their records in the store, oldest first."""


class MinerMachine:
    """See the module. ``handle`` takes the common events and those of ``miner.events``."""

    protocols = ("task",)
    topics = ("sessions",)

    def __init__(self, settings: MinerSettings, domain: Domain, params: Params, sign: Sign) -> None:
        self._settings = settings
        self._domain = domain
        self._params = params
        self._sign = sign
        self._generations = Generations(settings.boot)
        self._bids = BidDesk(settings.node, domain, params, sign, settings.offers, ChannelNumbers(), settings.kept)
        self._leases: dict[SessionId, Lease] = {}
        self._by_channel: dict[Channel, SessionId | None] = {}
        self._peers: dict[Channel, NodeId] = {}
        self._deadlines: Deadlines[tuple[str, GenerationKey]] = Deadlines()
        self._direct = DirectStreams(settings.node, domain, self._peers)
        self._silent: Deadlines[Channel] = Deadlines()
        """Streams that carry no lease yet: a router asks at once or not at all."""

    def slots(self, model: ModelDigest | None = None) -> tuple[int, int]:
        """(free, total) of a model, or over all."""
        total = sum(offer.slots for name, offer in self._settings.offers.items() if model in (None, name))
        return total - sum(model in (None, lease.model) for lease in self._leases.values()), total

    def next_deadline(self) -> int | None:
        """The earliest of bids, leases and tasks."""
        clocks = (self._bids.next_deadline(), self._deadlines.next(), self._silent.next())
        return min((at for at in clocks if at is not None), default=None)

    def handle(self, event: object, now_ms: int) -> list[object]:
        """Take one event; total on whatever a peer sent."""
        match event:
            case GossipReceived(message=Announcement() as announcement):
                free, total = self.slots(ModelDigest(announcement.model))
                # What the session holds already is free for it: its lease is replaced, not doubled.
                free += SessionId(Digest(announcement.session)) in self._leases
                return self._bids.announced(event.origin, announcement, free, total, now_ms)
            case ChannelOpened():
                return self._opened(event, now_ms)
            case Received() if self._bids.owns(event.channel):
                return self._bids.received(event.channel, event.message)
            case Received():
                return self._received(event, now_ms)
            case Sent():
                return self._sent(event.channel, now_ms)
            case ChannelClosed():
                self._bids.closed(event.channel)
                return self._detach(event.channel, now_ms) + self._drop_channel(event.channel)
            case DeadlineReached():
                return self._bids.expire(now_ms) + self._expire(now_ms)
            case Rendered() | Produced() | Generated() | GenerationFailed():
                return self._progress(event, now_ms)
        return []

    # Leases

    def _opened(self, event: ChannelOpened, now_ms: int) -> list[object]:
        if len(self._by_channel) >= self._params.sessions_per_miner_max:
            return [Close(event.channel)]
        self._silent.set(event.channel, now_ms + self._params.lease_request_timeout_ms)
        self._by_channel[event.channel] = None
        self._peers[event.channel] = event.peer
        return []

    def _received(self, event: Received, now_ms: int) -> list[object]:
        if event.channel in self._direct.sessions:
            return self._from_client(event.channel, event.message, now_ms)
        if event.channel not in self._by_channel:
            return []
        try:
            match event.message:
                case AttachDirect():
                    return self._attach(event.channel, event.message, now_ms)
                case RelayTask():
                    return self._relay(event.channel, event.message, now_ms)
                case LeaseRequest():
                    return self._lease(event.channel, event.message, now_ms)
                case StartTask():
                    return self._start(event.channel, event.message, now_ms)
                case AckMessage():
                    return self._ack(self._lease_of(event.channel), event.message, now_ms)
                case CancelTask():
                    return self._cancel(event.channel, event.message, now_ms)
                case LeaseRelease():
                    return [*self._drop_channel(event.channel), Close(event.channel)]
            raise RemoteProtocolError(f"{type(event.message).__name__} is not for a miner")
        except RemoteProtocolError as error:
            peer = self._peers[event.channel]
            note = Note("miner.peer-broke-rule", (("peer", peer.hex()), ("why", str(error))))
            return [*self._drop_channel(event.channel), Close(event.channel), note]

    def _lease(self, channel: Channel, request: LeaseRequest, now_ms: int) -> list[object]:
        opening, peer = request.opening, self._peers[channel]
        session = session_id(self._domain, opening)
        verify(session, request.signature, opening.client, "the session")
        if self._by_channel[channel] is not None:
            raise RemoteProtocolError("a stream carries one lease")
        if peer not in opening.routers:
            raise RemoteProtocolError("the session does not name this router")
        after = check_term(self._domain, opening, session, peer, request.term)
        held = self._leases.get(session)
        refusal, term = self._refusal(session, request, now_ms), None
        if held is not None and not held.yields_to(peer, after):
            refusal, term = SERVED_BY_ANOTHER, held.term
        if refusal is not None:
            self._drop_channel(channel)
            return [Send(channel, LeaseBusy(session, RETRY_AFTER_MS, refusal, term)), Close(channel)]
        price_wei = self._bids.bids[Digest(request.bid)].price_wei
        # A lane that is taken over by the miner of another one, or at the word of another router: one lease a session.
        effects = [*self._drop_channel(held.channel), *held.hand_on(peer, request.term)] if held is not None else []
        lease = Lease(session, opening, peer, channel, self._generations.take(), price_wei, request.term)
        self._leases[session] = lease
        self._by_channel[channel] = session
        self._silent.clear(channel)
        self._rest(lease, now_ms)
        grant = LeaseGrant(session, lease.generation, self._params.lease_idle_ms)
        return [*effects, Send(channel, grant, key=session)]

    def _refusal(self, session: SessionId, request: LeaseRequest, now_ms: int) -> str | None:
        opening = request.opening
        offer = self._settings.offers.get(ModelDigest(opening.model))
        if offer is None:
            return "the model is not served here"
        if offer.price_wei > opening.price_cap_wei:
            return "the price cap is below the price"
        if now_ms > opening.expires_ms + self._params.clock_skew_ms_max:
            return "the session has expired"
        bid = self._bids.bids.get(Digest(request.bid))
        if bid is None or bid.session != session:
            return "no bid was made for the session"
        free, _ = self.slots(ModelDigest(opening.model))
        return "no free slot" if free <= 0 and session not in self._leases else None

    def _rest(self, lease: Lease, now_ms: int) -> None:
        """Start the idle clock of a lease on which nothing runs."""
        if not lease.running():
            self._deadlines.set(("idle", (lease.session, 0, 0)), now_ms + self._params.lease_idle_ms)

    def _drop_channel(self, channel: Channel) -> list[object]:
        self._peers.pop(channel, None)
        self._silent.clear(channel)
        session = self._by_channel.pop(channel, None)
        lease = self._leases.pop(session, None) if session is not None else None
        if lease is None:
            return []
        self._deadlines.clear(("idle", (lease.session, 0, 0)))
        effects = self._direct.detach(lease)
        for lane in lease.lanes.values():
            effects += self._forget(lane)
        return effects

    def _forget(self, lane: Lane) -> list[object]:
        self._deadlines.clear(("task", lane.generation))
        self._deadlines.clear(("ack", lane.generation))
        if lane.cancelling or lane.written:
            return []
        return [CancelGeneration(lane.generation)]

    # Tasks

    def _start(self, channel: Channel, start: StartTask, now_ms: int) -> list[object]:
        lease = self._lease_of(channel)
        check_order(self._domain, self._params, self._settings.node, lease, start, now_ms)
        order, resume = start.order, start.resume
        previous = check_resume(self._domain, order, start.lane, resume) if resume is not None else ZERO_DIGEST
        emitted = tuple(zip(resume.ids, resume.texts, strict=True)) if resume is not None else ()
        if lease.running():
            return [Send(channel, self._failed(order.session, order.task, "queue_full", "a task is running"))]
        for key in [key for key, lane in lease.lanes.items() if lane.written or lane.cancelling][:-TASK_LANES_KEPT]:
            self._forget(lease.lanes.pop(key))
        lease.last_task = order.task
        lease.assignment_number = start.assignment.number
        generation = (bytes(lease.session), order.task, start.lane)
        lane = Lane(self._params, order, generation, start.prompt.nonce, now_ms, len(emitted), previous, start.delivery)
        if start.delivery is Delivery.DIRECT and lease.direct is None:
            # The client's stream went while its order was on the way.
            lane.delivery = Delivery.RELAYED
        lease.lanes[order.task, start.lane] = lane
        self._deadlines.clear(("idle", (lease.session, 0, 0)))
        timeout_ms = min(start.timeout_ms, self._params.task_deadline_ms_max)
        self._deadlines.set(("task", generation), now_ms + timeout_ms)
        return [generation_of(start, lease.model, generation, emitted)]

    def _progress(self, event: Rendered | Produced | Generated | GenerationFailed, now_ms: int) -> list[object]:
        session, task, number = event.generation
        lease = self._leases.get(SessionId(Digest(session)))
        lane = lease.lanes.get((task, number)) if lease is not None else None
        if lease is None or lane is None or lane.cancelling:
            return []
        match event:
            case Rendered():
                return self._begin(lease, lane, event.prompt_tokens)
            case Produced():
                lane.produced(event.ids, event.texts, now_ms)
            case Generated():
                self._measure(lane, now_ms)
                lane.ended(event.reason, event.cached_tokens)
            case GenerationFailed():
                return self._fail(lease, lane, event.code, event.detail, now_ms)
        return self._pump(lease, lane, now_ms)

    def _begin(self, lease: Lease, lane: Lane, prompt_tokens: tuple[int, ...]) -> list[object]:
        head = lease.head_of(lane, self._domain, self._settings.node, prompt_tokens)
        lane.writer = SegmentWriter(self._domain, self._sign, head)
        stream = lease.stream_of(lane)
        if lane.delivery is Delivery.WITHHELD or stream is None:
            return []
        return [Send(stream, SegmentStart(head), key=lease.session)]

    def _pump(self, lease: Lease, lane: Lane, now_ms: int) -> list[object]:
        if lane.delivery is Delivery.WITHHELD:
            return self._withhold(lease, lane, now_ms)
        stream = lease.stream_of(lane)
        frame = lane.next_frame() if lease.in_flight is None and stream is not None else None
        starving = ("ack", lane.generation)
        if not lane.starved:
            self._deadlines.clear(starving)
        elif self._deadlines.at(starving) is None:
            # Half of what the router waits for a frame, so that a client's silence is not taken for the miner's.
            self._deadlines.set(starving, now_ms + self._params.frame_gap_timeout_ms // 2)
        if frame is None or stream is None:
            return []
        lease.in_flight = stream
        effects: list[object] = [Send(stream, frame, report=True, key=lease.session)]
        if lane.written and lane.delivery is Delivery.DIRECT:
            effects.append(Send(lease.channel, lane.report(), key=lease.session))
        if lane.written:
            self._written(lease, lane, now_ms)
        return effects

    def _withhold(self, lease: Lease, lane: Lane, now_ms: int) -> list[object]:
        """Nobody is shown this lane: only its signed end leaves. Spec: [LANE-WITHHELD.1]"""
        if not lane.withhold():
            return []
        self._written(lease, lane, now_ms)
        return [Send(lease.channel, lane.report(), key=lease.session)]

    def _written(self, lease: Lease, lane: Lane, now_ms: int) -> None:
        self._deadlines.clear(("task", lane.generation))
        self._rest(lease, now_ms)

    def _sent(self, channel: Channel, now_ms: int) -> list[object]:
        session = self._direct.sessions.get(channel) or self._by_channel.get(channel)
        lease = self._leases.get(session) if session is not None else None
        if lease is None or lease.in_flight != channel:
            return []
        lease.in_flight = None
        return self._pump_all(lease, now_ms)

    def _pump_all(self, lease: Lease, now_ms: int) -> list[object]:
        return [effect for lane in lease.lanes.values() for effect in self._pump(lease, lane, now_ms)]

    # A client's own stream

    def _attach(self, channel: Channel, message: AttachDirect, now_ms: int) -> list[object]:
        lease = self._leases.get(SessionId(Digest(message.assignment.session)))
        if lease is None or self._by_channel[channel] is not None:
            raise RemoteProtocolError("no lease is held for the session")
        effects = self._direct.attach(lease, channel, message)
        del self._by_channel[channel]
        self._silent.clear(channel)
        return effects + self._pump_all(lease, now_ms)

    def _detach(self, channel: Channel, now_ms: int) -> list[object]:
        if channel not in self._direct.sessions:
            return []
        lease = self._leases[self._direct.sessions[channel]]
        # A frame of one order may have been in flight there while the next order's tokens wait for the router's stream.
        return [*self._direct.detach(lease), *self._pump_all(lease, now_ms)]

    def _from_client(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        lease = self._leases[self._direct.sessions[channel]]
        try:
            if isinstance(message, AckMessage):
                return self._ack(lease, message, now_ms)
            raise RemoteProtocolError(f"{type(message).__name__} goes through the router")
        except RemoteProtocolError as error:
            note = Note("miner.peer-broke-rule", (("peer", lease.opening.client.hex()), ("why", str(error))))
            return [*self._detach(channel, now_ms), note]

    def _relay(self, channel: Channel, message: RelayTask, now_ms: int) -> list[object]:
        """Lane 0 goes on through the router. Spec: [DIRECT-FALLBACK.1]"""
        lease = self._lease_of(channel)
        lane = lease.lanes.get((message.task, 0))
        if lane is None:
            return [Send(channel, self._failed(lease.session, message.task, "engine_failed", "not held any more"))]
        if lane.delivery is not Delivery.DIRECT:
            return []
        try:
            again = lane.relay_from(message.index, message.chain)
        except RemoteProtocolError as error:
            return self._fail(lease, lane, "bad_request", str(error), now_ms)  # it is the client that says so
        # Whatever hangs on the stream that the client has left does so in vain.
        lease.in_flight = channel if lease.in_flight == channel else None
        return [*(Send(channel, item, key=lease.session) for item in again), *self._pump(lease, lane, now_ms)]

    def _ack(self, lease: Lease, message: AckMessage, now_ms: int) -> list[object]:
        ack = message.ack
        lane = lease.lanes.get((ack.task, ack.lane))
        if lane is None:
            return []
        verify(typed_digest(self._domain, ack), message.signature, lease.opening.client, "the ack")
        if ack.session != lease.session or ack.generation != lease.generation:
            raise RemoteProtocolError("the ack is for another session or generation")
        if lane.writer is None or ack.segment != segment_id(self._domain, lane.writer.head):
            raise RemoteProtocolError("the ack is for another segment")
        try:
            lane.take_ack(ack)
        except RemoteProtocolError as error:
            # The client signed it: its own task ends, and the router, who cannot know, keeps its lease.
            return self._fail(lease, lane, "bad_request", str(error), now_ms) if lane in lease.running() else []
        return self._pump(lease, lane, now_ms)

    def _cancel(self, channel: Channel, message: CancelTask, now_ms: int) -> list[object]:
        lease = self._lease_of(channel)
        effects: list[object] = []
        for lane in lease.running():
            if lane.order.task != message.task or message.session != lease.session:
                continue
            if lane.writer is None:
                effects += self._fail(lease, lane, "cancelled", "cancelled before the first token", now_ms)
                continue
            effects += self._forget(lane)
            lane.cancelling = True
            lane.cancelled()
            effects += self._pump(lease, lane, now_ms)
        self._rest(lease, now_ms)
        return effects

    def _fail(self, lease: Lease, lane: Lane, code: str, detail: str, now_ms: int) -> list[object]:
        effects = self._forget(lane)
        lane.cancelling = True
        del lease.lanes[lane.order.task, lane.generation[2]]
        self._rest(lease, now_ms)
        failed = self._failed(lease.session, lane.order.task, code, detail)
        return [*effects, Send(lease.channel, failed, key=lease.session)]

    def _expire(self, now_ms: int) -> list[object]:
        effects: list[object] = []
        for channel in self._silent.due(now_ms):
            effects += [*self._drop_channel(channel), Close(channel)]
        for kind, (session, task, number) in self._deadlines.due(now_ms):
            lease = self._leases.get(SessionId(Digest(session)))
            if lease is None:
                continue
            if kind == "idle":
                effects += [Send(lease.channel, LeaseRelease(lease.session)), *self._drop_channel(lease.channel)]
                effects.append(Close(lease.channel))
                continue
            lane = lease.lanes.get((task, number))
            if lane is not None and not lane.written:
                code = "deadline_exceeded" if kind == "task" else "ack_timeout"
                effects += self._fail(lease, lane, code, "the miner stopped the task", now_ms)
        return effects

    def _measure(self, lane: Lane, now_ms: int) -> None:
        if lane.first_token_ms is not None and lane.writer is not None:
            produced = lane.writer.index + lane.backlog - lane.start_index
            self._bids.speed.observe(produced, lane.first_token_ms - lane.started_ms, now_ms - lane.first_token_ms)

    def _lease_of(self, channel: Channel) -> Lease:
        session = self._by_channel[channel]
        if session is None:
            raise RemoteProtocolError("the stream holds no lease")
        return self._leases[session]

    @staticmethod
    def _failed(session: bytes, task: int, code: str, detail: str) -> TaskFailed:
        return TaskFailed(session, task, code, detail[:1_024], RETRY_AFTER_MS if code in _BUSY else 0)
