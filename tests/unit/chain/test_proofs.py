"""Proofs of what the contract holds, made by asking a chain: right ones, none, and what endpoints answer instead."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import rlp
from eth.rlp.headers import BlockHeader
from eth.vm.forks.cancun.blocks import CancunBlockHeader
from eth.vm.forks.london.blocks import LondonBlockHeader
from eth.vm.forks.prague.blocks import PragueBlockHeader
from eth.vm.forks.shanghai.blocks import ShanghaiBlockHeader

from chain.client import EvmChain
from chain.endpoint import Endpoint
from chain.errors import ChainError, ChainUnreachable, RpcRefused, StateGone, UnprovableChain, WrongChain
from chain.proofs import block_header, header_in_rlp
from chain.replies import RawHeader, decode
from chain.rpc import Rpc
from protocol.core.genesis import Contracts
from protocol.core.ids import Digest, NodeId
from protocol.core.signing import keccak
from protocol.light.evm import Acceptance, accepted_slot, check_settled
from protocol.messages.committee import Certified
from protocol.messages.receipts import EvmProof
from tests.evm_made import make_block
from tests.unit.chain.conformance_scene import COMMITTEE, OWNER, Scene
from tests.unit.chain.small_ledger import finalized, root_of
from tests.unit.chain.test_conformance import CHAIN_ID, EvmRig

Lie = Callable[[str, dict[str, Any]], None]
"""Told a method and its answer, which it may change."""


@pytest.fixture(scope="module")
def deployed() -> EvmRig:
    """Contracts on an embedded chain."""
    return EvmRig()


class Settled:
    """A checkpoint on the chain, and how it is proved."""

    def __init__(self, rig: EvmRig) -> None:
        self.scene = Scene(rig.anew())
        self.rig = rig
        self.before = self.block()
        for height in range(1, 6):
            self.certified = self.scene.submitted(1, height)
        self.after = self.block()
        self.header = self.certified.header
        assert rig.genesis.contracts is not None
        self.contracts: Contracts = rig.genesis.contracts

    def block(self) -> Any:
        """The newest one."""
        return self.scene.chain.finalized()

    def anchoring(self, block: Any, **changes: Any) -> Certified:
        """A final header that anchors a block."""
        header = self.scene.book.header(1, 9, root_of(COMMITTEE))
        values = {"anchor_number": block.number, "anchor_hash": block.hash, **changes}
        header = type(header)(**{name: values.get(name, getattr(header, name)) for name in header.__struct_fields__})
        return finalized(self.scene.domain, header, COMMITTEE)[0]

    def endpoint(self, lie: Lie | None = None, name: str = "http://one") -> Endpoint:
        """One of the chain's, that may lie."""

        def post(body: bytes, timeout_s: float) -> bytes:
            answer = json.loads(self.rig._post(body, timeout_s))
            if lie is not None:
                lie(json.loads(body)["method"], answer)
            return json.dumps(answer).encode()

        return Endpoint(name, post)

    def proof(self, *lies: Lie | None, contracts: Contracts | None = None, **anchor: Any) -> EvmProof | None:
        """The proof that endpoints make, one for each lie."""
        endpoints = [self.endpoint(lie, f"http://{place}") for place, lie in enumerate(lies or [None])]
        chain = EvmChain(Rpc(endpoints, CHAIN_ID), contracts or self.contracts)
        assert self.header is not None
        return chain.settled_proof(self.scene.domain, self.header, self.anchoring(**{"block": self.after, **anchor}))


@pytest.fixture(scope="module")
def settled(deployed: EvmRig) -> Iterator[Settled]:
    yield Settled(deployed)


@pytest.mark.spec("CHAIN-PROOF.1")
def test_what_the_contract_accepted_is_proved(settled: Settled) -> None:
    proof = settled.proof()
    assert proof is not None
    assert proof.anchored.header is not None
    assert settled.header is not None
    domain, contract = settled.scene.domain, settled.contracts.checkpoints
    found = check_settled(domain, contract, settled.header, proof.anchored.header, proof)
    accepted = settled.scene.chain.accepted(settled.scene.digest(settled.certified))
    assert accepted is not None
    assert (found.time_s, found.epoch, found.height, found.sequence) == (accepted.time_s, 1, 5, 5)


