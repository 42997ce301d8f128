"""llama.cpp, as far as an engine needs it, with types and errors of ours.

Nothing else imports ``llama_cpp``; only the worker process imports this.

Sequences live in KV streams of their own (``kv_unified`` off). In one shared buffer the cells of a sequence may lie
out of order once others have come and gone, attention sums them in half precision in the order of the cells, and
logits would differ in the last bits with the company a sequence keeps. With a stream each they are the same bits
alone or among others, generated or prefilled, as long as every call is one micro-batch: so ``decode`` takes no more.
"""

import ctypes
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from p2pnode.engine.api import MICROBATCH_TOKENS, EngineError, ModelInfo, ModelLoadError

CONTEXT_DEFAULT_MAX = 4_096
SPLIT_ATTENTION_CELLS = 256
"""From here on, with several threads, llama.cpp splits the attention of a lone row by thread, and sums otherwise."""
_LOG_WARN = 3

_log: deque[str] = deque(maxlen=40)


_echo_log = False


def _take_log(level: int, text: bytes, _data: object) -> None:
    if _echo_log:
        sys.stderr.write(text.decode(errors="replace"))
    if level >= _LOG_WARN:
        _log.append(text.decode(errors="replace").strip())


_log_callback = native.llama_log_callback(_take_log)


def _start_backend(debug: bool) -> None:
    global _echo_log
    _echo_log = debug
    native.llama_log_set(_log_callback, ctypes.c_void_p(0))
    native.llama_backend_init()


class _Batch:
    """The arrays behind one ``llama_batch``, allocated once and written through numpy."""

    def __init__(self, rows: int) -> None:
        self.tokens = np.zeros(rows, dtype=np.int32)
        self.positions = np.zeros(rows, dtype=np.int32)
        self.sequences = np.zeros(rows, dtype=np.int32)
        self.wanted = np.zeros(rows, dtype=np.int8)
        self._sequence_counts = np.ones(rows, dtype=np.int32)
        first = self.sequences.ctypes.data
        self._sequence_pointers = np.array([first + 4 * row for row in range(rows)], dtype=np.uintp)
        int32_p = ctypes.POINTER(ctypes.c_int32)
        self.native = native.llama_batch(
            n_tokens=0,
            token=self.tokens.ctypes.data_as(int32_p),
            embd=None,
            pos=self.positions.ctypes.data_as(int32_p),
            n_seq_id=self._sequence_counts.ctypes.data_as(int32_p),
            seq_id=self._sequence_pointers.ctypes.data_as(ctypes.POINTER(int32_p)),
            logits=self.wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )


