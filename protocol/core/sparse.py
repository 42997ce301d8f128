"""A map with a root: a sparse Merkle tree over the keccak of its keys, immutable, so that versions share what is equal.

A subtree with one leaf *is* that leaf, whatever its depth, so a tree of n keys is about log2(n) deep, and its shape
follows from its keys alone, not from the order in which they came. Hashes are computed when the root is asked for:
what a block changes many times is hashed once.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from protocol.core.ids import ZERO_DIGEST, Digest
from protocol.core.signing import keccak

PATH_BITS = 256

Neighbouring = tuple[bytes, bytes]
"""A leaf by the hashes of its key and its value."""

_LEAF, _BRANCH = b"\x00", b"\x01"


class _Leaf:
    """A key and its value. Two leaves are one if they are equal."""

    __slots__ = ("_hash", "key", "path", "size", "value")

    def __init__(self, path: int, key: bytes, value: bytes) -> None:
        self.path = path
        self.key = key
        self.value = value
        self.size = 1
        self._hash: Digest | None = None

    @property
    def hash(self) -> Digest:
        """See the module."""
        if self._hash is None:
            self._hash = _leaf_hash(self.path.to_bytes(32, "big"), keccak(self.value))
        return self._hash


class _Branch:
    """Two subtrees, at least two leaves."""

    __slots__ = ("_hash", "left", "right", "size")

    def __init__(self, left: "_Node", right: "_Node") -> None:
        self.left = left
        self.right = right
        self.size = _size(left) + _size(right)
        self._hash: Digest | None = None

    @property
    def hash(self) -> Digest:
        """See the module."""
        if self._hash is None:
            self._hash = Digest(keccak(_BRANCH + _hash(self.left) + _hash(self.right)))
        return self._hash


_Node = _Leaf | _Branch | None


class SparseTree:
    """See the module. Spec: [LEDGER-TREE.1]"""

    __slots__ = ("_top",)

    def __init__(self, top: _Node = None) -> None:
        self._top = top

    @staticmethod
    def of(items: Iterable[tuple[bytes, bytes]]) -> "SparseTree":
        """The tree that holds these keys."""
        leaves = {leaf.path: leaf for leaf in (_Leaf(_path(key), key, value) for key, value in items)}
        return SparseTree(_built([leaves[path] for path in sorted(leaves)], 0))

    @property
    def root(self) -> Digest:
        """What stands for all of it; zero where nothing is in it."""
        return _hash(self._top)

    def __len__(self) -> int:
        return _size(self._top)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SparseTree) and self.root == other.root

    def __hash__(self) -> int:
        return hash(self.root)

    def get(self, key: bytes) -> bytes | None:
        """A key's value; None if it has none."""
        path, node, depth = _path(key), self._top, 0
        while isinstance(node, _Branch):
            node = node.right if _bit(path, depth) else node.left
            depth += 1
        return node.value if node is not None and node.path == path else None

    def set(self, key: bytes, value: bytes) -> "SparseTree":
        """The tree in which a key has this value."""
        return self._of(_with(self._top, 0, _Leaf(_path(key), key, value)))

    def delete(self, key: bytes) -> "SparseTree":
        """The tree in which a key has no value."""
        return self._of(_without(self._top, 0, _path(key)))

    def _of(self, top: _Node) -> "SparseTree":
        return self if top is self._top else SparseTree(top)

    def updated(self, changes: Iterable[tuple[bytes, bytes | None]]) -> "SparseTree":
        """The tree after changes, each a key and its new value; None where it has none any more."""
        tree = self
        for key, value in changes:
            tree = tree.delete(key) if value is None else tree.set(key, value)
        return tree

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values, by the hash of the key."""
        return ((leaf.key, leaf.value) for leaf in _leaves(self._top))

    def diff(self, older: "SparseTree") -> Iterator[tuple[bytes, bytes | None]]:
        """What to change in an older tree to make it this one, by the hash of the key. Spec: [LEDGER-TREE.2]"""
        return _diff(self._top, older._top)

    def prove(self, key: bytes) -> tuple[bytes | None, tuple[Digest, ...], Neighbouring | None]:
        """A key's value, the hashes beside the way to it from the root down, and, where it has none but another leaf
        stands in its place, that leaf."""
        path, node = _path(key), self._top
        siblings: list[Digest] = []
        while isinstance(node, _Branch):
            right = _bit(path, len(siblings))
            siblings.append(_hash(node.left if right else node.right))
            node = node.right if right else node.left
        if node is None:
            return None, tuple(siblings), None
        if node.path == path:
            return node.value, tuple(siblings), None
        return None, tuple(siblings), (node.path.to_bytes(32, "big"), keccak(node.value))


EMPTY_TREE = SparseTree()


def verify_sparse(
    root: bytes, key: bytes, value: bytes | None, siblings: Iterable[bytes], neighbour: Neighbouring | None
) -> bool:
    """Whether the tree of a root holds this value for a key; with None, whether it holds none. Spec: [LEDGER-TREE.3]"""
    path, beside = _path(key), list(siblings)
    if len(beside) > PATH_BITS or (value is not None and neighbour is not None):
        return False
    at = ZERO_DIGEST
    if value is not None:
        at = _leaf_hash(keccak(key), keccak(value))
    elif neighbour is not None:
        other = int.from_bytes(neighbour[0], "big")
        # It stands in the key's place only if their paths are one up to there.
        if other == path or (other ^ path) >> (PATH_BITS - len(beside)):
            return False
        at = _leaf_hash(*neighbour)
    for depth in range(len(beside) - 1, -1, -1):
        pair = beside[depth] + at if _bit(path, depth) else at + beside[depth]
        at = Digest(keccak(_BRANCH + pair))
    return at == root


def _path(key: bytes) -> int:
    return int.from_bytes(keccak(key), "big")


def _bit(path: int, depth: int) -> int:
    return path >> (PATH_BITS - 1 - depth) & 1


def _size(node: _Node) -> int:
    return 0 if node is None else node.size


def _hash(node: _Node) -> Digest:
    return ZERO_DIGEST if node is None else node.hash


def _leaf_hash(path: bytes, value: bytes) -> Digest:
    return Digest(keccak(_LEAF + path + value))


def _with(node: _Node, depth: int, leaf: _Leaf) -> _Node:
    if node is None:
        return leaf
    if isinstance(node, _Leaf):
        if node.path != leaf.path:
            return _apart(node, leaf, depth)
        return node if node.value == leaf.value else leaf
    if _bit(leaf.path, depth):
        right = _with(node.right, depth + 1, leaf)
        return node if right is node.right else _Branch(node.left, right)
    left = _with(node.left, depth + 1, leaf)
    return node if left is node.left else _Branch(left, node.right)


def _built(leaves: list[_Leaf], depth: int) -> _Node:
    """The subtree of leaves that are sorted by path."""
    if len(leaves) < 2:
        return leaves[0] if leaves else None
    middle = bisect_left(leaves, 1, key=lambda leaf: _bit(leaf.path, depth))
    return _Branch(_built(leaves[:middle], depth + 1), _built(leaves[middle:], depth + 1))


def _apart(one: _Leaf, other: _Leaf, depth: int) -> _Branch:
    """The subtree of two leaves."""
    sides = _bit(one.path, depth), _bit(other.path, depth)
    if sides == (0, 1):
        return _Branch(one, other)
    if sides == (1, 0):
        return _Branch(other, one)
    below = _apart(one, other, depth + 1)
    return _Branch(None, below) if sides == (1, 1) else _Branch(below, None)


def _without(node: _Node, depth: int, path: int) -> _Node:
    if node is None:
        return None
    if isinstance(node, _Leaf):
        return None if node.path == path else node
    if _bit(path, depth):
        right = _without(node.right, depth + 1, path)
        return node if right is node.right else _joined(node.left, right)
    left = _without(node.left, depth + 1, path)
    return node if left is node.left else _joined(left, node.right)


def _joined(left: _Node, right: _Node) -> _Node:
    """A branch, or the one leaf that is left of it."""
    if left is None and not isinstance(right, _Branch):
        return right
    if right is None and not isinstance(left, _Branch):
        return left
    return _Branch(left, right)


def _leaves(node: _Node) -> Iterator[_Leaf]:
    """All below, by path; no recursion, as this runs over whole trees."""
    stack = [node]
    while stack:
        at = stack.pop()
        if isinstance(at, _Branch):
            stack += (at.right, at.left)
        elif at is not None:
            yield at


def _diff(new: _Node, old: _Node) -> Iterator[tuple[bytes, bytes | None]]:
    if new is old or _hash(new) == _hash(old):
        return
    if isinstance(new, _Branch) and isinstance(old, _Branch):
        yield from _diff(new.left, old.left)
        yield from _diff(new.right, old.right)
        return
    before = {leaf.path: leaf for leaf in _leaves(old)}
    after = {leaf.path: leaf for leaf in _leaves(new)}
    for path in sorted(before.keys() | after.keys()):
        leaf = after.get(path)
        if leaf is None:
            yield before[path].key, None
        elif path not in before or before[path].value != leaf.value:
            yield leaf.key, leaf.value
