"""Sealed messages: one reader, one place, and no other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.sealing import (
    OVERHEAD_BYTES,
    PLAIN_BYTES_MAX,
    KeyNonsense,
    SealedNonsense,
    SealingKey,
    answer_context,
    question_context,
    seal,
)
from protocol.core.errors import P2PNodeError
from protocol.core.ids import NetworkId
from protocol.core.signing import Domain

HERE, ELSEWHERE = Domain(NetworkId(bytes(32)), 1), Domain(NetworkId(bytes(32)), 2)
READER, OTHER = SealingKey.of_node(b"\x01" * 32), SealingKey.of_node(b"\x02" * 32)
ROUTER, ASKER = b"\x0a" * 20, b"\x0b" * 20
SMALL_ORDER = [bytes(32), b"\x01" + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f")]


@pytest.mark.spec("INBOX-SEAL.1")
@given(st.binary(max_size=300), st.binary(max_size=80))
def test_the_reader_opens_what_was_sealed_to_its_key(plain: bytes, context: bytes) -> None:
    sealed = seal(READER.public, plain, context)
    assert len(sealed) == len(plain) + OVERHEAD_BYTES
    assert READER.open(sealed, context) == plain
    assert seal(READER.public, plain, context) != sealed, "nothing is said twice in the same words"
    with pytest.raises(SealedNonsense):
        OTHER.open(sealed, context)
    with pytest.raises(SealedNonsense):
        READER.open(sealed, context + b"\0")


@pytest.mark.spec("INBOX-SEAL.1")
def test_no_byte_of_a_message_can_be_altered_cut_or_added() -> None:
    sealed = seal(READER.public, b"what is the capital of France?", b"place")
    for at in range(len(sealed)):
        # The highest bit of an X25519 key is ignored by the curve, but the key is derived from the bytes as they are.
        for bit in (0x01, 0x80):
            altered = sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :]
            with pytest.raises(SealedNonsense):
                READER.open(altered, b"place")
        with pytest.raises(SealedNonsense):
            READER.open(sealed[:at], b"place")
    with pytest.raises(SealedNonsense):
        READER.open(sealed + b"\0", b"place")


@pytest.mark.spec("INBOX-SEAL.1")
@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_whatever_comes_is_refused_by_one_error(sealed: bytes) -> None:
    for data in (sealed, b"\x01" + sealed):
        with pytest.raises(SealedNonsense) as raised:
            READER.open(data, b"")
        assert raised.value.hint


@pytest.mark.spec("INBOX-SEAL.1")
def test_keys_that_are_none_are_refused() -> None:
    for public in (b"", READER.public[:31], READER.public + b"\0", *SMALL_ORDER):
        with pytest.raises(KeyNonsense):
            seal(public, b"text", b"")
    for small in SMALL_ORDER:
        with pytest.raises(SealedNonsense):
            READER.open(b"\x01" + small + bytes(40), b"")
    for secret in (b"", bytes(31), bytes(33)):
        with pytest.raises(KeyNonsense):
            SealingKey.of_node(secret)
        with pytest.raises(KeyNonsense):
            SealingKey.read(secret)
    with pytest.raises(SealedNonsense):
        seal(READER.public, bytes(PLAIN_BYTES_MAX + 1), b"")
    assert issubclass(KeyNonsense, P2PNodeError)


def test_a_node_has_one_key_and_a_file_keeps_one() -> None:
    assert SealingKey.of_node(b"\x01" * 32).public == READER.public != OTHER.public
    key = SealingKey.generate()
    assert SealingKey.read(key.packed()).public == key.public
    assert key.packed().hex() not in repr(key)
    assert READER.packed() != b"\x01" * 32, "the node key itself is not used on another curve"


@pytest.mark.spec("INBOX-SEAL.2")
def test_a_question_cannot_be_asked_again_for_another_reader() -> None:
    """A copy of a sealed question under the copier's own reply key would have its answer sealed to the copier."""
    mine, theirs = SealingKey.generate().public, SealingKey.generate().public
    prompt = b"\x0c" * 32
    sealed = seal(READER.public, b"a private question", question_context(HERE, ROUTER, ASKER, mine, prompt))
    places = [
        question_context(HERE, ROUTER, ASKER, theirs, prompt),
        question_context(HERE, ROUTER, ROUTER, mine, prompt),
        question_context(HERE, ASKER, ASKER, mine, prompt),
        question_context(HERE, ROUTER, ASKER, mine, bytes(32)),
        question_context(ELSEWHERE, ROUTER, ASKER, mine, prompt),
        answer_context(HERE, 1, mine),
    ]
    for place in places:
        with pytest.raises(SealedNonsense):
            READER.open(sealed, place)


@pytest.mark.spec("INBOX-SEAL.2")
def test_an_answer_is_of_one_question() -> None:
    key = SealingKey.generate()
    sealed = seal(key.public, b"Paris", answer_context(HERE, 7, key.public))
    assert key.open(sealed, answer_context(HERE, 7, key.public)) == b"Paris"
    for place in (answer_context(HERE, 8, key.public), answer_context(ELSEWHERE, 7, key.public)):
        with pytest.raises(SealedNonsense):
            key.open(sealed, place)
