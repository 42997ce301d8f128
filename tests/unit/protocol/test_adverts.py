"""The advert book: the newest of each node, bounded, and safe from a flood of fresh keys."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.messages.adverts import Advert, ModelManifest, ModelOffer
from protocol.messages.envelope import Envelope
from protocol.session.adverts import AdvertBook, Taken

PARAMS = replace(Params(), adverts_max=16, advert_interval_ms=1_000, advert_lifetime_ms=3_000, clock_skew_ms_max=100)
LARGE = ModelManifest("large", b"\1" * 32, 1, "llama", "Q8_0", 128)
SMALL = ModelManifest("small", b"\2" * 32, 1, "llama", "Q8_0", 128)
NOW_MS = 1_000_000


def node(number: int) -> NodeId:
    """A node id."""
    return NodeId(number.to_bytes(20, "big"))


def offer(manifest: ModelManifest = LARGE, slots: int = 2, price_wei: int = 5, context: int = 128) -> ModelOffer:
    """What a miner offers."""
    return ModelOffer(manifest, slots, context, price_wei)


def advert(number: int, issued_ms: int = NOW_MS, *offers: ModelOffer, role: str = "miner") -> Advert:
    """An advert of a node."""
    return Advert(node(number), issued_ms, (role,), (), offers, "")  # type: ignore[arg-type]


def envelope(number: int, issued_ms: int = NOW_MS) -> Envelope:
    """Stands for the signed advert; the book does not look inside."""
    return Envelope(node(number) + issued_ms.to_bytes(8, "big"), bytes(65))


def add(book: AdvertBook, number: int, at_ms: int = NOW_MS, connected: frozenset[NodeId] = frozenset()) -> Taken:
    """A node says at this moment that it is there."""
    return book.add(advert(number, at_ms, offer()), envelope(number, at_ms), at_ms, connected)


class BookMachine(RuleBasedStateMachine):
    """Adverts of any age and time in any order, against a plain dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.book = AdvertBook(PARAMS, b"salt")
        self.model: dict[NodeId, Advert] = {}
        self.now_ms = NOW_MS

    @rule(number=st.integers(0, 40), age_ms=st.integers(-150, 3_100), models=st.sets(st.sampled_from([LARGE, SMALL])))
    def add(self, number: int, age_ms: int, models: set[ModelManifest]) -> None:
        said = advert(number, self.now_ms - age_ms, *(offer(manifest) for manifest in models))
        taken = self.book.add(said, envelope(number, said.issued_ms), self.now_ms)
        before = self.model.get(node(number))
        if age_ms < -PARAMS.clock_skew_ms_max:
            assert taken is Taken.FUTURE
        elif age_ms >= PARAMS.advert_lifetime_ms:
            assert taken is Taken.EXPIRED
        elif before is not None:
            assert taken is (Taken.REPLACED if said.issued_ms > before.issued_ms else Taken.NOT_NEWER)
        else:
            assert taken is Taken.NEW or len(self.model) == PARAMS.adverts_max
        if taken in (Taken.NEW, Taken.REPLACED):
            self.model[node(number)] = said
            self.model = {who: kept for who, kept in self.model.items() if who in self.book}

    @rule(number=st.integers(0, 40))
    def forget(self, number: int) -> None:
        self.book.forget(node(number))
        self.model.pop(node(number), None)

    @rule(elapsed_ms=st.integers(0, 2_000))
    def pass_time(self, elapsed_ms: int) -> None:
        self.now_ms += elapsed_ms
        gone = set(self.book.expire(self.now_ms))
        late = {who for who, said in self.model.items() if said.issued_ms + PARAMS.advert_lifetime_ms <= self.now_ms}
        assert gone == late
        for who in gone:
            del self.model[who]

    @invariant()
    def knows_the_newest_of_each(self) -> None:
        assert len(self.book) == len(self.model) <= PARAMS.adverts_max
        for who, said in self.model.items():
            assert self.book.get(who) == said

    @invariant()
    def finds_the_miners_of_a_model(self) -> None:
        for manifest in (LARGE, SMALL):
            miners = {who for who, said in self.model.items() if offer(manifest) in said.models}
            assert set(self.book.miners_of(manifest.digest())) == miners
            assert self.book.pool(manifest.digest()) == len(miners)

    @invariant()
    def pages_in_the_order_of_node_ids(self) -> None:
        pages, after = [], b""
        while page := self.book.page(after, 5):
            pages += page
            after = page[-1].payload[:20]
        assert pages == [envelope(int.from_bytes(who, "big"), self.model[who].issued_ms) for who in sorted(self.model)]

    @invariant()
    def knows_its_next_deadline(self) -> None:
        ends = [said.issued_ms + PARAMS.advert_lifetime_ms for said in self.model.values()]
        assert self.book.next_deadline() == min(ends, default=None)


BookMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None, database=None)


