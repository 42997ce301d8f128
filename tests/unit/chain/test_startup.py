"""What a node imports of the chain: nothing heavy before it encodes its first call, and never an EVM."""

import subprocess
import sys

import pytest

HEAVY = {"eth", "eth_abi", "eth_account", "eth_utils", "rlp", "web3", "eth_tester", "vyper"}


@pytest.mark.parametrize(
    "module", ["chain.client", "chain.localchain", "chain.deploy", "p2pnode.cli.chain", "p2pnode.node"]
)
def test_nothing_heavy_is_imported(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


OPEN = """
import sys
from chain.client import open_chain
from protocol.core.genesis import Contracts, Genesis
from protocol.core.ids import NodeId
committee = tuple(NodeId(bytes([number]) * 20) for number in range(1, 5))
contracts = Contracts(1, *(NodeId(bytes([number]) * 20) for number in range(11, 17)))
open_chain(["http://127.0.0.1:1"], Genesis("settles", 31_337, committee=committee, contracts=contracts))
print("web3" in sys.modules, "eth_account" in sys.modules, "eth" in sys.modules)
"""


def test_web3_is_imported_where_a_chain_is_opened_without_a_warning() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", OPEN], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("True True False", "")
