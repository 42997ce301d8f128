"""Committees that follow one another: whom a node that runs no consensus believes, from the genesis on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.committee.certificates import CommitteeError
from protocol.core.codec import decode, encode
from protocol.core.errors import RemoteProtocolError
from protocol.core.machine import Channel, Persist, Send
from protocol.light.handovers import (
    RECENT_MAX,
    HandOverAsker,
    HandOverBook,
    HandOverReaders,
    HandOverStore,
    hand_over_key,
    unpack_hand_over,
)
from protocol.light.headers import COMMITTEES_KEPT, HeaderTrust, UnknownEpoch
from protocol.messages.committee import CertificateKind
from protocol.messages.handover import HAND_OVERS_MAX, HandOver, HandOvers, HandOversAsked
from tests.unit.protocol.keys import Key, key
from tests.unit.protocol.light_at_hand import certify, hand_over_of, header_of
from tests.unit.protocol.machines import GENESIS, MALLORY, ORACLES

NEW = [key(120 + number) for number in range(7)]
"""Some that are in no committee at first."""
AT = Channel(1)


def led(*committees: Sequence[Key]) -> list[HandOver]:
    """Hand-overs from the genesis committee to these, one after the other."""
    signers, found = [ORACLES, *committees], []
    for epoch, members in enumerate(committees, 1):
        before = signers[epoch - 1]
        quorum = 2 * ((len(before) - 1) // 3) + 1
        found.append(hand_over_of(epoch, members, places=range(quorum), signers=before[:quorum]))
    return found


def turning(epochs: int) -> list[HandOver]:
    """Committees of four that move on by one each time."""
    everybody = [*ORACLES, *NEW]
    return led(*[[everybody[(epoch + place) % len(everybody)] for place in range(4)] for epoch in range(1, epochs)])


# Trust


@pytest.mark.spec("HANDOVER-TAKEN.1", "LIGHT-HEADER.1")
def test_each_committee_names_the_next_and_is_believed_in_its_own_epoch_only() -> None:
    trust, (first, second) = HeaderTrust(GENESIS), led(NEW[:4], NEW)
    later = certify(header_of(9, 2), (0, 1, 2), NEW[:3])
    with pytest.raises(UnknownEpoch):
        trust.check(later)
    with pytest.raises(UnknownEpoch):
        trust.take(second)
    assert trust.take(first)
    assert not trust.take(first), "it is known"
    assert trust.check(later) == header_of(9, 2)
    for bad in (certify(header_of(8, 2)), certify(header_of(8, 1), (0, 1, 2), NEW[:3])):
        with pytest.raises(CommitteeError):
            trust.check(bad)
    assert trust.take(second)
    assert trust.epoch == 3
    assert trust.members == tuple(member.node for member in NEW)
    assert trust.members_of(1) == GENESIS.committee
    assert trust.members_of(4) == ()
    assert trust.check(certify(header_of(1, 3), range(5), NEW[:5]))
    with pytest.raises(CommitteeError):
        trust.check(certify(header_of(1, 3), range(3), NEW[:3])), "of seven five sign"


@pytest.mark.spec("HANDOVER-TAKEN.1")
@pytest.mark.parametrize(
    "bad",
    [
        lambda: hand_over_of(1, NEW[:4], named=NEW[1:5]),
        lambda: hand_over_of(1, NEW[:4], named=NEW[3::-1]),
        lambda: hand_over_of(1, NEW[:5]),
        lambda: hand_over_of(1, [*NEW[:3], NEW[0]]),
        lambda: hand_over_of(1, NEW[:4], places=(0, 1)),
        lambda: hand_over_of(1, NEW[:4], signers=[*ORACLES[:2], MALLORY]),
        lambda: hand_over_of(1, NEW[:4], kind=CertificateKind.NOTARIZATION),
        lambda: hand_over_of(1, NEW[:4], shown=None),
        lambda: hand_over_of(1, NEW[:4], shown=header_of(41, 1)),
    ],
    ids=[
        "another root",
        "another order",
        "five",
        "one twice",
        "too few",
        "a stranger",
        "only voted",
        "bare",
        "another",
    ],
)
def test_anything_less_hands_nothing_over(bad: Any) -> None:
    trust = HeaderTrust(GENESIS)
    with pytest.raises(RemoteProtocolError):
        trust.take(bad())
    assert trust.epoch == 1


@pytest.mark.spec("HANDOVER-TAKEN.1")
def test_who_was_believed_first_stays() -> None:
    trust = HeaderTrust(GENESIS)
    trust.take(hand_over_of(1, NEW[:4]))
    with pytest.raises(CommitteeError, match="another committee"):
        trust.take(hand_over_of(1, NEW[1:5]))
    assert trust.members == tuple(member.node for member in NEW[:4])


@pytest.mark.spec("HANDOVER-TAKEN.1")
def test_so_many_committees_are_known_and_no_more() -> None:
    trust = HeaderTrust(GENESIS)
    for hand_over in turning(COMMITTEES_KEPT + 6):
        trust.take(hand_over)
        for epoch in range(1, trust.epoch + 1):
            trust.committee(epoch) if trust.members_of(epoch) else None
    assert len(trust._known) == COMMITTEES_KEPT
    assert len(trust._made) <= COMMITTEES_KEPT
    with pytest.raises(CommitteeError, match="forgotten"):
        trust.check(certify(header_of(9, 2)))


def test_a_network_without_a_committee_takes_none() -> None:
    trust = HeaderTrust(replace(GENESIS, committee=()))
    assert (trust.epoch, trust.members) == (0, ())
    with pytest.raises(CommitteeError):
        trust.take(hand_over_of(1, NEW[:4]))


# What is kept


class Disk:
    """Records that are as durable as they can be."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.asked: list[bytes] = []

    def load(self, prefix: bytes) -> dict[bytes, bytes]:
        self.asked.append(prefix)
        return {name: value for name, value in self.records.items() if name.startswith(prefix)}

    def write(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        self.records.update((name, value) for name, value in records if value is not None)


@pytest.mark.spec("HANDOVER-KEPT.1")
def test_what_was_taken_is_there_after_a_restart_and_page_by_page() -> None:
    disk, chain = Disk(), turning(RECENT_MAX + HAND_OVERS_MAX + 5)
    book = HandOverBook(GENESIS, disk.load)
    disk.write(book.take(chain))
    for kept in (book, HandOverBook(GENESIS, disk.load)):
        assert kept.trust.epoch == len(chain) + 1
        found: list[HandOver] = []
        first = 1
        while True:
            page = decode(encode(kept.store.page(first)))
            assert isinstance(page, HandOvers)
            found += page.hand_overs
            first += len(page.hand_overs)
            if not page.more:
                break
            assert len(page.hand_overs) == HAND_OVERS_MAX
        assert found == chain
        assert kept.store.page(first) == HandOvers(())
    assert len(book.store._recent) == RECENT_MAX


@pytest.mark.spec("HANDOVER-KEPT.1")
def test_records_that_do_not_lead_on_are_asked_for_again() -> None:
    disk, chain = Disk(), turning(8)
    disk.write(HandOverBook(GENESIS, disk.load).take(chain))
    disk.records[hand_over_key(3)] = disk.records[hand_over_key(2)]
    assert HandOverBook(GENESIS, disk.load).trust.epoch == 3
    disk.records[hand_over_key(3)] = b"\x01"
    assert HandOverBook(GENESIS, disk.load).trust.epoch == 3
    assert HandOverBook(replace(GENESIS, name="other"), disk.load).trust.epoch == 1, "they are another network's"


@pytest.mark.parametrize("first", [0, 1 << 63, (1 << 64) - 1])
def test_whatever_is_asked_for_is_answered(first: int) -> None:
    store = HandOverStore()
    chain = turning(4)
    for hand_over in chain:
        store.keep(hand_over)
    assert store.page(first).hand_overs == (tuple(chain) if not first else ())


def test_a_hand_over_of_the_largest_committee_fits_into_a_page_of_many() -> None:
    large = [key(200 + number) for number in range(31)]
    hand_over = hand_over_of(2**63 - 1, large, places=range(10, 31), signers=large[:21])
    page = HandOvers((hand_over,) * HAND_OVERS_MAX, more=True)
    assert decode(encode(page)) == page
    assert unpack_hand_over(HandOverStore().keep(hand_over)[1] or b"") == hand_over


# Who asks, and who is told


def pages(effects: Sequence[object]) -> list[HandOvers]:
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, HandOvers)]


