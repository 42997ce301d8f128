"""Who may put how much on a topic: the bounded tables that stand before any check of content (DESIGN §4).

Pure: time comes in as seconds. A message passes, in this order, the bucket of who forwarded it, and, once its
origin is authenticated, the bucket of who wrote it; origins that are not listed share a twentieth of the topic.

Keys cost nothing, so where no list tells them apart a hundred fresh ones would have fifty times a topic's budget. All
that are *new* share one budget, with equal parts for every neighbour they come through: connections are scarcer than
keys. Who still speaks a minute after it was first let through is *settled*, and no number of new ones touches it. And
what a neighbour says itself is counted apart from what it passes on: a flood that it relays cannot silence it. What a
node accepts, and so passes on, stays below what its neighbours grant a forwarder: to relay a flood costs it nothing.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from protocol.core.ids import NodeId

STRANGERS_SHARE = 0.05
"""What all origins that are not allow-listed get of a topic's budget, together."""

ORIGIN_SHARE = 0.5
"""The most that one origin gets of a topic's budget."""

FORWARDER_FACTOR = 4.0
"""A forwarder may hand over everybody's messages, some of them repeatedly."""

SETTLED_SHARE = 2.0
"""What all settled origins get together: with the new ones' one, less than the forwarder's four."""

SETTLED_AFTER_S = 60.0

PART_BURST_MIN = 4.0
PART_KEPT_S = 10.0
"""Who has not asked for so long has no part in what is shared out."""

FORWARDERS_MAX = 1024

_SPEAKS = b"speaks"


class TokenBucket:
    """At most ``rate`` tokens a second in the long run and ``burst`` at once."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        self._refill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def spend(self, now: float) -> None:
        """Take a token whether or not there is one: who comes next waits for it."""
        self._refill(now)
        self._tokens = max(-self.burst, self._tokens - 1.0)

    def reserve(self, now: float, wait_max_s: float) -> float | None:
        """Take a token that may still be to come: how many seconds to wait for it, or None if beyond the limit."""
        self._refill(now)
        wait_s = max(0.0, (1.0 - self._tokens) / self.rate)
        if wait_s > wait_max_s:
            return None
        self._tokens -= 1.0
        return wait_s

    def _refill(self, now: float) -> None:
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now


class BucketTable:
    """One bucket per key, for the ``size_max`` keys that were seen last."""

    def __init__(self, rate: float, burst: float, size_max: int) -> None:
        self._rate, self._burst, self._size_max = rate, burst, size_max
        self._buckets: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def __contains__(self, key: bytes) -> bool:
        return key in self._buckets

    def take(self, key: bytes, now: float) -> bool:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = TokenBucket(self._rate, self._burst, now)
            self._put(key, bucket)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now)

    def adopt(self, key: bytes, other: "BucketTable") -> None:
        """Take a key's bucket, as it is, out of another table."""
        self._put(key, other._buckets.pop(key))

    def _put(self, key: bytes, bucket: TokenBucket) -> None:
        self._buckets[key] = bucket
        if len(self._buckets) > self._size_max:
            self._buckets.popitem(last=False)


class FairShare:
    """A rate of which everyone who asks gets an equal part, and what some leave others may have."""

    def __init__(self, rate: float, burst: float, size_max: int, now: float) -> None:
        self._all = TokenBucket(rate, burst, now)
        self._size_max = size_max
        self._parts: OrderedDict[bytes, tuple[TokenBucket, float]] = OrderedDict()
        """Each one's bucket, and when it last asked; the longest ago first."""

    def take(self, key: bytes, now: float) -> bool:
        """Take a token of the key's own part, or else one that nobody took."""
        part, _ = self._parts.pop(key, (TokenBucket(0.0, PART_BURST_MIN, now), now))
        self._parts[key] = (part, now)
        while len(self._parts) > self._size_max or now - next(iter(self._parts.values()))[1] > PART_KEPT_S:
            self._parts.popitem(last=False)
        part.rate = self._all.rate / len(self._parts)
        part.burst = max(PART_BURST_MIN, part.rate)
        if part.take(now):
            self._all.spend(now)
            return True
        return self._all.take(now)


