"""``p2pnode wallet``: an account's money, on the ledger and on the chain: pay in, look, take out.

The ledger is asked at an oracle's control socket (``--state-dir``), the chain at its endpoints (``--rpc``, else
``[chain] urls``, else those of that oracle). Amounts are in the ledger's units.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.cli.chain_user import add_chain_user_options, network_of
from p2pnode.cli.options import config_of
from p2pnode.cli.output import WaitLine, paint, print_json, print_mapping, print_table
from p2pnode.config import ConfigError, NodeConfig
from p2pnode.control import ControlError

if TYPE_CHECKING:
    from p2pnode.identity import NodeKey
    from p2pnode.wallet import Wallet
    from protocol.core.ids import NodeId

ACTIONS = {
    "balance": "what an account has on the ledger, what may leave, what was paid out",
    "earnings": "what an account was paid for, by epoch: as miner, router and oracle",
    "deposit": "pay in for an account, from the key's coin",
    "withdraw": "take AMOUNT (or `all`) out; without: go on with what was signed before",
    "exit": "once the committee is dead: take out everything",
    "refund": "once the committee is dead: take back deposits that the ledger never took in",
}


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "wallet", description="An account's money, on the ledger and on the chain."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in ACTIONS.items():
        action = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == "deposit":
            action.add_argument("amount", type=int, metavar="AMOUNT", help="in the ledger's units")
        if name == "withdraw":
            action.add_argument("amount", nargs="?", metavar="AMOUNT", help="in the ledger's units, or all")
        action.add_argument("--account", metavar="ADDRESS", help="whose, or a key file (default: the key's own)")
        action.add_argument("--key", type=Path, metavar="FILE", help="the account's key file; it pays the fees as well")
        action.add_argument("--payer", type=Path, metavar="FILE", help="a key file that pays the fees instead")
        action.add_argument("--no-wait", action="store_true", help="stop once it is handed in")
        add_chain_user_options(action)


def run(args: argparse.Namespace) -> int:
    """Do it. Raises ConfigError, WalletError, ChainError, ControlError, KeystoreError."""
    config = config_of(args, {"keys.password_file": args.password_file})
    key = _key(args, config)
    account = _account(args, key)
    with WaitLine() as line:
        wallet = _open(args, config, key, line)
        result: dict[str, Any] = _ACTIONS[args.action](args, wallet, account, key)
    result = {"account": f"0x{account.hex()}", **result}
    if args.json:
        print_json(result)
    else:
        _print(args.action, result)
    return 0


# What it works with


def _key(args: argparse.Namespace, config: NodeConfig) -> "NodeKey | None":
    if args.key is None:
        if args.action not in ("balance", "earnings") and not (args.action == "withdraw" and args.amount is None):
            raise ConfigError(f"`p2pnode wallet {args.action}` needs a key", hint="--key FILE: the account's key file")
        return None
    from p2pnode.identity import read_keystore

    return read_keystore(args.key, config.password())


def _account(args: argparse.Namespace, key: "NodeKey | None") -> "NodeId":
    from protocol.core.ids import NodeId

    named = args.account
    if named is None and key is not None:
        return key.node_id
    try:
        if named is not None and Path(named).is_file():
            named = str(json.loads(Path(named).read_text(encoding="utf-8"))["address"])
        address = bytes.fromhex((named or "").removeprefix("0x"))
    except (ValueError, KeyError, TypeError, OSError):
        address = b""
    if len(address) != 20:
        raise ConfigError(
            "no account is named" if named is None else f"{named[:80]!r} is no account",
            hint="--account ADDRESS, 0x and 40 hexadecimal digits, or a key file; or --key FILE",
        )
    return NodeId(address)


def _open(args: argparse.Namespace, config: NodeConfig, key: "NodeKey | None", line: WaitLine) -> "Wallet":
    from p2pnode.identity import read_keystore
    from p2pnode.wallet import Wallet

    network = network_of(args, config)
    payer = key if args.payer is None else read_keystore(args.payer, config.password())
    return Wallet(network.genesis, network.chain(payer), network.ask, network.folder("wallet"), line, args.timeout)


# What it does


def _balance(_args: argparse.Namespace, wallet: "Wallet", account: "NodeId", _key: object) -> dict[str, Any]:
    wallet.refresh(account)
    paid, record = wallet.chain.paid(account), _record(wallet, account)
    ledger = {} if record is None else {**record, "waiting_wei": max(0, record["withdrawable_wei"] - paid)}
    return {
        **ledger,
        "ledger": "no oracle was asked: name the folder of one by --state-dir" if record is None else "final",
        "paid_out_wei": paid,
        "coin": wallet.chain.coin(account),
        "exit": "open" if wallet.chain.dead() else "closed: the committee lives",
        "proofs": len(wallet.proofs.of(account)),
    }


def _record(wallet: "Wallet", account: "NodeId") -> dict[str, Any] | None:
    try:
        return wallet.record(account)
    except ControlError:
        return None


def _earnings(_args: argparse.Namespace, wallet: "Wallet", account: "NodeId", _key: object) -> dict[str, Any]:
    rows = wallet.earnings(account)
    sums = {name: sum(row[name] for row in rows) for name in ("miner_wei", "router_wei", "oracle_wei")}
    return {"earned_wei": sum(sums.values()), **sums, "epochs": rows}


def _deposit(args: argparse.Namespace, wallet: "Wallet", account: "NodeId", _key: object) -> dict[str, Any]:
    before = _record(wallet, account)
    if args.amount < 1:
        raise ConfigError("a deposit is above 0", hint="p2pnode wallet deposit AMOUNT --key FILE")
    transaction = wallet.deposit(account, args.amount)
    taken_in = before is not None and not args.no_wait
    if taken_in:
        wallet.await_balance(account, args.amount, before)
    return {"deposited_wei": args.amount, "transaction": transaction, "on_the_ledger": taken_in}


def _withdraw(args: argparse.Namespace, wallet: "Wallet", account: "NodeId", key: "NodeKey | None") -> dict[str, Any]:
    if args.amount is None:
        record = wallet.record(account)
        total = wallet.chain.paid(account) + 1 if record is None else record["withdrawable_wei"]
    elif key is None or key.node_id != account:
        raise ConfigError("a withdrawal is signed by its account", hint="--key FILE of the account, without --account")
    else:
        total = wallet.sign_away(key, _amount(args.amount))
    paid = wallet.chain.paid(account)
    if total <= paid:
        return {"paid_out_wei": paid, "transaction": None}
    if args.no_wait:
        return {"withdrawable_wei": total, "paid_out_wei": paid, "transaction": None}
    proved = wallet.await_proof(account, total)
    wallet.await_usable(proved)
    transaction = wallet.pay_out(proved)
    return {"paid_out_wei": wallet.chain.paid(account), "transaction": transaction}


def _amount(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or len(text) > 19 or int(text) < 1:
        raise ConfigError(f"{text[:32]!r} is no amount", hint="a whole number above 0, or all")
    return int(text)


def _exit(_args: argparse.Namespace, wallet: "Wallet", account: "NodeId", _key: object) -> dict[str, Any]:
    transaction = wallet.exit(account)
    return {"paid_out_wei": wallet.chain.paid(account), "transaction": transaction}


def _refund(_args: argparse.Namespace, wallet: "Wallet", account: "NodeId", _key: object) -> dict[str, Any]:
    given_back = wallet.refund(account)
    return {"deposits": [{"number": number, "transaction": transaction} for number, transaction in given_back]}


_ACTIONS = {
    "balance": _balance,
    "earnings": _earnings,
    "deposit": _deposit,
    "withdraw": _withdraw,
    "exit": _exit,
    "refund": _refund,
}


def _print(action: str, result: dict[str, Any]) -> None:
    rows = result.pop("epochs", None)
    print_mapping(result)
    if rows:
        headers = list(rows[0])
        print_table(headers, [[str(row[name]) for name in headers] for row in rows])
    if action == "withdraw" and result["transaction"] is None and result.get("withdrawable_wei"):
        print(paint("next: `p2pnode wallet withdraw` without an amount, once a checkpoint holds it", "dim"))
