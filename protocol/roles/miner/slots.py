"""Who holds a miner's slots: it alone decides, and a stream to a router is a lease. When it goes, the slot is free."""

from collections.abc import Callable

from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import Digest, ModelDigest, NodeId, SessionId
from protocol.core.machine import Channel, ChannelOpened, Close, Send
from protocol.core.params import Params
from protocol.core.signing import Domain, verify
from protocol.messages.sessions import LEASE_ORDERS_MAX, LeaseBusy, LeaseGrant, LeaseRelease, LeaseRequest, session_id
from protocol.roles.miner.bidding import BidDesk
from protocol.roles.miner.direct import DirectStreams
from protocol.roles.miner.events import CancelGeneration, GenerationKey
from protocol.roles.miner.lane import Lane
from protocol.roles.miner.leases import SERVED_BY_ANOTHER, Generations, Lease
from protocol.roles.miner.orders import check_term
from protocol.roles.miner.settings import MinerSettings

RETRY_AFTER_MS = 1_000


class Slots:
    """The leases of a miner, and the streams of those who hold or want one."""

    def __init__(
        self,
        settings: MinerSettings,
        domain: Domain,
        params: Params,
        bids: BidDesk,
        settle: Callable[[Lease, Lane], None],
    ) -> None:
        self._settings = settings
        self._domain = domain
        self._params = params
        self._bids = bids
        self._settle = settle
        """Told of each lane that is over because its lease is."""
        self._generations = Generations(settings.boot)
        self.leases: dict[SessionId, Lease] = {}
        self.by_channel: dict[Channel, SessionId | None] = {}
        self.peers: dict[Channel, NodeId] = {}
        self.direct = DirectStreams(settings.node, domain, self.peers)
        self.deadlines: Deadlines[tuple[str, GenerationKey]] = Deadlines()
        """Of leases and of the tasks that run on them."""
        self.silent: Deadlines[Channel] = Deadlines()
        """Streams that carry no lease yet: a router asks at once or not at all."""
        self.stopping = False
        """Whether the node is being stopped: no slot is given away any more."""

    def count(self, model: ModelDigest | None = None) -> tuple[int, int]:
        """(free, total) of a model, or over all."""
        total = sum(offer.slots for name, offer in self._settings.offers.items() if model in (None, name))
        held = (max(1, len(lease.running())) for lease in self.leases.values() if model in (None, lease.model))
        return total - sum(held), total

    def spare(self, lease: Lease) -> bool:
        """Whether there is a slot for one more order: a lease holds one, and has others as long as nobody else does.

        Spec: [ORDER-PARALLEL.1]
        """
        return not lease.running() or self.count(lease.model)[0] > 0

    def opened(self, event: ChannelOpened, now_ms: int) -> list[object]:
        """A router, or a client that takes its frames itself, opened a stream."""
        if len(self.by_channel) >= self._params.sessions_per_miner_max:
            return [Close(event.channel)]
        self.silent.set(event.channel, now_ms + self._params.lease_request_timeout_ms)
        self.by_channel[event.channel] = None
        self.peers[event.channel] = event.peer
        return []

    def on(self, channel: Channel) -> Lease:
        """The lease that a stream carries. Raises RemoteProtocolError."""
        session = self.by_channel[channel]
        if session is None:
            raise RemoteProtocolError("the stream holds no lease")
        return self.leases[session]

    def lease(self, channel: Channel, request: LeaseRequest, now_ms: int) -> list[object]:
        """Grant a slot, or say why not. Raises RemoteProtocolError for what no router may ask."""
        opening, peer = request.opening, self.peers[channel]
        session = session_id(self._domain, opening)
        verify(session, request.signature, opening.client, "the session")
        if self.by_channel[channel] is not None:
            raise RemoteProtocolError("a stream carries one lease")
        if peer not in opening.routers:
            raise RemoteProtocolError("the session does not name this router")
        after = check_term(self._domain, opening, session, peer, request.term)
        held = self.leases.get(session)
        refusal, term = self._refusal(session, request, now_ms), None
        if held is not None and not held.yields_to(peer, after):
            refusal, term = SERVED_BY_ANOTHER, held.term
        if refusal is not None:
            self.drop(channel)
            return [Send(channel, LeaseBusy(session, RETRY_AFTER_MS, refusal, term)), Close(channel)]
        price_wei = self._bids.bids[Digest(request.bid)].price_wei
        # A lane that is taken over by the miner of another one, or at the word of another router: one lease a session.
        effects = [*self.drop(held.channel), *held.hand_on(peer, request.term)] if held is not None else []
        generation = self._generations.take()
        lease = Lease(session, opening, request.signature, peer, channel, generation, price_wei, request.term)
        self.leases[session] = lease
        self.by_channel[channel] = session
        self.silent.clear(channel)
        self.rest(lease, now_ms)
        orders = min(self.count(lease.model)[1], LEASE_ORDERS_MAX)
        grant = LeaseGrant(session, lease.generation, self._params.lease_idle_ms, orders)
        return [*effects, Send(channel, grant, key=session)]

    def _refusal(self, session: SessionId, request: LeaseRequest, now_ms: int) -> str | None:
        opening = request.opening
        if self.stopping:
            return "the miner is being stopped"
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
        free, _ = self.count(ModelDigest(opening.model))
        return "no free slot" if free <= 0 and session not in self.leases else None

    def rest(self, lease: Lease, now_ms: int) -> None:
        """Start the idle clock of a lease on which nothing runs."""
        if not lease.running():
            self.deadlines.set(("idle", (lease.session, 0, 0)), now_ms + self._params.lease_idle_ms)

    def wind_up(self) -> list[object]:
        """While stopping: give up each lease of which nothing is awaited. Spec: [STOP-MINER.1]"""
        if not self.stopping:
            return []
        leases = [lease for lease in self.leases.values() if not lease.embeds]
        settled = [lease for lease in leases if all(lane.settled for lane in lease.lanes.values())]
        return [effect for lease in settled for effect in self.give_up(lease)]

    def give_up(self, lease: Lease) -> list[object]:
        """Take a slot back; the session goes on at another miner when it is asked again. Spec: [LEASE-RENEWAL.1]"""
        return [Send(lease.channel, LeaseRelease(lease.session)), *self.drop(lease.channel), Close(lease.channel)]

    def drop(self, channel: Channel) -> list[object]:
        """A stream ends, and with it the lease that it carries."""
        self.peers.pop(channel, None)
        self.silent.clear(channel)
        session = self.by_channel.pop(channel, None)
        lease = self.leases.pop(session, None) if session is not None else None
        if lease is None:
            return []
        self.deadlines.clear(("idle", (lease.session, 0, 0)))
        effects = self.direct.detach(lease)
        for lane in lease.lanes.values():
            effects += self.forget(lane)
            self._settle(lease, lane)
        return effects

    def forget(self, lane: Lane) -> list[object]:
        """Nothing more is awaited of a lane; its engine stops, if it runs."""
        for clock in ("task", "ack", "credit"):
            self.deadlines.clear((clock, lane.generation))
        if lane.cancelling or lane.written or lane.held is not None:
            return []
        return [CancelGeneration(lane.generation)]
