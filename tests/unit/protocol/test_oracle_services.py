"""What an oracle keeps for those who ask it: streams, watches, followers, items for batches, outcomes; all bounded."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.committee.cut import content_bytes_max
from protocol.core.codec import pack
from protocol.core.ids import NOBODY, NodeId
from protocol.core.machine import Channel, ChannelClosed, ChannelOpened, Close, Received, Send
from protocol.core.signing import keccak
from protocol.core.sparse import SparseTree
from protocol.ledger import Ledger, LedgerState, Section
from protocol.messages.committee import Certificate, CertificateKind, Certified
from protocol.messages.results import (
    CommitMessage,
    Content,
    Follow,
    LedgerNews,
    Observation,
    RevealMessage,
    SignedSession,
    Submit,
    TestReport,
    Verdict,
    Watch,
)
from protocol.results.hearsay import Hearsay
from protocol.results.observing import Desk
from protocol.roles.oracle import Report
from protocol.roles.oracle.followers import Final, Followers
from protocol.roles.oracle.ledger_view import LedgerView
from protocol.roles.oracle.outbox import ITEMS_MAX, OF_PEER_MAX, TRIES_MAX, Outbox, includes_at_once
from protocol.roles.oracle.results import STREAMS_OF_PEER_MAX
from protocol.roles.oracle.watchers import OF_STREAM_MAX, Watchers
from tests.unit.protocol import strategies
from tests.unit.protocol.committee_at_hand import KEYS, START_MS, committee_of, keyed  # noqa: F401
from tests.unit.protocol.desk_at_hand import batch_of
from tests.unit.protocol.oracles_in_a_room import Room
from tests.unit.protocol.results_at_hand import DOMAIN, MINERS, PARAMS, Job, genesis_of

ME, PEER = KEYS[0].node_id, KEYS[20].node_id
ONE = Job()
HEADER = Certified(Certificate(CertificateKind.FINALIZATION, 1, 1, bytes(32), ()), None)


def genesis_state() -> LedgerState:
    state: LedgerState = Ledger(DOMAIN, PARAMS, genesis_of()).genesis(committee_of())
    return state


def view_of(state: LedgerState | None = None) -> LedgerView:
    return LedgerView(DOMAIN, PARAMS, state or genesis_state())


def outbox() -> tuple[Desk, Outbox]:
    desk = Desk(DOMAIN, PARAMS, ME)
    return desk, Outbox(PARAMS, desk, content_bytes_max(PARAMS))


def always(_home_epoch: int) -> bool:
    return True


# The outbox


@pytest.mark.spec("BATCH-CONTENT.1")
def test_a_batch_is_as_full_as_it_may_be_and_no_fuller() -> None:
    desk, box = outbox()
    for number in range(32):
        job = Job(number=number)
        (found,) = desk.committed(job.commits(), KEYS[number % 31].node_id, None, view_of(), 0)
        box.value(1, found.lane)  # type: ignore[union-attr]
    signed, sizes = [], []
    while (draft := box.draft(view_of(), 1, always, START_MS)) is not None:
        sizes.append(len(draft.content))
        for lane, value in draft.values:
            desk.said(1, value)
            signed.append(lane)
        box.signed(draft, START_MS)
    assert len(set(signed)) == len(signed) == 32
    assert all(size <= content_bytes_max(PARAMS) for size in sizes)
    assert all(size + 100 > content_bytes_max(PARAMS) - 40 for size in sizes[:-1])


@pytest.mark.spec("BATCH-CONTENT.1", "OBSERVE-HOME.1")
def test_the_oldest_home_epoch_that_may_be_signed_comes_first_and_takes_nothing_else_along() -> None:
    desk, box = outbox()
    state = replace(genesis_state(), homes={epoch: committee_of().members for epoch in (1, 2)})
    for job in (Job(home_epoch=2), Job(number=1, home_epoch=1)):
        (found,) = desk.committed(job.commits(), PEER, None, view_of(state), 0)
        box.value(found.home_epoch, found.lane)  # type: ignore[union-attr]
    box.report(TestReport(PEER, 1, True, 1, 1))
    first = box.draft(view_of(state), 2, always, 0)
    assert first is not None
    assert (first.home_epoch, len(first.values), first.reports) == (1, 1, [])
    other = box.draft(view_of(state), 2, lambda home_epoch: home_epoch > 1, 0)
    assert other is not None
    assert (other.home_epoch, len(other.values), len(other.reports)) == (2, 1, 1)
    box.keep({2: committee_of().members})
    again = box.draft(view_of(state), 2, always, 0)
    assert again is not None
    assert again.home_epoch == 2
    box.keep({2: (PEER,)})
    assert box.draft(view_of(state), 2, always, 0) is None, "who is in no home has no batch"
    assert not box.owes


@pytest.mark.spec("BATCH-SHARED.1")
@pytest.mark.parametrize("size", [4, 7, 31])
def test_f_plus_one_oracles_include_an_item_at_once(size: int) -> None:
    for number in range(50):
        name = keccak(bytes([number]))
        assert sum(includes_at_once(name, place, size) for place in range(size)) == (size - 1) // 3 + 1


@pytest.mark.spec("BATCH-SHARED.1")
def test_an_item_goes_out_a_few_times_if_nothing_comes_of_it() -> None:
    _, box = outbox()
    item = ONE.signed_session
    box.add(item, PEER, 0, 4, START_MS)
    now_ms, times = START_MS, 0
    for _ in range(200):
        draft = box.draft(view_of(), 1, always, now_ms)
        if draft is not None:
            times += 1
            box.signed(draft, now_ms)
        now_ms += 1_000
    assert times == TRIES_MAX
    assert box.items == 0
    assert box.next_deadline() is None


@pytest.mark.spec("BATCH-SHARED.1")
def test_items_are_bounded_for_a_peer_and_in_all() -> None:
    _, box = outbox()
    sessions = [Job(number=number).signed_session for number in range(OF_PEER_MAX + 5)]
    assert sum(box.add(each, PEER, 0, 4, 0) for each in sessions) == OF_PEER_MAX
    assert not box.add(sessions[0], KEYS[21].node_id, 0, 4, 0), "it waits already"
    assert not box.add(Job(number=9_999).signed_session, PEER, None, 4, 0), "no member includes it"
    for number in range(ITEMS_MAX + 10):
        session = SignedSession(sessions[0].opening, number.to_bytes(65, "big"))
        box.add(session, NOBODY, 0, 4, 0)
    assert box.items == ITEMS_MAX


def test_reports_are_bounded_and_said_once() -> None:
    _, box = outbox()
    for number in range(6_000):
        box.report(TestReport(PEER, number, True, 1, 1))
        box.report(TestReport(PEER, number, False, 1, 1))
    draft = box.draft(view_of(), 1, always, 0)
    assert draft is not None
    assert all(report.passed for report in draft.reports)
    assert len(box._reports) <= 1_024
    assert len(box._reported) <= 4_096


# Hearsay, watchers, followers


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40), st.booleans(), st.booleans()), max_size=120))
def test_hearsay_forgets_what_an_oracle_said_first(said: list[tuple[int, int, bool, bool]]) -> None:
    hearsay = Hearsay(8)
    for place, number, ok, drop in said:
        value = Observation(bytes(32), number, 0, Verdict.OK if ok else Verdict.LATE, bytes(32), 0)
        lane = (bytes(32), number, 0)
        hearsay.drop(lane) if drop else hearsay.add(lane, value, batch_of(place, value, number=number + 1))
    assert len(hearsay) <= 3 * 8
    assert len(list(hearsay.batches(bytes(32)))) <= len(hearsay)
    hearsay.keep((2,))
    assert len(hearsay) == 0
    assert hearsay._said == {}


@pytest.mark.spec("RESULTS-STREAMS.1")
def test_watches_are_bounded_and_end_with_their_stream() -> None:
    watchers = Watchers()
    one, other = Channel(1), Channel(2)
    for number in range(OF_STREAM_MAX + 10):
        assert watchers.watch(one, number.to_bytes(32, "big"))
    assert len(watchers) == OF_STREAM_MAX
    last = (OF_STREAM_MAX + 9).to_bytes(32, "big")
    assert watchers.watch(other, last)
    assert not watchers.watch(other, last), "nothing is told twice"
    assert watchers.of(last) == (one, other)
    assert watchers.of(bytes(32)) == (), "the one watched longest went"
    watchers.gone(one)
    watchers.gone(one)
    assert len(watchers) == 1


@given(st.lists(st.one_of(st.just("sent"), st.dictionaries(st.binary(max_size=2), st.binary(max_size=600)))))
def test_a_follower_that_reads_slowly_ends_with_the_same_pool(happens: list[object]) -> None:
    followers, copy = Followers(), SparseTree()
    state = genesis_state()
    effects = followers.follow(Channel(1), pool=True)
    assert effects == []
    in_flight = 0

    def take(effects: list[object]) -> None:
        nonlocal copy, in_flight
        for effect in effects:
            assert isinstance(effect, Send)
            assert effect.report
            news = effect.message
            assert isinstance(news, LedgerNews)
            in_flight += 1
            copy = copy.updated((change.key, change.value) for change in news.changes)
            if not news.more:
                assert copy.root == news.sections[Section.MINERS]
        assert in_flight <= 1

    for what in happens:
        if what == "sent":
            in_flight = 0
            take(followers.sent(Channel(1)))
        else:
            assert isinstance(what, dict)
            trees = list(state.trees)
            trees[Section.MINERS] = SparseTree.of(what.items())
            state = replace(state, trees=tuple(trees))
            take(followers.settled(Final(HEADER, state)))
    for _ in range(len(happens) + 2):
        in_flight = 0
        take(followers.sent(Channel(1)))
    assert copy.root == state.tree(Section.MINERS).root
    followers.gone(Channel(1))
    assert followers.settled(Final(HEADER, state)) == []


@pytest.mark.spec("LEDGER-NEWS.1")
def test_a_page_of_changes_fits_its_message() -> None:
    followers, state = Followers(), genesis_state()
    trees = list(state.trees)
    trees[Section.MINERS] = SparseTree.of((bytes([at]) * 20, bytes([at]) * 4_000) for at in range(100))
    followers.settled(Final(HEADER, replace(state, trees=tuple(trees))))
    effects = followers.follow(Channel(1), pool=True)
    pages = 0
    while effects:
        (effect,) = effects
        assert isinstance(effect, Send)
        assert len(pack(effect.message)) < LedgerNews.LIMIT_BYTES - 4_096
        pages += 1
        effects = followers.sent(Channel(1))
    assert pages == 8


# Streams

RESULTS = st.one_of([strategies.build(kind) for kind in (CommitMessage, RevealMessage, Submit, Follow, Watch)])
ANYTHING = st.one_of([strategies.build(kind) for kind in strategies.every_message()])


@pytest.mark.spec("RESULTS-STREAMS.1")
@settings(max_examples=60)
@given(st.lists(st.tuples(st.one_of(RESULTS, ANYTHING), st.integers(1, 6)), max_size=8))
def test_whatever_comes_on_a_stream_of_results(spam: list[tuple[object, int]]) -> None:
    room = Room()
    host = room.hosts[0]
    for number in range(7):
        host.tell(ChannelOpened(Channel(1_000 + number), KEYS[number].node_id, "results"))
    for message, number in spam:
        host.tell(Received(Channel(1_000 + number), message))  # type: ignore[arg-type]
        room.run(20)
    room.run(12_000)
    load = host.machine.results.load()
    assert load["lanes_open"] == load["items_waiting"] == 0, "none of it was signed by anybody"


@pytest.mark.spec("RESULTS-STREAMS.1")
def test_a_peer_has_so_many_streams_and_one_that_breaks_a_rule_loses_its_own() -> None:
    host = Room().hosts[0]
    opened = [
        host.machine.handle(ChannelOpened(Channel(number), PEER, "results"), START_MS)
        for number in range(1, STREAMS_OF_PEER_MAX + 2)
    ]
    assert [any(isinstance(each, Close) for each in effects) for effects in opened] == [False] * 4 + [True]
    bad = Job().commits()
    forged = CommitMessage(bad.signed, replace(Job(), generation=2).papers)
    did = host.machine.handle(Received(Channel(1), forged), START_MS)
    assert Close(Channel(1)) in did
    assert host.machine.results.load()["streams"] == STREAMS_OF_PEER_MAX - 1
    host.machine.handle(ChannelClosed(Channel(2), "gone"), START_MS)
    assert host.machine.results.load()["streams"] == STREAMS_OF_PEER_MAX - 2


def test_content_of_a_batch_is_what_it_says() -> None:
    room = Room()
    room.run(3_000)
    host = room.hosts[0]
    host.tell(Report(TestReport(MINERS[0].node_id, 1, True, 5, 6)))
    (kept,) = host.machine._kept
    assert kept.content == pack(Content(reports=(TestReport(MINERS[0].node_id, 1, True, 5, 6),)))
    assert NodeId(kept.batch.oracle) == host.key.node_id
