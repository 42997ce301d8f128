"""A client whose router does not tell what became of an answer: it notices, asks others, and the chain."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.ids import ZERO_DIGEST
from protocol.light.levels import Level
from protocol.messages.receipts import LightRefused, OutcomeAsked
from protocol.messages.results import Observation, OutcomeNews, SettledNews, Verdict
from protocol.roles.client import CloseAsked, RouterState
from protocol.roles.client.levels import FINAL_WITHIN_MS, NO_HEADER, final_within_ms
from protocol.roles.client.omission import CHAIN_AFTER, PAUSE_MS_MAX
from protocol.roles.client.watching import ROUND_MS
from tests.unit.protocol.client_at_hand import HELLO, SESSION_HANDLE, Client
from tests.unit.protocol.light_at_hand import committed, observed, outcome_news, outcome_of
from tests.unit.protocol.machines import GENERATION, MALLORY, ORACLES, PARAMS, ROUTER, stream_of
from tests.unit.protocol.test_machine_client_levels import TASK
from tests.unit.protocol.watching_at_hand import NOTHING, ROUTERS, SECOND, THIRD, Watcher

FORGED = [ORACLES[0], ORACLES[1], MALLORY]


class Waiting(Watcher):
    """A client with an answer of which nobody says what became of it."""

    def __init__(self, **opening: int) -> None:
        super().__init__(**opening)
        for router in ROUTERS:
            self.head(router, 41)
        self.value = self.answered()
        self.question = OutcomeAsked(self.value.session, self.value.task)

    def level_now(self) -> Level:
        told = self.levels()
        return told[-1].level if told else Level.STREAMED

    def is_overdue(self) -> bool:
        told = self.levels()
        return bool(told) and told[-1].overdue


@pytest.mark.spec("LIGHT-OMISSION.1")
def test_an_answer_that_is_not_final_in_time_is_told_so_and_every_router_is_asked() -> None:
    client = Waiting()
    client.says(committed(client.value, GENERATION))
    assert client.outcomes(client.wait(FINAL_WITHIN_MS - 1), SECOND) == []
    assert not client.is_overdue()
    effects = client.wait(1)
    assert client.is_overdue()
    assert client.level_now() is Level.COMMITTED, "nothing is taken back"
    assert all(client.outcomes(effects, router) == [client.question] for router in ROUTERS)


@pytest.mark.spec("LIGHT-OMISSION.1")
def test_one_router_that_tells_is_enough_and_the_one_that_did_not_is_known_for_it() -> None:
    client = Waiting()
    client.wait(FINAL_WITHIN_MS)
    client.shows(SECOND, outcome_news(outcome_of(client.value)))
    assert client.level_now() is Level.FINALIZED
    assert not client.is_overdue()
    assert client.state(ROUTER) is RouterState.WITHHOLDING
    assert client.state(SECOND) is RouterState.ALIVE
    before = len(client.levels())
    client.shows(THIRD, outcome_news(outcome_of(client.value)))
    client.wait(2 * PAUSE_MS_MAX)
    assert len(client.levels()) == before, "once is enough"


@pytest.mark.spec("LIGHT-OMISSION.1")
def test_who_tells_of_a_later_answer_in_time_is_forgiven() -> None:
    client = Waiting()
    client.wait(FINAL_WITHIN_MS)
    client.shows(SECOND, outcome_news(outcome_of(client.value)))
    client.shows(ROUTER, NOTHING)
    client.shows(THIRD, NOTHING)
    later = client.answered(TASK + 1)
    client.says(outcome_news(outcome_of(later)))
    states = [client.state(ROUTER)]
    client.wait(ROUND_MS - FINAL_WITHIN_MS)
    client.head(ROUTER, 41)
    states.append(client.state(ROUTER))
    assert states[0] is RouterState.WITHHOLDING
    assert states[-1] is RouterState.ALIVE


def test_a_router_that_tells_in_time_is_not_asked() -> None:
    client = Waiting()
    client.says(outcome_news(outcome_of(client.value)))
    assert client.outcomes(client.wait(10 * FINAL_WITHIN_MS), ROUTER) == []
    assert not any(told.overdue for told in client.levels())
    assert not client.wants_chain


@pytest.mark.spec("LIGHT-OMISSION.1")
def test_where_no_router_tells_they_are_asked_again_ever_more_seldom_and_the_chain_too() -> None:
    client = Waiting()
    asked = []
    for second in range(200):
        effects = client.wait(1_000)
        for router in ROUTERS:
            watched = client.machine._watching._routers[router.node]
            if client.outcomes(effects, router):
                asked += [second] if router is SECOND else []
            client.shows(router, *[NOTHING] * len(watched.questions))
        assert client.wants_chain == max(0, len(asked) - CHAIN_AFTER + 1)
    gaps = [after - before for before, after in pairwise(asked)]
    assert gaps == sorted(gaps)
    assert gaps[-1] * 1_000 == PAUSE_MS_MAX
    assert client.level_now() is Level.STREAMED
    assert client.is_overdue()
    client.shows(THIRD, outcome_news(outcome_of(client.value)))
    assert client.level_now() is Level.FINALIZED


@pytest.mark.spec("LIGHT-OMISSION.1")
def test_with_more_lanes_the_windows_of_commits_and_openings_are_waited_for() -> None:
    assert final_within_ms(PARAMS, 1) == FINAL_WITHIN_MS
    windows_ms = PARAMS.commit_window_ms + PARAMS.reveal_window_ms
    assert final_within_ms(PARAMS, 2) == FINAL_WITHIN_MS + windows_ms


@pytest.mark.spec("LIGHT-WATCH.3")
@pytest.mark.parametrize("router", ROUTERS)
def test_a_false_level_moves_nothing_and_convicts_who_shows_it(router: object) -> None:
    client = Waiting()
    client.wait(FINAL_WITHIN_MS)
    forged = outcome_news(outcome_of(client.value), signers=FORGED)
    client.shows(router, forged)  # type: ignore[arg-type]
    assert client.level_now() is Level.STREAMED
    assert client.state(router) is RouterState.LYING  # type: ignore[arg-type]


@pytest.mark.spec("LIGHT-WATCH.3")
def test_a_false_level_on_the_sessions_own_stream_is_dropped_and_its_router_is_known_for_it() -> None:
    client = Waiting()
    news = outcome_news(outcome_of(client.value))
    misplaced = msgspec.structs.replace(news, proof=msgspec.structs.replace(news.proof, index=news.proof.index + 1))
    client.says(misplaced)
    assert client.level_now() is Level.STREAMED
    assert client.state(ROUTER) is RouterState.LYING
    client.wait(FINAL_WITHIN_MS)
    client.shows(SECOND, news)
    assert client.level_now() is Level.FINALIZED


def test_a_verdict_against_it_is_no_matter_of_time() -> None:
    client = Waiting()
    late = msgspec.structs.replace(client.value, verdict=Verdict.LATE, root=ZERO_DIGEST, count=0)
    client.says(observed(ORACLES[0], late), observed(ORACLES[1], late))
    assert client.outcomes(client.wait(10 * FINAL_WITHIN_MS), SECOND) == []
    assert client.levels()[-1].against == "late"
    assert not client.is_overdue()


def test_a_verdict_against_it_that_another_router_shows_is_told() -> None:
    client = Waiting()
    client.wait(FINAL_WITHIN_MS)
    other = msgspec.structs.replace(client.value, root=b"\x42" * 32)
    client.shows(SECOND, outcome_news(outcome_of(other)))
    assert client.levels()[-1].against == "another result"
    assert client.level_now() is Level.STREAMED


def test_of_a_session_that_is_closed_nothing_more_is_asked() -> None:
    client = Waiting()
    client.tell(CloseAsked(SESSION_HANDLE))
    assert client.outcomes(client.wait(10 * FINAL_WITHIN_MS), SECOND) == []


def test_an_order_from_before_any_header_can_not_rise_and_that_is_told() -> None:
    client = Client()
    client.says(HELLO)
    client.ready()
    client.says(*stream_of(client.order(client.ask(TASK))))
    (told,) = [item for item in client.items[TASK] if getattr(item, "against", "")]
    assert (told.level, told.against) == (Level.STREAMED, NO_HEADER)  # type: ignore[union-attr]


def news_of(value: Observation) -> list[Message]:
    """All that may be said of an answer, true and false."""
    late = msgspec.structs.replace(value, verdict=Verdict.LATE, root=ZERO_DIGEST, count=0)
    outcome = outcome_news(outcome_of(value))
    return [
        committed(value, GENERATION),
        committed(value, GENERATION, signer=MALLORY),
        *(observed(oracle, value, 1) for oracle in ORACLES),
        *(observed(oracle, late, 2) for oracle in ORACLES),
        outcome,
        outcome_news(outcome_of(late)),
        outcome_news(outcome_of(value), signers=FORGED),
        SettledNews(outcome.outcome, outcome.proof, outcome.certified),
        LightRefused("not_final", "not yet"),
    ]


@pytest.mark.spec("LEVEL-RISES.1", "LIGHT-OMISSION.1")
@given(st.data())
def test_whoever_says_what_and_in_whatever_order_no_level_falls_and_none_is_told_without_its_proof(
    data: st.DataObject,
) -> None:
    client = Waiting()
    said = news_of(client.value)
    true, first = {0: {Level.COMMITTED}}, 2
    believed: set[Level] = set()
    oracles: set[int] = set()
    for _ in range(data.draw(st.integers(1, 14))):
        number = data.draw(st.integers(0, len(said) - 1))
        router = data.draw(st.sampled_from((None, *ROUTERS)))
        if router is None:
            client.says(said[number])
            believed |= true.get(number, set())
            oracles |= {number - first} if first <= number < first + len(ORACLES) else set()
        elif client.state(router) not in (RouterState.LYING, RouterState.SILENT):
            client.shows(router, said[number])
        believed |= {Level.FINALIZED} if isinstance(said[number], OutcomeNews | SettledNews) else set()
        believed |= {Level.CERTIFIED} if len(oracles) >= 3 else set()
        client.wait(data.draw(st.integers(0, 2_000)))
    levels = [told.level for told in client.levels()]
    assert levels == sorted(levels)
    assert set(levels) <= {Level.STREAMED, *believed}
