"""What a GGUF file says of itself, read from its header alone, from files nobody vouches for.

Every length is checked against a bound and against the file's size before anything of that length is read, strings
and arrays that are not needed are skipped unread, and the tensors that the header promises must lie inside the file,
so a download that broke off is found here and not in the engine.

Rule: nothing but :class:`CorruptModel` leaves :func:`read_header` for any content (OSError for an unreadable file).
Source: the GGUF specification, versions 2 and 3, little-endian.
"""

import os
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from protocol.core.errors import P2PNodeError

ENTRIES_MAX = 65_536
"""Metadata entries, and tensors, of a header."""
ARRAY_ITEMS_MAX = 4_000_000
"""Items of a metadata array; vocabularies have some 300,000."""
STRING_BYTES_MAX = 4 << 20
HEADER_BYTES_MAX = 256 << 20
"""All metadata and tensor descriptions; the largest vocabularies take some 20 MiB."""
KEY_BYTES_MAX = 65_535
DIMENSIONS_MAX = 4

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

# id: (name, values in a block, bytes of a block), as in ggml.h
_TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1),
    25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip

# general.file_type, as in llama.h
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip


class CorruptModel(P2PNodeError):
    """The file is no GGUF model that can be served; the message says what is wrong with it."""

    code = "model/corrupt"
    hint = "download or copy the file again, and compare its sha256 with the publisher's"


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What is worth knowing of a model file before it is loaded."""

    name: str
    """``general.name``; empty if the file has none."""
    architecture: str
    quantization: str
    """By ``general.file_type``, else the type that most weights have."""
    context_tokens: int
    """The context the model was trained for."""
    vocabulary: int
    tensors: int
    file_bytes: int


Value = int | float | bool | str | None
"""A metadata value; an array is its number of items, a string over the bound None."""


class _Cursor:
    """Reads little-endian values from a file, never past its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self.position = 0

    def take(self, count: int, what: str) -> bytes:
        self._advance(count, what)
        data = self._file.read(count)
        if len(data) != count:
            raise CorruptModel(f"the file became shorter while {what} was read")
        return data

    def skip(self, count: int, what: str) -> None:
        self._advance(count, what)
        self._file.seek(count, os.SEEK_CUR)

    def _advance(self, count: int, what: str) -> None:
        if count > self._left:
            raise CorruptModel(f"the file ends inside {what}")
        self._left -= count
        self.position += count
        if self.position > HEADER_BYTES_MAX:
            raise CorruptModel(f"the header goes beyond {HEADER_BYTES_MAX} bytes")

    def number(self, form: str, what: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form), what))[0])

    def count(self, limit: int, what: str) -> int:
        found = self.number("<Q", what)
        if found > limit:
            raise CorruptModel(f"{what} is {found}, more than the {limit} that any model has")
        return found

    def string(self, limit: int, what: str) -> str:
        data = self.take(self.count(limit, f"the length of {what}"), what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise CorruptModel(f"{what} is not UTF-8") from error


def read_header(path: Path) -> GgufHeader:
    """Read and check a model file's header. Raises CorruptModel, and OSError if the file cannot be read."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        cursor = _Cursor(file, size)
        try:
            return _header(cursor, size)
        except CorruptModel as error:
            raise CorruptModel(f"{path} is no usable GGUF model: {error}", hint=error.hint) from error


def _header(cursor: _Cursor, size: int) -> GgufHeader:
    if size < 4 or cursor.take(4, "the magic number") != b"GGUF":
        raise CorruptModel(
            "it does not start with 'GGUF'",
            hint="give a model file in GGUF format (llama.cpp's), not another kind of file",
        )
    version = cursor.number("<I", "the version")
    if version not in (2, 3):
        raise CorruptModel(f"it has GGUF version {version}; versions 2 and 3, little-endian, are read")
    tensors = cursor.count(ENTRIES_MAX, "the number of tensors")
    entries = cursor.count(ENTRIES_MAX, "the number of metadata entries")
    metadata: dict[str, Value] = {}
    for _ in range(entries):
        key = cursor.string(KEY_BYTES_MAX, "a metadata key")
        if key in metadata:
            raise CorruptModel(f"metadata {key!r:.80} is there twice")
        metadata[key] = _value(cursor, cursor.number("<I", "a metadata type"), key)
    weights = _tensors(cursor, tensors, size, _natural(metadata, "general.alignment", 32))
    return _described(metadata, weights, tensors, size)


def _value(cursor: _Cursor, kind: int, key: str) -> Value:
    what = f"metadata {key!r:.80}"
    if kind in _SCALARS:
        value: int | float | bool = struct.unpack(_SCALARS[kind], cursor.take(struct.calcsize(_SCALARS[kind]), what))[0]
        return value
    if kind == _STRING:
        length = cursor.count(2**63, what)
        if length > STRING_BYTES_MAX:
            cursor.skip(length, what)
            return None
        return cursor.take(length, what).decode(errors="replace")
    if kind == _ARRAY:
        return _skip_array(cursor, what)
    raise CorruptModel(f"{what} has the unknown type {kind}")


def _skip_array(cursor: _Cursor, what: str) -> int:
    kind = cursor.number("<I", what)
    items = cursor.count(ARRAY_ITEMS_MAX, f"the number of items of {what}")
    if kind in _SCALARS:
        cursor.skip(items * struct.calcsize(_SCALARS[kind]), what)
    elif kind == _STRING:
        for _ in range(items):
            cursor.skip(cursor.count(STRING_BYTES_MAX, what), what)
    else:
        raise CorruptModel(f"{what} is an array of type {kind}, which no model has")
    return items


def _tensors(cursor: _Cursor, tensors: int, size: int, alignment: int) -> Counter[str]:
    """Check that every tensor lies inside the file; how many values there are of each type."""
    if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise CorruptModel(f"the alignment {alignment} is no power of two")
    weights: Counter[str] = Counter()
    end = 0
    for at in range(tensors):
        what = f"tensor {at} of {tensors}"
        cursor.string(KEY_BYTES_MAX, f"the name of {what}")
        dimensions = cursor.number("<I", what)
        if dimensions > DIMENSIONS_MAX:
            raise CorruptModel(f"{what} has {dimensions} dimensions")
        values = 1
        for _ in range(dimensions):
            values *= cursor.count(2**40, f"a dimension of {what}")
        kind, offset = cursor.number("<I", what), cursor.count(2**62, f"the offset of {what}")
        name, block, block_bytes = _TENSOR_TYPES.get(
            kind, (f"type-{kind}", 1, 0)
        )  # a newer type: only its start is checked
        if offset % alignment or values % block:
            raise CorruptModel(f"{what} is not aligned")
        weights[name] += values
        end = max(end, offset + values // block * block_bytes)
    start = -(-cursor.position // alignment) * alignment
    if tensors and start + end > size:
        raise CorruptModel(f"it has {size} bytes of at least {start + end}: the end is missing")
    return weights


def _described(metadata: dict[str, Value], weights: Counter[str], tensors: int, size: int) -> GgufHeader:
    architecture, name = metadata.get("general.architecture"), metadata.get("general.name")
    if not isinstance(architecture, str) or not architecture:
        raise CorruptModel("general.architecture is missing")
    if _natural(metadata, "split.count", 1) > 1:
        raise CorruptModel(
            "it is one part of a split model", hint="join the parts first: llama-gguf-split --merge FIRST OUT"
        )
    context = _natural(metadata, f"{architecture}.context_length", 0)
    vocabulary = _natural(metadata, "tokenizer.ggml.tokens", 0)
    for found, key in ((context, f"{architecture}.context_length"), (vocabulary, "tokenizer.ggml.tokens")):
        if not 0 < found < 2**32:
            raise CorruptModel(
                f"{key:.80} is missing", hint="this is no language model that can answer by itself; choose another file"
            )
    if not tensors:
        raise CorruptModel("it holds no weights")
    quantization = _FILE_TYPES.get(_natural(metadata, "general.file_type", -1)) or weights.most_common(1)[0][0]
    return GgufHeader(
        name if isinstance(name, str) else "", architecture, quantization, context, vocabulary, tensors, size
    )


def _natural(metadata: dict[str, Value], key: str, missing: int) -> int:
    value = metadata.get(key)
    return value if type(value) is int else missing