@pytest.mark.spec("CHAIN-PROOF.1")
def test_it_is_told_where_the_contract_had_not_accepted_it_by_then(settled: Settled) -> None:
    assert settled.proof(block=settled.before) is None
    assert settled.proof(anchor_number=0, anchor_hash=bytes(32)) is None
    for address in (b"\xc0" * 20, OWNER.node):  # nobody, and who has no storage
        assert settled.proof(contracts=replace(settled.contracts, checkpoints=NodeId(address))) is None


@pytest.mark.spec("CHAIN-PROOF.1")
def test_another_chain_is_told(settled: Settled) -> None:
    with pytest.raises(ChainUnreachable, match="has no block 0x1111") as refused:
        settled.proof(anchor_hash=b"\x11" * 32)
    assert "started anew" in str(refused.value.hint)
    with pytest.raises(UnprovableChain, match="another number"):
        settled.proof(anchor_number=settled.after.number + 1)


def refuses(method: str, message: str, number: int = -32_000) -> Lie:
    """An endpoint that has a method no more."""

    def lie(asked: str, answer: dict[str, Any]) -> None:
        if asked == method:
            answer.pop("result", None)
            answer["error"] = {"code": number, "message": message}

    return lie


def says(method: str, change: Callable[[Any], Any]) -> Lie:
    """An endpoint that changes what a method answers."""

    def lie(asked: str, answer: dict[str, Any]) -> None:
        if asked == method and "result" in answer:
            answer["result"] = change(answer["result"])

    return lie


@pytest.mark.spec("CHAIN-PROOF.1")
@pytest.mark.parametrize(
    "message",
    ["missing trie node", "BlockOutOfRangeError: block height is 9 but requested was 1", "distance to target block"],
)
def test_an_endpoint_without_old_states_is_told_and_another_one_asked(settled: Settled, message: str) -> None:
    gone = refuses("eth_getProof", message)
    with pytest.raises(StateGone, match=message) as refused:
        settled.proof(gone)
    assert "archive" in str(refused.value.hint)
    assert settled.proof(gone, None) is not None
    with pytest.raises(RpcRefused, match="does not exist"):
        settled.proof(refuses("eth_getProof", "the method does not exist", -32_601))


def cut(proof: dict[str, Any]) -> dict[str, Any]:
    return {**proof, "accountProof": proof["accountProof"][:-1]}


def without_storage(proof: dict[str, Any]) -> dict[str, Any]:
    return {**proof, "storageProof": []}


def forged(proof: dict[str, Any]) -> dict[str, Any]:
    storage = proof["storageProof"][0]
    return {**proof, "storageProof": [{**storage, "proof": ["0xc0", *storage["proof"][1:]]}]}


@pytest.mark.spec("CHAIN-PROOF.1")
@pytest.mark.parametrize(
    "change",
    [cut, without_storage, forged, lambda _: None, lambda _: {"accountProof": "0x"}, lambda _: [], lambda _: {}],
)
def test_a_false_proof_is_never_believed(settled: Settled, change: Callable[[Any], Any]) -> None:
    lie = says("eth_getProof", change)
    with pytest.raises(ChainUnreachable, match="http://0"):
        settled.proof(lie)
    assert settled.proof(lie, None) == settled.proof()


def twice_and_more(proof: dict[str, Any]) -> dict[str, Any]:
    account = proof["accountProof"]
    return {**proof, "accountProof": ["0x80", *account[::-1], *account]}


def test_nodes_that_are_told_twice_or_not_needed_are_left_out(settled: Settled) -> None:
    assert settled.proof(says("eth_getProof", twice_and_more)) == settled.proof()


@pytest.mark.spec("CHAIN-HEADER.1")
@pytest.mark.parametrize("field", ["stateRoot", "timestamp", "extraData", "requestsHash"])
def test_a_header_that_does_not_give_its_hash_is_not_believed(settled: Settled, field: str) -> None:
    lie = says("eth_getBlockByHash", lambda block: {**block, field: "0x01"})
    with pytest.raises(UnprovableChain, match="do not give the hash") as refused:
        settled.proof(lie)
    assert refused.value.hint is not None
    assert settled.proof(lie, None) == settled.proof()


@pytest.mark.spec("CHAIN-HEADER.1")
@pytest.mark.parametrize("said", [5, {}, [], {"parentHash": 7}, "0x"])
def test_what_is_no_block_is_refused(settled: Settled, said: Any) -> None:
    with pytest.raises(ChainError):
        block_header(Rpc([settled.endpoint(says("eth_getBlockByHash", lambda _: said))], CHAIN_ID), settled.after.hash)


