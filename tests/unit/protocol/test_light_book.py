"""What a light user keeps of committees from run to run, and how it comes to the present after a while."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.committee.certificates import CommitteeError
from protocol.core.codec import decode, encode
from protocol.core.errors import DecodeError, RemoteProtocolError
from protocol.core.machine import Channel, Send
from protocol.light.handovers import HandOverAsker, HandOverBook, HandOverReaders, HandOverStore
from protocol.light.headers import ReadersTime, TrustExpired
from protocol.light.skipping import QUESTIONS_MAX, SKIP_FROM
from protocol.light.trust import show_trust
from protocol.light.trust_book import KEPT_BYTES_MAX, STEPS_LEFT, STEPS_MAX, KeptTrust, LightBook, read_kept, write_kept
from protocol.messages.handover import (
    PICKED_MAX,
    HandOver,
    HandOvers,
    HandOversAsked,
    HandOversFound,
    HandOversPicked,
)
from tests.unit.protocol.trust_at_hand import FOUNDED_S, PERIOD_S, THIEF, Net

AT = Channel(1)
NET = Net()
FAR = Net(turn=11, epoch_s=600)
"""Its committee stays as it is."""


def time_at(now_s: int) -> ReadersTime:
    return ReadersTime(now_s)


def store_of(net: Net, epochs: Sequence[int]) -> HandOverStore:
    store = HandOverStore(lambda name: {name: kept[name]} if name in kept else {})
    kept = {}
    for epoch in epochs:
        name, value = store.keep(net.hand_over(epoch))
        assert value is not None
        kept[name] = value
    return store


class Talk:
    """A reader asks a node that has hand-overs, until it asks no more."""

    def __init__(self, book: HandOverBook, store: HandOverStore) -> None:
        self.asker = HandOverAsker(book)
        self.store = store
        self.readers = HandOverReaders(store)
        self.questions: list[object] = []
        self.bytes = 0

    def run(self, towards: int = 0) -> None:
        effects = self.asker.ask(AT, towards)
        while effects:
            (asked,) = [effect.message for effect in effects if isinstance(effect, Send)]
            self.questions.append(asked)
            answer = self.answer(asked)
            self.bytes += len(encode(asked)) + len(encode(answer))
            if isinstance(answer, HandOversFound):
                effects = self.asker.found(AT, decode(encode(answer)))  # type: ignore[arg-type]
            else:
                effects = self.asker.took(AT, decode(encode(answer)))  # type: ignore[arg-type]

    def answer(self, asked: object) -> HandOvers | HandOversFound:
        if isinstance(asked, HandOversPicked):
            return self.store.found(asked)
        assert isinstance(asked, HandOversAsked)
        return self.store.page(asked.first)


# Skipping


@pytest.mark.spec("TRUST-SKIP.1", "HANDOVER-PICKED.1")
def test_where_the_members_still_sign_one_question_leads_to_the_present() -> None:
    book = LightBook(FAR.genesis, time=time_at(FAR.begins_s(500)))
    talk = Talk(book, store_of(FAR, range(1, 501)))
    talk.run(towards=500)
    assert talk.questions == [HandOversPicked((499,)), HandOversAsked(500)]
    assert book.trust.epoch == 501
    assert [each.epoch for each in book.path(501)] == [499, 500]


@pytest.mark.spec("TRUST-SKIP.1")
@pytest.mark.parametrize("net", [Net(epoch_s=600), Net(turn=4, crowd=40, epoch_s=600)], ids=["one by one", "all new"])
def test_where_they_do_not_it_comes_there_all_the_same(net: Net) -> None:
    book = LightBook(net.genesis, time=time_at(net.begins_s(120)))
    talk = Talk(book, store_of(net, range(1, 121)))
    talk.run(towards=120)
    assert book.trust.epoch == 121
    picked = sum(isinstance(question, HandOversPicked) for question in talk.questions)
    assert picked <= QUESTIONS_MAX
    assert book.trust.check(net.final(121))


@pytest.mark.spec("TRUST-SKIP.1")
def test_a_trust_point_is_where_it_begins() -> None:
    book = LightBook(FAR.genesis, points=[FAR.point(300)], time=time_at(FAR.begins_s(500)))
    talk = Talk(book, store_of(FAR, range(1, 501)))
    talk.run(towards=500)
    assert talk.questions[0] == HandOversPicked((299,))
    assert book.trust.epoch == 501
    near = LightBook(FAR.genesis, points=[FAR.point(300)], time=time_at(FAR.begins_s(301)))
    talk = Talk(near, store_of(FAR, range(1, 302)))
    talk.run(towards=301)
    assert talk.questions == [HandOversAsked(299)], "from near it goes one by one"
    assert near.trust.epoch == 302


@pytest.mark.spec("TRUST-SKIP.1")
def test_the_other_end_may_have_nothing_or_claim_what_it_cannot_show() -> None:
    for store in (store_of(NET, ()), store_of(NET, range(1, 6)), store_of(NET, range(30, 40))):
        book = LightBook(NET.genesis, time=time_at(NET.begins_s(2)))
        talk = Talk(book, store)
        talk.run(towards=1 << 62)
        assert len(talk.questions) <= QUESTIONS_MAX + 2
        assert not talk.asker.waits(AT)


@pytest.mark.spec("HANDOVER-PICKED.1")
def test_what_was_not_asked_for_breaks_the_rules() -> None:
    book = LightBook(NET.genesis, time=time_at(NET.begins_s(2)))
    asker = HandOverAsker(book)
    with pytest.raises(CommitteeError, match="nobody asked"):
        asker.found(AT, HandOversFound(()))
    asker.ask(AT, 1 + SKIP_FROM)
    with pytest.raises(CommitteeError, match="nobody asked"):
        asker.found(AT, HandOversFound((NET.hand_over(2),)))
    assert not asker.waits(AT)
    asker.ask(AT, 1 + SKIP_FROM)
    with pytest.raises(RemoteProtocolError):
        asker.found(AT, HandOversFound((bad(),)))
    asker.ask(AT, 1 + SKIP_FROM)
    asker.gone(AT)
    assert not asker.waits(AT)


def bad() -> HandOver:
    """Of the right epoch, finalized by enough who are known, and with others than its header names."""
    good = NET.hand_over(SKIP_FROM, signers=NET.committee(1)[:3])
    return msgspec.structs.replace(good, members=tuple(member.node for member in THIEF))


@pytest.mark.spec("HANDOVER-PICKED.1")
def test_those_that_there_are_come_in_the_order_of_the_question() -> None:
    store = store_of(NET, range(1, 6))
    found = store.found(HandOversPicked((5, 9, 2)))
    assert [each.epoch for each in found.hand_overs] == [5, 2]
    large = HandOversFound((NET.hand_over(3),) * PICKED_MAX)
    assert decode(encode(large)) == large


def test_who_was_skipped_is_told_of_in_vain_and_does_no_harm() -> None:
    book = LightBook(FAR.genesis, time=time_at(FAR.begins_s(40)))
    book.skip(FAR.hand_over(39))
    assert book.take([FAR.hand_over(epoch) for epoch in range(3, 9)]) == ()
    assert book.trust.epoch == 40


# What is kept


@pytest.mark.spec("TRUST-KEPT.1")
def test_who_followed_in_time_goes_on_though_the_genesis_is_too_old() -> None:
    book = LightBook(NET.genesis, time=time_at(FOUNDED_S))
    for epoch in range(1, 21):
        book.trust.time.now_s = NET.begins_s(epoch + 1)
        book.take([NET.hand_over(epoch)])
    kept = read_kept(write_kept(book.kept()))
    assert kept.latest == 21
    later = LightBook(NET.genesis, kept, time=time_at(NET.begins_s(26)))
    assert later.trust.epoch == 21
    moved = [later.moved]
    assert later.trust.check(NET.final(21))
    for epoch in range(21, 26):
        later.take([NET.hand_over(epoch)])
    assert [*moved, later.moved] == [False, True]
    away = LightBook(NET.genesis, later.kept(), time=time_at(NET.begins_s(26) + PERIOD_S))
    with pytest.raises(TrustExpired):
        away.take([NET.hand_over(26)])
    fresh = LightBook(NET.genesis, time=time_at(NET.begins_s(21)))
    with pytest.raises(TrustExpired):
        fresh.take([NET.hand_over(1)])


@pytest.mark.spec("TRUST-KEPT.1")
def test_what_is_kept_is_bounded_and_loses_no_age() -> None:
    book, epochs = LightBook(NET.genesis, time=time_at(FOUNDED_S)), 3 * STEPS_MAX + 7
    for epoch in range(1, epochs):
        book.trust.time.now_s = NET.begins_s(epoch) + 5
        book.take([NET.hand_over(epoch)])
        kept = book.kept()
        assert len(kept.steps) <= STEPS_MAX
        assert len(write_kept(kept)) < KEPT_BYTES_MAX
    assert kept.points, "a trust point stands for what was left out"
    again = LightBook(NET.genesis, read_kept(write_kept(kept)), time=time_at(NET.begins_s(epochs)))
    assert again.trust.epoch == epochs
    known = range(epochs - STEPS_LEFT + 1, epochs + 1)
    assert [again.trust.since_s(epoch) for epoch in known] == [book.trust.since_s(epoch) for epoch in known]
    assert again.trust.check(NET.final(epochs))


@pytest.mark.spec("TRUST-KEPT.1")
def test_what_does_not_hold_of_it_is_left_out_with_all_that_follows() -> None:
    book = LightBook(NET.genesis, time=time_at(NET.begins_s(5)))
    book.take([NET.hand_over(epoch) for epoch in range(1, 5)])
    kept = book.kept()
    forged = msgspec.structs.replace(kept.steps[1], hand_over=NET.hand_over(2, following=THIEF, signers=THIEF[:3]))
    broken = msgspec.structs.replace(kept, steps=(kept.steps[0], forged, *kept.steps[2:]))
    assert LightBook(NET.genesis, broken, time=time_at(NET.begins_s(5))).trust.epoch == 2
    other = NET.renamed("other").genesis
    assert LightBook(other, kept, time=time_at(NET.begins_s(5))).trust.epoch == 1


@pytest.mark.spec("TRUST-KEPT.1")
def test_a_trust_string_alone_waits_for_its_network() -> None:
    kept = KeptTrust(1, NET.genesis.network_id(), "", (show_trust(NET.point(40)),))
    book = LightBook(NET.genesis, read_kept(write_kept(kept)), time=time_at(NET.begins_s(41)))
    assert book.trust.wanted == 39
    book.take([NET.hand_over(39)])
    assert LightBook(NET.genesis, book.kept(), time=time_at(NET.begins_s(42))).trust.epoch == 40


@pytest.mark.spec("TRUST-KEPT.1")
@given(st.binary(max_size=300), st.integers(0, 600), st.integers(1, 255))
def test_a_file_that_was_not_written_like_this_is_refused(data: bytes, place: int, flip: int) -> None:
    with pytest.raises(DecodeError):
        read_kept(data)
    written = bytearray(write_kept(KeptTrust(1, NET.genesis.network_id(), "", (show_trust(NET.point(40)),))))
    written[place % len(written)] ^= flip
    with pytest.raises(DecodeError):
        read_kept(bytes(written))
    with pytest.raises(DecodeError, match="form 2"):
        read_kept(write_kept(KeptTrust(2, NET.genesis.network_id(), "", ())))


def test_the_path_to_a_committee_is_what_others_need_to_believe_it() -> None:
    book = LightBook(NET.genesis, time=time_at(NET.begins_s(7)))
    book.skip(NET.hand_over(3))
    book.take([NET.hand_over(epoch) for epoch in range(4, 8)])
    reader = NET.trust(at_s=NET.begins_s(7))
    path = book.path(8)
    assert [each.epoch for each in path] == [3, 4, 5, 6, 7]
    for hand_over in path:
        assert reader.take(hand_over, skipping=True)
    assert reader.members_of(8) == book.trust.members_of(8)
    assert book.path(1) == ()
