"""``python -m tests.bench gas [--write]``: what the contracts' work costs, in gas.

Each number is one transaction on the embedded EVM, and the same on every machine: tests/vectors/gas.json holds them,
and a test compares. ``--write`` takes the new ones down.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from chain.artifacts import load_artifact
from chain.signed import created_by
from protocol.core.ids import NodeId
from protocol.core.signing import typed_digest
from protocol.core.sparse import SparseTree
from protocol.ledger.accounts import Account
from protocol.ledger.records import Section
from protocol.ledger.state import ledger_root
from protocol.messages.committee import Vote
from tests.unit.chain.contracts_at_hand import ANYBODY, DEPLOYER, Rig, Settings, compact, fields_of
from tests.unit.chain.evm import Contract, Evm
from tests.unit.chain.modules_at_hand import compiled
from tests.unit.protocol.keys import Key, key

GAS = Path(__file__).parent.parent / "vectors" / "gas.json"

MANIFEST = {
    "suite": "gas",
    "format": 1,
    "reading": (
        "gas of one transaction each, on an EVM of the Prague rules: checkpoint by signatures, steady state; "
        "rival_step is a transaction that stores one digest and says so"
    ),
}

COMMITTEES = {3: 4, 5: 7, 9: 13, 21: 31}
"""Signatures, and the members of whom they are 2f+1."""
TASKS = (1, 100, 1_000, 10_000)
ACCOUNTS = 1_000
MINERS = (1, 3, 5)

STEP = """
# pragma version 0.4.3
event Stepped:
    task: indexed(uint256)
    number: uint256

digests: HashMap[uint256, HashMap[uint256, bytes32]]

@external
def step(task: uint256, number: uint256, digest: bytes32):
    self.digests[task][number] = digest
    log Stepped(task=task, number=number)
