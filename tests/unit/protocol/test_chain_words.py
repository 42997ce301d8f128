"""What the ledger takes in of the chain: words of f+1 members that are the same, one after the other."""

from dataclasses import replace

import msgspec
import pytest

from protocol.committee.cut import content_bytes_max
from protocol.core.codec import pack
from protocol.core.errors import ParameterError
from protocol.core.genesis import ALLOCATION_MAX, SETTLING_BLOCK_BYTES_MIN
from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import keccak
from protocol.ledger import Ledger
from protocol.ledger.state import unpack_state
from protocol.ledger.words import DRAWS_KEPT, WORDS_KEPT, follows
from protocol.messages.chain import NO_EVENTS, WORD_BYTES_MAX, WORD_EVENTS_MAX, Drawn, run_digest
from protocol.messages.results import Content
from protocol.roles.oracle.outbox import OVERHEAD_BYTES
from protocol.settlement.words import FRAME_BYTES, next_word
from tests.unit.protocol.chain_at_hand import (
    CHAIN_GENESIS,
    CHAIN_PARAMS,
    STRIDE,
    Anchored,
    accepted,
    block,
    block_hash,
    changed,
    deposited,
    drawn,
)
from tests.unit.protocol.ledger_at_hand import (
    CLIENT,
    DOMAIN,
    HAS_WEI,
    MINERS,
    ORACLES,
    Books,
    keyed,  # noqa: F401
    session_of,
    signed_session,
    total_wei,
)

MEMBERS = tuple(key.node_id for key in ORACLES[:4])


# Who must say what


@pytest.mark.spec("CHAIN-APPLY.1")
def test_a_word_counts_when_f_plus_one_members_have_said_it() -> None:
    books = Anchored()
    word = books.word(deposited(1, 500))
    books.say(word, by=[3])
    assert (books.chain.number, books.balance(CLIENT)) == (0, 0)
    books.say(word, by=[3])
    assert books.chain.number == 0, "said twice by one it is one's word"
    books.say(word, by=[1])
    assert (books.chain.number, books.chain.hash, books.chain.events) == (STRIDE, block_hash(STRIDE), 1)
    assert books.chain.digest == run_digest(NO_EVENTS, deposited(1, 500)) == word.digest
    assert books.balance(CLIENT) == 500
    books.say(word, by=[0, 1, 2, 3])
    assert books.balance(CLIENT) == 500, "what was taken in is not taken in again"


@pytest.mark.spec("CHAIN-APPLY.1")
def test_words_that_differ_in_anything_are_not_added_up() -> None:
    books = Anchored()
    books.say(books.word(deposited(1, 500)), by=[0])
    others = [books.word(deposited(1, 501)), books.word(deposited(1, 500), number=2 * STRIDE)]
    others.append(books.word(deposited(1, 500), hash=block_hash(99)))
    for word in others:
        books.say(word, by=[1])
    assert (books.chain.number, books.chain.events) == (0, 0)
    books.say(others[1], by=[2])
    assert books.chain.number == 2 * STRIDE


@pytest.mark.spec("CHAIN-APPLY.1")
def test_only_members_of_the_present_committee_have_a_word() -> None:
    books = Anchored()
    books.take(drawn(3, (3, 4, 5, 6)))
    books.turn(2)
    assert books.state.homes[3] == tuple(key.node_id for key in ORACLES[3:7])
    word = books.word(deposited(1))
    books.block({place: Content(words=(word,)) for place in (0, 1, 2, 3)}, home_epoch=2)
    assert books.chain.events == 1, "batches of an earlier home still come in, and one of their oracles is a member"
    assert [said.oracle for said in books.chain.said] == [ORACLES[3].node_id]
    books.say(word, by=[5])
    assert books.chain.events == 2


@pytest.mark.spec("CHAIN-KEPT.1")
def test_a_members_last_words_are_kept_until_the_ledger_moves() -> None:
    books = Anchored()
    words = [books.word(number=number * STRIDE) for number in range(1, WORDS_KEPT + 2)]
    books.say(*words, by=[0])
    (said,) = books.chain.said
    assert said.words == tuple(keccak(pack(word)) for word in words[1:])
    assert len(said.words) == 4
    books.say(words[1], by=[0])
    assert books.chain.words_of(ORACLES[0].node_id)[-1] == keccak(pack(words[1])), "the latest is at the end"
    books.say(words[0], by=[1])
    assert books.chain.number == 0, "the first one was dropped"
    books.say(words[2], by=[1])
    assert (books.chain.number, books.chain.said) == (3 * STRIDE, ())


