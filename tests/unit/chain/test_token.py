"""Money in a token: a deposit is preceded by the leave to take it, where the escrow has none yet."""

from eth_abi.abi import encode

from chain.api import TxState
from chain.binding import token_binding
from chain.client import EvmChain, open_sender
from chain.deploy import Terms, deploy
from chain.finality import Finality
from chain.signed import created_by
from chain.transactions import Order
from protocol.core.ids import NodeId
from protocol.core.signing import keccak
from tests.unit.chain.stand_ins import stand_in
from tests.unit.chain.test_deploy import DEPLOYER, Local

ACCOUNT = NodeId(b"\xaa" * 20)
UNIT = 1_000


def test_a_deposit_of_a_token() -> None:
    local = Local()
    token, finality = created_by(DEPLOYER.node_id, 0), Finality(local.rpc)
    sender = open_sender(local.rpc, finality, DEPLOYER, None)

    def done(to: bytes, data: bytes) -> None:
        sender.wait(sender.send(Order(keccak(data), "for a test", to, data)), 10, final=True)

    def sent() -> int:
        return local.rpc.number("eth_getTransactionCount", [f"0x{DEPLOYER.node_id.hex()}", "latest"])

    try:
        done(b"", stand_in("token").bytecode)
        done(
            token, keccak(b"mint(address,uint256)")[:4] + encode(["address", "uint256"], [DEPLOYER.node_id, 70 * UNIT])
        )
        genesis = local.genesis()
        deploy(local.rpc, DEPLOYER, genesis, Terms(token=token, unit=UNIT))
        assert genesis.contracts is not None
        chain = EvmChain(local.rpc, genesis.contracts, sender=sender, finality=finality)
        before = sent()
        assert chain.wait(chain.deposit(ACCOUNT, 30), 10, final=True).state is TxState.FINAL
        assert (chain.deposited(1), sent() - before) == ((ACCOUNT, 30), 2)
        done(token, token_binding().functions["approve"].encode(genesis.contracts.escrow, 40 * UNIT))
        before = sent()
        assert chain.wait(chain.deposit(ACCOUNT, 40), 10, final=True).state is TxState.FINAL
        assert (chain.deposited(2), sent() - before) == ((ACCOUNT, 40), 1)
    finally:
        sender.close()
        local.chain.close()
