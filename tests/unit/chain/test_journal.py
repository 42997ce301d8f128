"""The journal of what was signed: one process, one key, one chain; and it says so when it cannot be relied on."""

import sqlite3
from pathlib import Path

import pytest

from chain.api import TxState
from chain.errors import JournalError, TransactionFailed
from chain.journal import Journal
from tests.unit.chain.scripted import CHAIN_ID
from tests.unit.chain.sending import KEY, TO, Rig, order


def test_one_process_holds_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    held = Journal(path, CHAIN_ID, KEY.node_id)
    with pytest.raises(JournalError, match="in use by another process"):
        Journal(path, CHAIN_ID, KEY.node_id)
    held.close()
    Journal(path, CHAIN_ID, KEY.node_id).close()


def test_a_journal_is_of_one_key_on_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal(path, CHAIN_ID, KEY.node_id).close()
    with pytest.raises(JournalError, match=f"is of the key 0x{KEY.node_id.hex()} on chain {CHAIN_ID}"):
        Journal(path, CHAIN_ID, TO)
    with pytest.raises(JournalError):
        Journal(path, CHAIN_ID + 1, KEY.node_id)


@pytest.mark.parametrize("damage", ["garbage", "row"])
def test_a_damaged_journal_is_said(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "journal.db"
    rig = Rig(path)
    rig.sender.send(order("one"))
    rig.sender.close()
    if damage == "garbage":
        path.write_bytes(b"no database at all, but long enough to be taken for one" * 20)
    else:
        sql = sqlite3.connect(path)
        sql.execute("UPDATE entries SET body = x'c1'")
        sql.commit()
        sql.close()
    with pytest.raises(JournalError, match=r"journal\.db"):
        Journal(path, CHAIN_ID, KEY.node_id)


def test_a_journal_that_cannot_be_written_sends_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "journal.db")
    rig.sender.close()
    with pytest.raises(JournalError):
        rig.sender.send(order("one"))
    assert rig.chain.pool == {}


def test_old_transactions_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain.journal.CLOSED_KEPT", 4)
    rig = Rig(tmp_path / "journal.db")
    sent = []
    for number in range(8):
        sent.append(rig.sender.send(order(str(number))))
        rig.chain.mine()
        rig.sender.maintain()
    rig.restart()
    assert rig.sender.status(sent[-4]).state is TxState.FINAL
    with pytest.raises(TransactionFailed, match="no transaction"):
        rig.sender.status(sent[-5])
    rig.sender.send(order("last"))
    rig.chain.mine()
    assert rig.chain.done == [str(number).encode() for number in range(8)] + [b"last"]
