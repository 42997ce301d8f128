"""What an oracle asks follows from its signature."""

import pytest
from msgspec import structs

from protocol.core.errors import SignatureError
from protocol.messages.audits import ANSWERS_MAX, Challenge
from protocol.results.challenge import check_challenge, is_complete, question, sign_challenge
from tests.unit.protocol.keys import key
from tests.unit.protocol.machines import DOMAIN, MALLORY, MINER, MODEL

ORACLE = key(50)
CHALLENGE = Challenge(MINER.node, ORACLE.node, MODEL, 1, 0, b"\x07" * 32)


@pytest.mark.spec("TEST-CHALLENGE.1")
def test_a_challenge_that_is_signed_again_asks_the_same() -> None:
    signature = sign_challenge(DOMAIN, ORACLE.sign, CHALLENGE)
    assert sign_challenge(DOMAIN, ORACLE.sign, CHALLENGE) == signature
    check_challenge(DOMAIN, CHALLENGE, signature)
    assert question(signature, 3) == question(signature, 3)


@pytest.mark.spec("TEST-CHALLENGE.1")
def test_only_its_oracle_gives_a_challenge() -> None:
    with pytest.raises(SignatureError):
        check_challenge(DOMAIN, CHALLENGE, sign_challenge(DOMAIN, MALLORY.sign, CHALLENGE))


@pytest.mark.spec("TEST-CHALLENGE.1")
def test_no_two_challenges_ask_alike() -> None:
    others = [
        structs.replace(CHALLENGE, test=2),
        structs.replace(CHALLENGE, round=1),
        structs.replace(CHALLENGE, seed=b"\x08" * 32),
        structs.replace(CHALLENGE, miner=MALLORY.node),
    ]
    asked = [question(sign_challenge(DOMAIN, ORACLE.sign, each), 1) for each in (CHALLENGE, *others)]
    asked.append(question(sign_challenge(DOMAIN, MALLORY.sign, CHALLENGE), 1))
    asked.append(question(sign_challenge(DOMAIN, ORACLE.sign, CHALLENGE), 2))
    assert len({each.lane_seed for each in asked}) == len({each.messages for each in asked}) == len(asked)


@pytest.mark.spec("TEST-CHALLENGE.1")
def test_the_first_question_is_greedy_and_makes_sense_the_others_are_neither() -> None:
    signature = sign_challenge(DOMAIN, ORACLE.sign, CHALLENGE)
    first, *others = (question(signature, index) for index in range(5))
    assert first.sampling.temperature_bp == 0
    assert first.messages[0].content.startswith("Tell me a story about a ")
    assert {each.sampling.temperature_bp for each in others} == {20_000}
    assert all(len(each.messages[0].content.split()) == 12 for each in others)


def test_a_challenge_is_complete_by_tokens_or_by_answers() -> None:
    assert not is_complete(256, 8, 255)
    assert is_complete(256, 8, 256)
    assert is_complete(256, ANSWERS_MAX, 64)
