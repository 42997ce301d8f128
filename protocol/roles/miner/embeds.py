"""Requests for vectors, as a miner answers them: beside what streams, a few at a time for each lease."""

from protocol.core.ids import NodeId
from protocol.core.machine import Channel, Send
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign
from protocol.messages.embeddings import VECTOR_BYTES_MAX, EmbedAsked, EmbedFailed, EmbedOrder
from protocol.roles.miner.events import Embed, EmbeddingFailed, TextsEmbedded
from protocol.roles.miner.leases import Lease
from protocol.roles.miner.slots import RETRY_AFTER_MS, Slots
from protocol.session.embeddings import check_asked, result_of, sign_embedded

EMBEDS_MAX = 4
"""Of one lease, under way at once."""
_BUSY = ("no_capacity", "queue_full")


class Embeds:
    """See the module. Spec: [EMBED-SERVED.1]"""

    def __init__(self, node: NodeId, domain: Domain, params: Params, sign: Sign, slots: Slots) -> None:
        self._node = node
        self._domain = domain
        self._params = params
        self._sign = sign
        self._slots = slots

    def asked(self, channel: Channel, message: EmbedAsked, now_ms: int) -> list[object]:
        """A router hands one on. Raises RemoteProtocolError for what its client did not sign."""
        lease, order = self._slots.on(channel), message.order
        check_asked(self._domain, self._params, NodeId(lease.opening.client), lease.session, message)
        if order.number in lease.embeds or len(lease.embeds) >= EMBEDS_MAX:
            return [self._failed(lease, order.number, "queue_full", "too many requests for vectors are under way")]
        lease.embeds[order.number] = order
        self._slots.rest(lease, now_ms)
        return [Embed((lease.generation, order.number), lease.model, message.asked.texts, key=lease.session)]

    def progress(self, event: TextsEmbedded | EmbeddingFailed, now_ms: int) -> list[object]:
        """The engine is done with one. One of a lease that is gone is nobody's any more."""
        generation, number = event.name
        lease = next((lease for lease in self._slots.leases.values() if lease.generation == generation), None)
        order = None if lease is None else lease.embeds.pop(number, None)
        if lease is None or order is None:
            return []
        self._slots.rest(lease, now_ms)
        if isinstance(event, EmbeddingFailed):
            return [self._failed(lease, number, event.code, event.detail)]
        return [self._answer(lease, order, event)]

    def _answer(self, lease: Lease, order: EmbedOrder, event: TextsEmbedded) -> Send:
        if any(len(vector) > VECTOR_BYTES_MAX for vector in event.vectors):
            return self._failed(lease, order.number, "engine_failed", "the model's vectors are too long to be sent")
        model, count = lease.model, event.tokens
        result = result_of(self._domain, order, lease.generation, self._node, model, count, event.vectors)
        answer = sign_embedded(self._domain, self._sign, order, result, event.vectors)
        return Send(lease.channel, answer, key=lease.session)

    @staticmethod
    def _failed(lease: Lease, number: int, code: str, detail: str) -> Send:
        retry_after_ms = RETRY_AFTER_MS if code in _BUSY else 0
        failed = EmbedFailed(lease.session, number, code, detail[:1_024], retry_after_ms)
        return Send(lease.channel, failed, key=lease.session)
