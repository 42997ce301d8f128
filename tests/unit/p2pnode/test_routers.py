"""The routers of a light client: which is reached first, which is turned to, and what is shown of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from p2pnode.address import RouterAddress, parse_router_address
from p2pnode.routers import PATIENCE_S, Routers, first_reached, routers_line
from p2pnode.transport.seam import PeerUnreachable, WrongPeer
from protocol.core.ids import NodeId
from protocol.roles.client import RouterSeen, RouterState

ADDRESS = parse_router_address(
    "/ip4/203.0.113.7/tcp/4001/p2p/16Uiu2HAkzjLLosHcV4LGvLY4vskdgvuQuyKwh59nsCyS2VUwvP9i?network=" + "ab" * 32
)
NODES = [NodeId(bytes([number]) * 20) for number in range(1, 5)]
NEVER_S = 1_000.0


def address(number: int) -> RouterAddress:
    return parse_router_address(str(ADDRESS).replace("203.0.113.7", f"203.0.113.{number}"))


class Dials:
    """A transport that reaches each address after its time, or fails to."""

    def __init__(self, after_s: Mapping[int, float | Exception]) -> None:
        self.after_s = {str(replace(address(number), network=None)): after for number, after in after_s.items()}
        self.dialed: list[str] = []

    async def connect(self, where: str, *, timeout_ms: int) -> NodeId:
        self.dialed.append(where)
        after_s = self.after_s[where]
        if isinstance(after_s, Exception):
            await trio.lowlevel.checkpoint()
            raise after_s
        with trio.move_on_after(timeout_ms / 1_000):
            await trio.sleep(after_s)
            return NODES[list(self.after_s).index(where)]
        raise PeerUnreachable("nobody answers in time")


async def reached(dials: Dials, count: int) -> tuple[NodeId, RouterAddress]:
    transport: Any = dials
    return await first_reached(transport, [address(number + 1) for number in range(count)], 10_000)


async def test_the_first_that_is_named_is_taken_if_it_answers_soon(autojump_clock: trio.testing.MockClock) -> None:
    dials = Dials({1: 0.9 * PATIENCE_S, 2: 0.0})
    assert await reached(dials, 2) == (NODES[0], address(1))
    assert len(dials.dialed) == 1


async def test_one_that_takes_long_is_not_waited_for_alone(autojump_clock: trio.testing.MockClock) -> None:
    dials, since = Dials({1: NEVER_S, 2: NEVER_S, 3: 0.2}), trio.current_time()
    assert await reached(dials, 3) == (NODES[2], address(3))
    assert trio.current_time() - since == pytest.approx(2 * PATIENCE_S + 0.2)


async def test_one_that_refuses_costs_no_time(autojump_clock: trio.testing.MockClock) -> None:
    dials, since = Dials({1: PeerUnreachable("refused"), 2: WrongPeer("another key"), 3: 0.1}), trio.current_time()
    assert await reached(dials, 3) == (NODES[2], address(3))
    assert trio.current_time() - since == pytest.approx(0.1)


async def test_where_none_answers_it_is_said_of_each(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(PeerUnreachable, match=r"refused; nobody answers in time"):
        await reached(Dials({1: PeerUnreachable("refused"), 2: NEVER_S}), 2)
    with pytest.raises(WrongPeer):
        await reached(Dials({1: PeerUnreachable("refused"), 2: WrongPeer("another key")}), 2)


def seen(number: int, state: RouterState, note: str = "", answer_ms: int | None = 4) -> RouterSeen:
    return RouterSeen(NODES[number], state, 3, 120, answer_ms, note)


def four() -> Routers:
    return Routers({node: address(number + 1) for number, node in enumerate(NODES)})


def test_the_best_is_turned_to_and_the_present_one_is_kept_as_long_as_none_is_better() -> None:
    routers = four()
    assert [each.node for each in routers.by_preference(NODES[2])] == [NODES[2], NODES[0], NODES[1], NODES[3]]
    routers.see(seen(2, RouterState.WITHHOLDING, "it did not tell"))
    assert routers.by_preference(NODES[2])[0].node == NODES[0]
    for number, state in enumerate((RouterState.LYING, RouterState.SILENT, RouterState.BEHIND, RouterState.STALE)):
        routers.see(seen(number, state))
    assert [each.node for each in routers.by_preference(NODES[0])] == NODES[::-1]


def test_every_state_has_its_place() -> None:
    routers = four()
    for state in RouterState:
        routers.see(seen(0, state))
        assert len(routers.by_preference(NODES[0])) == len(NODES)


async def test_who_waits_is_told_of_a_change_and_strangers_are_none_of_ours() -> None:
    routers = four()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(routers.changed)
        await trio.testing.wait_all_tasks_blocked()
        routers.see(seen(1, RouterState.ALIVE))
    routers.see(RouterSeen(NodeId(b"\x09" * 20), RouterState.ALIVE, 1, 1, 1, ""))
    assert len(routers) == len(NODES)


def test_one_line_says_it_all() -> None:
    routers = Routers({NODES[0]: address(1), NODES[1]: address(2)})
    assert routers_line(routers.all()) == "routers: 0x01010101 unknown, 0x02020202 unknown"
    routers.see(seen(0, RouterState.ALIVE))
    routers.see(seen(1, RouterState.BEHIND, "it shows header 3/80"))
    assert (
        routers_line(routers.all())
        == "routers: 0x01010101 alive 3/120 in 4 ms, 0x02020202 behind 3/120: it shows header 3/80"
    )
    assert routers.all()[0].as_json()["head"] == "3/120"
