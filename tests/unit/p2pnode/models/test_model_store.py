"""The store of models: added whole or not at all, found by any of its names, and never damaged by a refusal."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from p2pnode.models import store as store_module
from p2pnode.models.gguf_header import CorruptModel
from p2pnode.models.store import DEFAULT, SHIPPED, ModelStore, ModelStoreError, UnknownModel, shipped

TINY = SHIPPED / "tiny-q4_0.gguf"


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A model with the same header and other weights."""
    path = tmp_path / "other.gguf"
    data = bytearray(TINY.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path


def test_the_shipped_models_are_there_without_a_store(store: ModelStore, tmp_path: Path) -> None:
    models = store.models()
    assert models[0].manifest.name == DEFAULT
    assert {model.path.name for model in models} == {path.name for path in SHIPPED.glob("*.gguf")}
    for model in models:
        assert model.shipped
        assert model.manifest.file_sha256 == hashlib.sha256(model.path.read_bytes()).digest()
        store.verify(model)
    assert not (tmp_path / "models").exists()


def test_an_added_model_is_found_by_every_name(store: ModelStore, other: Path) -> None:
    seen: list[tuple[int, int]] = []
    manifest = store.add(other, progress=lambda done, total: seen.append((done, total)))
    other_bytes = other.read_bytes()
    other.unlink()  # it was copied
    assert manifest.name == "p2pnode-tiny-q4_0"
    assert manifest.file_sha256 == hashlib.sha256(other_bytes).digest()
    assert seen[-1] == (len(other_bytes), len(other_bytes))
    digest, sha256 = manifest.digest().hex(), manifest.file_sha256.hex()
    for wanted in (manifest.name, digest, digest[:6], digest[:9].upper(), sha256, sha256[:7]):
        found = store.resolve(wanted)
        assert found.manifest == manifest
        assert found.path.read_bytes() == other_bytes
        assert not found.shipped
    assert ModelStore(found.path.parent.parent).resolve(manifest.name) == found


def test_adding_again_changes_nothing_and_a_second_name_shares_the_file(
    store: ModelStore, other: Path, tmp_path: Path
) -> None:
    first = store.add(other)
    before = files_of(tmp_path)
    assert store.add(other) == first
    assert files_of(tmp_path) == before
    second = store.add(other, "another")
    assert second.digest() != first.digest()
    assert len(files_of(tmp_path / "models" / "files")) == 1
    store.remove("another")
    store.verify(store.resolve(first.name))
    store.remove(first.name)
    assert files_of(tmp_path / "models") == []
    with pytest.raises(UnknownModel):
        store.resolve(first.name)


def test_a_name_that_is_taken_is_refused(store: ModelStore, other: Path, tmp_path: Path) -> None:
    store.add(other, "mine")
    before = files_of(tmp_path)
    for name in ("mine", "tiny", "tiny-q4_0"):
        source = SHIPPED / "tiny-q8_0.gguf" if name == "mine" else other
        with pytest.raises(ModelStoreError, match="belongs to another model") as caught:
            store.add(source, name)
        assert "--name" in str(caught.value.hint)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("name", ["-x", "x" * 65, "ümlaut", "a\nb", "\x1b[31m"])
def test_a_name_that_cannot_be_told_to_others_is_refused(store: ModelStore, name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelStoreError, match="cannot be described"):
        store.add(TINY, name)
    assert files_of(tmp_path) == []


def test_a_path_is_served_from_where_it_lies(store: ModelStore, other: Path, tmp_path: Path) -> None:
    found = store.resolve(str(other))
    assert found.path == other
    assert found.manifest.digest() == store.add(other).digest()
    with pytest.raises(UnknownModel, match="there is no file"):
        store.resolve(str(tmp_path / "none.gguf"))


def test_an_unknown_name_gets_the_nearest(store: ModelStore) -> None:
    with pytest.raises(UnknownModel, match="did you mean tiny") as caught:
        store.resolve("tinny")
    assert "p2pnode model list" in str(caught.value.hint)
    with pytest.raises(UnknownModel, match="unknown model 'abcdef'"):
        store.resolve("abcdef")


def test_digits_that_fit_several_models_are_refused(
    store: ModelStore, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(other, "one")
    store.add(other, "two")
    sha256 = store.resolve("one").manifest.file_sha256.hex()
    with pytest.raises(UnknownModel, match="fits several models: one, two"):
        store.resolve(sha256[:6])


def test_shipped_models_and_files_outside_stay(store: ModelStore, other: Path) -> None:
    with pytest.raises(ModelStoreError, match="part of the package"):
        store.remove("tiny")
    with pytest.raises(ModelStoreError, match="outside of the store"):
        store.remove(str(other))
    assert other.exists()


def test_a_file_that_changed_is_found_out(store: ModelStore, other: Path) -> None:
    store.add(other, "mine")
    model = store.resolve("mine")
    data = model.path.read_bytes()
    for changed in (data[:-1] + bytes([data[-1] ^ 4]), data[:-1], data + b"x"):
        model.path.write_bytes(changed)
        with pytest.raises(CorruptModel, match="has changed"):
            store.verify(model)
    model.path.unlink()
    with pytest.raises(ModelStoreError, match="No such file"):
        store.verify(model)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"null", b'{"name": 1}', b"\xff"])
