"""Proofs from an EVM chain: RLP, tries, block headers, and what the contract keeps of a header that it accepted."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import rlp
from hypothesis import given
from hypothesis import strategies as st
from trie import HexaryTrie

from chain.artifacts import load_artifact
from chain.tries import EMPTY_ROOT, way_to
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import keccak
from protocol.light.anchors import ANCHORS_KEPT, AnchorHeaders
from protocol.light.evm import ACCEPTED_SLOT, Acceptance, accepted_slot, anchored_block, check_settled, read_block
from protocol.light.evm_trie import AbsentKey, EvmError, read_item, read_list, read_number, trie_value
from protocol.messages.committee import Header, header_digest
from protocol.messages.handover import EVM_HEADER_BYTES_MAX
from protocol.messages.receipts import EvmProof
from tests.evm_made import MadeBlock, header_of, make_block, path_in
from tests.unit.protocol import light_at_hand as light
from tests.unit.protocol.machines import DOMAIN

CONTRACT = NodeId(b"\xc0" * 20)
NUMBER, TIME_S = 1_234, 1_800_000_000
ACCEPTED = Acceptance(TIME_S - 60, 3, 41, 7)

# RLP

items = st.recursive(st.binary(max_size=70), lambda inner: st.lists(inner, max_size=20), max_leaves=20)


@pytest.mark.spec("EVM-RLP.1")
@given(st.lists(items, max_size=20))
def test_lists_are_read_as_they_were_written(written: list[Any]) -> None:
    read = read_list("made", rlp.encode(written), 20)
    assert [rlp.decode(item.raw) for item in read] == rlp.decode(rlp.encode(written))
    for item, value in zip(read, written, strict=True):
        assert item.is_list == isinstance(value, list)
        assert item.is_list or item.payload == value


@pytest.mark.spec("EVM-RLP.1")
@given(st.binary(max_size=200))
def test_what_is_read_is_written_so_and_no_other_way(data: bytes) -> None:
    with suppress(EvmError):
        item = read_item("made", data)
        assert item.raw == data
        if not item.is_list:
            assert rlp.encode(item.payload) == data


@pytest.mark.spec("EVM-RLP.1")
@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x81\x05", b"\x82\x01", b"\xb8\x01\x01", b"\xb8", b"\xb9\x00\x38" + bytes(56), b"\xbf" + b"\xff" * 8),
        *(b"\xb8\x37" + bytes(55), b"\xc1", b"\xf8\x01\x01", b"\x01\x01", b"\xc0\x00", b"\xff" + b"\xff" * 8),
    ],
    ids=bytes.hex,
)
def test_what_is_written_otherwise_is_refused(data: bytes) -> None:
    with pytest.raises(EvmError):
        read_item("made", data)


@pytest.mark.spec("EVM-RLP.1")
def test_lists_and_numbers_have_bounds() -> None:
    with pytest.raises(EvmError, match="more than 3 items"):
        read_list("made", rlp.encode([b""] * 4), 3)
    with pytest.raises(EvmError, match="not one RLP list"):
        read_list("made", rlp.encode(b"string"), 3)
    for number, bytes_max in ((0, 1), (255, 1), (2**64 - 1, 8)):
        assert read_number("made", read_item("made", rlp.encode(number)), bytes_max) == number
    for written in (rlp.encode(256), rlp.encode(b"\0"), rlp.encode(b"\0\1"), rlp.encode([])):
        with pytest.raises(EvmError, match="at most 1 bytes"):
            read_number("made", read_item("made", written), 1)


# Tries


def trie_of(values: dict[bytes, bytes]) -> HexaryTrie:
    trie = HexaryTrie({})
    for key, value in values.items():
        trie[keccak(key)] = value
    return trie


@pytest.mark.spec("EVM-TRIE.1")
@given(
    st.dictionaries(st.binary(min_size=1, max_size=4), st.binary(min_size=1, max_size=80), min_size=1, max_size=60),
    st.binary(max_size=4),
)
def test_a_trie_gives_what_it_holds(values: dict[bytes, bytes], other: bytes) -> None:
    trie = trie_of(values)
    for key, value in values.items():
        way = way_to("made", trie.root_hash, key, trie.db.get)
        assert way.value == value
        assert trie_value("made", trie.root_hash, key, way.nodes) == value
    if other not in values:
        way = way_to("made", trie.root_hash, other, trie.db.get)
        assert way.value is None
        with pytest.raises(AbsentKey):
            trie_value("made", trie.root_hash, other, way.nodes)


def leaf(nibbles: str, value: Any) -> list[Any]:
    return [bytes.fromhex(("3" if len(nibbles) % 2 else "20") + nibbles), value]


def extension(nibbles: str, child: Any) -> list[Any]:
    return [bytes.fromhex(("1" if len(nibbles) % 2 else "00") + nibbles), child]


def branch(**children: Any) -> list[Any]:
    return [children.get(f"n{nibble:x}", b"") for nibble in range(16)] + [b""]


PATH = keccak(b"key").hex()
NOTHING: dict[bytes, bytes] = {}


@pytest.mark.spec("EVM-TRIE.1")
def test_nodes_that_are_short_stand_inside_their_parents() -> None:
    # Keys of 32 bytes have short nodes only deep down: under a path that all keys share.
    inside = branch(**{f"n{PATH[63]}": leaf("", b"v")})
    parent = extension(PATH[:63], inside)
    encoded = rlp.encode(parent)
    assert len(rlp.encode(inside)) < 32
    assert trie_value("made", keccak(encoded), b"key", [encoded]) == b"v"
    with pytest.raises(AbsentKey):
        trie_value("made", keccak(encoded), b"other", [encoded])
    long = rlp.encode(extension(PATH[:63], branch(**{f"n{PATH[63]}": leaf("", b"v" * 32)})))
    with pytest.raises(EvmError, match="named by its hash"):
        trie_value("made", keccak(long), b"key", [long])


@pytest.mark.spec("EVM-TRIE.1")
@pytest.mark.parametrize(
    ("node", "why"),
    [
        ([b""] * 3, "2 or 17 items, not 3"),
        ([b""] * 18, "more than 17 items"),
        (b"string", "not one RLP list"),
        ([b"", b"v"], "without a path"),
        ([b"\x20" + bytes(33), b"v"], "longer than any key"),
        ([[], b"v"], "without a path"),
        ([b"\x40", b"v"], "no mark"),
        ([b"\x21", b"v"], "no mark"),
        (extension("", keccak(b"")), "leads nowhere"),
        (leaf(PATH, [b"v"]), "holds a list"),
        (extension(PATH[:3], b"short"), "32 bytes, not 5"),
        (extension(PATH, branch()), "deeper than any key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_node_is_refused(node: Any, why: str) -> None:
    encoded = rlp.encode(node)
    with pytest.raises(EvmError, match=why):
        trie_value("made", keccak(encoded), b"key", [encoded])


@pytest.mark.spec("EVM-TRIE.1")
def test_all_nodes_are_needed_and_no_others_are_there() -> None:
    trie = trie_of({bytes([key]): b"value of %d" % key for key in range(100)})
    nodes = way_to("made", trie.root_hash, b"\x05", trie.db.get).nodes
    assert len(nodes) > 2
    for wrong, why in (
        (nodes[:-1], "missing"),
        ((), "missing"),
        ((*nodes, nodes[-1]), f"only the first {len(nodes)}"),
        (nodes[::-1], "node 0 is not the one"),
        ((nodes[0], nodes[2], nodes[1]), "node 1 is not the one"),
        ((nodes[0], *nodes), "node 1 is not the one"),
    ):
        with pytest.raises(EvmError, match=why):
            trie_value("made", trie.root_hash, b"\x05", wrong)
    with pytest.raises(EvmError, match="missing"):
        way_to("made", trie.root_hash, b"\x05", NOTHING.get)
    assert way_to("made", EMPTY_ROOT, b"\x05", NOTHING.get) == ((), None)
    assert trie_of({}).root_hash == EMPTY_ROOT


@pytest.mark.spec("EVM-TRIE.1")
@given(st.lists(st.binary(max_size=80), max_size=4), st.binary(max_size=8))
def test_hostile_nodes_end_in_a_refusal(nodes: list[bytes], key: bytes) -> None:
    with suppress(EvmError):
        trie_value("made", keccak(nodes[0]) if nodes else EMPTY_ROOT, key, nodes)


# Headers


@pytest.mark.spec("EVM-BLOCK.1")
def test_a_header_gives_number_time_and_state() -> None:
    state = keccak(b"state")
    encoded = header_of(state, NUMBER, TIME_S)
    read = read_block(encoded)
    assert (read.hash, read.number, read.time_s, read.state_root) == (keccak(encoded), NUMBER, TIME_S, state)
    old = rlp.encode(rlp.decode(encoded)[:15])
    assert read_block(old) == replace(read, hash=Digest(keccak(old)))


@pytest.mark.spec("EVM-BLOCK.1")
@pytest.mark.parametrize(
    ("place", "value"),
    [(3, b"short"), (3, []), (8, b"\0\1"), (8, b"\1" * 9), (11, []), (12, bytes(600))],
)
def test_what_is_no_header_is_refused(place: int, value: Any) -> None:
    fields = rlp.decode(header_of(keccak(b"state"), NUMBER, TIME_S))
    fields[place] = value
    with pytest.raises(EvmError) as refused:
        read_block(rlp.encode(fields))
    assert refused.value.part == "block"
    for data in (b"", rlp.encode(fields[:14]), rlp.encode([b""] * 33), bytes(EVM_HEADER_BYTES_MAX + 1)):
        with pytest.raises(EvmError):
            read_block(data)


def anchoring(made: MadeBlock, **changes: Any) -> Header:
    """A final header whose anchor is the block."""
    return light.header_of(60, 4, **{"anchor_number": made.number, "anchor_hash": made.hash, **changes})


@pytest.mark.spec("EVM-BLOCK.1")
def test_a_block_is_the_one_that_a_header_anchors() -> None:
    made = make_block(CONTRACT, [], NUMBER, TIME_S)
    assert anchored_block(anchoring(made), made.block).time_s == TIME_S
    with pytest.raises(EvmError, match=r"not the block that the header anchors: expected 0x00.*, actual 0x") as refused:
        anchored_block(anchoring(made, anchor_hash=bytes(32)), made.block)
    assert refused.value.actual == f"0x{made.hash.hex()}"
    with pytest.raises(EvmError, match="another number: expected 1235, actual 1234"):
        anchored_block(anchoring(made, anchor_number=NUMBER + 1), made.block)


@pytest.mark.spec("ANCHOR-HEADERS.1")
def test_the_latest_anchors_are_kept_and_no_nonsense() -> None:
    anchors, headers = AnchorHeaders(), [header_of(bytes(32), number, TIME_S) for number in range(ANCHORS_KEPT + 1)]
    assert all(anchors.see(header) for header in headers)
    assert anchors.get(keccak(headers[-1])) == headers[-1]
    assert keccak(headers[1]) in anchors
    assert anchors.get(keccak(headers[0])) == b""
    assert not anchors.see(b"nonsense")
    assert anchors.get(keccak(b"nonsense")) == b""


# What the contract accepted

HEADER = light.header_of(41, 3)
DIGEST = header_digest(DOMAIN, HEADER)
MADE = make_block(CONTRACT, [(DIGEST, ACCEPTED)], NUMBER, TIME_S)
ANCHORING = anchoring(MADE)
PROOF = MADE.proof(DIGEST, light.certify(ANCHORING))


def settled(proof: EvmProof = PROOF, header: Header = HEADER, contract: NodeId = CONTRACT) -> Acceptance:
    return check_settled(DOMAIN, contract, header, ANCHORING, proof)


@pytest.mark.spec("EVM-SETTLED.1")
def test_an_accepted_header_is_shown_without_the_chain() -> None:
    assert settled() == ACCEPTED
    assert len(PROOF.account) > 1
    assert len(PROOF.storage) > 1


@pytest.mark.spec("EVM-SETTLED.1")
def test_the_slot_is_the_compiler_s() -> None:
    assert load_artifact("Checkpoints").storage["_accepted"] == ACCEPTED_SLOT
    assert accepted_slot(DIGEST) == keccak(bytes(31) + b"\x03" + DIGEST)


@pytest.mark.spec("EVM-SETTLED.1")
def test_another_header_contract_or_place_is_refused() -> None:
    with pytest.raises(AbsentKey, match="storage"):
        other = light.header_of(42, 3)
        settled(
            msgspec.structs.replace(PROOF, storage=way_in(MADE, accepted_slot(header_digest(DOMAIN, other)))), other
        )
    with pytest.raises(EvmError, match="storage"):
        settled(header=light.header_of(42, 3))
    with pytest.raises(EvmError, match="account"):
        settled(contract=NodeId(b"\xc1" * 20))
    misplaced = make_block(CONTRACT, [(DIGEST, replace(ACCEPTED, height=40))], NUMBER, TIME_S)
    proof = misplaced.proof(DIGEST, PROOF.anchored)
    with pytest.raises(EvmError, match="expected epoch 3 height 41, actual epoch 3 height 40") as refused:
        check_settled(DOMAIN, CONTRACT, HEADER, anchoring(misplaced), proof)
    assert refused.value.part == "word"


def way_in(made: MadeBlock, slot: bytes) -> tuple[bytes, ...]:
    return way_to("made", made.storage.root_hash, slot, made.storage.db.get).nodes


@pytest.mark.spec("EVM-SETTLED.1")
def test_no_bit_of_a_proof_can_be_changed() -> None:
    parts = [PROOF.block, *PROOF.account, *PROOF.storage]
    for place, part in enumerate(parts):
        for bit in range(0, 8 * len(part), 7):
            changed = bytearray(part)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(EvmError):
                settled(joined([*parts[:place], bytes(changed), *parts[place + 1 :]]))
    for place in range(1, len(parts)):
        with pytest.raises(EvmError):
            settled(msgspec.structs.replace(joined(parts), account=(*PROOF.account, parts[place])))
        with pytest.raises(EvmError):
            settled(msgspec.structs.replace(joined(parts), storage=(*PROOF.storage, parts[place])))


def joined(parts: list[bytes]) -> EvmProof:
    account = len(PROOF.account)
    return EvmProof(PROOF.anchored, parts[0], tuple(parts[1 : account + 1]), tuple(parts[account + 1 :]))


def test_the_made_proofs_are_those_of_a_trie_of_its_own() -> None:
    for trie, key in ((MADE.state, CONTRACT), (MADE.storage, accepted_slot(DIGEST))):
        nodes = [rlp.decode(node) for node in path_in(trie, key)]
        assert HexaryTrie.get_from_proof(trie.root_hash, keccak(key), nodes) == trie[keccak(key)]
