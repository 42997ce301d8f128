"""How fast tokens come, over the last seconds."""

from collections import deque
from collections.abc import Callable

WINDOW_S = 5.0
BUCKETS_MAX = 50


class RateMeter:
    """Counts events in buckets of a tenth of a second, so its size does not depend on their number."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: deque[tuple[int, int]] = deque(maxlen=BUCKETS_MAX)

    def add(self, count: int) -> None:
        """Note that ``count`` events happened now."""
        tick = self._tick()
        if self._buckets and self._buckets[-1][0] == tick:
            count += self._buckets.pop()[1]
        self._buckets.append((tick, count))

    def per_second(self) -> float:
        """The mean over the last five seconds, or over the time since the first event if that is shorter."""
        now = self._tick()
        recent = [(tick, count) for tick, count in self._buckets if now - tick < BUCKETS_MAX]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) * BUCKETS_MAX / WINDOW_S / (now - recent[0][0] + 1)

    def _tick(self) -> int:
        return int(self._clock() * BUCKETS_MAX / WINDOW_S)
