"""What contracts and protocol compute alike: draws, and proofs against a header's two roots."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.committee.election import Candidate, elect
from protocol.core.ids import Digest, NodeId
from protocol.core.params import COMMITTEE_SIZES
from protocol.core.signing import keccak, scheme
from protocol.core.sparse import SparseTree
from protocol.ledger import Section
from protocol.ledger.state import ledger_root
from protocol.messages.results import LedgerProof, Outcome, ResultProof, Verdict
from protocol.results.mountain import NO_OUTCOMES, Mountain, outcome_leaf, prove
from tests.unit.chain.contracts_at_hand import DEPLOYER, Rig, fields_of
from tests.unit.chain.evm import Contract, Evm, Refused
from tests.unit.chain.modules_at_hand import modules
from tests.unit.protocol.ledger_at_hand import HASHES, Books, entry_of, withdraw_of
from tests.vectors.election import ELECTION

VECTORS = json.loads(ELECTION.read_text())


@pytest.fixture(scope="module")
def module() -> Contract:
    """The shared modules, callable."""
    return Evm().deploy(modules(), sender=DEPLOYER)


# Draws


def drawn(module: Contract, seed: bytes, weights: dict[bytes, int], size: int) -> list[bytes]:
    """Who the contract draws."""
    pool = sorted(weights)
    places = module.call("elect", seed, [weights[node] for node in pool], size)
    return [pool[place] for place in places]


@pytest.mark.spec("ELECTION-DRAW.1")
@pytest.mark.parametrize("case", VECTORS["draws"], ids=lambda case: case["name"])
def test_the_contract_draws_as_the_vectors_say(module: Contract, case: dict[str, Any]) -> None:
    cap = int(case["cap_wei"])
    weights = {bytes.fromhex(node): min(int(stake), cap) for node, stake in case["candidates"]}
    elected = [bytes.fromhex(node) for node in case["elected"]]
    stays = case["elected"] == case["current"]
    assert drawn(module, bytes.fromhex(case["seed"]), weights, case["size"]) == ([] if stays else elected)


@pytest.mark.spec("ELECTION-SEED.1")
@pytest.mark.parametrize("case", VECTORS["seeds"], ids=lambda case: case["epoch"])
def test_the_contract_takes_seeds_as_the_vectors_say(module: Contract, case: dict[str, Any]) -> None:
    network, block = (bytes.fromhex(case[name]) for name in ("network_id", "block_hash"))
    assert module.call("draw_seed", network, case["epoch"], block).hex() == case["seed"]


nodes = st.binary(min_size=20, max_size=20)


@pytest.mark.spec("ELECTION-DRAW.1")
@settings(max_examples=40)
@given(
    st.binary(min_size=32, max_size=32),
    st.dictionaries(nodes, st.one_of(st.integers(1, 9), st.integers(1, 2**62)), max_size=128),
    st.sampled_from(COMMITTEE_SIZES),
)
def test_contract_and_protocol_draw_alike(module: Contract, seed: bytes, weights: dict[bytes, int], size: int) -> None:
    pool = [Candidate(NodeId(node), weight) for node, weight in weights.items()]
    assert tuple(drawn(module, seed, weights, size)) == elect(Digest(seed), pool, 2**62, (), size)


def test_a_committee_is_the_largest_that_the_candidates_fill(module: Contract) -> None:
    for size in COMMITTEE_SIZES:
        for candidates in (0, 3, 4, 6, 7, 30, 31, 32, 128):
            fitting = [n for n in COMMITTEE_SIZES if n <= min(size, candidates)]
            assert module.call("places", candidates, size) == max(fitting, default=0)


# Results


def outcome(number: int) -> Outcome:
    """An outcome that is unlike all others."""
    return Outcome(
        keccak(b"session%d" % number), number, number % 256, Verdict(1 + number % 2), bytes([number % 256]) * 32,
        number * 7, number // 3, 2**62 + number,
    )  # fmt: skip


def proved(count: int) -> tuple[Mountain, list[ResultProof]]:
    """The tree of so many outcomes, and a proof of each."""
    nodes, tree = {}, NO_OUTCOMES
    for number in range(count):
        tree, new = tree.append(outcome_leaf(outcome(number)))
        nodes.update(new)
    return tree, [prove(index, count, nodes.__getitem__) for index in range(count)]


def holds(module: Contract, tree: Mountain, said: Outcome, proof: ResultProof, count: int | None = None) -> bool:
    """Whether the contract finds the outcome in the tree."""
    arguments = (msgspec.structs.astuple(said), msgspec.structs.astuple(proof))
    answer: bool = module.call("results_hold", tree.root, tree.count if count is None else count, *arguments)
    return answer


@pytest.mark.spec("RESULTS-TREE.1", "RESULTS-TREE.2")
@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
def test_the_contract_finds_every_outcome_at_its_place_alone(module: Contract, count: int) -> None:
    tree, proofs = proved(count)
    for index, proof in enumerate(proofs):
        assert holds(module, tree, outcome(index), proof)
        assert not holds(module, tree, outcome(index + 1), proof)
        for wrong in {index ^ 1, index ^ 4, index + 1, count}:
            assert not holds(module, tree, outcome(index), msgspec.structs.replace(proof, index=wrong))


@pytest.mark.spec("RESULTS-TREE.2")
def test_a_proof_of_results_that_was_tampered_with_holds_nothing(module: Contract) -> None:
    tree, proofs = proved(21)
    proof, change = proofs[17], msgspec.structs.replace
    wrong = [
        change(proof, count=22),
        change(proof, count=20),
        change(proof, path=proof.path[:-1]),
        change(proof, path=(*proof.path, bytes(32))),
        change(proof, path=proof.path[::-1]),
        change(proof, peaks=proof.peaks[:-1]),
        change(proof, peaks=(*proof.peaks, bytes(32))),
        change(proof, peaks=proof.peaks[::-1]),
        change(proof, path=(), peaks=()),
    ]
    assert not any(holds(module, tree, outcome(17), item) for item in wrong)
    assert not any(holds(module, tree, outcome(17), item, item.count) for item in wrong[:2])
    assert not holds(module, Mountain(21, tree.peaks[::-1]), outcome(17), proof)


@pytest.mark.spec("RESULTS-TREE.2")
def test_a_leaf_beyond_the_last_is_in_no_tree_even_with_all_its_peaks(module: Contract) -> None:
    tree, _ = proved(5)
    for index in (5, 6, 2**63 - 1):
        assert not holds(module, tree, outcome(99), ResultProof(index, 5, (), tree.peaks))


@pytest.mark.parametrize("field", Outcome.__struct_fields__)
def test_every_field_of_an_outcome_is_in_its_leaf(module: Contract, field: str) -> None:
    tree, proofs = proved(3)
    value = getattr(outcome(1), field)
    other = value + 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
    assert not holds(module, tree, msgspec.structs.replace(outcome(1), **{field: other}), proofs[1])


# The ledger


@pytest.mark.spec("LEDGER-TREE.3")
@settings(max_examples=30)
@given(st.dictionaries(st.binary(min_size=1, max_size=40), st.binary(max_size=60), min_size=1, max_size=60))
def test_contract_and_protocol_climb_sparse_trees_alike(module: Contract, content: dict[bytes, bytes]) -> None:
    tree = SparseTree.of(content.items())
    for key in sorted(content)[:3]:
        value, siblings, _ = tree.prove(key)
        assert value is not None
        assert module.call("sparse_root", keccak(key), keccak(value), siblings) == tree.root
        assert module.call("sparse_root", keccak(key), keccak(value + b"\0"), siblings) != tree.root


@pytest.fixture(scope="module")
def kept() -> tuple[Rig, Any, list[LedgerProof]]:
    """Checkpoints with a header whose ledger has accounts and names, and proofs of some of them."""
    with scheme(HASHES):
        books = Books()
        books.bring(withdrawals=[withdraw_of(5)], entries=[entry_of()])
    state = books.state
    rig = Rig()
    header = rig.header(1, 1, ledger_root=ledger_root(state.sections))
    rig.submit(header)
    proofs = [
        state.prove(section, key)
        for section in (Section.ACCOUNTS, Section.NAMES, Section.MINERS)
        for key, _ in state.tree(section).items()
    ]
    assert len(proofs) > 3
    return rig, header, proofs


def ledger_holds(rig: Rig, header: Any, proof: LedgerProof) -> bool:
    """Whether the contract finds it in the header's ledger."""
    place = (proof.section, proof.key, proof.value, proof.siblings, proof.sections)
    answer: bool = rig.checkpoints.call("ledger_holds", fields_of(header), *place)
    return answer


