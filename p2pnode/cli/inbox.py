"""``p2pnode inbox``: ask a router on the chain, by a transaction and nothing else, and check what it answers.

The prompt is sealed to the router's key, which it announced in the contract; the answer to a key that is made for this
one question and kept in ``inbox/`` of $P2PNODE_HOME. What is shown as proved leads, token by token, to the root that
the contract found in the network's results.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.cli.chain_user import add_chain_user_options, network_of
from p2pnode.cli.options import config_of
from p2pnode.cli.output import WaitLine, paint, print_json, print_mapping, printable
from p2pnode.config import ConfigError, NodeConfig

if TYPE_CHECKING:
    from p2pnode.identity import NodeKey
    from p2pnode.inbox_asker import Asker

UNPROVED = 1
"""The exit status of an answer that is not proved in time."""


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("inbox", description="Ask a router on the chain.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    ask = actions.add_parser("ask", help="ask, and wait for the answer and its proof")
    ask.add_argument("prompt", metavar="PROMPT")
    ask.add_argument("--router", required=True, metavar="ADDRESS", help="as its `p2pnode status` shows it under inbox")
    ask.add_argument("--model", metavar="DIGEST", help="of the model that is to answer (default: any)")
    ask.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of the answer, up to 1000 (default 256)")
    ask.add_argument(
        "--fee", type=int, metavar="WEI", help="in the coin's smallest unit (default: what the router asks)"
    )
    ask.add_argument("--within", type=int, default=3_600, metavar="SECONDS", help="to be answered in (default 3600)")
    show = actions.add_parser("show", help="show the answer to an earlier question, and check it")
    reclaim = actions.add_parser("reclaim", help="take back the fee of a question that was not answered in time")
    for action in (show, reclaim):
        action.add_argument("number", type=int, metavar="NUMBER", help="of the question")
    for action in (ask, show, reclaim):
        action.add_argument("--key", type=Path, required=True, metavar="FILE", help="the asker's key file")
        action.add_argument("--no-proof", action="store_true", help="do not wait for the proof")
        add_chain_user_options(action)


def run(args: argparse.Namespace) -> int:
    """Do it. Raises ConfigError, InboxError, ChainError, KeystoreError."""
    from p2pnode.identity import read_keystore

    config = config_of(args, {"keys.password_file": args.password_file})
    key = read_keystore(args.key, config.password())
    with WaitLine() as line:
        asker = _open(args, config, key, line)
        if args.action == "reclaim":
            result = {"number": args.number, "transaction": asker.reclaim(args.number)}
        else:
            number = _asked(args, asker) if args.action == "ask" else args.number
            answered = asker.answer(number)
            proved = args.no_proof or asker.await_proof(answered)
            result = {"number": number, "proved": asker.proved(answered), **answered.shown()}
    if args.json:
        print_json(result)
    elif "text" in result:
        print(printable_lines(result.pop("text")))
        print_mapping(result)
    else:
        print_mapping(result)
    if args.action != "reclaim" and not proved:
        print(paint(f"next: p2pnode inbox show {result['number']}", "dim", sys.stderr), file=sys.stderr)
        return UNPROVED
    return 0


def printable_lines(text: str) -> str:
    """Text that came from elsewhere, line by line without what a terminal would obey."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _asked(args: argparse.Namespace, asker: "Asker") -> int:
    from protocol.core.ids import ZERO_DIGEST, Digest
    from protocol.messages.inbox import INBOX_TOKENS_MAX

    checks = (
        (bool(args.prompt.strip()), "the prompt is empty"),
        (1 <= args.max_tokens <= INBOX_TOKENS_MAX, f"--max-tokens is from 1 to {INBOX_TOKENS_MAX}"),
        (args.fee is None or args.fee >= 0, "--fee must not be negative"),
        (60 <= args.within <= 30 * 86_400, "--within is from 60 seconds to 30 days"),
    )
    for holds, message in checks:
        if not holds:
            raise ConfigError(message, hint="`p2pnode inbox ask --help` shows what can be given")
    model = ZERO_DIGEST if args.model is None else Digest(_bytes(args.model, 32, "a model's digest"))
    return asker.ask(_bytes(args.router, 20, "an address"), args.prompt, model, args.max_tokens, args.fee, args.within)


def _bytes(text: str, size: int, what: str) -> bytes:
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) != size:
        raise ConfigError(
            f"{text[:80]!r} is no {what.split(' ', 1)[1]}", hint=f"{what} has {2 * size} hexadecimal digits"
        )
    return data


def _open(args: argparse.Namespace, config: NodeConfig, key: "NodeKey", line: WaitLine) -> "Asker":
    from p2pnode.inbox_asker import Asker

    network = network_of(args, config)
    return Asker(network.genesis.domain(), network.chain(key), network.folder("inbox"), line, args.timeout)
