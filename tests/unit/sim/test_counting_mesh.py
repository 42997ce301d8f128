"""The model of gossip that the counting mode uses."""

from collections.abc import Sequence
from random import Random

import pytest

from p2pnode.sim.counting_mesh import FANOUT, FORWARD_US, LINKS_JOINED, LINKS_MAX, TopicMesh
from p2pnode.sim.links import Profile

NEAR = Profile(distance_us=(1_000, 2_000))


def mesh_of(size: int, links: Sequence[tuple[int, int, int]] | None = None) -> TopicMesh:
    """A mesh, with the links given: (one, other, µs)."""
    mesh = TopicMesh(Random(7), NEAR, size)
    if links is not None:
        mesh.links = [[] for _ in range(size)]
        for one, other, distance_us in links:
            mesh.links[one].append((other, distance_us))
            mesh.links[other].append((one, distance_us))
    return mesh


@pytest.mark.parametrize("size", [2, 3, 5, 6, 40, 1_000])
def test_a_mesh_is_whole_and_nobody_holds_more_links_than_gossipsub_lets_it(size: int) -> None:
    mesh = mesh_of(size)
    held = [len(links) for links in mesh.links]
    assert max(held) <= LINKS_MAX
    assert min(held) >= min(LINKS_JOINED, size - 1)
    assert all(len({other for other, _ in links}) == len(links) for links in mesh.links)
    assert len(mesh.flow("author", 0).arrivals) == size - 1
    if size == 1_000:
        assert 7.9 < mesh.link_ends / size <= 8


def test_a_message_is_passed_on_over_all_links_but_the_one_it_came_over_and_the_author_s() -> None:
    # 0 - 1 - 2, 0 - 2, 2 - 3: node 2 hears from 0 before it hears from 1.
    mesh = mesh_of(4, [(0, 1, 1_000), (1, 2, 5_000), (0, 2, 2_000), (2, 3, 1_000)])
    flow = mesh.flow("author", 0)
    assert flow.arrivals == [(1_000, 1), (2_000, 2), (2_000 + FORWARD_US + 1_000, 3)]
    assert flow.sent == [2, 1, 2, 0], "1 to 2; 2 to 1 and 3; 3 has nobody but the one it came from"
    assert flow.received == [0, 2, 2, 1]
    assert flow.copies == 5


def test_copies_are_the_links_ends_less_one_for_each_that_hears_it() -> None:
    mesh = mesh_of(200)
    for author in range(20):
        flow = mesh.flow(author, author)
        back = mesh.link_ends - (mesh.size - 1) - flow.copies
        # Neighbours of the author that heard of it by another way do not send it back.
        assert 0 <= back < len(mesh.links[author])
        assert sum(flow.sent) == sum(flow.received) == flow.copies
        assert flow.received[author] == 0


def test_an_author_outside_the_mesh_hands_it_to_a_few() -> None:
    mesh = mesh_of(50)
    flow = mesh.flow("router-1", None)
    assert len(flow.arrivals) == 50
    assert sum(flow.received) == flow.copies
    # Whoever has it first from a member sends it to one less; of those that the author hands it to not all do.
    passed_on = flow.copies - FANOUT
    assert mesh.link_ends - mesh.size < passed_on <= mesh.link_ends - mesh.size + FANOUT
    assert mesh_of(3).flow("router-1", None).copies == 3 + 3 * 2, "all have it from the author, and tell the others"


def test_the_same_author_s_messages_spread_the_same_way_each_time() -> None:
    mesh = mesh_of(30)
    assert mesh.flow("miner-1", 1) is mesh.flow("miner-1", 1)
    assert mesh.flow("miner-2", 2) is not mesh.flow("miner-1", 1)
    assert mesh_of(30).flow("miner-1", 1).arrivals == mesh.flow("miner-1", 1).arrivals
