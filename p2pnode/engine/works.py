"""What a request has come to within the batcher: an answer being drawn, or one being scored, and its grammar."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from p2pnode.engine.api import (
    LOGPROB_MIN,
    GenerateRequest,
    LogProb,
    SchemaRefused,
    ScoredToken,
    TokenLogProbs,
)
from p2pnode.engine.grammars import TokensBreakSchema
from p2pnode.engine.stops import StopScanner
from protocol.session.sampling import Draw, margin


class GrammarBook(Protocol):
    """What batching needs of grammars; ``Grammars`` is one."""

    def open(self, number: int, grammar: str, emitted: Sequence[int]) -> None: ...

    def permits(self, number: int, accepted: Sequence[int], ids: NDArray[np.int64]) -> NDArray[np.bool_]: ...

    def close(self, number: int) -> None: ...


class Constraint:
    """The grammar of one request, and the tokens that it was not told of yet."""

    def __init__(self, book: GrammarBook, number: int) -> None:
        self._book = book
        self._number = number
        self._accepted: list[int] = []
        self.refused: SchemaRefused | None = None
        """Why nothing is permitted any more."""

    @property
    def broken(self) -> bool:
        """Whether the tokens so far, which others drew, are not what the schema permits."""
        return isinstance(self.refused, TokensBreakSchema)

    def accept(self, token: int) -> None:
        """A token of the answer."""
        self._accepted.append(token)

    def permits(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For sampling: which of these may come next; none once it is refused."""
        if self.refused is None:
            accepted, self._accepted = self._accepted, []
            try:
                return self._book.permits(self._number, accepted, ids)
            except SchemaRefused as error:
                self.refused = error
        return np.zeros(len(ids), dtype=np.bool_)


@dataclass(slots=True)
class Generating:
    """An answer being drawn."""

    request: GenerateRequest
    scanner: StopScanner
    count: int
    """Tokens of the answer so far."""
    constraint: Constraint | None = None

    def draw(self, recent: NDArray[np.int32]) -> Draw:
        """What the next token is drawn under."""
        permits = None if self.constraint is None else self.constraint.permits
        return Draw(self.request.sampling, self.request.lane_seed, self.count, recent, permits)

    def refusal(self) -> SchemaRefused:
        """Why no token could be drawn."""
        refused = None if self.constraint is None else self.constraint.refused
        return refused or SchemaRefused("the model has no token with which the schema could be held to from here on")


@dataclass(slots=True)
class Scoring:
    """Claimed tokens being scored."""

    request: GenerateRequest
    claimed: tuple[int, ...]
    constraint: Constraint | None = None
    scores: list[ScoredToken] = field(default_factory=list)

    def score(self, logits: NDArray[np.float32], recent: NDArray[np.int32]) -> None:
        """Score the next claimed token."""
        token = self.claimed[len(self.scores)]
        position = len(self.request.emitted) + len(self.scores)
        permits = None if self.constraint is None else self.constraint.permits
        draw = Draw(self.request.sampling, self.request.lane_seed, position, recent, permits)
        distance = margin(logits, draw, token)
        if self.constraint is not None:
            self.constraint.accept(token)
        self.scores.append(ScoredToken(token, distance, log_probability(logits, token)))


def log_probability(logits: NDArray[np.float32], token: int) -> float:
    """Of one token, at temperature 1 and without penalties."""
    return max(float(logits[token]) - _log_total(logits), LOGPROB_MIN)


def log_probabilities(
    logits: NDArray[np.float32], token: int, top: int, piece: Callable[[int], bytes]
) -> TokenLogProbs:
    """Those of one token and of the ``top`` likeliest."""
    total = _log_total(logits)

    def of(each: int) -> LogProb:
        return LogProb(each, piece(each), max(float(logits[each]) - total, LOGPROB_MIN))

    if not top:
        return TokenLogProbs(of(token), ())
    edge = np.partition(logits, len(logits) - top)[len(logits) - top]
    likely = np.flatnonzero(logits >= edge)
    ordered = likely[np.argsort(-logits[likely], kind="stable")][:top]
    return TokenLogProbs(of(token), tuple(map(of, ordered.tolist())))


def _log_total(logits: NDArray[np.float32]) -> float:
    top = float(logits.max())
    return top + float(np.log(np.exp(logits - np.float32(top), dtype=np.float64).sum()))
