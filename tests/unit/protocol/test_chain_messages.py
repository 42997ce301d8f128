"""What the chain tells the ledger: one encoding each, and a digest that binds every event and their order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.committee.cut import content_bytes_max
from protocol.core.codec import pack, unpack
from protocol.core.params import Params
from protocol.messages.chain import (
    NO_EVENTS,
    WORD_BYTES_MAX,
    Accepted,
    ChainEvent,
    ChainWord,
    Deposited,
    Drawn,
    NodeChanged,
    run_digest,
)
from protocol.messages.results import Content

U64 = st.integers(0, 2**63 - 1)
ADDRESSES = st.binary(min_size=20, max_size=20)
DIGESTS = st.binary(min_size=32, max_size=32)
EVENTS: st.SearchStrategy[ChainEvent] = st.one_of(
    st.builds(Deposited, U64, ADDRESSES, U64),
    st.builds(NodeChanged, ADDRESSES, ADDRESSES, st.integers(0, 255), U64, st.booleans()),
    st.builds(Drawn, U64, st.lists(ADDRESSES, max_size=31).map(tuple)),
    st.builds(Accepted, U64, U64, DIGESTS),
)


@pytest.mark.spec("CHAIN-WORD.1")
@given(st.builds(ChainWord, U64, st.lists(EVENTS, max_size=16).map(tuple), U64, DIGESTS, DIGESTS))
def test_a_word_survives_its_encoding(word: ChainWord) -> None:
    assert unpack(ChainWord, pack(word), limit_bytes=1 << 16) == word
    content = Content(words=(word,))
    assert unpack(Content, pack(content), limit_bytes=1 << 16) == content


@pytest.mark.spec("CHAIN-DIGEST.1")
@given(st.lists(EVENTS, max_size=4), st.lists(EVENTS, max_size=4))
def test_the_running_digest_binds_all_events_and_their_order(some: list[ChainEvent], others: list[ChainEvent]) -> None:
    def run(events: list[ChainEvent]) -> bytes:
        digest = NO_EVENTS
        for event in events:
            digest = run_digest(digest, event)
        return digest

    assert (run(some) == run(others)) == (some == others)


def test_a_word_of_the_size_that_is_allowed_fits_into_a_batch() -> None:
    assert content_bytes_max(Params()) > WORD_BYTES_MAX
