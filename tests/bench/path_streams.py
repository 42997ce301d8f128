"""What the path bench orders of every contestant, and what each stream brings home."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    streams: tuple[int, ...]
    tokens: int
    answers: int
    repetitions: int
    miners: int
    spread_s: float
    """Over how long the streams start: one token's time is the worst case, an order from all of them at once."""
    questions: Sequence[str] = ("Stream {stream}, question {number}.",)
    """What the streams ask, in turn; ``{number}`` counts a stream's answers."""
    exact: bool = True
    """An answer has as many tokens as were asked for, or some were lost."""

    def question(self, stream: int) -> str:
        """What one stream asks, with ``{number}`` left to fill in."""
        return self.questions[stream % len(self.questions)].replace("{stream}", str(stream))

    def order(self, streams: int, first: int = 0) -> dict[str, Any]:
        """For a client's process that holds some of the streams, from the first on."""
        return {
            "do": "stream",
            "streams": streams,
            "answers": self.answers,
            "tokens": self.tokens,
            "spread_s": self.spread_s,
            "questions": [self.question(stream) for stream in range(first, first + streams)],
            "exact": self.exact,
        }


@dataclass
class StreamResult:
    """One stream that asked for some answers, one after the other. Times in seconds."""

    first_s: list[float] = field(default_factory=list)
    """Of each answer: from the question to the first token."""
    token_s: list[float] = field(default_factory=list)
    """Of each answer: the mean time from one token to the next."""
    gap_s: list[float] = field(default_factory=list)
    """Of each answer: the longest time without a token after the first."""
    tokens: int = 0
    frames: int = 0
    elapsed_s: float = 0.0

    def add(self, asked: float, arrivals: list[float], tokens: int, frames: int) -> None:
        """Note one answer by when each of its pieces came."""
        self.first_s.append(arrivals[0] - asked)
        self.token_s.append((arrivals[-1] - arrivals[0]) / max(tokens - 1, 1))
        self.gap_s.append(max((b - a for a, b in pairwise(arrivals)), default=0.0))
        self.tokens += tokens
        self.frames += frames


@dataclass
class Carried:
    """All streams of one round."""

    results: list[StreamResult]
    wire_bytes: int = 0
    """Of TCP payload at the clients' sockets, both directions."""
