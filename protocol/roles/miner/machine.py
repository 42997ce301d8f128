"""The miner's machine: announcements to bids, lease requests to slots, orders to signed frames, results to oracles.

It runs nothing without the client's signed order under an assignment that names its own lease, and streams
nothing beyond the client's signed acks. A session's stream to its router is the lease: when it goes, the slot
is free.
"""

from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import Digest, ModelDigest, SessionId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelNumbers,
    ChannelOpened,
    Close,
    DeadlineReached,
    GossipReceived,
    Note,
    PeerConnected,
    Received,
    Sent,
    Stopping,
)
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign
from protocol.messages.embeddings import EmbedAsked
from protocol.messages.handover import HandOvers
from protocol.messages.results import SessionNews
from protocol.messages.sessions import Announcement, LeaseRelease, LeaseRequest, SessionReady
from protocol.messages.tasks import AckMessage, AttachDirect, CancelTask, RelayTask, StartTask
from protocol.roles.miner.bidding import BidDesk
from protocol.roles.miner.embeds import Embeds
from protocol.roles.miner.events import (
    EmbeddingFailed,
    Generated,
    GenerationFailed,
    Produced,
    Rendered,
    TextsEmbedded,
)
from protocol.roles.miner.proving import Proving
from protocol.roles.miner.receipts import Receipts
from protocol.roles.miner.settings import MinerSettings
from protocol.roles.miner.slots import Slots
from protocol.roles.miner.tasks import Tasks

__all__ = ["MinerMachine", "MinerSettings"]