"""
"""The least that a protocol of one transaction a step does on a chain: it keeps a digest and says that it has it."""


def measured() -> dict[str, Any]:
    """The content of gas.json."""
    return {
        "manifest": MANIFEST,
        "checkpoint": {str(signatures): _checkpoint(size) for signatures, size in COMMITTEES.items()},
        "hand_over": {str(size): _hand_over(size) for size in (4, 31)},
        "draw": {f"{size} of {pool}": _draw(size, pool) for size, pool in ((4, 8), (31, 128))},
        **_nodes(),
        **_money(),
        "rival_step": _step(),
    }


def _checkpoint(size: int) -> int:
    rig = Rig(Settings(size=size))
    rig.submit(rig.header(1, 1))
    return rig.submit(rig.header(1, 2)).gas


def _hand_over(size: int) -> int:
    rig = Rig(Settings(size=size))
    rig.submit(rig.header(1, 1))
    return rig.submit(rig.header(2, 1)).gas


def _draw(size: int, pool: int) -> int:
    """Of candidates who are all drawn for the first time."""
    rig = Rig(Settings(size_max=size))
    for number in range(pool):
        rig.register(key(1_000 + number), 101 + number)
    rig.submit(rig.header(1, 1))
    return rig.draw(3).gas


def _nodes() -> dict[str, int]:
    evm = Evm()
    evidence_at = created_by(DEPLOYER, 2)
    rig = Rig(evm=evm, evidence=evidence_at)
    place = (rig.domain.network_id, rig.domain.chain_id)
    evidence = evm.deploy(load_artifact("Evidence"), *place, rig.registry.address, sender=DEPLOYER)
    node = key(50)
    registered = rig.register(node).gas
    return {"register": registered, "slash": _slash(rig, evidence, node)}


def _slash(rig: Rig, evidence: Contract, node: Key) -> int:
    votes = [Vote(1, 7, bytes([number]) * 32) for number in (1, 2)]
    signatures = [compact(node.sign(typed_digest(rig.domain, vote))) for vote in votes]
    said = [(2, vote.epoch, vote.height, vote.header) for vote in votes]
    return evidence.send("statements", *said, signatures, ANYBODY, sender=ANYBODY).gas


def _money() -> dict[str, int]:
    """Of a ledger with many accounts; the second withdrawal of an account, as most are."""
    rig = Rig()
    place = (rig.domain.network_id, rig.domain.chain_id, rig.checkpoints.address, bytes(20), 1, 1)
    escrow = rig.evm.deploy(load_artifact("Escrow"), *place, sender=DEPLOYER)
    payees = [key(number).node for number in range(ACCOUNTS)]
    escrow.send("deposit", payees[0], 10**9, sender=ANYBODY, value=10**9)
    deposited = escrow.send("deposit", payees[1], 10**9, sender=ANYBODY, value=10**9).gas
    first, again = (_withdraw(rig, escrow, payees, height) for height in (1, 2))
    return {"deposit": deposited, "withdraw_first": first, "withdraw": again}


def _withdraw(rig: Rig, escrow: Contract, payees: list[NodeId], height: int) -> int:
    accounts = {payee: Account(5_000, 0, height * 1_000, 7) for payee in payees}
    tree = SparseTree.of((payee, account.packed()) for payee, account in accounts.items())
    roots = [bytes([section]) * 32 for section in Section]
    roots[Section.ACCOUNTS] = tree.root
    header = rig.header(1, height, ledger_root=ledger_root(tuple(roots)))
    rig.submit(header)
    rig.evm.advance(seconds=rig.settings.window_s)
    payee = payees[500]
    account, (_, siblings, _) = accounts[payee], tree.prove(payee)
    words = (account.balance_wei, account.reserved_wei, account.withdrawable_wei, account.nonce_from)
    arguments = (fields_of(header), payee, words, siblings, roots)
    return escrow.send("withdraw", *arguments, sender=ANYBODY).gas


def _step() -> int:
    steps = Evm().deploy(compiled(STEP), sender=DEPLOYER)
    return steps.send("step", 70_000, 3, b"\xa5" * 32, sender=ANYBODY).gas


# As a table


def table(gas: dict[str, Any]) -> str:
    """The numbers for people."""
    lines = ["| what | gas |", "| --- | ---: |"]
    lines += [f"| checkpoint, {count} signatures | {cost:,} |" for count, cost in gas["checkpoint"].items()]
    lines += [f"| hand-over, committee of {size} | {cost:,} |" for size, cost in gas["hand_over"].items()]
    lines += [f"| draw, {what} | {cost:,} |" for what, cost in gas["draw"].items()]
    names = {
        "register": "registration of a node",
        "slash": "slash, two votes of one slot",
        "deposit": "deposit",
        "withdraw_first": f"withdrawal of {ACCOUNTS:,} accounts' ledger, an account's first",
        "withdraw": "the same, any later one",
    }
    lines += [f"| {text} | {gas[name]:,} |" for name, text in names.items()]
    steps = [f"6 + 3N transactions, {miners} miner{'s' * (miners > 1)}" for miners in MINERS]
    lines += ["", f"| tasks in a checkpoint | gas per task | {' | '.join(steps)} |", "| ---: " * (2 + len(steps)) + "|"]
    for tasks in TASKS:
        each = gas["checkpoint"]["3"] / tasks
        rivals = [f"{(6 + 3 * miners) * gas['rival_step']:,}" for miners in MINERS]
        lines.append(f"| {tasks:,} | {each:,.0f} | {' | '.join(rivals)} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Measure, show, and compare with what is written down."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench gas", description="Gas of the contracts' work.")
    parser.add_argument("--write", action="store_true", help="take the numbers down in tests/vectors/gas.json")
    args = parser.parse_args(arguments)
    gas = measured()
    print(table(gas))
    if args.write:
        GAS.write_text(json.dumps(gas, indent=1) + "\n")
    elif json.loads(GAS.read_text()) != gas:
        print("not as tests/vectors/gas.json has it; if that is meant: --write")
        return 1
    return 0
