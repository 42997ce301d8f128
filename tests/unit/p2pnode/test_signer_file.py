"""The signer log's file: made once with the key, lost rather than believed, and held by one process."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from p2pnode import identity, signer_file
from p2pnode.identity import KeystoreError, NodeKey, create_key, read_keystore
from p2pnode.signer_file import checksum
from p2pnode.signer_log import (
    Loss,
    SignerLogLocked,
    SignerLogLost,
    SignerLogReadOnly,
    SignerSilent,
    create_signer_log,
    open_signer_log,
    signer_log_path,
)
from protocol.core.ids import NodeId
from tests.unit.p2pnode.signer_key import NETWORK, NODE, OTHER_NETWORK, beside, record, silent


async def filled(keystore: Path) -> Path:
    with open_signer_log(keystore, NODE, NETWORK) as log:
        await log.append([record(1, number, b"v" * 200) for number in range(800)])
    return log.path


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip_a_bit_of_a_value(path: Path) -> None:
    data = path.read_bytes()
    overwrite(path, data.rindex(b"v" * 200) + 100, b"w")


def statement(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(sql)
        connection.commit()


def replace_by_another_keys(path: Path) -> None:
    other = NodeId(b"\xaa" * 20)
    create_signer_log(path, other)
    os.replace(signer_log_path(path, other), path)


LOSSES: dict[str, tuple[Loss, Callable[[Path], object]]] = {
    "missing": (Loss.MISSING, lambda path: path.unlink()),
    "garbage": (Loss.DAMAGED, lambda path: overwrite(path, 0, b"no database at all")),
    "a damaged page": (Loss.DAMAGED, lambda path: overwrite(path, 4096 * 5, b"\xff" * 4096)),
    "a flipped bit": (Loss.DAMAGED, flip_a_bit_of_a_value),
    "cut off": (Loss.DAMAGED, lambda path: os.truncate(path, path.stat().st_size - 8192)),
    "cut off inside a page": (Loss.DAMAGED, lambda path: os.truncate(path, 5000)),
    "empty": (Loss.DAMAGED, lambda path: os.truncate(path, 0)),
    "without an owner": (Loss.DAMAGED, lambda path: statement(path, "DELETE FROM log")),
    "without a table": (Loss.DAMAGED, lambda path: statement(path, "DROP TABLE silence")),
    "a record without its checksum": (Loss.DAMAGED, lambda path: statement(path, _INSERT_UNCHECKED)),
    "of another key": (Loss.FOREIGN, replace_by_another_keys),
    "another program's": (Loss.FORMAT, lambda path: statement(path, "PRAGMA application_id = 1")),
    "a newer format": (Loss.FORMAT, lambda path: statement(path, "PRAGMA user_version = 2")),
}


_INSERT_UNCHECKED = "INSERT INTO signed VALUES (x'00', 1, x'00', x'00', x'0000000000000000')"


@pytest.mark.parametrize("name", LOSSES)
async def test_a_lost_log_is_known_and_signs_nothing_until_it_is_told_when(keystore: Path, name: str) -> None:
    loss, damage = LOSSES[name]
    path = await filled(keystore)
    damage(path)
    before = path.read_bytes() if path.exists() else None
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert log.lost is not None
        assert log.lost.loss is loss
        assert str(path) in log.lost.what
        with pytest.raises(SignerLogLost, match="is lost") as caught:
            await log.append([record(2, 1)])
        assert "never put back a copy" in str(caught.value.hint)
        with pytest.raises(SignerLogLost):
            await log.load()
        assert (path.read_bytes() if path.exists() else None) == before
        # The new one serves at once, from the epoch on that it was told.
        await log.silence(2)
        assert log.lost is None
        assert await log.load() == dict([silent(2)])
        with pytest.raises(SignerSilent):
            await log.append([record(1, 500)])
        await log.append([record(2, 1)])
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert log.lost is None
        assert log.silent_before_epoch == 2
        assert await log.load() == dict([record(2, 1), silent(2)])
    if before is not None:
        assert beside(path, ".lost-1").read_bytes() == before


async def test_every_lost_log_is_kept(keystore: Path) -> None:
    path = signer_log_path(keystore, NODE)
    for number in range(1, 4):
        path.write_bytes(b"%d" % number * 512)
        beside(path, "-wal").write_bytes(b"beside %d" % number)
        with open_signer_log(keystore, NODE, NETWORK) as log:
            await log.silence(number)
            assert log.lost is None
        assert beside(path, f".lost-{number}").read_bytes() == b"%d" % number * 512
        assert beside(path, f".lost-{number}-wal").read_bytes() == b"beside %d" % number


async def test_the_second_file_stays_short_and_the_first_needs_it(
    keystore: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signer_file, "FOLDED_BYTES", 100_000)
    with open_signer_log(keystore, NODE, NETWORK) as log:
        for number in range(100):
            await log.append([record(1, number, bytes(2000))])
            assert beside(log.path, "-wal").stat().st_size < 120_000
            if number % 10 == 0:
                with open_signer_log(copied(keystore, tmp_path / f"{number}", "-wal"), NODE, NETWORK) as copy:
                    assert copy.lost is None
                    assert len(await copy.load()) == number + 1
                with open_signer_log(copied(keystore, tmp_path / f"{number} alone"), NODE, NETWORK) as copy:
                    assert copy.lost is not None
                    assert copy.lost.loss is Loss.INCOMPLETE
                # Whatever else opens and closes the two files folds them into one, and nothing is missing.
                folded = copied(keystore, tmp_path / f"{number} folded", "-wal")
                statement(signer_log_path(folded, NODE), "SELECT count(*) FROM signed")
                with open_signer_log(folded, NODE, NETWORK) as copy:
                    assert copy.lost is None
                    assert len(await copy.load()) == number + 1


def copied(keystore: Path, folder: Path, *suffixes: str) -> Path:
    """As it is on the disk at this moment, with or without the second file."""
    folder.mkdir()
    for suffix in ("", *suffixes):
        shutil.copy(beside(signer_log_path(keystore, NODE), suffix), folder)
    return folder / keystore.name


async def test_a_log_begun_anew_in_one_network_is_lost_in_every_other(keystore: Path) -> None:
    with open_signer_log(keystore, NODE, OTHER_NETWORK) as log:
        await log.append([record(1, 1)])
    log.path.unlink()
    with open_signer_log(keystore, NODE, NETWORK) as log:
        await log.silence(7)
        await log.append([record(7, 1)])
    with open_signer_log(keystore, NODE, OTHER_NETWORK) as log:
        assert log.lost is not None
        assert log.lost.loss is Loss.ELSEWHERE
        await log.silence(2)
        assert log.lost is None
        await log.append([record(2, 1)])
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert log.lost is None
        assert log.silent_before_epoch == 7
        assert await log.load() == dict([record(7, 1), silent(7)])


async def test_what_was_found_lost_by_others_becomes_silent_and_keeps_what_it_has(keystore: Path) -> None:
    with open_signer_log(keystore, NODE, NETWORK) as log:
        await log.append([record(1, 1)])
        await log.silence(2)
        assert await log.load() == dict([record(1, 1), silent(2)])
    assert not list(keystore.parent.glob("*.lost-*"))


def locked_out(keystore: Path) -> SignerLogLocked:
    with pytest.raises(SignerLogLocked) as caught, open_signer_log(keystore, NODE, NETWORK):
        pass
    assert caught.value.hint
    return caught.value


def test_a_second_node_is_kept_out_by_whatever_path_it_comes(keystore: Path, tmp_path: Path) -> None:
    folder, path = keystore.parent, signer_log_path(keystore, NODE)
    (tmp_path / "linked").symlink_to(folder)
    ways = {
        name: tmp_path / name / keystore.name for name in ("key linked", "key mounted", "log linked", "log mounted")
    }
    for way in ways.values():
        way.parent.mkdir()
    ways["key linked"].symlink_to(keystore)
    os.link(keystore, ways["key mounted"])  # one file under two names, as a mount of that file alone makes it
    (ways["log linked"].parent / path.name).symlink_to(path)
    os.link(path, ways["log mounted"].parent / path.name)
    with open_signer_log(keystore, NODE, NETWORK):
        assert f"process {os.getpid()}" in str(locked_out(keystore))
        locked_out(tmp_path / "linked" / keystore.name)
        for way in ways.values():
            locked_out(way)
        with closing(sqlite3.connect(path, timeout=0)) as stranger, pytest.raises(sqlite3.OperationalError):
            stranger.execute("SELECT * FROM log")
    with open_signer_log(keystore, NODE, NETWORK) as log:
        assert log.lost is None


def test_a_second_node_is_kept_out_of_a_lost_log_too(keystore: Path) -> None:
    signer_log_path(keystore, NODE).unlink()
    with open_signer_log(keystore, NODE, NETWORK):
        locked_out(keystore)


def test_what_cannot_be_written_is_named(keystore: Path, tmp_path: Path) -> None:
    # As root a read-only folder is no obstacle; something else in the way is, and ends in the same error.
    path = signer_log_path(keystore, NODE)
    path.unlink()
    path.mkdir()
    with pytest.raises(SignerLogReadOnly, match="cannot write") as caught, open_signer_log(keystore, NODE, NETWORK):
        pass
    assert "beside the key" in str(caught.value.hint)
    for place in (tmp_path / "nowhere" / "key.json", keystore / "key.json"):
        with pytest.raises(SignerLogReadOnly), open_signer_log(place, NODE, NETWORK):
            pass
        with pytest.raises(SignerLogReadOnly):
            create_signer_log(place, NODE)


async def test_a_log_is_created_once(keystore: Path) -> None:
    path = await filled(keystore)
    before = path.read_bytes()
    create_signer_log(keystore, NODE)
    assert path.read_bytes() == before
    path.write_bytes(b"damaged")
    create_signer_log(keystore, NODE)
    assert path.read_bytes() == b"damaged"
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(
        [keystore.name, path.name, f"{path.name}.lock"]
    )


def test_a_key_is_made_with_its_log(tmp_path: Path) -> None:
    keystore = tmp_path / "made" / "on the way" / "key.json"
    key = create_key(keystore, "password", scrypt_n=2)
    assert read_keystore(keystore, "password").node_id == key.node_id
    assert keystore.parent.stat().st_mode & 0o777 == 0o700
    assert {file.name for file in keystore.parent.iterdir()} == {"key.json", f"signer-{key.node_id.hex()}.db"}
    with open_signer_log(keystore, key.node_id, NETWORK) as log:
        assert log.lost is None


async def test_two_keys_in_one_folder_have_two_logs(tmp_path: Path) -> None:
    keys = {name: create_key(tmp_path / name, "", scrypt_n=2) for name in ("a.json", "b.json")}
    for name, key in keys.items():
        with open_signer_log(tmp_path / name, key.node_id, NETWORK) as log:
            await log.append([record(1, 1, name.encode())])
    with pytest.raises(KeystoreError, match="exists"):
        create_key(tmp_path / "a.json", "", scrypt_n=2)
    with open_signer_log(tmp_path / "a.json", keys["a.json"].node_id, NETWORK) as log:
        assert await log.load() == dict([record(1, 1, b"a.json")])


def test_a_crash_between_log_and_key_leaves_no_key_without_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    keystore = tmp_path / "key.json"
    for step in ("_keystore_document", "_write_keystore", "_sync_directory"):
        with monkeypatch.context() as patch, pytest.raises(Crash):
            patch.setattr(identity, step, crash)
            create_key(keystore, "", scrypt_n=2)
        logs = len(list(tmp_path.glob("signer-*.db")))
        assert (step, keystore.exists(), logs) in {
            ("_keystore_document", False, 0),
            ("_write_keystore", False, 1),
            ("_sync_directory", True, 2),
        }
    # The first log has no key, and will never have one: the next key is another.
    key = read_keystore(keystore, "")
    with open_signer_log(keystore, key.node_id, NETWORK) as log:
        assert log.lost is None


def test_a_key_from_a_backup_has_a_lost_log(tmp_path: Path) -> None:
    keystore = tmp_path / "node" / "key.json"
    key: NodeKey = create_key(keystore, "", scrypt_n=2)
    restored = tmp_path / "restored" / "key.json"
    restored.parent.mkdir()
    shutil.copy(keystore, restored)
    with open_signer_log(restored, key.node_id, NETWORK) as log:
        assert log.lost is not None
        assert log.lost.loss is Loss.MISSING


def test_a_checksum_covers_all_of_a_record() -> None:
    parts = [(b"n", 1, b"kk", b"v"), (b"nk", 1, b"k", b"v"), (b"n", 1, b"k", b"kv"), (b"n", 2, b"kk", b"v")]
    assert len({checksum(*part) for part in parts}) == len(parts)
