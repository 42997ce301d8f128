"""A router announces no faster than others listen, however many sessions wait."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.machine import Publish
from protocol.messages.sessions import LeaseGrant, SessionReady
from protocol.roles.router.pace import BURST_S, SHARE_BP, Pace
from tests.unit.protocol.machines import MINERS, NOW_MS, PARAMS, id_of, of, opening_of, sent
from tests.unit.protocol.router_at_hand import Route

RATE = PARAMS.gossip_sessions_per_second
MANY = replace(PARAMS, sessions_per_router_max=512, sessions_per_client_max=512, queue_requests_max=512).validate()


@pytest.mark.spec("ANNOUNCE-PACE.1")
@given(st.lists(st.integers(0, 400), max_size=300))
def test_over_any_time_no_more_leaves_than_burst_and_share(pauses: list[int]) -> None:
    pace, now_ms, left = Pace(PARAMS), NOW_MS, []
    for pause in pauses:
        now_ms = max(now_ms + pause, pace.ready_ms(now_ms + pause))
        pace.take(now_ms)
        left.append(now_ms)
    for first in range(0, len(left), 7):
        for last in range(first, len(left), 7):
            share = (left[last] - left[first]) * RATE * SHARE_BP // 10_000_000
            assert last - first + 1 <= RATE * BURST_S + share + 1


def test_who_was_quiet_waits_for_nothing() -> None:
    pace = Pace(PARAMS)
    for number in range(1_000):
        now_ms = NOW_MS + number * 10_000 * 1_000 // (RATE * SHARE_BP) + number
        assert pace.ready_ms(now_ms) == now_ms
        pace.take(now_ms)


@pytest.mark.spec("ANNOUNCE-PACE.1")
def test_three_hundred_sessions_at_once_are_all_announced_in_their_turn_and_served() -> None:
    """With announcements that pile up on their way out, every round would be over before the first bid."""
    route = Route(miners=1, params=MANY, rounds_max=400)
    client = route.client()
    openings = {id_of(opening): opening for opening in (opening_of(number=number) for number in range(300))}
    served: set[bytes] = set()
    announced_ms: list[int] = []
    effects = [effect for opening in openings.values() for effect in route.open(client, opening, timeout_ms=60_000)]
    while len(served) < len(openings):
        for publish in of(effects, Publish):
            announced_ms.append(route.now_ms)
            (session,) = [
                id_
                for id_ in openings
                if route.machine._sessions[id_].round
                and route.machine._sessions[id_].round.announced is publish.message
            ]
            bid = route.bid(openings[session], MINERS[0])
            channel, _ = route.asked(bid)
            grant = LeaseGrant(session, bytes([7] * 16) + len(served).to_bytes(8, "big"), 1_000)
            (ready,) = sent(route.receive(channel, grant), client)
            assert isinstance(ready, SessionReady)
            served.add(session)
        effects = route.wait(50)
        assert route.now_ms - NOW_MS < 20_000, f"{len(served)} served"
    assert sum(at == announced_ms[0] for at in announced_ms) <= RATE * BURST_S + 1