@pytest.mark.spec("EVM-SETTLED.1")
def test_a_contract_that_keeps_something_else_there_is_not_the_network_s(settled: Settled) -> None:
    assert settled.header is not None
    made = make_block(
        settled.contracts.checkpoints,
        [(settled.scene.digest(settled.certified), Acceptance(1, 1, settled.header.height + 1, 1))],
        number=9,
        time_s=10,
    )
    shown = made.proof(settled.scene.digest(settled.certified), settled.certified)
    block = dict(zip(RawHeader.__struct_encode_fields__, rlp.decode(made.block), strict=False))
    proof = {
        "accountProof": [f"0x{node.hex()}" for node in shown.account],
        "storageProof": [{"proof": [f"0x{node.hex()}" for node in shown.storage]}],
    }

    def lie(method: str, answer: dict[str, Any]) -> None:
        if method == "eth_getBlockByHash":
            answer["result"] = {name: f"0x{value.hex() or '0' * (name in NUMBERS)}" for name, value in block.items()}
        elif method == "eth_getProof":
            answer["result"] = proof

    with pytest.raises(WrongChain, match="expected epoch 1 height 5, actual epoch 1 height 6"):
        settled.proof(lie, anchor_number=9, anchor_hash=made.hash)


NUMBERS = ("difficulty", "gasUsed", "blobGasUsed", "excessBlobGas")


def test_a_proof_for_others_is_as_they_know_it(settled: Settled) -> None:
    slot = accepted_slot(settled.scene.digest(settled.certified))
    address, at = f"0x{settled.contracts.checkpoints.hex()}", hex(settled.after.number)
    call = {"id": 1, "method": "eth_getProof", "params": [address, [f"0x{slot.hex()}", "0x7"], at]}
    said = json.loads(settled.rig._post(json.dumps(call).encode(), 1))["result"]
    assert said["address"] == address
    assert (said["balance"], said["nonce"]) == ("0x0", "0x1")
    first, second = said["storageProof"]
    assert int(first["value"], 16) >> 192 == 5
    assert second["value"] == "0x0"
    assert keccak(bytes.fromhex(second["proof"][0][2:])).hex() == said["storageHash"][2:]


OLD = {
    "difficulty": 7,
    "block_number": 5,
    "gas_limit": 30_000_000,
    "timestamp": 1_700_000_000,
    "coinbase": b"\1" * 20,
    "parent_hash": b"\2" * 32,
    "state_root": b"\3" * 32,
    "bloom": 1 << 2_000,
    "gas_used": 21_000,
    "extra_data": b"extra",
    "mix_hash": b"\4" * 32,
    "nonce": b"\0" * 7 + b"\5",
}
LATER = {
    "base_fee_per_gas": 7,
    "withdrawals_root": b"\6" * 32,
    "blob_gas_used": 0,
    "excess_blob_gas": 131_072,
    "parent_beacon_block_root": b"\7" * 32,
    "requests_hash": b"\x08" * 32,
}


@pytest.mark.spec("CHAIN-HEADER.1")
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (BlockHeader, 0),
        (LondonBlockHeader, 1),
        (ShanghaiBlockHeader, 2),
        (CancunBlockHeader, 5),
        (PragueBlockHeader, 6),
    ],
)
def test_headers_of_all_forks_give_their_hashes(kind: Any, fields: int) -> None:
    later = dict(list(LATER.items())[:fields])
    made = kind(**OLD, **later)
    said = {
        "parentHash": made.parent_hash,
        "sha3Uncles": made.uncles_hash,
        "miner": made.coinbase,
        "stateRoot": made.state_root,
        "transactionsRoot": made.transaction_root,
        "receiptsRoot": made.receipt_root,
        "logsBloom": made.bloom.to_bytes(256, "big"),
        "difficulty": made.difficulty,
        "number": made.block_number,
        "gasLimit": made.gas_limit,
        "gasUsed": made.gas_used,
        "timestamp": made.timestamp,
        "extraData": made.extra_data,
        "mixHash": made.mix_hash,
        "nonce": made.nonce,
        **{camel(name): value for name, value in later.items()},
    }
    text = json.dumps({name: hex(each) if isinstance(each, int) else f"0x{each.hex()}" for name, each in said.items()})
    assert Digest(keccak(header_in_rlp(decode(text.encode(), RawHeader)))) == made.hash


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))
