"""What a lane's observations come to."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.ids import NOBODY, ZERO_DIGEST, NodeId
from protocol.messages.results import Observation, Verdict
from protocol.results.outcome import blamed, decide, failure_root, is_sound, named_miner

F = 1
MINER, OTHER = NodeId(b"\1" * 20), NodeId(b"\2" * 20)


def said(verdict: Verdict, root: bytes = ZERO_DIGEST, count: int = 0) -> Observation:
    return Observation(b"\7" * 32, 1, 0, verdict, root, count)


OK, OK2 = said(Verdict.OK, b"\1" * 32, 5), said(Verdict.OK, b"\2" * 32, 5)
LATE, UNREVEALED, MISMATCH = map(said, (Verdict.LATE, Verdict.UNREVEALED, Verdict.MISMATCH))
ANY = st.sampled_from([OK, OK2, said(Verdict.OK, b"\1" * 32, 6), LATE, UNREVEALED, MISMATCH])


@pytest.mark.spec("OUTCOME-DECIDE.1")
@pytest.mark.parametrize(
    ("values", "verdict", "root"),
    [
        ([OK, OK, OK], Verdict.OK, OK.root),
        ([OK, OK, LATE, LATE], Verdict.OK, OK.root),
        ([LATE, OK2, MISMATCH, OK2], Verdict.OK, OK2.root),
        ([OK2, OK, OK2, OK], Verdict.OK, OK.root),
        ([OK, OK2, LATE], Verdict.UNDECIDED, ZERO_DIGEST),
        ([OK, said(Verdict.OK, OK.root, 6), UNREVEALED], Verdict.UNDECIDED, ZERO_DIGEST),
        ([OK, LATE, LATE], Verdict.LATE, ZERO_DIGEST),
        ([UNREVEALED, LATE, UNREVEALED, LATE], Verdict.LATE, ZERO_DIGEST),
        ([MISMATCH, UNREVEALED, MISMATCH, UNREVEALED], Verdict.UNREVEALED, ZERO_DIGEST),
        ([MISMATCH, LATE, UNREVEALED], Verdict.UNDECIDED, ZERO_DIGEST),
    ],
)
def test_a_verdict_is_of_f_plus_1(values: list[Observation], verdict: Verdict, root: bytes) -> None:
    assert {decide(list(order), F) for order in itertools.permutations(values)} == {
        (verdict, root, 5 if verdict is Verdict.OK else 0)
    }


@pytest.mark.spec("OUTCOME-DECIDE.1")
@given(st.lists(ANY, min_size=5, max_size=7))
def test_what_2f_plus_1_say_is_the_outcome_whatever_others_say(values: list[Observation]) -> None:
    f = 2
    for value in set(values):
        if values.count(value) > 2 * f:
            assert decide(values, f) == (value.verdict, value.root, value.count)
    verdict, root, count = decide(values, f)
    if verdict is Verdict.OK:
        assert values.count(said(Verdict.OK, root, count)) > f, "a correct oracle said so"


def test_more_votes_go_before_a_smaller_root() -> None:
    assert decide([OK, OK, OK2, OK2, OK2], F)[1] == OK2.root


@pytest.mark.spec("OUTCOME-BLAME.1")
def test_a_failure_is_the_miners_whom_f_plus_1_name() -> None:
    mine, others = said(Verdict.LATE, failure_root(MINER)), said(Verdict.LATE, failure_root(OTHER))
    assert blamed([mine, mine, others], Verdict.LATE, F) == MINER
    assert blamed([mine, others, LATE], Verdict.LATE, F) is None
    assert blamed([LATE, LATE, LATE], Verdict.LATE, F) is None
    assert blamed([mine, mine, mine], Verdict.UNREVEALED, F) is None
    assert blamed([OK, OK, OK], Verdict.OK, 0) is None
    nobody = said(Verdict.LATE, failure_root(NOBODY))
    assert blamed([nobody, nobody], Verdict.LATE, F) is None
    assert named_miner(mine) == MINER
    assert named_miner(OK) is None


@pytest.mark.spec("OUTCOME-HOME.1")
def test_an_observation_says_what_one_may() -> None:
    sound = [OK, LATE, said(Verdict.MISMATCH, failure_root(MINER))]
    assert all(map(is_sound, sound))
    unsound = [said(Verdict.UNDECIDED), said(Verdict.LATE, b"\1" * 32), said(Verdict.LATE, ZERO_DIGEST, 1)]
    assert not any(map(is_sound, unsound))
