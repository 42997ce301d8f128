"""How one file becomes another one: pieces taken out and put in, so that a thousand receipts take little room."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache

Edit = tuple[int, int, str]
"""A place in the first file, how many bytes are taken out there, and what is put in, in hexadecimal."""

_SHORT = 400
_WINDOW, _DISTINCT = 12, 6
"""Bytes that must agree before two places are taken for the same again, and how many of them differ."""


def edits_between(first: bytes, second: bytes) -> list[Edit]:
    """What makes ``second`` of ``first``, by rising places that do not overlap: in one piece or in several, whichever
    is shorter."""
    here, there = _alike(first, 0, second, 0)
    one = _one_piece(first, second, here)
    if len(one[2]) <= _SHORT:
        return [one] if first != second else []
    edits: list[Edit] = []
    places = _windows(first)
    while here < len(first) or there < len(second):
        again, met = _meet(places, here, second, there, len(first))
        edits.append((here, again - here, second[there:met].hex()))
        here, there = _alike(first, again, second, met)
    return edits if sum(len(put) for _, _, put in edits) < len(one[2]) else [one]


def _one_piece(first: bytes, second: bytes, start: int) -> Edit:
    left, right = first[start:][::-1], second[start:][::-1]
    behind = _alike(left, 0, right, 0)[0]
    return start, len(first) - behind - start, second[start : len(second) - behind].hex()


@cache
def _windows(first: bytes) -> dict[bytes, list[int]]:
    places: dict[bytes, list[int]] = {}
    for at in range(len(first) - _WINDOW + 1):
        window = first[at : at + _WINDOW]
        # Zeros are everywhere, and tell no place.
        if len(set(window)) >= _DISTINCT:
            places.setdefault(window, []).append(at)
    return places


def _alike(first: bytes, here: int, second: bytes, there: int) -> tuple[int, int]:
    """Where both files stop to be the same."""
    low, high = 0, min(len(first) - here, len(second) - there)
    while low < high:
        middle = (low + high + 1) // 2
        if first[here + low : here + middle] == second[there + low : there + middle]:
            low = middle
        else:
            high = middle - 1
    return here + low, there + low


def _meet(places: dict[bytes, list[int]], here: int, second: bytes, there: int, end: int) -> tuple[int, int]:
    """Where they are the same again; both ends if they never are."""
    for met in range(there, len(second)):
        found = places.get(second[met : met + _WINDOW], [])
        at = bisect_left(found, here)
        if at < len(found):
            return found[at], met
    return end, len(second)


def applied(first: bytes, edits: Sequence[Edit]) -> bytes:
    """The other file."""
    parts, here = [], 0
    for at, count, put in edits:
        parts += [first[here:at], bytes.fromhex(put)]
        here = at + count
    return b"".join([*parts, first[here:]])
