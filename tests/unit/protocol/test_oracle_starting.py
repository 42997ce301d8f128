"""Before the first signature: what the others must have said, and when a log is lost."""

from typing import Any

import msgspec
import pytest

from protocol.core.machine import Persist
from protocol.messages.committee import Certified, Offer, Recall, Recalled, Statement
from tests.unit.protocol.committee_at_hand import (
    FINALIZE,
    ME,
    NULLIFY,
    PARAMS,
    STRANGER,
    VOTE,
    batch,
    build,
    chain,
    keyed,  # noqa: F401
    opening,
    propose,
    say,
    signed_by,
)
from tests.unit.protocol.oracle_at_hand import ALL, ANSWER, Oracle

ONE, OTHER, THIRD = ALL
BLOCK = build(opening(), 1)


def answer(**with_: Any) -> Recalled:
    """An answer that says more."""
    return msgspec.structs.replace(ANSWER, **with_)


def votes(oracle: Oracle) -> bool:
    """Whether it votes for the first block, which it hears of again."""
    oracle.say(THIRD, propose(BLOCK))
    return oracle.machine.signer.signed(VOTE, 1, 1) is not None


# Until 2f others have answered


@pytest.mark.spec("SIGNER-START.1")
def test_nothing_is_signed_until_two_f_others_have_answered() -> None:
    oracle = Oracle().join()
    assert not votes(oracle)
    oracle.say(ONE, ANSWER)
    assert not votes(oracle)
    assert "1 have answered" in oracle.machine.signing
    oracle.say(OTHER, ANSWER)
    assert (VOTE, 1) in oracle.signed(), "and then at once"


@pytest.mark.spec("SIGNER-START.1")
def test_one_member_answers_once() -> None:
    oracle = Oracle().join()
    for _ in range(5):
        oracle.say(ONE, ANSWER)
    assert not votes(oracle)


@pytest.mark.spec("SIGNER-START.1")
def test_an_answer_from_a_later_epoch_does_not_count() -> None:
    oracle = Oracle().join()
    for place in ALL:
        oracle.say(place, answer(epoch=2))
    assert not votes(oracle)
    assert oracle.machine._starting.answers == 0
    assert oracle.question() or oracle.asked, "there is something to catch up on"


@pytest.mark.spec("SIGNER-START.1")
def test_a_timer_does_not_make_it_speak_either() -> None:
    oracle = Oracle().join()
    oracle.say(ONE, Offer(batch(ONE, 1)))
    oracle.wait(60_000)
    assert oracle.signed() == []
    assert [message for message in oracle.sent(ONE) if isinstance(message, Recall)], "it goes on asking"


@pytest.mark.spec("SIGNER-START.1")
def test_the_finalization_of_an_answer_takes_it_past_all_heights_below() -> None:
    blocks = chain(4)
    oracle = Oracle().join()
    final = Certified(blocks[4].finalization(), blocks[4].header)
    oracle.say(ONE, answer(height=5, final=final))
    assert oracle.machine.simplex.height == 5
    oracle.say(OTHER, ANSWER)
    for height in range(1, 5):
        for kind in (VOTE, NULLIFY, FINALIZE):
            assert oracle.machine.signer.signed(kind, 1, height) is None


@pytest.mark.spec("SIGNER-START.1")
def test_answering_needs_no_log() -> None:
    oracle = Oracle().join()
    oracle.say(ONE, say(ONE, VOTE, 1, BLOCK.digest))
    oracle.say(ONE, Offer(batch(ONE, 1)))
    oracle.say(ONE, Recall(1))
    (told,) = [message for message in oracle.sent(ONE) if isinstance(message, Recalled)]
    assert (told.epoch, told.height, told.final) == (1, 1, None)
    assert told.statements == (say(ONE, VOTE, 1, BLOCK.digest),)
    assert told.batches == (batch(ONE, 1),)
    oracle.say(OTHER, Recall(1))
    (told,) = [message for message in oracle.sent(OTHER) if isinstance(message, Recalled)]
    assert told.statements == told.batches == ()


