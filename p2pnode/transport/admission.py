"""Who may put how much on a topic: the bounded tables that stand before any check of content (DESIGN §4).

Pure: time comes in as seconds. A message passes, in this order, the bucket of who forwarded it, and, once its
origin is authenticated, the bucket of who wrote it; origins that are not listed share a twentieth of the topic.
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

    def take(self, key: bytes, now: float) -> bool:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst, now)
            if len(self._buckets) > self._size_max:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now)


@dataclass(slots=True)
class AdmissionCounts:
    """What a topic let through and what it turned away, and why."""

    accepted: int = 0
    ignored: int = 0
    rejected: int = 0
    forwarder_over: int = 0
    origin_over: int = 0
    stranger_over: int = 0
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
        self._forwarders = BucketTable(FORWARDER_FACTOR * rate, max(256.0, 8 * rate), 1024)
        self._origins = BucketTable(ORIGIN_SHARE * rate, origin_burst(rate), table_size_max)
        strangers = STRANGERS_SHARE * rate
        self._strangers = TokenBucket(strangers, max(4.0, 10 * strangers), now)

    def admit_forwarder(self, forwarder: NodeId, now: float) -> bool:
        """Whether to look at a message at all; asked before its signature is checked."""
        if self._forwarders.take(forwarder, now):
            return True
        self.counts.forwarder_over += 1
        return False

    def admit_origin(self, origin: NodeId, now: float) -> bool:
        """Whether an authenticated origin is within its share."""
        if self._allow is not None and not self._allow(origin):
            if self._strangers.take(now):
                return True
            self.counts.stranger_over += 1
            return False
        if self._origins.take(origin, now):
            return True
        self.counts.origin_over += 1
        return False


def origin_burst(rate: float) -> float:
    """How many messages one origin may have on the way at once on a topic of this rate."""
    return max(32.0, 4 * rate)


def publish_bucket(rate: float, now: float) -> TokenBucket:
    """The pace of our own messages: a little below what others grant an origin, so that none is turned away."""
    return TokenBucket(0.9 * ORIGIN_SHARE * rate, origin_burst(rate) / 2, now)
