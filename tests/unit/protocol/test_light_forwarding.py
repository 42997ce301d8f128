"""A router that is asked for the outcome of an order it knows nothing of: it asks oracles, and passes on what holds."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelClosed, Close, Open
from protocol.light.forwarding import ASKERS_MAX, FORWARD_MS, ORACLES_ASKED, QUESTIONS_MAX, Forwarding
from protocol.light.handovers import HandOverStore
from protocol.light.serving import Known, LightServer
from protocol.light.shelf import ReceiptShelf
from protocol.messages.receipts import HeadAsked, LightRefused, OutcomeAsked
from protocol.messages.results import Observation, OutcomeNews, SettledNews, Verdict
from tests.unit.protocol.light_at_hand import certify, header_of, known_book, outcome_news, outcome_of
from tests.unit.protocol.machines import CLIENT, DOMAIN, MALLORY, ORACLES, PARAMS, Hand, of, sent

VALUE = Observation(b"\x07" * 32, 1, 0, Verdict.OK, b"\x08" * 32, 3)
NEWS = outcome_news(outcome_of(VALUE))
SETTLED = SettledNews(NEWS.outcome, NEWS.proof, NEWS.certified)
FORGED = outcome_news(outcome_of(VALUE), signers=[ORACLES[0], ORACLES[1], MALLORY])
ASKED = OutcomeAsked(VALUE.session, VALUE.task)
NOT_HELD = LightRefused("not_held", "no")
NOT_FINAL = LightRefused("not_final", "no")


class Router(Hand):
    """A router's light server, and its streams to oracles."""

    def __init__(self) -> None:
        book = known_book()
        known = Known(HandOverStore(), ReceiptShelf(DOMAIN, PARAMS, book), lambda: certify(header_of(9)))
        super().__init__(LightServer(known, Forwarding(book.trust)))
        self.oracles: dict[Channel, NodeId] = {}
        self.client = self.opened(CLIENT.node, "light")

    def tell(self, event: object) -> list[object]:
        effects = super().tell(event)
        self.oracles.update({each.channel: each.peer for each in of(effects, Open)})
        return effects

    def ask(self, task: int = VALUE.task, channel: Channel | None = None) -> list[object]:
        return self.receive(channel or self.client, OutcomeAsked(VALUE.session, task))

    def answers(self, effects: list[object], channel: Channel | None = None) -> list[Message]:
        return sent(effects, channel or self.client)


def code(message: Message) -> str:
    assert isinstance(message, LightRefused)
    return message.code


@pytest.mark.spec("OUTCOME-FORWARDED.1")
def test_two_oracles_are_asked_and_the_first_answer_that_holds_is_passed_on_once() -> None:
    router = Router()
    effects = router.ask()
    first, second = router.oracles
    assert {each.protocol for each in of(effects, Open)} == {"light"}
    assert {router.oracles[first], router.oracles[second]} <= {oracle.node for oracle in ORACLES}
    assert sent(effects, first) == sent(effects, second) == [ASKED]
    assert router.answers(effects) == []
    assert router.answers(router.receive(first, NEWS)) == [NEWS]
    assert router.answers(router.receive(first, SETTLED)) == [SETTLED]
    assert router.receive(second, NEWS) == []
    assert router.receive(second, SETTLED) == []
    assert router.answers(router.ask()) == [NEWS, SETTLED], "asked again at once, it needs no oracle"
    assert router.wait(2 * FORWARD_MS) == []


@pytest.mark.spec("OUTCOME-FORWARDED.1")
def test_what_does_not_hold_is_not_passed_on() -> None:
    router = Router()
    router.ask()
    first, second = router.oracles
    assert router.receive(first, FORGED) == []
    assert router.answers(router.receive(second, NEWS)) == [NEWS]
    router = Router()
    router.ask()
    first, second = router.oracles
    router.receive(first, FORGED)
    (told,) = router.answers(router.receive(second, FORGED))
    assert code(told) == "not_held"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((NOT_HELD, NOT_HELD), "not_held"),
        ((NOT_HELD, NOT_FINAL), "not_final"),
        ((NOT_FINAL, NOT_HELD), "not_final"),
    ],
)
def test_where_no_oracle_has_it_the_asker_is_told_whether_to_ask_again(
    answers: tuple[LightRefused, ...], expected: str
) -> None:
    router = Router()
    router.ask()
    told = [
        each
        for channel, answer in zip(list(router.oracles), answers, strict=True)
        for each in router.answers(router.receive(channel, answer))
    ]
    assert list(map(code, told)) == [expected]


