"""Which gossip was seen: what is forgotten cannot be replayed."""

import pytest

from p2pnode.transport.libp2p import pubsub
from p2pnode.transport.libp2p.pubsub import SeenIds


def id_of(author: int, seqno: int) -> bytes:
    return bytes([author]) * 39 + seqno.to_bytes(8, "big")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> SeenIds:
    monkeypatch.setattr(pubsub, "_SEEN_MAX", 4)
    monkeypatch.setattr(pubsub, "_AUTHORS_MAX", 3)
    return SeenIds()


def test_what_was_forgotten_and_what_is_older_still_counts_as_seen(seen: SeenIds) -> None:
    for seqno in (10, 12, 11, 13, 14, 15):
        assert not seen.has(id_of(1, seqno))
        seen.add(id_of(1, seqno))
    assert len(seen._seen) == 4
    assert all(seen.has(id_of(1, seqno)) for seqno in range(16))
    assert not seen.has(id_of(1, 16))


def test_an_author_is_not_silenced_by_what_is_forgotten_of_others(seen: SeenIds) -> None:
    for seqno in range(100, 110):
        seen.add(id_of(1, seqno))
    assert not seen.has(id_of(2, 5))


def test_messages_that_overtake_each_other_are_both_new(seen: SeenIds) -> None:
    seen.add(id_of(1, 20))
    assert not seen.has(id_of(1, 19))


def test_what_is_kept_of_authors_is_bounded(seen: SeenIds) -> None:
    for author in range(1, 100):
        seen.add(id_of(author, 7))
    assert len(seen._forgotten) == 3
