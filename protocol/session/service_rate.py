"""How fast a queue is served, learned from what leaves it while more is waiting.

What is popped at one moment keeps its servers busy until the next pop, so its tokens belong to the time that
follows. Only time during which something waited counts: an idle queue says nothing about how fast it could be
served. Tokens and time are averaged apart and divided at the end. All values are integers.
"""

AVERAGE_OVER = 16
"""A new sample weighs one part in this many."""
SCALE = 1 << 16
UNKNOWN_RETRY_MS = 1_000
RETRY_MS_MIN = 250
RETRY_MS_MAX = 60_000


class ServiceRate:
    """An exponentially weighted mean of the service that a backlogged queue gets."""

    def __init__(self) -> None:
        self._tokens_scaled = 0
        self._ms_scaled = 0
        self._pending_tokens = 0
        self._since_ms: int | None = None

    def served(self, tokens: int, now_ms: int, *, backlogged: bool) -> None:
        """A request of so many tokens left to be served; ``backlogged`` if others still wait."""
        if not backlogged:
            self.idle()
            return
        if self._since_ms is not None and now_ms > self._since_ms:
            self._sample(self._pending_tokens, now_ms - self._since_ms)
            self._pending_tokens = 0
        self._since_ms = now_ms
        self._pending_tokens += tokens

    def idle(self) -> None:
        """Nothing waits any more."""
        self._pending_tokens = 0
        self._since_ms = None

    def time_for(self, tokens: int) -> int:
        """Milliseconds to serve so many tokens; 0 as long as nothing is known."""
        return tokens * self._ms_scaled // self._tokens_scaled if self._tokens_scaled else 0

    def retry_after(self, tokens: int) -> int:
        """When to ask again, in ms, if so many tokens are to be served first; within sensible bounds."""
        if not self._tokens_scaled:
            return UNKNOWN_RETRY_MS
        return min(max(self.time_for(tokens), RETRY_MS_MIN), RETRY_MS_MAX)

    def _sample(self, tokens: int, elapsed_ms: int) -> None:
        if not self._tokens_scaled:
            self._tokens_scaled, self._ms_scaled = tokens * SCALE, elapsed_ms * SCALE
            return
        self._tokens_scaled += (tokens * SCALE - self._tokens_scaled) // AVERAGE_OVER
        self._ms_scaled += (elapsed_ms * SCALE - self._ms_scaled) // AVERAGE_OVER
