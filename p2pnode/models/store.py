"""The models a node has: GGUF files by the sha256 of their content, manifests by their digest.

    models/files/<sha256>.gguf        weights, never changed in place
    models/manifests/<digest>.json    what they are called; two names of one file share it

A file appears under its final name only when it is complete, hashed and on the disk; a manifest only after its file.
So whatever happens in between, there is a model or there is none. The models shipped in the package are read where
they are.
"""

import difflib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from p2pnode.models.gguf_header import CorruptModel, GgufHeader, read_header
from protocol.core.errors import P2PNodeError
from protocol.messages.adverts import ModelManifest

SHIPPED = Path(__file__).parent / "shipped"
SHIPPED_SUMS = "SHA256SUMS"
"""In ``shipped``: which files belong to the package and what they must hash to, as ``sha256sum`` writes it."""

DEFAULT = "tiny"
DIGEST_CHARACTERS_MIN = 6
_CHUNK_BYTES = 1 << 20
_MANIFEST_BYTES_MAX = 4096

Progress = Callable[[int, int], None]
"""``progress(done_bytes, total_bytes)``, called often."""


class ModelStoreError(P2PNodeError):
    """A model could not be stored, found or removed; the message says why."""

    code = "model/store"


class UnknownModel(ModelStoreError):
    """No model has this name, digest or path."""

    code = "model/unknown"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model and where its file is."""

    manifest: ModelManifest
    path: Path
    shipped: bool = False


class ModelStore:
    """The models of one folder, and the shipped ones. Nothing is written before the first :meth:`add`."""

    def __init__(self, folder: Path) -> None:
        self._files = folder / "files"
        self._manifests = folder / "manifests"

    def add(self, path: Path, name: str | None = None, progress: Progress | None = None) -> ModelManifest:
        """Copy a GGUF file into the store, checked and durable when this returns; the source may then go.

        The default name follows from the file's content, so that it is the same at every miner. Adding a model that
        is there changes nothing. Raises CorruptModel, ModelStoreError; after either, the store is as it was.
        """
        with _disk_errors(path):
            header = read_header(path)
        name = name or name_of(header, path)
        taken = next((model for model in self.models() if name == model.manifest.name), None)
        if taken is not None:
            return self._same(taken, path, header, progress)
        with self._draft(header.file_bytes) as (draft, file):
            with path.open("rb") as source:
                sha256 = _hashed(source, header.file_bytes, progress, into=file)
            os.fsync(file.fileno())
            # Described by what was copied, should the source have changed meanwhile.
            manifest = _manifest(name, read_header(draft), sha256)
            draft.rename(self._file_path(manifest))
            try:
                _sync_folder(self._files)
                self._write_manifest(manifest)
            except BaseException:
                self._drop_file(manifest)
                raise
        return manifest

    def models(self) -> list[StoredModel]:
        """The shipped models, then the added ones by name. Raises ModelStoreError for a damaged manifest."""
        return [*shipped(), *sorted(self._added(), key=lambda model: model.manifest.name)]

    def resolve(self, wanted: str, progress: Progress | None = None) -> StoredModel:
        """The model of this name, digest (or its first 6 or more hex digits; file sha256 as well) or path.

        A file outside the store is hashed first. Raises UnknownModel, CorruptModel, ModelStoreError.
        """
        if "/" in wanted or wanted.endswith(".gguf"):
            return _loose(Path(wanted).expanduser(), progress)
        models = self.models()
        found = [model for model in models if wanted in (model.manifest.name, model.path.stem)]
        if not found and re.fullmatch(rf"[0-9a-fA-F]{{{DIGEST_CHARACTERS_MIN},64}}", wanted):
            prefix = wanted.lower()
            found = [model for model in models if any(digest.startswith(prefix) for digest in _digests(model))]
        if not found:
            names = [model.manifest.name for model in models]
            near = difflib.get_close_matches(wanted, names, n=1)
            raise UnknownModel(
                f"unknown model {wanted[:80]!r}" + (f"; did you mean {near[0]}?" if near else ""),
                hint="`p2pnode model list` shows what is here, `p2pnode model add FILE` adds a GGUF file",
            )
        if len(found) > 1:
            names = [model.manifest.name for model in found]
            raise UnknownModel(
                f"{wanted} fits several models: {', '.join(names)}", hint="give more digits of the digest"
            )
        return found[0]

    def remove(self, wanted: str) -> StoredModel:
        """Forget a model, and delete its file unless another name needs it. Raises ModelStoreError, UnknownModel."""
        model = self.resolve(wanted)
        if model.shipped:
            raise ModelStoreError(
                f"{model.manifest.name} is part of the package and stays", hint="remove added models only"
            )
        if model.path.parent != self._files:
            raise UnknownModel(f"{wanted} is a file outside of the store", hint="delete the file itself")
        with _disk_errors(self._manifests):
            self._manifest_path(model.manifest).unlink()
            _sync_folder(self._manifests)
            self._drop_file(model.manifest)
        return model

    def verify(self, model: StoredModel, progress: Progress | None = None) -> None:
        """Hash a model's file again. Raises CorruptModel if it is not what its manifest says, ModelStoreError."""
        with _disk_errors(model.path), model.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            sha256 = _hashed(file, size, progress)
        if (size, sha256) != (model.manifest.file_bytes, model.manifest.file_sha256):
            raise CorruptModel(
                f"{model.path} has changed: sha256 {sha256.hex()}, expected {model.manifest.file_sha256.hex()}",
                hint="install p2pnode again" if model.shipped else f"remove {model.manifest.name} and add it again",
            )
        read_header(model.path)

    def _same(self, model: StoredModel, path: Path, header: GgufHeader, progress: Progress | None) -> ModelManifest:
        """The manifest of a model whose name is wanted again, if it is for the same file."""
        manifest = model.manifest
        if header.file_bytes == manifest.file_bytes:
            with _disk_errors(path), path.open("rb") as file:
                if _hashed(file, header.file_bytes, progress) == manifest.file_sha256:
                    return manifest
        raise ModelStoreError(
            f"the name {manifest.name} belongs to another model", hint="give this one another: --name NAME"
        )

    def _added(self) -> list[StoredModel]:
        found = []
        with _disk_errors(self._manifests):
            paths = list(self._manifests.glob("*.json"))
        for path in paths:
            manifest = _read_manifest(path)
            found.append(StoredModel(manifest, self._file_path(manifest)))
        return found

    def _drop_file(self, manifest: ModelManifest) -> None:
        """Delete a file that no manifest names (any more)."""
        if all(other.manifest.file_sha256 != manifest.file_sha256 for other in self._added()):
            self._file_path(manifest).unlink(missing_ok=True)

    def _file_path(self, manifest: ModelManifest) -> Path:
        return self._files / f"{manifest.file_sha256.hex()}.gguf"

    def _manifest_path(self, manifest: ModelManifest) -> Path:
        return self._manifests / f"{manifest.digest().hex()}.json"

    def _write_manifest(self, manifest: ModelManifest) -> None:
        final = self._manifest_path(manifest)
        draft = final.with_suffix(f".{secrets.token_hex(4)}.part")
        with _disk_errors(draft):
            try:
                with draft.open("x", encoding="utf-8") as file:
                    json.dump(manifest_json(manifest), file, indent=1)
                    file.flush()
                    os.fsync(file.fileno())
                draft.rename(final)
                _sync_folder(self._manifests)
            finally:
                draft.unlink(missing_ok=True)

    @contextmanager
    def _draft(self, size: int) -> Iterator[tuple[Path, BinaryIO]]:
        """A file to copy into, gone at the end unless it was renamed; what a killed process left is swept."""
        with _disk_errors(self._files):
            for folder in (self._files, self._manifests):
                folder.mkdir(parents=True, exist_ok=True)
            for left in self._files.glob("*.part"):
                owner = left.name.partition(".")[0]
                if not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
                    left.unlink(missing_ok=True)
            free = shutil.disk_usage(self._files).free
            if free < size:
                raise OSError(errno.ENOSPC, f"{size >> 20} MiB needed, {free >> 20} MiB free")
            draft = self._files / f"{os.getpid()}.{secrets.token_hex(4)}.part"
            try:
                with draft.open("xb") as file:
                    yield draft, file
            finally:
                with suppress(OSError):
                    draft.unlink(missing_ok=True)


