"""A random model is a complete file: its metadata is right, llama.cpp loads it, cuts text as we do, and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import pytest

from p2pnode.models.gguf_file import Shape, tensor_shapes
from p2pnode.models.random_gguf import write_random_gguf
from p2pnode.models.train.tokenizer import Tokenizer
from p2pnode.models.vocabulary import CHAT_TEMPLATE, SPECIALS, filler_vocabulary

SHAPE = Shape(layers=1, width=32, heads=2, ff=64, vocabulary=512, context=128)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "random.gguf"
    write_random_gguf(path, SHAPE, 1)
    return path


def test_same_seed_same_bytes(path: Path, tmp_path: Path) -> None:
    write_random_gguf(tmp_path / "again.gguf", SHAPE, 1)
    write_random_gguf(tmp_path / "other.gguf", SHAPE, 2)
    assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()
    assert (tmp_path / "other.gguf").read_bytes() != path.read_bytes()


@pytest.mark.parametrize(
    ("kind", "embedding", "matrix"), [("f16", "F16", "F16"), ("q8_0", "Q8_0", "Q8_0"), ("q4_0", "Q8_0", "Q4_0")]
)
def test_tensors_have_the_shape_and_type_asked_for(tmp_path: Path, kind: str, embedding: str, matrix: str) -> None:
    write_random_gguf(tmp_path / "model.gguf", SHAPE, kind=kind)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert {name: tuple(map(int, tensor.shape[::-1])) for name, tensor in tensors.items()} == tensor_shapes(SHAPE)
    assert tensors["token_embd.weight"].tensor_type.name == embedding
    assert tensors["blk.0.attn_q.weight"].tensor_type.name == matrix
    assert tensors["output_norm.weight"].tensor_type.name == "F32"


def test_metadata_says_what_the_runtime_must_know(path: Path) -> None:
    fields = gguf.GGUFReader(path).fields
    said = {name: field.contents() for name, field in fields.items() if name != "tokenizer.ggml.tokens"}
    expected = {
        "general.architecture": "llama",
        "general.license": "apache-2.0",
        "llama.context_length": 128,
        "llama.embedding_length": 32,
        "llama.block_count": 1,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.bos_token_id": SPECIALS.index("<s>"),
        "tokenizer.ggml.eos_token_id": SPECIALS.index("<|end|>"),
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    assert {name: said[name] for name in expected} == expected


def test_llama_cpp_loads_it_and_answers(path: Path) -> None:
    model = llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, n_threads_batch=1, verbose=False)
    try:
        ours = Tokenizer(filler_vocabulary(SHAPE.vocabulary))
        for text in ("the rest of it", "Hällo  Wörld 😀", "a\nb"):
            assert model.tokenize(text.encode(), add_bos=False, special=False) == ours.encode(text)
        answer: Any = model.create_chat_completion([{"role": "user", "content": "hi"}], max_tokens=8, temperature=0.0)
        # <s> <|user|> h i <|end|> <|assistant|>: the template brings the one start token, and no space is added.
        assert answer["usage"] == {"prompt_tokens": 6, "completion_tokens": 8, "total_tokens": 14}
    finally:
        model.close()


def test_shapes_that_cannot_be_loaded_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        Shape(layers=1, width=48, heads=2, ff=64, vocabulary=512)
    with pytest.raises(ValueError, match="heads"):
        Shape(layers=1, width=64, heads=3, ff=64, vocabulary=512)
