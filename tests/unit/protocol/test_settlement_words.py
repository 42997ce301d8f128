"""What oracles say of the chain, each from what it has seen: they agree, whoever lies and however late they are."""

import random
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.committee.cut import content_bytes_max
from protocol.core.codec import pack
from protocol.core.signing import keccak
from protocol.ledger.chain import ChainState
from protocol.messages.chain import NO_EVENTS, WORD_EVENTS_MAX, ChainEvent, ChainWord, Deposited, run_digest
from protocol.messages.results import Content
from protocol.roles.oracle.outbox import OVERHEAD_BYTES
from protocol.settlement.sightings import BLOCKS_MAX, EVENTS_MAX, Sightings
from protocol.settlement.speaking import Speaker
from protocol.settlement.words import AnchorBlock
from tests.unit.protocol.chain_at_hand import (
    CHAIN_PARAMS,
    STRIDE,
    Anchored,
    TrueChain,
    accepted,
    block,
    block_hash,
    changed,
    deposited,
    drawn,
)
from tests.unit.protocol.ledger_at_hand import HASHES, ORACLES, keyed  # noqa: F401

START = ChainState()
AGAIN_MS = 8_000
ME, OTHER = ORACLES[0].node_id, ORACLES[1].node_id


def seen_of(chain: TrueChain, through: int, state: ChainState = START) -> Sightings:
    """What is seen by who has read so far."""
    sightings = Sightings(state, STRIDE)
    assert sightings.see(sightings.through, through, *chain.page(sightings.through, through))
    return sightings


def moved(before: ChainState, word: ChainWord) -> ChainState:
    """The ledger takes a word in."""
    books = Anchored()
    books.state = replace(books.state, chain=before)
    books.say(word)
    assert books.chain != before
    return books.chain


# What is seen


@pytest.mark.spec("CHAIN-SEEN.1")
def test_pages_go_on_from_one_another() -> None:
    chain = TrueChain()
    for number in range(1, 10):
        chain.mine(deposited(number))
    sightings = seen_of(chain, 5)
    assert not sightings.see(4, 9, *chain.page(4, 9)), "again"
    assert not sightings.see(6, 9, *chain.page(6, 9)), "a gap"
    assert not sightings.see(5, 4, (), ())
    assert not sightings.see(5, 9, ((5, deposited(5)),), ()), "an event of a block that was read"
    assert not sightings.see(5, 9, ((10, deposited(5)),), ())
    assert not sightings.see(5, 9, ((8, deposited(8)), (7, deposited(7))), ())
    assert sightings.through == 5
    assert sightings.see(5, 9, *chain.page(5, 9))
    assert [word.number for word in sightings.words()] == [4, 8]
    assert sightings.see(9, 9, (), ())


@pytest.mark.spec("CHAIN-SEEN.1")
def test_only_stride_blocks_that_were_read_are_named() -> None:
    sightings = Sightings(START, STRIDE)
    assert sightings.see(0, 9, (), (block(12), block(8), block(6), block(4), block(0)))
    assert [word.number for word in sightings.words()] == [4, 8]
    assert sightings.see(9, 99, (), tuple(block(number) for number in range(4, 100, 4)))
    assert [word.number for word in sightings.words()] == [84, 88, 92, 96][-BLOCKS_MAX:]


@pytest.mark.spec("CHAIN-SEEN.1")
def test_what_is_seen_is_bounded() -> None:
    sightings = Sightings(START, STRIDE)
    events = tuple((1, deposited(number)) for number in range(EVENTS_MAX))
    assert sightings.see(0, 1, events[:-1], ())
    assert not sightings.full
    assert sightings.see(1, 2, ((2, deposited(1)),), ())
    assert sightings.full
    assert not sightings.see(2, 3, (), ())


@pytest.mark.spec("CHAIN-SEEN.1")
def test_what_the_ledger_took_in_is_dropped_and_the_rest_goes_on() -> None:
    chain = TrueChain()
    for number in range(1, 13):
        chain.mine(deposited(number))
    sightings = seen_of(chain, 12)
    first = sightings.words()[0]
    assert (first.number, len(first.events)) == (4, 4)
    state = moved(START, first)
    assert sightings.anchored(state)
    (second, third) = sightings.words()
    assert (second.first, second.number, len(second.events), third.number, len(third.events)) == (4, 8, 4, 12, 8)
    assert (sightings.through, sightings.cursor) == (12, block(4))
    assert sightings.anchored(moved(state, third))
    assert sightings.words() == ()


