"""The ledger's state: roots, proofs, snapshots, and what a turn keeps."""

from dataclasses import replace

import msgspec
import pytest

from protocol.committee.cut import open_cut
from protocol.committee.payload import InvalidBody
from protocol.core.codec import pack
from protocol.core.errors import DecodeError
from protocol.core.params import Params
from protocol.core.signing import keccak, scheme
from protocol.core.sparse import SparseTree
from protocol.ledger import Ledger, LedgerState, Section
from protocol.ledger.accounts import Account
from protocol.ledger.miners import Miner
from protocol.ledger.proofs import read_record, verify_ledger_proof
from protocol.ledger.records import TREES, Record
from protocol.ledger.sessions import Session
from protocol.ledger.state import params_digest
from protocol.messages.results import Content
from tests.unit.protocol.ledger_at_hand import (
    CLIENT,
    DOMAIN,
    GENESIS,
    HAS_WEI,
    HASHES,
    MINER,
    MINERS,
    ORACLES,
    PARAMS,
    STRANGER,
    Books,
    Part,
    batch_of,
    close_of,
    enlist_of,
    entry_of,
    keyed,  # noqa: F401
    name_of,
    ok,
    opening_of,
    order_of,
    report_of,
    session_of,
    signed_session,
    withdraw_of,
)


def busy() -> Books:
    """A ledger with something in every section."""
    books = Books()
    books.bring(withdrawals=[withdraw_of(5)], enlistments=[enlist_of(MINERS[2])], entries=[entry_of()])
    for _ in range(3):
        opening = opening_of(
            order_of(books.reserve(session_of(number=books.epoch)), home_epoch=books.epoch), [Part(acked=9)]
        )
        books.block({at: Content(observations=(ok(opening),), openings=(opening,)) for at in range(3)})
        books.turn()
    last = opening_of(order_of(books.reserve(session_of(number=9)), home_epoch=books.epoch))
    books.bring(observations=[ok(last)], openings=[last])
    books.block({at: Content(observations=(ok(opening_of(order_of(session_of(), 8))),)) for at in range(3)}, 2)
    return books


with scheme(HASHES):
    BUSY = busy()
KEYS = {
    Section.ACCOUNTS: CLIENT.node_id,
    Section.SESSIONS: name_of(session_of(number=9)),
    Section.MINERS: MINER.node_id,
    Section.NAMES: b"tiny",
}


def test_something_is_in_every_section() -> None:
    filled = [section for section in Section if section < TREES and len(BUSY.state.tree(section))]
    assert set(filled) >= {*KEYS, Section.OPEN, Section.LANES_2, Section.LANES_0}


# Roots


@pytest.mark.spec("LEDGER-ROOT.1")
def test_everything_that_execution_depends_on_is_under_the_ledger_root() -> None:
    state = BUSY.state
    changed = [
        replace(state, epoch=state.epoch + 1),
        replace(state, homes={**state.homes, 1: tuple(reversed(GENESIS.committee))}),
        replace(state, next_members=tuple(reversed(GENESIS.committee))),
        replace(state, cut={**state.cut, (1, ORACLES[0].node_id): (99, state.roots.ledger_root)}),
        replace(state, opened={**state.opened, (4, ORACLES[1].node_id): 1}),
        replace(state, batches=0),
        *(
            replace(state, trees=(*state.trees[:at], tree.set(b"key", b"value"), *state.trees[at + 1 :]))
            for at, tree in enumerate(state.trees)
        ),
    ]
    roots = {each.roots.ledger_root for each in [state, *changed]}
    assert len(roots) == 1 + len(changed)
    assert replace(state, decided=(), nodes=()).roots == state.roots
    assert len(state.sections) == len(Section)


@pytest.mark.spec("LEDGER-PARAMS.1")
def test_the_parameters_are_in_every_header() -> None:
    assert BUSY.state.roots.params_digest == params_digest(PARAMS) != params_digest(Params())
    assert (
        len(
            {
                params_digest(replace(PARAMS, **{name: getattr(PARAMS, name) + 1}))
                for name in ("delta_ms", "test_tokens")
            }
        )
        == 2
    )


# Proofs