@pytest.mark.spec("SIGNER-START.1")
def test_an_answer_shows_what_is_only_in_certificates_and_the_latest_finalization() -> None:
    blocks = chain(2)
    oracle = Oracle().started()
    for block in blocks[1:]:
        oracle.say(ONE, Certified(block.notarization([ONE, OTHER, THIRD]), block.header))
    oracle.say(ONE, Certified(blocks[1].finalization(), blocks[1].header))
    oracle.say(ONE, Recall(1))
    (told,) = [message for message in oracle.sent(ONE) if isinstance(message, Recalled)]
    assert say(ONE, VOTE, 2, blocks[2].digest) in told.statements
    assert say(ONE, FINALIZE, 1, blocks[1].digest) in told.statements
    assert told.final == Certified(blocks[1].finalization(), blocks[1].header)


@pytest.mark.spec("SIGNER-START.1")
def test_all_can_start_at_once() -> None:
    oracles = {place: Oracle(place=place) for place in range(4)}
    for place, oracle in oracles.items():
        oracle.join(*(other for other in oracles if other != place))
    for place, oracle in oracles.items():
        for other in oracles:
            if other != place:
                asked = oracles[other]
                asked.say(place, Recall(1))
                for message in asked.sent(place):
                    if isinstance(message, Recalled):
                        oracle.say(other, message)
    assert [oracle.machine.signing for oracle in oracles.values()] == ["yes"] * 4


# Lost


LACKING: list[dict[str, Any]] = [
    {"statements": (say(ME, VOTE, 1, BLOCK.digest),)},
    {"statements": (say(ME, NULLIFY, 7),)},
    {"statements": (say(ONE, VOTE, 1, BLOCK.digest), say(ME, FINALIZE, 3, b"\1" * 32))},
    {"batches": (batch(ME, 1),)},
]


@pytest.mark.spec("SIGNER-LOST.1")
@pytest.mark.parametrize("shown", LACKING)
def test_a_log_that_lacks_what_another_shows_is_lost_and_silent_for_two_epochs(
    shown: dict[str, Any],
) -> None:
    oracle = Oracle().join()
    oracle.say(ONE, answer(**shown))
    oracle.say(OTHER, ANSWER)
    assert "oracle.log-lost" in oracle.notes()
    assert any(isinstance(effect, Persist) for effect in oracle.did)
    assert not votes(oracle)
    assert "silent before epoch 3" in oracle.machine.signing
    # Also after it starts again.
    oracle.restart()
    oracle.join()
    for place in ALL[:2]:
        oracle.say(place, ANSWER)
    assert not votes(oracle)
    assert "silent before epoch 3" in oracle.machine.signing
    signs_in_the_one_after_next(oracle)


def signs_in_the_one_after_next(oracle: Oracle) -> None:
    """Two epochs close, and in the one after them it signs."""
    first = opening()
    for epoch in (1, 2):
        assert oracle.machine.simplex.committee.epoch == epoch
        assert "silent before epoch 3" in oracle.machine.signing
        blocks = chain(PARAMS.epoch_blocks, first)
        for block in blocks[1:]:
            oracle.say(ONE, Certified(block.notarization(), block.header))
        oracle.say(ONE, Certified(blocks[-1].finalization(), blocks[-1].header))
        first = opening(epoch + 1, blocks[-1].state)
    assert oracle.machine.signing == "yes"
    block = build(first, 1)
    oracle.say(ONE, Certified(block.notarization([ONE, OTHER, THIRD]), block.header))
    assert oracle.machine.signer.signed(FINALIZE, 3, 1) == say(ME, FINALIZE, 1, block.digest, epoch=3)


