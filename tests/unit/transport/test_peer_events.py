"""Listeners hear every change that is not superseded, and end up with the right picture."""

import trio
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.transport.peer_events import PeerEvents
from p2pnode.transport.seam import PeerDown, PeerEvent, PeerUp
from protocol.core.ids import NodeId


def node(n: int) -> NodeId:
    return NodeId(n.to_bytes(20, "big"))


async def _all(source: PeerEvents, listener: object) -> list[PeerEvent]:
    source.close()
    return [event async for event in listener]  # type: ignore[attr-defined]


async def test_who_is_there_comes_first() -> None:
    source = PeerEvents()
    source.add(node(1))
    listener = source.listen()
    source.add(node(2))
    source.add(node(2))
    source.remove(node(3))
    assert await _all(source, listener) == [PeerUp(node(1)), PeerUp(node(2))]


async def test_a_visit_nobody_saw_is_not_told_but_a_return_is() -> None:
    source = PeerEvents()
    source.add(node(1))
    listener = source.listen()
    source.add(node(2))
    source.remove(node(2))
    with trio.fail_after(1):
        assert await anext(listener) == PeerUp(node(1))
    source.remove(node(1))
    source.add(node(1))
    source.remove(node(1))
    source.add(node(1))
    assert await _all(source, listener) == [PeerDown(node(1)), PeerUp(node(1))]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=60))
def test_the_picture_is_right_in_the_end(changes: list[tuple[int, bool, bool]]) -> None:
    async def main() -> None:
        source = PeerEvents()
        listener = source.listen()
        seen: set[NodeId] = set()
        told = 0
        for n, up, read in changes:
            before = len(source.up)
            (source.add if up else source.remove)(node(n))
            told += len(source.up) != before
            if read:
                with trio.move_on_after(0):
                    _note(seen, await anext(listener))
        source.close()
        rest = [event async for event in listener]
        assert len(rest) <= 2 * 4
        for event in rest:
            _note(seen, event)
        assert seen == set(source.up)

    trio.run(main)


def _note(seen: set[NodeId], event: PeerEvent) -> None:
    if isinstance(event, PeerUp):
        assert event.peer not in seen
        seen.add(event.peer)
    else:
        assert event.peer in seen
        seen.remove(event.peer)
