"""A grammar over a model's vocabulary: which token may come next. llama.cpp's own matcher, asked in bulk.

Only for a process that may die: on what it does not expect the matcher aborts, and what it costs is up to the grammar.
So it runs in children of ``grammar_process``, never in the worker.
"""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

FEW = 1_024
"""So many tokens are asked for as they are; of more only those whose first letter may come."""
_ENTRY = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_LOG_ERROR = 4


class GrammarError(Exception):
    """llama.cpp does not take the grammar, or the tokens so far are not what it permits."""


class Vocabulary:
    """The tokens of a model file, without its weights."""

    def __init__(self, path: Path) -> None:
        self._errors: list[str] = []
        self._log: Callable[..., None] = native.llama_log_callback(self._take_log)
        native.llama_log_set(self._log, ctypes.c_void_p(0))
        params = native.llama_model_default_params()
        params.vocab_only = True
        model = native.llama_model_load_from_file(str(path).encode(), params)
        if model is None:
            raise GrammarError(f"{path}: its vocabulary cannot be loaded")
        self.native = native.llama_model_get_vocab(model)
        self.size: int = native.llama_vocab_n_tokens(self.native)
        self.first_byte = np.full(self.size, 256, dtype=np.int16)
        """256: of a token that says nothing."""
        letters: dict[int, int] = {}
        room = ctypes.create_string_buffer(4)
        for token in range(self.size):
            length = native.llama_token_to_piece(self.native, token, room, len(room), 0, False)
            if length < 0:
                long = ctypes.create_string_buffer(-length)
                native.llama_token_to_piece(self.native, token, long, -length, 0, False)
                self.first_byte[token] = long.raw[0]
            elif length:
                self.first_byte[token] = room.raw[0]
                if length == 1 and room.raw[0] < 128:
                    letters[room.raw[0]] = token
        self.silent = self.first_byte == 256
        """Control tokens that end nothing. The matcher takes them for the words they are written as; they say nothing,
        so they are never permitted."""
        for token in np.flatnonzero(self.silent).tolist():
            self.silent[token] = not self.is_end(token)
        self.letters = np.array(sorted(letters.values()), dtype=np.int64)
        """One token for each letter that is a token by itself."""

    def is_end(self, token: int) -> bool:
        """Whether the token ends an answer."""
        return bool(native.llama_vocab_is_eog(self.native, token))

    def last_error(self) -> str:
        """What llama.cpp complained of last, and nothing of it any more."""
        said, self._errors = "".join(self._errors).strip(), []
        return said[:200]

    def _take_log(self, level: int, text: bytes, _data: object) -> None:
        if level >= _LOG_ERROR:
            self._errors = [*self._errors, text.decode(errors="replace")][-4:]


class Grammar:
    """One answer's place in a grammar. Raises GrammarError."""

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        self._vocabulary = vocabulary
        self._sampler = native.llama_sampler_init_grammar(vocabulary.native, text.encode(), b"root")
        if not self._sampler:
            raise GrammarError(vocabulary.last_error() or "llama.cpp does not take the grammar")
        self._ended = False

    def accept(self, tokens: Sequence[int]) -> None:
        """Go on behind some tokens. Raises GrammarError if they are not permitted."""
        for token in tokens:
            if self._ended or not self._apply(np.array([token]))[0]:
                raise GrammarError("the tokens so far are not what the schema permits")
            self._ended = self._vocabulary.is_end(token)
            if not self._ended:
                native.llama_sampler_accept(self._sampler, token)

    def permits(self, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the asked tokens may come next; both bool[vocabulary]."""
        answer = np.zeros(self._vocabulary.size, dtype=np.bool_)
        ids = np.flatnonzero(asked)
        if self._ended or not len(ids):
            return answer
        if len(ids) > FEW:
            # A token may come only if its first letter may. Bytes of longer letters, and those that are no token
            # by themselves, are not known in advance.
            may_begin = np.ones(257, dtype=np.bool_)
            letters = self._vocabulary.letters
            may_begin[self._vocabulary.first_byte[letters]] = self._apply(letters)
            ids = ids[may_begin[self._vocabulary.first_byte[ids]]]
        answer[ids] = self._apply(ids)
        return answer

    def _apply(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        entries = np.zeros(len(ids), dtype=_ENTRY)
        entries["id"] = ids
        array = native.llama_token_data_array(
            data=entries.ctypes.data_as(ctypes.POINTER(native.llama_token_data)),
            size=len(ids),
            selected=-1,
            sorted=False,
        )
        native.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return np.asarray((entries["logit"] > -np.inf) & ~self._vocabulary.silent[ids])