@pytest.mark.spec("SIGNER-LOST.1")
def test_a_log_that_is_missing_is_lost_whatever_the_others_say() -> None:
    oracle = Oracle(log_lost="there is none").join()
    for place in ALL[:2]:
        oracle.say(place, ANSWER)
    assert "oracle.log-lost" in oracle.notes()
    assert not votes(oracle)
    signs_in_the_one_after_next(oracle)


@pytest.mark.spec("SIGNER-LOST.1")
def test_it_may_turn_out_later() -> None:
    oracle = Oracle().started()
    assert votes(oracle)
    oracle.say(THIRD, answer(statements=(say(ME, VOTE, 5, b"\1" * 32),)))
    assert "oracle.log-lost" in oracle.notes()
    oracle.say(ONE, Certified(BLOCK.notarization(), BLOCK.header))
    assert oracle.machine.signer.signed(FINALIZE, 1, 1) is None
    oracle = Oracle().started()
    oracle.say(ONE, say(ME, VOTE, 1, b"\1" * 32))
    assert "oracle.log-lost" in oracle.notes()
    assert not votes(oracle)


@pytest.mark.spec("SIGNER-LOST.1")
@pytest.mark.parametrize(
    "shown",
    [
        {"statements": (Statement(VOTE, 1, 1, b"\1" * 32, bytes(64) + b"\x1b"),)},
        {"statements": (Statement(NULLIFY, 1, 1, b"\1" * 32, bytes(65)),)},
        {"statements": (signed_by(STRANGER, VOTE, 1, b"\1" * 32), say(ONE, VOTE, 1, b"\1" * 32))},
        {"batches": (msgspec.structs.replace(batch(ME, 1), signature=bytes(64) + b"\x1b"),)},
        {"batches": (msgspec.structs.replace(batch(ME, 1), content=b"another"), batch(ONE, 1))},
    ],
)
def test_what_it_did_not_sign_loses_nothing(shown: dict[str, Any]) -> None:
    oracle = Oracle().join()
    for place in ALL[:2]:
        oracle.say(place, answer(**shown))
    assert oracle.machine.signing == "yes"
    assert votes(oracle)


@pytest.mark.spec("SIGNER-LOST.1")
def test_a_log_that_is_merely_behind_is_whole() -> None:
    oracle = Oracle().started()
    assert votes(oracle)
    oracle.restart()
    oracle.join()
    for place in ALL[:2]:
        oracle.say(place, answer(height=40, statements=(say(ME, VOTE, 1, BLOCK.digest),)))
    assert oracle.machine.signing == "yes"


@pytest.mark.spec("SIGNER-LOST.1")
def test_old_statements_of_a_key_do_not_silence_it_for_ever() -> None:
    oracle = Oracle().join()
    shown = answer(statements=(say(ME, VOTE, 1, BLOCK.digest),), batches=(batch(ME, 1),))
    oracle.say(ONE, shown)
    oracle.say(OTHER, ANSWER)
    assert "oracle.log-lost" in oracle.notes()
    signs_in_the_one_after_next(oracle)
    oracle.say(ONE, shown)
    assert oracle.notes() == []
    assert oracle.machine.signing == "yes"
    oracle.restart()
    oracle.join()
    for place in ALL[:2]:
        oracle.say(place, msgspec.structs.replace(shown, epoch=3))
    assert oracle.machine.signing == "yes"


@pytest.mark.spec("SIGNER-START.1")
def test_where_the_epoch_turns_before_enough_answered_the_next_committee_is_asked() -> None:
    oracle = Oracle().join()
    oracle.say(ONE, ANSWER)
    blocks = chain(PARAMS.epoch_blocks)
    for block in blocks[1:]:
        oracle.say(ONE, Certified(block.notarization(), block.header))
    oracle.say(ONE, Certified(blocks[-1].finalization(), blocks[-1].header))
    assert oracle.machine.simplex.committee.epoch == 2
    assert Recall(2) in oracle.sent(ONE)
    assert oracle.machine._starting.answers == 0
    for place in ALL[:2]:
        oracle.say(place, answer(epoch=2))
    assert oracle.machine.signing == "yes"