@dataclass(slots=True)
class AdmissionCounts:
    """What a topic let through and what it turned away, and why."""

    accepted: int = 0
    ignored: int = 0
    rejected: int = 0
    forwarder_over: int = 0
    origin_over: int = 0
    stranger_over: int = 0
    newcomer_over: int = 0
    check_bugs: int = 0
    delivery_dropped: int = 0


class TopicAdmission:
    """The limits of one topic: ``rate`` is its share of the network's budget, in messages a second."""

    def __init__(
        self, rate: float, now: float, *, allow: Callable[[NodeId], bool] | None = None, table_size_max: int = 4096
    ) -> None:
        if rate <= 0:
            raise ValueError("a topic's rate is positive")
        self.rate = rate
        self.counts = AdmissionCounts()
        self._allow = allow
        self._forwarders = BucketTable(FORWARDER_FACTOR * rate, max(512.0, 16 * rate), FORWARDERS_MAX)
        self._speakers = BucketTable(ORIGIN_SHARE * rate, origin_burst(rate), FORWARDERS_MAX)
        self._settled = BucketTable(ORIGIN_SHARE * rate, origin_burst(rate), table_size_max)
        self._all_settled = TokenBucket(SETTLED_SHARE * rate, 2 * origin_burst(rate), now)
        self._new = BucketTable(ORIGIN_SHARE * rate, origin_burst(rate), table_size_max)
        self._all_new = FairShare(rate, origin_burst(rate), FORWARDERS_MAX, now)
        self._new_since: OrderedDict[bytes, float] = OrderedDict()
        """When each new origin was first let through."""
        self._table_size_max = table_size_max
        strangers = STRANGERS_SHARE * rate
        self._strangers = TokenBucket(strangers, max(4.0, 10 * strangers), now)

    def admit_forwarder(self, forwarder: NodeId, now: float, *, speaks: bool = False) -> bool:
        """Whether to look at a message at all; asked before its signature is checked.

        ``speaks``: the forwarder claims to have written it.
        """
        if (self._speakers if speaks else self._forwarders).take(forwarder, now):
            return True
        self.counts.forwarder_over += 1
        return False

    def admit_origin(self, origin: NodeId, forwarder: NodeId, now: float) -> bool:
        """Whether an authenticated origin is within its share."""
        if self._allow is None:
            if origin in self._settled:
                return self._admit_settled(origin, now)
            return self._admit_new(origin, forwarder, now)
        if not self._allow(origin):
            if self._strangers.take(now):
                return True
            self.counts.stranger_over += 1
            return False
        if self._settled.take(origin, now):
            return True
        self.counts.origin_over += 1
        return False

    def _admit_settled(self, origin: NodeId, now: float) -> bool:
        if self._settled.take(origin, now) and self._all_settled.take(now):
            return True
        self.counts.origin_over += 1
        return False

    def _admit_new(self, origin: NodeId, forwarder: NodeId, now: float) -> bool:
        if not self._new.take(origin, now):
            self.counts.origin_over += 1
            return False
        if not self._all_new.take(forwarder if origin != forwarder else _SPEAKS + forwarder, now):
            self.counts.newcomer_over += 1
            return False
        # Only who was let through is remembered: a flood cannot push out those that are about to settle.
        since = self._new_since.setdefault(origin, now)
        if now - since >= SETTLED_AFTER_S:
            del self._new_since[origin]
            self._settled.adopt(origin, self._new)
        elif len(self._new_since) > self._table_size_max:
            self._new_since.popitem(last=False)
        return True


def origin_burst(rate: float) -> float:
    """How many messages one origin may have on the way at once on a topic of this rate."""
    return max(32.0, 4 * rate)


def publish_bucket(rate: float, now: float) -> TokenBucket:
    """The pace of our own messages: a little below what others grant an origin, so that none is turned away."""
    return TokenBucket(0.9 * ORIGIN_SHARE * rate, origin_burst(rate) / 2, now)
