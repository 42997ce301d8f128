"""The signer log: put in once and never changed, silent where it must be, and stopped by a disk that fails."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
import trio

from p2pnode.signer_log import (
    KEY_BYTES_MAX,
    PRUNED_ROWS,
    VALUE_BYTES_MAX,
    Record,
    SignerConflict,
    SignerLog,
    SignerLogError,
    SignerLogFull,
    SignerLogReadOnly,
    SignerSilent,
    open_signer_log,
    signer_log_path,
)
from protocol.committee.signer import Signer
from protocol.core.ids import Signature
from protocol.core.signing import Domain
from protocol.messages.committee import StatementKind
from tests.unit.p2pnode.signer_key import NETWORK, NODE, OTHER_NETWORK, beside, record, silent


async def test_what_was_appended_is_there_after_a_restart(keystore: Path) -> None:
    first, second, old = record(2, 1), record(2, 2), record(1, 9, b"")
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert log.lost is None
        assert log.silent_before_epoch == 0
        await log.append([first, second])
        await log.append([old])
        assert list((await log.load()).items()) == [old, first, second]
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert list((await log.load()).items()) == [old, first, second]
        assert list((await log.load(from_epoch=2)).items()) == [first, second]
    assert log.path.stat().st_mode & 0o777 == 0o600
    assert not beside(log.path, "-wal").exists()


async def test_the_same_again_is_fine(keystore: Path) -> None:
    with open_signer_log(keystore, NODE, NETWORK) as log:
        await log.append([record(1, 1)])
        await log.append([record(1, 1), record(1, 1), record(1, 2)])
        assert len(await log.load()) == 2


async def test_another_value_is_refused_with_its_whole_batch(keystore: Path) -> None:
    with open_signer_log(keystore, NODE, NETWORK) as log:
        await log.append([record(1, 1)])
        with pytest.raises(SignerConflict, match=r"signed/0{15}10{15}1 of epoch 1 was signed before") as caught:
            await log.append([record(1, 2), record(1, 1, b"another"), record(1, 3)])
        assert "report it" in str(caught.value.hint)
        with pytest.raises(SignerConflict):
            await log.append([record(1, 4), record(1, 4, b"another")])
        assert await log.load() == dict([record(1, 1)])
        await log.append([record(1, 5)])
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert await log.load() == dict([record(1, 1), record(1, 5)])


async def test_callers_share_a_commit_but_not_a_conflict(keystore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[int] = []
    conflicts: list[int] = []
    write = SignerLog._write

    def counted(self: SignerLog, batches: Sequence[object]) -> None:
        commits.append(len(batches))
        write(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(SignerLog, "_write", counted)
    with open_signer_log(keystore, NODE, NETWORK) as log:

        async def append(number: int) -> None:
            try:
                await log.append([record(1, number), record(2, number % 50, b"%d" % number)])
            except SignerConflict:
                conflicts.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(append, number)
        assert sum(commits) == 100
        assert len(commits) <= 3
        records = await log.load()
    assert len(conflicts) == 50
    assert len(records) == 100
    for number in set(range(100)) - set(conflicts):
        assert {record(1, number), record(2, number % 50, b"%d" % number)} <= set(records.items())


async def test_cancelling_one_caller_harms_no_other(keystore: Path) -> None:
    with open_signer_log(keystore, NODE, NETWORK) as log:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                scope.cancel()
                await log.append([record(1, 1)])
            nursery.start_soon(log.append, [record(1, 2)])
        assert await log.load() == dict([record(1, 2)])


@pytest.mark.parametrize(
    "impossible",
    [
        (b"signed/" + bytes(7), b"x"),
        (b"signed" + bytes(20), b"x"),
        (b"signed/" + b"\xff" * 8, b"x"),
        (b"signed/" + bytes(KEY_BYTES_MAX), b"x"),
        (b"signed/" + bytes(8), bytes(VALUE_BYTES_MAX + 1)),
    ],
)
async def test_what_is_no_record_is_not_written(keystore: Path, impossible: Record) -> None:
    with open_signer_log(keystore, NODE, NETWORK) as log:
        with pytest.raises(ValueError, match="no "):
            await log.append([record(1, 1), impossible])
        assert await log.load() == {}


def test_every_commit_is_synced(keystore: Path) -> None:
    # What no killed process shows: only a power cut tells a sync from none.
    with open_signer_log(keystore, NODE, NETWORK) as log:
        settings = {name: log._connection().execute(f"PRAGMA {name}").fetchone()[0] for name in PRAGMAS}
        assert settings == PRAGMAS


PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "locking_mode": "exclusive", "wal_autocheckpoint": 0}


async def test_the_file_itself_takes_no_change_and_no_deletion(keystore: Path) -> None:
    with open_signer_log(keystore, NODE, NETWORK) as log:
        await log.append([record(1, 1)])
    with closing(sqlite3.connect(log.path)) as connection:
        for statement in ("UPDATE signed SET value = x'00'", "DELETE FROM signed"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                connection.execute(statement)


class Signing:
    """A key that counts what it signs."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _digest: bytes) -> Signature:
        self.count += 1
        return Signature(self.count.to_bytes(65, "big"))

    def rule(self, records: dict[bytes, bytes]) -> Signer:
        signer = Signer(Domain(NETWORK), NODE, self, records)
        signer.ready = True
        return signer


