"""What a receipt costs: ``python -m tests.bench verify [--tokens N ...] [--runs N] [--json]``.

Bytes of receipts, whole and redacted, and milliseconds to verify one, in this process and in JavaScript under Node,
where that is there. The answer is ordered and decided in the genesis's epoch by a committee of four; four miners bid.
Every signature is checked in every run.
"""

import argparse
import json
import time
from typing import Any

from protocol.core.codec import pack
from protocol.light.levels import Level
from protocol.light.receipt import Verified, verify_receipt
from tests.bench.epochs import follow_rows, shown
from tests.browser.node import missing, question, verdicts
from tests.receipts_made import Maker

TOKENS = (100, 1_000)
RUNS = 30
SCENES: dict[str, dict[str, Any]] = {
    "streamed": {"level": Level.STREAMED},
    "certified": {"level": Level.CERTIFIED},
    "finalized": {},
    "two miners": {"failover": True},
    "31 oracles": {"size": 31},
    "settled by proof": {"level": Level.SETTLED, "settling": True, "by_proof": True},
}


def main(arguments: list[str]) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench verify")
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--epochs", type=int, default=0, metavar="N", help="also follow so many committees")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    rows = [row for tokens in args.tokens for name in SCENES for row in measure(name, tokens, args.runs)]
    followed = follow_rows(args.epochs) if args.epochs else []
    if args.json:
        print(json.dumps([*rows, *followed]))
        return 0
    print(f"{'receipt':18} {'form':9} {'tokens':>7} {'bytes':>8} {'ms p50':>8} {'ms p90':>8} {'js p50':>8}")
    for row in rows:
        javascript = "-" if row["js_ms_p50"] is None else f"{row['js_ms_p50']:.2f}"
        figures = f"{row['tokens']:7} {row['bytes']:8} {row['ms_p50']:8.2f} {row['ms_p90']:8.2f} {javascript:>8}"
        print(f"{row['receipt']:18} {row['form']:9} {figures}")
    if followed:
        print(f"\n{shown(followed)}")
    return 0


def measure(name: str, tokens: int, runs: int) -> list[dict[str, Any]]:
    """One receipt, whole and redacted."""
    maker = Maker(tokens=tokens, **SCENES[name])
    rows = []
    for form in ("whole", "redacted"):
        data, trust = pack(maker.receipt(redacted=form == "redacted")), maker.trust()
        times = sorted(_verify_ms(data, trust) for _ in range(runs))
        rows.append(
            {
                "receipt": name,
                "form": form,
                "tokens": tokens,
                "bytes": len(data),
                "ms_p50": round(times[len(times) // 2], 3),
                "ms_p90": round(times[len(times) * 9 // 10], 3),
                "js_ms_p50": _javascript_ms(data, maker, runs),
            }
        )
    return rows


def _verify_ms(data: bytes, trust: Any) -> float:
    start = time.perf_counter_ns()
    verdict = verify_receipt(data, trust)
    spent = (time.perf_counter_ns() - start) / 1e6
    assert isinstance(verdict, Verified), verdict
    return spent


def _javascript_ms(data: bytes, maker: Maker, runs: int) -> float | None:
    if missing():
        return None
    reader = {"network": maker.genesis.network_id().hex()}
    (answer,) = verdicts([question(data, reader, times=runs)])
    assert answer["verdict"] == "verified", answer
    return round(sorted(answer["ms"])[runs // 2], 3)