@pytest.mark.spec("CHAIN-SEEN.1", "CHAIN-MADE.1")
def test_a_crowd_of_events_is_said_word_by_word() -> None:
    chain, state, said = TrueChain(), START, []
    chain.mine(*(deposited(number) for number in range(1, 41)))
    chain.mine(deposited(41))
    for _ in range(6):
        chain.mine()
    sightings = seen_of(chain, 8)
    while words := sightings.words():
        said.append((len(words), len(words[0].events), words[0].number))
        state = moved(state, words[0])
        assert sightings.anchored(state)
    assert said == [(1, 16, 0), (1, 16, 0), (2, 9, 4), (1, 0, 8)]
    assert (state.events, state.number) == (41, 8)


@pytest.mark.spec("CHAIN-SEEN.1", "CHAIN-MADE.1")
def test_a_crowd_without_a_stride_block_does_not_wait_for_one() -> None:
    chain, state = TrueChain(), START
    chain.mine(*(deposited(number) for number in range(1, EVENTS_MAX + 1)))
    sightings = seen_of(chain, 1)
    assert sightings.full, "so the block that ends the crowd cannot be read"
    (word,) = sightings.words()
    assert (len(word.events), word.number) == (WORD_EVENTS_MAX, 0)
    state = moved(START, word)
    assert sightings.anchored(state)
    assert not sightings.full
    chain.mine(deposited(EVENTS_MAX + 1))
    assert sightings.see(1, 2, *chain.page(1, 2))
    again = Sightings(state, STRIDE)
    assert again.see(0, 2, *chain.page(0, 2)), "a node that starts reads from the anchor, and skips what is beyond it"
    assert again.words() == sightings.words() != ()
    while words := again.words():
        state = moved(state, words[0])
        assert again.anchored(state)
        assert sightings.anchored(state)
    assert (state.number, state.events, state.beyond) == (0, EVENTS_MAX, EVENTS_MAX)
    assert (again.words(), sightings.words()) == ((), ()), "the last ones fit, so they wait for their block"
    for _ in range(2):
        chain.mine()
    for each in (again, sightings):
        assert each.see(2, 4, *chain.page(2, 4))
    (last,) = again.words()
    assert (last, *sightings.words()) == (sightings.words()[0], last)
    assert (last.first, len(last.events), last.number) == (EVENTS_MAX, 1, 4)
    assert again.anchored(moved(state, last))


def test_who_is_behind_says_nothing_until_it_has_read_further() -> None:
    chain = TrueChain()
    chain.mine(*(deposited(number) for number in range(1, 20)))
    for _ in range(7):
        chain.mine()
    ahead, late = seen_of(chain, 8), seen_of(TrueChain(), 0)
    word = ahead.words()[0]
    state = moved(START, word)
    assert (state.number, state.beyond) == (0, 16)
    assert late.anchored(state)
    assert late.words() == ()
    assert late.see(0, 8, *chain.page(0, 8))
    assert ahead.anchored(state)
    assert late.words() == ahead.words()
    last = moved(state, late.words()[-1])
    behind = Sightings(START, STRIDE)
    assert behind.anchored(last)
    assert (behind.through, behind.cursor) == (8, block(8)), "it reads on from there"


def _other_event(chain: TrueChain) -> None:
    chain.events[1] = (chain.events[1][0], deposited(2, 999))


def _one_more(chain: TrueChain) -> None:
    chain.events.insert(3, (4, changed(ME)))


def _one_more_at_the_end(chain: TrueChain) -> None:
    chain.events.insert(4, (4, changed(ME)))


def _one_less(chain: TrueChain) -> None:
    del chain.events[3]


@pytest.mark.spec("CHAIN-SEEN.1")
@pytest.mark.parametrize("lie", [_other_event, _one_more, _one_more_at_the_end, _one_less])
def test_who_saw_something_else_than_the_others_gives_it_up(lie: object) -> None:
    true, lied = TrueChain(), TrueChain()
    for chain in (true, lied):
        for number in range(1, 9):
            chain.mine(deposited(number))
    lie(lied)  # type: ignore[operator]
    deceived = seen_of(lied, 8)
    state = moved(START, seen_of(true, 8).words()[0])
    assert not deceived.anchored(state)
    assert (deceived.words(), deceived.through) == ((), 4)
    assert deceived.see(4, 8, *true.page(4, 8))
    assert deceived.words()[0].digest == seen_of(true, 8).words()[1].digest


