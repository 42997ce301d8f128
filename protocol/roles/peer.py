"""What every full node does: advertise itself, remember others, and exchange adverts with whom it meets.

One bootstrap address is enough: on every new connection the two sides tell each other their own adverts and
page through the rest over ``probe``, for as long as the pages bring news; later adverts come by gossip.
"""

import hashlib
from dataclasses import dataclass, replace

from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NetworkId, NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelNumbers,
    ChannelOpened,
    Close,
    DeadlineReached,
    GossipReceived,
    Learn,
    Note,
    Open,
    PeerConnected,
    PeerLost,
    Publish,
    Received,
    Send,
    Stopping,
)
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign
from protocol.messages.adverts import (
    PROBE_ADVERTS_MAX,
    Advert,
    ModelOffer,
    ProbeRequest,
    ProbeResponse,
    Role,
)
from protocol.messages.envelope import Envelope, seal, unseal
from protocol.session.adverts import AdvertBook, Taken

SETTLE_MS = 2_000
"""After a first connection the gossip mesh needs a heartbeat or two before a publish reaches anybody."""
PROBE_TIMEOUT_MS = 10_000
PROBE_AGAIN_MS = 60_000
PROBES_MAX = 64
PAGES_MAX = 512
_BEHIND_ALL = b"\xff" * 20
"""No advert comes after this node id: who asks from here on only tells its own."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """What a node says of itself."""

    node: NodeId
    roles: tuple[Role, ...]
    addresses: tuple[str, ...]
    offers: tuple[ModelOffer, ...]
    build: str


@dataclass(slots=True)
class _Probe:
    """A walk through what a peer knows, in the order of node ids: once round, or until a page has nothing new."""

    peer: NodeId
    start: bytes
    """Empty: at the beginning."""
    after: bytes
    pages: int = 0
    round: bool = False
    """Whether it has passed the end and is on the way from the beginning to where it started."""


class PeerMachine:
    """See the module. It owns ``book``; the other machines of the node read it."""

    protocols = ("probe",)
    topics = ("nodes",)

    def __init__(self, settings: PeerSettings, domain: Domain, params: Params, sign: Sign, book: AdvertBook) -> None:
        self._settings = settings
        self._domain = domain
        self._params = params
        self._sign = sign
        self._book = book
        self._numbers = ChannelNumbers()
        self._mine: Envelope | None = None
        self._adverts_sent = 0
        self._connected: set[NodeId] = set()
        self._asked: dict[Channel, _Probe] = {}
        self._asking: dict[Channel, NodeId] = {}
        self._deadlines: Deadlines[str | Channel] = Deadlines()
        self._again: Deadlines[NodeId] = Deadlines()
        self._look_again_ms = 0
        self._deadlines.set("advert", 0)

    def next_deadline(self) -> int | None:
        """The earliest of the next advert, unanswered probes and expiring adverts."""
        clocks = (self._deadlines.next(), self._again.next(), self._book.next_deadline())
        return min((at for at in clocks if at is not None), default=None)

    def handle(self, event: object, now_ms: int) -> list[object]:
        """Take one event; total on whatever a peer sent."""
        match event:
            case GossipReceived(message=Advert() as advert, envelope=Envelope() as envelope):
                return self._learned(advert, envelope, now_ms)
            case PeerConnected():
                return self._met(event.peer, now_ms)
            case PeerLost():
                self._connected.discard(event.peer)
            case ChannelOpened():
                return self._opened(event, now_ms)
            case Received():
                return self._received(event, now_ms)
            case ChannelClosed():
                self._forget(event.channel)
            case DeadlineReached():
                return self._expire(now_ms)
            case Stopping() if self._settings.offers:
                # Routers that hear it do not count on this miner any more. Spec: [STOP-MINER.1]
                self._settings = replace(self._settings, offers=())
                return self._announce(now_ms)
        return []

    def _advert(self, now_ms: int) -> Envelope:
        settings = self._settings
        advert = Advert(settings.node, now_ms, settings.roles, settings.addresses, settings.offers, settings.build)
        self._mine = seal(self._domain, self._sign, advert)
        self._book.add(advert, self._mine, now_ms, frozenset((settings.node,)))
        return self._mine

    def _announce(self, now_ms: int) -> list[object]:
        self._adverts_sent += 1
        interval_ms = self._params.advert_interval_ms
        # ± 20 %, from a hash, so that nodes started together do not stay together.
        seed = self._settings.node + self._adverts_sent.to_bytes(8, "big")
        spread = int.from_bytes(hashlib.sha256(seed).digest()[:4], "big") % (2 * interval_ms // 5)
        self._deadlines.set("advert", now_ms + interval_ms * 4 // 5 + spread)
        return [Publish("nodes", self._advert(now_ms))]

    def _met(self, peer: NodeId, now_ms: int) -> list[object]:
        if not self._connected:
            self._deadlines.set("advert", now_ms + SETTLE_MS)
        self._connected.add(peer)
        if self._again.at(peer) is not None or len(self._asked) >= PROBES_MAX:
            return []
        self._again.set(peer, now_ms + PROBE_AGAIN_MS)
        return self._ask(self._probe(peer, now_ms), now_ms)

    def _probe(self, peer: NodeId, now_ms: int) -> _Probe:
        """In a network of thousands a new connection must not cost thousands of adverts: who knows many hears of the
        others by gossip, looks now and then whether it missed some, anywhere, and tells its other peers only its own.
        """
        if len(self._book) <= PROBE_ADVERTS_MAX:
            return _Probe(peer, b"", b"")
        if now_ms < self._look_again_ms:
            return _Probe(peer, _BEHIND_ALL, _BEHIND_ALL, round=True)
        self._look_again_ms = now_ms + self._params.advert_interval_ms
        start = hashlib.sha256(self._settings.node + peer + now_ms.to_bytes(8, "big")).digest()[:20]
        return _Probe(peer, start, start)

    def _ask(self, probe: _Probe, now_ms: int) -> list[object]:
        channel = self._numbers.take()
        self._asked[channel] = probe
        self._deadlines.set(channel, now_ms + PROBE_TIMEOUT_MS)
        mine = self._mine or self._advert(now_ms)
        request = ProbeRequest(self._network_id, probe.after, mine if probe.pages == 0 else None)
        return [Open(channel, probe.peer, "probe"), Send(channel, request)]

    @property
    def _network_id(self) -> NetworkId:
        return self._domain.network_id

    def _opened(self, event: ChannelOpened, now_ms: int) -> list[object]:
        if len(self._asking) >= PROBES_MAX:
            return [Close(event.channel)]
        self._asking[event.channel] = event.peer
        self._deadlines.set(event.channel, now_ms + PROBE_TIMEOUT_MS)
        return []

    def _received(self, event: Received, now_ms: int) -> list[object]:
        message = event.message
        peer = self._asking.get(event.channel)
        try:
            if isinstance(message, ProbeRequest) and peer is not None:
                return self._answer(event.channel, peer, message, now_ms)
            probe = self._asked.get(event.channel)
            if isinstance(message, ProbeResponse) and probe is not None:
                self._forget(event.channel)
                return [Close(event.channel), *self._page(probe, message, now_ms)]
        except RemoteProtocolError as error:
            self._forget(event.channel)
            return [Close(event.channel), Note("peer.broke-rule", (("why", str(error)),))]
        self._forget(event.channel)
        return [Close(event.channel)]

    def _answer(self, channel: Channel, peer: NodeId, request: ProbeRequest, now_ms: int) -> list[object]:
        self._forget(channel)
        if request.network_id != self._network_id:
            return [Close(channel)]
        effects: list[object] = []
        if request.mine is not None:
            advert = self._open(request.mine)
            if advert.node != peer:
                # Others' adverts come by gossip, which is paced; a flood of them could come here unpaced.
                raise RemoteProtocolError("a peer tells its own advert only")
            effects += self._learned(advert, request.mine, now_ms)
        page = self._book.page(request.after, PROBE_ADVERTS_MAX)
        return [*effects, Send(channel, ProbeResponse(self._network_id, page)), Close(channel)]

    def _page(self, probe: _Probe, response: ProbeResponse, now_ms: int) -> list[object]:
        if response.network_id != self._network_id:
            return [Note("peer.other-network", (("peer", probe.peer.hex()),))]
        adverts = []
        for envelope in response.adverts:
            advert = self._open(envelope)
            if advert.node <= probe.after:
                raise RemoteProtocolError("a page of adverts is not in rising order")
            probe.after = advert.node
            adverts.append((advert, envelope))
        strangers = [advert.node for advert, _ in adverts if NodeId(advert.node) not in self._book]
        effects = [effect for advert, envelope in adverts for effect in self._learned(advert, envelope, now_ms)]
        probe.pages += 1
        news = not adverts or any(NodeId(node) in self._book for node in strangers)
        if news and probe.pages < PAGES_MAX and self._goes_on(probe, len(adverts)):
            effects += self._ask(probe, now_ms)
        return effects

    @staticmethod
    def _goes_on(probe: _Probe, adverts: int) -> bool:
        """Whether there may be more in a peer's list behind its last page; turns round at its end."""
        if adverts == PROBE_ADVERTS_MAX:
            return not probe.round or probe.after < probe.start
        if probe.round or not probe.start:
            return False
        probe.round, probe.after = True, b""
        return True

    def _open(self, envelope: Envelope) -> Advert:
        advert, signer = unseal(self._domain, envelope, Advert)
        if signer != advert.node:
            raise RemoteProtocolError("an advert is signed by another node than it names")
        return advert

    def _learned(self, advert: Advert, envelope: Envelope, now_ms: int) -> list[object]:
        node = NodeId(advert.node)
        if node == self._settings.node:
            return []
        taken = self._book.add(advert, envelope, now_ms, self._connected)
        if taken not in (Taken.NEW, Taken.REPLACED):
            return []
        effects: list[object] = [Learn(node, advert.addresses)]
        if taken is Taken.NEW:
            effects.append(Note("peer.learned", (("node", node.hex()), ("roles", ",".join(advert.roles)))))
        return effects

    def _forget(self, channel: Channel) -> None:
        self._asked.pop(channel, None)
        self._asking.pop(channel, None)
        self._deadlines.clear(channel)

    def _expire(self, now_ms: int) -> list[object]:
        effects: list[object] = []
        self._book.expire(now_ms)
        for _ in self._again.due(now_ms):
            pass
        for name in self._deadlines.due(now_ms):
            if isinstance(name, str):
                effects += self._announce(now_ms)
            else:
                self._forget(name)
                effects.append(Close(name))
        return effects