@cache
def shipped() -> tuple[StoredModel, ...]:
    """The models in the package. Raises ModelStoreError if the package is damaged."""
    try:
        lines = (SHIPPED / SHIPPED_SUMS).read_text(encoding="ascii").splitlines()
        found = [_shipped(*line.split(maxsplit=1)) for line in lines]
    except (OSError, ValueError, TypeError, CorruptModel) as error:
        raise ModelStoreError(f"the shipped models are damaged: {error}", hint="install p2pnode again") from error
    return tuple(sorted(found, key=lambda model: (model.manifest.name != DEFAULT, model.manifest.name)))


def _shipped(sha256: str, file_name: str) -> StoredModel:
    path = SHIPPED / file_name
    header = read_header(path)
    # tiny-q8_0.gguf is called "tiny", tiny-q4_0.gguf "tiny-q4_0".
    name = path.stem.removesuffix("-q8_0")
    return StoredModel(_manifest(name, header, bytes.fromhex(sha256)), path, shipped=True)


def name_of(header: GgufHeader, path: Path) -> str:
    """A model's default name: by its metadata and quantisation, by the file's name where it has none."""
    words = f"{header.name}-{header.quantization}" if header.name else path.stem
    name = re.sub(r"[^a-z0-9._]+", "-", words.lower()).strip("-._")[:64]
    return name or "model"


