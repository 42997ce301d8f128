"""The tester: what it asks a miner, what it makes of the answers, and what it reports."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from protocol.core.codec import Message
from protocol.core.ids import NodeId
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Close, Note, Open, Received
from protocol.messages.audits import (
    AnswerEnded,
    AnswerTokens,
    AuditRefused,
    ChallengeGiven,
    ChallengeOffered,
    ChallengeReady,
    Transcript,
    TranscriptAsked,
)
from protocol.messages.results import TestReport
from protocol.messages.tasks import EndReason
from protocol.results.challenge import check_challenge, question
from protocol.roles.tester import (
    Called,
    CalledLane,
    Calls,
    Compare,
    Compared,
    Score,
    Scored,
    ScoringFailed,
    Tested,
    TesterMachine,
    TesterSettings,
)
from protocol.roles.tester.examination import RETRY_MS
from protocol.roles.tester.machine import CALLS_MAX, TESTS_AT_ONCE, TRY_AGAIN_MS
from protocol.session.sampling import lane_seed
from tests.unit.protocol.keys import key
from tests.unit.protocol.machines import DOMAIN, MINER, MODEL, PARAMS, PROMPT_TOKENS, Hand, of, sent
from tests.unit.protocol.test_audit import transcript_of
from tests.unit.protocol.walk import ANYTHING

ORACLE = key(50)
ORACLES = 4
PATIENCE_MS = ORACLES * PARAMS.test_deadline_ms
CALLED = Called(MINER.node, 3, b"\x07" * 32, MODEL, 0)
TEXT = b"a" * 64


class Testing(Hand):
    """An oracle's tester, and the one miner that is called."""

    __test__ = False

    def __init__(self, called: Called | None = CALLED) -> None:
        settings_ = TesterSettings(ORACLE.node)
        super().__init__(TesterMachine(settings_, DOMAIN, PARAMS, ORACLE.sign))
        self.begun = self.tell(Calls((called,), ORACLES)) if called is not None else []

    def stream(self, effects: Sequence[object]) -> Channel:
        """The stream that was opened."""
        (opened,) = of(effects, Open)
        assert (opened.peer, opened.protocol) == (MINER.node, "audit")
        return opened.channel

    def run_challenge(self, begun: list[object], took_ms: int = 4_000) -> list[object]:
        """The miner answers a whole challenge of four answers; the engine has not been asked yet."""
        channel = self.stream(begun)
        (offered,) = sent(begun, channel)
        assert isinstance(offered, ChallengeOffered)
        effects = self.receive(channel, ChallengeReady("build"))
        (given_,) = sent(effects, channel)
        assert isinstance(given_, ChallengeGiven)
        check_challenge(DOMAIN, given_.challenge, given_.signature)
        self.now_ms += 500
        for index in range(4):
            self.receive(channel, AnswerTokens(index, tuple(range(64)), (b"a",) * 64))
            if index == 3:
                self.now_ms += took_ms - 500
            effects = self.receive(channel, AnswerEnded(index, EndReason.LENGTH))
        assert of(effects, Close) == [Close(channel)]
        return effects

    def score(self, effects: list[object], margins: Sequence[int] = (), build: str = "build") -> list[object]:
        """The engine scores what it is asked until it is asked for something else; the first tokens have margins."""
        while asked := of(effects, Score):
            size = asked[0].stop - asked[0].start
            each = (*margins, *((0,) * size))[:size]
            text = b"".join(asked[0].texts)
            effects = self.tell(Scored(asked[0].number, build, each, text, True, PROMPT_TOKENS))
        return effects

    def compare(self, effects: list[object], similarity_bp: int = 10_000) -> list[object]:
        (asked,) = of(effects, Compare)
        return self.tell(Compared(asked.number, similarity_bp))


def verdict(effects: list[object]) -> Tested:
    """The report of a test that is over."""
    (tested,) = of(effects, Tested)
    return tested


@pytest.mark.spec("TEST-CALLED.1")
def test_an_honest_miner_passes_with_what_was_measured() -> None:
    testing = Testing()
    effects = testing.run_challenge(testing.begun)
    effects = testing.compare(testing.score(effects))
    tested = verdict(effects)
    assert tested.report == TestReport(MINER.node, 3, True, 64, 500)
    assert testing.tell(Calls((CALLED,), ORACLES)) == []
    assert testing.machine.next_deadline() is None


