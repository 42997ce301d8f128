"""The rate of generation."""

import pytest

from p2pnode.engine.rate import BUCKETS_MAX, RateMeter


def test_the_rate_is_of_the_last_five_seconds() -> None:
    now = 100.0
    meter = RateMeter(lambda: now)
    assert meter.per_second() == 0.0
    for _ in range(200):
        meter.add(1)
        now += 0.1
    now -= 0.1
    assert meter.per_second() == pytest.approx(10.0, rel=0.05)
    now += 6.0
    assert meter.per_second() == 0.0
    assert len(meter._buckets) <= BUCKETS_MAX
