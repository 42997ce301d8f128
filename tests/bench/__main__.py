"""``python -m tests.bench NAME [OPTIONS]``: measurements, as ratios within one run. Not part of the tests."""

import importlib
import sys

BENCHES = {
    "audit": "what a node test sees of honest miners, of other quantisations and of another model",
    "chaos": "answers whose miner is killed, frozen, slowed or cut off in the middle",
    "committee": "heights a second, time to final, bytes and signatures of committees of 4 to 31",
    "engine": "tokens a second of the engine beside llama-cpp-python's and llama.cpp's own",
    "epochs": "bytes and time of a light client that comes to the present after 1,000 epochs",
    "flood": "honest first tokens and a node's memory before, during and after each attack at the seam",
    "gas": "what checkpoints, hand-overs, draws, withdrawals and slashes cost, and each task of a checkpoint",
    "idle": "memory and CPU of a node that has nothing to do",
    "levels": "time from the end of an answer until it is committed, certified and finalized, on a real testnet",
    "path": "what router and libp2p add to an engine: first token, each token, tokens carried, CPU",
    "results": "messages, bytes, signatures and time from an answer to its finalized outcome, at 50 tasks/s",
    "soak": "hours of mixed load over HTTP with miners that die: how every request ended, and what processes hold",
    "verify": "bytes of a receipt, and milliseconds to verify it",
}


def main() -> int:
    """Run one bench; returns its exit status."""
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHES:
        print("usage: python -m tests.bench NAME [OPTIONS]", *(f"  {n:9} {d}" for n, d in BENCHES.items()), sep="\n")
        return 2
    module = importlib.import_module(f"tests.bench.{sys.argv[1]}")
    status: int = module.main(sys.argv[2:])
    return status


if __name__ == "__main__":
    sys.exit(main())