@pytest.mark.spec("CHAIN-SEEN.1")
def test_who_saw_another_block_gives_it_up() -> None:
    for through in (4, 8):
        deceived = Sightings(START, STRIDE)
        assert deceived.see(0, through, (), (AnchorBlock(4, block_hash(99)), block(8)))
        assert not deceived.anchored(moved(START, seen_of(TrueChain(), 8).words()[0]))
        assert deceived.words() == ()


@pytest.mark.spec("CHAIN-SEEN.1")
def test_a_ledger_that_runs_ahead_of_what_was_seen_is_no_lie() -> None:
    chain = TrueChain()
    for number in range(1, 5):
        chain.mine(deposited(number))
    chain.mine()
    chain.mine(*(deposited(number) for number in range(5, 25)))
    late, ahead = seen_of(chain, 5), seen_of(chain, 6)
    state = moved(START, ahead.words()[-1])
    assert ahead.anchored(state)
    state = moved(state, ahead.words()[0])
    assert (state.number, state.beyond) == (4, 16)
    assert late.anchored(state), "both steps at once"
    assert late.words() == ()
    assert ahead.anchored(state)
    for each in (late, ahead):
        chain_end = max(each.through, 6)
        assert each.see(each.through, chain_end, *chain.page(each.through, chain_end))
        assert each.see(6, 8, (), (block(8),))
    assert late.words() == ahead.words()
    assert [len(word.events) for word in late.words()] == [4]


# What is said


def word_to(number: int, state: ChainState = START) -> ChainWord:
    """The word of a chain without events."""
    return ChainWord(state.events, (), number, block_hash(number), state.digest)


@pytest.mark.spec("CHAIN-SAY.1")
def test_each_new_word_is_said_once_and_again_when_it_is_not_in_the_ledger() -> None:
    speaker = Speaker(ME, AGAIN_MS)
    four, eight = word_to(4), word_to(8)
    assert speaker.due(START, (four,), 1_000) == [four]
    assert speaker.due(START, (four,), 1_001) == []
    assert speaker.due(START, (four, eight), 1_002) == [eight], "the one that leads furthest"
    assert speaker.due(START, (four, eight), 1_001 + AGAIN_MS) == []
    assert speaker.due(START, (four, eight), 1_002 + AGAIN_MS) == [eight]
    books = Anchored()
    books.say(eight, by=[0])
    assert speaker.due(books.chain, (four, eight), 2 * AGAIN_MS + 5_000) == [], "it is in the ledger"
    assert speaker.due(START, (), 2 * AGAIN_MS + 6_000) == []


@pytest.mark.spec("CHAIN-SAY.1")
def test_what_others_have_said_is_borne_out_if_it_is_true_here() -> None:
    speaker, books = Speaker(ME, AGAIN_MS), Anchored()
    four, eight, twelve = map(word_to, (4, 8, 12))
    books.say(word_to(4, msgspec.structs.replace(START, digest=START.digest)), word_to(20), by=[1])
    assert speaker.due(books.chain, (four, eight, twelve), 1_000) == [four, twelve]
    assert speaker.due(books.chain, (four, eight, twelve), 1_001) == []


@pytest.mark.spec("CHAIN-SAY.1")
def test_where_the_ledger_has_moved_everything_is_said_anew() -> None:
    speaker = Speaker(ME, AGAIN_MS)
    eight = word_to(8)
    assert speaker.due(START, (eight,), 1_000) == [eight]
    state = moved(START, word_to(4))
    assert speaker.due(state, (eight,), 1_001) == [eight], "what was said on another position may have been void there"
    assert speaker.due(state, (eight,), 1_002) == []
    speaker.forget()
    assert speaker.due(state, (eight,), 1_003) == [eight]


# Whoever sees what, and whoever lies


@dataclass
class Member:
    """An oracle that reads the chain at its own pace."""

    place: int
    sightings: Sightings = field(default_factory=lambda: Sightings(START, STRIDE))

    def __post_init__(self) -> None:
        self.speaker = Speaker(ORACLES[self.place].node_id, AGAIN_MS)

    def reads(self, chain: TrueChain, to: int) -> None:
        """It has read as far as this block."""
        after = self.sightings.through
        if to >= after:
            self.sightings.see(after, to, *chain.page(after, to))

    def says(self, state: ChainState, now_ms: int) -> tuple[ChainWord, ...]:
        """What it says now."""
        assert self.sightings.anchored(state), "no honest oracle sees something else than the ledger takes in"
        room = content_bytes_max(CHAIN_PARAMS) - OVERHEAD_BYTES
        said = []
        for word in self.speaker.due(state, self.sightings.words(), now_ms):
            room -= len(pack(word))
            said += [word] if room >= 0 else []
        return tuple(said)


