"""Backups: what is in them, what never is, and what a restore refuses."""

import io
import json
import stat
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pnode import chain_access
from p2pnode.backup import BackupError, BackupMalformed, BackupRefused, read_manifest, restore_backup, write_backup
from p2pnode.config import NodeConfig, load_config
from p2pnode.http import keys, limits
from p2pnode.identity import SCRYPT_N_TESTNET, create_key, read_keystore
from p2pnode.node_key import KeyMoved, load_key
from p2pnode.signer_log import Loss, Lost, open_signer_log, signer_log_path
from p2pnode.state_folder import ADDRESSES, API_KEYS, API_USAGE, BACKED_UP, STATE_FILES, TRANSACTIONS
from p2pnode.store import StoreLocked, open_store, read_store
from protocol.core.genesis import Genesis
from tests.unit.protocol.machines import GENESIS

KEYS = json.dumps({"keys": []})


def config_in(folder: Path, *roles: str) -> NodeConfig:
    """Of a node that has its folder there; an oracle's network has a committee."""
    genesis = "devnet"
    if "oracle" in roles:
        genesis = str(folder.parent / "genesis.json")
        Path(genesis).write_text(GENESIS.to_json())
    settings = {"node.roles": list(roles or ("router",)), "node.state_dir": str(folder), "network.genesis": genesis}
    return load_config(None, overrides=settings, env={"P2PNODE_HOME": str(folder.parent)})


async def node_in(folder: Path, *roles: str) -> NodeConfig:
    """A node that has run, and stands still."""
    config = config_in(folder, *roles)
    create_key(config.keys.keystore, "secret", scrypt_n=SCRYPT_N_TESTNET)
    with open_store(folder) as store:
        await store.persist([(b"a", b"1"), (b"b", bytes(100_000))])
    (folder / ADDRESSES).write_text("{}")
    (folder / API_KEYS).write_text(KEYS)
    return config


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def names_in(source: Path) -> list[str]:
    with tarfile.open(source) as tar:
        return tar.getnames()


async def test_what_was_backed_up_is_the_same_node_elsewhere(tmp_path: Path) -> None:
    old, backup = await node_in(tmp_path / "old"), tmp_path / "node.backup"
    made = write_backup(old, backup)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert read_manifest(backup) == made

    new = config_in(tmp_path / "new")
    assert restore_backup(new, backup) == made
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted([*made.files, "lock"])
    assert read_keystore(new.keys.keystore, "secret").node_id.hex() == made.node[2:]
    assert read_store(tmp_path / "new", b"") == {b"a": b"1", b"b": bytes(100_000)}
    assert (tmp_path / "new" / API_KEYS).read_text() == KEYS
    for name in made.files:
        assert stat.S_IMODE((tmp_path / "new" / name).stat().st_mode) == 0o600


async def test_a_node_that_runs_is_backed_up_as_of_one_moment(tmp_path: Path) -> None:
    config, backup = await node_in(tmp_path / "old"), tmp_path / "node.backup"
    with open_store(tmp_path / "old") as store:
        await store.persist([(b"c", b"3")])
        write_backup(config, backup)
        await store.persist([(b"d", b"4")])
    restore_backup(config_in(tmp_path / "new"), backup)
    assert set(read_store(tmp_path / "new", b"")) == {b"a", b"b", b"c"}


async def test_no_signer_log_is_ever_in_a_backup_and_a_restored_oracle_has_lost_its_own(tmp_path: Path) -> None:
    old, backup = await node_in(tmp_path / "old", "oracle"), tmp_path / "node.backup"
    node = read_keystore(old.keys.keystore, "secret").node_id
    assert signer_log_path(old.keys.keystore, node).exists()
    write_backup(old, backup)
    assert [name for name in names_in(backup) if "signer" in name] == []

    new = config_in(tmp_path / "new", "oracle")
    with pytest.raises(BackupRefused, match="may still run"):
        restore_backup(new, backup)
    assert not new.keys.keystore.exists()
    restore_backup(new, backup, replaces=True)
    with open_signer_log(new.keys.keystore, node, GENESIS.network_id()) as log:
        assert isinstance(log.lost, Lost)
        assert log.lost.loss is Loss.MISSING


async def test_a_signer_log_of_an_earlier_life_is_not_believed(tmp_path: Path) -> None:
    """It may not know what was signed since, on the machine that the node is moved back from."""
    config, backup = await node_in(tmp_path / "old", "oracle"), tmp_path / "node.backup"
    node = read_keystore(config.keys.keystore, "secret").node_id
    made = write_backup(config, backup)
    for name in made.files:
        (tmp_path / "old" / name).unlink()
    restore_backup(config, backup, replaces=True)
    with open_signer_log(config.keys.keystore, node, GENESIS.network_id()) as log:
        assert log.lost is not None
    assert list((tmp_path / "old").glob("signer-*.lost-1")), "it is kept to be looked at"


async def test_a_move_seals_the_key_where_it_was(tmp_path: Path) -> None:
    old, backup = await node_in(tmp_path / "old", "oracle"), tmp_path / "node.backup"
    with open_store(tmp_path / "old"), pytest.raises(StoreLocked):
        write_backup(old, backup, move=True)
    assert not backup.exists()
    write_backup(old, backup, move=True)
    with pytest.raises(KeyMoved):
        await load_key(old)
    with pytest.raises(BackupRefused, match="moved already"):
        write_backup(old, tmp_path / "again.backup")
    new = config_in(tmp_path / "new", "oracle")
    assert restore_backup(new, backup).moved, "and needs nobody's word"
    with pytest.raises(BackupRefused, match="overwrites nothing"):
        restore_backup(old, backup)