@pytest.mark.spec("LEDGER-PROOF.1")
@pytest.mark.parametrize("section", KEYS)
def test_what_is_in_a_section_can_be_proved_to_whoever_has_a_header(section: Section) -> None:
    header, proof = BUSY.header(), BUSY.state.prove(section, KEYS[section])
    assert verify_ledger_proof(header, proof)
    assert proof.value is not None
    assert isinstance(read_record(section, proof.value), Record)
    absent = BUSY.state.prove(section, b"absent")
    assert absent.value is None
    assert verify_ledger_proof(header, absent)
    for wrong in (
        msgspec.structs.replace(proof, value=None),
        msgspec.structs.replace(proof, value=proof.value + b"\0"),
        msgspec.structs.replace(proof, key=b"absent"),
        msgspec.structs.replace(proof, section=(section + 1) % TREES),
        msgspec.structs.replace(proof, section=Section.COURSE),
        msgspec.structs.replace(proof, section=200),
        msgspec.structs.replace(proof, sections=proof.sections[:-1]),
        msgspec.structs.replace(proof, sections=(*proof.sections[:-1], bytes(32))),
        msgspec.structs.replace(absent, key=KEYS[section]),
    ):
        assert not verify_ledger_proof(header, wrong)
    assert not verify_ledger_proof(Books().header(), proof)


@pytest.mark.spec("LEDGER-ACCOUNT.1")
def test_an_account_is_four_words() -> None:
    value = BUSY.state.tree(Section.ACCOUNTS).get(CLIENT.node_id)
    assert value is not None
    account = BUSY.account(CLIENT)
    words = [int.from_bytes(value[at : at + 32], "big") for at in range(0, 128, 32)]
    assert words == [account.balance_wei, account.reserved_wei, 5, 0]
    with pytest.raises(DecodeError):
        Account.read(value[1:])


@pytest.mark.parametrize("section", [section for section in Section if section < TREES])
def test_bytes_that_are_no_record_are_a_decode_error(section: Section) -> None:
    for data in (b"", b"\xc1", b"\x91\x01", b"\xff" * 200):
        with pytest.raises(DecodeError):
            read_record(section, data)


def test_a_record_has_the_encoding_of_the_wire() -> None:

    for cls, key, section in (
        (Session, KEYS[Section.SESSIONS], Section.SESSIONS),
        (Miner, MINER.node_id, Section.MINERS),
    ):
        data = BUSY.state.tree(section).get(key)
        assert data is not None
        record = cls.read(data)
        assert record.packed() == data == pack(record)


# Snapshots


@pytest.mark.spec("STATE-SNAPSHOT.1")
def test_a_state_comes_back_from_its_snapshot_as_it_was() -> None:
    books = BUSY
    for state in (Books().state, books.state, books.ledger.turn(books.state, books._committee(books.epoch + 1))):
        back = books.ledger.restore(state.pack())
        assert back == state
        assert back.roots == state.roots
        assert back.pack() == state.pack()
        assert books.ledger.turn(back, books._committee(9)).roots == books.ledger.turn(state, books._committee(9)).roots


def test_the_state_of_another_network_is_refused() -> None:
    other = Ledger(DOMAIN, Params(), GENESIS)
    with pytest.raises(DecodeError, match="other parameters"):
        other.restore(BUSY.state.pack())
    for data in (b"", b"\xc1", BUSY.state.pack()[:-1], BUSY.state.pack() + b"\0"):
        with pytest.raises(DecodeError):
            BUSY.ledger.restore(data)


# Genesis, turn, blocks


@pytest.mark.spec("LEDGER-GENESIS.1")
def test_a_network_begins_with_its_allocation() -> None:
    books = Books()
    assert books.balance(CLIENT) == HAS_WEI
    assert books.balance(STRANGER) == 0
    assert books.all_wei() == GENESIS.allocated()
    assert books.state.account(STRANGER.node_id) == Account()
    assert books.state.session(b"\0" * 32) is None
    assert books.state.miner(STRANGER.node_id) is None
    assert books.state.name("none") is None


@pytest.mark.spec("LEDGER-TURN.1")
def test_the_last_three_epochs_have_a_home() -> None:
    books = Books()
    for epoch in range(1, 6):
        assert set(books.state.homes) == set(range(max(1, epoch - 2), epoch + 1))
        books.bring(by=1)
        assert {home for home, _ in books.state.cut} == set(books.state.homes)
        books.turn()
    assert books.state.next_members == GENESIS.committee


