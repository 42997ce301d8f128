"""The miner's machine between routers: whose lease it is the client's word decides, and nobody steals it back."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.ids import Generation
from protocol.core.machine import Channel, Close, Send
from protocol.core.signing import typed_digest
from protocol.messages.envelope import envelope_digest
from protocol.messages.sessions import Bid, LeaseBusy, LeaseGrant, LeaseRequest, SessionOpen, SignedTerm
from protocol.roles.miner import CancelGeneration, Generate
from tests.unit.protocol.keys import Key
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    MALLORY,
    ROUTER,
    assignment_of,
    id_of,
    of,
    opening_of,
    order_of,
    sent,
    start_of,
)
from tests.unit.protocol.miner_at_hand import Mine
from tests.unit.protocol.seeking_at_hand import ROUTERS, SECOND, THIRD, term_of

OPENING = opening_of(routers=tuple(router.node for router in ROUTERS))


class Contested(Mine):
    """A miner whose lease several routers ask for."""

    def __init__(self, opening: SessionOpen = OPENING) -> None:
        super().__init__()
        self.opening = opening
        self.digest = envelope_digest(DOMAIN, self.bid(opening), Bid)

    def asked(self, router: Key, term: SignedTerm | int | None = None) -> tuple[Channel, list[object]]:
        """A router asks, by a term if it has one."""
        if isinstance(term, int):
            term = term_of(self.opening, router, term) if term else None
        channel = self.opened(router.node, "task")
        return channel, self.receive(
            channel, LeaseRequest(self.opening, CLIENT.sign(id_of(self.opening)), self.digest, term)
        )

    def start(self, channel: Channel, router: Key, number: int, generation: Generation) -> list[object]:
        """A router hands over an order."""
        assignment = assignment_of(self.opening, router=router.node, number=number, generations=(generation,))
        signature = router.sign(typed_digest(DOMAIN, assignment))
        return self.receive(channel, start_of(assignment, order_of(self.opening), assignment_signature=signature))


def granted(effects: list[object]) -> Generation | None:
    """The lease that was given."""
    grants = [message for message in sent(effects) if isinstance(message, LeaseGrant)]
    return Generation(grants[0].generation) if grants else None


def busy(effects: list[object], channel: Channel) -> LeaseBusy:
    (message,) = sent(effects, channel)
    assert isinstance(message, LeaseBusy)
    return message


@pytest.mark.spec("ROUTER-TERM.1")
@pytest.mark.parametrize(
    ("before", "router", "after", "wins"),
    [
        (0, ROUTER, 0, True),
        (0, SECOND, 0, False),
        (0, SECOND, 1_024, True),
        (0, ROUTER, 1_024, True),
        (1_024, ROUTER, 1_024, True),
        (1_024, SECOND, 1_024, False),
        (1_024, SECOND, 0, False),
        (1_024, ROUTER, 0, False),
        (2_048, SECOND, 1_024, False),
        (2_048, ROUTER, 1_024, False),
        (2_048, THIRD, 2_049, True),
    ],
)
def test_a_lease_goes_to_the_same_router_or_by_a_later_term(before: int, router: Key, after: int, wins: bool) -> None:
    mine = Contested()
    first, effects = mine.asked(ROUTER, before)
    assert granted(effects)
    second, effects = mine.asked(router, after)
    assert (granted(effects) is not None) == wins
    assert (Close(first) in effects) == wins
    assert mine.machine.slots() == (1, 2), "one lease a session, whoever has it"
    term = term_of(OPENING, ROUTER, before) if before else None
    if not wins:
        assert busy(effects, second).term == term
    elif router is not ROUTER:
        assert busy(effects, first).term == term_of(OPENING, router, after)
    else:
        assert sent(effects, first) == [], "it knows"


@pytest.mark.spec("ROUTER-TERM.1")
@pytest.mark.parametrize(
    "fields",
    [{"signer": MALLORY}, {"router": THIRD}, {"session": bytes(32)}],
    ids=["forged", "another router's", "another session's"],
)
def test_a_term_that_is_not_this_routers_word_from_the_client_wins_nothing(fields: dict[str, Any]) -> None:
    mine = Contested()
    first, effects = mine.asked(ROUTER)
    kept = granted(effects)
    assert kept is not None
    term = term_of(OPENING, **{"router": SECOND, "after": 1_024, **fields})
    second, effects = mine.asked(SECOND, term)
    assert Close(second) in effects
    assert sent(effects) == []
    assert of(mine.start(first, ROUTER, 1, kept), Generate)


@pytest.mark.spec("ROUTER-TERM.1")
def test_a_router_that_the_client_did_not_name_gets_nothing_by_whatever_term() -> None:
    mine = Contested(opening_of())
    channel, effects = mine.asked(SECOND, 1_024)
    assert sent(effects) == []
    assert Close(channel) in effects


@pytest.mark.spec("ROUTER-TERM.1")
def test_what_ran_for_the_router_before_is_stopped_and_it_is_not_obeyed_any_more() -> None:
    mine = Contested()
    first, effects = mine.asked(ROUTER)
    old = granted(effects)
    assert old is not None
    assert of(mine.start(first, ROUTER, 1, old), Generate)
    second, effects = mine.asked(SECOND, 1_024)
    new = granted(effects)
    assert new is not None
    assert of(effects, CancelGeneration)
    shown, closed = (effects.index(found) for found in (Send(first, busy(effects, first)), Close(first)))
    assert shown < closed
    assert mine.start(first, ROUTER, 2, old) == []
    assert of(mine.start(second, SECOND, 1_025, new), Generate)


@pytest.mark.spec("ROUTER-TERM.1", "MINER-ORDER.1")
@pytest.mark.parametrize(
    ("router", "number", "runs"),
    [(SECOND, 1_024, False), (SECOND, 1, False), (ROUTER, 1_025, False), (SECOND, 1_025, True)],
)
def test_no_assignment_up_to_the_term_or_of_another_router_is_run(router: Key, number: int, runs: bool) -> None:
    mine = Contested()
    channel, effects = mine.asked(SECOND, 1_024)
    generation = granted(effects)
    assert generation is not None
    assert bool(of(mine.start(channel, router, number, generation), Generate)) == runs


@pytest.mark.spec("ROUTER-TERM.1", "LEASE-GENERATION.1")
@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(ROUTERS), st.integers(0, 3)), min_size=1, max_size=8))
def test_however_routers_fight_the_latest_term_has_the_lease(asks: list[tuple[Key, int]]) -> None:
    mine = Contested()
    holder: tuple[Key, int] | None = None
    generations = []
    for router, term in asks:
        _, effects = mine.asked(router, term * 1_024)
        wins = holder is None or term > holder[1] or (term == holder[1] and router is holder[0])
        generation = granted(effects)
        assert (generation is not None) == wins
        if wins:
            holder = (router, term)
            generations.append(generation)
        assert mine.machine.slots() == (1, 2)
        (lease,) = mine.machine._leases.values()
        assert (lease.router, lease.after) == (holder[0].node, holder[1] * 1_024)  # type: ignore[index]
    assert len(set(generations)) == len(generations)
