"""What a miner has done, and how much of it still counts: everything loses weight from epoch to epoch."""

from protocol.core.signing import U64
from protocol.ledger.records import Record

MILLI = 1_000
"""Tasks are counted in thousandths, so that they can lose weight in integers."""
DECAYS_MAX = 1_024
"""After so many epochs nothing is left of any count below 2^63, at the slowest decay but none."""


class Statistics(Record, frozen=True):
    """Counts as they weighed at the start of an epoch, and those of that epoch in full. Spec: [POOL-DECAY.1]"""

    epoch: U64
    """Of the last decay."""
    tokens: U64 = 0
    ok_milli: U64 = 0
    failed_milli: U64 = 0

    def at(self, epoch: int, decay_bp: int) -> "Statistics":
        """The same at a later epoch: each turn leaves ``decay_bp`` of every count."""
        tokens, ok, failed = self.tokens, self.ok_milli, self.failed_milli
        for _ in range(min(max(0, epoch - self.epoch), DECAYS_MAX)):
            if not (tokens or ok or failed):
                break
            tokens, ok, failed = (count * decay_bp // 10_000 for count in (tokens, ok, failed))
        return Statistics(max(epoch, self.epoch), tokens, ok, failed)

    def reputation_bp(self) -> int:
        """How likely the next task succeeds, by what was: a miner of whom nothing is known has one half.

        Spec: [POOL-REPUTATION.1]
        """
        return 10_000 * (self.ok_milli + MILLI) // (self.ok_milli + self.failed_milli + 2 * MILLI)
