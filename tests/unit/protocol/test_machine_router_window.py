"""How long a router waits for bids: longer, where nobody was near enough to bid in time. Found by the simulator."""

from itertools import pairwise

import pytest

from protocol.core.machine import DeadlineReached, Open, Publish
from protocol.messages.sessions import CloseSession
from protocol.roles.router.rounds import RETRY_MS_MAX, RETRY_MS_MIN, WAKE_MS, WINDOW_DOUBLINGS_MAX
from protocol.session.lottery import EVERYONE_FACTOR
from tests.unit.protocol.keys import key
from tests.unit.protocol.machines import MINER, MINERS, NOW_MS, PARAMS, advert_of, id_of, of, opening_of
from tests.unit.protocol.router_at_hand import Route

WINDOW_MS = PARAMS.bid_window_ms
EVERYONE = EVERYONE_FACTOR * PARAMS.bid_target


@pytest.mark.spec("ROUND-WINDOW.1")
def test_miners_that_are_too_far_away_for_the_window_are_waited_for_longer_the_next_time() -> None:
    route, opening = Route(), opening_of()
    route.open(route.client(), opening)
    assert len(of(route.wait(WINDOW_MS + RETRY_MS_MIN), Publish)) == 1
    assert of(route.wait(WINDOW_MS + 1), Publish) == []
    route.bid(opening)
    assert route.asked(route.wait(WINDOW_MS - 1))[1] == MINER.node


@pytest.mark.spec("ROUND-WINDOW.1")
def test_windows_double_with_each_round_in_vain_up_to_a_limit() -> None:
    route, opening = Route(), opening_of()
    route.open(route.client(), opening)
    announced = [route.now_ms]
    while len(announced) < 6:
        at_ms = route.machine.next_deadline()
        assert at_ms is not None
        route.now_ms = at_ms
        announced += [route.now_ms] * len(of(route.tell(DeadlineReached()), Publish))
    pauses = [min(RETRY_MS_MIN << number, RETRY_MS_MAX) for number in range(5)]
    rounds = [later - earlier for earlier, later in pairwise(announced)]
    windows = [WINDOW_MS << min(number, WINDOW_DOUBLINGS_MAX) for number in range(5)]
    assert [took - pause for took, pause in zip(rounds, pauses, strict=True)] == windows


def test_a_round_does_not_close_on_bids_of_those_that_failed_the_session_while_others_may_be_sound() -> None:
    # Found by a simulation: an order ended with engine_failed although two sound miners were free.
    route, opening = Route(miners=len(MINERS)), opening_of()
    route.open(route.client(), opening)
    failed, sound = MINERS[: len(MINERS) - 1], MINERS[-1]
    (session,) = route.machine._sessions.values()
    session.lost.update(miner.node for miner in failed)
    for miner in failed:
        assert of(route.bid(opening, miner), Open) == []
    assert route.asked(route.bid(opening, sound))[1] == sound.node


@pytest.mark.parametrize(("pool", "rounds"), [(EVERYONE, 1), (EVERYONE + 1, 0)])
def test_a_slot_that_comes_free_cuts_no_round_short_where_the_lottery_draws_few(pool: int, rounds: int) -> None:
    # Found by counting: with every slot that came free a round was begun anew, wider, before its bids could arrive.
    route, one, other = Route(miners=1), opening_of(number=1), opening_of(number=2)
    client = route.client()
    route.leased(one, client)
    for number in range(pool - 1):
        route.machine._book.add(*advert_of(key(1_000 + number)), NOW_MS)
    assert len(of(route.open(client, other) + route.wait(50), Publish)) == 1
    assert of(route.receive(client, CloseSession(id_of(one))), Publish) == []
    assert len(of(route.wait(WAKE_MS + 1), Publish)) == rounds