@pytest.mark.spec("LEDGER-PROOF.1", "LEDGER-ROOT.1")
def test_the_contract_finds_what_an_accepted_headers_ledger_holds(kept: tuple[Rig, Any, list[LedgerProof]]) -> None:
    rig, header, proofs = kept
    change = msgspec.structs.replace
    for proof in proofs:
        assert ledger_holds(rig, header, proof)
        value, sections = proof.value or b"", proof.sections
        wrong = [
            change(proof, value=value[:-1] + bytes([value[-1] ^ 1])),
            change(proof, key=proof.key[:-1] + bytes([proof.key[-1] ^ 1])),
            change(proof, section=(proof.section + 1) % 4),
            change(proof, siblings=(*proof.siblings, bytes(32))),
            change(proof, siblings=(bytes(32), *proof.siblings)),
            change(proof, sections=sections[:-1]),
            change(proof, sections=(*sections, bytes(32))),
            change(proof, sections=sections[::-1]),
            change(proof, section=len(sections) - 1),
            change(proof, section=len(sections)),
            change(proof, section=200),
        ]
        assert not any(ledger_holds(rig, header, item) for item in wrong)


def test_the_last_section_is_no_tree(kept: tuple[Rig, Any, list[LedgerProof]]) -> None:
    rig, _, proofs = kept
    proof = proofs[0]
    sections = (*proof.sections[1:], proof.sections[0])
    header = rig.header(1, 2, ledger_root=ledger_root(sections))
    rig.submit(header)
    assert not ledger_holds(rig, header, msgspec.structs.replace(proof, section=len(sections) - 1, sections=sections))
    doubled = (proof.sections[0], *sections)
    header = rig.header(1, 3, ledger_root=ledger_root(doubled))
    rig.submit(header)
    assert ledger_holds(rig, header, msgspec.structs.replace(proof, section=0, sections=doubled))


