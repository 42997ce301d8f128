"""``p2pnode sim --scale``: what a session, and a node, costs in networks of different sizes."""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from p2pnode.cli.output import ProgressLine, print_json, print_table
from p2pnode.cli.svg_plot import Panel, draw
from p2pnode.sim.counting import NODES_MIN, Counted, count

SIZES = (10, 30, 100, 300, 1_000, 3_000, 10_000)
SESSIONS_DEFAULT = 30
PARTS = (50, 90, 99)
WAITS = ("assigned", "first token", "committed", "certified", "finalized")
"""What clients wait for, each from the moment at which it is asked for; results from the answer's last token."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One size: what was counted, and what it took to play it."""

    counted: Counted
    cpu_s: float
    memory_bytes: int
    """The largest that the process was; it did nothing else."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--scale``, ``--sessions``, ``--plot``."""
    sizes = ",".join(map(str, SIZES))
    parser.add_argument(
        "--scale",
        type=_sizes,
        metavar="N,N",
        nargs="?",
        const=SIZES,
        help=f"count what sessions cost in networks of so many nodes, without faults (default: {sizes})",
    )
    parser.add_argument(
        "--sessions", type=_sessions, default=SESSIONS_DEFAULT, metavar="N", help="with --scale: sessions at each size"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="with --scale: draw it, too")


def _sizes(text: str) -> tuple[int, ...]:
    sizes = [int(part) if part.isascii() and part.isdigit() and len(part) < 7 else 0 for part in text.split(",")]
    if min(sizes) < NODES_MIN:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: sizes from {NODES_MIN} on, with commas between them")
    return tuple(sorted(set(sizes)))