def test_a_damaged_manifest_is_named(store: ModelStore, other: Path, tmp_path: Path, content: bytes) -> None:
    store.add(other, "mine")
    (path,) = (tmp_path / "models" / "manifests").iterdir()
    good = json.loads(path.read_bytes())
    for damaged in (content, json.dumps({**good, "name": "yours"}).encode(), json.dumps({**good, "extra": 1}).encode()):
        path.write_bytes(damaged)
        with pytest.raises(ModelStoreError, match="is damaged") as caught:
            store.models()
        assert str(path) in str(caught.value.hint)


def test_a_corrupt_source_is_refused_before_anything_is_written(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(TINY.read_bytes()[:-1])
    with pytest.raises(CorruptModel, match="the end is missing"):
        store.add(tmp_path / "bad.gguf")
    for missing in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelStoreError):
            store.add(missing)
    assert files_of(tmp_path) == ["bad.gguf"]


def fail_at(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("step", ["os.fsync", "rename", "json.dump", "progress"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failure_at_any_step_leaves_no_half_of_a_model(
    store: ModelStore, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    if step == "os.fsync":
        monkeypatch.setattr(os, "fsync", fail_at(number))
    elif step == "rename":
        monkeypatch.setattr(Path, "rename", fail_at(number))
    elif step == "json.dump":
        monkeypatch.setattr(json, "dump", fail_at(number))
    with pytest.raises(ModelStoreError) as caught:
        store.add(other, progress=fail_at(number) if step == "progress" else None)
    assert (caught.value.code == "model/disk-full") == (number == errno.ENOSPC)
    assert caught.value.hint
    assert files_of(tmp_path / "models") == []
    monkeypatch.undo()
    assert store.add(other).name == "p2pnode-tiny-q4_0"


def test_a_disk_too_full_for_the_model_is_said_before_copying(
    store: ModelStore, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 20))
    with pytest.raises(ModelStoreError, match="1 MiB needed, 1 MiB free") as caught:
        store.add(other)
    assert caught.value.code == "model/disk-full"
    assert files_of(tmp_path / "models") == []


def test_what_a_killed_process_left_is_swept_and_a_living_ones_is_not(
    store: ModelStore, other: Path, tmp_path: Path
) -> None:
    store.add(other)
    files = tmp_path / "models" / "files"
    dead, living = files / f"{2**22 + 1}.aa.part", files / f"{os.getpid()}.bb.part"
    dead.touch()
    living.touch()
    store.add(other, "again")
    assert not dead.exists()
    assert living.exists()


def test_a_damaged_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SHIPPED", tmp_path)
    shipped.cache_clear()
    try:
        with pytest.raises(ModelStoreError, match="shipped models are damaged"):
            shipped()
        (tmp_path / "SHA256SUMS").write_text("00  a.gguf\n")
        (tmp_path / "a.gguf").write_bytes(b"GGUF")
        with pytest.raises(ModelStoreError, match="shipped models are damaged"):
            shipped()
    finally:
        shipped.cache_clear()
