"""Reading GGUF headers that nobody vouches for: what is found, what is refused, and that nothing else happens."""

import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pnode.models import gguf_header
from p2pnode.models.gguf_header import CorruptModel, GgufHeader, read_header
from p2pnode.models.store import SHIPPED

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def u32(key: str, value: int) -> bytes:
    return entry(key, U32, struct.pack("<I", value))


def array(key: str, kind: int, items: list[bytes]) -> bytes:
    return entry(key, ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items))


def tensor(name: str, dimensions: tuple[int, ...], kind: int, offset: int) -> bytes:
    shape = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return string(name) + shape + struct.pack("<IQ", kind, offset)


ENTRIES = (
    entry("general.architecture", STRING, string("llama")),
    entry("general.name", STRING, string("A Name")),
    u32("general.file_type", 7),
    u32("llama.context_length", 512),
    entry("llama.rope", F32, struct.pack("<f", 1.5)),
    entry("tokenizer.add_bos", BOOL, b"\1"),
    array("tokenizer.ggml.tokens", STRING, [string("a"), string("b"), string("c")]),
    array("tokenizer.ggml.scores", F32, [bytes(4)] * 3),
)
TENSORS = (tensor("token_embd.weight", (32, 4), 8, 0), tensor("norm.weight", (32,), 0, 160))


def model(
    entries: tuple[bytes, ...] = ENTRIES,
    tensors: tuple[bytes, ...] = TENSORS,
    *,
    version: int = 3,
    weights: int = 160 + 128,
    alignment: int = 32,
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries)) + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + bytes(weights)


def read(tmp_path: Path, data: bytes) -> GgufHeader:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return read_header(path)


def test_what_a_file_says_of_itself(tmp_path: Path) -> None:
    data = model()
    assert read(tmp_path, data) == GgufHeader("A Name", "llama", "Q8_0", 512, 3, 2, len(data))
    assert read(tmp_path, model(version=2)).architecture == "llama"


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.gguf")), ids=lambda path: path.name)
def test_the_shipped_files_read_as_the_reference_reader_reads_them(path: Path) -> None:
    header, reference = read_header(path), gguf.GGUFReader(path)
    assert header.architecture == reference.fields["general.architecture"].contents()
    assert header.name == reference.fields["general.name"].contents()
    assert header.context_tokens == reference.fields["llama.context_length"].contents()
    assert header.vocabulary == len(reference.fields["tokenizer.ggml.tokens"].contents())
    assert header.tensors == len(reference.tensors)
    assert header.quantization in path.name.upper()


def test_the_tables_are_ggmls() -> None:
    for number, (name, block, block_bytes) in gguf_header._TENSOR_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (name, block, block_bytes)
    for number, name in gguf_header._FILE_TYPES.items():
        assert gguf.LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_") == name


def test_without_a_file_type_the_most_weights_decide(tmp_path: Path) -> None:
    entries = tuple(item for item in ENTRIES if b"file_type" not in item)
    assert read(tmp_path, model(entries)).quantization == "Q8_0"
    assert read(tmp_path, model((*entries, u32("general.file_type", 999)))).quantization == "Q8_0"


def without(key: bytes, *others: bytes) -> bytes:
    return model((*(item for item in ENTRIES if key not in item), *others))


LONG = 2**63


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "does not start with 'GGUF'"),
        (b"PK\3\4" + bytes(100), "does not start with 'GGUF'"),
        (model(version=1), "GGUF version 1"),
        (model()[:4] + struct.pack(">I", 3) + model()[8:], "little-endian"),
        (model()[:20], "ends inside the number of metadata entries"),
        (model()[:-1], "the end is missing"),
        (model()[: len(model()) // 3], "ends inside"),
        (b"GGUF" + struct.pack("<IQQ", 3, LONG, 0), "the number of tensors is"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, LONG), "the number of metadata entries is"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, LONG), "the length of a metadata key"),
        (without(b"none", entry("x", STRING, struct.pack("<Q", LONG))), "ends inside metadata 'x'"),
        (without(b"none", entry("x", ARRAY, struct.pack("<IQ", U32, LONG))), "the number of items of metadata 'x'"),
        (without(b"none", entry("x", ARRAY, struct.pack("<IQ", ARRAY, 1))), "array of type 9"),
        (without(b"none", entry("x", 99, b"")), "unknown type 99"),
        (without(b"none", u32("general.file_type", 1)), "is there twice"),
        (model((string(b"\xff\xfe") + struct.pack("<II", U32, 1),)), "not UTF-8"),
        (without(b"architecture"), "general.architecture is missing"),
        (without(b"context_length"), "llama.context_length is missing"),
        (without(b"ggml.tokens"), "tokenizer.ggml.tokens is missing"),
        (without(b"context_length", entry("llama.context_length", STRING, string("512"))), "context_length is missing"),
        (without(b"none", u32("split.count", 3)), "part of a split model"),
        (without(b"none", u32("general.alignment", 33)), "alignment 33"),
        (without(b"none", u32("general.alignment", 0)), "alignment 0"),
        (model(tensors=()), "no weights"),
        (model(tensors=(tensor("t", (1,) * 5, 0, 0),)), "5 dimensions"),
        (model(tensors=(tensor("t", (LONG,), 0, 0),)), "a dimension of tensor 0"),
        (model(tensors=(tensor("t", (2**40,) * 4, 0, 0),)), "the end is missing"),
        (model(tensors=(tensor("t", (31,), 8, 0),)), "not aligned"),
        (model(tensors=(tensor("t", (32,), 8, 1),)), "not aligned"),
        (model(tensors=(tensor("t", (32,), 777, 2**20),)), "the end is missing"),
    ],
)
def test_a_corrupt_file_is_refused_with_what_is_wrong(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(CorruptModel) as caught:
        read(tmp_path, data)
    assert said in str(caught.value)
    assert "model.gguf" in str(caught.value)
    assert caught.value.hint


def test_a_header_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "HEADER_BYTES_MAX", 100)
    with pytest.raises(CorruptModel, match="the header goes beyond 100 bytes"):
        read(tmp_path, model())


def test_a_long_string_is_skipped_not_read(tmp_path: Path) -> None:
    long = entry("tokenizer.chat_template", STRING, string(bytes(gguf_header.STRING_BYTES_MAX + 1)))
    assert read(tmp_path, without(b"none", long)).context_tokens == 512


GOOD = model()
HEAD = len(GOOD) - 288
mutations = st.lists(
    st.tuples(
        st.integers(0, HEAD),
        st.sampled_from([b"", b"\0", b"\xff", b"\xff" * 8, b"\1\0\0\0", b"\t\0\0\0"]),
        st.integers(0, 8),
    ),
    min_size=1,
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(mutations=mutations, cut=st.integers(0, len(GOOD)))
def test_any_damage_is_either_harmless_or_named(
    tmp_path: Path, mutations: list[tuple[int, bytes, int]], cut: int
) -> None:
    data = GOOD
    for at, put, skip in mutations:
        data = data[:at] + put + data[at + skip :]
    for candidate in (data, data[:cut], b"GGUF" + data):
        try:
            header = read(tmp_path, candidate)
        except CorruptModel as error:
            assert len(str(error)) < 1000
        else:
            assert 0 < header.context_tokens < 2**32
            assert header.architecture


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    for start in (b"", b"GGUF\3\0\0\0", b"GGUF" + struct.pack("<IQQ", 3, 1, 1)):
        with pytest.raises(CorruptModel):
            read(tmp_path, start + data)