@pytest.mark.spec("HANDOVER-TOLD.1")
def test_who_has_had_all_is_told_each_new_one() -> None:
    store, chain = HandOverStore(), turning(HAND_OVERS_MAX + 4)
    readers = HandOverReaders(store)
    for hand_over in chain[:-1]:
        store.keep(hand_over)
    (page,) = pages(readers.asked(AT, HandOversAsked(1)))
    assert page.more
    assert readers.told(chain[-1]) == [], "it comes with a later page"
    (rest,) = pages(readers.asked(AT, HandOversAsked(HAND_OVERS_MAX + 1)))
    assert not rest.more
    store.keep(chain[-1])
    assert pages(readers.told(chain[-1])) == [HandOvers((chain[-1],))]
    readers.gone(AT)
    assert readers.told(chain[-1]) == []


@pytest.mark.spec("HANDOVER-ASKED.1")
def test_all_pages_are_asked_for_and_what_is_new_is_durable() -> None:
    store, chain = HandOverStore(), turning(HAND_OVERS_MAX + 4)
    for hand_over in chain:
        store.keep(hand_over)
    book = HandOverBook(GENESIS)
    asker, readers = HandOverAsker(book, b"key"), HandOverReaders(store)
    effects, written, questions = asker.ask(AT), dict[bytes, bytes | None](), 0
    while effects:
        for effect in effects:
            written.update(effect.records if isinstance(effect, Persist) else ())
        asked = [effect.message for effect in effects if isinstance(effect, Send)]
        questions += len(asked)
        effects = []
        for question in asked:
            assert isinstance(question, HandOversAsked)
            effects = asker.took(AT, pages(readers.asked(AT, question))[0])
        if not asker.waits(AT):
            break
    for effect in effects:
        written.update(effect.records if isinstance(effect, Persist) else ())
    assert book.trust.epoch == len(chain) + 1
    assert questions == 2
    assert sorted(written) == [hand_over_key(epoch) for epoch in range(1, len(chain) + 1)]
    new = turning(len(chain) + 2)[-1]
    assert [type(effect) for effect in asker.took(AT, HandOvers((new,)))] == [Persist]


