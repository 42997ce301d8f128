"""The sparse Merkle tree: what it holds, what its root stands for, and what can be proved against it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import keccak
from protocol.core.sparse import EMPTY_TREE, SparseTree, verify_sparse

KEYS = st.integers(0, 40).map(lambda number: number.to_bytes(2, "big"))
VALUES = st.binary(max_size=4)
CHANGES = st.lists(st.tuples(KEYS, VALUES | st.none()), max_size=60)


def played(changes: list[tuple[bytes, bytes | None]]) -> tuple[SparseTree, dict[bytes, bytes]]:
    """The tree and the plain map that changes lead to."""
    held: dict[bytes, bytes] = {}
    for key, value in changes:
        if value is None:
            held.pop(key, None)
        else:
            held[key] = value
    return EMPTY_TREE.updated(changes), held


@pytest.mark.spec("LEDGER-TREE.1")
@given(CHANGES)
def test_it_is_a_map_whose_root_depends_on_what_is_in_it_alone(changes: list[tuple[bytes, bytes | None]]) -> None:
    tree, held = played(changes)
    assert dict(tree.items()) == held
    assert len(tree) == len(held)
    assert all(tree.get(key) == held.get(key) for key, _ in changes)
    assert SparseTree.of(held.items()).root == tree.root
    assert EMPTY_TREE.updated(sorted(held.items(), reverse=True)).root == tree.root
    assert [keccak(key) for key, _ in tree.items()] == sorted(keccak(key) for key in held)


@pytest.mark.spec("LEDGER-TREE.1")
@given(CHANGES, KEYS, VALUES)
def test_another_content_has_another_root(changes: list[tuple[bytes, bytes | None]], key: bytes, value: bytes) -> None:
    tree, held = played(changes)
    assert (tree.set(key, value).root == tree.root) == (held.get(key) == value)
    assert (tree.delete(key).root == tree.root) == (key not in held)
    assert dict(tree.items()) == held, "a version does not change"


def test_an_empty_tree_is_zero() -> None:
    assert EMPTY_TREE.root == ZERO_DIGEST
    assert EMPTY_TREE.set(b"key", b"").delete(b"key").root == ZERO_DIGEST
    assert EMPTY_TREE.set(b"key", b"").root != ZERO_DIGEST


@pytest.mark.spec("LEDGER-TREE.2")
@given(CHANGES, CHANGES)
def test_a_difference_leads_from_one_to_the_other(
    first: list[tuple[bytes, bytes | None]], second: list[tuple[bytes, bytes | None]]
) -> None:
    (older, held), (newer, wanted) = played(first), played(second)
    changes = dict(newer.diff(older))
    assert older.updated(changes.items()).root == newer.root
    assert changes.keys() == {key for key in held.keys() | wanted.keys() if held.get(key) != wanted.get(key)}
    assert list(newer.diff(SparseTree.of(wanted.items()))) == []


@pytest.mark.spec("LEDGER-TREE.3")
@given(CHANGES, KEYS, VALUES)
def test_what_is_in_and_what_is_not_can_be_proved_and_nothing_else(
    changes: list[tuple[bytes, bytes | None]], key: bytes, other: bytes
) -> None:
    tree, held = played(changes)
    value, siblings, neighbour = tree.prove(key)
    assert value == held.get(key)
    assert verify_sparse(tree.root, key, value, siblings, neighbour)
    if other != value:
        assert not verify_sparse(tree.root, key, other, siblings, None)
    if value is not None:
        assert not verify_sparse(tree.root, key, None, siblings, None)
        assert not verify_sparse(tree.root, key, None, siblings, (keccak(key), keccak(value)))
    assert not verify_sparse(keccak(tree.root), key, value, siblings, neighbour)
    if siblings:
        assert not verify_sparse(tree.root, key, value, siblings[1:], neighbour)
        assert not verify_sparse(tree.root, key, value, (keccak(b""), *siblings[1:]), neighbour)


@pytest.mark.spec("LEDGER-TREE.3")
def test_a_leaf_elsewhere_does_not_show_that_a_key_is_absent() -> None:
    keys = [number.to_bytes(2, "big") for number in range(64)]
    tree = SparseTree.of((key, b"value") for key in keys)
    present, far = keys[0], next(key for key in keys if keccak(key)[0] >> 7 != keccak(keys[0])[0] >> 7)
    _, siblings, _ = tree.prove(far)
    assert not verify_sparse(tree.root, present, None, siblings, (keccak(far), keccak(b"value")))
    assert not verify_sparse(tree.root, present, None, (ZERO_DIGEST,) * 257, None)


@pytest.mark.spec("LEDGER-TREE.3")
def test_not_even_a_forged_root_puts_a_leaf_where_its_path_does_not_lead() -> None:
    key, far = sorted((number.to_bytes(2, "big") for number in range(64)), key=keccak)[::63]
    leaf = keccak(b"\0" + keccak(far) + keccak(b"value"))
    root = keccak(b"\1" + leaf + bytes(32))
    assert keccak(key)[0] >> 7 == 0 != keccak(far)[0] >> 7
    assert not verify_sparse(root, key, None, (bytes(32),), (keccak(far), keccak(b"value")))


def test_versions_share_what_did_not_change() -> None:
    tree = SparseTree.of((number.to_bytes(2, "big"), b"value") for number in range(1_000))
    root = tree.root
    changed = tree.set(b"\0\1", b"another")
    mine = {id(node) for node in nodes(tree)}
    new = [node for node in nodes(changed) if id(node) not in mine]
    assert 2 < len(new) < 30
    assert tree.root == root != changed.root
    assert tree.set(b"\0\1", b"value") is tree
    assert tree.delete(b"absent") is tree


def nodes(tree: SparseTree) -> list[object]:
    """All nodes of a tree."""
    found, stack = [], [tree._top]
    while stack:
        node = stack.pop()
        if node is not None:
            found.append(node)
            stack += [getattr(node, "left", None), getattr(node, "right", None)]
    return found
