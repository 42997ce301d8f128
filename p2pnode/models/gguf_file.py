"""Writing small Llama models as GGUF files: shape, metadata, tokenizer, tensors one at a time.

Shared by the export of trained weights and by random test models. Tensors are written as they come, so the memory
needed is that of one tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gguf
import numpy as np
import numpy.typing as npt

from p2pnode.models.vocabulary import CHAT_TEMPLATE, END, Vocabulary

__all__ = ["NORM_EPSILON", "ROPE_BASE", "TYPES", "Shape", "tensor_shapes", "write_gguf"]

NORM_EPSILON: Final = 1e-5
ROPE_BASE: Final = 10_000.0

type_of = gguf.GGMLQuantizationType
TYPES: Final = {"f16": type_of.F16, "q8_0": type_of.Q8_0, "q4_0": type_of.Q4_0}
_FILE_TYPES: Final = {
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The numbers that define a Llama model. `width` and `ff` must be multiples of 32 (the quantised block)."""

    layers: int
    width: int
    heads: int
    ff: int
    vocabulary: int
    context: int = 512

    def __post_init__(self) -> None:
        """Refuse shapes that llama.cpp cannot load."""
        if self.width % 32 or self.ff % 32:
            raise ValueError(f"width {self.width} and ff {self.ff} must be multiples of 32")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} does not split into {self.heads} heads of even width")


def tensor_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return every tensor's name and shape (rows, columns), in file order."""
    wide, ff = shape.width, shape.ff
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape.vocabulary, wide), "output_norm.weight": (wide,)}
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (wide,), "attn_q": (wide, wide), "attn_k": (wide, wide), "attn_v": (wide, wide),
        "attn_output": (wide, wide), "ffn_norm": (wide,), "ffn_gate": (ff, wide), "ffn_up": (ff, wide),
        "ffn_down": (wide, ff),
    }  # fmt: skip
    for at in range(shape.layers):
        found |= {f"blk.{at}.{name}.weight": size for name, size in layer.items()}
    return found


def _type_in(kind: str, name: str, size: tuple[int, ...]) -> gguf.GGMLQuantizationType:
    """Norms stay exact, and the embedding (which is the output layer too) is never below eight bits."""
    if len(size) == 1:
        return type_of.F32
    return type_of.Q8_0 if kind == "q4_0" and name == "token_embd.weight" else TYPES[kind]


def _add_metadata(writer: gguf.GGUFWriter, shape: Shape, vocabulary: Vocabulary, kind: str) -> None:
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(vocabulary.pieces))
    writer.add_token_scores(list(vocabulary.scores))
    writer.add_token_types(list(vocabulary.types))
    writer.add_unk_token_id(vocabulary.id_of("<unk>"))
    writer.add_bos_token_id(vocabulary.id_of("<s>"))
    writer.add_eos_token_id(vocabulary.id_of(END))
    writer.add_eot_token_id(vocabulary.id_of(END))
    writer.add_pad_token_id(vocabulary.id_of("</s>"))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    # Otherwise a space token would follow each special token.
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_gguf(
    path: Path,
    *,
    shape: Shape,
    vocabulary: Vocabulary,
    kind: str,
    name: str,
    description: str,
    tensor: Callable[[str, tuple[int, ...]], npt.NDArray[np.float32]],
) -> None:
    """Write a model; `tensor(name, shape)` is asked for each tensor's values in file order.

    Raises:
        ValueError: the vocabulary has not the size that the shape names.
    """
    if len(vocabulary) != shape.vocabulary:
        raise ValueError(f"vocabulary of {len(vocabulary)} tokens for a shape with {shape.vocabulary}")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_description(description)
    writer.add_license("apache-2.0")
    writer.add_author("the p2pnode authors")
    writer.add_languages(["en"])
    _add_metadata(writer, shape, vocabulary, kind)
    sizes = tensor_shapes(shape)
    for tensor_name, size in sizes.items():
        stored = _type_in(kind, tensor_name, size)
        block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
        nbytes = int(np.prod(size)) // block * block_bytes
        writer.add_tensor_info(tensor_name, size, np.dtype(np.float32), nbytes, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor_name, size in sizes.items():
        values = np.ascontiguousarray(tensor(tensor_name, size), dtype=np.float32)
        writer.write_tensor_data(gguf.quants.quantize(values, _type_in(kind, tensor_name, size)))
    writer.close()
