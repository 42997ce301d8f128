"""``p2pnode demo``: a network comes up, answers prompts, certifies and pays for them, and goes down; with all times."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from p2pnode.cli.options import add_chain_option, add_json_option
from p2pnode.cli.output import paint
from p2pnode.config import load_config
from protocol.core.errors import P2PNodeError

PROMPT = "Where does a bear live?"
STORY = "Tell me a story about a rabbit."
KILL_AFTER_TOKENS = 10
ORACLES = 4
FINAL_MS = 20_000
LEVELS = ("committed", "certified", "finalized")
LATER_S = 2.0


class DemoError(P2PNodeError):
    """What the demo shows did not happen."""

    code = "demo/failed"


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        description="Start a testnet, ask it, see its committee certify and pay for the answers, and take it down.",
    )
    parser.add_argument("prompt", nargs="?", default=PROMPT, metavar="PROMPT", help=f"default: {PROMPT}")
    parser.add_argument("--miners", type=int, default=3, metavar="N", help="how many miners (default 3)")
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="what they serve (default tiny)")
    parser.add_argument("--max-tokens", type=int, default=160, metavar="N", help="of the answer (default 160)")
    parser.add_argument("--receipt", type=Path, metavar="FILE", help="keep the last answer's receipt there")
    add_chain_option(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run it; the exit status tells whether the answer was verified to its end. Raises P2PNodeError."""
    import trio

    if not args.prompt.strip():
        from p2pnode.cli.chat import EmptyPrompt

        raise EmptyPrompt("the prompt is empty", hint=f"p2pnode demo {PROMPT!r}")
    load_config(overrides={"testnet.miners": args.miners, "miner.model": args.model})
    with tempfile.TemporaryDirectory(prefix="p2pnode-demo-") as folder:
        trio.run(_demo, args, Path(folder))
    return 0


