"""The tree of all outcomes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.ids import Digest
from protocol.core.signing import keccak
from protocol.messages.results import Outcome, Verdict
from protocol.results.mountain import NO_OUTCOMES, Mountain, Place, outcome_leaf, prove, verify_proof

COUNT = 70
OUTCOME = Outcome(b"\1" * 32, 2, 3, Verdict.OK, b"\4" * 32, 5, 6, 7)


def grown(count: int) -> tuple[list[Mountain], dict[Place, Digest], list[Digest]]:
    """The trees of 0 to ``count`` leaves, all nodes, and the leaves."""
    trees, nodes = [NO_OUTCOMES], dict[Place, Digest]()
    leaves = [Digest(keccak(number.to_bytes(2, "big"))) for number in range(count)]
    for leaf in leaves:
        tree, new = trees[-1].append(leaf)
        assert not nodes.keys() & dict(new).keys(), "a node that stands never changes"
        nodes.update(new)
        trees.append(tree)
    return trees, nodes, leaves


TREES, NODES, LEAVES = grown(COUNT)


@pytest.mark.spec("RESULTS-TREE.2")
def test_every_leaf_can_be_proved_against_every_later_root_and_no_earlier_one() -> None:
    for count, tree in enumerate(TREES):
        for index in range(count):
            proof = prove(index, count, NODES.__getitem__)
            assert verify_proof(tree.root, LEAVES[index], proof)
            assert not verify_proof(tree.root, LEAVES[index - 1], proof) or count == 1
            assert not verify_proof(TREES[count - 1].root, LEAVES[index], proof)


@pytest.mark.spec("RESULTS-TREE.2")
@given(st.data())
def test_a_proof_that_was_changed_holds_no_more(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, COUNT))
    index = data.draw(st.integers(0, count - 1))
    proof = prove(index, count, NODES.__getitem__)
    changed = [
        msgspec.structs.replace(proof, index=data.draw(st.integers(0, COUNT + 1).filter(lambda other: other != index))),
        msgspec.structs.replace(proof, count=data.draw(st.integers(0, 2**63 - 1).filter(lambda other: other != count))),
        msgspec.structs.replace(proof, path=(*proof.path, keccak(b""))),
        msgspec.structs.replace(proof, peaks=(*proof.peaks, keccak(b""))),
        msgspec.structs.replace(proof, path=proof.path[1:], peaks=proof.peaks[1:])
        if proof.path + proof.peaks
        else None,
    ]
    for other in changed:
        assert other is None or not verify_proof(TREES[count].root, LEAVES[index], other)


@pytest.mark.spec("RESULTS-TREE.1")
def test_all_roots_differ_and_the_state_is_the_peaks_alone() -> None:
    assert len({tree.root for tree in TREES}) == COUNT + 1
    assert all(len(tree.peaks) == tree.count.bit_count() for tree in TREES)


@pytest.mark.spec("RESULTS-TREE.1")
def test_a_node_is_no_leaf() -> None:
    proof = prove(5, 11, NODES.__getitem__)
    for level in range(1, 4):
        shorter = msgspec.structs.replace(proof, path=proof.path[level:], index=5 >> level << level)
        assert not verify_proof(TREES[11].root, NODES[level, 5 >> level], shorter)
    assert verify_proof(TREES[11].root, LEAVES[5], proof)


@pytest.mark.spec("RESULTS-TREE.1")
def test_a_leaf_is_of_the_whole_outcome_at_fixed_widths() -> None:
    packed = b"\1" * 32 + b"\0\0\0\2" + b"\3" + b"\1" + b"\4" * 32 + b"".join(bytes(7) + bytes([n]) for n in (5, 6, 7))
    assert outcome_leaf(OUTCOME) == keccak(b"\0" + packed)
    others = [
        msgspec.structs.replace(OUTCOME, **{name: value})
        for name, value in {
            "session": b"\2" * 32,
            "task": 3,
            "lane": 4,
            "verdict": Verdict.LATE,
            "root": b"\5" * 32,
            "count": 6,
            "home_epoch": 7,
            "paid_wei": 8,
        }.items()
    ]
    assert len({outcome_leaf(outcome) for outcome in [OUTCOME, *others]}) == 1 + len(OUTCOME.__struct_fields__)
