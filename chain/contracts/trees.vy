# pragma version 0.4.3
"""
@title Trees
@license Apache-2.0
@notice What a header's two roots hold: the ledger's sections, which are sparse trees, and all outcomes, which are a
    mountain range. The other sides are `protocol/core/sparse.py` and `protocol/results/mountain.py`.
@dev Leaves, branches and roots are hashed behind different first bytes, so none is ever taken for another.
"""

SIBLINGS_MAX: constant(uint256) = 96  # A key deeper than this takes 2^96 hashes to find.
SECTIONS_MAX: constant(uint256) = 16
LEVELS_MAX: constant(uint256) = 64


struct Outcome:
    session: bytes32
    task: uint32
    lane: uint8
    verdict: uint8
    root: bytes32
    count: uint64
    home_epoch: uint64
    paid_wei: uint64


struct ResultProof:
    index: uint64
    count: uint64
    path: DynArray[bytes32, LEVELS_MAX]
    peaks: DynArray[bytes32, LEVELS_MAX]


@internal
@pure
def _ledger_holds(
    root: bytes32,
    section: uint256,
    key_hash: bytes32,
    value_hash: bytes32,
    siblings: DynArray[bytes32, SIBLINGS_MAX],
    sections: DynArray[bytes32, SECTIONS_MAX],
) -> bool:
    """
    @notice Whether a ledger root's section has a value for a key, both given by their keccak.
    @param siblings The hashes beside the way to the key, from the root down.
    @param sections The roots of all sections.
    @dev The last section is no tree.
    """
    if section + 1 >= len(sections):
        return False
    if keccak256(concat(x"03", slice(abi_encode(sections), 64, 32 * len(sections)))) != root:
        return False
    return self._sparse_root(key_hash, value_hash, siblings) == sections[section]


@internal
@pure
def _sparse_root(
    key_hash: bytes32, value_hash: bytes32, siblings: DynArray[bytes32, SIBLINGS_MAX]
) -> bytes32:
    """
    @notice The root of a sparse tree in which a key has this value, by the hashes beside the way to it.
    """
    path: uint256 = convert(key_hash, uint256)
    node: bytes32 = keccak256(concat(x"00", key_hash, value_hash))
    depth: uint256 = len(siblings)
    for _: uint256 in range(len(siblings), bound=SIBLINGS_MAX):
        depth -= 1
        if (path >> (255 - depth)) & 1 == 1:
            node = keccak256(concat(x"01", siblings[depth], node))
        else:
            node = keccak256(concat(x"01", node, siblings[depth]))
    return node


@internal
@pure
def _outcome_leaf(outcome: Outcome) -> bytes32:
    """
    @notice An outcome as a leaf: its fields at their fixed widths.
    """
    return keccak256(
        concat(
            x"00",
            outcome.session,
            convert(outcome.task, bytes4),
            convert(outcome.lane, bytes1),
            convert(outcome.verdict, bytes1),
            outcome.root,
            convert(outcome.count, bytes8),
            convert(outcome.home_epoch, bytes8),
            convert(outcome.paid_wei, bytes8),
        )
    )


@internal
@pure
def _results_hold(root: bytes32, count: uint64, outcome: Outcome, proof: ResultProof) -> bool:
    """
    @notice Whether an outcome is at its place in the range of a root and so many leaves.
    """
    if proof.count != count or proof.index >= count:
        return False
    peaks: DynArray[bytes32, LEVELS_MAX] = []
    index: uint256 = convert(proof.index, uint256)
    leaves: uint256 = convert(count, uint256)
    start: uint256 = 0
    others: uint256 = 0
    for step: uint256 in range(LEVELS_MAX):
        level: uint256 = LEVELS_MAX - 1 - step
        if (leaves >> level) & 1 == 0:
            continue
        if start <= index and index < start + (1 << level):
            if len(proof.path) != level:
                return False
            peaks.append(self._climb(self._outcome_leaf(outcome), index, proof.path))
        else:
            if others == len(proof.peaks):
                return False
            peaks.append(proof.peaks[others])
            others += 1
        start += 1 << level
    # The encoding begins with an offset and a length, a word each.
    packed: Bytes[32 * LEVELS_MAX + 64] = slice(abi_encode(peaks), 64, 32 * len(peaks))
    return others == len(proof.peaks) and keccak256(concat(x"02", convert(count, bytes8), packed)) == root


@internal
@pure
def _climb(leaf: bytes32, index: uint256, path: DynArray[bytes32, LEVELS_MAX]) -> bytes32:
    """
    @notice The peak of a leaf's mountain, by the hashes beside the way up.
    """
    node: bytes32 = leaf
    low: uint256 = 0
    for beside: bytes32 in path:
        if (index >> low) & 1 == 1:
            node = keccak256(concat(x"01", beside, node))
        else:
            node = keccak256(concat(x"01", node, beside))
        low += 1
    return node
