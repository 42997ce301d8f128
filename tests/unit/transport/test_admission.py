"""Token buckets, and the three tables before a topic's check."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.transport.admission import (
    PART_BURST_MIN,
    BucketTable,
    FairShare,
    TokenBucket,
    TopicAdmission,
    origin_burst,
    publish_bucket,
)
from protocol.core.ids import NodeId


def node(n: int) -> NodeId:
    return NodeId(n.to_bytes(20, "big"))


@given(st.floats(0.1, 1000), st.floats(1, 100), st.lists(st.floats(0, 2), max_size=200), st.integers(0, 5))
def test_a_bucket_never_gives_more_than_rate_and_burst(
    rate: float, burst: float, gaps: list[float], start: int
) -> None:
    now = float(start)
    bucket = TokenBucket(rate, burst, now)
    taken = 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now)
    assert taken <= burst + rate * (now - start) + 1e-6


def test_a_bucket_refills() -> None:
    bucket = TokenBucket(2.0, 3.0, 0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(0.5)
    assert not bucket.take(0.5)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_reservations_come_one_after_the_other_and_end() -> None:
    bucket = TokenBucket(10.0, 1.0, 0.0)
    waits = [bucket.reserve(0.0, 0.35) for _ in range(6)]
    assert waits[:4] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert waits[4:] == [None, None]
    assert bucket.reserve(0.1, 0.35) == pytest.approx(0.3)


def test_a_table_is_bounded_and_forgets_the_idle() -> None:
    table = BucketTable(1.0, 1.0, 10)
    for n in range(1000):
        assert table.take(node(n), 0.0)
    assert len(table) == 10
    assert not table.take(node(999), 0.0)
    assert table.take(node(0), 0.0)


def test_one_origin_gets_half_a_topic() -> None:
    admission = TopicAdmission(20.0, 0.0)
    passed = sum(admission.admit_origin(node(1), node(1), step / 100) for step in range(100_00))
    assert passed <= origin_burst(20.0) + 0.5 * 20.0 * 100 + 1
    assert passed >= 0.5 * 20.0 * 99
    assert admission.counts.origin_over == 10_000 - passed
    assert admission.admit_origin(node(2), node(2), 100.0)


def test_strangers_share_a_twentieth_together() -> None:
    admission = TopicAdmission(20.0, 0.0, allow={node(1)}.__contains__)
    passed = sum(admission.admit_origin(node(2 + step % 500), node(9), step / 100) for step in range(10_000))
    assert passed <= 10 + 0.05 * 20.0 * 100 + 1
    assert admission.counts.stranger_over == 10_000 - passed
    assert admission.admit_origin(node(1), node(1), 100.0)


def test_a_forwarder_is_bounded_too() -> None:
    admission = TopicAdmission(20.0, 0.0)
    passed = sum(admission.admit_forwarder(node(1), step / 1000) for step in range(10_000))
    assert passed <= 512 + 4 * 20.0 * 10 + 1
    assert admission.admit_forwarder(node(2), 10.0)


def test_a_hundred_fresh_keys_have_no_more_than_a_topic_and_what_is_settled_is_not_touched() -> None:
    admission = TopicAdmission(50.0, 0.0)
    for second in range(70):
        assert admission.admit_origin(node(1), node(9), float(second))
    passed = honest = 0
    for step in range(60_000):
        now = 70.0 + step / 1_000
        passed += admission.admit_origin(node(100 + step % 1_000), node(2 + step % 4), now)
        if step % 100 == 0:
            honest += admission.admit_origin(node(1), node(9), now)
    assert honest == 600
    assert passed <= origin_burst(50.0) + 50.0 * 60 + 4 * 50.0 + 1
    assert admission.counts.newcomer_over == 60_000 - passed


def test_new_origins_get_as_much_through_a_quiet_neighbour_as_through_one_that_floods() -> None:
    admission = TopicAdmission(50.0, 0.0)
    honest = 0
    for step in range(30_000):
        now = step / 1_000
        admission.admit_origin(node(100 + step), node(2 + step % 4), now)
        if step % 200 == 0:
            honest += admission.admit_origin(node(1), node(9), now)
    assert honest == 150


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 20)), max_size=400))
def test_what_is_shared_out_is_never_more_than_there_is(asked: list[tuple[float, int]]) -> None:
    shared, now, taken = FairShare(10.0, 20.0, 64, 0.0), 0.0, 0
    for gap, who in asked:
        now += gap
        taken += shared.take(node(who), now)
    assert taken <= 20 + 10.0 * now + 21 * PART_BURST_MIN + 10.0


def test_those_that_share_are_bounded() -> None:
    shared = FairShare(10.0, 20.0, 64, 0.0)
    for n in range(10_000):
        shared.take(node(n), n / 1_000)
    assert len(shared._parts) == 64


def test_what_a_neighbour_says_does_not_suffer_from_what_it_passes_on() -> None:
    admission = TopicAdmission(20.0, 0.0)
    while admission.admit_forwarder(node(1), 0.0):
        pass
    assert admission.admit_forwarder(node(1), 0.0, speaks=True)
    said = 1
    while admission.admit_forwarder(node(1), 0.0, speaks=True):
        said += 1
    assert said == origin_burst(20.0)


def test_what_a_node_accepts_under_a_flood_is_less_than_its_neighbours_grant_a_forwarder() -> None:
    """So an honest relay is never over its share, whatever it relays."""
    here, there = TopicAdmission(50.0, 0.0), TopicAdmission(50.0, 0.0)
    for step in range(200_000):
        now = step / 2_000
        if here.admit_origin(node(100 + step % 997), node(2 + step % 32), now):
            assert there.admit_forwarder(node(1), now)
    assert there.counts.forwarder_over == 0


def test_our_own_pace_stays_within_what_others_grant() -> None:
    for rate in (0.5, 20.0, 2000.0):
        pace, admission = publish_bucket(rate, 0.0), TopicAdmission(rate, 0.0)
        now = 0.0
        for _ in range(2000):
            wait = pace.reserve(now, 1e9)
            assert wait is not None
            now += wait
            assert admission.admit_origin(node(1), node(1), now)


def test_a_rate_is_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        TopicAdmission(0.0, 0.0)
