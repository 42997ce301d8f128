"""Memory that peers make us hold, counted for each of them and over all.

A bound for each stream is none for a node: four thousand streams times a megabyte each. And a bound for all of them
would let one peer use it up, so whoever holds most pays for what is too much.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from protocol.core.ids import NodeId

Item = TypeVar("Item", bound=Hashable)


class Holdings(Generic[Item]):
    """Bytes held by peer and item. ``drop`` is called for an item that is too much, once it is off the count."""

    def __init__(self, *, total_max: int, per_peer_max: int, drop: Callable[[Item], None]) -> None:
        self._total_max, self._per_peer_max, self._drop = total_max, per_peer_max, drop
        self._held: defaultdict[NodeId, dict[Item, int]] = defaultdict(dict)
        self._by_peer: dict[NodeId, int] = {}
        self.total = 0
        self.dropped = 0

    def hold(self, peer: NodeId, item: Item, size: int) -> None:
        """The item holds ``size`` bytes from now on; 0: none. Drops largest items, perhaps this one, until it fits."""
        self._set(peer, item, size)
        while self._by_peer.get(peer, 0) > self._per_peer_max:
            self._drop_largest(peer)
        while self.total > self._total_max:
            self._drop_largest(max(self._by_peer, key=self._by_peer.__getitem__))

    def _drop_largest(self, peer: NodeId) -> None:
        items = self._held[peer]
        item = max(items, key=items.__getitem__)
        self.dropped += 1
        self._set(peer, item, 0)
        self._drop(item)

    def _set(self, peer: NodeId, item: Item, size: int) -> None:
        held = self._held[peer]
        grown = size - held.pop(item, 0)
        if size:
            held[item] = size
        self.total += grown
        self._by_peer[peer] = self._by_peer.get(peer, 0) + grown
        if not held:
            del self._held[peer], self._by_peer[peer]
