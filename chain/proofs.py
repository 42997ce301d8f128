"""What an EVM chain holds, written down so that it can be verified without the chain: block headers in RLP, and the
way from a block's state to a word of a contract (EIP-1186).

Every answer is checked against a hash that the caller has, so one endpoint's is enough, and after one that lies the
next is asked. Not every endpoint can answer: most keep the state of the latest blocks alone, some make no proofs.
"""

from collections.abc import Sequence
from typing import Any

from chain.endpoint import Endpoint, Refused
from chain.errors import ChainUnreachable, HistoryChanged, RpcNonsense, StateGone, UnprovableChain, WrongChain
from chain.replies import Failure, Proof, RawHeader, octets, quantity
from chain.rpc import Rpc
from chain.tries import Way, way_to
from protocol.core.errors import LocalProtocolError
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import Domain, keccak
from protocol.light.evm import EvmHeader, accepted_slot, anchored_block, check_settled, read_account
from protocol.light.evm_trie import EvmError
from protocol.messages.committee import Certified, Header, header_digest
from protocol.messages.handover import EVM_HEADER_BYTES_MAX
from protocol.messages.receipts import EvmProof

NODES_MAX = 128
"""Of one list of an answer; a way through a trie is a few nodes long."""

_NUMBERS = {
    *("difficulty", "number", "gas_limit", "gas_used", "timestamp"),
    *("base_fee_per_gas", "blob_gas_used", "excess_blob_gas", "slot_number"),
}
_NO_METHOD = -32_601


class _Unlike(Refused):
    """What an endpoint says of a block does not give the block's hash."""


# Headers


def header_in_rlp(reply: RawHeader) -> bytes:
    """A header's encoding: its first fields, and those of later forks that it has. Raises RpcNonsense."""
    # As in chain.signed: only who needs it imports it.
    import rlp

    fields = [(name, getattr(reply, name)) for name in RawHeader.__struct_fields__]
    encoded: bytes = rlp.encode(
        [quantity(said) if name in _NUMBERS else octets(said) for name, said in fields if said is not None]
    )
    return encoded


def block_header(rpc: Rpc, block: Digest) -> bytes:
    """The header in RLP of the block of a hash. Raises UnprovableChain, ChainUnreachable. Spec: [CHAIN-HEADER.1]"""
    name = f"0x{block.hex()}"

    def asked(endpoint: Endpoint) -> bytes:
        reply = endpoint.call("eth_getBlockByHash", [name, False], RawHeader | None)
        if reply is None:
            raise Refused(endpoint.name, "eth_getBlockByHash", Failure(0, f"it has no block {name}"))
        header = header_in_rlp(reply)
        if keccak(header) != block or len(header) > EVM_HEADER_BYTES_MAX:
            raise _Unlike(endpoint.name, "eth_getBlockByHash", Failure(0, f"its fields do not give the hash {name}"))
        return header

    try:
        header: bytes = rpc.ask(asked)
    except _Unlike as error:
        raise UnprovableChain(str(error)) from error
    except Refused as error:
        raise ChainUnreachable(str(error), hint=HistoryChanged.hint) from error
    return header


# Words of the contract


def settled_proof(rpc: Rpc, contract: NodeId, domain: Domain, header: Header, anchored: Certified) -> EvmProof | None:
    """The proof that the contract ``Checkpoints`` had accepted a header by the block that another header anchors; None
    if it is shown that it had not, or was not there yet.

    Raises StateGone, UnprovableChain, WrongChain, ChainUnreachable and other ChainErrors. Spec: [CHAIN-PROOF.1]
    """
    anchor = anchored.header
    if anchor is None:
        raise LocalProtocolError("what anchors a block is a final header, and this is a certificate alone")
    if not anchor.anchor_number:
        return None
    encoded = block_header(rpc, Digest(anchor.anchor_hash))
    try:
        block = anchored_block(anchor, encoded)
    except EvmError as error:
        raise UnprovableChain(str(error)) from error
    slot = accepted_slot(header_digest(domain, header))
    account, storage = word_proof(rpc, block, contract, slot)
    if storage.value is None:
        return None
    proof = EvmProof(anchored, encoded, account.nodes, storage.nodes)
    try:
        check_settled(domain, contract, header, anchor, proof)
    except EvmError as error:
        raise WrongChain(f"the contract at 0x{contract.hex()} is not the network's: {error}") from error
    return proof


def word_proof(rpc: Rpc, block: EvmHeader, contract: NodeId, slot: bytes) -> tuple[Way, Way]:
    """The ways from a block's state to a contract, and on to a word of its storage, which may lead nowhere. Raises
    StateGone and other ChainErrors."""

    def asked(endpoint: Endpoint) -> tuple[Way, Way]:
        params: list[Any] = [f"0x{contract.hex()}", [f"0x{slot.hex()}"], hex(block.number)]
        reply = endpoint.call("eth_getProof", params, Proof)
        try:
            return _ways(reply, block, contract, slot)
        except EvmError as error:
            raise RpcNonsense(f"{endpoint.name} answered a proof that does not hold: {error}") from error

    try:
        ways: tuple[Way, Way] = rpc.ask(asked)
    except Refused as error:
        if error.number == _NO_METHOD:
            raise
        raise StateGone(f"of block {block.number}: {error}") from error
    return ways


def _ways(reply: Proof, block: EvmHeader, contract: NodeId, slot: bytes) -> tuple[Way, Way]:
    account = way_to("account", block.state_root, contract, _nodes(reply.account_proof).get)
    if account.value is None:
        return account, Way((), None)
    words = reply.storage_proof[0].proof if reply.storage_proof else []
    return account, way_to("storage", read_account(account.value), slot, _nodes(words).get)


def _nodes(said: Sequence[str]) -> dict[bytes, bytes]:
    """The nodes by their hashes: endpoints differ in which they leave out, and which they say twice."""
    nodes = [octets(one) for one in said[:NODES_MAX]]
    return {keccak(node): node for node in nodes}
