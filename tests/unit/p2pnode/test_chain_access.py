"""Who has to do with a chain, and who does not even load what speaks to one."""

import subprocess
import sys
from pathlib import Path

import pytest

from p2pnode.chain_access import open_node_chain
from p2pnode.config import load_config
from p2pnode.identity import NodeKey
from protocol.core.genesis import Contracts, Genesis
from protocol.core.ids import NodeId

KEY = NodeKey(b"\x01" * 32)
COMMITTEE = tuple(NodeId(bytes([number]) * 20) for number in range(1, 5))
CONTRACTS = Contracts(1, *(NodeId(bytes([number]) * 20) for number in range(11, 17)))
SETTLES = Genesis("settles", 31_337, committee=COMMITTEE, contracts=CONTRACTS)
LOOK = """
import sys
import p2pnode.node, p2pnode.client, p2pnode.testnet, p2pnode.cli.run, p2pnode.cli.chat, p2pnode.cli.demo
print([name for name in sys.modules if name in ("web3", "eth", "vyper", "chain.client", "chain.rpc", "chain.deploy")])
"""


def test_a_network_without_a_chain_loads_nothing_that_speaks_to_one() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("genesis", "given"),
    [
        (Genesis("plain", committee=COMMITTEE), {"chain.urls": ["http://127.0.0.1:1"]}),
        (SETTLES, {}),
        (SETTLES, {"chain.urls": ["http://127.0.0.1:1"], "chain.enabled": False}),
    ],
)
def test_who_names_no_endpoint_or_wants_none_sees_no_chain(
    genesis: Genesis, given: dict[str, object], tmp_path: Path
) -> None:
    config = load_config(overrides=given, env={"P2PNODE_HOME": str(tmp_path)})
    assert open_node_chain(config, genesis, KEY) is None


def test_an_endpoint_that_is_down_is_no_reason_not_to_start(tmp_path: Path) -> None:
    config = load_config(overrides={"chain.urls": ["http://127.0.0.1:1"]}, env={"P2PNODE_HOME": str(tmp_path)})
    chain = open_node_chain(config, SETTLES, KEY)
    assert chain is not None
    assert chain.sender() == KEY.node_id
