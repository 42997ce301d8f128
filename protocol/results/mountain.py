"""The tree of all outcomes since genesis: an append-only Merkle mountain range, whose state is its peaks alone.

Leaves are paired as they come, so a tree of n leaves is one perfect tree, a *mountain*, for each bit of n. The node
(level, index) covers the leaves from index · 2^level on; once it stands it never changes, so a proof of any leaf
against any later root is made of nodes that can be kept in a plain table.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from protocol.core.ids import Digest
from protocol.core.signing import keccak
from protocol.messages.results import Outcome, ResultProof

Place = tuple[int, int]
"""Level and index of a node."""

_LEAF, _NODE, _ROOT = b"\x00", b"\x01", b"\x02"


def outcome_leaf(outcome: Outcome) -> Digest:
    """An outcome as a leaf: its fields at their fixed widths, as a contract packs them. Spec: [RESULTS-TREE.1]"""
    place = outcome.session + outcome.task.to_bytes(4, "big") + bytes([outcome.lane, outcome.verdict]) + outcome.root
    numbers = (outcome.count, outcome.home_epoch, outcome.paid_wei)
    return Digest(keccak(_LEAF + place + b"".join([number.to_bytes(8, "big") for number in numbers])))


@dataclass(frozen=True, slots=True)
class Mountain:
    """``peaks`` from the highest mountain, which is the oldest, to the lowest. Spec: [RESULTS-TREE.1]"""

    count: int = 0
    peaks: tuple[Digest, ...] = ()

    @property
    def root(self) -> Digest:
        """What a header says of all outcomes."""
        return _root(self.count, self.peaks)

    def append(self, leaf: Digest) -> tuple["Mountain", list[tuple[Place, Digest]]]:
        """The tree with one leaf more, and the nodes that are new in it."""
        peaks, node = list(self.peaks), leaf
        level, index = 0, self.count
        nodes = [((level, index), node)]
        while index & 1:
            node = _node(peaks.pop(), node)
            level, index = level + 1, index >> 1
            nodes.append(((level, index), node))
        return Mountain(self.count + 1, (*peaks, node)), nodes


NO_OUTCOMES = Mountain()


def prove(index: int, count: int, node_at: Callable[[Place], bytes]) -> ResultProof:
    """That a leaf is in the tree of ``count`` leaves. ``node_at`` gives what ``append`` once named new."""
    path: tuple[bytes, ...] = ()
    peaks: list[bytes] = []
    for level, start in _mountains(count):
        if start <= index < start + (1 << level):
            path = tuple(node_at((low, (index >> low) ^ 1)) for low in range(level))
        else:
            peaks.append(node_at((level, start >> level)))
    return ResultProof(index, count, path, tuple(peaks))


def verify_proof(root: bytes, leaf: bytes, proof: ResultProof) -> bool:
    """Whether a leaf is at its place in the tree of a root and as many leaves as the proof says.

    Spec: [RESULTS-TREE.2]
    """
    mountains, others = _mountains(proof.count), list(proof.peaks)
    if proof.index >= proof.count or len(others) != len(mountains) - 1:
        return False
    peaks: list[bytes] = []
    for level, start in mountains:
        if not start <= proof.index < start + (1 << level):
            peaks.append(others.pop(0))
            continue
        if len(proof.path) != level:
            return False
        node = leaf
        for low, beside in enumerate(proof.path):
            node = _node(beside, node) if proof.index >> low & 1 else _node(node, beside)
        peaks.append(node)
    return _root(proof.count, peaks) == root


def _mountains(count: int) -> list[Place]:
    """Level and first leaf of each mountain, the highest first."""
    found, start = [], 0
    for level in range(count.bit_length() - 1, -1, -1):
        if count >> level & 1:
            found.append((level, start))
            start += 1 << level
    return found


def _node(left: bytes, right: bytes) -> Digest:
    return Digest(keccak(_NODE + left + right))


def _root(count: int, peaks: Iterable[bytes]) -> Digest:
    return Digest(keccak(_ROOT + count.to_bytes(8, "big") + b"".join(peaks)))