async def test_the_rule_and_its_memory_fit_together(keystore: Path) -> None:
    key = Signing()
    with open_signer_log(keystore, NODE, NETWORK) as log:
        signer = key.rule(await log.load())
        vote, batch = signer.sign(StatementKind.VOTE, 3, 7, bytes(32)), signer.sign_batch(3, b"content")
        assert vote is not None
        assert batch is not None
        await log.append([*vote.records, *batch[1]])
    with open_signer_log(keystore, NODE, NETWORK) as log:
        signer = key.rule(await log.load())
        again = signer.sign(StatementKind.VOTE, 3, 7, bytes(32))
        assert again is not None
        assert (again.statement, again.records) == (vote.statement, ())
        assert signer.last_batch(3) == 1
        assert key.count == 2


async def test_the_rule_begins_a_lost_log_anew(keystore: Path) -> None:
    key = Signing()
    signer_log_path(keystore, NODE).unlink()
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert log.lost is not None
        signer = key.rule({})
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(log.append, signer.silence(4) or [silent(3)])
        assert log.lost is None
        assert log.silent_before_epoch == 4
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert await log.load() == dict([silent(4)])
        signer = key.rule(await log.load())
        assert not signer.may_sign(3)
        vote = signer.sign(StatementKind.VOTE, 4, 1, bytes(32))
        assert vote is not None
        await log.append([*signer.silence(5), *vote.records[:0]])
        with pytest.raises(SignerSilent):
            await log.append(vote.records)
    assert not list(keystore.parent.glob("*.lost-*"))


async def test_silence_is_kept_and_never_sinks(keystore: Path) -> None:
    with open_signer_log(keystore, NODE, NETWORK) as log:
        await log.append([record(4, 1)])
        await log.silence(5)
        await log.silence(3)
        assert log.silent_before_epoch == 5
        with pytest.raises(SignerSilent, match="nothing of epoch 4"):
            await log.append([record(5, 1), record(4, 2)])
        await log.append([record(4, 1)])  # it is known, so it may be sent again
        await log.append([record(5, 2)])
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert log.lost is None
        assert log.silent_before_epoch == 5
        assert await log.load() == dict([record(4, 1), record(5, 2), silent(5)])


async def test_old_epochs_are_forgotten_for_good(keystore: Path) -> None:
    with open_signer_log(keystore, NODE, NETWORK) as log:
        await log.append([record(1, number) for number in range(PRUNED_ROWS + 5)])
        await log.append([record(2, 1), record(3, 1)])
        await log.prune(3)
        assert await log.load() == dict([record(3, 1), silent(3)])
        with pytest.raises(SignerSilent):
            await log.append([record(1, 1, b"another")])
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert log.silent_before_epoch == 3
        assert await log.load() == dict([record(3, 1), silent(3)])


async def test_each_network_has_its_own_slots(keystore: Path) -> None:
    with open_signer_log(keystore, NODE, NETWORK) as log:
        await log.append([record(1, 1, b"here")])
        await log.prune(1)
        await log.silence(9)
    with open_signer_log(keystore, NODE, OTHER_NETWORK) as log:
        assert log.silent_before_epoch == 0
        await log.append([record(1, 1, b"there")])
        assert await log.load() == dict([record(1, 1, b"there")])
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert await log.load() == dict([record(1, 1, b"here"), silent(9)])


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [("PRAGMA max_page_count = 1", SignerLogFull), ("PRAGMA query_only = 1", SignerLogReadOnly)],
    ids=["full", "read-only"],
)
async def test_a_disk_that_fails_ends_the_signing_and_loses_nothing(
    keystore: Path, trouble: str, expected: type[SignerLogError]
) -> None:
    with open_signer_log(keystore, NODE, NETWORK) as log:
        await log.append([record(1, 0)])
        log._connection().execute(trouble)
        with pytest.raises(expected, match="cannot write") as caught:
            await log.append([record(1, number, bytes(4096)) for number in range(1, 65)])
        assert caught.value.hint
        log._connection().execute("PRAGMA max_page_count = 1000")
        log._connection().execute("PRAGMA query_only = 0")
        for write in (log.append([record(1, 99)]), log.append([record(1, 0)]), log.silence(2), log.prune(2)):
            with pytest.raises(expected):
                await write
        assert await log.load() == dict([record(1, 0)])
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert log.lost is None
        assert await log.load() == dict([record(1, 0)])
        await log.append([record(1, 1)])


async def test_without_its_second_file_nothing_more_is_signed(keystore: Path) -> None:
    with open_signer_log(keystore, NODE, NETWORK) as log:
        await log.append([record(1, 1)])
        beside(log.path, "-wal").unlink()
        for number in (2, 3):
            with pytest.raises(SignerLogError, match="No such file"):
                await log.append([record(1, number)])
