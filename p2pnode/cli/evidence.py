"""``p2pnode evidence``: two signed statements that no correct node makes both, found, checked and handed in.

Whoever shows them, they convict who signed both: everybody can look for them in what it holds, and everybody can hand
them in, to a running node or to the contract itself.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pnode.cli.chain_user import UserNetwork, add_chain_user_options, network_of
from p2pnode.cli.options import add_json_option, config_of
from p2pnode.cli.output import WaitLine, paint, print_json, printable
from p2pnode.config import ConfigError, NodeConfig
from protocol.core.errors import P2PNodeError

if TYPE_CHECKING:
    from protocol.core.genesis import Genesis
    from protocol.core.ids import NodeId
    from protocol.results.convictions import Conviction
    from protocol.results.evidence import Evidence

MAKE = """Hold receipts, evidence files and the folders of oracles against each other, and find whatever contradicts."""
VERIFY = """Check evidence: who is convicted of what, and whose signatures show it. Needs no network."""
SUBMIT = """Hand evidence in: to the node that runs in the folder, which tells every other (oracles report it to the
contract in their turns), or, with --key, to the contract itself. One piece for each convicted node is enough."""


class NoEvidence(P2PNodeError):
    """There is nothing that convicts anybody."""

    code = "evidence/none"


def configure(subparsers: Any) -> None:
    """Add the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evidence", description="Two signed statements that no correct node makes both, and who made them."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="find contradictions in papers", description=MAKE)
    make.add_argument("papers", nargs="+", type=Path, metavar="PAPER", help="a receipt, evidence, an oracle's folder")
    make.add_argument("-o", "--output", type=Path, metavar="FILE", help="write what was found")
    add_json_option(make)
    verify = actions.add_parser("verify", help="who is convicted of what", description=VERIFY)
    verify.add_argument("file", type=Path, metavar="FILE", help="what `p2pnode evidence make` wrote")
    add_json_option(verify)
    submit = actions.add_parser("submit", help="hand it in", description=SUBMIT)
    submit.add_argument("file", type=Path, metavar="FILE", help="what `p2pnode evidence make` wrote")
    submit.add_argument("--key", type=Path, metavar="FILE", help="a key file: it pays, and has the reward")
    add_chain_user_options(submit)


