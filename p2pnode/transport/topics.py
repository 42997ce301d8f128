"""The gossip half of the seam, whatever carries it: admission, the topic's check, delivery, and our own pace."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import trio

from p2pnode.transport.admission import AdmissionCounts, TokenBucket, TopicAdmission, publish_bucket
from p2pnode.transport.seam import (
    GOSSIP_BYTES_MAX,
    Check,
    FrameTooLarge,
    Gossip,
    PublishRefused,
    TransportError,
    Verdict,
)
from protocol.core.ids import NodeId

log = logging.getLogger(__name__)

_DELIVERY_SLOTS = 4096


@dataclass(slots=True)
class _Topic:
    admission: TopicAdmission
    check: Check
    send: trio.MemorySendChannel[Gossip]
    drop: trio.MemoryReceiveChannel[Gossip]
    """A second handle on the reader's end, to drop the oldest from."""


@dataclass(slots=True)
class Topics:
    """Every topic of one node. Rates are messages a second; a topic without one gets ``rate_default``."""

    rates: Mapping[str, float] = field(default_factory=dict)
    rate_default: float = 20.0
    allow: Callable[[NodeId], bool] | None = None
    publish_wait_s: float = 5.0
    _joined: dict[str, _Topic] = field(default_factory=dict)
    _pace: dict[str, TokenBucket] = field(default_factory=dict)

    def join(self, topic: str, check: Check) -> trio.MemoryReceiveChannel[Gossip]:
        """Take part in a topic. Raises TransportError if it is joined already."""
        if topic in self._joined:
            raise TransportError(
                f"{topic} has a subscriber already", code="transport/subscribed", hint="share its channel"
            )
        send, receive = trio.open_memory_channel[Gossip](_DELIVERY_SLOTS)
        admission = TopicAdmission(self._rate(topic), trio.current_time(), allow=self.allow)
        self._joined[topic] = _Topic(admission, check, send, receive.clone())
        return receive

    def joined(self, topic: str) -> bool:
        return topic in self._joined

    def counts(self, topic: str) -> AdmissionCounts:
        """What the topic let through and turned away since it was joined."""
        return self._joined[topic].admission.counts

    def counted(self) -> dict[str, dict[str, int]]:
        """The same of every topic, by outcome."""
        return {name: asdict(topic.admission.counts) for name, topic in self._joined.items()}

    def close(self) -> None:
        """End every reader's channel."""
        for topic in self._joined.values():
            topic.send.close()
            topic.drop.close()
        self._joined.clear()

    # --- inbound

    def admit_forwarder(self, topic: str, forwarder: NodeId, *, speaks: bool) -> bool:
        """Whether to look at a message of the topic at all; ``speaks``: its forwarder claims to have written it."""
        state = self._joined.get(topic)
        return state is not None and state.admission.admit_forwarder(forwarder, trio.current_time(), speaks=speaks)

    def judge(self, gossip: Gossip) -> bool:
        """Admit, check and deliver a message whose origin is authenticated; whether to forward it. Never raises."""
        state = self._joined.get(gossip.topic)
        if state is None or len(gossip.data) > GOSSIP_BYTES_MAX:
            return False
        counts = state.admission.counts
        if not state.admission.admit_origin(gossip.origin, gossip.forwarder, trio.current_time()):
            return False  # the flood is its origin's fault, not the forwarder's
        try:
            verdict = state.check(gossip.forwarder, gossip.origin, gossip.data)
        except Exception:
            counts.check_bugs += 1
            log.exception("bug: the check of %s raised; the message is rejected", gossip.topic)
            verdict = Verdict.REJECT
        if verdict is Verdict.ACCEPT:
            counts.accepted += 1
            self._deliver(state, gossip)
            return True
        if verdict is Verdict.IGNORE:
            counts.ignored += 1
        else:
            counts.rejected += 1
        return False

    def _deliver(self, state: _Topic, gossip: Gossip) -> None:
        try:
            state.send.send_nowait(gossip)
        except trio.WouldBlock:
            state.drop.receive_nowait()
            state.admission.counts.delivery_dropped += 1
            state.send.send_nowait(gossip)

    # --- outbound

    async def pace(self, topic: str, data: bytes) -> None:
        """Wait for our turn to publish. Raises FrameTooLarge, and PublishRefused if the turn is too far off."""
        if len(data) > GOSSIP_BYTES_MAX:
            raise FrameTooLarge(f"a gossip message of {len(data)} bytes; at most {GOSSIP_BYTES_MAX} travel")
        now = trio.current_time()
        bucket = self._pace.get(topic)
        if bucket is None:
            bucket = self._pace[topic] = publish_bucket(self._rate(topic), now)
        wait_s = bucket.reserve(now, self.publish_wait_s)
        if wait_s is None:
            raise PublishRefused(
                f"more than {bucket.rate:g} messages a second on {topic} for {self.publish_wait_s:g} s",
                hint="send fewer, or more in each",
            )
        if wait_s:
            await trio.sleep(wait_s)

    def _rate(self, topic: str) -> float:
        return self.rates.get(topic, self.rate_default)