@pytest.mark.spec("LEDGER-TURN.1")
def test_a_batch_may_come_two_epochs_late_and_no_later() -> None:
    books = Books()
    books.turn(2)
    books.bring(home_epoch=1, withdrawals=[withdraw_of(1)])
    assert books.account(CLIENT).withdrawable_wei == 1
    late = books.body({0: Content(withdrawals=(withdraw_of(2),))}, 1)
    books.turn()
    with pytest.raises(InvalidBody):
        books.execute(late)


@pytest.mark.spec("LEDGER-ORDER.1")
def test_a_session_may_be_reserved_and_drawn_on_in_one_block() -> None:
    books = Books()
    session = session_of()
    opening = opening_of(order_of(session), [Part(acked=100)])
    signed = close_of(session)
    said = {at: Content(observations=(ok(opening),)) for at in range(2)}
    said[2] = Content(openings=(opening,), closes=(signed,))
    said[3] = Content(observations=(ok(opening),), sessions=(signed_session(session),))
    books.block(said)
    assert books.decided[0].paid_wei == 700


@pytest.mark.spec("LEDGER-ORDER.1")
def test_items_ride_in_any_batch_but_observations_only_at_home() -> None:
    books = Books()
    books.turn()
    opening = opening_of(order_of(session_of(), home_epoch=2))
    for at in range(3):
        books.bring(by=at, home_epoch=1, observations=[ok(opening)], reports=[report_of(MINERS[2], 1)])
    books.bring(home_epoch=1, enlistments=[enlist_of(MINERS[2])])
    assert books.state.miner(MINERS[2].node_id) is not None
    assert [outcome.home_epoch for outcome in books.decided] == [1]


@pytest.mark.spec("LEDGER-CONTENT.1")
def test_no_item_makes_a_block_invalid() -> None:
    books = Books()
    before = books.state
    junk = msgspec.structs.replace(withdraw_of(1), signature=b"\xff" * 65)
    for content in (b"", b"\xc1", b"\x98", keccak(b"")):
        signed = batch_of(ORACLES[0], content, *_next(books, 0))
        books.execute(books.ledger.propose(books.state, [signed]))
    books.bring(withdrawals=[junk], closes=[close_of(session_of())])
    assert books.state.trees == before.trees
    assert books.state.batches == 5


def _next(books: Books, place: int) -> tuple[int, bytes]:
    number, digest = books.state.included(1, ORACLES[place].node_id)
    return number + 1, digest


@pytest.mark.spec("LEDGER-TREE.1")
def test_a_block_costs_what_it_changes_whatever_the_size_of_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books()
    accounts = SparseTree.of((number.to_bytes(20, "big"), Account(1).packed()) for number in range(20_000))
    small = books.state
    books.state = replace(small, trees=(accounts.updated(small.trees[0].items()), *small.trees[1:]))
    assert books.state.roots
    counted = 0

    def count(data: bytes) -> bytes:
        nonlocal counted
        counted += 1
        return keccak(data)

    body = books.body({0: Content(withdrawals=(withdraw_of(1),))})
    monkeypatch.setattr("protocol.core.sparse.keccak", count)
    after = books.ledger.execute(books.state, body)
    assert after.roots != books.state.roots
    assert counted < 60


def test_siblings_do_not_touch_each_other_or_their_parent() -> None:
    books = Books()
    parent, packed = books.state, books.state.pack()
    one = books.ledger.execute(parent, books.body({0: Content(withdrawals=(withdraw_of(1),))}))
    other = books.ledger.execute(parent, books.body({0: Content(withdrawals=(withdraw_of(2),))}))
    assert [_withdrawable(state) for state in (parent, one, other)] == [0, 1, 2]
    assert parent.pack() == packed
    assert one.trees[Section.MINERS] is parent.trees[Section.MINERS]


def _withdrawable(state: LedgerState) -> int:
    return state.account(CLIENT.node_id).withdrawable_wei


def test_execution_checks_the_cut() -> None:
    books = Books()
    stranger = batch_of(STRANGER, b"")
    body = books.ledger.propose(books.state, [stranger])
    with pytest.raises(InvalidBody):
        open_cut(DOMAIN, PARAMS, books.state, body)
    with pytest.raises(InvalidBody):
        books.ledger.execute(books.state, body)
