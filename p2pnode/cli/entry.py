"""``p2pnode``: finds the command, runs it, and turns whatever it ends in into a line and an exit status.

Only the module of the command that is asked for is imported, and no command's module imports libp2p or llama.cpp at
its top, so ``p2pnode --help`` and the small commands answer at once.

Exit status: 0 done, 1 an error (one line, and what to do next), 2 a command line that cannot be understood, 130
interrupted.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

from p2pnode.cli.output import print_error
from p2pnode.setting import nearest
from protocol.core.errors import P2PNodeError

COMMANDS = {
    "run": "run a node: router and miner in one, unless told otherwise",
    "testnet": "start a network of several processes on this machine",
    "demo": "start a network, answer one prompt, take it down",
    "gateway": "the OpenAI API on this machine, verifying every answer",
    "api-key": "keys for the HTTP surface: add, list, revoke",
    "chat": "ask a router, once or in a conversation",
    "receipt": "look at a receipt, raise it to a higher level, take the text out",
    "verify": "check every link of a receipt, offline",
    "trust": "whom this user believes: show it, or add a trust string",
    "evidence": "find, check and hand in what convicts a node",
    "explain": "who was picked in a session, and why, recomputed",
    "bids": "what this miner bid on, with the routers' receipts",
    "keys": "make, show and re-encrypt this node's key",
    "model": "list, add, check and remove models",
    "committee": "who certifies, where each member is, how long blocks take",
    "blocks": "the last blocks that became final, and those to come",
    "ledger": "accounts, sessions, miners and outcomes, with proofs; withdrawals",
    "chain": "a local chain, the network's contracts, and how both do",
    "wallet": "pay in, look at the balance and earnings, take out",
    "inbox": "ask a router on the chain, and check the answer",
    "peers": "whom the running node knows",
    "status": "how the running node is doing",
    "sim": "simulate whole networks with faults, and check what is promised",
    "backup": "write key, database and API keys to one file; move the node",
    "restore": "a node from its backup",
    "doctor": "check this machine, and say what to do",
}
"""Each command's module in this package (a hyphen is an underscore there), and its line in the help."""

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_PIPE = 1, 2, 130, 141


class _Help(argparse.HelpFormatter):
    """argparse's, with room for the longest command beside what it does; it counts without the commands' indent."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = max(map(len, COMMANDS)) + 4


class _Parser(argparse.ArgumentParser):
    """argparse with this program's form of an error."""

    def error(self, message: str) -> NoReturn:
        print_error(message, f"`{self.prog} --help` shows what can be given")
        raise SystemExit(EXIT_USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Never raises but SystemExit from the argument parser."""
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        return _explained(error)
    return status


def _run(arguments: list[str]) -> int:
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    if wanted is not None and wanted not in COMMANDS:
        print_error(
            f"there is no command {wanted[:40]!r}{nearest(wanted, list(COMMANDS))}", "`p2pnode --help` lists them"
        )
        return EXIT_USAGE
    described = "A peer-to-peer network that answers prompts with open models."
    parser = _Parser(prog="p2pnode", description=described, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"p2pnode {_version()}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    if wanted is None:
        for name, summary in COMMANDS.items():
            subparsers.add_parser(name, help=summary)
        parser.parse_args(arguments)
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    module = importlib.import_module(f"p2pnode.cli.{wanted.replace('-', '_')}")
    module.configure(subparsers)
    status: int = module.run(parser.parse_args(arguments))
    return status


def _explained(error: BaseException) -> int:
    """Say what ended the command; returns the exit status."""
    causes = list(_leaves(error))
    known = next((cause for cause in causes if isinstance(cause, P2PNodeError)), None)
    if known is not None:
        print_error(str(known), known.hint)
        return EXIT_ERROR
    if all(isinstance(cause, KeyboardInterrupt) for cause in causes):
        print_error("interrupted")
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        _drop_output()  # whoever read it has seen enough
        return EXIT_PIPE
    if isinstance(error, OSError):
        _drop_output()
        print_error(
            f"{error.filename or 'the system'}: {error.strerror or error}",
            "check the path, the disk and the permissions",
        )
        return EXIT_ERROR
    if os.environ.get("P2PNODE_TRACEBACK"):
        traceback.print_exception(error)
    bug, where = causes[0], traceback.extract_tb(causes[0].__traceback__)[-1]
    print_error(
        f"a bug in p2pnode: {type(bug).__name__}: {bug} ({os.path.basename(where.filename)}:{where.lineno})",
        "run it again with P2PNODE_TRACEBACK=1 and report what it prints",
    )
    return EXIT_ERROR


def _drop_output() -> None:
    # Python flushes at exit, and would complain once more about a reader that is gone or a disk that is full.
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("p2pnode")
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
