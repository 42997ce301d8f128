"""Answering announcements: who bids, with what, and the receipts that prove it."""

from collections import OrderedDict
from collections.abc import Mapping

from protocol.core.codec import Message, pack
from protocol.core.deadlines import Deadlines
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import Digest, ModelDigest, NodeId, SessionId
from protocol.core.machine import Channel, ChannelNumbers, Close, Learn, Note, Open, Persist, Send
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign
from protocol.messages.adverts import ModelOffer
from protocol.messages.envelope import Envelope, envelope_digest, seal, unseal
from protocol.messages.sessions import Announcement, Bid, BidReceipt, CountersignedBid
from protocol.session.lottery import is_eligible

BIDS_OPEN_MAX = 128
RECEIPTS_MAX = 512
RECEIPT_TIMEOUT_MS = 5_000
BID_RECORDS = b"bid/"
"""What the names of kept bids start with; the digest of the bid follows."""


class Speed:
    """What the miner measured of itself lately: smoothed over streams, 0 until the first."""

    def __init__(self) -> None:
        self.tokens_per_second = 0
        self.first_token_ms = 0

    def observe(self, tokens: int, first_token_ms: int, stream_ms: int) -> None:
        """One finished stream: ``stream_ms`` from its first token to its last."""
        if tokens < 8 or stream_ms <= 0:
            return
        rate = (tokens - 1) * 1_000 // max(1, stream_ms)
        self.tokens_per_second = rate if not self.tokens_per_second else (3 * self.tokens_per_second + rate) // 4
        self.first_token_ms = (3 * self.first_token_ms + first_token_ms) // 4 if self.first_token_ms else first_token_ms


class BidDesk:
    """The bids a miner has out. One a session and announcement; each leaves on a stream of its own."""

    def __init__(
        self,
        node: NodeId,
        domain: Domain,
        params: Params,
        sign: Sign,
        offers: Mapping[ModelDigest, ModelOffer],
        numbers: ChannelNumbers,
        kept: Mapping[bytes, CountersignedBid],
    ) -> None:
        self.speed = Speed()
        self.kept = OrderedDict(kept)
        """The newest bids that a router countersigned, oldest first, by the names of their records: durable, for
        :func:`protocol.session.record.judge_bid`."""
        self.bids: OrderedDict[Digest, Bid] = OrderedDict()
        self._node = node
        self._domain = domain
        self._params = params
        self._sign = sign
        self._offers = offers
        self._numbers = numbers
        self._open: dict[Channel, tuple[SessionId, NodeId, Digest, Envelope]] = {}
        self._deadlines: Deadlines[Channel] = Deadlines()

    def announced(self, origin: NodeId, announcement: Announcement, free: int, total: int, now_ms: int) -> list[object]:
        """Bid if eligible, able, and willing at the price."""
        offer = self._offers.get(ModelDigest(announcement.model))
        if offer is None or free <= 0 or origin != announcement.router or len(self._open) >= BIDS_OPEN_MAX:
            return []
        if offer.price_wei > announcement.price_cap_wei or not self._fresh(announcement, now_ms):
            return []
        session = SessionId(Digest(announcement.session))
        if not is_eligible(self._params, session, self._node, announcement.pool, announcement.widening):
            return []
        bid = Bid(
            session=session,
            miner=self._node,
            model=announcement.model,
            price_wei=offer.price_wei,
            slots_free=free,
            slots_total=total,
            tokens_per_second=self.speed.tokens_per_second,
            first_token_ms=self.speed.first_token_ms,
            context_tokens=offer.context_tokens,
            issued_ms=now_ms,
        )
        return self._send(origin, announcement.addresses, bid, now_ms)

    def _fresh(self, announcement: Announcement, now_ms: int) -> bool:
        age_ms = now_ms - announcement.issued_ms
        skew_ms = self._params.clock_skew_ms_max
        return -skew_ms <= age_ms <= self._params.announcement_lifetime_ms + skew_ms

    def _send(self, router: NodeId, addresses: tuple[str, ...], bid: Bid, now_ms: int) -> list[object]:
        envelope = seal(self._domain, self._sign, bid)
        digest = envelope_digest(self._domain, envelope, Bid)
        channel = self._numbers.take()
        self._open[channel] = (SessionId(Digest(bid.session)), router, digest, envelope)
        self._deadlines.set(channel, now_ms + RECEIPT_TIMEOUT_MS)
        self.bids[digest] = bid
        while len(self.bids) > RECEIPTS_MAX:
            self.bids.popitem(last=False)
        effects: list[object] = [Learn(router, addresses)] if addresses else []
        return [*effects, Open(channel, router, "bid"), Send(channel, envelope)]

    def owns(self, channel: Channel) -> bool:
        """Whether the channel carries a bid."""
        return channel in self._open

    def received(self, channel: Channel, message: Message) -> list[object]:
        """The router's countersignature, or something else that ends the stream."""
        session, router, digest, bid = self._open[channel]
        effects: list[object] = [Close(channel)]
        try:
            if not isinstance(message, Envelope):
                raise RemoteProtocolError(f"a bid is answered by a receipt, not by {type(message).__name__}")
            receipt, signer = unseal(self._domain, message, BidReceipt)
            if signer != router or receipt.bid != digest or receipt.session != session:
                raise RemoteProtocolError("the receipt is for another bid")
            effects += self._keep(digest, CountersignedBid(bid, message))
        except RemoteProtocolError as error:
            effects.append(Note("bid.receipt-refused", (("router", router.hex()), ("why", str(error)))))
        self.closed(channel)
        return effects

    def _keep(self, digest: Digest, signed: CountersignedBid) -> list[object]:
        """Make a countersigned bid durable in place of the oldest. Spec: [BID-KEPT.1]

        Each record is a key of its own: nothing that is said in the session waits for the disk.
        """
        name = BID_RECORDS + digest
        self.kept[name] = signed
        effects: list[object] = [Persist(name, ((name, pack(signed)),))]
        while len(self.kept) > RECEIPTS_MAX:
            oldest, _ = self.kept.popitem(last=False)
            effects.append(Persist(oldest, ((oldest, None),)))
        return effects

    def closed(self, channel: Channel) -> None:
        """The stream is gone."""
        self._open.pop(channel, None)
        self._deadlines.clear(channel)

    def next_deadline(self) -> int | None:
        """When the oldest unanswered bid is given up."""
        return self._deadlines.next()

    def expire(self, now_ms: int) -> list[object]:
        """Give up bids without a receipt."""
        effects: list[object] = []
        for channel in self._deadlines.due(now_ms):
            self._open.pop(channel, None)
            effects.append(Close(channel))
        return effects