def _sessions(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not between 1 and 100000")
    return int(text)


def run_scale(args: argparse.Namespace) -> int:
    """Count at every size and print; 1 if a session did not get its answer."""
    seed = args.seed if args.seed is not None else 1
    rows: list[Measured] = []
    with ProgressLine("counting", amount=lambda sizes: f"{sizes} sizes") as progress:
        for row in _measured(args.scale, args.sessions, seed):
            rows.append(row)
            progress(len(rows), len(args.scale))
    if args.plot is not None:
        args.plot.write_text(plot(rows))
    if args.json:
        print_json([_as_json(row) for row in rows])
    else:
        _print(rows)
    unanswered = sum(row.counted.sessions - row.counted.ends.get("task", 0) for row in rows)
    if unanswered:
        print(f"{unanswered} sessions got no answer", file=sys.stderr)
    return 1 if unanswered else 0


def _measured(sizes: Sequence[int], sessions: int, seed: int) -> Iterator[Measured]:
    """Each size in a process of its own, so that its memory is its own."""
    for nodes in sizes:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            yield pool.submit(measure, nodes, sessions, seed).result()


def measure(nodes: int, sessions: int, seed: int) -> Measured:
    """Count one size, in this process."""
    started_s = time.process_time()
    counted = count(nodes, sessions, seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1_024)
    return Measured(counted, time.process_time() - started_s, peak)


Figure = Callable[[Measured], str]


def _print(rows: Sequence[Measured]) -> None:
    print("a session with one order, by the size of the network:")
    _print_columns(
        rows,
        {
            "nodes": lambda row: f"{row.counted.nodes:,}",
            "bids": lambda row: f"{bids_mean(row.counted):.1f}",
            "max": lambda row: f"{max(row.counted.bids, default=0)}",
            "stream messages": lambda row: f"{stream_messages(row.counted):.0f}",
            "stream kB": lambda row: f"{stream_kb(row.counted):.1f}",
            "published": lambda row: f"{published(row.counted):.2f}",
            "copies a node": lambda row: f"{copies_a_node(row.counted):.1f}",
            "gossip kB a node": lambda row: f"{gossip_kb_a_node(row.counted):.2f}",
            "signed": lambda row: f"{row.counted.signed / row.counted.sessions:.0f}",
            **{f"{what} ms": _wait(what) for what in WAITS if any(what in row.counted.waits_us for row in rows)},
        },
    )
    print("\nadverts, all the time, and this run:")
    _print_columns(
        rows,
        {
            "nodes": lambda row: f"{row.counted.nodes:,}",
            "routers": lambda row: f"{row.counted.shape.routers}",
            "miners": lambda row: f"{row.counted.shape.miners:,}",
            "adverts/s": lambda row: f"{row.counted.adverts.published / row.counted.warm_s:.2f}",
            "copies/s a node": lambda row: f"{_advert_copies(row.counted):.1f}",
            "kB/s a node": lambda row: f"{advert_kb_a_node(row.counted):.2f}",
            "connections": lambda row: "/".join(str(row.counted.connections[role]) for role in ("router", "oracle")),
            "events": lambda row: f"{row.counted.events:,}",
            "CPU s": lambda row: f"{row.cpu_s:.1f}",
            "MiB": lambda row: f"{row.memory_bytes / (1 << 20):.0f}",
        },
    )
    print("\nms: median / 99th percentile, in simulated time; copies: of gossip messages that reach a node;")
    print("connections: of the router / the oracle that holds most, in the end, beside those of the mesh")


def _print_columns(rows: Sequence[Measured], columns: dict[str, Figure]) -> None:
    print_table(list(columns), [[figure(row) for figure in columns.values()] for row in rows])


def _wait(what: str) -> Figure:
    def figure(row: Measured) -> str:
        middle, high = row.counted.wait_ms(what, 50), row.counted.wait_ms(what, 99)
        return "-" if middle is None or high is None else f"{middle:.0f} / {high:.0f}"

    return figure


def bids_mean(counted: Counted) -> float:
    """Bids that reached a router, a session."""
    return sum(counted.bids) / counted.sessions


def stream_messages(counted: Counted) -> float:
    """Messages on streams a session, of all protocols."""
    return sum(counts.messages for counts in counted.streams.values()) / counted.sessions


def stream_kb(counted: Counted) -> float:
    """What they weigh."""
    return sum(counts.message_bytes for counts in counted.streams.values()) / counted.sessions / 1_000


def _session_gossip(counted: Counted) -> list[Any]:
    return [counts for topic, counts in counted.gossip.items() if topic != "nodes"]


def published(counted: Counted) -> float:
    """Gossip messages a session, without adverts."""
    return float(sum(counts.published for counts in _session_gossip(counted))) / counted.sessions


def copies_a_node(counted: Counted) -> float:
    """Copies of them that reach one node, on average."""
    return float(sum(counts.copies for counts in _session_gossip(counted))) / counted.sessions / counted.nodes


def gossip_kb_a_node(counted: Counted) -> float:
    """What those weigh."""
    return float(sum(counts.wire_bytes for counts in _session_gossip(counted))) / counted.sessions / counted.nodes / 1e3


def _advert_copies(counted: Counted) -> float:
    return counted.adverts.copies / counted.nodes / counted.warm_s


def advert_kb_a_node(counted: Counted) -> float:
    """Of adverts, that reach a node in a second."""
    return counted.adverts.wire_bytes / counted.nodes / counted.warm_s / 1_000


def plot(rows: Sequence[Measured]) -> str:
    """The picture of what the tables say."""
    counts = [row.counted for row in rows]

    def line(figure: Callable[[Counted], float | None]) -> list[tuple[float, float]]:
        values = [(float(counted.nodes), figure(counted)) for counted in counts]
        return [(nodes, value) for nodes, value in values if value is not None]

    waits = {what: line(lambda counted, what=what: counted.wait_ms(what, 50)) for what in WAITS}  # type: ignore[misc]
    panels = (
        Panel("Bids a session", "bids", {"mean": line(bids_mean)}),
        Panel("Gossip a session", "copies that reach a node", {"copies": line(copies_a_node)}),
        Panel("Streams a session", "kB, all nodes together", {"kB": line(stream_kb)}),
        Panel("Median wait of a client", "ms", {what: points for what, points in waits.items() if points}),
    )
    return draw("p2pnode: what a session costs, by the size of the network", panels)


def _as_json(row: Measured) -> dict[str, Any]:
    counted = row.counted
    return {
        **{name: value for name, value in asdict(counted).items() if name not in ("waits_us", "bids")},
        "bids": list(counted.bids),
        "waits_ms": {
            what: {str(percent): counted.wait_ms(what, percent) for percent in (50, 90, 99)}
            for what in counted.waits_us
        },
        "cpu_s": round(row.cpu_s, 3),
        "memory_bytes": row.memory_bytes,
    }