def test_the_engine_is_asked_what_the_miner_was() -> None:
    testing = Testing()
    effects = testing.run_challenge(testing.begun)
    machine = testing.machine
    signature = next(iter(machine._running.values()))._rounds[0].signature
    for index in range(4):
        (asked,) = of(effects, Score)
        wanted = question(signature, index)
        assert (asked.messages, asked.sampling, asked.lane_seed) == (wanted.messages, wanted.sampling, wanted.lane_seed)
        assert (asked.ids, asked.start, asked.stop) == (tuple(range(64)), 0, 64)
        effects = testing.tell(Scored(asked.number, "build", (0,) * 64, TEXT, False, ()))
    (compared,) = of(effects, Compare)
    assert (compared.lane_seed, compared.text) == (question(signature, 0).lane_seed, TEXT.decode())


@pytest.mark.spec("TEST-MARGINS.1")
def test_tokens_of_another_model_fail_a_miner() -> None:
    testing = Testing()
    effects = testing.score(testing.run_challenge(testing.begun), margins=(900,) * 4)
    tested = verdict(testing.compare(effects))
    assert not tested.report.passed
    assert tested.why.startswith("margins: 16 of 256 tokens are not the model's")


@pytest.mark.spec("TEST-MARGINS.1")
def test_a_doubt_asks_for_a_second_challenge_and_fails_nobody_by_itself() -> None:
    testing = Testing()
    effects = testing.compare(testing.score(testing.run_challenge(testing.begun), margins=(1,)))
    assert [note.what for note in of(effects, Note)] == ["tester.doubt"]
    begun = testing.wait(0)
    (offered,) = sent(begun)
    assert isinstance(offered, ChallengeOffered)
    assert offered.challenge.round == 1
    tested = verdict(testing.score(testing.run_challenge(begun), margins=(1,)))
    assert tested.report.passed
    assert tested.why.startswith("doubtful")


def test_of_another_build_a_small_difference_leaves_no_doubt() -> None:
    testing = Testing()
    effects = testing.compare(testing.score(testing.run_challenge(testing.begun), margins=(1,), build="other"))
    assert verdict(effects).why.startswith("honest")


@pytest.mark.spec("TEST-EMBEDDING.1")
def test_a_distant_embedding_only_asks_for_a_second_challenge() -> None:
    testing = Testing()
    effects = testing.compare(testing.score(testing.run_challenge(testing.begun)), similarity_bp=100)
    assert of(effects, Tested) == []
    assert verdict(testing.score(testing.run_challenge(testing.wait(0)))).report.passed


@pytest.mark.spec("TEST-SPEED.1")
@pytest.mark.parametrize(("claimed", "passes"), [(128, True), (130, False)])
def test_a_miner_that_is_slow_against_its_claim_fails(claimed: int, passes: bool) -> None:
    testing = Testing(replace(CALLED, tokens_per_second=claimed))
    effects = testing.run_challenge(testing.begun, took_ms=4_000)  # 64 tokens a second
    if passes:
        assert of(effects, Score)
        return
    tested = verdict(effects)
    assert (tested.report.passed, tested.report.tokens_per_second) == (False, 64)
    assert tested.why.startswith("speed: 64 tokens a second, it claims 130")


@pytest.mark.spec("TEST-EXACT.1")
def test_an_answer_that_is_not_what_its_tokens_say_fails() -> None:
    testing = Testing()
    (asked,) = of(testing.run_challenge(testing.begun), Score)
    effects = testing.tell(Scored(asked.number, "build", (0,) * 64, b"b" * 64, True, ()))
    assert verdict(effects).why.startswith("text: ")


# Silence


@pytest.mark.spec("TEST-DEADLINE.1")
def test_a_miner_that_cannot_be_reached_or_answers_nothing_fails_when_patience_ends() -> None:
    testing = Testing()
    channel = testing.stream(testing.begun)
    assert testing.tell(ChannelClosed(channel, "nobody there")) == []
    effects = testing.wait(RETRY_MS)
    channel = testing.stream(effects)
    effects = testing.wait(PATIENCE_MS - RETRY_MS - 1)
    assert effects == []
    effects = testing.wait(1)
    assert of(effects, Close) == [Close(channel)]
    assert verdict(effects).why == "deadline: it did not take the challenge"