@pytest.mark.spec("CHAIN-KEPT.1")
def test_who_leaves_the_committee_takes_its_words_along() -> None:
    books = Anchored()
    books.take(drawn(3, (1, 2, 3, 4)))
    books.turn()
    books.say(books.word(), by=[0])
    books.say(books.word(number=20), by=[1])
    assert [said.oracle for said in books.chain.said] == sorted(MEMBERS[:2])
    books.turn()
    assert [said.oracle for said in books.chain.said] == [MEMBERS[1]]


# What follows


@pytest.mark.spec("CHAIN-FOLLOWS.1")
def test_a_word_that_does_not_continue_the_ledger_is_void() -> None:
    books = Anchored()
    books.take(deposited(1), deposited(2))
    chain, good = books.chain, books.word(deposited(3))
    assert follows(chain, good, STRIDE)
    void = [
        books.word(deposited(3), first=1),
        books.word(deposited(3), first=3),
        books.word(deposited(3), digest=chain.digest),
        books.word(deposited(3), number=chain.number, hash=block_hash(99)),
        books.word(deposited(3), number=chain.number + STRIDE - 1),
        books.word(deposited(3), number=0),
        books.word(deposited(4)),
        books.word(deposited(2)),
        books.word(deposited(3), deposited(5)),
        books.word(number=chain.number, hash=chain.hash),
        books.word(deposited(3, ALLOCATION_MAX - 1_999)),
    ]
    for word in void:
        assert not follows(chain, word, STRIDE), word
        books.say(word, by=[0, 1, 2, 3])
    assert books.chain == chain
    most = books.word(deposited(3, ALLOCATION_MAX - 2_000))
    assert follows(chain, most, STRIDE)
    books.say(most)
    assert books.chain.deposited == ALLOCATION_MAX == total_wei(books.state)


@pytest.mark.spec("CHAIN-FOLLOWS.1")
def test_a_word_that_is_too_large_is_void() -> None:
    books = Anchored()
    draws = [Drawn(2, tuple(bytes([place, number]) * 10 for place in range(31))) for number in range(3)]
    word = books.word(*draws[:2])
    assert len(pack(word)) <= WORD_BYTES_MAX
    digest = run_digest(word.digest, draws[2])
    assert not follows(books.chain, msgspec.structs.replace(word, events=tuple(draws), digest=digest), STRIDE)


@pytest.mark.spec("CHAIN-FOLLOWS.1", "CHAIN-MADE.1")
def test_more_events_than_a_word_takes_leave_the_anchor_where_it_is() -> None:
    books = Anchored()
    events = [deposited(number) for number in range(1, WORD_EVENTS_MAX + 4)]
    word = next_word(books.chain, events, block(STRIDE))
    assert (len(word.events), word.number, word.hash) == (WORD_EVENTS_MAX, 0, ZERO_DIGEST)
    books.say(word)
    chain = books.chain
    assert (chain.number, chain.events, chain.beyond, chain.deposits) == (0, WORD_EVENTS_MAX, WORD_EVENTS_MAX, 16)
    books.say(next_word(chain, events[WORD_EVENTS_MAX:], block(STRIDE)))
    assert (books.chain.number, books.chain.events, books.chain.beyond) == (STRIDE, len(events), 0)
    exactly = [deposited(20 + number) for number in range(WORD_EVENTS_MAX)]
    assert next_word(books.chain, exactly, block(8)).number == 8, "as many as fit are all there are"


@pytest.mark.spec("CHAIN-MADE.1")
def test_a_word_is_no_larger_than_fits_into_any_batch() -> None:
    books = Anchored()
    committees = [Drawn(9, tuple(bytes([place, number]) * 10 for place in range(31))) for number in range(4)]
    word = next_word(books.chain, committees, block(STRIDE))
    assert len(word.events) == 2
    assert word.number == 0
    last = msgspec.structs.replace(books.chain, events=2**63, number=2**63, deposits=2**63)
    largest = next_word(last, (), block(2**63 + 8))
    assert len(pack(largest)) <= FRAME_BYTES
    assert len(pack(word)) <= WORD_BYTES_MAX


# What it does


@pytest.mark.spec("CHAIN-DEPOSIT.1", "LEDGER-CONSERVED.1")
def test_deposits_are_all_the_money_there_is() -> None:
    books = Anchored()
    assert (books.all_wei(), books.state.roots.deposits) == (0, 0)
    books.take(deposited(1, 300), deposited(2, 0), deposited(3, 50, MINERS[0].node_id))
    assert (books.balance(CLIENT), books.balance(MINERS[0])) == (300, 50)
    books.take(deposited(4, 7))
    assert books.all_wei() == books.chain.deposited == 357
    header = books.header()
    assert (header.anchor_number, header.anchor_hash, header.deposits) == (8, block_hash(8), 4)