@pytest.mark.spec("CHECKPOINT-ACCEPT.1")
def test_nothing_is_proved_by_a_header_that_was_not_accepted(kept: tuple[Rig, Any, list[LedgerProof]]) -> None:
    rig, header, proofs = kept
    other = msgspec.structs.replace(header, height=77)
    assert not ledger_holds(rig, other, proofs[0])
    tree, results = proved(5)
    plain = rig.header(1, 9, results_root=tree.root, results_count=5)
    arguments = (msgspec.structs.astuple(outcome(2)), msgspec.structs.astuple(results[2]))
    assert not rig.checkpoints.call("includes_outcome", fields_of(plain), *arguments)
    rig.submit(plain)
    assert rig.checkpoints.call("includes_outcome", fields_of(plain), *arguments)
    recounted = rig.header(1, 10, results_root=tree.root, results_count=6)
    rig.submit(recounted)
    assert not rig.checkpoints.call("includes_outcome", fields_of(recounted), *arguments)


def test_a_proof_deeper_than_any_key_is_refused(module: Contract) -> None:
    module.call("sparse_root", bytes(32), bytes(32), [bytes(32)] * 96)
    with pytest.raises(Refused):
        module.call("sparse_root", bytes(32), bytes(32), [bytes(32)] * 97)