class _Steps:
    """What happened, and when."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.rows: list[dict[str, Any]] = []
        self._started = time.perf_counter()

    def begin_text(self, prompt: str) -> None:
        """An answer follows."""
        self._write(f"\n  {paint(prompt, 'cyan')}\n  ")

    def text(self, text: str) -> None:
        """Some of an answer."""
        self._write(text.replace("\n", "\n  "))

    def end_text(self) -> None:
        """The answer is over."""
        self._write("\n\n")

    def _write(self, text: str) -> None:
        if not self.quiet:
            sys.stdout.write(text)
            sys.stdout.flush()

    def done(self, what: str, detail: str = "") -> None:
        """Note a step that has just ended."""
        at_ms = round((time.perf_counter() - self._started) * 1_000)
        self.rows.append({"at_ms": at_ms, "step": what, "detail": detail})
        if not self.quiet:
            print(f"{paint(f'{at_ms:7d} ms', 'dim')}  {paint(what, 'bold')}  {detail}", flush=True)


async def _demo(args: argparse.Namespace, folder: Path) -> None:
    from p2pnode.cli.demo_chain import show_settled, tell_chain
    from p2pnode.cli.demo_committee import show_committee
    from p2pnode.cli.demo_payments import balances, show_payments
    from p2pnode.cli.demo_receipt import show_receipt
    from p2pnode.cli.testnet import chain_plan
    from p2pnode.client import connect
    from p2pnode.testnet import TestnetPlan, client_key, open_testnet

    steps = _Steps(args.json)
    plan = TestnetPlan(
        folder, args.miners, args.model, oracles=ORACLES, chain=chain_plan(args.chain or "auto", ORACLES)
    )
    if not args.json:
        what = f"a router, {args.miners} miners and {ORACLES} oracles, each its own process"
        on = "" if plan.chain is None else ", and a chain to settle on"
        print(paint(f"starting {what}{on} …", "dim"), flush=True)
    async with open_testnet(plan) as testnet:
        tell_chain(steps.done, testnet)
        steps.done("network up", f"{args.miners} miners known to the router, {ORACLES} oracles sign")
        key, before = client_key(folder), await balances(testnet)
        async with connect(testnet.address, key=key, rpc=testnet.rpc) as net:
            steps.done("light client connected", f"network {net.genesis.network_id().hex()[:16]}")
            async with net.session(args.model, tokens=args.max_tokens) as session:
                _tell_auction(steps, session)
                answers = [await _ask(args, steps, session, args.prompt)]
                if args.miners > 1:
                    answers.append(await _survive_a_killed_miner(args, steps, session, testnet))
                if testnet.chain is not None:
                    await show_settled(steps.done, testnet, answers)
            steps.done("session closed")
            receipt = args.receipt or folder / "answer.receipt"
            await show_receipt(steps.done, net.genesis, testnet.rpc, answers[-1], receipt)
        await show_payments(steps.done, testnet, session.id, key.node_id, before)
        await show_committee(steps.done, testnet)
    steps.done("network down")
    if args.json:
        print(json.dumps({"steps": steps.rows}))


def _tell_auction(steps: _Steps, session: Any) -> None:
    auction = session.assigned.auction
    scores = ", ".join(f"{miner.hex()[:8]}: {score}" for miner, score in auction.ranking.scores.items())
    steps.done("bids countersigned and scored", f"{len(auction.ranking.scores)} bids ({scores})")
    place = f"rank {auction.ranking.order.index(session.miner) + 1}"
    steps.done("lease granted", f"miner {session.miner.hex()[:8]}, {place}, pick recomputed here")


async def _ask(args: argparse.Namespace, steps: _Steps, session: Any, prompt: str) -> Any:
    started = time.perf_counter()
    async with session.ask(prompt, max_tokens=args.max_tokens) as answer:
        first = True
        async for text in answer:
            if first:
                steps.done("first signed frame", f"{(time.perf_counter() - started) * 1_000:.0f} ms after the order")
                steps.begin_text(prompt)
                first = False
            steps.text(text)
    steps.end_text()
    seconds = time.perf_counter() - started
    tokens, rate = answer.finish.completion_tokens, answer.finish.completion_tokens / seconds
    reason = answer.finish.reason
    detail = f"{tokens} tokens in {answer.finish.frames} frames, {rate:.0f} tokens/s, reason {reason}"
    steps.done("signed end verified", f"{detail}, level streamed")
    await _rise(steps, answer)
    return answer


async def _rise(steps: _Steps, answer: Any) -> None:
    """An answer becomes certain: every level with its time."""
    import trio

    if not await answer.wait_for("finalized", timeout_ms=FINAL_MS):
        raise DemoError(
            f"the answer did not become final: it is {answer.level}, {answer.against or 'and no more came'}"
        )
    with trio.move_on_after(LATER_S):
        # The proof of a level may come before that of one below.
        while len(answer.levels) < len(LEVELS) and await answer.changed():
            pass
    what = {"committed": "the miner's, opened", "certified": "oracles agree", "finalized": "is the block"}
    for step in (reached for reached in answer.levels if reached.level in LEVELS):
        detail = " ".join(part for part in (step.detail, what[step.level]) if part)
        steps.done(step.level, f"{step.after_ms} ms after the signed end: {detail}")


async def _survive_a_killed_miner(args: argparse.Namespace, steps: _Steps, session: Any, testnet: Any) -> Any:
    """Kill the miner in the middle of an answer; the answer must be the one it would have given."""
    seed = bytes(32)
    async with session.ask(STORY, max_tokens=args.max_tokens, seed=seed) as undisturbed:
        await undisturbed.read()
    victim = next(child for child, status in testnet.statuses() if status.get("node") == "0x" + session.miner.hex())
    killed_s = 0.0
    async with session.ask(STORY, max_tokens=args.max_tokens, seed=seed) as answer:
        async for text in answer:
            if not killed_s and len(answer.token_ids) >= KILL_AFTER_TOKENS:
                victim.process.kill()
                killed_s = time.perf_counter()
                steps.done("miner killed", f"{victim.name}, kill -9 in the middle of a second answer")
                steps.begin_text(STORY)
                steps.text(answer.text)
            elif killed_s:
                steps.text(text)
    steps.end_text()
    index = answer.heads[-1].start_index
    steps.done(
        "another miner took over", f"miner {session.miner.hex()[:8]}, after token {index}, none lost or repeated"
    )
    if answer.text != undisturbed.text:
        raise DemoError("the answer differs from the one without a killed miner")
    steps.done("same answer", f"{len(answer.token_ids)} tokens in {len(answer.heads)} signed segments, as undisturbed")
    await _rise(steps, answer)
    return answer
