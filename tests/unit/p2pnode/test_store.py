"""The node's store: what is durable, in which order, and how every failure is named."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.store import (
    DATABASE,
    KEY_BYTES_MAX,
    LOCK,
    NodeStore,
    StoreCorrupt,
    StoreFull,
    StoreLocked,
    StoreMissing,
    StoreReadOnly,
    lock_folder,
    open_store,
    read_store,
)


async def test_what_was_persisted_is_there_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "on the way"
    with open_store(folder) as store:
        await store.persist([(b"a/1", b"one"), (b"a/2", b"two"), (b"b", b"")])
        await store.persist([(b"a/1", None), (b"a/2", b"zwei"), (b"gone", None)])
        assert store.load(b"a/") == {b"a/2": b"zwei"}
    with open_store(folder) as store:
        assert store.load(b"") == {b"a/2": b"zwei", b"b": b""}
    assert folder.stat().st_mode & 0o777 == 0o700


@given(keys=st.sets(st.binary(min_size=1, max_size=3), max_size=8), prefix=st.binary(max_size=2) | st.just(b"\xff\xff"))
def test_load_gives_the_keys_with_a_prefix_in_order(
    tmp_path_factory: pytest.TempPathFactory, keys: set[bytes], prefix: bytes
) -> None:
    async def check() -> None:
        with open_store(tmp_path_factory.mktemp("store")) as store:
            await store.persist([(key, key) for key in keys])
            assert list(store.load(prefix)) == sorted(key for key in keys if key.startswith(prefix))

    trio.run(check)


async def test_many_callers_share_a_commit_and_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    write = NodeStore._write

    def counted(self: NodeStore, batches: Sequence[object]) -> None:
        commits.append(len(batches))
        write(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(NodeStore, "_write", counted)
    with open_store(tmp_path) as store:
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(store.persist, [(b"each/%d" % number, b"x"), (b"last", b"%d" % number)])
        assert len(store.load(b"each/")) == 100
        assert sum(commits) == 100
        assert len(commits) <= 3
        # Tasks start in any order; whoever came last in the last commit wins, whole batches only.
        assert int(store.load(b"last")[b"last"]) in range(100)
        for number in range(3):
            await store.persist([(b"last", b"%d" % number)])
        assert store.load(b"last") == {b"last": b"2"}


async def test_of_many_records_at_once_the_last_word_on_each_key_counts(tmp_path: Path) -> None:
    rounds = [{b"%d" % number: value for number in range(1_200)} for value in (b"a", None, b"b")]
    kept = {b"%d" % number: None for number in range(0, 1_200, 2)}
    with open_store(tmp_path) as store:
        await store.persist([record for each in (*rounds, kept) for record in each.items()])
        assert store.load(b"") == {b"%d" % number: b"b" for number in sorted(range(1, 1_200, 2), key=str)}


async def test_cancelling_one_caller_harms_no_other(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                scope.cancel()
                await store.persist([(b"cancelled", b"x")])
            nursery.start_soon(store.persist, [(b"other", b"x")])
        assert list(store.load(b"")) == [b"other"]


async def test_a_batch_with_an_impossible_record_is_not_written(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for key in (b"", b"x" * (KEY_BYTES_MAX + 1)):
            with pytest.raises(ValueError, match="a key has"):
                await store.persist([(b"good", b"x"), (key, b"x")])
        assert store.load(b"") == {}


def test_a_second_process_is_kept_out_and_told_who_is_in(tmp_path: Path) -> None:
    with open_store(tmp_path):
        with pytest.raises(StoreLocked, match=r"in use by another node, process \d+") as caught, open_store(tmp_path):
            pass
        assert "--state-dir" in str(caught.value.hint)
    with lock_folder(tmp_path):
        pass


async def test_a_full_disk_stops_the_store_and_loses_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        await store.persist([(b"before", b"x")])
        store._writer.execute("PRAGMA max_page_count = 1")
        with pytest.raises(StoreFull, match="no space left"):
            await store.persist([(b"%d" % number, bytes(4096)) for number in range(64)])
        with pytest.raises(StoreFull):
            await store.persist([(b"after", b"x")])
    with open_store(tmp_path) as store:
        assert list(store.load(b"")) == [b"before"]
        await store.persist([(b"again", b"x")])


async def filled(folder: Path) -> Path:
    with open_store(folder) as store:
        await store.persist([(b"%d" % number, bytes(1000)) for number in range(200)])
    return folder / DATABASE


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def statement(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: overwrite(path, 0, b"no database at all"),
        lambda path: overwrite(path, 4096, b"\xff" * 4096),
        lambda path: path.write_bytes(path.read_bytes()[:-8192]),
        lambda path: statement(path, "PRAGMA application_id = 1"),
        lambda path: statement(path, "PRAGMA user_version = 2"),
    ],
    ids=["no database", "damaged page", "cut off", "another program's", "a newer format"],
)
async def test_a_damaged_database_is_named_and_left_alone(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = await filled(tmp_path)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match=DATABASE) as caught, open_store(tmp_path):
        pass
    assert caught.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize("obstacle", ["folder", "above", LOCK, DATABASE])
def test_what_cannot_be_written_is_named(tmp_path: Path, obstacle: str) -> None:
    # As root a read-only folder is no obstacle; something else in the way is, and ends in the same error.
    folder = tmp_path / "above" / "folder"
    if obstacle == "above":
        folder.parent.touch()
    elif obstacle == "folder":
        folder.parent.mkdir()
        folder.touch()
    else:
        (folder / obstacle).mkdir(parents=True)
    with pytest.raises(StoreReadOnly, match="cannot write in") as caught, open_store(folder):
        pass
    assert "--state-dir" in str(caught.value.hint)


async def test_a_store_is_read_beside_its_node_and_without_it(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="no node has worked in"):
        read_store(tmp_path, b"")
    with open_store(tmp_path) as store:
        await store.persist([(b"a/1", b"one"), (b"b", b"")])
        assert read_store(tmp_path, b"a/") == {b"a/1": b"one"}
        await store.persist([(b"a/2", b"two")])
        assert read_store(tmp_path, b"a/") == {b"a/1": b"one", b"a/2": b"two"}
    assert read_store(tmp_path, b"a/") == {b"a/1": b"one", b"a/2": b"two"}
    assert list(read_store(tmp_path, b"", last=2)) == [b"a/2", b"b"], "the highest keys, in their order"
    assert read_store(tmp_path, b"a/", last=0) == {}
    with open_store(tmp_path) as store:
        assert store.load(b"b") == {b"b": b""}


def test_what_is_no_store_is_not_read(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreCorrupt):
        read_store(tmp_path, b"")
    (tmp_path / DATABASE).write_bytes(b"")
    with pytest.raises(StoreCorrupt, match="belongs to another program"):
        read_store(tmp_path, b"")
