"""What peers make a node hold: bounded for each and over all, and whoever holds most pays."""

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.transport.holdings import Holdings
from protocol.core.ids import NodeId

A, B, C = (NodeId(bytes([n]) * 20) for n in range(3))


def test_whoever_oversteps_its_own_bound_loses_its_largest() -> None:
    dropped: list[str] = []
    holdings = Holdings[str](total_max=100, per_peer_max=10, drop=dropped.append)
    holdings.hold(A, "small", 4)
    holdings.hold(A, "large", 6)
    holdings.hold(B, "other", 10)
    assert dropped == []
    holdings.hold(A, "last", 1)
    assert dropped == ["large"]
    assert (holdings.total, holdings.dropped) == (15, 1)


def test_when_all_hold_too_much_whoever_holds_most_pays_and_not_who_came_last() -> None:
    dropped: list[str] = []
    holdings = Holdings[str](total_max=100, per_peer_max=80, drop=dropped.append)
    holdings.hold(A, "hoarded", 60)
    holdings.hold(A, "more of it", 20)
    holdings.hold(B, "modest", 20)
    assert dropped == []
    holdings.hold(C, "newcomer's", 10)
    assert dropped == ["hoarded"]


def test_what_is_released_is_gone() -> None:
    holdings = Holdings[str](total_max=10, per_peer_max=10, drop=lambda item: None)
    holdings.hold(A, "x", 5)
    holdings.hold(A, "x", 3)
    assert holdings.total == 3
    holdings.hold(A, "x", 0)
    holdings.hold(B, "never held", 0)
    assert (holdings.total, dict(holdings._held), holdings._by_peer) == (0, {}, {})


@given(st.lists(st.tuples(st.sampled_from((A, B, C)), st.integers(0, 5), st.integers(0, 60)), max_size=100))
def test_the_bounds_hold_whatever_is_asked(steps: list[tuple[NodeId, int, int]]) -> None:
    alive: dict[tuple[NodeId, int], int] = {}
    holdings = Holdings[tuple[NodeId, int]](total_max=100, per_peer_max=50, drop=lambda item: alive.pop(item, None))
    for peer, number, size in steps:
        alive[peer, number] = size
        holdings.hold(peer, (peer, number), size)
        assert holdings.total == sum(alive.values()) <= 100
        assert all(sum(size for (owner, _), size in alive.items() if owner == p) <= 50 for p in (A, B, C))
