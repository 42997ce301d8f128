"""``p2pnode chat``: ask a router, once or in a conversation, as a light client that verifies every frame."""

import argparse
import hashlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.address import RouterAddress, parse_router_address
from p2pnode.cli.chat_evidence import keep_evidence
from p2pnode.cli.chat_receipt import add_receipt_option, check_receipt_option, keeping_receipt
from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import paint, print_table
from p2pnode.config import ConfigError, NodeConfig
from p2pnode.paths import home
from p2pnode.session_records import save_record
from protocol.core.errors import P2PNodeError

if TYPE_CHECKING:
    from p2pnode.client import Answer, LightClient, Session
    from p2pnode.identity import NodeKey
    from protocol.messages.sampling import SamplingParams
    from protocol.messages.tasks import PromptMessage


INTERRUPTED = 130
"""The exit status of an answer that was stopped with Ctrl-C."""
UNCERTAIN = 1
"""The exit status of an answer that is not as certain as was asked."""
LEVELS = ("streamed", "committed", "certified", "finalized", "settled")
LEVEL_WAIT_S = 5.0
"""So long a single answer is waited for to become final, where no level was asked for."""
CONVERSATION_WAIT_S = 1.0
"""The same between two prompts; what an answer comes to later is shown after the next prompt."""


class EmptyPrompt(P2PNodeError):
    """There is nothing to answer."""

    code = "chat/empty-prompt"


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "chat", description="Ask a router. Without PROMPT: a conversation, or what comes on standard input."
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT")
    parser.add_argument(
        "--router",
        action="append",
        metavar="ADDRESS",
        help="as `p2pnode run` or `testnet up` prints it; up to four, each takes over from a lost one",
    )
    add_config_options(parser)
    parser.add_argument("--model", metavar="MODEL", help="name or digest (default: what most miners serve)")
    parser.add_argument("--models", action="store_true", help="list the models the router has miners for, and stop")
    parser.add_argument("--system", metavar="TEXT", help="a system message before the conversation")
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of an answer (default 256)")
    parser.add_argument("--temperature", type=float, default=0.7, metavar="T", help="0 to 2 (default 0.7)")
    parser.add_argument("--top-k", type=int, default=64, metavar="K", help="0 to 1024 (default 64)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="above 0, to 1 (default 1)")
    parser.add_argument("--seed", metavar="TEXT", help="same seed and prompt, same answer on the same build")
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="of a request (default 120)")
    parser.add_argument("--lanes", type=int, default=1, metavar="N", help="independent runs of each prompt (default 1)")
    parser.add_argument("--direct", action="store_true", help="take the answer from the miner itself where possible")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the key whose balance pays (default: a new one)")
    parser.add_argument("--password-file", metavar="FILE", help="its first line is the key's password")
    parser.add_argument("--cap-wei", type=int, metavar="WEI", help="what the ledger reserves for the session")
    parser.add_argument(
        "--level", choices=LEVELS, help="wait until the answer is as certain; exit status 1 if it does not get so"
    )
    parser.add_argument(
        "--rpc", action="append", metavar="URL", help="an endpoint of the network's chain: see there what is settled"
    )
    add_receipt_option(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Ask. Raises MalformedAddress, TransportError, RequestFailed, EmptyPrompt, WrongChain."""
    config = config_of(args, {"keys.password_file": args.password_file})
    routers = _routers(args, config)
    sampling = _sampling(args)
    check_receipt_option(args.receipt)
    if args.prompt is None and not args.models and not sys.stdin.isatty():
        args.prompt = sys.stdin.read()
    if args.prompt is not None and not args.prompt.strip():
        raise EmptyPrompt("the prompt is empty", hint="p2pnode chat --router ADDRESS 'Where does a bear live?'")
    import trio

    return trio.run(_chat, args, sampling, routers, config)


def _routers(args: argparse.Namespace, config: NodeConfig) -> Sequence[RouterAddress]:
    if args.router:
        return [parse_router_address(text) for text in args.router]
    if config.network.bootstrap:
        return config.network.bootstrap
    raise ConfigError(
        "no router is named", hint="--router ADDRESS, as `p2pnode run` prints it, or network.bootstrap in a --config"
    )


def _sampling(args: argparse.Namespace) -> "SamplingParams":
    from protocol.messages.sampling import SamplingParams
    from protocol.messages.sessions import LANES_MAX

    checks = (
        (0 <= args.temperature <= 2, "--temperature must be from 0 to 2"),
        (0 <= args.top_k <= 1024, "--top-k must be from 0 to 1024"),
        (0 < args.top_p <= 1, "--top-p must be above 0 and at most 1"),
        (args.max_tokens >= 1, "--max-tokens must be at least 1"),
        (1 <= args.lanes <= LANES_MAX, f"--lanes must be from 1 to {LANES_MAX}"),
        (0 < args.timeout <= 600, "--timeout must be above 0 and at most 600 seconds"),
        (args.cap_wei is None or args.cap_wei >= 0, "--cap-wei must not be negative"),
    )
    for holds, message in checks:
        if not holds:
            raise ConfigError(message, hint="`p2pnode chat --help` shows the ranges")
    return SamplingParams(
        temperature_bp=round(args.temperature * 10_000),
        top_k=args.top_k,
        top_p_bp=max(1, round(args.top_p * 10_000)),
    )


async def _chat(
    args: argparse.Namespace, sampling: "SamplingParams", routers: Sequence[RouterAddress], config: NodeConfig
) -> int:
    from p2pnode.client import connect
    from p2pnode.telemetry.instruments import open_instruments
    from p2pnode.trust_store import own_trust

    key = await _key(args, config)
    with open_instruments(config.telemetry, "chat", ("client",)) as told:
        connecting = connect(
            *routers, key=key, rpc=args.rpc or config.chain.urls, trust=own_trust(), tap=told.client_of
        )
        async with connecting as net:
            return await _talk(args, sampling, net)


async def _talk(args: argparse.Namespace, sampling: "SamplingParams", net: "LightClient") -> int:
    if args.models:
        _print_models(net, args.json)
        return 0
    if not args.json:
        print(paint(net.level_note, "dim", sys.stderr), file=sys.stderr)
    timeout_ms = int(args.timeout * 1_000)
    wish = net.session(
        args.model,
        tokens=args.max_tokens,
        timeout_ms=min(timeout_ms, 60_000),
        cap_wei=args.cap_wei,
        lanes=args.lanes,
        direct=args.direct,
    )
    async with wish as session:
        try:
            if args.prompt is not None:
                return await _once(args, sampling, session, net)
            return await _converse(args, sampling, session, net)
        finally:
            _tell_of_routers(args, net)
            if net.look is not None and net.look.trouble:
                print(paint(f"the chain cannot be asked: {net.look.trouble}", "dim", sys.stderr), file=sys.stderr)
            # What `p2pnode explain` reads; it holds neither prompt nor answer.
            with suppress(OSError):
                save_record(home(os.environ) / "sessions", session.assigned.session, session.record())


def _tell_of_routers(args: argparse.Namespace, net: "LightClient") -> None:
    """Worth a line where there are several, or something is to be said of the one."""
    from p2pnode.routers import routers_line

    if not args.json and (len(net.routers) > 1 or net.routers[0].note):
        print(paint(routers_line(net.routers), "dim", sys.stderr), file=sys.stderr)


async def _key(args: argparse.Namespace, config: NodeConfig) -> "NodeKey | None":
    """Of a file or a folder that was named; otherwise nothing links one chat to the next, and nothing pays."""
    import trio

    from p2pnode.identity import read_keystore
    from p2pnode.node_key import load_key

    if args.key is not None:
        return await trio.to_thread.run_sync(read_keystore, args.key, config.password())
    return await load_key(config) if args.config or args.state_dir else None


def _print_models(net: "LightClient", as_json: bool) -> None:
    rows = [
        {
            "name": offer.manifest.name,
            "digest": offer.manifest.digest().hex(),
            "quantization": offer.manifest.quantization,
            "context_tokens": offer.context_tokens,
            "slots": offer.slots,
            "price_wei": offer.price_wei,
        }
        for offer in net.models
    ]
    if as_json:
        print(json.dumps({"network": net.genesis.network_id().hex(), "models": rows}))
    else:
        print_table(["model", "digest", "type", "context", "slots"], [[str(v) for v in _row(row)] for row in rows])


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["name"], row["digest"][:16], row["quantization"], row["context_tokens"], row["slots"]


def _system(args: argparse.Namespace) -> "list[PromptMessage]":
    from protocol.messages.tasks import PromptMessage

    return [PromptMessage("system", args.system)] if args.system else []


def _seed(args: argparse.Namespace, turn: int) -> bytes | None:
    if args.seed is None:
        return None
    return hashlib.sha256(b"p2pnode/seed/1" + turn.to_bytes(4, "big") + args.seed.encode()).digest()


def top_level(net: "LightClient") -> str:
    """The most that this client can see of an answer."""
    if net.settles:
        return LEVELS[4]
    return LEVELS[3] if net.certifies else LEVELS[0]


async def _once(args: argparse.Namespace, sampling: "SamplingParams", session: "Session", net: "LightClient") -> int:
    from protocol.messages.tasks import PromptMessage

    turns = [*_system(args), PromptMessage("user", args.prompt)]
    answer = await _answer(args, sampling, session, turns, 1)
    async with keeping_receipt(args.receipt, answer):
        certain = await _await_level(args, answer, top_level(net), LEVEL_WAIT_S)
    keep_evidence(net.genesis, answer)
    if args.json:
        print(json.dumps({**_as_json(session, answer), "routers": [each.as_json() for each in net.routers]}))
    if _was_cancelled(answer):
        return INTERRUPTED
    return 0 if certain else UNCERTAIN


async def _await_level(args: argparse.Namespace, answer: "Answer", top: str, wait_s: float) -> bool:
    """Wait for the level that was asked for, or a moment for the last, and show the answer rise; whether what was asked
    for is there."""
    import trio

    if top == LEVELS[0]:
        return args.level in (None, LEVELS[0])
    # A checkpoint is some blocks of the chain away: without being asked nobody waits for it, and it is told later.
    wanted, drawn = LEVELS.index(args.level or LEVELS[3]), not args.json and sys.stderr.isatty()
    asked, wanted = wanted, min(wanted, LEVELS.index(top))
    with trio.move_on_after(args.timeout if args.level else wait_s):
        while LEVELS.index(answer.level) < wanted and not answer.against:
            if drawn:
                sys.stderr.write(f"\r\x1b[K{paint(level_line(answer), 'dim', sys.stderr)}")
                sys.stderr.flush()
            if not await answer.changed():
                break
    if not args.json:
        print("\r\x1b[K" * drawn + paint(level_line(answer), "dim", sys.stderr), file=sys.stderr)
    return args.level is None or LEVELS.index(answer.level) >= asked


def level_line(answer: "Answer") -> str:
    """How certain an answer has become, and when: streamed → committed 12 ms → certified 4 of 4 61 ms → …"""
    steps = [LEVELS[0]]
    for step in answer.levels:
        steps.append(" ".join(part for part in (step.level, step.detail, f"{step.after_ms} ms") if part))
    line = " → ".join(steps)
    if answer.against:
        line += f"; not {_next_level(answer.level)}: {answer.against}"
    elif answer.unfinalized:
        line += "; unfinalized: it should be final by now, and no router shows that it is"
    if answer.news is not None and answer.news.evidence:
        line += f"; {answer.news.evidence} oracle(s) contradicted themselves, which convicts them"
    return line


def _next_level(level: str) -> str:
    # Whatever is against it, what is missing is the oracles' agreement, or after that the block's.
    return "certified" if level in LEVELS[:2] else "finalized"


def _was_cancelled(answer: "Answer") -> bool:
    return answer.finish is not None and answer.finish.reason == "cancelled"


async def _answer(
    args: argparse.Namespace,
    sampling: "SamplingParams",
    session: "Session",
    turns: "list[PromptMessage]",
    number: int,
) -> "Answer":
    import trio

    served_by = session.router
    ask = session.ask(
        turns,
        sampling=sampling,
        seed=_seed(args, number),
        max_tokens=args.max_tokens,
        timeout_ms=int(args.timeout * 1_000),
    )
    async with ask as answer, trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on_interrupt, answer)
        if not args.json:
            nursery.start_soon(_tell_of_lost_router, session, answer)
        async for text in answer:
            if not args.json:
                sys.stdout.write(_shown(text))
                sys.stdout.flush()
        nursery.cancel_scope.cancel()
    session.look()
    if not args.json:
        print()
        if session.router != served_by:
            what = f"failed over to router 0x{session.router.hex()}"
            print(paint(what, "dim", sys.stderr), file=sys.stderr)
        for head in answer.heads[1:]:
            what = f"failed over to miner 0x{head.miner.hex()} after token {head.start_index}, none lost or repeated"
            print(paint(what, "dim", sys.stderr), file=sys.stderr)
    return answer


async def _tell_of_lost_router(session: "Session", answer: "Answer") -> None:
    """Whoever waits for the next word learns why it does not come."""
    told = False
    session.look()
    while True:
        if session.router_lost and not told:
            line = "the router is lost; looking for it, or for the next one …"
            print("\n" * bool(answer.text) + paint(line, "dim", sys.stderr), file=sys.stderr)
        told = session.router_lost
        if not await session.changed():
            return


async def _cancel_on_interrupt(answer: "Answer") -> None:
    """Ctrl-C stops the answer, down to the miner's engine, and not the conversation."""
    import trio

    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async for _ in signals:
            answer.cancel()


def _shown(text: str) -> str:
    """Model output without what a terminal would obey; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _as_json(session: "Session", answer: "Answer") -> dict[str, Any]:
    finish = answer.finish
    assert finish is not None
    return {
        "session": session.id.hex(),
        "miner": "0x" + session.miner.hex(),
        "router": "0x" + session.router.hex(),
        "text": answer.text,
        "finish_reason": finish.reason,
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "frames": finish.frames,
        "segments": [{"miner": "0x" + head.miner.hex(), "start_index": head.start_index} for head in answer.heads],
        "level": answer.level,
        "levels": [
            {"level": step.level, "after_ms": step.after_ms, **({"detail": step.detail} if step.detail else {})}
            for step in answer.levels
        ],
        "against": answer.against,
        "unfinalized": answer.unfinalized,
        "paid_wei": answer.paid_wei,
    }


async def _converse(
    args: argparse.Namespace, sampling: "SamplingParams", session: "Session", net: "LightClient"
) -> int:
    import trio

    from protocol.messages.tasks import PromptMessage

    print(
        paint(f"session {session.id.hex()[:16]} with miner 0x{session.miner.hex()}", "dim", sys.stderr), file=sys.stderr
    )
    print(paint("an empty line or Ctrl-D ends the conversation", "dim", sys.stderr), file=sys.stderr)
    turns = _system(args)
    number, answer, shown = 0, None, LEVELS[-1]
    while True:
        # trio-typing, which libp2p brings, shadows trio with stubs older than this keyword.
        line = await trio.to_thread.run_sync(_read_line, abandon_on_cancel=True)  # type: ignore[call-arg]
        if answer is not None and answer.level != shown:
            print(paint(f"the last answer: {level_line(answer)}", "dim", sys.stderr), file=sys.stderr)
        if not line.strip():
            return 0
        number += 1
        turns.append(PromptMessage("user", line.strip()))
        answer = await _answer(args, sampling, session, turns, number)
        turns.append(PromptMessage("assistant", answer.text))
        async with keeping_receipt(args.receipt, answer):
            await _await_level(args, answer, top_level(net), CONVERSATION_WAIT_S)
        keep_evidence(net.genesis, answer)
        shown = answer.level


def _read_line() -> str:
    try:
        return input(paint("> ", "cyan"))
    except EOFError:
        return ""