@pytest.mark.spec("HANDOVER-ASKED.1")
def test_two_that_are_asked_may_bring_the_same() -> None:
    chain = turning(6)
    book = HandOverBook(GENESIS)
    asker, other = HandOverAsker(book), Channel(2)
    asker.ask(AT), asker.ask(other)
    asker.took(AT, HandOvers(tuple(chain)))
    assert asker.took(other, HandOvers(tuple(chain[:3]), more=True)) == [Send(other, HandOversAsked(6))]
    assert asker.took(other, HandOvers(())) == []


@pytest.mark.spec("HANDOVER-ASKED.1")
@pytest.mark.parametrize(
    ("asked", "page"),
    [
        (False, lambda chain: HandOvers(tuple(chain), more=True)),
        (True, lambda chain: HandOvers((), more=True)),
        (True, lambda chain: HandOvers(tuple(chain[1:]), more=True)),
        (True, lambda chain: HandOvers(tuple(chain[1:]))),
        (False, lambda chain: HandOvers((chain[1],))),
        (True, lambda chain: HandOvers((chain[0], chain[2]))),
        (True, lambda chain: HandOvers((chain[0], chain[0]))),
    ],
    ids=["not asked", "no end", "another page", "another last page", "too early", "a gap", "one twice"],
)
def test_a_page_that_was_not_asked_for_breaks_the_rules(asked: bool, page: Any) -> None:
    asker = HandOverAsker(HandOverBook(GENESIS))
    if asked:
        asker.ask(AT)
    with pytest.raises(CommitteeError):
        asker.took(AT, page(turning(5)))
    assert not asker.waits(AT)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 9), max_size=5), st.booleans()), max_size=12))
def test_whoever_is_asked_only_the_truth_is_taken(said: list[tuple[int, list[int], bool]]) -> None:
    chain = turning(8)
    lies = [hand_over_of(epoch, NEW[:4], signers=[MALLORY] * 3) for epoch in (1, 2, 3)]
    book = HandOverBook(GENESIS)
    asker = HandOverAsker(book)
    for place, items, more in said:
        channel = Channel(place)
        asker.ask(channel)
        try:
            asker.took(channel, HandOvers(tuple([*chain, *lies][item] for item in items), more))
        except RemoteProtocolError:
            asker.gone(channel)
    for hand_over in chain[: book.trust.epoch - 1]:
        assert book.trust.members_of(hand_over.epoch + 1) == hand_over.members
    assert len(asker._asked) <= 3
