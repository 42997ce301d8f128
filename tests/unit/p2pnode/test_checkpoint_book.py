"""What an oracle can prove of its checkpoints, as long as it keeps them, and after a restart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pnode import checkpoint_book
from p2pnode.checkpoint_book import CheckpointBook, CheckpointError
from p2pnode.store import NodeStore, open_store
from protocol.core.codec import unpack
from protocol.core.ids import Digest
from protocol.ledger.accounts import Account
from protocol.ledger.proofs import verify_ledger_proof
from protocol.ledger.records import Section
from protocol.ledger.state import State, ledger_root
from protocol.messages.committee import Certified
from protocol.messages.results import LedgerProof
from protocol.roles.oracle.followers import Final
from protocol.roles.oracle.recent import RECENT_MAX, RecentFinals
from tests.unit.protocol.light_at_hand import certify, header_of
from tests.unit.protocol.machines import ORACLES

ALICE, BOB = b"\x0a" * 20, b"\x0b" * 20


class Ledger:
    """A ledger that goes on, header by header."""

    def __init__(self) -> None:
        self.recent = RecentFinals()
        self._state = State(Digest(bytes(32)), 1, {1: tuple(key.node for key in ORACLES)}, ())
        self.height = 0

    def next(self, **balances: int) -> Digest:
        """A final header after which alice and bob have so much, 0 for nothing."""
        self.height += 1
        tree = self._state.tree(Section.ACCOUNTS)
        for name, wei in balances.items():
            key = {"alice": ALICE, "bob": BOB}[name]
            tree = tree.set(key, Account(balance_wei=wei).packed()) if wei else tree.delete(key)
        trees = list(self._state.trees)
        trees[Section.ACCOUNTS] = tree
        self._state = State(Digest(bytes(32)), 1, self._state.homes, (), trees=tuple(trees))
        header = header_of(self.height, 1, ledger_root=ledger_root(self._state.sections))
        certified = certify(header)
        self.recent.add(Final(certified, self._state))
        return Digest(certified.certificate.header)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NodeStore]:
    with open_store(tmp_path) as opened:
        yield opened


def proved(book: CheckpointBook, digest: Digest, address: bytes) -> Account | None:
    """What a checkpoint proves of an account, checked against its header as anybody would."""
    answer = book.answer(f"checkpoint:{digest.hex()}:account:0x{address.hex()}")
    proof = unpack(LedgerProof, bytes.fromhex(answer["proof"]), limit_bytes=1 << 16)
    certified = unpack(Certified, bytes.fromhex(answer["certified"]), limit_bytes=Certified.LIMIT_BYTES)
    assert certified.header is not None
    assert verify_ledger_proof(certified.header, proof)
    assert proof.key == address
    return None if proof.value is None else Account.read(proof.value)


@pytest.mark.spec("CHECKPOINT-KEPT.1")
async def test_each_checkpoint_proves_what_the_ledger_held_then(store: NodeStore) -> None:
    ledger = Ledger()
    book = CheckpointBook(store, ledger.recent.get)
    first = ledger.next(alice=5)
    await book.keep(first)
    ledger.next(alice=1, bob=1)
    second = ledger.next(alice=0, bob=7)
    await book.keep(second)
    for told in (book, CheckpointBook(store, lambda _: None)):
        assert len(told) == 2
        assert (proved(told, first, ALICE), proved(told, first, BOB)) == (Account(balance_wei=5), None)
        assert (proved(told, second, ALICE), proved(told, second, BOB)) == (None, Account(balance_wei=7))
    rows = book.answer("checkpoint")["checkpoints"]
    assert [(row["digest"], row["height"]) for row in rows] == [(first.hex(), 1), (second.hex(), 3)]


async def test_what_is_unknown_or_kept_already_is_passed_over(store: NodeStore) -> None:
    ledger = Ledger()
    book = CheckpointBook(store, ledger.recent.get)
    only = ledger.next(alice=2)
    for digest in (only, only, Digest(b"\x01" * 32)):
        await book.keep(digest)
    assert [row["height"] for row in book.answer("checkpoint")["checkpoints"]] == [1]
    assert book.newest is not None
    assert book.newest.digest == only


@pytest.mark.spec("CHECKPOINT-KEPT.1")
async def test_one_that_comes_late_is_kept_in_its_place(store: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    book = CheckpointBook(store, ledger.recent.get)
    balances = ({"alice": 1}, {"alice": 2, "bob": 5}, {"bob": 6}, {"alice": 4})
    digests = [ledger.next(**each) for each in balances]
    for at in (3, 0, 2, 1):
        await book.keep(digests[at])
    for told in (book, CheckpointBook(store, lambda _: None)):
        held = [(proved(told, digest, ALICE), proved(told, digest, BOB)) for digest in digests]
        assert [[0 if each is None else each.balance_wei for each in pair] for pair in held] == [
            [1, 0],
            [2, 5],
            [2, 6],
            [4, 6],
        ]
    monkeypatch.setattr(checkpoint_book, "KEPT_MAX", 2)
    full = CheckpointBook(store, ledger.recent.get)
    await full.keep(ledger.next(bob=9))
    await full.keep(digests[0])
    assert digests[0] not in [Digest(bytes.fromhex(row["digest"])) for row in full.answer("checkpoint")["checkpoints"]]


@pytest.mark.spec("CHECKPOINT-KEPT.1")
async def test_the_oldest_are_folded_into_what_the_next_stand_on(
    store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_book, "KEPT_MAX", 2)
    monkeypatch.setattr(checkpoint_book, "_CHANGES_BYTES_MAX", 100)
    ledger = Ledger()
    book = CheckpointBook(store, ledger.recent.get)
    digests = []
    for balances in ({"alice": 1, "bob": 1}, {"alice": 2}, {"bob": 0}, {"alice": 4}):
        digests.append(ledger.next(**balances))
        await book.keep(digests[-1])
    for told in (book, CheckpointBook(store, lambda _: None)):
        assert len(told) == 2
        assert [proved(told, digests[2], who) for who in (ALICE, BOB)] == [Account(balance_wei=2), None]
        assert [proved(told, digests[3], who) for who in (ALICE, BOB)] == [Account(balance_wei=4), None]
    assert len(store.load(b"checkpoint/header/")) == 2


@pytest.mark.parametrize("question", ["checkpoint:00:account:0x0a", "checkpoint:zz:account:0x", "checkpoint:%s:lane:1"])
async def test_questions_that_cannot_be_answered_say_so(store: NodeStore, question: str) -> None:
    ledger = Ledger()
    book = CheckpointBook(store, ledger.recent.get)
    digest = ledger.next(alice=1)
    await book.keep(digest)
    with pytest.raises(CheckpointError) as caught:
        book.answer(question % digest.hex() if "%" in question else question)
    assert caught.value.hint
    with pytest.raises(CheckpointError, match="no address"):
        book.answer(f"checkpoint:{digest.hex()}:account:0x0a")


def test_the_recent_headers_are_bounded() -> None:
    ledger = Ledger()
    digests: list[Any] = [ledger.next(alice=number + 1) for number in range(RECENT_MAX + 1)]
    assert ledger.recent.get(digests[0]) is None
    assert ledger.recent.get(digests[1]) is not None
