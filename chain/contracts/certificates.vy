# pragma version 0.4.3
"""
@title Certificates
@license Apache-2.0
@notice The same statement of exactly 2f+1 members of a committee of n = 3f+1, and what a committee is named by.
@dev A committee comes as calldata and is checked against its root: that is cheaper than keeping it.
"""

import headers
import signing

uses: signing

MEMBERS_MIN: constant(uint256) = 4
MEMBERS_MAX: constant(uint256) = 31
QUORUM_MAX: constant(uint256) = 21


@internal
@pure
def _root(members: DynArray[address, MEMBERS_MAX]) -> bytes32:
    """
    @notice keccak of the addresses, each in a word: `committee_root` of `protocol/committee/election.py`.
    """
    # The encoding begins with an offset and a length, a word each.
    return keccak256(slice(abi_encode(members), 64, 32 * len(members)))


@internal
@pure
def _is_size(count: uint256) -> bool:
    """
    @notice Whether a committee may have so many members: 4, 7, 10, up to 31.
    """
    return count >= MEMBERS_MIN and count <= MEMBERS_MAX and count % 3 == 1


@internal
@view
def _check(
    root: bytes32,
    header: headers.Header,
    name: bytes32,
    members: DynArray[address, MEMBERS_MAX],
    signers: uint256,
    signatures: DynArray[bytes32[2], QUORUM_MAX],
):
    """
    @notice Reverts unless 2f+1 members of the committee of a root have finalized a header.
    @param name The header's digest.
    @param signers Bit i stands for member i.
    @param signatures Of the signers, in the order of their places.
    """
    count: uint256 = len(members)
    assert self._is_size(count), "size"
    assert self._root(members) == root, "committee"
    quorum: uint256 = count - count // 3
    assert len(signatures) == quorum, "quorum"
    digest: bytes32 = signing._digest(headers._finalize_hash(header.epoch, header.height, name))
    taken: uint256 = 0
    for place: uint256 in range(count, bound=MEMBERS_MAX):
        if (signers >> place) & 1 == 0:
            continue
        assert taken < quorum, "signers"
        assert signing._recover(digest, signatures[taken]) == members[place], "signature"
        taken += 1
    assert taken == quorum and signers >> count == 0, "signers"
