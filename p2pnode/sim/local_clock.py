"""What one node takes for the time: off by a skew, jumping now and then, never going back while the node lives."""

from collections.abc import Callable

EPOCH_MS = 1_800_000_000_000
"""The Unix time at which every world begins."""


class LocalClock:
    """``now_us`` is the world's own time."""

    def __init__(self, now_us: Callable[[], int], skew_ms: int = 0) -> None:
        self._now_us = now_us
        self._ahead_us = (EPOCH_MS + skew_ms) * 1_000
        self._last_ms = 0

    def now_ms(self) -> int:
        """Unix time in ms as the node sees it. After a jump back it stands still until it is overtaken."""
        self._last_ms = max(self._last_ms, (self._now_us() + self._ahead_us) // 1_000)
        return self._last_ms

    def reached_us(self, deadline_ms: int) -> int:
        """When, in the world's time, this clock shows ``deadline_ms``, unless it jumps before."""
        now_us = self._now_us()
        return now_us if deadline_ms <= self._last_ms else max(now_us, deadline_ms * 1_000 - self._ahead_us)

    def jump(self, by_ms: int) -> None:
        """Somebody set the clock."""
        self._ahead_us += by_ms * 1_000

    def restart(self) -> None:
        """A new process reads the clock afresh, even if it was set back meanwhile."""
        self._last_ms = 0
