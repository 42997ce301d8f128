# pragma version 0.4.3
"""
@title Signing
@license Apache-2.0
@notice EIP-712 in the one domain of a network, and who signed. The other side is `protocol/core/signing.py`.
@dev The domain names no contract: what members sign is the same for gossip, light clients and contracts.
     Kinds are kept apart by their types, networks by the salt, chains by the chain id.
     Spec: [CONTRACT-SIGNATURE.1]
"""

DOMAIN_TYPE: constant(bytes32) = keccak256("EIP712Domain(string name,string version,uint256 chainId,bytes32 salt)")
NAME: constant(bytes32) = keccak256("p2pnode")
VERSION: constant(bytes32) = keccak256("1")

HALF_N: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168
LOW_BITS: constant(uint256) = 2**255 - 1

NETWORK_ID: immutable(bytes32)
CHAIN_ID: immutable(uint256)
SEPARATOR: immutable(bytes32)


@deploy
def __init__(network_id: bytes32, chain_id: uint256):
    """
    @notice The domain of a network. Deployed on another chain than its genesis names, nothing is deployed.
    """
    assert chain.id == chain_id, "chain"
    NETWORK_ID = network_id
    CHAIN_ID = chain_id
    SEPARATOR = keccak256(abi_encode(DOMAIN_TYPE, NAME, VERSION, chain_id, network_id))


@internal
@view
def _digest(struct_hash: bytes32) -> bytes32:
    """
    @notice What is signed for a struct.
    @dev After a fork of the chain, the side that took another chain id takes no signature any more.
    """
    assert chain.id == CHAIN_ID, "chain"
    return keccak256(concat(x"1901", SEPARATOR, struct_hash))


@internal
@pure
def _recover(digest: bytes32, signature: bytes32[2]) -> address:
    """
    @notice Who signed. A signature is the pair (r, vs) of EIP-2098: the parity of v is the highest bit of vs.
    @dev There is one such pair for a signature of ours: s in the upper half is refused.
    """
    vs: uint256 = convert(signature[1], uint256)
    s: uint256 = vs & LOW_BITS
    assert s <= HALF_N, "high s"
    signer: address = ecrecover(digest, 27 + (vs >> 255), convert(signature[0], uint256), s)
    assert signer != empty(address), "signature"
    return signer
