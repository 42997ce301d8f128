"""A model of a few lines for tests: its logits are a hash of all tokens before, so any slip in the cache shows."""

import zlib

import numpy as np
from numpy.typing import NDArray

END = 63
VOCAB = 64


class TinyModel:
    """Implements batcher.Model. Token t says one letter; END says nothing."""

    def __init__(self, slots: int = 4, context_tokens: int = 256, microbatch_tokens: int = 32) -> None:
        self.slots = slots
        self.context_tokens = context_tokens
        self.vocab_size = VOCAB
        self.microbatch_tokens = microbatch_tokens
        self.end_tokens = frozenset({END})
        self.cells: list[list[int]] = [[] for _ in range(slots)]
        self.calls: list[list[tuple[int, int]]] = []
        """Per decode: (slot, token) of each row."""
        self.copies: list[tuple[int, int, int]] = []
        self.end_bias = -100.0

    def decode(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        slots: NDArray[np.int32],
        wanted: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        assert 1 <= len(tokens) <= self.microbatch_tokens
        assert len(set(slots)) in (1, len(tokens)), "one token each, or all of one slot"
        assert list(slots) == sorted(slots)
        if len(set(slots)) > 1:
            assert list(slots) == list(range(slots[0], slots[0] + len(slots))), "slots must be consecutive"
        self.calls.append([(int(slot), int(token)) for slot, token in zip(slots, tokens, strict=True)])
        rows = []
        for token, position, slot, want in zip(tokens, positions, slots, wanted, strict=True):
            assert position == len(self.cells[slot]), f"slot {slot} holds {len(self.cells[slot])}, not {position}"
            self.cells[slot].append(int(token))
            if want:
                rows.append(self.logits(self.cells[slot]))
        return np.array(rows, dtype=np.float32).reshape(len(rows), VOCAB)

    def logits(self, history: list[int]) -> NDArray[np.float32]:
        seed = zlib.crc32(np.array(history, dtype=np.int32).tobytes())
        values = np.random.default_rng(seed).standard_normal(VOCAB).astype(np.float32) * 3
        values[END] += self.end_bias
        return values

    def forget(self, slot: int, start: int) -> None:
        del self.cells[slot][start:]

    def copy(self, source: int, target: int, length: int) -> None:
        assert source != target
        self.copies.append((source, target, length))
        self.cells[target] = self.cells[source][:length]

    def piece(self, token: int) -> bytes:
        return b"" if token == END else bytes([97 + token % 26])
