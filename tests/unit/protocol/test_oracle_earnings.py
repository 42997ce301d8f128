"""An oracle's books of what accounts were paid: to the last wei what the ledger paid, once, through restarts."""

import pytest

from protocol.ledger.state import State
from protocol.messages.results import Content
from protocol.roles.oracle import earnings
from protocol.roles.oracle.earnings import Earnings, EpochEarned
from tests.unit.protocol.ledger_at_hand import (
    MINER,
    ORACLES,
    ROUTER,
    Books,
    Part,
    keyed,  # noqa: F401
    ok,
    opening_of,
    order_of,
    session_of,
)


class Disk:
    """Where the records go."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def load(self, prefix: bytes) -> dict[bytes, bytes]:
        """As a store loads."""
        return {key: self.rows[key] for key in sorted(self.rows) if key.startswith(prefix)}

    def take(self, book: Earnings, *states: State) -> None:
        """Blocks with these states after them are about to be settled."""
        self.rows.update(book.records(states))  # type: ignore[arg-type]


def paid(book: Earnings, account: bytes) -> list[tuple[int, int, int, int]]:
    return [(epoch, row.miner, row.router, row.oracle) for epoch, row in book.of(account)]


@pytest.mark.spec("LEDGER-EARNED.1")
def test_what_the_books_say_is_what_the_balances_gained() -> None:
    books, disk = Books(), Disk()
    book = Earnings(disk.load)
    session = books.reserve(session_of())
    for task, tokens in ((1, 100), (2, 30)):
        opening = opening_of(order_of(session, task), [Part(acked=tokens)])
        books.block({at: Content(observations=(ok(opening),), openings=(opening,) * (at == 2)) for at in range(3)})
        disk.take(book, books.state)
    for told in (book, Earnings(disk.load)):
        assert paid(told, MINER.node_id) == [(1, books.balance(MINER), 0, 0)]
        assert paid(told, ROUTER.node_id) == [(1, 0, books.balance(ROUTER), 0)]
        assert paid(told, ORACLES[0].node_id) == [(1, 0, 0, books.balance(ORACLES[0]))]
        assert paid(told, b"\x01" * 20) == []
    assert books.balance(MINER) > 0
    assert book.of(MINER.node_id)[0][1].payments == 2


@pytest.mark.spec("LEDGER-EARNED.1")
def test_a_block_that_is_executed_again_counts_once() -> None:
    books, disk = Books(), Disk()
    opening = opening_of(order_of(books.reserve(session_of())), [Part(acked=100)])
    books.block({at: Content(observations=(ok(opening),), openings=(opening,) * (at == 2)) for at in range(3)})
    for _ in range(2):
        again = Earnings(disk.load)
        disk.take(again, books.state)
        disk.take(again, books.state, books.state)
    assert paid(Earnings(disk.load), MINER.node_id) == [(1, books.balance(MINER), 0, 0)]


def test_what_is_kept_in_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earnings, "ROWS_MAX", 2)
    books, disk = Books(), Disk()
    book = Earnings(disk.load)
    session = books.reserve(session_of())
    for task in (1, 2):
        opening = opening_of(order_of(session, task), [Part(acked=10)])
        books.block({at: Content(observations=(ok(opening),), openings=(opening,) * (at == 2)) for at in range(3)})
        disk.take(book, books.state)
    assert paid(book, MINER.node_id) == [(1, books.balance(MINER), 0, 0)]
    assert all(isinstance(row, EpochEarned) for _, row in book.of(ROUTER.node_id))