def run(args: argparse.Namespace) -> int:
    """Do it; exit status 1 if there is nothing, or something that convicts nobody. Raises P2PNodeError, OSError."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {"make": _make, "verify": _verify, "submit": _submit}
    return actions[args.action](args)


# Make


def _make(args: argparse.Namespace) -> int:
    from p2pnode.evidence_papers import read_papers, write_evidence
    from protocol.results.convictions import judge, make_file

    papers = read_papers(args.papers)
    found = papers.statements.find()
    convictions = [judge(papers.genesis.domain(), piece) for piece in found.evidence]
    if found.evidence and args.output is not None:
        write_evidence(args.output, make_file(papers.genesis, found.evidence))
    if args.json:
        shown = _as_json(papers.genesis, convictions)
        looked_at = papers.statements.counts()
        print_json({**shown, "papers": [what for _, what in papers.read], "looked_at": looked_at, "more": found.more})
        return 0 if convictions else 1
    for path, what in papers.read:
        print(f"{printable(str(path))}: {what}")
    counted = ", ".join(f"{count} {name}" for name, count in papers.statements.counts().items() if count)
    print(f"looked at {counted or 'nothing that was signed by miners or oracles'}")
    if not convictions:
        raise NoEvidence("nothing in these papers contradicts anything", hint="add papers of others on the same lanes")
    _print(papers.genesis, convictions)
    if found.more:
        print("there is more of the same in these papers; what is here is enough against each of these nodes")
    if args.output is not None:
        print(f"\nwritten to {args.output}; next: p2pnode evidence submit {args.output}")
    return 0


# Verify


def _verify(args: argparse.Namespace) -> int:
    genesis, pieces = _read(args.file)
    convictions = [conviction for conviction, _ in pieces]
    if args.json:
        print_json(_as_json(genesis, convictions))
    else:
        _print(genesis, convictions)
    return 0 if convictions and all(conviction.convicted for conviction in convictions) else 1


def _read(path: Path) -> "tuple[Genesis, list[tuple[Conviction, Evidence]]]":
    from p2pnode.evidence_papers import read_evidence
    from protocol.results.convictions import judge, pieces_of

    genesis, file = read_evidence(path)
    return genesis, [(judge(genesis.domain(), piece), piece) for piece in pieces_of(file)]


# Submit


def _submit(args: argparse.Namespace) -> int:
    genesis, pieces = _read(args.file)
    convicting: dict[NodeId, tuple[Conviction, Evidence]] = {}
    for conviction, evidence in pieces:
        if conviction.convicted is not None:
            convicting.setdefault(conviction.convicted, (conviction, evidence))
    if not convicting:
        hint = f"`p2pnode evidence verify {args.file}` says why"
        raise NoEvidence(f"{args.file} convicts nobody", hint=hint)
    if args.rpc and args.key is None:
        raise ConfigError("whoever sends a transaction pays for it", hint="--key FILE: a key file with coin")
    config = config_of(args, {"keys.password_file": args.password_file})
    send = _to_node if args.key is None else _to_contract
    rows = send(args, config, genesis, convicting.values())
    if args.json:
        print_json({"network": genesis.network_id().hex(), "submitted": rows})
    else:
        for row in rows:
            style = "green" if row["taken"] else "red"
            print(f"{row['convicted']}  {row['what']}: {paint(printable(row['became']), style)}")
    return 0 if all(row["taken"] for row in rows) else 1


Row = dict[str, Any]


def _to_node(_args: argparse.Namespace, config: NodeConfig, genesis: "Genesis", pieces: Iterable[Any]) -> list[Row]:
    """To the node that runs in the folder. Raises NoNodeRunning, ControlError, NoEvidence."""
    from p2pnode.control import SOCKET, ask_control
    from protocol.core.genesis import parse_genesis
    from protocol.results.convictions import pack_piece

    path = config.node.state_dir / SOCKET
    _same_network(genesis, parse_genesis(ask_control(path, "genesis")["genesis"]), "the node that runs here")
    rows = []
    for conviction, evidence in pieces:
        answer = ask_control(path, f"evidence:{pack_piece(evidence).hex()}")
        taken, became = _told(answer)
        rows.append({**_row(conviction), "taken": taken, "became": became, **answer})
    return rows


def _told(answer: dict[str, Any]) -> tuple[bool, str]:
    """Whether a node did something with evidence, and what becomes of it."""
    if "new" not in answer:
        return True, "gossiped to the oracles"
    if answer["jailed"]:
        return True, "is jailed already"
    if not answer["new"]:
        known = "the oracle has it already, or it is against somebody who is in no committee that it knows"
        return bool(answer["registered"]), known
    told = ["gossiped"] if answer["gossiped"] else ["too large for gossip"]
    if not answer["registered"]:
        told.append("there is no stake to be slashed: it is not registered")
    else:
        told.append("reported to the contract in turn" if answer["reports"] else "this oracle sees no chain")
    return True, "; ".join(told)


def _to_contract(args: argparse.Namespace, config: NodeConfig, genesis: "Genesis", pieces: Iterable[Any]) -> list[Row]:
    """To the contract of the network that options, configuration or the running node name. Raises ChainError."""
    from p2pnode.identity import read_keystore

    network = _network(args, config, genesis)
    key = read_keystore(args.key, config.password())
    chain = network.chain(key)
    with WaitLine() as line:
        return [
            _slashed(chain, key.node_id, conviction, evidence, line, args.timeout) for conviction, evidence in pieces
        ]


def _network(args: argparse.Namespace, config: NodeConfig, genesis: "Genesis") -> UserNetwork:
    """The network that evidence is of, if this user knows it. A file alone is not to say where a transaction goes.
    Raises NoEvidence, ConfigError, TrustUnreadable."""
    from p2pnode.trust_store import genesis_of, own_trust

    if args.genesis is None and args.rpc and genesis.contracts is not None:
        kept = own_trust().load(genesis.network_id())
        known = None if kept is None else genesis_of(kept)
        if known is not None and known.network_id() == genesis.network_id():
            return UserNetwork(known, args.rpc, None, config.chain.confirmations)
    network = network_of(args, config)
    _same_network(genesis, network.genesis, "the network of --genesis, the configuration or the running node")
    return network


def _slashed(
    chain: Any, reporter: "NodeId", conviction: "Conviction", evidence: "Evidence", line: WaitLine, timeout_s: float
) -> Row:
    from chain.errors import Reverted, TransactionFailed

    row = {**_row(conviction), "transaction": None}
    record = chain.node(conviction.convicted)
    if chain.slashed(conviction.identity) or (record is not None and record.jailed):
        return {**row, "taken": True, "became": "is jailed already"}
    try:
        tx = chain.slash(evidence, reporter)
        line(f"waiting for the evidence against {row['convicted']} to get into a block")
        status = chain.wait(tx, timeout_s)
    except (Reverted, TransactionFailed) as error:
        return {**row, "taken": False, "became": f"the contract refuses it: {error}"}
    became = f"slashed and jailed, in block {status.block_number}"
    return {**row, "taken": True, "became": became, "transaction": f"0x{status.hash.hex()}"}


def _same_network(genesis: "Genesis", other: "Genesis", what: str) -> None:
    ours, theirs = genesis.network_id().hex(), other.network_id().hex()
    if ours != theirs:
        raise NoEvidence(
            f"the evidence is of network {ours[:16]}; {what} is {theirs[:16]}",
            hint="name the network it is of: --genesis FILE, or --state-dir FOLDER of a node that runs in it",
        )


# What is shown


def _row(conviction: "Conviction") -> Row:
    assert conviction.convicted is not None, "what convicts nobody is not handed in"
    return {"convicted": f"0x{conviction.convicted.hex()}", "what": conviction.what}


def _print(genesis: "Genesis", convictions: "list[Conviction]") -> None:
    print(f"network {printable(genesis.name)}, {genesis.network_id().hex()}")
    for conviction in convictions:
        if conviction.convicted is None:
            print(f"\n{paint('convicts nobody', 'red')}: {conviction.what}: {printable(conviction.why)}")
        else:
            convicted = paint(f"0x{conviction.convicted.hex()} is convicted", "green")
            print(f"\n{convicted} of {conviction.what}")
        print(f"  {conviction.place}")
        for half in conviction.halves:
            signer = "signed by nobody" if half.signer is None else f"signed by 0x{half.signer.hex()}"
            holds = conviction.link != "signature" and half.signer is not None
            print(f"  {paint('✓', 'green') if holds else paint('✗', 'red')} {half.says}\n    {signer}")


def _as_json(genesis: "Genesis", convictions: "list[Conviction]") -> dict[str, Any]:
    return {
        "network": genesis.network_id().hex(),
        "evidence": [
            {
                "convicted": _hex(conviction.convicted),
                "what": conviction.what,
                "place": conviction.place,
                "id": None if conviction.identity is None else conviction.identity.hex(),
                "link": conviction.link or None,
                "why": conviction.why or None,
                "signed": [
                    {"says": half.says, "digest": half.digest.hex(), "signer": _hex(half.signer)}
                    for half in conviction.halves
                ],
            }
            for conviction in convictions
        ],
    }


def _hex(node: "NodeId | None") -> str | None:
    return None if node is None else f"0x{node.hex()}"
