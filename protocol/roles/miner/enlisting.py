"""How a miner that genesis does not list asks for its place in the node pool."""

from collections.abc import Iterable

from protocol.core.ids import NodeId
from protocol.core.signing import Domain, Sign, typed_digest
from protocol.messages.adverts import ModelOffer
from protocol.messages.results import Enlist, SignedEnlist, Submit

AGAIN_MS_MIN = 2_000
AGAIN_MS_MAX = 30_000
AGAIN_SELDOM_MS = 600_000
TRIES_OFTEN = 20
"""After so many tries it asks seldom: what it says is the same, so whoever has it needs no more."""
OFFERS_MAX = 4


class Enlisting:
    """What is said, and when it is said again. Nobody answers it. Spec: [MINER-ENLIST.1]"""

    def __init__(
        self,
        domain: Domain,
        sign: Sign,
        node: NodeId,
        owner: NodeId,
        offers: Iterable[ModelOffer],
        tokens_per_second: int,
    ) -> None:
        self._domain = domain
        self._sign = sign
        self._node = node
        self._owner = owner
        self._offers = tuple(offers)[:OFFERS_MAX]
        self._tokens_per_second = tokens_per_second
        self._tries = 0
        self._at_ms = 0
        self.message: Submit | None = None
        """None before the first time that it falls due."""

    def next_deadline(self) -> int | None:
        """When to ask, or ask again."""
        return self._at_ms if self._offers else None

    def expire(self, now_ms: int) -> Submit | None:
        """What to tell all oracles now, if it is the time."""
        if not self._offers or now_ms < self._at_ms:
            return None
        if self.message is None:
            # The time of the start: it rises from life to life.
            self.message = Submit(enlistments=tuple(self._signed(offer, now_ms) for offer in self._offers))
        self._tries += 1
        often_ms = min(AGAIN_MS_MIN << min(self._tries - 1, 16), AGAIN_MS_MAX)
        self._at_ms = now_ms + (often_ms if self._tries < TRIES_OFTEN else AGAIN_SELDOM_MS)
        return self.message

    def _signed(self, offer: ModelOffer, number: int) -> SignedEnlist:
        enlist = Enlist(self._node, self._owner, offer.manifest.digest(), offer.slots, self._tokens_per_second, number)
        return SignedEnlist(enlist, self._sign(typed_digest(self._domain, enlist)))
