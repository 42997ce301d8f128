# pragma version 0.4.3
"""
@title Observations
@license Apache-2.0
@notice What an oracle's batch says of lanes, read out of its MessagePack content. The other side is
    `observations_at_start` of `protocol/results/evidence.py`.
@dev The content is read from its start, in the one encoding that a correct oracle gives it: bytes inside of another
     field are never taken for an observation.
"""

CONTENT_MAX: constant(uint256) = 16384
PADDING: constant(uint256) = 128  # More than one observation has, so that no read passes the end.
COUNT_MAX: constant(uint256) = 256  # More than fit a content.
COUNT_END: constant(uint256) = 2**63

# First bytes of MessagePack: arrays of up to 15 items, arrays whose length takes two bytes, integers of 1 and 8 bytes.
ARRAY: constant(uint256) = 144
ARRAY_16: constant(uint256) = 220
UINT_8: constant(uint256) = 204
UINT_64: constant(uint256) = 207
BYTES_32: constant(uint256) = 50208  # c4 20
SIX_FIELDS_BYTES_32: constant(uint256) = 9880608  # 96 c4 20
BYTE: constant(uint256) = 255


struct Observation:
    session: bytes32
    task: uint256
    lane: uint256
    verdict: uint256
    root: bytes32
    count: uint256


@internal
@pure
def _read(content: Bytes[CONTENT_MAX], place: uint256) -> Observation:
    """
    @notice The observation at a place, from 0. All before it are read as well.
    """
    padded: Bytes[CONTENT_MAX + PADDING] = concat(
        content, empty(bytes32), empty(bytes32), empty(bytes32), empty(bytes32)
    )
    count: uint256 = 0
    at: uint256 = 0
    count, at = self._head(extract32(padded, 0))
    assert place < min(count, COUNT_MAX), "no observation"
    found: Observation = empty(Observation)
    for _: uint256 in range(place + 1, bound=COUNT_MAX):
        assert convert(extract32(padded, at), uint256) >> 232 == SIX_FIELDS_BYTES_32, "content"
        found.session = extract32(padded, at + 3)
        at += 35
        size: uint256 = 0
        found.task, size = self._integer(extract32(padded, at))
        at += size
        found.lane, size = self._integer(extract32(padded, at))
        at += size
        found.verdict, size = self._integer(extract32(padded, at))
        at += size
        assert convert(extract32(padded, at), uint256) >> 240 == BYTES_32, "content"
        found.root = extract32(padded, at + 2)
        at += 34
        found.count, size = self._integer(extract32(padded, at))
        at += size
        assert at <= len(content), "content"
        assert found.task < 2**32 and found.lane < 2**8 and found.count < COUNT_END, "content"
        assert found.verdict >= 1 and found.verdict <= 5, "content"
    return found


@internal
@pure
def _head(word: bytes32) -> (uint256, uint256):
    """
    @notice How many observations there are, and where the first one begins, from the first 32 bytes.
    """
    bits: uint256 = convert(word, uint256)
    fields: uint256 = bits >> 248
    assert fields > ARRAY and fields < ARRAY + 16, "content"
    mark: uint256 = (bits >> 240) & BYTE
    if mark == ARRAY_16:
        count: uint256 = (bits >> 224) & (2**16 - 1)
        assert count > 15, "content"
        return count, 4
    assert mark >= ARRAY and mark < ARRAY + 16, "content"
    return mark - ARRAY, 2


@internal
@pure
def _integer(word: bytes32) -> (uint256, uint256):
    """
    @notice The integer that a word begins with, and how many bytes it takes: the fewest, or it is none.
    """
    bits: uint256 = convert(word, uint256)
    mark: uint256 = bits >> 248
    if mark < 128:
        return mark, 1
    assert mark >= UINT_8 and mark <= UINT_64, "content"
    size: uint256 = 1 << (mark - UINT_8)
    value: uint256 = (bits >> (248 - 8 * size)) & ((1 << (8 * size)) - 1)
    # One byte holds what is below 128 and stands alone; else half the size would do for less than this.
    least: uint256 = 128
    if size > 1:
        least = 1 << (4 * size)
    assert value >= least, "content"
    return value, 1 + size
