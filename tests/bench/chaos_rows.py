"""What the chaos bench notes of a stream under a fault, and its table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LOST_ANSWER_S = 10.0
"""A stream over HTTP that says nothing for so long is given up."""


@dataclass
class Stream:
    """One answer under a fault."""

    completed: bool
    lost: int
    repeated: int
    differing: int
    segments: int
    gap_ms: float
    """The longest the client waited for a token after the fault struck."""
    error: str = ""


@dataclass
class Row:
    """All answers under one fault at one place."""

    kind: str
    place: str
    system: str = "p2pnode"
    streams: list[Stream] = field(default_factory=list)
    errors_after: int = 0
    requests_after: int = 0

    def summary(self) -> dict[str, Any]:
        """The figures of the table."""
        gaps = sorted(stream.gap_ms for stream in self.streams)
        return {
            "system": self.system,
            "fault": self.kind,
            "at": self.place,
            "streams": len(self.streams),
            "completed_percent": 100 * sum(s.completed for s in self.streams) / len(self.streams),
            "tokens_lost": sum(s.lost for s in self.streams),
            "tokens_repeated": sum(s.repeated for s in self.streams),
            "tokens_differing": sum(s.differing for s in self.streams),
            "failed_over": sum(s.segments > 1 for s in self.streams),
            "gap_p50_ms": round(gaps[len(gaps) // 2], 1),
            "gap_p99_ms": round(gaps[min(len(gaps) - 1, len(gaps) * 99 // 100)], 1),
            "requests_after": self.requests_after,
            "errors_after": self.errors_after,
            "errors": sorted({s.error for s in self.streams if s.error}),
        }


def compare(shown: Sequence[object], undisturbed: Sequence[object]) -> dict[str, int]:
    """Tokens lost, repeated and differing, as fields of a Stream."""
    return {
        "lost": max(0, len(undisturbed) - len(shown)),
        "repeated": max(0, len(shown) - len(undisturbed)),
        "differing": sum(one != other for one, other in zip(shown, undisturbed, strict=False)),
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the figures for a person."""
    print(
        "system         fault   at      streams  complete %  lost  repeated  other  failed over  gap p50 ms  gap p99 ms"
        "  errors after"
    )
    for row in rows:
        print(
            f"{row['system']:14} {row['fault']:7} {row['at']:7} {row['streams']:7} {row['completed_percent']:11.0f} "
            f"{row['tokens_lost']:5} {row['tokens_repeated']:9} {row['tokens_differing']:6} {row['failed_over']:12} "
            f"{row['gap_p50_ms']:11.1f} {row['gap_p99_ms']:11.1f} {row['errors_after']:9}/{row['requests_after']}"
        )
        for error in row["errors"]:
            print(f"        {error}")
