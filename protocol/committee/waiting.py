"""Batches that wait to be final: what a leader may include, and what it owes."""

from collections.abc import Iterator
from dataclasses import dataclass

from protocol.committee.certificates import batch_digest
from protocol.committee.cut import Home, content_bytes_max, home_of
from protocol.committee.payload import LedgerState
from protocol.core.ids import Digest
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.messages.committee import SignedBatch
from protocol.messages.evidence import ConflictingBatches


@dataclass(frozen=True, slots=True)
class _Item:
    signed: SignedBatch
    digest: Digest
    forwarded_ms: int


class Waiting:
    """Bounded: of each oracle that may speak, ``batches_waiting_max`` numbers from the first that is not final."""

    def __init__(self, domain: Domain, params: Params) -> None:
        self._domain = domain
        self._params = params
        self._items: dict[Home, dict[int, _Item]] = {}
        self.convicted: set[bytes] = set()
        """Oracles under evidence: nobody owes them anything."""

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def wants(self, signed: SignedBatch, final: LedgerState) -> bool:
        """Whether a batch is new, may still enter, and is within the bound; checks no signature."""
        batch, home = signed.batch, home_of(signed)
        number, _ = final.included(*home)
        held = self._items.get(home, {}).get(batch.number)
        return (
            len(signed.content) <= content_bytes_max(self._params)
            and batch.oracle in final.homes.get(batch.home_epoch, ())
            and number < batch.number <= number + self._params.batches_waiting_max
            and (held is None or held.signed.batch != batch)
        )

    def add(self, signed: SignedBatch, now_ms: int) -> ConflictingBatches | None:
        """Take a batch that is wanted and whose signature holds; gives the evidence if its oracle signed another."""
        items = self._items.setdefault(home_of(signed), {})
        held = items.get(signed.batch.number)
        if held is None:
            digest = Digest(batch_digest(self._domain, signed.batch))
            items[signed.batch.number] = _Item(signed, digest, now_ms)
            return None
        first = held.signed
        return ConflictingBatches(first.batch, first.signature, signed.batch, signed.signature)

    def get(self, home: Home, number: int) -> SignedBatch | None:
        """A batch that waits."""
        item = self._items.get(home, {}).get(number)
        return None if item is None else item.signed

    def offered(self, state: LedgerState, before_ms: int | None = None) -> Iterator[SignedBatch]:
        """What continues each oracle's chain after a state, in order; only what was forwarded before a time, if one
        is given."""
        for home in sorted(self._items):
            number, digest = state.included(*home)
            if home[1] not in state.homes.get(home[0], ()):
                continue
            while (item := self._items[home].get(number + 1)) is not None and item.signed.batch.previous == digest:
                if before_ms is not None and item.forwarded_ms > before_ms:
                    break
                yield item.signed
                number, digest = number + 1, item.digest

    def owed(self, state: LedgerState, before_ms: int) -> Iterator[SignedBatch]:
        """What a leader must include: all that is offered since before a time, but of oracles under evidence."""
        return (signed for signed in self.offered(state, before_ms) if signed.batch.oracle not in self.convicted)

    def settle(self, final: LedgerState) -> None:
        """Drop what is final, what can no longer follow, and what has no home any more."""
        for home in list(self._items):
            number, digest = final.included(*home)
            items = self._items[home]
            for old in [n for n in items if n <= number]:
                del items[old]
            following = items.get(number + 1)
            if following is not None and following.signed.batch.previous != digest:
                items.clear()
            if not items or home[1] not in final.homes.get(home[0], ()):
                del self._items[home]

    def all(self) -> Iterator[SignedBatch]:
        """Everything that waits, in order."""
        for home in sorted(self._items):
            for number in sorted(self._items[home]):
                yield self._items[home][number].signed
