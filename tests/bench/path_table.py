"""The path bench's figures: from rounds to rows, from rows to verdicts, and as tables."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.path_contestants import ROLES
from tests.bench.path_streams import Carried, StreamResult

FIRST_TARGET_MS = {1: 3.0, 8: 6.0, 32: 15.0}
TOKEN_TARGET_MS = {1: 0.3}
CARRIED_TARGET = {32: 6_000.0}
OPENING_TARGET_MS = 100.0
OURS = "p2pnode"

Verdict = tuple[str, float, str, bool]


@dataclass
class Round:
    """One contestant at one number of streams in one repetition."""

    carried: Carried
    cpu_s: Mapping[str, float]


@dataclass
class Rounds:
    """All repetitions, by number of streams and contestant."""

    floors: Mapping[str, str]
    """By contestant; the order is the table's."""
    rounds: dict[tuple[int, str], list[Round]] = field(default_factory=dict)

    def add(self, streams: int, name: str, one: Round) -> None:
        """Note one."""
        self.rounds.setdefault((streams, name), []).append(one)

    def rows(self) -> list[dict[str, Any]]:
        """The figures; times in milliseconds."""
        streams = sorted({streams for streams, _ in self.rounds})
        return [
            self._row(number, name, floor)
            for number in streams
            for name, floor in self.floors.items()
            if (number, name) in self.rounds and (number, floor) in self.rounds
        ]

    def _row(self, streams: int, name: str, floor: str) -> dict[str, Any]:
        mine, theirs = self.rounds[streams, name], self.rounds[streams, floor]
        first, first_floor = _pooled(mine, "first_s"), _pooled(theirs, "first_s")
        results = [result for one in mine for result in one.carried.results]
        tokens = sum(result.tokens for result in results)
        wire = sum(one.carried.wire_bytes for one in mine)
        cpu = {role: sum(one.cpu_s.get(role, 0.0) for one in mine) * 1_000 / tokens for role in ROLES}
        return {
            "streams": streams,
            "contestant": name,
            "floor": floor,
            "first_ms": first,
            "first_added_ms": {part: first[part] - first_floor[part] for part in first},
            "token_ms": (token := _pooled(mine, "token_s")),
            "token_added_ms": token["p50"] - _pooled(theirs, "token_s")["p50"],
            "longest_gap_ms": _pooled(mine, "gap_s"),
            "answers_s": _each_second(mine, lambda stream: len(stream.first_s)),
            "carried": carried(mine),
            "carried_ratio": carried(mine) / carried(theirs),
            "tokens_per_frame": tokens / sum(result.frames for result in results),
            "wire_bytes_per_1000_tokens": wire * 1_000 / tokens,
            "cpu_s_per_1000_tokens": cpu | {"together": sum(cpu.values())},
        }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Median and p99."""
    ordered = sorted(values)
    return {"p50": statistics.median(ordered), "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]}


def _pooled(rounds: Sequence[Round], figure: str) -> dict[str, float]:
    return percentiles(
        [1_000 * value for one in rounds for stream in one.carried.results for value in getattr(stream, figure)]
    )


def carried(rounds: Sequence[Round]) -> float:
    """Tokens a second."""
    return _each_second(rounds, lambda stream: stream.tokens)


def _each_second(rounds: Sequence[Round], count: Callable[[StreamResult], int]) -> float:
    """Each stream's own rate, added up; the median over repetitions."""
    return statistics.median(sum(count(stream) / stream.elapsed_s for stream in one.carried.results) for one in rounds)


def verdicts(figures: Mapping[str, Any]) -> list[Verdict]:
    """Each figure of ours that has a target: what it is, its value, the target in words, and whether it is kept."""
    opening = figures["opening_ms"]["p50"]
    lines = [("session open p50 ms", opening, f"<= {OPENING_TARGET_MS:g}", opening <= OPENING_TARGET_MS)]
    for row in figures["rows"]:
        streams = row["streams"]
        if row["contestant"] != OURS:
            continue
        if streams in FIRST_TARGET_MS:
            value, limit = row["first_added_ms"]["p50"], FIRST_TARGET_MS[streams]
            lines.append((f"first token added at {streams}, ms", value, f"<= {limit:g}", value <= limit))
        if streams in TOKEN_TARGET_MS:
            value, limit = row["token_added_ms"], TOKEN_TARGET_MS[streams]
            lines.append((f"per token added at {streams}, ms", value, f"<= {limit:g}", value <= limit))
        if streams in CARRIED_TARGET:
            value, limit = row["carried"], CARRIED_TARGET[streams]
            lines.append((f"tokens/s carried at {streams}", value, f">= {limit:g}", value >= limit))
    return lines


def show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the times, then what they cost."""
    print(
        f"{'streams':>7} {'':20} {'first token':>14} {'added':>13} {'a token':>10} {'added':>6} {'longest gap':>12}"
        f" {'answers/s':>9} {'tokens/s':>8} {'ratio':>5} {'tokens/frame':>12} {'kB/1,000 tok':>12}"
    )
    for row in rows:
        first, added, token, gap = (
            f"{row[name]['p50']:.1f}/{row[name]['p99']:.1f}"
            for name in ("first_ms", "first_added_ms", "token_ms", "longest_gap_ms")
        )
        wire, ratio = row["wire_bytes_per_1000_tokens"] / 1_000, row["carried_ratio"]
        is_floor = row["contestant"] == row["floor"]
        print(
            f"{row['streams']:7} {row['contestant']:20} {first:>14} {'' if is_floor else added:>13}"
            f" {token:>10} {'' if is_floor else format(row['token_added_ms'], '.3f'):>6} {gap:>12}"
            f" {row['answers_s']:9.1f} {row['carried']:8.0f} {ratio:5.2f} {row['tokens_per_frame']:12.2f}"
            f" {format(wire, '.1f') if wire else '-':>12}"
        )
    parts = (*ROLES, "together")
    print(f"\n{'CPU s per 1,000 tokens':28}" + "".join(f"{part:>10}" for part in parts))
    for row in rows:
        cells = (format(row["cpu_s_per_1000_tokens"][part], ".3f") for part in parts)
        print(f"{row['streams']:7} {row['contestant']:20}" + "".join(f"{cell:>10}" for cell in cells))


def show_memory(memory: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Print what everyone holds after the measurement, and what it spends on waiting for work."""
    print(f"\n{'after the last answer':28}{'RSS MiB':>10}{'PSS MiB':>10}{'processes':>11}{'idle CPU %':>12}")
    for name, roles in memory.items():
        for role, held in roles.items():
            print(
                f"{name + ', ' + role:28}{held['rss']:10.0f}{held['pss']:10.0f}{held['processes']:11.0f}"
                f"{held['idle_cpu_percent']:12.1f}"
            )


def show_verdicts(lines: Sequence[Verdict]) -> None:
    """Print the targets."""
    for what, value, target, kept in lines:
        print(f"{what:44} {value:9.2f}   target {target:8} {'ok' if kept else 'missed'}")
