"""The miner under test: whom it answers, one at a time, and what it keeps to show."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.committee.election import committee_root
from protocol.core.codec import Message
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Close, Note, Persist, Received, Send
from protocol.light.handovers import HandOverBook, hand_over_key
from protocol.messages.audits import (
    AnswerEnded,
    AnswerTokens,
    AuditRefused,
    Challenge,
    ChallengeGiven,
    ChallengeOffered,
    ChallengeReady,
    Transcript,
    TranscriptAsked,
)
from protocol.messages.committee import (
    Certificate,
    CertificateKind,
    Certified,
    MemberSignature,
    StatementKind,
    header_digest,
    statement_digest,
)
from protocol.messages.handover import HandOver, HandOvers, HandOversAsked
from protocol.messages.tasks import EndReason
from protocol.results.challenge import question, sign_challenge
from protocol.roles.miner import CancelGeneration, Generate, Generated, GenerationFailed, Produced
from protocol.roles.miner.answering import SILENT_MS, STRANGERS_MAX, STREAMS_PER_ORACLE, AnswerMachine, AnswerSettings
from protocol.roles.miner.transcripts import KEPT_MS, KeepTranscript
from tests.unit.protocol.keys import Key, key
from tests.unit.protocol.light_at_hand import header_of
from tests.unit.protocol.machines import (
    CLIENT,
    DOMAIN,
    GENESIS,
    MALLORY,
    MINER,
    MODEL,
    PARAMS,
    Hand,
    of,
    other_model,
    sent,
)
from tests.unit.protocol.test_audit import transcript_of
from tests.unit.protocol.walk import ANYTHING

ORACLES = [key(50 + number) for number in range(4)]
ORACLE, SECOND, THIRD, _ = ORACLES
NETWORK = replace(GENESIS, committee=tuple(oracle.node for oracle in ORACLES))


class Answering(Hand):
    """A miner that answers four oracles."""

    def __init__(self) -> None:
        settings_ = AnswerSettings(MINER.node, (MODEL,), HandOverBook(NETWORK), "build")
        super().__init__(AnswerMachine(settings_, DOMAIN, PARAMS))

    def offer(self, oracle: Key = ORACLE, **fields: Any) -> tuple[Channel, list[Message]]:
        """An oracle offers a challenge."""
        channel = self.opened(oracle.node, "audit")
        return channel, sent(self.receive(channel, ChallengeOffered(challenge_of(oracle, **fields))))

    def stranger(self, peer: Key) -> Channel:
        """A peer opens a stream that is not known to be an oracle: it is asked."""
        channel = Channel(500)
        (asks,) = self.tell(ChannelOpened(channel, peer.node, "audit"))
        assert asks == Send(channel, HandOversAsked(1))
        return channel

    def give(self, channel: Channel, oracle: Key = ORACLE, signer: Key | None = None) -> list[object]:
        """The challenge itself."""
        challenge = challenge_of(oracle)
        signature = sign_challenge(DOMAIN, (signer or oracle).sign, challenge)
        return self.receive(channel, ChallengeGiven(challenge, signature))

    def answer(self, effects: list[object], tokens: int) -> list[object]:
        """Its engine answers what it was asked."""
        (asked,) = of(effects, Generate)
        produced = self.tell(Produced(asked.generation, tuple(range(tokens)), (b"a",) * tokens))
        (said,) = sent(produced)
        assert isinstance(said, AnswerTokens)
        assert len(said.ids) == tokens
        return self.tell(Generated(asked.generation, EndReason.LENGTH, 0))


def challenge_of(signer: Key = ORACLE, **fields: Any) -> Challenge:
    """What an oracle signs."""
    content: dict[str, Any] = {
        "miner": MINER.node,
        "oracle": signer.node,
        "model": MODEL,
        "test": 1,
        "round": 0,
        "seed": b"\x07" * 32,
    }
    return Challenge(**{**content, **fields})


@pytest.mark.spec("TEST-SERVED.1")
def test_a_challenge_is_answered_question_by_question_until_it_is_complete() -> None:
    answering = Answering()
    channel, said = answering.offer()
    assert said == [ChallengeReady("build")]
    effects = answering.give(channel)
    signature = sign_challenge(DOMAIN, ORACLE.sign, challenge_of())
    for index in range(4):
        (asked,) = of(effects, Generate)
        wanted = question(signature, index)
        assert (asked.model, asked.messages, asked.sampling) == (MODEL, wanted.messages, wanted.sampling)
        assert (asked.lane_seed, asked.max_tokens, asked.emitted) == (wanted.lane_seed, 64, ())
        effects = answering.answer(effects, 64)
        assert AnswerEnded(index, EndReason.LENGTH) in sent(effects)
    assert of(effects, Close) == [Close(channel)]
    assert of(effects, Generate) == []


@pytest.mark.spec("TEST-SERVED.1")
def test_only_the_committees_oracles_are_answered_and_each_on_few_streams() -> None:
    answering = Answering()
    for number in range(STREAMS_PER_ORACLE):
        assert answering.tell(ChannelOpened(Channel(91 + number), ORACLE.node, "audit")) == []
    assert answering.tell(ChannelOpened(Channel(99), ORACLE.node, "audit")) == [Close(Channel(99))]
    assert answering.tell(ChannelOpened(Channel(100), SECOND.node, "audit")) == []


@pytest.mark.spec("TEST-SERVED.1")
def test_whoever_is_not_known_shows_first_that_it_is_an_oracle() -> None:
    answering, newcomer = Answering(), key(60)
    channel = answering.stranger(newcomer)
    assert answering.receive(channel, ChallengeOffered(challenge_of(newcomer))) == [], "it waits"
    effects = answering.receive(channel, HandOvers((hand_over((*ORACLES[1:], newcomer)),)))
    assert sent(effects, channel) == [ChallengeReady("build")]
    assert [hand_over_key(1)] == [name for effect in of(effects, Persist) for name, _ in effect.records]
    again = answering.tell(ChannelOpened(Channel(91), newcomer.node, "audit"))
    assert again == [], "from now on it is known"


@pytest.mark.spec("TEST-SERVED.1")
@pytest.mark.parametrize(
    "shown",
    [
        [HandOvers(())],
        [HandOvers((), more=True)],
        [ChallengeOffered, ChallengeOffered],
        [lambda: HandOvers((hand_over((*ORACLES[1:], CLIENT), [*ORACLES[:2], CLIENT]),))],
        [lambda: HandOvers((hand_over((*ORACLES[1:], key(61))),))],
    ],
    ids=["nothing", "no end", "other things", "unsigned", "somebody else"],
)
def test_who_cannot_show_it_is_turned_away(shown: list[Any]) -> None:
    answering = Answering()
    channel = answering.stranger(CLIENT)
    effects: list[object] = []
    for message in shown:
        if message is ChallengeOffered:
            message = ChallengeOffered(challenge_of(CLIENT))
        effects += answering.receive(channel, message() if callable(message) else message)
    assert [effect.channel for effect in of(effects, Close)] == [channel]
    assert not answering.machine._strangers
    assert not answering.machine._asker._asked


def test_only_few_strangers_are_asked_at_a_time() -> None:
    answering = Answering()
    for number in range(STRANGERS_MAX):
        (asks,) = answering.tell(ChannelOpened(Channel(91 + number), key(70 + number).node, "audit"))
        assert isinstance(asks, Send)
        assert asks.message == HandOversAsked(1)
    assert answering.tell(ChannelOpened(Channel(90), CLIENT.node, "audit")) == [Close(Channel(90))]
    answering.wait(SILENT_MS)
    assert not answering.machine._strangers


def hand_over(members: Sequence[Key], signers: Sequence[Key] = ORACLES[:3]) -> HandOver:
    """The first epoch hands over to these."""
    following = tuple(member.node for member in members)
    header = header_of(5, 1, next_committee=committee_root(following))
    domain = NETWORK.domain()
    digest = header_digest(domain, header)
    said = statement_digest(domain, StatementKind.FINALIZE, 1, 5, digest)
    signatures = tuple(MemberSignature(place, signer.sign(said)) for place, signer in enumerate(signers))
    return HandOver(Certified(Certificate(CertificateKind.FINALIZATION, 1, 5, digest, signatures), header), following)


@pytest.mark.spec("TEST-SERVED.1")
def test_oracles_are_answered_one_after_the_other_in_the_order_they_came() -> None:
    answering = Answering()
    first, _ = answering.offer(ORACLE)
    second, said = answering.offer(SECOND)
    third, _ = answering.offer(THIRD)
    assert said == []
    effects = answering.give(first)
    for _ in range(4):
        effects = answering.answer(effects, 64)
    assert sent(effects, second) == [ChallengeReady("build")]
    assert sent(effects, third) == []
    # The second one is gone: it is the third's turn at once.
    effects = answering.tell(ChannelClosed(second, "gone"))
    assert sent(effects, third) == [ChallengeReady("build")]


@pytest.mark.spec("TEST-SERVED.1")
def test_an_oracle_that_was_served_lets_others_have_as_much() -> None:
    answering = Answering()
    channel, _ = answering.offer()
    effects = answering.give(channel)
    answering.now_ms += 3_000
    for _ in range(4):
        effects = answering.answer(effects, 64)
    again, said = answering.offer(round=1)
    assert said == []
    other, said = answering.offer(SECOND)
    assert said == [ChallengeReady("build")]
    answering.tell(ChannelClosed(other, "gone"))
    assert sent(answering.wait(2_999), again) == []
    assert sent(answering.wait(1), again) == [ChallengeReady("build")]


def test_an_oracle_has_one_challenge_at_a_time() -> None:
    answering = Answering()
    answering.offer()
    channel, said = answering.offer(test=2)
    (refused,) = said
    assert isinstance(refused, AuditRefused)
    assert refused.code == "busy"
    answering.offer(SECOND)
    _, said = answering.offer(SECOND)
    assert isinstance(said[0], AuditRefused)
    assert answering.receive(channel, TranscriptAsked(bytes(32))) == []  # the stream is closed


@pytest.mark.parametrize(
    "fields", [{"miner": MALLORY.node}, {"oracle": SECOND.node}], ids=["another miner", "another oracle"]
)
def test_a_challenge_that_names_others_is_not_taken(fields: dict[str, Any]) -> None:
    answering = Answering()
    channel = answering.opened(ORACLE.node, "audit")
    effects = answering.receive(channel, ChallengeOffered(challenge_of(**fields)))
    assert of(effects, Close) == [Close(channel)]
    assert [note.what for note in of(effects, Note)] == ["answers.broke-rule"]


def test_a_model_that_is_not_served_is_refused() -> None:
    _, (refused,) = Answering().offer(model=other_model())
    assert isinstance(refused, AuditRefused)
    assert refused.code == "not_held"


@pytest.mark.spec("TEST-CHALLENGE.1")
def test_a_challenge_that_its_oracle_did_not_sign_is_not_answered() -> None:
    answering = Answering()
    channel, _ = answering.offer()
    effects = answering.give(channel, signer=MALLORY)
    assert of(effects, Generate) == []
    assert of(effects, Close) == [Close(channel)]


def test_a_challenge_is_given_on_the_stream_whose_turn_it_is_and_once() -> None:
    answering = Answering()
    first, _ = answering.offer()
    second, _ = answering.offer(SECOND)
    assert of(answering.give(second, SECOND), Close) == [Close(second)]
    assert of(answering.give(first), Generate)
    effects = answering.give(first)
    assert of(effects, Close) == [Close(first)]
    assert of(effects, CancelGeneration)


def test_a_slot_is_not_held_for_an_oracle_that_says_nothing() -> None:
    answering = Answering()
    silent = answering.opened(ORACLE.node, "audit")
    first, _ = answering.offer(SECOND)
    second, _ = answering.offer(THIRD)
    effects = answering.wait(SILENT_MS)
    assert {close.channel for close in of(effects, Close)} == {silent, first}
    assert sent(effects, second) == [ChallengeReady("build")]


def test_the_slot_is_freed_at_the_deadline_and_when_the_oracle_goes() -> None:
    answering = Answering()
    first, _ = answering.offer()
    answering.give(first)
    effects = answering.wait(PARAMS.test_deadline_ms)
    assert of(effects, Close) == [Close(first)]
    assert of(effects, CancelGeneration)
    second, _ = answering.offer(SECOND)
    answering.give(second, SECOND)
    assert of(answering.tell(ChannelClosed(second, "gone")), CancelGeneration)


def test_an_engine_that_fails_is_said_so() -> None:
    answering = Answering()
    channel, _ = answering.offer()
    (asked,) = of(answering.give(channel), Generate)
    effects = answering.tell(GenerationFailed(asked.generation, "engine_failed", "it is gone"))
    (refused,) = sent(effects)
    assert isinstance(refused, AuditRefused)
    assert refused.code == "engine_failed"
    assert answering.tell(Produced(asked.generation, (1,), (b"a",))) == []


# Transcripts


@pytest.mark.spec("TEST-KEPT.1")
def test_a_transcript_is_shown_to_whoever_asks_for_its_lane_for_a_while() -> None:
    answering = Answering()
    transcript, root = transcript_of(build="")
    answering.tell(KeepTranscript(transcript))
    channel = answering.opened(ORACLE.node, "audit")
    effects = answering.receive(channel, TranscriptAsked(root))
    (shown,) = sent(effects, channel)
    assert isinstance(shown, Transcript)
    assert (shown.build, shown.ids) == ("build", transcript.ids)
    assert of(effects, Close) == [Close(channel)]
    answering.wait(KEPT_MS)
    channel = answering.opened(ORACLE.node, "audit")
    (refused,) = sent(answering.receive(channel, TranscriptAsked(root)))
    assert refused == AuditRefused("not_held", 0)


def test_a_transcript_is_not_asked_on_a_challenges_stream() -> None:
    answering = Answering()
    channel, _ = answering.offer()
    effects = answering.receive(channel, TranscriptAsked(bytes(32)))
    assert of(effects, Close) == [Close(channel)]


# Strangers


@settings(max_examples=40)
@given(st.data())
def test_any_walk_is_survived_and_bounded(data: st.DataObject) -> None:
    answering = Answering()
    channels = [Channel(1_000)]
    keys = [MALLORY, *ORACLES]
    running: list[Generate] = []
    for number in range(data.draw(st.integers(1, 40))):
        who = data.draw(st.sampled_from(keys))
        challenge = challenge_of(who, round=data.draw(st.integers(0, 1)))
        given_ = ChallengeGiven(challenge, sign_challenge(DOMAIN, who.sign, challenge))
        message = data.draw(st.one_of(st.sampled_from([ChallengeOffered(challenge), given_]), ANYTHING))
        channel = data.draw(st.sampled_from(channels))
        events: list[object] = [
            ChannelOpened(Channel(number + 1), who.node, "audit"),
            Received(channel, message),
            ChannelClosed(channel, "gone"),
            *(Produced(asked.generation, (1,), (b"a",)) for asked in running),
            *(Generated(asked.generation, EndReason.STOP, 0) for asked in running),
        ]
        event = data.draw(st.sampled_from(events))
        effects = answering.tell(event)
        channels += [Channel(number + 1)] if isinstance(event, ChannelOpened) else []
        effects += answering.wait(data.draw(st.sampled_from((0, 100, 6_000))))
        running += of(effects, Generate)
        machine = answering.machine
        assert len(machine._peers) <= STREAMS_PER_ORACLE * len(ORACLES)
        assert machine._waiting.keys() <= machine._peers.keys()
    answering.wait(10 * PARAMS.test_deadline_ms)
    assert not answering.machine._peers
