"""From trained weights to GGUF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from p2pnode.models.gguf_file import Shape, write_gguf
from p2pnode.models.train.network import Llama
from p2pnode.models.vocabulary import Vocabulary

__all__ = ["export"]

_DESCRIPTION = (
    "A tiny English chat model for tests and demonstrations of p2pnode, trained from scratch on conversations made by "
    "a script. It knows only simple facts about animals and everyday things and tells very short stories."
)


def export(model: Llama, shape: Shape, vocabulary: Vocabulary, path: Path, *, size: str, kind: str) -> None:
    """Write one file; the same weights give the same bytes."""
    weights = {name: weight.numpy() for name, weight in model.tensors().items()}

    def tensor(name: str, expected: tuple[int, ...]) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = weights[name]
        if values.shape != expected:
            raise ValueError(f"{name} has shape {values.shape}, expected {expected}")
        return values

    write_gguf(
        path,
        shape=shape,
        vocabulary=vocabulary,
        kind=kind,
        name=f"p2pnode {size}",
        description=_DESCRIPTION,
        tensor=tensor,
    )
