"""Who a node knows of: the newest valid advert of each node, bounded, with what they offer by model.

Keys cost nothing, so a flood of new ones must not push out the nodes that matter. A node that is seen again
after a whole advert interval is *established* and stays until its advert expires; the others are on trial.
When the book is full, a newcomer competes only with those on trial, and who stays is decided by a hash with a
salt of this book: however many keys a flood brings, the trial places hold an even sample of all keys seen.
"""

import hashlib
import heapq
from bisect import bisect_right, insort
from collections.abc import Set
from dataclasses import dataclass
from enum import Enum

from protocol.core.deadlines import Deadlines
from protocol.core.ids import ModelDigest, NodeId
from protocol.core.params import Params
from protocol.messages.adverts import Advert, ModelOffer
from protocol.messages.envelope import Envelope

NOBODY: Set[NodeId] = frozenset()


class Taken(Enum):
    """What became of an advert."""

    NEW = "new"
    REPLACED = "replaced"
    NOT_NEWER = "not newer than the one known"
    EXPIRED = "expired"
    FUTURE = "dated in the future"
    FULL = "the book is full"


@dataclass(frozen=True, slots=True)
class Known:
    """One node's newest advert, as decoded and as it was signed."""

    advert: Advert
    envelope: Envelope
    first_seen_ms: int
    established: bool
    offers: dict[ModelDigest, ModelOffer]


class AdvertBook:
    """The adverts a node remembers, at most ``adverts_max``. ``salt`` is drawn once, where randomness lives."""

    def __init__(self, params: Params, salt: bytes) -> None:
        self._params = params
        self._salt = salt
        self._known: dict[NodeId, Known] = {}
        self._sorted: list[NodeId] = []
        self._by_model: dict[ModelDigest, dict[NodeId, ModelOffer]] = {}
        self._deadlines: Deadlines[NodeId] = Deadlines()
        self._trial: list[tuple[int, NodeId]] = []
        """Heap of nodes on trial, the next to go first; may name nodes twice, or that are gone or established."""

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, node: NodeId) -> bool:
        return node in self._known

    def get(self, node: NodeId) -> Advert | None:
        """The newest advert of a node."""
        known = self._known.get(node)
        return known.advert if known else None

    def add(self, advert: Advert, envelope: Envelope, now_ms: int, connected: Set[NodeId] = NOBODY) -> Taken:
        """Take an advert whose signature was checked. Spec: [ADVERT-NEWEST.1] [ADVERT-FLOOD.1]

        Args:
            envelope: The advert as it was signed, to hand on to others.
            connected: Peers that are connected now; they are never pushed out.
        """
        if advert.issued_ms > now_ms + self._params.clock_skew_ms_max:
            return Taken.FUTURE
        if advert.issued_ms + self._params.advert_lifetime_ms <= now_ms:
            return Taken.EXPIRED
        node = NodeId(advert.node)
        before = self._known.get(node)
        if before is not None:
            if advert.issued_ms <= before.advert.issued_ms:
                return Taken.NOT_NEWER
            seen_long = now_ms - before.first_seen_ms >= self._params.advert_interval_ms
            self._forget_offers(node)
            self._store(node, advert, envelope, before.first_seen_ms, before.established or seen_long)
            return Taken.REPLACED
        if len(self._known) >= self._params.adverts_max and not self._make_room(node, connected):
            return Taken.FULL
        self._store(node, advert, envelope, now_ms, established=False)
        insort(self._sorted, node)
        heapq.heappush(self._trial, (self._trial_place(node), node))
        return Taken.NEW

    def forget(self, node: NodeId) -> None:
        """Drop a node; one that is not known is fine."""
        if node not in self._known:
            return
        self._forget_offers(node)
        del self._known[node]
        del self._sorted[bisect_right(self._sorted, node) - 1]
        self._deadlines.clear(node)
        if len(self._trial) > 64 + 4 * len(self._known):
            self._trial = [(self._trial_place(other), other) for other in self._known if self._is_on_trial(other)]
            heapq.heapify(self._trial)

    def expire(self, now_ms: int) -> tuple[NodeId, ...]:
        """Drop what is older than ``advert_lifetime_ms``; returns who went."""
        gone = tuple(self._deadlines.due(now_ms))
        for node in gone:
            self.forget(node)
        return gone

    def next_deadline(self) -> int | None:
        """When expire is due next, or None."""
        return self._deadlines.next()

    def miners_of(self, model: bytes) -> dict[NodeId, ModelOffer]:
        """The miners that offer a model and on what terms. A copy."""
        return dict(self._by_model.get(ModelDigest(model), {}))

    def pool(self, model: bytes) -> int:
        """How many miners offer a model: what the lottery's threshold follows from."""
        return len(self._by_model.get(ModelDigest(model), {}))

    def models(self, limit: int = 64) -> tuple[ModelOffer, ...]:
        """Each model once, the most offered first: slots summed, the lowest price, the largest context."""
        ranked = sorted(self._by_model.items(), key=lambda item: (-len(item[1]), item[0]))
        return tuple(_aggregate(tuple(offers.values())) for _, offers in ranked[:limit])

    def page(self, after: bytes, limit: int) -> tuple[Envelope, ...]:
        """Signed adverts in the order of node ids, from the first after ``after`` (empty: the start)."""
        start = bisect_right(self._sorted, NodeId(after)) if after else 0
        return tuple(self._known[node].envelope for node in self._sorted[start : start + limit])

    def _store(self, node: NodeId, advert: Advert, envelope: Envelope, first_seen_ms: int, established: bool) -> None:
        offers = {offer.manifest.digest(): offer for offer in advert.models} if "miner" in advert.roles else {}
        self._known[node] = Known(advert, envelope, first_seen_ms, established, offers)
        self._deadlines.set(node, advert.issued_ms + self._params.advert_lifetime_ms)
        for model, offer in offers.items():
            self._by_model.setdefault(model, {})[node] = offer

    def _forget_offers(self, node: NodeId) -> None:
        for model in self._known[node].offers:
            del self._by_model[model][node]
            if not self._by_model[model]:
                del self._by_model[model]

    def _make_room(self, newcomer: NodeId, connected: Set[NodeId]) -> bool:
        """Push out the node on trial whose place is worst; False if the newcomer's own is."""
        kept: list[tuple[int, NodeId]] = []
        evicted = None
        while self._trial and evicted is None:
            entry = heapq.heappop(self._trial)
            if not self._is_on_trial(entry[1]):
                continue
            if entry[1] in connected:
                kept.append(entry)
            elif newcomer in connected or entry[0] < self._trial_place(newcomer):
                evicted = entry[1]
            else:
                kept.append(entry)
                break
        for entry in kept:
            heapq.heappush(self._trial, entry)
        if evicted is not None:
            self.forget(evicted)
        return evicted is not None

    def _is_on_trial(self, node: NodeId) -> bool:
        known = self._known.get(node)
        return known is not None and not known.established

    def _trial_place(self, node: NodeId) -> int:
        """A place that nobody outside can aim at; the smallest goes first."""
        return int.from_bytes(hashlib.sha256(self._salt + node).digest()[:8], "big")


def _aggregate(offers: tuple[ModelOffer, ...]) -> ModelOffer:
    slots = min(sum(offer.slots for offer in offers), 2**32 - 1)
    context = max(offer.context_tokens for offer in offers)
    return ModelOffer(offers[0].manifest, slots, context, min(offer.price_wei for offer in offers))