def test_an_order_that_is_known_here_is_a_matter_of_time_whatever_oracles_say() -> None:
    router = Router()
    router.machine._known.outcomes = lambda _session, _task: []
    router.ask()
    told = [each for channel in list(router.oracles) for each in router.answers(router.receive(channel, NOT_HELD))]
    assert list(map(code, told)) == ["not_final"]


def test_oracles_that_say_nothing_or_leave_are_not_waited_for() -> None:
    router = Router()
    router.ask()
    (told,) = router.answers(router.wait(FORWARD_MS))
    assert code(told) == "busy"
    router.ask()
    gone: list[Any] = [
        each for channel in list(router.oracles) for each in router.tell(ChannelClosed(channel, "reset"))
    ]
    (told,) = router.answers(gone)
    assert code(told) == "not_held"
    router.oracles.clear()
    router.ask()
    assert len(router.oracles) == ORACLES_ASKED, "streams that are lost are opened again"


def test_oracles_take_turns() -> None:
    router = Router()
    for task in range(1, 1 + len(ORACLES)):
        router.ask(task)
    assert set(router.oracles.values()) == {oracle.node for oracle in ORACLES}


def test_who_asks_the_same_shares_the_answer_and_who_left_gets_none() -> None:
    router = Router()
    others = [router.opened(key.node, "light") for key in (MALLORY, ORACLES[3])]
    effects = router.ask()
    for other in others:
        assert router.ask(channel=other) == []
    router.tell(ChannelClosed(others[1], "left"))
    first = next(iter(router.oracles))
    effects = router.receive(first, NEWS)
    assert router.answers(effects) == router.answers(effects, others[0]) == [NEWS]
    assert router.answers(effects, others[1]) == []


def test_one_asker_can_not_take_all_places_and_other_questions_are_answered_meanwhile() -> None:
    router = Router()
    for task in range(1, ASKERS_MAX + 1):
        assert router.answers(router.ask(task)) == []
    (told,) = router.answers(router.ask(ASKERS_MAX + 1))
    assert code(told) == "busy"
    (told,) = router.answers(router.receive(router.client, HeadAsked(1)))
    assert told == certify(header_of(9))
    other = router.opened(MALLORY.node, "light")
    assert router.answers(router.ask(ASKERS_MAX + 1, other), other) == []


messages = st.sampled_from([NEWS, FORGED, NOT_HELD, NOT_FINAL, ASKED, HeadAsked(1), certify(header_of(9)), None])


@given(st.lists(st.tuples(st.integers(1, 40), messages, st.integers(0, 700)), max_size=30))
def test_each_question_has_one_answer_in_time_whatever_oracles_say(
    said: list[tuple[int, Message | None, int]],
) -> None:
    router = Router()
    forwarding, asked, told = router.machine._forwarding, 0, list[Message]()
    for task, message, after_ms in said:
        held = forwarding._questions.get((VALUE.session, task))
        asked += held is None or bool(held.told)
        told += router.answers(router.ask(task))
        for channel in list(router.oracles)[:1]:
            event = ChannelClosed(channel, "reset")
            effects = router.tell(event) if message is None else router.receive(channel, message)
            told += router.answers(effects)
            if message is None or of(effects, Close):
                del router.oracles[channel]
        told += router.answers(router.wait(after_ms))
        assert len(forwarding._questions) <= QUESTIONS_MAX
        assert all(len(each) <= QUESTIONS_MAX for each in forwarding._asked.values())
        assert len(forwarding._channels) == len(forwarding._oracles) == len(forwarding._asked) <= len(ORACLES)
    told += router.answers(router.wait(2 * FORWARD_MS))
    assert all(isinstance(each, OutcomeNews | LightRefused) for each in told)
    assert len(told) == asked
    assert not forwarding._questions
    assert forwarding.next_deadline() is None


def test_a_verdict_of_another_lane_is_not_the_answer() -> None:
    router = Router()
    router.ask()
    first = next(iter(router.oracles))
    other = outcome_news(outcome_of(msgspec.structs.replace(VALUE, lane=1)))
    assert router.receive(first, other) == []