class Llama:
    """A loaded model and its context of ``slots`` sequences. Not thread-safe.

    Raises ModelLoadError on construction. ``threads``: of the decode; ``context_slot_tokens`` 0: the training
    context, at most 4,096.
    """

    def __init__(
        self,
        path: Path,
        *,
        slots: int,
        context_slot_tokens: int = 0,
        threads: int = 1,
        gpu_layers: int = 0,
        microbatch_tokens: int = MICROBATCH_TOKENS,
        debug: bool = False,
    ) -> None:
        _start_backend(debug)
        self._model = _load(path, gpu_layers)
        self._vocab = native.llama_model_get_vocab(self._model)
        self.vocab_size: int = native.llama_vocab_n_tokens(self._vocab)
        trained = int(native.llama_model_n_ctx_train(self._model))
        self.context_tokens = context_slot_tokens or min(trained, CONTEXT_DEFAULT_MAX)
        self.slots = slots
        self.microbatch_tokens = microbatch_tokens
        self._threads = threads
        self._streams = max(slots, 2)
        # One more cell than promised: room for the padding row of decode.
        cells = (self.context_tokens + 1 + 255) // 256 * 256 * self._streams
        self._context = self._new_context(path, cells, self._streams, embeddings=False)
        self._memory = native.llama_get_memory(self._context)
        self._batch = _Batch(microbatch_tokens + 1)
        self._logits: dict[int, NDArray[np.float32]] = {}
        self._embedder: int | None = None
        self._path = path
        self._pieces: dict[int, bytes] = {}
        self.end_tokens = frozenset(
            token for token in range(self.vocab_size) if native.llama_vocab_is_eog(self._vocab, token)
        )
        self.embedding_size: int = native.llama_model_n_embd(self._model)
        self._trained_tokens = trained

    def _new_context(self, path: Path, cells: int, sequences: int, *, embeddings: bool) -> int:
        params = native.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = self.microbatch_tokens
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = self._threads
        params.kv_unified = False
        params.swa_full = True
        params.no_perf = True
        if embeddings:
            params.embeddings = True
            params.pooling_type = native.LLAMA_POOLING_TYPE_NONE
        context: int | None = native.llama_init_from_model(self._model, params)
        if context is None:
            raise ModelLoadError(
                f"{path}: no memory for {cells} context cells{_last_log()}; try fewer slots or a smaller context"
            )
        return context

    def info(self, *, takes_tools: bool) -> ModelInfo:
        """What the model says of itself, with what was found out by filling its chat template."""
        kind = native.llama_ftype_name(native.llama_model_ftype(self._model)) or b"unknown"
        return ModelInfo(
            architecture=self.metadata("general.architecture") or "unknown",
            parameters=native.llama_model_n_params(self._model),
            quantization=kind.decode(),
            vocab_size=self.vocab_size,
            context_train_tokens=self._trained_tokens,
            context_slot_tokens=self.context_tokens,
            slots=self.slots,
            embedding_size=self.embedding_size,
            has_chat_template=self.metadata("tokenizer.chat_template") is not None,
            takes_tools=takes_tools,
            build=_build(),
        )

    def metadata(self, key: str) -> str | None:
        """A value of the GGUF header, as text."""
        size = 4_096
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = native.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
            if length < 0:
                return None
            if length < size:
                return buffer.raw[:length].decode(errors="replace")
            size = length + 1

    def decode(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        slots: NDArray[np.int32],
        wanted: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """Run one micro-batch: either one token each for consecutive slots in ascending order, or some consecutive
        tokens of one slot.

        Returns the logits of the wanted rows, float32[rows, vocab]: llama.cpp's own memory, valid until the next
        call. Raises EngineError.
        """
        batch, count = self._batch, len(tokens)
        rows = slice(0, count)
        padded = count == 1 and self._threads > 1 and int(positions[0]) >= SPLIT_ATTENTION_CELLS
        if padded:
            rows = self._pad(int(slots[0]))
        batch.tokens[rows], batch.positions[rows] = tokens, positions
        batch.sequences[rows], batch.wanted[rows] = slots, wanted
        batch.native.n_tokens = count + padded
        code = native.llama_decode(self._context, batch.native)
        if padded:
            other = 1 - rows.start
            sequence, position = int(batch.sequences[other]), int(batch.positions[other])
            native.llama_memory_seq_rm(self._memory, sequence, position, -1)
        if code != 0:
            raise EngineError(f"llama_decode returned {code} for {count} tokens{_last_log()}")
        outputs = int(np.count_nonzero(wanted))
        return self._logits_view()[:outputs] if outputs else np.empty((0, self.vocab_size), dtype=np.float32)

    def _pad(self, slot: int) -> slice:
        """Put a row of the next slot beside a lone one, so that its attention is not split by thread; it is taken
        out again after the call. Returns where the lone row belongs: sequences must ascend."""
        neighbour = slot + 1 if slot + 1 < self._streams else slot - 1
        row = 1 if neighbour > slot else 0
        self._batch.tokens[row] = 0
        self._batch.positions[row] = native.llama_memory_seq_pos_max(self._memory, neighbour) + 1
        self._batch.sequences[row] = neighbour
        self._batch.wanted[row] = 0
        return slice(1 - row, 2 - row)

    def _logits_view(self) -> NDArray[np.float32]:
        pointer = native.llama_get_logits(self._context)
        address = ctypes.addressof(pointer.contents)
        view = self._logits.get(address)
        if view is None:
            # The buffer holds at least one row per token of a micro-batch; it moves only when llama.cpp grows it.
            self._logits.clear()
            shape = (self.microbatch_tokens, self.vocab_size)
            view = self._logits[address] = np.ctypeslib.as_array(pointer, shape)
        return view

    def forget(self, slot: int, start: int) -> None:
        """Drop a slot's cells from position ``start`` on."""
        native.llama_memory_seq_rm(self._memory, slot, start, -1)

    def copy(self, source: int, target: int, length: int) -> None:
        """Make ``target`` hold the first ``length`` cells of ``source``: one copy of the whole stream."""
        native.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        native.llama_memory_seq_rm(self._memory, target, length, -1)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids; ``add_special`` adds what the model's header asks for (BOS)."""
        raw = text.encode(errors="replace")
        room = len(raw) + 16
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = native.llama_tokenize(self._vocab, raw, len(raw), buffer, room, add_special, parse_special)
            if count >= 0:
                return buffer[:count]
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes of one token; those of a control token are none."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._new_piece(token)
        return known

    def _new_piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = native.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    def control_tokens(self) -> dict[int, str]:
        """Every token that only a template may bring in, with the text it is written as."""
        mask = native.LLAMA_TOKEN_ATTR_CONTROL | native.LLAMA_TOKEN_ATTR_UNKNOWN
        return {
            token: native.llama_vocab_get_text(self._vocab, token).decode(errors="replace")
            for token in range(self.vocab_size)
            if native.llama_vocab_get_attr(self._vocab, token) & mask
        }

    @property
    def bos(self) -> int | None:
        """The token every prompt begins with, if the model wants one."""
        wanted = native.llama_vocab_get_add_bos(self._vocab)
        return int(native.llama_vocab_bos(self._vocab)) if wanted else None

    def token_text(self, name: str) -> str:
        """The text of ``bos`` or ``eos``, as chat templates name them; empty if there is none."""
        token = int(getattr(native, f"llama_vocab_{name}")(self._vocab))
        return "" if token < 0 else native.llama_vocab_get_text(self._vocab, token).decode(errors="replace")

    def hidden_sum(self, tokens: Sequence[int], start: int) -> NDArray[np.float64]:
        """The sum of the last hidden states of at most a micro-batch of a text's tokens, the first of which stands
        at ``start``: float64[embedding_size]. Texts come one after the other, each from its first token on."""
        if self._embedder is None:
            cells = (self.context_tokens + 255) // 256 * 256
            self._embedder = self._new_context(self._path, cells, 1, embeddings=True)
        if start == 0:
            native.llama_memory_clear(native.llama_get_memory(self._embedder), False)
        batch, rows = self._batch, len(tokens)
        batch.tokens[:rows] = tokens
        batch.positions[:rows] = np.arange(start, start + rows)
        batch.sequences[:rows] = 0
        batch.wanted[:rows] = 1
        batch.native.n_tokens = rows
        code = native.llama_decode(self._embedder, batch.native)
        if code != 0:
            raise EngineError(f"llama_decode returned {code} for an embedding of {rows} tokens at {start}")
        states = np.ctypeslib.as_array(native.llama_get_embeddings(self._embedder), (rows, self.embedding_size))
        return np.asarray(states.sum(axis=0, dtype=np.float64))

    def close(self) -> None:
        """Free all memory; the object is of no use afterwards."""
        if self._embedder is not None:
            native.llama_free(self._embedder)
        native.llama_free(self._context)
        native.llama_model_free(self._model)


def _load(path: Path, gpu_layers: int) -> int:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelLoadError(f"{path}: {error.strerror}; name a GGUF file that this process can read") from error
    if magic != b"GGUF":
        raise ModelLoadError(f"{path}: begins with {magic!r}, not b'GGUF'; it is no model file, or a broken download")
    _log.clear()
    params = native.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    model: int | None = native.llama_model_load_from_file(str(path).encode(), params)
    if model is None:
        raise ModelLoadError(
            f"{path}: llama.cpp cannot load it{_last_log()}; compare its sha256 with its name and fetch it again, "
            f"or use a model of an architecture that this build ({_build()}) knows"
        )
    if native.llama_model_is_recurrent(model) or native.llama_model_is_hybrid(model):
        native.llama_model_free(model)
        raise ModelLoadError(f"{path}: models with recurrent state are not served: their cache cannot be cut back")
    if not native.llama_model_has_decoder(model) or native.llama_model_has_encoder(model):
        native.llama_model_free(model)
        raise ModelLoadError(f"{path}: it does not generate text token by token; choose a decoder-only model")
    return model


def _last_log() -> str:
    return f" ({'; '.join(list(_log)[-3:])})" if _log else ""


def _build() -> str:
    features = native.llama_print_system_info().decode()
    enabled = [part.split("=")[0].strip() for part in features.split("|") if part.strip().endswith("= 1")]
    return f"llama.cpp {native.llama_version().decode()} {' '.join(enabled)}"