@pytest.mark.spec("ADVERT-NEWEST.1")
class TestBookMachine(BookMachine.TestCase):
    """Runs the machine."""


@pytest.mark.spec("ADVERT-FLOOD.1")
def test_a_flood_of_fresh_keys_moves_no_established_node() -> None:
    book = AdvertBook(PARAMS, b"salt")
    for at_ms in (NOW_MS, NOW_MS + 1_000):
        for number in range(10):
            add(book, number, at_ms)
    for number in range(1_000, 3_000):
        add(book, number, NOW_MS + 1_500)
    assert len(book) == PARAMS.adverts_max
    assert all(node(number) in book for number in range(10))


@pytest.mark.spec("ADVERT-FLOOD.1")
def test_a_full_book_of_established_nodes_takes_nobody_until_one_expires() -> None:
    book = AdvertBook(PARAMS, b"salt")
    for at_ms in (NOW_MS, NOW_MS + 1_000):
        for number in range(16):
            add(book, number, at_ms + number)
    assert add(book, 100, NOW_MS + 2_000) is Taken.FULL
    book.expire(NOW_MS + 4_000)
    assert add(book, 100, NOW_MS + 4_000) is Taken.NEW


@pytest.mark.spec("ADVERT-FLOOD.1")
def test_a_connected_peer_is_never_pushed_out_and_always_let_in() -> None:
    book = AdvertBook(PARAMS, b"salt")
    connected = frozenset(node(number) for number in range(3))
    for number in range(2):
        add(book, number, connected=connected)
    for number in range(1_000, 2_000):
        add(book, number, connected=connected)
    assert add(book, 2, connected=connected) is Taken.NEW
    assert all(peer in book for peer in connected)


@pytest.mark.spec("ADVERT-FLOOD.1")
def test_who_stays_on_trial_is_an_even_sample_of_all_keys_seen() -> None:
    kept_early = 0
    for salt in range(60):
        book = AdvertBook(PARAMS, bytes([salt]))
        for number in range(160):
            add(book, number)
        kept_early += sum(node(number) in book for number in range(80))
    # Half of the keys came early, so half of the 16 places should be theirs, whichever came last.
    assert 0.4 < kept_early / (60 * PARAMS.adverts_max) < 0.6


@pytest.mark.spec("ADVERT-FLOOD.1")
def test_who_stays_on_trial_does_not_hang_on_who_came_first() -> None:
    forwards, backwards = AdvertBook(PARAMS, b"salt"), AdvertBook(PARAMS, b"salt")
    for number in range(200):
        add(forwards, number)
        add(backwards, 199 - number)
    assert {number for number in range(200) if node(number) in forwards} == {
        number for number in range(200) if node(number) in backwards
    }


@pytest.mark.spec("ADVERT-FLOOD.1")
def test_coming_back_soon_does_not_make_a_node_established() -> None:
    book = AdvertBook(PARAMS, b"salt")
    for at_ms in range(NOW_MS, NOW_MS + 900, 100):
        for number in range(16):
            add(book, number, at_ms)
    for number in range(1_000, 2_000):
        add(book, number, NOW_MS + 950)
    assert not all(node(number) in book for number in range(16))


@pytest.mark.spec("ADVERT-FLOOD.1")
def test_a_node_that_comes_and_goes_leaves_nothing_behind() -> None:
    book = AdvertBook(PARAMS, b"salt")
    for turn in range(1_000):
        add(book, 1, NOW_MS + turn)
        book.forget(node(1))
    assert len(book._trial) <= 64 + 4 * PARAMS.adverts_max


def test_models_are_summed_over_their_miners() -> None:
    book = AdvertBook(PARAMS, b"salt")
    first = advert(1, NOW_MS, offer(SMALL, slots=1), offer(LARGE, slots=2, price_wei=9, context=64))
    second = advert(2, NOW_MS, offer(LARGE, slots=3, price_wei=7, context=128))
    router = advert(3, NOW_MS, offer(SMALL), role="router")
    for said in (first, second, router):
        book.add(said, envelope(1), NOW_MS)
    assert book.models() == (ModelOffer(LARGE, 5, 128, 7), offer(SMALL, slots=1))
    assert book.models(1) == (ModelOffer(LARGE, 5, 128, 7),)
    assert book.miners_of(SMALL.digest()) == {node(1): offer(SMALL, slots=1)}


def test_slots_add_up_within_their_type() -> None:
    book = AdvertBook(PARAMS, b"salt")
    for number in range(3):
        book.add(advert(number, NOW_MS, offer(slots=2**32 - 1)), envelope(number), NOW_MS)
    assert book.models()[0].slots == 2**32 - 1


def test_an_unknown_node_is_nowhere() -> None:
    book = AdvertBook(PARAMS, b"salt")
    book.forget(node(1))
    assert book.get(node(1)) is None
    assert book.miners_of(bytes(32)) == {}
    assert book.page(b"", 10) == ()
    assert book.next_deadline() is None
