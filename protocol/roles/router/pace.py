"""How fast a router may announce: what it says beyond its share of the topic reaches nobody in time.

Announcements that wait for their turn behind others are late, bids to them come when the round is over, and the
sessions announce again: a router that does not pace itself loses every round once it has more sessions than its share.
"""

from protocol.core.params import Params

SHARE_BP = 4_000
"""Of the topic's budget: below the half that others grant one origin."""
BURST_S = 1
"""So many seconds of the topic's whole budget may leave at once."""


class Pace:
    """A steady rate with a burst, in integers: the generic cell rate algorithm (ITU-T I.371)."""

    def __init__(self, params: Params) -> None:
        rate = params.gossip_sessions_per_second
        self._interval_us = 1_000_000 * 10_000 // (rate * SHARE_BP)
        self._burst_us = self._interval_us * max(1, rate * BURST_S)
        self._due_us = 0

    def ready_ms(self, now_ms: int) -> int:
        """When the next announcement may leave: now, or later. Spec: [ANNOUNCE-PACE.1]"""
        return max(now_ms, -(-(self._due_us - self._burst_us) // 1_000))

    def take(self, now_ms: int) -> None:
        """One leaves."""
        self._due_us = max(self._due_us, now_ms * 1_000) + self._interval_us
