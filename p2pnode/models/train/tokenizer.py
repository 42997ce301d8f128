"""Learning a vocabulary from the corpus, and cutting text exactly as llama.cpp will.

The trainer is plain byte-pair encoding over words (a word is its letters with the space before it; digits and marks
stand alone). The encoder is not the trainer's: it repeats llama.cpp's SPM algorithm, since the shipped model will
see that one.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

from p2pnode.models.vocabulary import BYTE, CONTROL, END, SPACE, SPECIALS, Turn, Vocabulary, base_vocabulary

__all__ = ["Tokenizer", "learn"]

_WORDS = re.compile(rf"{SPACE}?[A-Za-z]+|{SPACE}?[0-9]+|{SPACE}?[^A-Za-z0-9{SPACE}]|{SPACE}")
_CHUNKS = re.compile(rf"{SPACE}?[^{SPACE}]+|{SPACE}")


def _joins(symbols: Sequence[str]) -> Iterable[tuple[str, str]]:
    return pairwise(symbols)


def learn(texts: Iterable[str], size: int) -> Vocabulary:
    """Return a vocabulary of at most `size` tokens: the most frequent pair is joined first, ties by spelling."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORDS.findall(text.replace(" ", SPACE)))
    words = [(list(word), number) for word, number in sorted(counts.items())]
    pairs: Counter[tuple[str, str]] = Counter()
    seen_in: dict[tuple[str, str], set[int]] = defaultdict(set)
    for at, (symbols, number) in enumerate(words):
        for pair in _joins(symbols):
            pairs[pair] += number
            seen_in[pair].add(at)
    joined: list[str] = []
    room = size - len(base_vocabulary([]))
    while len(joined) < room and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        joined.append("".join(best))
        for at in sorted(seen_in[best]):
            symbols, number = words[at]
            for pair in _joins(symbols):
                pairs[pair] -= number
            symbols[:] = _join(symbols, best)
            for pair in _joins(symbols):
                pairs[pair] += number
                seen_in[pair].add(at)
        del pairs[best], seen_in[best]
    return base_vocabulary(list(dict.fromkeys(joined)))


def _join(symbols: Sequence[str], pair: tuple[str, str]) -> list[str]:
    found: list[str] = []
    at = 0
    while at < len(symbols):
        if tuple(symbols[at : at + 2]) == pair:
            found.append("".join(pair))
            at += 2
        else:
            found.append(symbols[at])
            at += 1
    return found


class Tokenizer:
    """llama.cpp's SPM tokenizer, for text without special tokens, and the chat format around it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Prepare the look-ups for a vocabulary."""
        self.vocabulary = vocabulary
        kinds = vocabulary.types
        self._ids = {piece: at for at, piece in enumerate(vocabulary.pieces) if kinds[at] not in (CONTROL, BYTE)}
        self._first_byte = vocabulary.id_of("<0x00>")
        self._chunk = lru_cache(maxsize=65_536)(self._cut)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text; no token joins across a space, so words are cut one by one."""
        return [token for chunk in _CHUNKS.findall(text.replace(" ", SPACE)) for token in self._chunk(chunk)]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of the tokens, specials left out."""
        data = bytearray()
        for token in tokens:
            if self.vocabulary.types[token] == BYTE:
                data.append(token - self._first_byte)
            elif self.vocabulary.types[token] != CONTROL:
                data += self.vocabulary.pieces[token].replace(SPACE, " ").encode()
        return data.decode(errors="replace")

    def encode_chat(self, turns: Iterable[Turn]) -> tuple[list[int], list[bool]]:
        """Return the ids of a conversation and, for each, whether the model is to learn to say it."""
        end = SPECIALS.index(END)
        tokens, learned = [SPECIALS.index("<s>")], [False]
        for role, text in turns:
            body = [*self.encode(text.strip()), end]
            tokens += [SPECIALS.index(f"<|{role}|>"), *body]
            learned += [False, *([role == "assistant"] * len(body))]
        return tokens, learned

    def _cut(self, chunk: str) -> tuple[int, ...]:
        """Join the best-scoring neighbours until none joins; what is no piece becomes bytes."""
        symbols: list[str | None] = list(chunk)
        before, after = list(range(-1, len(chunk) - 1)), list(range(1, len(chunk) + 1))
        heap: list[tuple[float, int, int, str]] = []

        def offer(left: int, right: int) -> None:
            if left < 0 or right >= len(symbols):
                return
            piece = f"{symbols[left]}{symbols[right]}"
            if piece in self._ids:
                heapq.heappush(heap, (-self.vocabulary.scores[self._ids[piece]], left, right, piece))

        for at in range(len(chunk) - 1):
            offer(at, at + 1)
        while heap:
            _, left, right, piece = heapq.heappop(heap)
            if symbols[left] is None or symbols[right] is None or f"{symbols[left]}{symbols[right]}" != piece:
                continue
            symbols[left], symbols[right] = piece, None
            after[left] = after[right]
            if after[right] < len(symbols):
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])
        return tuple(token for symbol in symbols if symbol is not None for token in self._ids_of(symbol))

    def _ids_of(self, symbol: str) -> list[int]:
        if symbol in self._ids:
            return [self._ids[symbol]]
        return [self._first_byte + value for value in symbol.encode()]
