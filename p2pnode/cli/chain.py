"""``p2pnode chain``: a chain on this machine, a network's contracts on any chain, and how both do."""

import argparse
import signal
import sys
import tempfile
import threading
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.cli.options import add_config_options, add_json_option, config_of
from p2pnode.cli.output import ProgressLine, paint, print_json, print_mapping
from p2pnode.config import DEVNET
from protocol.core.errors import P2PNodeError

if TYPE_CHECKING:
    from chain.deploy import Terms
    from chain.rpc import Health, Rpc
    from chain.signed import Payer

KINDS = ("auto", "anvil", "embedded")
LOOK_EVERY_S = 0.5


class ChainCommandError(P2PNodeError):
    """What was asked for does not fit together."""

    code = "chain/command"


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("chain", description="The chain that a network settles on.")
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    up = _action(actions, "up", "start a chain on this machine, until Ctrl-C")
    up.add_argument("--kind", choices=KINDS, default="auto", help="auto: anvil where it is installed, else embedded")
    up.add_argument("--folder", type=Path, metavar="FOLDER", help="where its state is (default: a new temporary one)")
    up.add_argument("--port", type=int, default=0, metavar="PORT", help="of the loopback (default: a free one)")
    up.add_argument("--block-time", type=float, default=1, metavar="SECONDS", help="between blocks (default 1)")
    add_json_option(up)
    deploy = _action(actions, "deploy", "put the contracts of a genesis on a chain")
    deploy.add_argument("--out", type=Path, metavar="FILE", help="a new genesis, with the contracts, goes here")
    deploy.add_argument("--key", type=Path, metavar="FILE", help="the keystore that pays (local chains: not needed)")
    deploy.add_argument("--password-file", metavar="FILE", help="its first line is the key's password")
    terms = deploy.add_argument_group("terms of the contracts, for ever; amounts in the ledger's units")
    for name, default in _terms():
        shown = "0x0…" if isinstance(default, bytes) else str(default)
        terms.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=f"default {shown}")
    status = _action(actions, "status", "how the chain, its endpoints and the contracts do")
    for action in (deploy, status):
        action.add_argument(
            "--url", action="append", metavar="URL", help="an endpoint (default: those of [chain] urls)"
        )
        action.add_argument("--genesis", metavar="FILE", help="the network's genesis file")
        add_config_options(action)
        add_json_option(action)


def _action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Do it. Raises ChainError, ConfigError, KeystoreError, ChainCommandError."""
    return {"up": _up, "deploy": _deploy, "status": _status}[args.action](args)


# Up


def _up(args: argparse.Namespace) -> int:
    from chain.localchain import FAUCET, open_local_chain

    folder = (args.folder or Path(tempfile.mkdtemp(prefix="p2pnode-chain-"))).absolute()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    print(paint(f"starting a chain in {folder} …", "dim", sys.stderr), file=sys.stderr)
    with open_local_chain(folder, args.kind, port=args.port, block_s=args.block_time) as local:
        shown = {
            "url": local.url,
            "chain_id": local.chain_id,
            "kind": local.kind,
            "folder": str(folder),
            "has_coin": f"0x{FAUCET.node_id.hex()}",
        }
        if args.json:
            print_json(shown)
        else:
            print_mapping(shown)
            print(f"deploy:  p2pnode chain deploy --url {local.url} --genesis FILE --out FILE")
            print("stop it: Ctrl-C")
        sys.stdout.flush()
        while not stop.wait(LOOK_EVERY_S):
            if not local.running:
                raise ChainCommandError("the chain has ended", hint=f"its log is in {folder}")
    print(paint(f"the chain is down; its state stays in {folder}", "dim", sys.stderr), file=sys.stderr)
    return 0


# Deploy


def _deploy(args: argparse.Namespace) -> int:
    from chain.deploy import check_terms, deploy, predict
    from chain.pace import check_pace
    from chain.rpc import open_rpc
    from protocol.core.genesis import parse_genesis

    config = config_of(args, {"network.genesis": args.genesis, "keys.password_file": args.password_file})
    if args.genesis is None and config.network.genesis == DEVNET:
        raise ChainCommandError("a genesis is needed", hint="name the network's genesis file with --genesis FILE")
    genesis, urls = config.genesis(), tuple(args.url or config.chain.urls)
    rpc = open_rpc(urls, _chain_id(urls))
    payer = _payer(args, rpc)
    check_pace(rpc, genesis)
    if genesis.contracts is None:
        if args.out is None:
            raise ChainCommandError(
                "the genesis names no contracts", hint="give --out FILE: with its contracts it is another genesis"
            )
        contracts = predict(rpc, payer.node_id)
        founded_s = genesis.founded_s or int(time.time())
        genesis = replace(genesis, chain_id=rpc.chain_id, allocation=(), contracts=contracts, founded_s=founded_s)
        check_terms(genesis, _given_terms(args))
        # Kept before anything is deployed: it is what the contracts are made for.
        _write_new(args.out, parse_genesis(genesis.to_json()).to_json())
    elif genesis.chain_id != rpc.chain_id:
        raise ChainCommandError(f"the genesis is for chain {genesis.chain_id}, {urls[0]} is of {rpc.chain_id}")
    with ProgressLine("deploying", amount=str) as line:
        deploy(rpc, payer, genesis, _given_terms(args), lambda _, done, total: line(done, total))
    assert genesis.contracts is not None
    shown = {
        "network": genesis.network_id().hex(),
        "chain_id": genesis.chain_id,
        "genesis": str(args.out or args.genesis or config.network.genesis),
        "deployer": f"0x{payer.node_id.hex()}",
        **{name: f"0x{address.hex()}" for name, address in genesis.contracts.addresses().items()},
    }
    if args.json:
        print_json(shown)
    else:
        print_mapping(shown)
    return 0


def _chain_id(urls: tuple[str, ...]) -> int:
    from chain.endpoint import open_endpoint
    from chain.replies import quantity

    if not urls:
        raise ChainCommandError("an endpoint is needed", hint="name one with --url URL, or set [chain] urls")
    return quantity(open_endpoint(urls[0]).call("eth_chainId", [], str))


def _payer(args: argparse.Namespace, rpc: "Rpc") -> "Payer":
    from chain.localchain import FAUCET, LOCAL_CHAIN_ID
    from p2pnode.identity import read_keystore

    if args.key is not None:
        config = config_of(args, {"keys.password_file": args.password_file})
        return read_keystore(args.key, config.password())
    if rpc.chain_id != LOCAL_CHAIN_ID:
        raise ChainCommandError("deploying costs coin", hint="name the keystore that pays with --key FILE")
    return FAUCET


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ChainCommandError(f"{path} exists", hint="name another file: a genesis is never changed") from error


def _terms() -> list[tuple[str, Any]]:
    """The names of the contracts' terms and what they are by themselves."""
    # The seam's dataclasses are cheap to import, the client behind them is not.
    from chain.deploy import Terms

    return [(item.name, item.default) for item in fields(Terms)]