@pytest.mark.spec("LEDGER-ORDER.1", "CHAIN-DEPOSIT.1")
def test_what_is_deposited_may_be_reserved_in_the_same_block() -> None:
    books = Anchored()
    opening = session_of(cap_wei=900)
    word = books.word(deposited(1, 1_000))
    books.block({0: Content(sessions=(signed_session(opening),), words=(word,)), 1: Content(words=(word,))})
    account = books.account(CLIENT)
    assert (account.balance_wei, account.reserved_wei) == (100, 900)


@pytest.mark.spec("CHAIN-ACCEPTED.1")
def test_the_last_checkpoint_is_known() -> None:
    books = Anchored()
    assert books.chain.accepted is None
    books.take(accepted(1, 9), accepted(2, 1), accepted(1, 10))
    assert books.chain.accepted == accepted(2, 1)
    books.take(accepted(2, 1), accepted(2, 3))
    assert books.chain.accepted == accepted(2, 3)


def test_without_contracts_nobody_hears_of_a_chain() -> None:
    books = Books()
    word = Anchored().word(deposited(1))
    books.block({place: Content(words=(word,)) for place in range(4)})
    assert books.state.chain is None
    assert books.all_wei() == 2 * HAS_WEI
    assert (books.header().anchor_number, books.header().deposits) == (0, 0)


@pytest.mark.spec("GENESIS-CONTRACTS.1")
def test_the_smallest_share_of_a_block_holds_any_word() -> None:
    smallest = replace(CHAIN_PARAMS, block_bytes_max=SETTLING_BLOCK_BYTES_MIN)
    assert content_bytes_max(replace(CHAIN_GENESIS, params=smallest).params) >= WORD_BYTES_MAX + OVERHEAD_BYTES
    with pytest.raises(ParameterError, match="block_bytes_max"):
        replace(CHAIN_GENESIS, params=replace(smallest, block_bytes_max=SETTLING_BLOCK_BYTES_MIN - 1))


# Its place in the ledger


def busy() -> Anchored:
    """A ledger that knows of everything that comes from the chain."""
    books = Anchored()
    books.take(deposited(1), changed(MINERS[0].node_id), drawn(3), accepted(1, 4))
    events = [deposited(number) for number in range(2, 2 + WORD_EVENTS_MAX + 1)]
    books.say(next_word(books.chain, events, block(8)))
    books.say(books.word(deposited(18)), by=[2])
    return books


@pytest.mark.spec("LEDGER-ROOT.1")
def test_all_of_it_is_under_the_ledger_root() -> None:
    state = busy().state
    chain = state.chain
    assert chain is not None
    others = {
        "number": 8,
        "hash": block_hash(1),
        "events": 3,
        "beyond": 3,
        "digest": block_hash(2),
        "deposits": 3,
        "deposited": 3,
        "accepted": accepted(9, 9),
        "draws": (drawn(4),),
        "repeats": 7,
        "said": (),
    }
    assert set(others) == set(type(chain).__struct_fields__)
    changes = [replace(state, chain=msgspec.structs.replace(chain, **{name: other})) for name, other in others.items()]
    roots = {each.roots.ledger_root for each in (state, replace(state, chain=None), *changes)}
    assert len(roots) == len(others) + 2


@pytest.mark.spec("STATE-SNAPSHOT.1")
def test_all_of_it_is_in_a_snapshot_and_goes_on_from_there() -> None:
    books = busy()
    restored = Ledger(DOMAIN, books.params, books.genesis).restore(books.state.pack())
    assert restored == unpack_state(books.state.pack())
    assert restored.chain == books.chain
    assert (restored.roots, restored.sections) == (books.state.roots, books.state.sections)
    again = Anchored()
    again.state = restored
    for each in (books, again):
        each.say(each.word(deposited(18)), by=[3])
        each.turn(2)
    assert again.state.roots == books.state.roots
    assert again.chain.events == 21


@pytest.mark.spec("CHAIN-COMMITTEE.1")
def test_draws_are_kept_for_later_epochs_alone() -> None:
    books = Anchored()
    books.take(drawn(1), drawn(2), drawn(8, (0, 1, 2, 3)), drawn(3), drawn(3, (2, 3, 4, 5)))
    assert [draw.epoch for draw in books.chain.draws] == [3, 8]
    assert books.chain.drawn(3) == tuple(key.node_id for key in ORACLES[2:6]), "the later of two"
    books.take(*(drawn(epoch) for epoch in (7, 6, 5, 4)))
    assert [draw.epoch for draw in books.chain.draws] == [3, 4, 5, 6][:DRAWS_KEPT]
    books.take(drawn(3, (0, 1, 2)), drawn(3, (0, 1, 2, 2)), drawn(3, ()), drawn(3, (0, 1, 2, 3, 4)))
    assert books.chain.drawn(3) == tuple(key.node_id for key in ORACLES[2:6]), "these are no committees"
