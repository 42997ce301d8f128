"""The embedded chain as JSON-RPC: the methods that the chain client, wallets and web3 use, and a few to test with.

What it does not have it says as a node does: error -32601 for an unknown method, 3 for a revert with its data.
"""

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from eth.abc import BlockHeaderAPI, LogAPI, SignedTransactionAPI

from chain.embedded import GAS_LIMIT, Ask, ChainRefusal, EmbeddedChain, Mined
from chain.errors import RpcNonsense
from chain.replies import decode
from chain.signed import created_by
from chain.tries import EMPTY_ROOT, way_to
from protocol.core.signing import keccak
from protocol.light.evm import read_account

LOG_BLOCKS_MAX = 10_000
LOGS_MAX = 10_000
BATCH_MAX = 256
PROOF_SLOTS_MAX = 64
TIP_WEI = 10**9

_PARSE_ERROR, _INVALID_REQUEST, _NO_METHOD, _INVALID_PARAMS, _SERVER_ERROR, _REVERTED = (
    -32700,
    -32600,
    -32601,
    -32602,
    -32000,
    3,
)


class _Invalid(Exception):
    """Parameters that a method does not take."""


class EmbeddedRpc:
    """One embedded chain behind JSON-RPC. Used from any thread."""

    def __init__(self, chain: EmbeddedChain) -> None:
        self.chain = chain
        self.lock = threading.RLock()
        self._snapshots: list[bytes] = []
        self._methods: Mapping[str, Callable[..., Any]] = {
            "web3_clientVersion": lambda: "p2pnode/embedded",
            "net_version": lambda: str(chain.chain_id),
            "eth_chainId": lambda: hex(chain.chain_id),
            "eth_syncing": lambda: False,
            "eth_accounts": list,
            "eth_blockNumber": lambda: hex(chain.head.block_number),
            "eth_getBlockByNumber": self._block_by_number,
            "eth_getBlockByHash": self._block_by_hash,
            "eth_getTransactionCount": self._transaction_count,
            "eth_getBalance": lambda address, at="latest": hex(self._state(at).get_balance(_address(address))),
            "eth_getCode": lambda address, at="latest": _hex(self._state(at).get_code(_address(address))),
            "eth_getStorageAt": self._storage,
            "eth_getProof": self._proof,
            "eth_call": lambda call, at="latest": _hex(chain.call(_ask(call), self._header(at))),
            "eth_estimateGas": lambda call, at="latest": hex(chain.estimate(_ask(call))),
            "eth_gasPrice": lambda: hex(chain.head.base_fee_per_gas + TIP_WEI),
            "eth_maxPriorityFeePerGas": lambda: hex(TIP_WEI),
            "eth_sendRawTransaction": lambda raw: _hex(chain.add(_bytes(raw))),
            "eth_getTransactionByHash": self._transaction,
            "eth_getTransactionReceipt": self._receipt,
            "eth_getLogs": self._logs,
            "evm_mine": self._mine,
            "evm_increaseTime": self._skip,
            "evm_snapshot": self._snapshot,
            "evm_revert": self._revert,
            "anvil_dropTransaction": self._drop,
        }

    def answer(self, body: bytes) -> bytes:
        """The answer to a request's body, one call or several."""
        try:
            asked = decode(body, Any)
        except RpcNonsense:
            return _encoded(_error(None, _PARSE_ERROR, "no JSON"))
        if not isinstance(asked, list):
            return _encoded(self._answered(asked))
        if not 1 <= len(asked) <= BATCH_MAX:
            return _encoded(_error(None, _INVALID_REQUEST, f"a batch has 1 to {BATCH_MAX} calls"))
        return _encoded([self._answered(call) for call in asked])

    def _answered(self, call: Any) -> dict[str, Any]:
        if not isinstance(call, dict) or not isinstance(call.get("params", []), list):
            return _error(None, _INVALID_REQUEST, "a call is an object with a method and a list of params")
        number, name = call.get("id"), call.get("method")
        method = self._methods.get(name) if isinstance(name, str) else None
        if method is None:
            return _error(number, _NO_METHOD, f"the method {name!r} does not exist")
        try:
            with self.lock:
                return {"jsonrpc": "2.0", "id": number, "result": method(*call.get("params", []))}
        except ChainRefusal as refusal:
            if refusal.data is None:
                return _error(number, _SERVER_ERROR, str(refusal))
            return _error(number, _REVERTED, str(refusal), _hex(refusal.data))
        except (_Invalid, TypeError, ValueError, KeyError, AttributeError) as error:
            return _error(number, _INVALID_PARAMS, f"invalid params: {error}")

    # Blocks and states

    def _header(self, at: Any) -> BlockHeaderAPI:
        if isinstance(at, dict):
            header = self.chain.header_of(_bytes(at["blockHash"])) if "blockHash" in at else None
            header = self._header(at["blockNumber"]) if "blockNumber" in at else header
        elif at in ("latest", "safe", "finalized", "pending"):
            header = self.chain.head
        else:
            header = self.chain.header_at(0 if at == "earliest" else int(at, 16))
        if header is None:
            raise ChainRefusal("header not found")
        return header

    def _state(self, at: Any) -> Any:
        return self.chain.state(self._header(at))

    def _transaction_count(self, address: str, at: Any = "latest") -> str:
        if at == "pending":
            return hex(self.chain.next_nonce(_address(address)))
        return hex(self._state(at).get_nonce(_address(address)))

    def _storage(self, address: str, slot: str, at: Any = "latest") -> str:
        return f"0x{self._state(at).get_storage(_address(address), int(slot, 16)):064x}"

    def _proof(self, address: str, slots: list[str], at: Any = "latest") -> dict[str, Any]:
        """The ways from a block's state to an account, and on to words of its storage (EIP-1186)."""
        state, account = self._state(at), _address(address)
        if len(slots) > PROOF_SLOTS_MAX:
            raise _Invalid(f"a proof is of {PROOF_SLOTS_MAX} words at most")
        found = way_to("account", self._header(at).state_root, account, self.chain.node)
        storage_root = EMPTY_ROOT if found.value is None else read_account(found.value)
        words = [int(slot, 16).to_bytes(32, "big") for slot in slots]
        return {
            "address": address,
            "accountProof": [_hex(node) for node in found.nodes],
            "balance": hex(state.get_balance(account)),
            "nonce": hex(state.get_nonce(account)),
            "codeHash": _hex(keccak(state.get_code(account))),
            "storageHash": _hex(storage_root),
            "storageProof": [
                {
                    "key": _hex(word),
                    "value": hex(state.get_storage(account, int.from_bytes(word, "big"))),
                    "proof": [_hex(node) for node in way_to("storage", storage_root, word, self.chain.node).nodes],
                }
                for word in words
            ],
        }

    def _block_by_number(self, at: Any, full: bool = False) -> dict[str, Any] | None:
        try:
            return self._block(self._header(at), full)
        except ChainRefusal:
            return None

    def _block_by_hash(self, hashed: str, full: bool = False) -> dict[str, Any] | None:
        header = self.chain.header_of(_bytes(hashed))
        return None if header is None else self._block(header, full)

    def _block(self, header: BlockHeaderAPI, full: bool) -> dict[str, Any]:
        mined = [found for hashed in self.chain.transactions(header) if (found := self.chain.mined(hashed)) is not None]
        return {
            "number": hex(header.block_number),
            "hash": _hex(header.hash),
            "parentHash": _hex(header.parent_hash),
            "timestamp": hex(header.timestamp),
            "logsBloom": f"0x{header.bloom:0512x}",
            "baseFeePerGas": hex(header.base_fee_per_gas),
            "gasLimit": hex(header.gas_limit),
            "gasUsed": hex(header.gas_used),
            "miner": _hex(header.coinbase),
            "mixHash": _hex(header.mix_hash),
            "nonce": _hex(header.nonce),
            "difficulty": hex(header.difficulty),
            "extraData": _hex(header.extra_data),
            "stateRoot": _hex(header.state_root),
            "transactionsRoot": _hex(header.transaction_root),
            "receiptsRoot": _hex(header.receipt_root),
            "sha3Uncles": _hex(header.uncles_hash),
            "withdrawalsRoot": _hex(header.withdrawals_root),
            "blobGasUsed": hex(header.blob_gas_used),
            "excessBlobGas": hex(header.excess_blob_gas),
            "parentBeaconBlockRoot": _hex(header.parent_beacon_block_root),
            "requestsHash": _hex(header.requests_hash),
            "uncles": [],
            "size": hex(1_000),
            "transactions": [_shown(one.transaction, one) if full else _hex(one.transaction.hash) for one in mined],
        }

    # Transactions and events

    def _transaction(self, hashed: str) -> dict[str, Any] | None:
        mined = self.chain.mined(_bytes(hashed))
        waiting = self.chain.waiting(_bytes(hashed)) if mined is None else mined.transaction
        return None if waiting is None else _shown(waiting, mined)

    def _receipt(self, hashed: str) -> dict[str, Any] | None:
        mined = self.chain.mined(_bytes(hashed))
        if mined is None:
            return None
        transaction, header = mined.transaction, mined.block.header
        created = None if transaction.to else created_by(transaction.sender, transaction.nonce)
        return {
            "transactionHash": _hex(transaction.hash),
            "transactionIndex": hex(mined.index),
            "blockNumber": hex(header.block_number),
            "blockHash": _hex(header.hash),
            "from": _hex(transaction.sender),
            "to": _hex(transaction.to) if transaction.to else None,
            "contractAddress": None if created is None else _hex(created),
            "gasUsed": hex(mined.gas_used),
            "cumulativeGasUsed": hex(mined.receipt.gas_used),
            "effectiveGasPrice": hex(_price(transaction, header)),
            "status": "0x1" if mined.receipt.state_root == b"\x01" else "0x0",
            "type": hex(getattr(transaction, "type_id", 0) or 0),
            "logsBloom": f"0x{mined.receipt.bloom:0512x}",
            "logs": [
                _log(header, transaction, mined.index, mined.first_log + at, log)
                for at, log in enumerate(mined.receipt.logs)
            ],
        }

    def _logs(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        if "blockHash" in wanted:
            headers = [self._header({"blockHash": wanted["blockHash"]})]
        else:
            first = self._header(wanted.get("fromBlock", "latest")).block_number
            last = min(_number(wanted.get("toBlock", "latest")), self.chain.head.block_number)
            if last - first >= LOG_BLOCKS_MAX:
                raise ChainRefusal(f"query exceeds max block range {LOG_BLOCKS_MAX}")
            found = (self.chain.header_at(number) for number in range(first, last + 1))
            headers = [header for header in found if header is not None]
        addresses = wanted.get("address") or []
        only = {_address(one) for one in ([addresses] if isinstance(addresses, str) else addresses)}
        logs: list[dict[str, Any]] = []
        for header in headers:
            places: dict[bytes, int] = {}
            for at, (transaction, log) in enumerate(self.chain.logs(header)):
                place = places.setdefault(transaction.hash, len(places))
                if (not only or log.address in only) and _fits(log, wanted.get("topics") or []):
                    logs.append(_log(header, transaction, place, at, log))
            if len(logs) > LOGS_MAX:
                raise ChainRefusal(f"query returned more than {LOGS_MAX} results")
        return logs

    # For tests, named as other local nodes name them

    def _mine(self, *_: Any) -> str:
        self.chain.mine()
        return "0x0"

    def _skip(self, seconds: int | str) -> str:
        self.chain.skip(int(seconds, 16) if isinstance(seconds, str) else seconds)
        return hex(int(seconds, 16) if isinstance(seconds, str) else seconds)

    def _snapshot(self) -> str:
        self._snapshots.append(self.chain.head.hash)
        return hex(len(self._snapshots))

    def _revert(self, number: str) -> bool:
        place = int(number, 16) - 1
        if not 0 <= place < len(self._snapshots):
            return False
        self.chain.rewind(self._snapshots[place])
        del self._snapshots[place:]
        return True

    def _drop(self, hashed: str) -> str:
        self.chain.drop(_bytes(hashed))
        return hashed


def _shown(transaction: SignedTransactionAPI, mined: Mined | None) -> dict[str, Any]:
    header = None if mined is None else mined.block.header
    parity = getattr(transaction, "y_parity", 0)
    return {
        "hash": _hex(transaction.hash),
        "nonce": hex(transaction.nonce),
        "from": _hex(transaction.sender),
        "to": _hex(transaction.to) if transaction.to else None,
        "value": hex(transaction.value),
        "gas": hex(transaction.gas),
        "input": _hex(transaction.data),
        "type": hex(getattr(transaction, "type_id", 0) or 0),
        "gasPrice": hex(transaction.max_fee_per_gas if header is None else _price(transaction, header)),
        "maxFeePerGas": hex(transaction.max_fee_per_gas),
        "maxPriorityFeePerGas": hex(transaction.max_priority_fee_per_gas),
        "blockNumber": None if header is None else hex(header.block_number),
        "blockHash": None if header is None else _hex(header.hash),
        "transactionIndex": None if mined is None else hex(mined.index),
        "r": hex(transaction.r),
        "s": hex(transaction.s),
        "v": hex(parity),
    }


def _log(header: BlockHeaderAPI, transaction: SignedTransactionAPI, place: int, at: int, log: LogAPI) -> dict[str, Any]:
    return {
        "address": _hex(log.address),
        "topics": [f"0x{topic:064x}" for topic in log.topics],
        "data": _hex(log.data),
        "blockNumber": hex(header.block_number),
        "blockHash": _hex(header.hash),
        "transactionHash": _hex(transaction.hash),
        "transactionIndex": hex(place),
        "logIndex": hex(at),
        "removed": False,
    }


def _fits(log: LogAPI, topics: list[Any]) -> bool:
    if len(topics) > len(log.topics):
        return False
    for wanted, topic in zip(topics, log.topics, strict=False):
        if wanted is not None and topic not in [
            int(one, 16) for one in ([wanted] if isinstance(wanted, str) else wanted)
        ]:
            return False
    return True


def _price(transaction: SignedTransactionAPI, header: BlockHeaderAPI) -> int:
    fee: int = header.base_fee_per_gas
    price: int = min(transaction.max_fee_per_gas, transaction.max_priority_fee_per_gas + fee)
    return price


def _ask(call: dict[str, Any]) -> Ask:
    data = call.get("input") or call.get("data") or "0x"
    to, value = call.get("to"), call.get("value") or "0x0"
    if int(str(call.get("gas") or "0x0"), 16) > GAS_LIMIT:
        raise ChainRefusal("exceeds block gas limit")
    return Ask(_address(call.get("from") or "0x" + "0" * 40), _address(to) if to else b"", _bytes(data), int(value, 16))


def _number(at: str) -> int:
    return (1 << 62) if at in ("latest", "safe", "finalized", "pending") else int(at, 16)


def _address(text: str) -> bytes:
    value = _bytes(text)
    if len(value) != 20:
        raise _Invalid("an address has 20 bytes")
    return value


def _bytes(text: str) -> bytes:
    if not text.startswith("0x"):
        raise _Invalid("bytes are written as 0x…")
    return bytes.fromhex(text[2:])


def _hex(value: bytes) -> str:
    return f"0x{bytes(value).hex()}"


def _error(number: Any, code: int, message: str, data: str | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "id": number, "error": error if data is None else {**error, "data": data}}


def _encoded(answer: Any) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode()