def _given_terms(args: argparse.Namespace) -> "Terms":
    from chain.deploy import Terms

    given: dict[str, Any] = {}
    for name, default in _terms():
        text = getattr(args, name)
        if text is None:
            continue
        try:
            given[name] = bytes.fromhex(text.removeprefix("0x")) if isinstance(default, bytes) else int(text, 0)
        except ValueError as error:
            raise ChainCommandError(f"--{name.replace('_', '-')} {text[:80]!r} is no value", hint=str(error)) from error
        if isinstance(default, bytes) and len(given[name]) != 20:
            raise ChainCommandError(f"--{name.replace('_', '-')} is an address of 20 bytes")
    return Terms(**given)


# Status


def _status(args: argparse.Namespace) -> int:
    from chain.client import open_chain
    from chain.deploy import check_deployed
    from chain.rpc import open_rpc

    config = config_of(args, {"network.genesis": args.genesis})
    urls = tuple(args.url or config.chain.urls)
    named = args.genesis is not None or config.network.genesis != DEVNET
    genesis = config.genesis() if named else None
    settles = genesis is not None and genesis.contracts is not None
    chain_id = genesis.chain_id if genesis is not None and settles else _chain_id(urls)
    if not urls:
        raise ChainCommandError("an endpoint is needed", hint="name one with --url URL, or set [chain] urls")
    rpc = open_rpc(urls, chain_id)
    shown: dict[str, Any] = {"chain_id": chain_id, "endpoints": [_endpoint(health) for health in rpc.health()]}
    if genesis is not None and settles:
        chain = open_chain(urls, genesis)
        check_deployed(rpc, genesis)
        final = chain.finalized()
        shown |= {"network": genesis.network_id().hex(), "final_block": final.number, **_contracts(chain)}
    if args.json:
        print_json(shown)
    else:
        print_mapping(shown)
    return 0 if any(row["usable"] for row in shown["endpoints"]) else 1


def _endpoint(health: "Health") -> dict[str, Any]:
    age = f"{max(0, int(time.time()) - health.head_time_s)} s ago" if health.head_time_s else "-"
    return {
        "endpoint": health.name,
        "usable": health.usable,
        "head": health.head,
        "made": age,
        "trouble": health.trouble,
    }


def _contracts(chain: Any) -> dict[str, Any]:
    last, due = chain.latest_checkpoint(), chain.undrawn()
    return {
        "contracts": "deployed, and this network's",
        "checkpoint": None if last is None else f"{last.epoch}/{last.height}, number {last.sequence}",
        "checkpoint_age_s": None if last is None else max(0, int(time.time()) - last.time_s),
        "usable": last is not None and chain.usable(last.digest),
        "to_draw": None if due is None else f"epoch {due.epoch} from {len(due.candidates)} candidates",
        "deposits": chain.deposits(),
        "exit_open": chain.dead(),
    }