def manifest_json(manifest: ModelManifest) -> dict[str, Any]:
    """A manifest as it is stored and shown: digests in hex."""
    return {**msgspec.structs.asdict(manifest), "file_sha256": manifest.file_sha256.hex()}


def _read_manifest(path: Path) -> ModelManifest:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MANIFEST_BYTES_MAX))
        content["file_sha256"] = bytes.fromhex(content["file_sha256"])
        manifest = msgspec.convert([content.pop(name) for name in ModelManifest.__struct_fields__], ModelManifest)
        if content or manifest.digest().hex() != path.stem:
            raise ValueError("its content does not fit its name")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelStoreError(f"{path} is damaged: {error}", hint=f"delete {path} and add the model again") from error
    return manifest


def _manifest(name: str, header: GgufHeader, sha256: bytes) -> ModelManifest:
    fields = [name, sha256, header.file_bytes, header.architecture, header.quantization, header.context_tokens]
    try:
        return msgspec.convert(fields, ModelManifest)
    except msgspec.ValidationError as error:
        raise ModelStoreError(
            f"the model cannot be described as {name[:80]!r}, {header.architecture[:80]!r}: {error}",
            hint="names have 1 to 64 letters, digits and . _ : / + - and start with a letter or digit",
        ) from error


def _digests(model: StoredModel) -> tuple[str, str]:
    return model.manifest.digest().hex(), model.manifest.file_sha256.hex()


def _loose(path: Path, progress: Progress | None) -> StoredModel:
    """A file that is served from where it lies."""
    if not path.exists():
        raise UnknownModel(f"there is no file {path}", hint="correct the path, or name a model of `p2pnode model list`")
    with _disk_errors(path), path.open("rb") as file:
        header = read_header(path)
        sha256 = _hashed(file, header.file_bytes, progress)
    return StoredModel(_manifest(name_of(header, path), header, sha256), path.absolute())


def _hashed(source: BinaryIO, size: int, progress: Progress | None, into: BinaryIO | None = None) -> bytes:
    """sha256 of a file read to its end, copied on the way if wanted."""
    digest, done = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        if into is not None:
            into.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, size)
    if into is not None:
        into.flush()
    return digest.digest()


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"{error.filename or path}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ModelStoreError(
                f"no space left, {what}", code="model/disk-full", hint="free some space and try again"
            ) from error
        raise ModelStoreError(what, hint="check the path and its permissions") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
