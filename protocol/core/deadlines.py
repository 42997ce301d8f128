"""Many deadlines behind one timer."""

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """At most one deadline a name; setting it again moves it. All operations are O(log n)."""

    def __init__(self) -> None:
        self._at: dict[K, int] = {}
        self._heap: list[tuple[int, int, K]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._at)

    def set(self, name: K, at_ms: int) -> None:
        """Fall due at ``at_ms``, whatever was set before."""
        if self._at.get(name) == at_ms:
            return
        self._at[name] = at_ms
        self._order += 1
        heapq.heappush(self._heap, (at_ms, self._order, name))
        if len(self._heap) > 64 + 4 * len(self._at):
            self._rebuild()

    def clear(self, name: K) -> None:
        """Never fall due; a name that is not set is fine."""
        self._at.pop(name, None)

    def at(self, name: K) -> int | None:
        """When a name falls due."""
        return self._at.get(name)

    def next(self) -> int | None:
        """The earliest deadline."""
        while self._heap and self._at.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now_ms: int) -> Iterator[K]:
        """The names that are due, earliest first; each is cleared before it is given out."""
        while (at := self.next()) is not None and at <= now_ms:
            name = heapq.heappop(self._heap)[2]
            self._at.pop(name, None)
            yield name

    def _rebuild(self) -> None:
        # Entries that were moved or cleared stay in the heap until here; this keeps it within a bound.
        self._heap = [entry for entry in self._heap if self._at.get(entry[2]) == entry[0]]
        heapq.heapify(self._heap)
