"""The embedded chain answers as a node does: pool, blocks, receipts, events, calls, and it goes on after a restart."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chain.artifacts import load_artifact
from chain.binding import binding
from chain.embedded import GAS_LIMIT, EmbeddedChain
from chain.embedded_rpc import EmbeddedRpc
from chain.signed import SecretKey, Transaction, created_by, hash_of

KEY, OTHER = SecretKey(b"\x01" * 32), SecretKey(b"\x02" * 32)
COIN = 10**18
ID = 31_337
TO = b"\x22" * 20


class Node:
    """The chain behind its JSON-RPC, called in the process."""

    def __init__(self, path: Path | None = None) -> None:
        self.chain = EmbeddedChain(ID, {KEY.node_id: COIN, OTHER.node_id: COIN}, path)
        self.rpc = EmbeddedRpc(self.chain)

    def ask(self, method: str, *params: Any) -> Any:
        answer = json.loads(self.rpc.answer(json.dumps({"id": 1, "method": method, "params": params}).encode()))
        if "error" in answer:
            raise LookupError(answer["error"]["code"], answer["error"]["message"], answer["error"].get("data"))
        return answer["result"]

    def number(self, method: str, *params: Any) -> int:
        return int(self.ask(method, *params), 16)

    def send(self, raw: bytes) -> str:
        return str(self.ask("eth_sendRawTransaction", f"0x{raw.hex()}"))


def payment(nonce: int, *, payer: SecretKey = KEY, fee: int = 10**10, tip: int | None = 10**9, value: int = 5) -> bytes:
    return Transaction(ID, nonce, TO, b"", value, 21_000, fee, tip).signed(payer)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.chain.close()


def test_it_says_what_it_is(node: Node) -> None:
    assert node.number("eth_chainId") == ID
    assert node.ask("net_version") == str(ID)
    assert node.number("eth_blockNumber") == 0
    assert node.ask("eth_syncing") is False
    assert "embedded" in node.ask("web3_clientVersion")


@pytest.mark.parametrize("tip", [10**9, None], ids=["EIP-1559", "legacy"])
def test_a_transaction_waits_and_is_mined(node: Node, tip: int | None) -> None:
    hashed = node.send(payment(0, tip=tip))
    assert node.ask("eth_getTransactionReceipt", hashed) is None
    assert node.ask("eth_getTransactionByHash", hashed)["blockNumber"] is None
    sender = f"0x{KEY.node_id.hex()}"
    assert (node.number("eth_getTransactionCount", sender, "latest")) == 0
    assert (node.number("eth_getTransactionCount", sender, "pending")) == 1
    node.ask("evm_mine")
    receipt = node.ask("eth_getTransactionReceipt", hashed)
    assert (receipt["status"], receipt["gasUsed"], receipt["blockNumber"]) == ("0x1", hex(21_000), "0x1")
    block = node.ask("eth_getBlockByNumber", "0x1", True)
    assert block["hash"] == receipt["blockHash"]
    assert [one["hash"] for one in block["transactions"]] == [hashed]
    assert block["transactions"][0]["from"] == sender
    assert node.number("eth_getBalance", f"0x{TO.hex()}", "latest") == 5
    assert node.number("eth_getBalance", f"0x{TO.hex()}", "0x0") == 0
    assert node.number("eth_getBalance", f"0x{TO.hex()}", {"blockHash": block["hash"]}) == 5


def test_blocks_follow_each_other_and_all_are_final(node: Node) -> None:
    for _ in range(3):
        node.ask("evm_mine")
    blocks = [node.ask("eth_getBlockByNumber", hex(number), False) for number in range(4)]
    assert [block["parentHash"] for block in blocks[1:]] == [block["hash"] for block in blocks[:-1]]
    times = [int(block["timestamp"], 16) for block in blocks]
    assert times == sorted(set(times))
    assert node.ask("eth_getBlockByNumber", "finalized", False) == blocks[3]
    assert node.ask("eth_getBlockByHash", blocks[2]["hash"], False) == blocks[2]
    assert node.ask("eth_getBlockByNumber", "0x9", False) is None
    node.ask("evm_increaseTime", 100)
    node.ask("evm_mine")
    assert int(node.ask("eth_getBlockByNumber", "latest", False)["timestamp"], 16) >= times[0] + 100


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "invalid transaction"),
        (b"\x02\xff", "invalid transaction"),
        (payment(0)[:-1] + b"\x00", "invalid|insufficient"),
        (Transaction(1, 0, TO, b"", 5, 21_000, 10**10, 1).signed(KEY), "invalid chain id"),
        (Transaction(1, 0, TO, b"", 5, 21_000, 10**10, None).signed(KEY), "invalid"),
        (Transaction(ID, 0, TO, b"", 5, 20_999, 10**10, 1).signed(KEY), "intrinsic gas"),
        (Transaction(ID, 0, TO, b"", 5, GAS_LIMIT + 1, 10**7, 1).signed(KEY), "exceeds block gas limit"),
        (payment(0, value=COIN), "insufficient funds"),
        (payment(900), "txpool is full"),
        (Transaction(ID, 0, TO, b"", 5, 21_000, 10, 11).signed(KEY), "priority fee"),
    ],
    ids=["empty", "short", "signature", "chain", "legacy chain", "gas", "block", "coin", "ahead", "tip"],
)
def test_what_is_no_good_is_refused(node: Node, raw: bytes, said: str) -> None:
    with pytest.raises(LookupError, match=said):
        node.send(raw)
    node.ask("evm_mine")
    assert node.ask("eth_getBlockByNumber", "latest", False)["transactions"] == []


def test_a_nonce_is_used_once_and_the_better_offer_takes_it(node: Node) -> None:
    node.send(payment(0))
    with pytest.raises(LookupError, match="already known"):
        node.send(payment(0))
    with pytest.raises(LookupError, match="replacement transaction underpriced"):
        node.send(payment(0, fee=10**10 + 1, tip=10**9 + 1))
    better = node.send(payment(0, fee=2 * 10**10, tip=2 * 10**9))
    node.ask("evm_mine")
    assert node.ask("eth_getTransactionReceipt", better) is not None
    with pytest.raises(LookupError, match="already known"):
        node.send(payment(0, fee=2 * 10**10, tip=2 * 10**9))
    with pytest.raises(LookupError, match="nonce too low"):
        node.send(payment(0))


def test_nonces_are_mined_in_turn_and_the_best_paid_first(node: Node) -> None:
    sent = [node.send(payment(nonce)) for nonce in (2, 0)]
    rich = node.send(payment(0, payer=OTHER, tip=5 * 10**9))
    node.ask("evm_mine")
    assert node.ask("eth_getBlockByNumber", "latest", False)["transactions"] == [rich, sent[1]]
    middle = node.send(payment(1))
    node.ask("evm_mine")
    assert node.ask("eth_getBlockByNumber", "latest", False)["transactions"] == [middle, sent[0]]


def test_what_pays_less_than_the_base_fee_waits(node: Node) -> None:
    hashed = node.send(payment(0, fee=10**8, tip=1))
    node.ask("evm_mine")
    assert node.ask("eth_getTransactionReceipt", hashed) is None
    for _ in range(30):
        node.ask("evm_mine")  # the base fee falls while blocks are empty
    assert node.ask("eth_getTransactionReceipt", hashed) is not None


def test_a_transaction_can_be_dropped_and_blocks_taken_back(node: Node) -> None:
    hashed = node.send(payment(0))
    node.ask("anvil_dropTransaction", hashed)
    node.ask("evm_mine")
    assert node.ask("eth_getTransactionByHash", hashed) is None
    mark = node.ask("evm_snapshot")
    gone = node.send(payment(0))
    node.ask("evm_mine")
    block = node.ask("eth_getBlockByNumber", "latest", False)
    assert node.ask("evm_revert", mark) is True
    assert node.number("eth_blockNumber") == 1
    assert node.ask("eth_getTransactionReceipt", gone) is None
    assert node.ask("eth_getBlockByHash", block["hash"], False) is None
    assert node.ask("evm_revert", mark) is False
    again = node.send(payment(0, value=6))
    node.ask("evm_mine")
    assert node.ask("eth_getTransactionReceipt", again)["status"] == "0x1"
    assert node.ask("eth_getTransactionReceipt", gone) is None


def test_a_contract_its_calls_its_reverts_and_its_events(node: Node) -> None:
    escrow, at = binding("Escrow"), created_by(KEY.node_id, 0)
    # None of its own calls is made here, so the checkpoints may be anywhere that says no.
    made_with = (b"\x07" * 32, ID, b"\x11" * 20, bytes(20), 3, 2)
    data = escrow.creation(*made_with)
    call = {"from": f"0x{KEY.node_id.hex()}", "data": f"0x{data.hex()}"}
    gas = node.number("eth_estimateGas", call)
    hashed = node.send(Transaction(ID, 0, b"", data, 0, gas, 10**10, 10**9).signed(KEY))
    node.ask("evm_mine")
    receipt = node.ask("eth_getTransactionReceipt", hashed)
    assert (receipt["status"], receipt["contractAddress"]) == ("0x1", f"0x{at.hex()}")
    assert node.ask("eth_getCode", f"0x{at.hex()}", "latest").startswith("0x" + load_artifact("Escrow").runtime.hex())
    unit = {"to": f"0x{at.hex()}", "data": f"0x{escrow.functions['unit'].encode().hex()}"}
    assert node.number("eth_call", unit, "latest") == 3
    little = {**unit, "data": f"0x{escrow.functions['deposit'].encode(TO, 1).hex()}"}
    with pytest.raises(LookupError) as caught:
        node.ask("eth_call", little, "latest")
    assert caught.value.args[0] == 3  # a revert, with what it carries
    assert caught.value.args[2].startswith("0x08c379a0")
    with pytest.raises(LookupError, match="insufficient funds"):
        node.ask("eth_estimateGas", {**little, "value": hex(2 * COIN), "from": f"0x{KEY.node_id.hex()}"})


def test_requests_of_many_forms(node: Node) -> None:
    def code(body: bytes) -> object:
        answer = json.loads(node.rpc.answer(body))
        return (
            [one.get("error", {}).get("code") for one in answer]
            if isinstance(answer, list)
            else answer["error"]["code"]
        )

    assert code(b"{") == -32700
    assert code(b"[" * 100_000) == -32700
    assert code(b"7") == -32600
    assert code(b"[]") == -32600
    assert code(b'{"method":"eth_nothing","id":1}') == -32601
    assert code(b'{"method":["x"],"id":1}') == -32601
    assert code(b'{"method":"eth_chainId","params":{}}') == -32600
    for params in ("[1,2,3,4,5,6]", '["zz"]', '[{"to":7}]', "[null]", '["0x1"]'):
        assert code(f'{{"method":"eth_getBalance","params":{params},"id":1}}'.encode()) == -32602
    assert code(b'[{"method":"eth_chainId","id":1},{"method":"x","id":2}]') == [None, -32601]


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    node = Node(tmp_path / "chain.sqlite")
    hashed = node.send(payment(0))
    node.ask("evm_increaseTime", 1_000)
    node.ask("evm_mine")
    before = node.ask("eth_getBlockByNumber", "latest", True)
    node.chain.close()
    node = Node(tmp_path / "chain.sqlite")
    assert node.ask("eth_getBlockByNumber", "latest", True) == before
    assert node.ask("eth_getTransactionReceipt", hashed)["status"] == "0x1"
    node.send(payment(1))
    node.ask("evm_mine")
    after = node.ask("eth_getBlockByNumber", "latest", False)
    assert (after["number"], after["parentHash"]) == ("0x2", before["hash"])
    assert after["timestamp"] > before["timestamp"]
    assert hash_of(payment(1)).hex() == after["transactions"][0][2:]
    node.chain.close()