class MinerMachine:
    """See the module. ``handle`` takes the common events and those of ``miner.events``."""

    protocols = ("task",)
    topics = ("sessions",)

    def __init__(self, settings: MinerSettings, domain: Domain, params: Params, sign: Sign) -> None:
        numbers = ChannelNumbers()
        self._settings = settings
        self._bids = BidDesk(settings.node, domain, params, sign, settings.offers, numbers, settings.kept)
        genesis = settings.genesis.to_json() if settings.genesis is not None else ""
        self._receipts = Receipts(settings.shelf, domain, genesis)
        self._proving = Proving(settings, domain, params, sign, numbers, self._receipts)
        self._slots = Slots(settings, domain, params, self._bids, self._proving.settle)
        self._tasks = Tasks(settings, domain, params, sign, self._slots, self._bids, self._proving, self._receipts)
        self._embeds = Embeds(settings.node, domain, params, sign, self._slots)
        self._leases = self._slots.leases
        self._by_channel = self._slots.by_channel
        self._peers = self._slots.peers
        self._direct = self._slots.direct
        self._deadlines = self._slots.deadlines
        self._silent = self._slots.silent

    def slots(self, model: ModelDigest | None = None) -> tuple[int, int]:
        """(free, total) of a model, or over all."""
        return self._slots.count(model)

    @property
    def unfinished(self) -> int:
        """What keeps a miner that is being stopped: its leases, and results whose outcome is not final."""
        return len(self._leases) + self.results

    @property
    def results(self) -> int:
        """Results whose outcome is not final."""
        return len(self._proving.outstanding.held)

    def next_deadline(self) -> int | None:
        """The earliest of bids, leases, tasks and results."""
        clocks = (
            self._bids.next_deadline(),
            self._deadlines.next(),
            self._silent.next(),
            self._proving.next_deadline(),
        )
        return min((at for at in clocks if at is not None), default=None)

    def handle(self, event: object, now_ms: int) -> list[object]:
        """Take one event; total on whatever a peer sent."""
        effects = [*self._handle(event, now_ms), *self._slots.wind_up()]
        return [*effects, *self._proving.look(len(self._leases), now_ms)]

    def _handle(self, event: object, now_ms: int) -> list[object]:
        match event:
            case GossipReceived(message=Announcement() as announcement):
                free, total = self.slots(ModelDigest(announcement.model))
                # What the session holds already is free for it: its lease is replaced, not doubled.
                free = 0 if self._slots.stopping else free + (SessionId(Digest(announcement.session)) in self._leases)
                return self._bids.announced(event.origin, announcement, free, total, now_ms)
            case ChannelOpened():
                return self._slots.opened(event, now_ms)
            case Received() if self._bids.owns(event.channel):
                return self._bids.received(event.channel, event.message)
            case Received() if self._proving.owns(event.channel):
                return self._proving.received(event.channel, event.message, self._reserved, now_ms)
            case Received():
                return self._received(event, now_ms)
            case Sent():
                return self._tasks.sent(event.channel, now_ms)
            case ChannelClosed():
                return self._closed(event.channel, now_ms)
            case PeerConnected():
                return self._proving.met(event.peer, now_ms)
            case DeadlineReached():
                return [*self._bids.expire(now_ms), *self._expire(now_ms), *self._proving.expire(now_ms)]
            case Rendered() | Produced() | Generated() | GenerationFailed():
                return self._tasks.progress(event, now_ms)
            case TextsEmbedded() | EmbeddingFailed():
                return self._embeds.progress(event, now_ms)
            case Stopping():
                self._slots.stopping = True
        return []

    # Streams

    def _received(self, event: Received, now_ms: int) -> list[object]:
        if event.channel in self._direct.sessions:
            return self._from_client(event.channel, event.message, now_ms)
        if event.channel not in self._by_channel:
            return []
        try:
            return self._from_router(event.channel, event.message, now_ms)
        except RemoteProtocolError as error:
            peer = self._peers[event.channel]
            note = Note("miner.peer-broke-rule", (("peer", peer.hex()), ("why", str(error))))
            return [*self._slots.drop(event.channel), Close(event.channel), note]

    def _from_router(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        match message:
            case AttachDirect():
                return self._attach(channel, message, now_ms)
            case RelayTask():
                return self._tasks.relay(channel, message, now_ms)
            case LeaseRequest():
                return self._lease(channel, message, now_ms)
            case StartTask():
                return self._tasks.start(channel, message, now_ms)
            case AckMessage():
                return self._tasks.ack(self._slots.on(channel), message, now_ms)
            case CancelTask():
                return self._tasks.cancel(channel, message, now_ms)
            case EmbedAsked():
                return self._embeds.asked(channel, message, now_ms)
            case SessionReady():
                return self._receipts.explained(self._slots.on(channel), message)
            case SessionNews():
                return self._reserved(message, now_ms)
            case HandOvers():
                return self._proving.handed_over(channel, message)
            case LeaseRelease():
                return [*self._slots.drop(channel), Close(channel)]
        raise RemoteProtocolError(f"{type(message).__name__} is not for a miner")

    def _closed(self, channel: Channel, now_ms: int) -> list[object]:
        if self._proving.closed(channel, now_ms):
            return []
        self._bids.closed(channel)
        return self._detach(channel, now_ms) + self._slots.drop(channel)

    def _lease(self, channel: Channel, request: LeaseRequest, now_ms: int) -> list[object]:
        effects = self._slots.lease(channel, request, now_ms)
        session = self._by_channel.get(channel)
        if session is not None:
            self._proving.leased(self._leases[session], now_ms)
        return effects

    def _reserved(self, news: SessionNews, now_ms: int) -> list[object]:
        """What the ledger holds for a session: an order may wait for it. Raises RemoteProtocolError."""
        effects = self._proving.reserved(news)
        lease = self._leases.get(SessionId(Digest(news.session)))
        waiting = [] if lease is None else [lane for lane in lease.lanes.values() if lane.held is not None]
        for lane in waiting:
            assert lease is not None
            effects += self._tasks.admit(lease, lane, now_ms)
        return effects

    # A client's own stream

    def _attach(self, channel: Channel, message: AttachDirect, now_ms: int) -> list[object]:
        lease = self._leases.get(SessionId(Digest(message.assignment.session)))
        if lease is None or self._by_channel[channel] is not None:
            raise RemoteProtocolError("no lease is held for the session")
        effects = self._direct.attach(lease, channel, message)
        del self._by_channel[channel]
        self._silent.clear(channel)
        return effects + self._tasks.pump_all(lease, now_ms)

    def _detach(self, channel: Channel, now_ms: int) -> list[object]:
        if channel not in self._direct.sessions:
            return []
        lease = self._leases[self._direct.sessions[channel]]
        # A frame of one order may have been in flight there while the next order's tokens wait for the router's stream.
        return [*self._direct.detach(lease), *self._tasks.pump_all(lease, now_ms)]

    def _from_client(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        lease = self._leases[self._direct.sessions[channel]]
        try:
            if isinstance(message, AckMessage):
                return self._tasks.ack(lease, message, now_ms)
            raise RemoteProtocolError(f"{type(message).__name__} goes through the router")
        except RemoteProtocolError as error:
            note = Note("miner.peer-broke-rule", (("peer", lease.opening.client.hex()), ("why", str(error))))
            return [*self._detach(channel, now_ms), note]

    # Time

    def _expire(self, now_ms: int) -> list[object]:
        effects: list[object] = []
        for channel in self._silent.due(now_ms):
            effects += [*self._slots.drop(channel), Close(channel)]
        for kind, (session, task, number) in self._deadlines.due(now_ms):
            lease = self._leases.get(SessionId(Digest(session)))
            if lease is None:
                continue
            if kind == "idle":
                effects += self._slots.give_up(lease)
            else:
                effects += self._tasks.overdue(kind, lease, task, number, now_ms)
        return effects