async def test_a_move_that_cannot_be_written_leaves_the_node_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = await node_in(tmp_path / "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("p2pnode.backup._pack", full)
    with pytest.raises(BackupError, match="No space left"):
        write_backup(config, tmp_path / "node.backup", move=True)
    config = replace(config, keys=replace(config.keys, password_file=tmp_path / "password"))
    (tmp_path / "password").write_text("secret\n")
    await load_key(config)
    assert not (tmp_path / "node.backup").exists()
    assert names(tmp_path) == ["old", "password"], "no draft is left"


async def test_nothing_is_overwritten_and_no_other_network_taken(tmp_path: Path) -> None:
    old, backup = await node_in(tmp_path / "old"), tmp_path / "node.backup"
    write_backup(old, backup)
    with pytest.raises(BackupError, match="exists"):
        write_backup(old, backup)
    with pytest.raises(BackupRefused, match="overwrites nothing"):
        restore_backup(old, backup)
    (tmp_path / "other.json").write_text(Genesis("another").to_json())
    new = config_in(tmp_path / "new")
    other = replace(new, network=replace(new.network, genesis=str(tmp_path / "other.json")))
    with pytest.raises(BackupRefused, match="network"):
        restore_backup(other, backup)
    with open_store(tmp_path / "new"), pytest.raises(StoreLocked):
        restore_backup(new, backup)


async def test_a_folder_without_a_key_has_no_backup(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="no key"):
        write_backup(config_in(tmp_path / "new"), tmp_path / "node.backup")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import trio

    folder = tmp_path_factory.mktemp("good")
    config = trio.run(node_in, folder / "old")
    write_backup(config, folder / "node.backup")
    return (folder / "node.backup").read_bytes()


def assert_refused(folder: Path, content: bytes) -> None:
    """It is refused, and leaves nothing."""
    source = folder / "bad.backup"
    source.write_bytes(content)
    config = config_in(folder / "new")
    with pytest.raises(BackupError):
        restore_backup(config, source)
    assert [path.name for path in (folder / "new").iterdir()] == ["lock"]


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_backup_restores_nothing(good: bytes, tmp_path: Path, data: st.DataObject) -> None:
    with tarfile.open(fileobj=io.BytesIO(good)) as tar:
        spans = [(entry.offset_data, entry.offset_data + entry.size) for entry in tar.getmembers()]
    begin, end = data.draw(st.sampled_from(spans))
    at = data.draw(st.integers(begin, end - 1))
    if data.draw(st.booleans()):
        assert_refused(tmp_path, good[:at])
    else:
        # A digit or name of the manifest may change into another one that means the same; a file's byte may not.
        at = max(at, spans[1][0]) if at < spans[0][1] else at
        assert_refused(tmp_path, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])


def link(entry: tarfile.TarInfo) -> None:
    entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0


def renamed(name: str) -> Callable[[tarfile.TarInfo], None]:
    return lambda entry: setattr(entry, "name", name)


@pytest.mark.parametrize(
    ("at", "change"),
    [
        (0, renamed("manifest.json")),
        (1, link),
        (1, renamed("../node-key.json")),
        (2, renamed("signer-00.db")),
    ],
)
def test_what_no_backup_holds_is_refused(
    good: bytes, tmp_path: Path, at: int, change: Callable[[tarfile.TarInfo], None]
) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(good)) as tar, tarfile.open(fileobj=made, mode="w") as other:
        for place, entry in enumerate(tar.getmembers()):
            content = tar.extractfile(entry)
            if place == at:
                change(entry)
            other.addfile(entry, content)
    assert_refused(tmp_path, made.getvalue())


@pytest.mark.parametrize("name", ["signer-00.db", "../outside", "/etc/passwd", "log.txt"])
def test_a_manifest_names_only_what_is_backed_up(good: bytes, tmp_path: Path, name: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(good)) as tar:
        content = tar.extractfile("backup.json")
        assert content is not None
        said = json.loads(content.read())
    assert set(said["files"]) <= set(BACKED_UP)
    said["files"][name] = [0, ""]
    made, text = io.BytesIO(), json.dumps(said).encode()
    with tarfile.open(fileobj=made, mode="w") as other:
        entry = tarfile.TarInfo("backup.json")
        entry.size = len(text)
        other.addfile(entry, io.BytesIO(text))
    source = tmp_path / "bad.backup"
    source.write_bytes(made.getvalue())
    with pytest.raises(BackupMalformed, match="which no backup does"):
        read_manifest(source)


def test_the_table_of_files_names_them_as_those_who_write_them_do() -> None:
    assert (API_KEYS, API_USAGE) == (keys.FILE, limits.USAGE_FILE)
    assert TRANSACTIONS == chain_access.JOURNAL


def test_the_readme_tells_of_each_file_whether_it_may_be_copied() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    for each in STATE_FILES:
        assert f"| `{each.name}` | {each.what} | {each.copy.value} |" in readme
