# pragma version 0.4.3
"""
@title Election
@license Apache-2.0
@notice The draw of a committee by weight, without replacement. The other side is `protocol/committee/election.py`,
    and both are held to `tests/vectors/election.json`.
@dev At most 31 passes over at most 128 candidates, whoever they are. Spec: [ELECTION-DRAW.1], [ELECTION-SEED.1]
"""

CANDIDATES_MAX: constant(uint256) = 128
MEMBERS_MAX: constant(uint256) = 31
MEMBERS_MIN: constant(uint256) = 4


@internal
@pure
def _seed(network_id: bytes32, epoch: uint256, block_hash: bytes32) -> bytes32:
    """
    @notice What an epoch's committee is drawn from: `draw_seed`.
    """
    return keccak256(concat(b"p2pnode/draw-seed/1", network_id, convert(epoch, bytes32), block_hash))


@internal
@pure
def _places(candidates: uint256, size_max: uint256) -> uint256:
    """
    @notice The largest committee of 3f+1 that so many candidates fill; 0 if they fill none.
    """
    places: uint256 = min(candidates, size_max)
    if places < MEMBERS_MIN:
        return 0
    return places - (places - 1) % 3


@internal
@pure
def _elect(
    seed: bytes32, weights: DynArray[uint256, CANDIDATES_MAX], size_max: uint256
) -> DynArray[uint256, MEMBERS_MAX]:
    """
    @notice The places of the drawn among the candidates, in the order of the draw; nobody if there are too few.
    @param weights By rising address of the candidates; all together below 2^128.
    """
    left: DynArray[uint256, CANDIDATES_MAX] = weights
    total: uint256 = 0
    able: uint256 = 0
    for weight: uint256 in weights:
        total += weight
        if weight > 0:
            able += 1
    drawn: DynArray[uint256, MEMBERS_MAX] = []
    for turn: uint256 in range(self._places(able, size_max), bound=MEMBERS_MAX):
        number: bytes32 = keccak256(concat(b"p2pnode/election/1", seed, convert(turn, bytes32)))
        point: uint256 = convert(number, uint256) % total
        place: uint256 = 0
        for weight: uint256 in left:
            if point < weight:
                break
            point = unsafe_sub(point, weight)
            place = unsafe_add(place, 1)
        drawn.append(place)
        total -= left[place]
        left[place] = 0
    return drawn
