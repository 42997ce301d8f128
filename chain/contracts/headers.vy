# pragma version 0.4.3
"""
@title Headers
@license Apache-2.0
@notice Headers and statements as members sign them. The other side is `protocol/messages/committee.py`.
"""

HEADER_TYPE: constant(bytes32) = keccak256(
    "Header(uint64 epoch,uint64 height,bytes32 parent,bytes32 results_root,uint64 results_count,bytes32 ledger_root,bytes32 params_digest,uint64 anchor_number,bytes32 anchor_hash,uint64 deposits,bytes32 next_committee,bytes32 body)"
)
FINALIZE_TYPE: constant(bytes32) = keccak256("Finalize(uint64 epoch,uint64 height,bytes32 header)")


struct Header:
    epoch: uint64
    height: uint64
    parent: bytes32
    results_root: bytes32
    results_count: uint64
    ledger_root: bytes32
    params_digest: bytes32
    anchor_number: uint64
    anchor_hash: bytes32
    deposits: uint64
    next_committee: bytes32
    body: bytes32


@internal
@pure
def _hash(header: Header) -> bytes32:
    """
    @notice A header as a struct of EIP-712. Its name is `signing._digest` of this.
    """
    return keccak256(abi_encode(HEADER_TYPE, header))


@internal
@pure
def _finalize_hash(epoch: uint64, height: uint64, header: bytes32) -> bytes32:
    """
    @notice What a member signs to finalize a header, given by its name.
    """
    return keccak256(abi_encode(FINALIZE_TYPE, epoch, height, header))
