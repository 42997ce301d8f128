"""``p2pnode ledger``: what accounts, sessions and miners have, from an oracle; with ``--prove``, checked here.

The proof leads from the record to the header that 2f+1 members of the committee signed. The first committee is that of
the genesis, which is taken from ``--genesis``, or else from the oracle that is asked, which is then said; hand-overs
lead from it to the others.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import paint, print_json, print_mapping, print_table, shown
from p2pnode.config import DEVNET, NodeConfig
from protocol.core.errors import P2PNodeError

if TYPE_CHECKING:
    from p2pnode.trust_store import TrustStore
    from protocol.core.genesis import Genesis
    from protocol.light.headers import HeaderTrust
    from protocol.light.trust_book import LightBook

RECORDS = {
    "account": "ADDRESS, its first digits, or a key file",
    "session": "session id or its first digits",
    "miner": "node id or its first digits",
    "node": "of the registry: node id or its first digits",
    "name": "of a model in the registry",
    "outcome": "its number, from 0",
}
LISTS = ("pool", "sessions", "nodes", "registry")
WORD_ALONE = "by this oracle's word alone: name the genesis yourself with --genesis"
KNOWN_BEFORE = "as `p2pnode trust list` shows it"
WAIT_S = 10.0
POLL_S = 0.2


class LedgerError(P2PNodeError):
    """What was told of the ledger does not hold, or was not done."""

    code = "ledger/failed"


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "ledger",
        description="What the ledger holds, from the oracle that runs here. Without WHAT: how much of everything.",
    )
    parser.add_argument("what", nargs="?", choices=(*RECORDS, *LISTS, "withdraw"), metavar="WHAT")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of an account, session, miner, name or outcome")
    parser.add_argument("--prove", action="store_true", help="show the proof, and check it here")
    parser.add_argument("--genesis", type=Path, metavar="FILE", help="the network's genesis file, for --prove")
    parser.add_argument("--key", type=Path, metavar="FILE", help="withdraw: the account's key file")
    parser.add_argument("--password-file", metavar="FILE", help="withdraw: its first line is the key's password")
    parser.add_argument("--total", type=int, metavar="WEI", help="withdraw: of all it ever had, so much may leave")
    add_config_options(parser)
    add_json_option(parser)
    described = "; ".join(f"{what}: {name}" for what, name in RECORDS.items())
    parser.epilog = f"{described}; {', '.join(LISTS)}: all of them; withdraw: sign and hand in a withdrawal"


def run(args: argparse.Namespace) -> int:
    """Ask, and check what can be checked. Raises ControlError, LedgerError, ConfigError, KeystoreError."""
    config = config_of(args, {"keys.password_file": args.password_file})
    if args.what == "withdraw":
        return _withdraw(args, config)
    if (args.what in RECORDS) != (args.name is not None):
        raise LedgerError(
            f"{args.what or 'ledger'} takes {'a NAME' if args.what in RECORDS else 'no NAME'}",
            hint="`p2pnode ledger --help` shows what can be asked",
        )
    answer = _ask(config, _question(args))
    checked = _check(args, config, answer) if args.prove else []
    if args.json:
        print_json({**answer, **({"checked": checked} if args.prove else {})})
        return 0
    _print(args, answer)
    for line in checked:
        print(f"{paint('holds', 'green')}  {line}")
    return 0


def _question(args: argparse.Namespace) -> str:
    if args.what is None:
        return "ledger"
    if args.what in LISTS:
        return f"ledger:{args.what}"
    return f"ledger:{args.what}:{_address(args.name) if args.what == 'account' else args.name}"


def _address(name: str) -> str:
    """An address as it is, or that of a key file."""
    path = Path(name)
    if name.startswith("0x") or not path.is_file():
        return name
    try:
        return "0x" + str(json.loads(path.read_text(encoding="utf-8"))["address"]).removeprefix("0x")
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path} is no key file", hint="name an address, or a Web3 keystore") from error


def _ask(config: NodeConfig, question: str) -> dict[str, Any]:
    from p2pnode.control import SOCKET, ask_control

    return ask_control(config.node.state_dir / SOCKET, question)


def _print(args: argparse.Namespace, answer: dict[str, Any]) -> None:
    print(paint(f"as of block {answer['epoch']}/{answer['height']}, which is final", "dim"))
    if "total" in answer:
        print_mapping(answer["total"])
    elif "rows" in answer:
        rows = answer["rows"]
        if not rows:
            print("none")
            return
        headers = list(rows[0])
        print_table(headers, [[_short(name, row[name]) for name in headers] for row in rows])
    elif answer["record"] is None:
        print(f"{answer['key']}: the ledger holds nothing of it")
    else:
        print_mapping({args.what: answer["key"], **answer["record"]})
    if args.prove and "proof" in answer:
        print(f"{paint('proof', 'bold')}  {answer['proof']}")
        print(f"{paint('header', 'bold')} {answer['certified']}")


def _short(name: str, value: Any) -> str:
    text = shown(value)
    return f"{text[:16]}…" if name in ("model", "head") and len(text) > 17 else text


# Proofs


def _check(args: argparse.Namespace, config: NodeConfig, answer: dict[str, Any]) -> list[str]:
    """Check what was told against the certified header; what was checked, line by line. Raises LedgerError."""
    from p2pnode.hand_over_answers import follow
    from protocol.core.codec import unpack
    from protocol.light.headers import TrustExpired
    from protocol.messages.committee import Certified

    if "proof" not in answer:
        raise LedgerError("only single records are proved", hint="name one: p2pnode ledger account ADDRESS --prove")
    genesis, named = _genesis(args, config)
    book, kept = _book(genesis, named)
    named = named or (WORD_ALONE if kept is None else KNOWN_BEFORE)
    try:
        certified = unpack(Certified, bytes.fromhex(answer["certified"]), limit_bytes=Certified.LIMIT_BYTES)
        follow(book, partial(_ask, config), certified.certificate.epoch)
        trust = book.trust
        header = trust.check(certified)
        told = _check_outcome(trust, answer) if args.what == "outcome" else _check_record(args, answer, header)
    except TrustExpired as error:
        raise LedgerError(f"not enough trust: {error}", hint=error.hint) from error
    except (P2PNodeError, ValueError) as error:
        raise LedgerError(f"the proof does not hold: {error}", hint="trust nothing that this oracle says") from error
    if kept is not None and book.moved:
        kept.save(book.kept())
    members, quorum = len(trust.members_of(header.epoch)), len(certified.certificate.signatures)
    path = book.path(header.epoch)
    led = [f"{len(path)} hand-overs lead to that of epoch {header.epoch}"] if path else []
    network = genesis.network_id().hex()[:16]
    first = path[0].epoch if path else header.epoch
    known = f"the committee of epoch {first} of network {network} is known from earlier, or from a trust string"
    return [
        known if first > 1 else f"the first committee is that of network {network}, {named}",
        *led,
        f"{quorum} of its {members} members finalized block {header.epoch}/{header.height}",
        *told,
    ]


def _book(genesis: "Genesis", named: str) -> "tuple[LightBook, TrustStore | None]":
    """Whom this user believes; of a network that only the oracle names nothing is kept."""
    from p2pnode.trust_store import own_trust
    from protocol.light.trust_book import LightBook

    store = own_trust()
    if not named and store.load(genesis.network_id()) is None:
        return LightBook(genesis), None
    return store.book(genesis, time.time_ns() // 1_000_000), store


def _genesis(args: argparse.Namespace, config: NodeConfig) -> tuple["Genesis", str]:
    """The network, and by whom it is named; empty where that is the oracle that is asked."""
    from p2pnode.config import load_config
    from protocol.core.genesis import parse_genesis

    if args.genesis is not None:
        genesis = load_config(overrides={"network.genesis": str(args.genesis)}).genesis()
        return genesis, f"as {args.genesis} names it"
    if config.network.genesis != DEVNET:
        return config.genesis(), "as this configuration names it"
    return parse_genesis(_ask(config, "genesis")["genesis"]), ""


def _check_record(args: argparse.Namespace, answer: dict[str, Any], header: Any) -> list[str]:
    from protocol.core.codec import unpack
    from protocol.ledger.proofs import read_record, verify_ledger_proof
    from protocol.ledger.records import Section
    from protocol.messages.results import LedgerProof

    proof = unpack(LedgerProof, bytes.fromhex(answer["proof"]), limit_bytes=1 << 16)
    section = {"account": 0, "session": 1, "miner": 2, "name": 3, "node": 8}[args.what]
    key = answer["key"].encode() if args.what == "name" else bytes.fromhex(answer["key"].removeprefix("0x"))
    if (proof.section, proof.key) != (section, key) or not verify_ledger_proof(header, proof):
        raise LedgerError("it does not lead to the header's ledger root")
    if (proof.value is None) != (answer["record"] is None):
        raise LedgerError("it is of another record than was shown")
    what = "nothing of this key" if proof.value is None else str(read_record(Section(section), proof.value))
    return [f"the ledger root of that block holds, after {len(proof.siblings)} hashes: {what}"]


def _check_outcome(trust: "HeaderTrust", answer: dict[str, Any]) -> list[str]:
    from protocol.core.codec import unpack
    from protocol.light.news import check_outcome
    from protocol.messages.results import OutcomeNews

    news = unpack(OutcomeNews, bytes.fromhex(answer["proof"]), limit_bytes=OutcomeNews.LIMIT_BYTES)
    check_outcome(trust, news)
    shown_root, index = answer["record"]["root"], answer["record"]["index"]
    if (news.outcome.root.hex(), news.proof.index) != (shown_root, index):
        raise LedgerError("it is of another outcome than was shown")
    return [f"leaf {news.proof.index} of the {news.proof.count} of that block's results tree is: {news.outcome}"]


# Withdrawals


def _withdraw(args: argparse.Namespace, config: NodeConfig) -> int:
    """Sign a withdrawal and hand it in; where an oracle is asked, wait until it is final."""
    from p2pnode.identity import read_keystore
    from protocol.core.codec import encode
    from protocol.core.genesis import parse_genesis
    from protocol.core.signing import typed_digest
    from protocol.messages.results import SignedWithdraw, Submit, Withdraw

    if args.key is None or args.total is None or args.total < 1:
        hint = "p2pnode ledger withdraw --key FILE --total WEI"
        raise LedgerError("a withdrawal needs the account's key and a total above 0", hint=hint)
    key = read_keystore(args.key, config.password())
    genesis = parse_genesis(_ask(config, "genesis")["genesis"])
    withdraw = Withdraw(key.node_id, args.total)
    signed = SignedWithdraw(withdraw, key.sign(typed_digest(genesis.domain(), withdraw)))
    _ask(config, "hand-in:" + encode(Submit(withdrawals=(signed,))).hex())
    account = _awaited(config, "0x" + key.node_id.hex(), args.total)
    result = {"account": "0x" + key.node_id.hex(), "total": args.total, "final": account is not None, **(account or {})}
    if args.json:
        print_json(result)
    else:
        print_mapping(result)
    return 0


def _awaited(config: NodeConfig, address: str, total: int) -> dict[str, Any] | None:
    """The account once the withdrawal is final; None if it is not in time, or no oracle is asked."""
    if "oracle" not in _ask(config, "status")["roles"]:
        return None
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        record: dict[str, Any] | None = _ask(config, f"ledger:account:{address}")["record"]
        if record is not None and record["withdrawable_wei"] >= total:
            return record
        time.sleep(POLL_S)
    raise LedgerError(
        f"{total} wei were handed in, and are not withdrawable after {WAIT_S:g} s",
        hint="does the account have as much that is not reserved? `p2pnode ledger account ADDRESS` shows it",
    )
