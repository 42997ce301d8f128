"""What others do on this machine: a bound that holds on a quiet one is stretched by as much as the processors are
wanted more often than they are there."""

import os


def stretched(seconds: float) -> float:
    """A bound, on this machine, now."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
