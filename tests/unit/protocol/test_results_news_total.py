"""Whatever oracles tell a router, and routers a client, about results: no machine raises, and nothing is believed."""

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.light.levels import Level
from protocol.messages.results import (
    CommittedNews,
    Follow,
    LedgerNews,
    ObservedNews,
    OutcomeNews,
    RevealAsked,
    SessionNews,
    Submit,
    Watch,
)
from protocol.roles.client import TaskLevel
from tests.unit.protocol.following_at_hand import session_news
from tests.unit.protocol.light_at_hand import committed, news_of, observed, outcome_news, outcome_of
from tests.unit.protocol.machines import CLIENT, GENERATION, MALLORY, MINER, ORACLES, of, opening_of
from tests.unit.protocol.strategies import build
from tests.unit.protocol.test_machine_client_levels import TASK, Asking
from tests.unit.protocol.test_machine_router_reservations import Served, value_of

KINDS = (CommittedNews, Follow, LedgerNews, ObservedNews, OutcomeNews, RevealAsked, SessionNews, Submit, Watch)
FORGED = (ORACLES[0], ORACLES[1], MALLORY)


@cache
def any_news() -> st.SearchStrategy[Message]:
    """Well-formed messages of every kind, and such as name the very session of the tests, but are not what they say."""
    opening = opening_of()
    value = value_of(opening)
    near: list[Message] = [
        committed(value, GENERATION, MINER, MALLORY),
        observed(MALLORY, value),
        outcome_news(outcome_of(value), signers=FORGED),
        session_news(opening, signers=FORGED),
        news_of(99),
        news_of(99, epoch=2**62),
    ]
    return st.one_of(st.sampled_from(near), *(build(kind) for kind in KINDS))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), any_news(), st.integers(0, 2_000)), max_size=12))
def test_a_router_survives_its_oracles(said: list[tuple[int, Message, int]]) -> None:
    route = Served()
    for oracle, message, pause_ms in said:
        route.hears(oracle, message)
        route.wait(pause_ms)
    assert route.machine.load()["sessions_reserved"] == 0
    assert route.machine.load()["pool"] == 3
    route.wait(60_000)
    assert {oracle.node for oracle in ORACLES} == set(route.links), "all of them are asked again, in time"


@settings(max_examples=60, deadline=None)
@given(st.lists(any_news(), max_size=12))
def test_a_client_survives_its_router(said: list[Message]) -> None:
    client = Asking()
    client.answered()
    for message in said:
        client.says(message)
    assert all(item.level is Level.STREAMED for item in of(client.items.get(TASK, []), TaskLevel))
    assert client.machine._held.client == CLIENT.node