def an_event(draw: random.Random, deposits: int) -> ChainEvent:
    """Something that a contract says."""
    kind = draw.randrange(6)
    if kind == 0:
        return changed(draw.choice(ORACLES).node_id, draw.randrange(8), draw.randrange(99), jailed=draw.random() < 0.3)
    if kind == 1:
        return drawn(draw.randrange(1, 6), draw.sample(range(7), 4))
    if kind == 2:
        return accepted(draw.randrange(1, 4), draw.randrange(1, 9))
    return deposited(deposits + 1, draw.randrange(1_000), draw.choice(ORACLES).node_id)


def a_lie(draw: random.Random, state: ChainState, words: tuple[ChainWord, ...]) -> ChainWord:
    """A word that may be well formed, and is not true; or one that is, whoever said it."""
    number = state.number + STRIDE * draw.randrange(4)
    events = (deposited(state.deposits + 1, 10**6, ORACLES[3].node_id),) if draw.random() < 0.7 else ()
    digest: bytes = state.digest
    for event in events:
        digest = run_digest(digest, event)
    lie = ChainWord(state.events, events, number, draw.choice((block_hash(number), block_hash(-1))), digest)
    return draw.choice([lie, *words])


@pytest.mark.spec("CHAIN-APPLY.1", "CHAIN-SAY.1", "LEDGER-CONSERVED.1")
@given(st.integers(0, 2**32), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_the_ledger_follows_the_true_chain_whatever_one_of_four_says(seed: int, pace: int) -> None:
    draw, books, chain = random.Random(seed), Anchored(), TrueChain()
    honest, said, now_ms = [Member(place) for place in range(3)], {}, 0
    for _ in range(40):
        for _ in range(draw.randrange(pace)):
            count = draw.choice((0, 0, 0, 1, 2, 25))
            events: list[ChainEvent] = []
            for _ in range(count):
                made = sum(isinstance(each, Deposited) for each in (*(e for _, e in chain.events), *events))
                events.append(an_event(draw, made))
            chain.mine(*events)
        for member in honest:
            if draw.random() < 0.6:
                member.reads(chain, draw.randint(member.sightings.through, max(chain.height, member.sightings.through)))
        now_ms += draw.choice((10, AGAIN_MS))
        said = {member.place: Content(words=member.says(books.chain, now_ms)) for member in honest}
        true = tuple(word for content in said.values() for word in content.words)
        # Batches may be late: then their words are of a position that is over.
        brought = {place: content for place, content in said.items() if draw.random() < 0.8}
        books.block({**brought, 3: Content(words=(a_lie(draw, books.chain, true),))})
        _is_true(books, chain)
    for _ in range(99):
        for member in honest:
            member.reads(chain, chain.height)
        now_ms += AGAIN_MS
        books.block({member.place: Content(words=member.says(books.chain, now_ms)) for member in honest})
    _is_true(books, chain)
    reached = chain.height - chain.height % STRIDE
    assert books.chain.number == reached, "when all have read all of it, the ledger has it"
    assert books.chain.events >= sum(number <= reached for number, _ in chain.events)
    assert [member.says(books.chain, now_ms) for member in honest] == [()] * 3, "there is nothing more to say"
    assert all(member.sightings.words() == () for member in honest)


def _is_true(books: Anchored, chain: TrueChain) -> None:
    state = books.chain
    taken = chain.events[: state.events]
    digest: bytes = NO_EVENTS
    for _, event in taken:
        digest = run_digest(digest, event)
    assert state.digest == digest
    assert state.events - state.beyond == sum(number <= state.number for number, _ in chain.events)
    assert state.number == 0 or state.hash == block_hash(state.number)
    brought = [event.amount for _, event in taken if isinstance(event, Deposited)]
    assert books.all_wei() == state.deposited == sum(brought)
    assert state.deposits == len(brought)
    assert len(state.said) <= 4
    assert len({keccak(pack(books.state.prove(8, event.node))) for _, event in taken if hasattr(event, "node")}) <= 7