@pytest.mark.spec("TEST-DEADLINE.1")
def test_a_challenge_that_was_given_is_answered_in_time_also_by_a_miner_that_comes_back() -> None:
    testing = Testing()
    channel = testing.stream(testing.begun)
    testing.receive(channel, ChallengeReady("build"))
    testing.wait(PARAMS.test_deadline_ms // 2)
    testing.tell(ChannelClosed(channel, "gone"))
    again = testing.stream(testing.wait(RETRY_MS))
    testing.receive(again, ChallengeReady("build"))
    effects = testing.wait(PARAMS.test_deadline_ms // 2 - RETRY_MS)
    assert verdict(effects).why == "deadline: it did not answer in time"


def test_a_busy_miner_is_asked_again_and_measured_from_when_the_challenge_was_given() -> None:
    testing = Testing()
    channel = testing.stream(testing.begun)
    effects = testing.receive(channel, AuditRefused("busy", 1_000))
    assert of(effects, Close) == [Close(channel)]
    effects = testing.run_challenge(testing.wait(RETRY_MS))
    assert verdict(testing.compare(testing.score(effects))).report == TestReport(MINER.node, 3, True, 64, 500)


@pytest.mark.parametrize(
    "messages",
    [
        [AnswerTokens(1, (1,), (b"a",))],
        [AnswerTokens(0, (1, 2), (b"a",))],
        [AnswerTokens(0, (1,) * 64, (b"a",) * 64), AnswerTokens(0, (1,), (b"a",))],
        [AnswerEnded(0, EndReason.STOP)],
        [AnswerTokens(0, (1,), (b"a",)), AnswerEnded(0, EndReason.CANCELLED)],
        [ChallengeReady("build")],
    ],
    ids=["out of turn", "uneven", "too many", "empty", "cancelled", "no place"],
)
def test_a_miner_that_breaks_the_rules_fails(messages: list[Message]) -> None:
    testing = Testing()
    channel = testing.stream(testing.begun)
    testing.receive(channel, ChallengeReady("build"))
    effects: list[object] = []
    for message in messages:
        effects = testing.receive(channel, message)
    assert not verdict(effects).report.passed
    assert of(effects, Close) == [Close(channel)]


# The engine


def test_an_oracle_whose_engine_fails_says_nothing_and_tries_again() -> None:
    testing = Testing()
    (asked,) = of(testing.run_challenge(testing.begun), Score)
    effects = testing.tell(ScoringFailed(asked.number, False, "no memory"))
    assert of(effects, Tested) == []
    assert [note.what for note in of(effects, Note)] == ["tester.gave-up"]
    assert testing.tell(Calls((CALLED,), ORACLES)) == []
    assert testing.stream(testing.wait(TRY_AGAIN_MS))


def test_tokens_that_no_engine_has_fail_a_miner() -> None:
    testing = Testing()
    (asked,) = of(testing.run_challenge(testing.begun), Score)
    assert not verdict(testing.tell(ScoringFailed(asked.number, True, "no such tokens"))).report.passed
    assert testing.tell(ScoringFailed(asked.number, True, "late")) == []


# Transcripts


TRANSCRIPT, ROOT = transcript_of()
ORDER = TRANSCRIPT.order
LANE = CalledLane(0, ROOT)


@pytest.mark.spec("TEST-TRANSCRIPT.1")
def test_a_lane_is_scored_from_its_transcript() -> None:
    testing = Testing(replace(CALLED, lane=LANE))
    channel = testing.stream(testing.begun)
    assert sent(testing.begun) == [TranscriptAsked(ROOT)]
    effects = testing.receive(channel, TRANSCRIPT)
    assert of(effects, Close) == [Close(channel)]
    (asked,) = of(effects, Score)
    assert asked.lane_seed == lane_seed(ORDER.seed, 0, 0)
    assert (asked.messages, asked.ids, asked.start, asked.stop) == (
        TRANSCRIPT.prompt.messages,
        TRANSCRIPT.ids,
        0,
        len(TRANSCRIPT.ids),
    )
    tested = verdict(testing.score(effects))
    assert tested.report == TestReport(MINER.node, 3, True, 0, 0)


@pytest.mark.spec("TEST-TRANSCRIPT.1")
def test_of_a_long_lane_some_tokens_are_scored_by_the_tests_seed() -> None:
    transcript, root = transcript_of(sizes=(300,))
    called = replace(CALLED, lane=replace(LANE, root=root), seed=(7).to_bytes(8, "big") * 4)
    testing = Testing(called)
    (asked,) = of(testing.receive(testing.stream(testing.begun), transcript), Score)
    assert (asked.start, asked.stop) == (7, 7 + PARAMS.test_tokens)


@pytest.mark.spec("TEST-TRANSCRIPT.1")
@pytest.mark.parametrize(
    "change", [{"ids": (9, *TRANSCRIPT.ids[1:])}, {"texts": (b"other", *TRANSCRIPT.texts[1:])}], ids=["token", "text"]
)
def test_a_transcript_that_the_committee_did_not_certify_fails(change: dict[str, Any]) -> None:
    testing = Testing(replace(CALLED, lane=LANE))
    effects = testing.receive(testing.stream(testing.begun), structs.replace(TRANSCRIPT, **change))
    assert verdict(effects).why.startswith("root: ")


def test_a_prompt_that_was_not_rendered_by_the_model_fails() -> None:
    testing = Testing(replace(CALLED, lane=LANE))
    (asked,) = of(testing.receive(testing.stream(testing.begun), TRANSCRIPT), Score)
    text = b"".join(asked.texts)
    effects = testing.tell(Scored(asked.number, "build", (0,) * len(asked.ids), text, True, (1,)))
    assert verdict(effects).why.startswith("head.prompt_tokens: ")


@pytest.mark.spec("TEST-TRANSCRIPT.1")
@pytest.mark.parametrize("how", ["refused", "gone", "silent", "doubt", "unread"])
def test_where_there_is_no_transcript_or_a_doubt_a_challenge_stands_in(how: str) -> None:
    testing = Testing(replace(CALLED, lane=LANE))
    channel = testing.stream(testing.begun)
    if how == "refused":
        effects = testing.receive(channel, AuditRefused("not_held", 0))
    elif how == "gone":
        effects = testing.tell(ChannelClosed(channel, "gone"))
    elif how == "silent":
        effects = testing.wait(PARAMS.test_deadline_ms)
    elif how == "doubt":
        effects = testing.score(testing.receive(channel, TRANSCRIPT), margins=(500,))
    else:
        (asked,) = of(testing.receive(channel, TRANSCRIPT), Score)
        effects = testing.tell(ScoringFailed(asked.number, False, "the prompt is too long"))
    effects = testing.run_challenge(effects)
    assert verdict(testing.compare(testing.score(effects))).report.passed


def test_a_lane_that_is_clearly_another_models_fails_at_once() -> None:
    testing = Testing(replace(CALLED, lane=LANE))
    effects = testing.receive(testing.stream(testing.begun), TRANSCRIPT)
    assert not verdict(testing.score(effects, margins=(900, 900))).report.passed


# Which tests run


@pytest.mark.spec("TEST-CALLED.1")
def test_a_test_that_is_called_off_ends_without_a_report() -> None:
    testing = Testing()
    channel = testing.stream(testing.begun)
    assert testing.tell(Calls(())) == [Close(channel)]
    assert testing.machine.next_deadline() is None
    assert testing.receive(channel, ChallengeReady("build")) == []


@pytest.mark.spec("TEST-CALLED.1")
def test_few_tests_run_at_once_and_the_next_follows() -> None:
    testing = Testing(None)
    calls = tuple(replace(CALLED, miner=key(100 + number).node) for number in range(CALLS_MAX + 10))
    opened = of(testing.tell(Calls(calls, ORACLES)), Open)
    assert len(opened) == TESTS_AT_ONCE
    assert len(testing.machine._calls) == CALLS_MAX
    effects = testing.receive(opened[0].channel, Transcript(*TRANSCRIPT_FIELDS))
    assert not verdict(effects).report.passed
    assert len(of(effects, Open)) == 1


TRANSCRIPT_FIELDS = tuple(getattr(TRANSCRIPT, name) for name in Transcript.__struct_fields__)


def test_nobody_tests_itself() -> None:
    assert Testing(replace(CALLED, miner=ORACLE.node)).begun == []


def test_nobody_opens_streams_to_a_tester() -> None:
    testing = Testing(None)
    assert testing.tell(ChannelOpened(Channel(5), MINER.node, "audit")) == [Close(Channel(5))]


@settings(max_examples=40)
@given(st.data())
def test_any_walk_is_survived_bounded_and_comes_to_reports(data: st.DataObject) -> None:
    testing = Testing(None)
    miners = [key(100 + number).node for number in range(TESTS_AT_ONCE + 2)]
    calls = tuple(replace(CALLED, miner=NodeId(node), lane=LANE if node[0] % 2 else None) for node in miners)
    effects = testing.tell(Calls(calls, ORACLES))
    likely = st.sampled_from(
        [
            ChallengeReady("build"),
            AnswerTokens(0, (1,), (b"a",)),
            AnswerEnded(0, EndReason.STOP),
            AuditRefused("busy", 0),
            TRANSCRIPT,
        ]
    )
    channels, numbers, reports = [Channel(1_000)], [0], 0
    for _ in range(data.draw(st.integers(1, 60))):
        channels += [stream.channel for stream in of(effects, Open)]
        numbers += [asked.number for asked in (*of(effects, Score), *of(effects, Compare))]
        number = data.draw(st.sampled_from(numbers))
        channel = data.draw(st.sampled_from(channels))
        event = data.draw(
            st.one_of(
                st.builds(Received, st.just(channel), st.one_of(likely, likely, ANYTHING)),
                st.just(ChannelClosed(channel, "gone")),
                st.just(Scored(number, "build", (0,), b"a", True, PROMPT_TOKENS)),
                st.just(Compared(number, 0)),
                st.just(ScoringFailed(number, False, "no")),
            )
        )
        effects = testing.tell(event) + testing.wait(data.draw(st.sampled_from((0, 10, 1_000))))
        reports += len(of(effects, Tested))
        assert len(testing.machine._running) <= TESTS_AT_ONCE
        assert reports == len(testing.machine._done)
