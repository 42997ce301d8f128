"""How certain an answer is to its client: levels rise by proof alone, and never fall."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.core.codec import decode, encode
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest, SessionId
from protocol.light.levels import LaneLevels, Level, Result, check_batch
from protocol.messages.committee import SignedBatch
from protocol.messages.results import CommittedNews, Observation, ObservedNews, OutcomeNews, Verdict
from protocol.results.evidence import convict
from tests.unit.protocol.keys import Key
from tests.unit.protocol.light_at_hand import (
    EPOCH,
    batch_of,
    committed,
    known_trust,
    observed,
    outcome_news,
    outcome_of,
)
from tests.unit.protocol.machines import DOMAIN, GENERATION, MALLORY, MINER, ORACLES, PARAMS

SESSION = SessionId(Digest(b"\x01" * 32))
ROOT = Digest(b"\x02" * 32)
OWN = Observation(SESSION, 4, 0, Verdict.OK, ROOT, 8)
OTHER = msgspec.structs.replace(OWN, root=b"\x03" * 32)
LATE = Observation(SESSION, 4, 0, Verdict.LATE, ZERO_DIGEST, 0)
ELSEWHERE = (
    msgspec.structs.replace(OWN, task=5),
    msgspec.structs.replace(OWN, lane=1),
    msgspec.structs.replace(OWN, session=b"\x09" * 32),
)
TRUST = known_trust()


def lane(**fields: Any) -> LaneLevels:
    content: dict[str, Any] = {"sole": True, "home_epoch": EPOCH}
    result = Result(SESSION, 4, 0, **{**content, **fields}, generation=GENERATION, miner=MINER.node, root=ROOT, count=8)
    return LaneLevels(DOMAIN, known_trust(), result)


def says(levels: LaneLevels, oracle: Key, value: Observation, number: int = 1, epoch: int = EPOCH) -> bool:
    return levels.observed(check_batch(DOMAIN, PARAMS, TRUST, batch_of(oracle, [value], number, epoch)))


@pytest.mark.spec("LEVEL-PROVED.1")
def test_an_answer_rises_to_final() -> None:
    levels = lane()
    assert levels.level is Level.STREAMED
    assert levels.committed(committed(OWN, GENERATION))
    assert levels.level is Level.COMMITTED
    for place, oracle in enumerate(ORACLES):
        assert says(levels, oracle, OWN)
        assert levels.level is (Level.CERTIFIED if place >= 2 else Level.COMMITTED)
        assert levels.agreeing == place + 1
    assert levels.outcome(outcome_news(outcome_of(OWN, paid_wei=56), before=5))
    assert levels.level is Level.FINALIZED
    assert levels.final is not None
    assert (levels.final.epoch, levels.final.height, levels.final.index, levels.final.paid_wei) == (EPOCH, 41, 5, 56)
    assert (levels.against, levels.evidence) == ("", {})


@pytest.mark.spec("LEVEL-PROVED.1")
def test_another_ones_commit_is_none() -> None:
    for news in (
        committed(OWN, b"\x07" * 24),
        committed(OWN, GENERATION, MALLORY),
        committed(OWN, GENERATION, MINER, MALLORY),
        committed(OWN, GENERATION, opened=False),
        *(committed(value, GENERATION) for value in ELSEWHERE),
        CommittedNews(committed(OWN, GENERATION).signed, committed(OTHER, GENERATION).reveal),
    ):
        levels = lane()
        with pytest.raises(RemoteProtocolError):
            levels.committed(news)
        assert levels.level is Level.STREAMED


def test_beside_other_lanes_the_opening_comes_later() -> None:
    levels = lane(sole=False)
    assert levels.committed(committed(OWN, GENERATION, opened=False))
    assert levels.level is Level.COMMITTED


def test_a_miner_that_commits_to_something_else_is_told_of() -> None:
    levels = lane()
    assert levels.committed(committed(OTHER, GENERATION))
    assert (levels.level, levels.against) == (Level.STREAMED, "another result committed")


@pytest.mark.spec("LEVEL-PROVED.1")
def test_only_values_of_the_home_committee_about_this_lane_and_result_count() -> None:
    levels = lane()
    for oracle in ORACLES:
        for value in ELSEWHERE:
            assert not says(levels, oracle, value)
        assert not says(levels, oracle, OWN, epoch=EPOCH + 1)
    assert levels.agreeing == 0
    for number in range(1, 5):
        says(levels, ORACLES[0], OWN, number)
    assert levels.agreeing == 1, "one oracle has one voice"
    says(levels, ORACLES[1], OTHER)
    says(levels, ORACLES[2], LATE)
    assert (levels.agreeing, levels.level) == (1, Level.STREAMED)


def test_a_batch_that_does_not_hold_is_refused() -> None:
    good = batch_of(ORACLES[0], [OWN])
    for bad in (
        batch_of(MALLORY, [OWN]),
        batch_of(ORACLES[0], [OWN], epoch=0),
        batch_of(ORACLES[0], [OWN], number=0),
        SignedBatch(good.batch, batch_of(ORACLES[1], [OWN]).signature, good.content),
        SignedBatch(good.batch, good.signature, batch_of(ORACLES[0], [OTHER]).content),
        batch_of(ORACLES[0], [OWN] * 100),
    ):
        with pytest.raises(RemoteProtocolError):
            check_batch(DOMAIN, PARAMS, TRUST, bad)


def test_two_values_of_one_oracle_are_kept_as_evidence() -> None:
    levels = lane()
    says(levels, ORACLES[0], OWN, 1)
    assert says(levels, ORACLES[0], LATE, 2)
    assert not says(levels, ORACLES[0], OTHER, 3), "one pair of an oracle is enough"
    (pair,) = levels.evidence.values()
    assert [signed.batch.number for signed in pair] == [1, 2]
    assert [convict(DOMAIN, piece) for piece in levels.convicting()] == [ORACLES[0].node]
    assert levels.agreeing == 1, "what it signed, it signed"


@pytest.mark.parametrize(("value", "told"), [(LATE, "late"), (OTHER, "another result")])
def test_what_speaks_against_it_is_named_once_it_cannot_rise(value: Observation, told: str) -> None:
    levels = lane()
    says(levels, ORACLES[0], value)
    assert levels.against == "", "three others may still agree"
    assert says(levels, ORACLES[1], value)
    assert (levels.level, levels.against) == (Level.STREAMED, told)
    levels = lane()
    assert levels.outcome(outcome_news(outcome_of(value)))
    assert (levels.level, levels.against) == (Level.STREAMED, told)


@pytest.mark.spec("LEVEL-PROVED.1")
def test_no_outcome_without_its_proof() -> None:
    news = outcome_news(outcome_of(OWN))
    elsewhere = outcome_news(outcome_of(OWN), before=6)
    others = [
        msgspec.structs.replace(news, outcome=outcome_of(OWN, paid_wei=1)),
        msgspec.structs.replace(news, proof=elsewhere.proof),
        msgspec.structs.replace(news, certified=elsewhere.certified),
        outcome_news(outcome_of(OWN), places=(0, 1)),
        outcome_news(outcome_of(OWN), signers=(ORACLES[0], ORACLES[1], MALLORY)),
        outcome_news(outcome_of(OWN, epoch=EPOCH + 1)),
        *(outcome_news(outcome_of(value)) for value in ELSEWHERE),
    ]
    for bad in others:
        levels = lane()
        with pytest.raises(RemoteProtocolError):
            levels.outcome(bad)
        assert (levels.level, levels.final) == (Level.STREAMED, None)


GOOD = [
    committed(OWN, GENERATION),
    *(observed(oracle, OWN) for oracle in ORACLES),
    outcome_news(outcome_of(OWN)),
]
BAD = [
    committed(OTHER, GENERATION),
    committed(OWN, b"\x07" * 24),
    committed(OWN, GENERATION, MINER, MALLORY),
    *(observed(oracle, value, 2) for oracle in ORACLES for value in (OTHER, LATE)),
    *(observed(oracle, OWN, epoch=EPOCH + 1) for oracle in ORACLES),
    observed(MALLORY, OWN),
    outcome_news(outcome_of(OWN), places=(1, 2)),
    outcome_news(outcome_of(OWN), signers=(ORACLES[0], MALLORY, MALLORY)),
    outcome_news(outcome_of(OTHER)),
    outcome_news(outcome_of(LATE)),
    msgspec.structs.replace(outcome_news(outcome_of(OWN)), outcome=outcome_of(OWN, paid_wei=9)),
]


def _tell(levels: LaneLevels, news: CommittedNews | ObservedNews | OutcomeNews) -> None:
    try:
        match news:
            case CommittedNews():
                levels.committed(news)
            case ObservedNews():
                levels.observed(check_batch(DOMAIN, PARAMS, TRUST, news.signed))
            case OutcomeNews():
                levels.outcome(news)
    except RemoteProtocolError:
        return


@pytest.mark.spec("LEVEL-RISES.1", "LEVEL-PROVED.1")
@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*GOOD, *GOOD, *BAD]), max_size=24))
def test_a_level_never_falls_and_is_never_shown_without_what_proves_it(
    told: list[CommittedNews | ObservedNews | OutcomeNews],
) -> None:
    levels, shown = lane(), Level.STREAMED
    for at, news in enumerate(told):
        _tell(levels, news)
        assert levels.level >= shown
        shown = levels.level
        heard = told[: at + 1]
        signed = sum(GOOD[place] in heard for place in range(1, 5))
        assert levels.agreeing == signed
        if shown is Level.FINALIZED:
            assert GOOD[5] in heard
        if shown is Level.CERTIFIED:
            assert signed >= 3
        if shown is Level.COMMITTED:
            assert GOOD[0] in heard
        assert (levels.final is not None) == (shown is Level.FINALIZED)


@pytest.mark.spec("LEVEL-PROVED.1")
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(GOOD), st.data())
def test_one_changed_byte_proves_nothing(good: CommittedNews | ObservedNews | OutcomeNews, data: st.DataObject) -> None:
    packed = bytearray(encode(good))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    levels = lane()
    try:
        news = decode(bytes(packed))
    except RemoteProtocolError:
        return
    if isinstance(news, CommittedNews | ObservedNews | OutcomeNews) and news != good:
        _tell(levels, news)
    # An ObservedNews' own session is not signed: whoever passes it on says which session it may concern.
    unsigned = isinstance(news, ObservedNews) and isinstance(good, ObservedNews) and news.signed == good.signed
    assert (levels.level, levels.agreeing) == (Level.STREAMED, 1 if unsigned and news != good else 0)
